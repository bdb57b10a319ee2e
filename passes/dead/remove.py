"""Carries a round out: the edits of weights, the removal of the classes that nothing reads, what was folded into biases."""

from __future__ import annotations

import numpy as np

from ...ir.graph import Module, Value
from ...ir.tensor import ArrayTensor
from ..prune.atoms import lanes_of
from ..prune.groups import Analysis
from ..prune.remove import remove_classes
from ..prune.walk import PRODUCER
from .plan import Edit, bias_place


def removable(analysis: Analysis, live: np.ndarray) -> np.ndarray:
    """bool [atoms], at roots: classes that nothing reads, that layers make, one of each axis left."""
    walk, classes = analysis.walk, analysis.classes
    made = np.zeros(len(classes.roots), bool)
    for use in walk.uses:
        if use.part == PRODUCER:
            made[classes.roots[walk.holdings[use.slot.number].axes[use.slot.axis].ids]] = True  # type: ignore[union-attr]
    gone = made & ~live & (classes.pinned < 0)
    if gone.any():
        _leave_one(analysis, gone)
    return gone


def _leave_one(analysis: Analysis, gone: np.ndarray) -> None:
    """No axis of a value or constant becomes empty; what is kept for one axis is kept in all."""
    walk, roots = analysis.walk, analysis.classes.roots
    rows = [holding.axes for holding in walk.holdings] + list(walk.values.values())
    lanes = [lane.ids for axes in rows for axis in axes for lane in lanes_of(axis)]
    lanes += list(walk.pieces)
    lanes = [ids for ids in lanes if len(ids) and gone[roots[ids]].all()]
    for ids in lanes:
        if gone[roots[ids]].all():
            gone[int(roots[ids].min())] = False


def apply(module: Module, analysis: Analysis, edits: list[Edit], gone: np.ndarray) -> None:
    """Edit, remove, and add to biases what was folded. The module computes the same before and after, within the certificates."""
    deltas = [(edit, _delta(edit)) for edit in edits if edit.folded]
    for edit in edits:
        _edit_weights(module, analysis, edit)
    remove_classes(analysis, gone)
    for edit, delta in deltas:
        roots = edit.exit.roots_out
        _add_to_bias(module, edit, delta if roots is None else delta[~gone[roots]])
    module.drop_unused_weights()


def _delta(edit: Edit) -> np.ndarray:
    """What the constants add to each output, float64 [outputs]."""
    p = edit.exit.product
    numbers = np.zeros(p.channels)
    numbers[list(edit.folded)] = list(edit.folded.values())
    made = [(cube.sum(-1) @ numbers)[0] for _, cube in p.blocks(1 << 20)]
    return p.alpha * np.concatenate(made)


def _edit_weights(module: Module, analysis: Analysis, edit: Edit) -> None:
    """Columns moved and zeroed, in a copy that takes the place of the constant."""
    exit_, p = edit.exit, edit.exit.product
    array = np.array(p.w.array())
    cube = p.cube(array)
    for source, (target, factor) in exit_.moves.items():
        moved = cube[0, :, target].astype(np.float64) + factor * cube[0, :, source].astype(np.float64)
        cube[0, :, target] = moved.astype(array.dtype)
    cube[0, :, np.flatnonzero(exit_.taken)] = 0
    old = p.w
    new = derived(module, old, array, f"{int(exit_.taken.sum())} inputs freed")
    analysis.walk.exchange(p.node, p.weight, new)


def derived(module: Module, value: Value, array: np.ndarray, how: str) -> Value:
    """A new weight in place of an old one."""
    weight = value.weight
    assert weight is not None
    origin = f"{weight.origin}; {how}" if weight.origin else how
    new = module.add_weight(
        weight.wanted, ArrayTensor(np.ascontiguousarray(array, value.dtype.numpy)), weight.role, origin
    )  # type: ignore[union-attr]
    new.weight.aliases = weight.aliases  # type: ignore[union-attr]
    return new


def _add_to_bias(module: Module, edit: Edit, delta: np.ndarray) -> None:
    p = edit.exit.product
    place = bias_place(p)
    assert place is not None
    node, index = place
    old = node.operands[index] if index < len(node.operands) else None
    dtype = node.result.dtype.numpy  # type: ignore[union-attr]
    if old is None:
        weight = p.w.weight
        made = module.add_weight(
            f"{weight.wanted}.bias", ArrayTensor(delta.astype(dtype)), weight.role, "constant inputs"
        )  # type: ignore[union-attr]
        node.set_operands([*node.operands[:index], *[None] * (index - len(node.operands)), made])
        return
    summed = old.array().astype(np.float64) + delta
    node.set_operand(index, derived(module, old, summed.astype(dtype), "constant inputs added"))
