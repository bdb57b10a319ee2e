"""The pass `correct-bias`: what integers shift in the mean of a layer's results goes into its bias.

b <- b + E[W x] - E[W^ x^] per output channel (Nagel et al., 1906.04721, section 4.2, empirical), layer by layer from the first
to the last: each sees what the corrected ones before it give. Both means are over the same samples, so that few are enough.
Imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.builder import Builder
from ..ir.errors import UsageError
from ..ir.graph import Module, Node, Value
from ..ir.tensor import ArrayTensor
from ..ir.types import I32
from ..kernels.threads import one_thread
from ..passes.manager import Context, Feeds, module_pass, run_pipeline
from ..passes.presets import JOINING, preset
from ..passes.quantize.insert import origin_of
from ..passes.quantize.params import BIAS_LIMIT
from ..passes.select import weight_of
from .calibrate import observe
from .sensitivity import few
from .stages import Stage

#: Samples that the means are taken over.
SAMPLES = 32

PRODUCTS = ("conv", "conv_transpose", "gemm", "matmul")


@dataclass
class Few:
    """The first samples of other feeds."""

    feeds: Feeds
    count: int
    digest: str = ""

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        return few(self.feeds, self.count)


class Mean:
    """The mean of a value for each index along `axis`, in float64."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.total: np.ndarray | float = 0.0
        self.seen = 0

    def update(self, array: np.ndarray) -> None:
        axis = self.axis % array.ndim
        others = tuple(i for i in range(array.ndim) if i != axis)
        self.total = self.total + array.sum(axis=others, dtype=np.float64)
        self.seen += array.size // max(array.shape[axis], 1)

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.total) / max(self.seen, 1)


@module_pass("correct-bias", numerics="approx")
@one_thread()
def correct_bias(module: Module, ctx: Context) -> None:
    """Biases of a quantised module such that the layers' means are those of the float module that it was made from."""
    from .quantize import calibration

    data = Few(calibration(ctx, "correct-bias"), SAMPLES)
    if ctx.reference is None:
        raise UsageError(
            "correct-bias needs the module as it was in floats",
            code="R025",
            hint="quantize corrects biases itself; run alone, this pass works on what Context.reference gives",
        )
    reference = ctx.reference.clone()
    run_pipeline(reference, preset(2, JOINING))
    pairs = _same_layers(reference, module)
    ends = {node: _end(node) if _end(made) is not made.result else node.result for node, made in pairs.items()}
    means = float_means(reference, ends, data)
    wanted = {pairs[node]: mean for node, mean in means.items()}
    left = [n for n in module.main.nodes(*PRODUCTS) if is_integer(n) and n not in wanted]
    if left:
        ctx.notes.append(
            f"correct-bias: {len(left)} layers have no counterpart in the float module and stay as they are"
        )
    correct(module, wanted, data, ctx)


def _same_layers(reference: Module, module: Module) -> dict[Node, Node]:
    """Products of the float module and those of the quantised one that have the same weight, by its source's name."""
    by_key: dict[tuple, list[Node]] = {}
    for node in module.main.nodes(*PRODUCTS):
        if is_integer(node):
            by_key.setdefault(_key(node), []).append(node)
    pairs = {}
    for node in reference.main.nodes(*PRODUCTS):
        same = by_key.get(_key(node))
        if same:
            pairs[node] = same.pop(0)
    return pairs


def _key(node: Node) -> tuple:
    weight = weight_of(node)
    return (node.name, None) if weight is None else (node.name, weight.weight.wanted, weight.shape)  # type: ignore


def is_integer(node: Node) -> bool:
    """Data and weight of a product are both read from integers."""
    return all(v is not None and v.node is not None and v.node.name == "dequantize" for v in node.operands[:2])


def channel_axis(node: Node) -> int:
    return 1 if node.name in ("conv", "conv_transpose") else -1


def float_means(module: Module, ends: Mapping[Node, Value], data: Feeds) -> dict[Node, np.ndarray]:
    """The mean per output channel of each product's `end`: its result, behind the addition of its bias where there is one."""
    axes = {end: channel_axis(node) for node, end in ends.items()}
    seen = observe(module, axes, data, lambda value: Mean(axes[value]))  # type: ignore[type-var]
    return {node: seen[end].mean for node, end in ends.items()}


def _end(node: Node) -> Value:
    """The result of a product, behind the addition of its bias where that is a node of its own."""
    user = node.result.uses[0].node if node.result.n_uses == 1 else None
    if node.name in ("matmul", "gemm") and user is not None and user.name == "add":
        other = user.operands[1 - user.operands.index(node.result)]
        if other is not None and _is_bias(other, node) and user.result.type is node.result.type:
            return user.result
    return node.result


def _is_bias(value: Value, node: Node) -> bool:
    """A constant vector, or integers for one, along the output channels."""
    source = value.node.operands[0] if value.node is not None and value.node.name == "dequantize" else value
    size = (node.result.shape or (None,))[-1]
    return bool(source is not None and source.is_const and value.shape and value.shape[-1] == source.type.numel == size)  # type: ignore


def correct(module: Module, wanted: Mapping[Node, np.ndarray], data: Feeds, ctx: Context) -> int:
    """Give each product the bias with which its results have the wanted mean; returns how many were changed."""
    stage = Stage(module, data)
    changed = 0
    for node in [n for n in module.main.nodes(*PRODUCTS) if n in wanted]:
        end = _end(node)
        found = Mean(channel_axis(node))
        for (array,) in stage.values([end], end=node):
            found.update(array)
        shift = wanted[node] - found.mean
        if np.isfinite(shift).all() and np.any(shift) and _shift(node, end, shift):
            changed += 1
    ctx.stats["correct-bias"] += changed
    return changed


def _shift(node: Node, end: Value, shift: np.ndarray) -> bool:
    """Add `shift` to the bias of a product, giving it one where it has none; False where there is no place for one."""
    owner = end.node if end is not node.result else node
    assert owner is not None
    if owner is not node:
        place = next(i for i, v in enumerate(owner.operands) if v is not node.result)
    elif node.name == "matmul":
        return False
    else:
        place = 2
    bias = owner.operands[place] if place < len(owner.operands) else None
    if bias is None:
        return _new_bias(node, shift)
    if bias.node is None:
        array = bias.array()
        made = (array.astype(np.float64) + shift.reshape(array.shape)).astype(array.dtype)
        owner.set_operand(place, _constant(owner, bias, made))
        return True
    stored, scale = bias.node.operands[:2]
    if bias.node.name != "dequantize" or not (stored.is_const and scale.is_const):  # type: ignore[union-attr]
        return False
    old = stored.array().astype(np.float64)  # type: ignore[union-attr]
    steps = np.rint(shift.reshape(old.shape) / np.broadcast_to(scale.array().astype(np.float64), old.shape))  # type: ignore
    ints = np.clip(old + steps, -2 * BIAS_LIMIT, 2 * BIAS_LIMIT - 1).astype(np.int32)
    if np.array_equal(ints, old):
        return False
    b = Builder(owner.graph, before=owner, loc=origin_of(owner))  # type: ignore[arg-type]
    owner.set_operand(place, b.dequantize(_constant(owner, stored, ints), scale, None, to=bias.dtype))  # type: ignore
    if not bias.n_uses:
        bias.node.erase()
    return True


def _constant(owner: Node, old: Value, array: np.ndarray) -> Value:
    source = old.weight
    assert source is not None
    origin = "; ".join(filter(None, (source.origin, "bias corrected")))
    return owner.graph.module.add_weight(source.wanted, ArrayTensor(array), source.role, origin)  # type: ignore[union-attr]


def _new_bias(node: Node, shift: np.ndarray) -> bool:
    """An integer bias at the product of the scales of data and weight."""
    data, weight = (v.node for v in node.operands[:2])  # type: ignore[union-attr]
    scales = [n.operands[1] for n in (data, weight)]  # type: ignore[union-attr]
    if not all(s is not None and s.is_const for s in scales) or node.attrs.get("alpha", 1.0) != 1.0:
        return False
    scale = np.asarray(scales[0].array() * scales[1].array(), np.float32)  # type: ignore[union-attr]
    scale = np.tile(scale.reshape(-1), len(shift) // scale.size) if scale.ndim else scale
    steps = np.rint(shift / scale.astype(np.float64))
    if np.abs(steps).max(initial=0) > BIAS_LIMIT or node.attrs.get("beta", 1.0) != 1.0:
        return False
    b = Builder(node.graph, before=node, loc=origin_of(node))  # type: ignore[arg-type]
    source = weight_of(node)
    key = f"{source.weight.wanted}.bias" if source is not None else "bias"  # type: ignore[union-attr]
    stored = b.module.add_weight(key, ArrayTensor(steps.astype(np.int32)), "param", "bias correction")
    assert stored.dtype is I32
    made: Any = b.dequantize(stored, b.module.literal(scale), None, to=node.result.dtype)  # type: ignore[arg-type]
    node.set_operands((*node.operands[:2], made))
    return True
