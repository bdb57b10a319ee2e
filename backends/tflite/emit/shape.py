"""Rows of the ops that move elements about or count them."""

from __future__ import annotations

import numpy as np

from ....ir.ops.shapes import UNBOUNDED
from ....ir.types import I8, I16, U8
from ....ir.value import Node
from ..table import Emitted, bare, i32, index_operand, needs_i32, rank_at_most, row

_MOVED = "f32 f16 i32 i64 u32 i16 u8 i8 bool"
_PADDED = "f32 f16 i32 i64 i16 u8 i8 bool"


def _explicit(node: Node) -> str | None:
    target = node.operands[1]
    numbers = target.ints()
    if numbers is None:
        return needs_i32(target)
    if 0 in numbers and not node.attr("allowzero"):
        return "0 copies a dim in ONNX only"
    return None


@row("reshape", "RESHAPE", _MOVED, _explicit)
def _reshape(node: Node) -> Emitted:
    shape = index_operand(node.operands[1])
    options = {"new_shape": shape} if isinstance(shape, np.ndarray) and shape.size else {}
    return Emitted([node.operands[0], shape], options)


@row("transpose", "TRANSPOSE", _MOVED)
def _transpose(node: Node) -> Emitted:
    return Emitted([node.operands[0], i32(*node.attr("perm"))])


def _several(node: Node) -> str | None:
    return None if node.operands[0].rank else "TFLite does not join scalars"


@row("concat", "CONCATENATION", _MOVED, _several)
def _concat(node: Node) -> Emitted:
    return Emitted(node.operands, {"axis": node.attr("axis") % node.result.rank})


def _known_pieces(node: Node) -> str | None:
    sizes = [v.shape[node.attr("axis")] if v.shape else None for v in node.results]
    return None if all(type(s) is int for s in sizes) else "pieces of unknown length"


@row("split", "SPLIT_V", "f32 i32 i64 i16 u8 i8", _known_pieces)
def _split(node: Node) -> Emitted:
    axis = node.attr("axis") % node.operands[0].rank
    sizes = [v.shape[axis] for v in node.results]
    return Emitted([node.operands[0], i32(*sizes), np.asarray(axis, np.int32)], {"num_splits": len(sizes)})


def _known_bounds(node: Node) -> str | None:
    if node.operands[0].rank is None or node.operands[0].rank > 5:
        return f"a slice of rank {node.operands[0].rank}; the kernel takes up to 5"
    starts, ends, axes, steps = slice_bounds(node)
    return None if None not in (starts, ends, axes, steps) else "computed bounds"


def slice_bounds(node: Node) -> tuple[tuple[int, ...] | None, ...]:
    """Starts, ends, axes (>= 0) and steps of a slice as numbers; None for what is computed."""
    starts, ends = node.operand("starts").ints(), node.operand("ends").ints()
    count, rank = node.operand("starts").shape[0], node.operands[0].rank
    axes, steps = node.operand("axes"), node.operand("steps")
    chosen = tuple(range(count)) if axes is None else axes.ints()
    positive = None if chosen is None else tuple(a % rank for a in chosen)
    return starts, ends, positive, (1,) * count if steps is None else steps.ints()


@row("slice", "SLICE", _MOVED, _known_bounds)
def _slice(node: Node) -> Emitted:
    x = node.operands[0]
    starts, ends, axes, steps = slice_bounds(node)
    known = [d if isinstance(d, int) else -1 for d in x.shape]
    if all(known[a] >= 0 for a in axes) and set(steps) <= {1}:  # SLICE wants sizes and has no steps
        begin, size = [0] * x.rank, list(known)
        for start, end, axis in zip(starts, ends, axes, strict=True):
            first, last, _ = slice(start, end).indices(known[axis])
            begin[axis], size[axis] = first, max(0, last - first)
        return Emitted([x, i32(*begin), i32(*size)])
    return _strided_slice(x, starts, ends, axes, steps)


def _strided_slice(x, starts, ends, axes, steps) -> Emitted:
    """Bounds clamp as in Python; a bound that no axis reaches becomes a mask."""
    begin, end, stride = [0] * x.rank, [0] * x.rank, [1] * x.rank
    masked = dict.fromkeys(range(x.rank), (True, True))
    for start, stop, axis, step in zip(starts, ends, axes, steps, strict=True):
        from_edge = start <= -UNBOUNDED if step > 0 else start >= UNBOUNDED
        to_edge = stop >= UNBOUNDED if step > 0 else stop <= -UNBOUNDED
        begin[axis], end[axis], stride[axis] = (0 if from_edge else start), (0 if to_edge else stop), step
        masked[axis] = (from_edge, to_edge)
    masks = [sum(1 << axis for axis in range(x.rank) if masked[axis][side]) for side in (0, 1)]
    options = {"begin_mask": masks[0], "end_mask": masks[1]}
    return Emitted([x, i32(*begin), i32(*end), i32(*stride)], options, "STRIDED_SLICE")


@row("tfl.strided_slice", "STRIDED_SLICE", _MOVED, rank_at_most(5))
def _computed_slice(node: Node) -> Emitted:
    x, begin, end = node.operands
    return Emitted([x, index_operand(begin), index_operand(end), i32(*node.attr("strides"))])


def _paddable(node: Node) -> str | None:
    x, pads = node.operands[:2]
    if node.attr("mode") not in ("constant", "reflect"):
        return f"pad mode {node.attr('mode')}"
    if x.rank is None or x.rank > 5:
        return f"a pad of rank {x.rank}; the kernel takes up to 5"
    amounts = pads.ints()
    if amounts is None or (node.operand("axes") is not None and node.operand("axes").ints() is None):
        return "computed pads"
    if min(amounts, default=0) < 0:
        return "pads that crop"
    if node.attr("mode") == "reflect":
        dims = [x.shape[a] for a in pad_axes(node)] * 2
        if any(type(d) is not int or p >= d for p, d in zip(amounts, dims, strict=True) if p):
            return "a reflection beyond the tensor"
    return None


def pad_axes(node: Node) -> tuple[int, ...]:
    axes, rank = node.operand("axes"), node.operands[0].rank
    return tuple(range(rank)) if axes is None else tuple(a % rank for a in axes.ints())


def pad_builtin(node: Node) -> str:
    if node.attr("mode") == "reflect":
        return "MIRROR_PAD"
    value = node.operand("value")
    if node.operands[0].dtype in (I8, I16, U8) and value is not None:  # PAD would fill in the zero point
        return "PADV2"
    return "PAD" if value is None or value.scalar() == 0 else "PADV2"


@row("pad", "PAD", _PADDED, _paddable)
def _pad(node: Node) -> Emitted:
    x, amounts, axes = node.operands[0], node.operands[1].ints(), pad_axes(node)
    table = np.zeros((x.rank, 2), np.int32)
    for i, axis in enumerate(axes):
        table[axis] = amounts[i], amounts[len(axes) + i]
    builtin = pad_builtin(node)
    if builtin == "MIRROR_PAD":
        return Emitted([x, table], {"mode": "REFLECT"}, builtin)
    return Emitted([x, table] if builtin == "PAD" else [x, table, node.operand("value")], {}, builtin)


@row("tfl.broadcast_to", "BROADCAST_TO", _MOVED)
def _broadcast_to(node: Node) -> Emitted:
    return Emitted([node.operands[0], index_operand(node.operands[1])])


def _known_repeats(node: Node) -> str | None:
    return needs_i32(node.operands[1])


@row("tile", "TILE", "f32 f16 i32 i64 i16 u8 i8 bool", _known_repeats)
def _tile(node: Node) -> Emitted:
    return Emitted([node.operands[0], index_operand(node.operands[1])])


@row("tfl.shape", "SHAPE")
def _shape(node: Node) -> Emitted:
    return Emitted(node.operands, {"out_type": "INT32"})


def _one_axis(node: Node) -> str | None:
    return None if len(node.attr("axes")) == 1 else "the kernel turns one axis at a time"


@row("reverse", "REVERSE_V2", _PADDED, _one_axis)
def _reverse(node: Node) -> Emitted:
    return Emitted([node.operands[0], i32(*(a % node.result.rank for a in node.attr("axes")))])


@row("reverse_sequence", "REVERSE_SEQUENCE", "f32 i32 i64 i16 u8")
def _reverse_sequence(node: Node) -> Emitted:
    options = {"seq_dim": node.attr("time_axis"), "batch_dim": node.attr("batch_axis")}
    return Emitted(node.operands, options)


row("range", "RANGE", "f32 i32 i64")(bare)


@row("tfl.fill", "FILL", data=1)
def _fill(node: Node) -> Emitted:
    return Emitted([index_operand(node.operands[0]), node.operands[1]])


@row("tfl.dynamic_update_slice", "DYNAMIC_UPDATE_SLICE", "f32 f16 i32 i64 u8 i8 i16 bool")
def _dynamic_update_slice(node: Node) -> Emitted:
    return Emitted([*node.operands[:2], index_operand(node.operands[2])])
