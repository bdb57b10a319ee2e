"""The pass `equalize`: channels of one layer get ranges alike, the next layer's weights take it back.

f(W1 x + b1) with f(s x) = s f(x) for s > 0 is fed to W2: row i of W1 and b1 is divided by s_i, column i of W2 multiplied
(Nagel et al., 1906.04721, section 4.1), s_i = sqrt(r1 r2) / r2 with r the largest magnitudes. Here s_i is the nearest power of
two: divisions and products by it are exact, and the float model computes the same numbers as before. Depthwise layers are
both sides of a pair, and pairs are gone over until nothing moves. Needs no data, but can prove with it that a clamp at 6
never acts.

Given (rows of %w1 with the largest magnitudes 8 and 0.5, columns of %w2 with 1 and 1):
    %h = relu(conv(%x, %w1))
    %y = conv(%h, %w2)
Result: %w1 with 2 and 1 (divided by 4 and 0.5), %w2 with 4 and 0.5 (multiplied)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Graph, Module, Node, Value
from ...ir.tensor import ArrayTensor
from ...kernels.run import bind_inputs, run_graph
from ..manager import Context, module_pass

#: Rounds over all pairs; ranges settle in a few.
ROUNDS = 20

#: f(s x) = s f(x) for s > 0, channel by channel, and channels stay on axis 1.
HOMOGENEOUS = frozenset(
    ["relu", "leaky_relu", "prelu", "identity", "max_pool", "average_pool", "global_average_pool", "global_max_pool",
     "reduce_mean", "reshape", "flatten", "squeeze", "pad"]
)  # fmt: skip
CLAMPS = ("relu6", "clip")


@dataclass
class Pair:
    """A layer, the values between it and its consumers, and the clamps that must be shown never to act."""

    first: Node
    seconds: list[Node]
    clamps: list[Node]


@module_pass("equalize")
def equalize(module: Module, ctx: Context) -> None:
    """Ranges of channels made alike across layers; the float results stay the same bit for bit."""
    for graph in module.graphs.values():
        pairs = [pair for node in graph.nodes("conv", "gemm", "matmul") if (pair := _pair(node)) is not None]
        pairs = _with_idle_clamps(module, graph, pairs, ctx)
        if pairs:
            _equalize(module, pairs, ctx)
    module.drop_unused_weights()


def _pair(node: Node) -> Pair | None:
    """`node` with all that takes its results, if every one of them can take a factor per channel."""
    weight, bias = node.operands[1], node.operands[2] if len(node.operands) > 2 else None
    channels = _out_channels(node)
    if channels is None or not _own(weight):
        return None
    if bias is not None and (not _own(bias) or bias.type.numel != channels):  # type: ignore[attr-defined]
        return None
    if node.name == "gemm" and (node.attr("alpha") != 1.0 or node.attr("beta") != 1.0):
        return None
    seconds: list[Node] = []
    clamps: list[Node] = []
    pending = [node.result]
    while pending:
        value = pending.pop()
        if not value.n_uses:
            return None
        for use in value.uses:
            taker = use.node
            if _takes(taker, use.index, channels):
                seconds.append(taker)
            elif use.index == 0 and _passes(taker, value, channels):
                clamps += [taker] if taker.name in CLAMPS else []
                pending.append(taker.result)
            else:
                return None
    return Pair(node, seconds, clamps) if node not in seconds else None


def _own(value: Value | None) -> bool:
    """A float constant that one operand alone uses."""
    if value is None or not value.is_const or value.n_uses != 1 or value.dtype is None or not value.dtype.is_float:
        return False
    return bool(np.isfinite(value.array().astype(np.float64)).all())


def _out_channels(node: Node) -> int | None:
    """Output channels of a layer whose results have them on axis 1."""
    weight = node.operands[1]
    if weight is None or not weight.is_const or node.result.rank is None:
        return None
    axis = {"conv": 0, "gemm": 0 if node.attrs.get("transB") else 1, "matmul": 1}[node.name]
    if node.name != "conv" and (weight.rank != 2 or node.result.rank != 2):
        return None
    return weight.shape[axis]  # type: ignore[index, return-value]


def _takes(node: Node, place: int, channels: int) -> bool:
    """A product that sums over the channels of its data, with a weight of its own."""
    if place != 0 or node.name not in ("conv", "gemm", "matmul") or not _own(node.operands[1]):
        return False
    if node.name == "conv":
        depthwise = node.attr("groups") == channels and node.operands[1].shape[1] == 1  # type: ignore[index, union-attr]
        return node.operands[0].shape[1] == channels and (node.attr("groups") == 1 or depthwise)  # type: ignore
    if node.attrs.get("transA") or node.operands[0].rank != 2 or node.operands[1].rank != 2:  # type: ignore[union-attr]
        return False
    return node.operands[1].shape[1 if node.attrs.get("transB") else 0] == channels  # type: ignore[index, union-attr]


def _passes(node: Node, value: Value, channels: int) -> bool:
    """An op that a factor per channel passes through; a clamp too, to be proven idle."""
    if len(node.results) != 1 or node.graph is None or not value.shape or len(value.shape) < 2:
        return False
    shape = node.result.shape
    if not shape or len(shape) < 2 or value.shape[1] != channels or shape[1] != channels:
        return False
    if node.name == "prelu":
        return _along_channels(node.operands[1], len(value.shape), channels)
    if node.name in ("reshape", "flatten", "squeeze"):
        return len(value.shape) > 2 and all(d == 1 for d in value.shape[2:]) and len(shape) == 2
    if node.name == "pad":
        return _pads_with_zero(node)
    if node.name == "reduce_mean":
        axes = node.operands[1].ints() if len(node.operands) > 1 and node.operands[1] is not None else None
        return axes is not None and all(axis % len(value.shape) > 1 for axis in axes)
    return node.name in HOMOGENEOUS or node.name in CLAMPS


def _pads_with_zero(node: Node) -> bool:
    """Zeros (or mirrored values) around the places, none among the channels: 0 times a factor is 0."""
    pads, value, axes = (node.operand(name) for name in ("pads", "value", "axes"))
    rank, around = node.result.rank or 0, pads.ints()
    which = range(rank) if axes is None else axes.ints()
    if around is None or which is None:
        return False
    if any(count for count, axis in zip(around, [*which, *which], strict=True) if axis % rank == 1):
        return False
    return node.attr("mode") != "constant" or value is None or (value.is_const and not np.any(value.array()))


def _along_channels(slope: Value | None, rank: int, channels: int) -> bool:
    """A constant slope that is the same at all places of a channel."""
    if slope is None or not slope.is_const or slope.shape is None:
        return False
    shape = (1,) * (rank - len(slope.shape)) + tuple(slope.shape)
    return all(d == 1 or (i == 1 and d == channels) for i, d in enumerate(shape))


# ------------------------------------------------------------------------------------------------------ clamps that idle


def _with_idle_clamps(module: Module, graph: Graph, pairs: list[Pair], ctx: Context) -> list[Pair]:
    """The pairs without clamps, and those whose clamps never cut anything off above in the calibration data: they become relu."""
    asked = [clamp for pair in pairs for clamp in pair.clamps]
    if not asked:
        return pairs
    idle: set[Node] = set()
    if ctx.data is not None and graph is module.signature.graph:
        idle = _idle(module, graph, asked, ctx)
    kept = [pair for pair in pairs if all(clamp in idle for clamp in pair.clamps)]
    for clamp in dict.fromkeys(clamp for pair in kept for clamp in pair.clamps):
        made = Builder(graph, before=clamp, loc=clamp.loc).relu(clamp.operands[0])
        clamp.replace(made)
        ctx.notes.append(
            f"equalize: {clamp.name} at {clamp.loc} is relu now: it cut nothing off in the calibration data"
        )
    if len(kept) < len(pairs):
        why = "it acts in the calibration data" if ctx.data is not None else "no data shows that it never acts"
        ctx.notes.append(f"equalize: {len(pairs) - len(kept)} layers stay as they are behind a clamp: {why}")
    return kept


def _idle(module: Module, graph: Graph, clamps: list[Node], ctx: Context) -> set[Node]:
    """The clamps from 0 up whose operand stays below their upper end for every sample."""
    tops = {clamp: _top(clamp) for clamp in clamps}
    highest: dict[Value, float] = {}

    def watch(value: Value) -> Any:
        def see(array: np.ndarray) -> None:
            highest[value] = max(highest.get(value, -np.inf), float(array.max(initial=-np.inf)))

        return see

    taps = {value: watch(value) for clamp in clamps if (value := clamp.operands[0]) is not None}
    for batch in ctx.data.batches():  # type: ignore[union-attr]
        run_graph(graph, bind_inputs(module.signature, batch), taps=taps)
    found = set()
    for clamp, top in tops.items():
        seen = highest.get(clamp.operands[0], np.inf)  # type: ignore[arg-type]
        if top is not None and seen <= top:
            found.add(clamp)
    return found


def _top(clamp: Node) -> float | None:
    """The upper end of a clamp that begins at 0; None for others."""
    if clamp.name == "relu6":
        return 6.0
    low, high = (*clamp.operands, None, None)[1:3]
    if low is None or low.scalar() != 0:
        return None
    return float("inf") if high is None else high.scalar()


# ---------------------------------------------------------------------------------------------------------- the factors


def _equalize(module: Module, pairs: list[Pair], ctx: Context) -> None:
    arrays: dict[Value, np.ndarray] = {}
    for pair in pairs:
        for value in (*pair.first.operands[1:3], *(second.operands[1] for second in pair.seconds)):
            if value is not None and value not in arrays:
                arrays[value] = np.array(value.array(), np.float64, order="C")
    for _ in range(ROUNDS):
        moved = [_balance(pair, arrays) for pair in pairs]
        if not any(moved):
            break
    changed = 0
    for value, array in arrays.items():
        source = value.weight
        made = array.astype(value.dtype.numpy)  # type: ignore[union-attr]
        if source is None or np.array_equal(made, value.array()):
            continue
        changed += 1
        origin = "; ".join(filter(None, (source.origin, "channels scaled by powers of two")))
        value.replace_uses(module.add_weight(source.wanted, ArrayTensor(made), source.role, origin))
    ctx.stats["equalize"] += changed
    ctx.records.append({"pass": "equalize", "pairs": len(pairs), "weights": changed})


def _balance(pair: Pair, arrays: Mapping[Value, np.ndarray]) -> bool:
    """One step for one pair, in `arrays`; False when it is in balance."""
    weight, bias = pair.first.operands[1], pair.first.operands[2] if len(pair.first.operands) > 2 else None
    rows = _rows(pair.first, arrays[weight])  # type: ignore[index]
    columns = [_columns(second, arrays[second.operands[1]]) for second in pair.seconds]  # type: ignore[index]
    own = np.abs(rows).max(axis=1)
    next_ = np.max([np.abs(c).max(axis=(0, 2)) for c in columns], axis=0)
    usable = (own > 0) & (next_ > 0)
    power = np.zeros(len(own), np.int64)
    power[usable] = np.rint(0.5 * np.log2(own[usable] / next_[usable])).astype(np.int64)
    power = _within(power, rows, columns, None if bias is None else arrays[bias], weight.dtype.numpy)  # type: ignore
    if not power.any():
        return False
    scale = np.ldexp(1.0, power)
    rows /= scale[:, None]
    if bias is not None:
        flat = arrays[bias].reshape(-1)
        flat /= scale
    for column in columns:
        column *= scale[None, :, None]
    return True


def _within(
    power: np.ndarray, rows: np.ndarray, columns: list[np.ndarray], bias: np.ndarray | None, dtype: Any
) -> np.ndarray:
    """No power where a weight would leave the normal numbers of its type: there a factor of two is not exact."""
    info = np.finfo(dtype)
    scale = np.ldexp(1.0, power)
    parts = [(rows / scale[:, None]), *(np.moveaxis(c, 1, 0).reshape(len(power), -1) * scale[:, None] for c in columns)]
    parts += [] if bias is None else [(bias.reshape(-1) / scale)[:, None]]
    fine = np.ones(len(power), bool)
    for part in parts:
        size = np.abs(part)
        fine &= ((size == 0) | ((size >= float(info.smallest_normal)) & (size <= float(info.max)))).all(axis=1)
    return np.where(fine, power, 0)


def _rows(node: Node, array: np.ndarray) -> np.ndarray:
    """A view [output channels, all else] of a weight."""
    if node.name == "conv" or node.attrs.get("transB"):
        return array.reshape(array.shape[0], -1)
    return array.T


def _columns(node: Node, array: np.ndarray) -> np.ndarray:
    """A view [outputs, input channels, all else] of a weight; of a grouped convolution the outputs of one group."""
    if node.name != "conv":
        return (array if node.attrs.get("transB") else array.T)[:, :, None]
    groups = node.attr("groups")
    if groups == 1:
        return array.reshape(array.shape[0], array.shape[1], -1)
    return np.moveaxis(array.reshape(groups, array.shape[0] // groups, -1), 0, 1)  # one input channel per group
