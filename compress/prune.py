"""`prune`: whole units (neurons, channels, heads) are removed and the rest fitted anew, or single weights become zero.

    prune{ratio=0.5,importance=l2}                        # a layer of 100 neurons becomes one of 50
    prune{macs=0.25,ranking=global,importance=obs}        # a quarter of the MACs stays, taken where it costs least
    prune{ratio=0.5,structure=none}                       # half of the weights become zero; also 2:4, block:4x1

Imports no framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..ir.dims import bind_shape, symbols
from ..ir.errors import UsageError
from ..ir.graph import Module, Node, Value
from ..kernels.threads import one_thread
from ..passes.manager import Context, module_pass
from ..passes.prune.groups import Group, find_groups
from ..passes.prune.remove import remove_units
from ..passes.select import layer_name, select
from .budget import Amount, Costs, choose
from .images import Turned, image_axis
from .importance import score_units
from .recover import Origin
from .recover import recover as fit_anew
from .refine import refine
from .rows import SAMPLED, channel_axis, input_axis
from .sparsify import pattern_of, sparsify


def _check(options: Mapping[str, Any]) -> None:
    """Raises UsageError for options out of range."""
    ratio, macs = options["ratio"], options["macs"]
    if not 0 <= ratio < 1:
        raise UsageError(f"prune: ratio is {ratio:g}, expected at least 0 and less than 1")
    if macs is not None and not (isinstance(macs, (int, float)) and 0 < macs <= 1):
        raise UsageError(f"prune: macs is {macs!r}, expected the share to keep, more than 0 and at most 1")
    if min(options["min_keep"], options["multiple"], options["rounds"]) < 1:
        raise UsageError("prune: min_keep, multiple and rounds are at least 1")
    if options["structure"] != "channel":
        pattern_of(options["structure"], options["importance"])
        if macs is not None:
            raise UsageError("prune: macs goes with structure=channel: zeroes are multiplied like other numbers")
        if options["augment"]:
            raise UsageError("prune: augment goes with structure=channel")


@module_pass("prune", numerics="approx", check=_check)
@one_thread()
def prune(
    module: Module,
    ctx: Context,
    *,
    ratio: float = 0.5,
    importance: Literal["l1", "l2", "pair", "bn", "random", "wanda", "obs"] = "l2",
    structure: str = "channel",
    ranking: Literal["local", "global"] = "local",
    macs: Any = None,
    min_keep: int = 1,
    multiple: int = 1,
    recover: bool = True,
    rounds: int = 1,
    augment: bool = False,
    where: str = "",
) -> None:
    """Remove `ratio` of the units with the least importance, or zero single weights (`structure` none, N:M, block:RxC).

    `importance`: l1, l2, pair (l2 of what makes a unit times l2 of what reads it), bn, random; wanda and obs look at data.
    `ranking` local takes the same share of every group, global ranks all units by importance per saved MAC. `macs` is the
    share of multiply-accumulates to keep, in place of `ratio`. Each group keeps `min_keep` units and a multiple of
    `multiple`. `recover` fits what is left anew to what the dense model computes on the data; `rounds` does all this
    in so many steps. With `augment` every second image is turned, mirrored and recoloured, for samples from few pictures.
    `where` selects layers by what makes the units.
    """
    amount = Amount(ratio, macs, ranking, min_keep, multiple)
    if structure != "channel":
        sparsify(module, ctx, structure, amount, importance, recover, where)
        return
    state = _State(module, _augmented(ctx) if augment else ctx)
    for number in range(1, rounds + 1):
        groups = _groups(module, where)
        _round(state, groups, state.step(amount, number / rounds), importance, recover)
    if recover and ctx.data is not None:
        refine(module, state.dense, state.pairs, ctx, (state.macs[0], state.macs[-1]))
    state.report()


def _augmented(ctx: Context) -> Context:
    """The same with half of its images turned. Raises UsageError where there are none."""
    first = next(iter(ctx.data.batches()), {}) if ctx.data is not None else {}
    if not any(image_axis(array) for array in first.values()):
        raise UsageError("prune: augment turns images, and the data have none", hint="images have 1, 3 or 4 channels")
    return replace(ctx, data=Turned(ctx.data, ctx.seed))  # type: ignore[arg-type]


def _groups(module: Module, where: str) -> list[Group]:
    """The groups that a selected layer makes. Raises UsageError where there is none, with the reasons."""
    groups = find_groups(module)
    if where:
        makers = list(dict.fromkeys(node for group in groups for node, _, _ in group.producers))
        chosen = set(select(module, where, makers)) if makers else set()
        groups = [group for group in groups if any(node in chosen for node, _, _ in group.producers)]
    if groups:
        return groups
    reasons = list(dict.fromkeys(group.pinned for group in find_groups(module, pinned=True) if group.pinned))
    raise UsageError(
        "prune: there are no units that may be removed",
        hint="; ".join(reasons[:3]) or "the model has no layer whose outputs only other layers read",
    )


@dataclass
class _State:
    """The module as it was before the first round, and what became of its layers."""

    module: Module
    ctx: Context
    dense: Module = field(init=False)
    pairs: dict[Node, Node] = field(init=False)
    kept: dict[Node, np.ndarray] = field(default_factory=dict)
    read: dict[Node, np.ndarray] = field(default_factory=dict)
    macs: list[float] = field(default_factory=list)
    units: dict[str, dict[str, Any]] = field(default_factory=dict)
    sizes: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.dense = self.module.clone()
        self.pairs = dict(zip(self.module.all_nodes(), self.dense.all_nodes(), strict=True))
        self.sizes = _sizes(self.module, self.ctx)

    def step(self, amount: Amount, done: float) -> Amount:
        """What is to be gone, of all that there was, when the share `done` of all rounds is: more at first (the cubic schedule
        of Zhu and Gupta, 1710.01878)."""
        share = 1 - (1 - done) ** 3
        if amount.macs is not None:
            now = self.macs[-1] / self.macs[0] if self.macs else 1.0
            return replace(amount, macs=min((1 - (1 - amount.macs) * share) / now, 1.0))
        return replace(amount, ratio=amount.ratio * share)

    def report(self) -> None:
        """Rows per group, and a line for people."""
        rows = list(self.units.values())
        self.ctx.records.extend(rows)
        self.ctx.records.extend(
            {"pass": "prune", "layer": layer_name(node), "channels": left.tolist()} for node, left in self.kept.items()
        )
        gone, total = sum(row["units"] - row["kept"] for row in rows), sum(row["units"] for row in rows)
        self.ctx.stats["prune"] += gone
        share = (
            f", {100 * self.macs[-1] / self.macs[0]:.1f}% of the MACs are left" if self.macs and self.macs[0] else ""
        )
        self.ctx.notes.append(f"prune: {gone} of {total} units removed from {len(rows)} groups{share}")


def _round(state: _State, groups: Sequence[Group], amount: Amount, importance: str, recover: bool) -> None:
    """Score, choose, remove, fit anew."""
    module, ctx = state.module, state.ctx
    costs = Costs(module, groups, state.sizes)
    state.macs = state.macs or [float(costs.total)]
    most = 0.95 if amount.macs is not None or amount.ranking == "global" else min(amount.ratio + 0.1, 1.0)
    scores = score_units(module, groups, importance, ctx, costs.total, most)
    for group in groups:
        row = {"pass": "prune", "layer": group.name, "kind": group.kind, "units": group.size, "kept": group.size}
        state.units.setdefault(group.name, row)
    masks = choose(groups, scores, amount, costs, [state.units[group.name]["units"] for group in groups])
    for group, mask in zip(groups, masks, strict=True):
        state.units[group.name]["kept"] = group.size - int(mask.sum())
    for node in list(module.signature.graph.nodes(*SAMPLED)):
        _keep(state, groups, masks, node)
    remove_units(module, {g: np.flatnonzero(mask) for g, mask in zip(groups, masks, strict=True) if mask.any()})
    alive = set(module.all_nodes())
    state.pairs = {node: twin for node, twin in state.pairs.items() if node in alive}
    state.macs.append(costs.left(masks))
    if amount.macs is not None and state.macs[-1] > 1.001 * amount.macs * costs.total:
        have, wanted = (100 * part / state.macs[0] for part in (state.macs[-1], amount.macs * costs.total))
        ctx.notes.append(
            f"prune: {have:.1f}% of the MACs are left where {wanted:.1f}% were asked for: no more units may be removed"
        )
    if recover and ctx.data is None:
        note = "prune: no data: nothing is fitted anew, which is most of what keeps accuracy (give --data)"
        if note not in ctx.notes:
            ctx.notes.append(note)
    elif recover:
        fit_anew(module, Origin(state.dense, state.pairs, state.kept, state.read), ctx, costs.total)


def _keep(state: _State, groups: Sequence[Group], masks: Sequence[np.ndarray], node: Node) -> None:
    """Note which of the dense layer's output and input channels will be left."""
    source = node.operands[0]
    assert source is not None
    for known, value, axis in (
        (state.kept, node.result, channel_axis(node)),
        (state.read, source, input_axis(node)),
    ):
        gone = _gone(groups, masks, value, axis)
        if gone.any():
            known[node] = known.get(node, np.arange(len(gone)))[~gone]


def _gone(groups: Sequence[Group], masks: Sequence[np.ndarray], value: Value, axis: int) -> np.ndarray:
    """Which positions along an axis of a value go."""
    gone = np.zeros(0, bool)
    for group, mask in zip(groups, masks, strict=True):
        units = group.units_of(value, axis)
        if len(units):
            gone = np.where(units >= 0, mask[units], gone if len(gone) else False)
    return gone


def _sizes(module: Module, ctx: Context) -> dict[str, int]:
    """The sizes of symbols for one sample of the data; 1 for those that it does not tell."""
    sizes: dict[str, int] = {}
    signature = module.signature
    batch = next(iter(ctx.data.batches()), {}) if ctx.data is not None else {}
    for value, name in zip(signature.graph.inputs, signature.input_names(), strict=True):
        if name in batch and value.shape:
            first = (1,) if symbols(value.shape[0]) else np.shape(batch[name])[:1]
            sizes.update(bind_shape(value.shape, (*first, *np.shape(batch[name])[1:]), sizes))
    for value in (*signature.graph.inputs, *(result for node in module.all_nodes() for result in node.results)):
        for dim in value.shape or ():
            for symbol in symbols(dim):
                sizes.setdefault(symbol, 1)
    return sizes
