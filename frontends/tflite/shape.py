"""Operators that move elements about or count them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.errors import InvalidModel, Unsupported
from ...ir.types import I64
from ...ir.value import Value
from .registry import Call, handles

_FAR = 2**31 - 1


@handles("RESHAPE")
def reshape(c: Call) -> Value:
    """The second operand, or else the option."""
    if c.has(1) and c.operand(1).rank == 1:
        return c.b.reshape(c.x, c.operand(1), allowzero=True)
    shape = c.option("new_shape", None)
    if shape is None:
        raise InvalidModel("RESHAPE without a shape", code="F237")
    return c.b.reshape(c.x, tuple(int(d) for d in shape), allowzero=True)


@handles("DENSIFY")
def densify(c: Call) -> Value:
    """Sparse constants are unpacked as they are read."""
    return c.x


@handles("TRANSPOSE")
def transpose(c: Call) -> Value:
    return c.b.transpose(c.x, perm=c.ints(1))


@handles("CONCATENATION")
def concat(c: Call) -> Value:
    if c.enum("fused_activation_function", "ActivationFunctionType") != "NONE":
        raise Unsupported("CONCATENATION with an activation", code="U237")
    return c.b.concat(*[c.operand(i) for i in range(len(c.operands))], axis=c.option("axis"))


@handles("SPLIT_V")
def split_v(c: Call) -> Sequence[Value]:
    return c.b.call("split", (c.x, c.ints(1)), {"axis": c.ints(2)[0]}).results


@handles("SPLIT")
def split(c: Call) -> Sequence[Value]:
    return c.b.call("split", (c.operand(1),), {"axis": c.ints(0)[0], "num_outputs": c.option("num_splits")}).results


@handles("SLICE")
def slice_(c: Call) -> Value:
    """Begin and size per axis; size -1 reaches the end."""
    begin, size = c.ints(1), c.ints(2)
    ends = tuple(_FAR if s < 0 else b + s for b, s in zip(begin, size, strict=True))
    return c.b.slice(c.x, begin, ends, tuple(range(len(begin))))


@handles("STRIDED_SLICE")
def strided_slice(c: Call) -> Value:
    """Masks for bounds at the edges; new and dropped axes are not read."""
    if c.option("ellipsis_mask") or c.option("new_axis_mask") or c.option("shrink_axis_mask"):
        raise Unsupported("STRIDED_SLICE with new, dropped or implied axes", code="U238")
    begin, end = c.operand(1), c.operand(2)
    strides = c.ints(3)
    if begin.ints() is None or end.ints() is None:
        return c.b.call("tfl.strided_slice", (c.x, begin, end), {"strides": strides}).result
    starts, ends = list(begin.ints()), list(end.ints())
    for axis, stride in enumerate(strides):
        if c.option("begin_mask") >> axis & 1:
            starts[axis] = 0 if stride > 0 else _FAR
        if c.option("end_mask") >> axis & 1:
            ends[axis] = _FAR if stride > 0 else -_FAR - 1
    return c.b.slice(c.x, tuple(starts), tuple(ends), tuple(range(len(strides))), strides)


@handles("PAD", "PADV2", "MIRROR_PAD")
def pad(c: Call) -> Value:
    """[rank, 2] becomes all begins, then all ends."""
    table = c.constant(1)
    pads = tuple(int(p) for p in np.asarray(table).T.reshape(-1))
    if c.builtin == "MIRROR_PAD":
        if c.enum("mode", "MirrorPadMode") != "REFLECT":
            raise Unsupported("MIRROR_PAD that repeats the edge", code="U239")
        return c.b.pad(c.x, pads, mode="reflect")
    return c.b.pad(c.x, pads, c.operand(2) if c.builtin == "PADV2" else None)


@handles("BROADCAST_TO")
def broadcast_to(c: Call) -> Value:
    return c.b.call("tfl.broadcast_to", (c.x, c.operand(1))).result


@handles("TILE")
def tile(c: Call) -> Value:
    return c.b.tile(c.x, c.operand(1))


@handles("SHAPE")
def shape(c: Call) -> Value:
    made = c.b.call("tfl.shape", (c.x,)).result
    return c.b.cast(made, to=I64) if c.result_types()[0].dtype is I64 else made


@handles("SQUEEZE")
def squeeze(c: Call) -> Value:
    axes = c.option("squeeze_dims", None)
    return c.b.squeeze(c.x, tuple(int(a) for a in axes)) if axes is not None and len(axes) else c.b.squeeze(c.x)


@handles("EXPAND_DIMS")
def expand_dims(c: Call) -> Value:
    return c.b.unsqueeze(c.x, c.ints(1))


@handles("REVERSE_V2")
def reverse(c: Call) -> Value:
    return c.b.reverse(c.x, axes=c.ints(1))


@handles("REVERSE_SEQUENCE")
def reverse_sequence(c: Call) -> Value:
    attrs = {"time_axis": c.option("seq_dim"), "batch_axis": c.option("batch_dim")}
    return c.b.reverse_sequence(c.x, c.operand(1), **attrs)


@handles("RANGE")
def range_(c: Call) -> Value:
    return c.b.range(c.x, c.operand(1), c.operand(2))


@handles("FILL")
def fill(c: Call) -> Value:
    return c.b.call("tfl.fill", (c.x, c.operand(1))).result


@handles("DYNAMIC_UPDATE_SLICE")
def dynamic_update_slice(c: Call) -> Value:
    return c.b.call("tfl.dynamic_update_slice", (c.x, c.operand(1), c.operand(2))).result
