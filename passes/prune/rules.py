"""What ops that work element by element, normalise, pool or reduce say of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Node
from ...ir.opdef import ELEMENTWISE, OPS
from ...ir.ops import load_families
from ..dead.functions import KEEP_ZERO
from .atoms import SINGLE, Axes, Axis, Bundle, Fixed, Lane, passed
from .walk import CARRIER, RULES, Walk, rewriting, rule

if TYPE_CHECKING:
    from .remove import Cut

#: A zeroed channel has no value there: masking cannot say what pruning means.
SINGULAR = frozenset({"log", "reciprocal", "rsqrt"})


def zero_of(axis: Axis | None) -> bool:
    return isinstance(axis, Lane) and axis.zero


def elementwise(walk: Walk, node: Node) -> list[Axes]:
    """Axes run in step where they are not broadcast."""
    name, rank = node.name, node.result.rank
    shapes = [None if v is None else v.shape for v in node.operands]
    if rank is None or any(v is not None and v.rank is None for v in node.operands):
        return walk.held(node, "has an operand of unknown rank")
    rows: list[Axes] = []
    for index, shape in enumerate(shapes):
        axes = walk.axes(node, index, zeroed=_is_zeroed(name, index), bundles=True)
        rows.append((SINGLE,) * (rank - len(shape or ())) + axes)
        if node.operands[index] is not None and node.operands[index].is_const:
            for axis in axes:
                walk.use(node, axis, CARRIER)
    return [tuple(_in_step(walk, node, [row[i] for row in rows]) for i in range(rank))]


def _is_zeroed(name: str, index: int) -> bool:
    return name in ("add", "sub", "mul", "identity", "neg", "cast") or (name == "div" and index == 0)


def _in_step(walk: Walk, node: Node, axes: Sequence[Axis]) -> Axis:
    """One axis of the result from the operands' (SINGLE: broadcast, or not there)."""
    long = [axis for axis in axes if axis is not SINGLE]
    if not long:
        return SINGLE
    joined = walk.space.join(long)
    if isinstance(joined, Fixed):
        return joined
    if isinstance(joined, Bundle):  # then all are, of the same dims
        rows = [axis.parts if isinstance(axis, Bundle) else ((1, SINGLE),) * len(joined.parts) for axis in axes]
        columns = zip(*rows, strict=True)
        return Bundle(
            tuple((d, _in_step(walk, node, [a for _, a in c])) for d, c in zip(joined.dims, columns, strict=True))
        )
    if (node.name in SINGULAR and zero_of(axes[0])) or (node.name in ("div", "mod", "floor_div") and zero_of(axes[1])):
        why = walk.fixed(node, "has no value where a channel is zero")
        walk.space.pin(joined, why.reason)
        return why
    if len(axes) == 1 and node.name in ("cast", "identity"):
        return joined
    return Lane(joined.ids, _zero_result(node, axes))


def _zero_result(node: Node, axes: Sequence[Axis]) -> bool:
    """Whether the result is zero where the operands' removed indices are."""
    zeros = [zero_of(axis) for axis in axes]
    name = node.name
    if name in KEEP_ZERO:
        return (
            zeros[0]
            and not (name == "shrink" and node.attr("lambd") < 0)
            and not (name == "thresholded_relu" and node.attr("alpha") < 0)
        )
    if name in ("mul", "and"):
        return any(zeros)
    if name in ("add", "sub", "max", "min"):
        return all(zeros)
    if name == "div":
        return zeros[0]
    if name == "where":
        return zeros[1] and zeros[2]
    if name == "pow":
        exponent = node.operands[1].scalar() if node.operands[1] is not None else None
        return zeros[0] and exponent is not None and exponent > 0
    if name == "clip":
        low, high = (_scalar(node, i) for i in (1, 2))
        return zeros[0] and (low is None or low <= 0) and (high is None or high >= 0)
    return False


def _scalar(node: Node, index: int) -> float | None:
    """A bound of clip: None when absent; one that is not known counts as above zero, or below it."""
    value = node.operands[index] if index < len(node.operands) else None
    if value is None:
        return None
    known = value.scalar()
    return known if known is not None else (np.inf if index == 1 else -np.inf)


load_families()
RULES.update({name: elementwise for name, op in OPS.items() if op.has(ELEMENTWISE)})


# ------------------------------------------------------------------------------------------ per channel, normalising


def channel_axis(node: Node) -> int:
    """Where the channels of the data stand."""
    return node.operands[0].rank - 1 if node.attrs.get("channels_last") else 1  # type: ignore[union-attr, operator]


@rule("batch_norm", "instance_norm")
def per_channel(walk: Walk, node: Node) -> list[Axes]:
    """Each channel on its own, with its entry of every vector."""
    row = list(walk.axes(node, 0))
    if len(row) < 2:
        return walk.held(node, "has data of unknown rank")
    at = channel_axis(node)
    vectors = [walk.axes(node, i)[0] for i in range(1, len(node.operands))]
    for vector in vectors:
        walk.use(node, vector, CARRIER)
    joined = walk.space.join([row[at], *vectors])
    if isinstance(joined, Lane):
        # scale 0 and bias 0 make the channel zero whatever it was
        joined = joined.computed(zero=zero_of(vectors[0]) and zero_of(vectors[1]))
    row[at] = joined
    return [tuple(_plain(axis) for axis in row)]


def _plain(axis: Axis) -> Axis:
    """The axis of a computed value: no longer a constant's."""
    return axis.computed(zero=axis.zero) if isinstance(axis, Lane) and axis.slot is not None else axis


@rule("group_norm")
def group_norm(walk: Walk, node: Node) -> list[Axes]:
    """Whole groups of channels go: the others' statistics stay as they are."""
    row = list(walk.axes(node, 0))
    if len(row) < 2:
        return walk.held(node, "has data of unknown rank")
    at, groups = channel_axis(node), node.attr("num_groups")
    vectors = [walk.axes(node, i)[0] for i in (1, 2)]
    for vector in vectors:
        walk.use(node, vector, CARRIER)
    joined = walk.space.join([row[at], *vectors])
    if isinstance(joined, Lane):
        table = joined.ids.reshape(groups, -1)
        walk.space.union_all(table.T if groups > 1 else table.reshape(-1, 1))
        joined = joined.computed(zero=zero_of(vectors[0]) and zero_of(vectors[1]))
    row[at] = joined
    return [tuple(row)]


@rule("layer_norm", "rms_norm")
def trailing_norm(walk: Walk, node: Node) -> list[Axes]:
    """Over the last axis alone. RMS: exact, with the scale and epsilon of the shorter axis. Mean and variance: only by the
    explicit form with the old length, hence only on request; both need removed entries to be zero."""
    row = list(walk.axes(node, 0))
    if not row:
        return walk.held(node, "has data of unknown rank")
    rank, first = len(row), node.attr("axis") % len(row)
    vectors = [(SINGLE,) * (rank - len(axes)) + axes for axes in (walk.axes(node, i) for i in (1, 2)) if axes]
    if first != rank - 1 or any(axis is not SINGLE for axes in vectors for axis in axes[:-1]):
        return walk.held(node, "normalises over several axes")
    for axes in vectors:
        walk.use(node, axes[-1], CARRIER)
    joined = walk.space.join([row[-1], *[axes[-1] for axes in vectors if axes[-1] is not SINGLE]])
    why = _why_pinned(walk, node, row[-1])
    if isinstance(joined, Lane) and why:
        walk.space.pin(joined, f"{node.name} {why}")
        joined = walk.fixed(node, why)
    if isinstance(joined, Lane):
        zeros = [zero_of(axes[-1]) for axes in vectors]
        joined = joined.computed(
            zero=all(zeros) if node.name == "layer_norm" and len(zeros) == 2 else node.name == "rms_norm"
        )
    row[-1] = joined
    return [tuple(row)]


def _why_pinned(walk: Walk, node: Node, data: Axis) -> str:
    if not zero_of(data):
        return "normalises over what is not zero when masked"
    if node.name == "layer_norm" and not walk.accept_norms:
        return "takes the mean over it (accept_norms keeps the old length in an explicit form)"
    return ""


@rewriting("group_norm")
def norm_groups(cut: Cut, node: Node) -> None:
    at = channel_axis(node)
    x = node.operands[0]
    whole = cut.old_shape(x)[at]  # type: ignore[arg-type]
    node.set_attr("num_groups", node.attr("num_groups") * cut.size(x, at) // whole)  # type: ignore[arg-type]


@rewriting("rms_norm")
def shorter_rms(cut: Cut, node: Node) -> None:
    """With k of n left and the others zero: mean over n is k/n of the mean over k, hence scale * sqrt(n/k), eps * n/k."""
    x = node.operands[0]
    axis = len(cut.old_shape(x)) - 1  # type: ignore[arg-type]
    if not cut.is_cut(x, axis):  # type: ignore[arg-type]
        return
    ratio = cut.old_shape(x)[axis] / cut.size(x, axis)  # type: ignore[arg-type]
    node.set_attr("epsilon", node.attr("epsilon") * ratio)
    if len(node.operands) > 1 and node.operands[1] is not None:
        cut.scale(node, 1, math.sqrt(ratio))
    else:
        dtype = x.dtype  # type: ignore[union-attr]
        cut.set_operand(node, 1, cut.module.literal(np.asarray([math.sqrt(ratio)], dtype.numpy), dtype))  # type: ignore[union-attr]


@rewriting("layer_norm")
def written_out(cut: Cut, node: Node) -> None:
    """Zeros that are gone still count: mean = sum(x)/n and var = sum(x (x - mean))/n with the old n. In this form of the
    variance a further cut needs nothing more."""
    x, scale, bias = (*node.operands, None, None)[:3]
    axis = len(cut.old_shape(x)) - 1  # type: ignore[arg-type]
    if x is None or not cut.is_cut(x, axis):
        return
    b, dtype = cut.builder(node), x.dtype.numpy  # type: ignore[union-attr]
    share = np.asarray(1 / cut.old_shape(x)[axis], dtype)
    centred = b.sub(x, b.mul(b.reduce_sum(x, (-1,)), share))
    spread = b.max(b.mul(b.reduce_sum(b.mul(x, centred), (-1,)), share), np.asarray(0, dtype))
    y = b.div(centred, b.sqrt(b.add(spread, np.asarray(node.attr("epsilon"), dtype))))
    for value, join in ((scale, b.mul), (bias, b.add)):
        y = y if value is None else join(y, value)
    cut.replace(node, y)


@rule("lp_normalization")
def lp_normalization(walk: Walk, node: Node) -> list[Axes]:
    """Zeros add nothing to a norm."""
    row = list(walk.axes(node, 0))
    at = node.attr("axis") % len(row)
    if isinstance(row[at], Lane) and not zero_of(row[at]):
        why = walk.fixed(node, "normalises over what is not zero when masked")
        walk.space.pin(row[at], why.reason)
        row[at] = why
    return [tuple(row)]


def pinning(walk: Walk, node: Node, axes: Sequence[int], why: str, *, zero: bool = False) -> list[Axes]:
    """All axes pass but these, which are pinned. `zero`: zeros stay zeros."""
    row = list(walk.axes(node, 0, bundles=True))
    held = {axis % len(row) for axis in axes} if row else set()
    reason = walk.fixed(node, why)
    for i, axis in enumerate(row):
        if i in held:
            walk.space.pin(axis, reason.reason)
            row[i] = SINGLE if axis is SINGLE else reason
        else:
            row[i] = passed(axis, zero=zero)
    return [tuple(row) for _ in node.results]


@rule("softmax", "log_softmax", "hardmax")
def softmax(walk: Walk, node: Node) -> list[Axes]:
    return pinning(walk, node, (node.attr("axis"),), "normalises over it")


@rule("lrn")
def lrn(walk: Walk, node: Node) -> list[Axes]:
    return pinning(walk, node, (channel_axis(node),), "looks at neighbouring channels", zero=True)


@rule("mean_variance_normalization")
def mean_variance(walk: Walk, node: Node) -> list[Axes]:
    return pinning(walk, node, node.attr("axes"), "normalises over it", zero=True)


@rule("cumsum", "cumprod", "reverse_sequence")
def running(walk: Walk, node: Node) -> list[Axes]:
    """Zeros would change nothing that comes after them in a sum, but positions count."""
    if node.name == "reverse_sequence":
        axes: tuple[int, ...] = (node.attr("batch_axis"), node.attr("time_axis"))
    else:
        axes = node.operands[1].ints() or tuple(range(len(walk.axes(node, 0))))  # type: ignore[union-attr]
    return pinning(walk, node, axes, "runs along it", zero=node.name != "cumprod")


@rule("topk", "arg_max", "arg_min")
def chosen(walk: Walk, node: Node) -> list[Axes]:
    made = pinning(walk, node, (node.attr("axis"),), "gives positions along it")
    if node.name != "topk" and not node.attr("keepdims"):
        at = node.attr("axis") % len(made[0])
        made = [(*made[0][:at], *made[0][at + 1 :])]
    elif node.name != "topk":
        at = node.attr("axis") % len(made[0])
        made = [(*made[0][:at], SINGLE, *made[0][at + 1 :])]
    return made


# ------------------------------------------------------------------------------------------------- pools and resizing


@rule(
    "max_pool", "average_pool", "lp_pool", "global_average_pool", "global_max_pool", "global_lp_pool",
    "adaptive_average_pool", "adaptive_max_pool",
)  # fmt: skip
def pool(walk: Walk, node: Node) -> list[Axes]:
    """Batch and channels pass; zero windows stay zero."""
    rank = node.operands[0].rank  # type: ignore[union-attr]
    if rank is None or rank < 3:
        return walk.held(node, "has data of unknown rank")
    at = channel_axis(node)
    made = pinning(walk, node, [i for i in range(1, rank) if i != at], "slides along it", zero=True)
    shape = node.result.shape or ()
    return [tuple(SINGLE if shape[i] == 1 else axis for i, axis in enumerate(made[0]))]


SUMS = frozenset({"reduce_sum", "reduce_l1", "reduce_l2", "reduce_sum_square", "reduce_mean"})


@rule(
    "reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod", "reduce_l1", "reduce_l2", "reduce_log_sum",
    "reduce_log_sum_exp", "reduce_sum_square", "reduce_all", "reduce_any",
)  # fmt: skip
def reduce(walk: Walk, node: Node) -> list[Axes]:
    """Over zeros a sum is free, a mean as well once its divisor is put right; other reductions hold the axis."""
    row = walk.axes(node, 0)
    over = reduced_axes(node)
    if over is None:
        return walk.held(node, "reduces axes that are not known")
    for axis in over:
        if isinstance(row[axis], Lane) and not (node.name in SUMS and zero_of(row[axis])):
            walk.space.pin(row[axis], f"{node.name} runs over what is not zero when masked")
    keeps = node.name in SUMS or node.name in ("reduce_max", "reduce_min")
    made = [axis.computed(zero=keeps and axis.zero) if isinstance(axis, Lane) else axis for axis in row]
    if node.attr("keepdims"):
        return [tuple(SINGLE if i in over else axis for i, axis in enumerate(made))]
    return [tuple(axis for i, axis in enumerate(made) if i not in over)]


@rewriting("reduce_mean")
def shorter_mean(cut: Cut, node: Node) -> None:
    """The mean over what is left, of which the zeros that are gone had been a part."""
    x, share = node.operands[0], 1.0
    for axis in reduced_axes(node) or ():
        share *= cut.size(x, axis) / cut.old_shape(x)[axis] if cut.is_cut(x, axis) else 1  # type: ignore[arg-type]
    if share != 1:
        b = cut.builder(node, after=True)
        made = b.mul(node.result, np.asarray(share, x.dtype.numpy))  # type: ignore[union-attr]
        cut.insert(node, made, keep=made.node)  # type: ignore[arg-type]


def reduced_axes(node: Node) -> tuple[int, ...] | None:
    """The axes that a reduction runs over; None when they are not known."""
    x = node.operands[0]
    given = node.operands[1] if len(node.operands) > 1 else None
    if x is None or x.rank is None:
        return None
    axes = () if given is None else given.ints()
    if axes is None:
        return None
    if not axes:
        return () if node.attr("noop_with_empty_axes") else tuple(range(x.rank))
    return tuple(axis % x.rank for axis in axes)


# -------------------------------------------------------------------------------------------------------- quantisation


@rule("quantize", "dequantize")
def quantise(walk: Walk, node: Node) -> list[Axes]:
    """Axes pass; a parameter per channel is cut along, one per block holds the axis."""
    row = list(walk.axes(node, 0, bundles=True))
    x = node.operands[0]
    if x is None or x.rank is None:
        return walk.held(node, "has data of unknown rank")
    for index in range(1, len(node.operands)):
        value, axes = node.operands[index], walk.axes(node, index, zeroed=False)
        for i, axis in enumerate(axes):
            if value is None or axis is SINGLE:
                continue
            if value.shape[i] != x.shape[i]:  # type: ignore[index]
                why = walk.fixed(node, "has a scale per block of it")
                walk.space.pin(row[i], why.reason)
                walk.space.pin(axis, why.reason)
                row[i] = why
            else:
                walk.use(node, axis, CARRIER)
                joined = walk.space.join([row[i], axis])
                row[i] = row[i] if isinstance(joined, Lane) else joined
    if not x.is_const and not _zero_point_is_zero(node):
        row = [passed(axis, zero=False) for axis in row]
    return [tuple(row)]


def _zero_point_is_zero(node: Node) -> bool:
    value = node.operands[2] if len(node.operands) > 2 else None
    return value is None or (value.is_const and not np.any(value.array().astype(np.float32)))
