"""Ops that move and count elements: int32 operands, bounds and shapes in the form that TFLite takes."""

from __future__ import annotations

import numpy as np

from ....ir.builder import Builder
from ....ir.ops.shapes import UNBOUNDED, vector_length
from ....ir.types import BOOL, F16, F32, I32, I64, U8
from ....ir.value import Node, Value
from ....passes.decompose.rules import Declined, Outcome
from . import lowers
from .common import as_i32, dims_of, i32, knows_dims, numbers, reshaped, shape_i32, static, target


@lowers("reshape")
def reshape(b: Builder, node: Node) -> Outcome:
    """Zeros that copy a dim become numbers; computed shapes int32."""
    x, shape = node.operands
    if shape.ints() is None and shape.dtype is I32:
        return Declined("")
    dims = node.result.shape
    made = target(dims) if dims is not None else None
    if made is not None:
        same = shape.ints() == made and shape.dtype is I64
        return Declined("") if same else b.reshape(x, made, allowzero=0 in made)
    if dims is not None and x.shape is not None:
        unknown = [i for i, d in enumerate(dims) if not knows_dims((d,), x)]
        if not unknown or (len(unknown) == 1 and 0 not in dims):
            parts = [-1 if i in unknown else d for i, d in enumerate(dims)]
            return b.reshape(x, dims_of(b, parts, x), allowzero=0 in dims)
    if shape.ints() is None and shape.dtype is not I32:
        return b.reshape(x, as_i32(b, shape), allowzero=node.attr("allowzero"))
    return Declined("")


@lowers("squeeze", "unsqueeze", "flatten")
def regroup(b: Builder, node: Node) -> Outcome:
    if node.result.shape is None or not knows_dims(node.result.shape, node.operands[0]):
        return Declined("")
    return reshaped(b, node.operands[0], node.result.shape)


@lowers("transpose")
def transpose(b: Builder, node: Node) -> Outcome:
    x = node.operands[0]
    return x if node.attr("perm") == tuple(range(x.rank)) else Declined("")


@lowers("concat")
def concat(b: Builder, node: Node) -> Outcome:
    return node.operands[0] if len(node.operands) == 1 else Declined("")


@lowers("split")
def split(b: Builder, node: Node) -> Outcome:
    """Slices where the kernel lacks the dtype."""
    axis = node.attr("axis") % node.operands[0].rank
    if node.operands[0].dtype not in (F16, BOOL) or not all(type(v.shape[axis]) is int for v in node.results):
        return Declined("")
    made, start = [], 0
    for value in node.results:
        made.append(b.slice(node.operands[0], (start,), (start + value.shape[axis],), (axis,)))
        start += value.shape[axis]
    return tuple(made)


@lowers("slice")
def slice_(b: Builder, node: Node) -> Outcome:
    """Computed bounds: one int32 begin and end for every axis."""
    x, starts, ends, axes, steps = (*node.operands, None, None)[:5]
    count = vector_length(starts)
    if axes is None and count is None:
        return Declined("a computed number of bounds")
    chosen = tuple(range(count or 0)) if axes is None else axes.ints()
    strides = (1,) * len(chosen or ()) if steps is None else steps.ints()
    if chosen is None or strides is None or x.rank is None or x.rank > 5:
        return Declined("computed axes or steps")
    chosen = tuple(a % x.rank for a in chosen)
    begin = _spread(b, as_i32(b, starts), chosen, x.rank, [0] * x.rank)
    end = _spread(b, as_i32(b, ends), chosen, x.rank, [UNBOUNDED] * x.rank)
    full = [1] * x.rank
    for axis, stride in zip(chosen, strides, strict=True):
        full[axis] = stride
    return b.call("tfl.strided_slice", (x, begin, end), {"strides": tuple(full)}).result


def _spread(b: Builder, bounds: Value, axes: tuple[int, ...], rank: int, defaults: list[int]) -> Value:
    """A vector with bounds[i] at axes[i] and the default elsewhere."""
    if axes == tuple(range(rank)):
        return bounds
    parts = [i32(b, d) for d in defaults]
    for i, axis in enumerate(axes):
        parts[axis] = b.slice(bounds, (i,), (i + 1,), (0,))
    return b.concat(*parts, axis=0)


@lowers("expand")
def expand(b: Builder, node: Node) -> Outcome:
    """BROADCAST_TO the result's shape, or nothing where that is the operand's."""
    x, shape = node.operands
    result = node.result.shape
    if result is not None and x.shape == result:
        return x
    if result is not None and static(result):
        return b.call("tfl.broadcast_to", (x, i32(b, *numbers(result)))).result
    if result is not None and knows_dims(result, x):
        return b.call("tfl.broadcast_to", (x, dims_of(b, result, x))).result
    if x.rank is not None and shape.shape and type(shape.shape[0]) is int:
        # A dim of the target may be 1 where the operand's is not: the larger one is the result's.
        own = b.call("tfl.shape", (x,)).result
        count, wanted = shape.shape[0], as_i32(b, shape)
        if count > x.rank:
            own = b.concat(i32(b, *[1] * (count - x.rank)), own, axis=0)
        elif count < x.rank:
            wanted = b.concat(i32(b, *[1] * (x.rank - count)), wanted, axis=0)
        return b.call("tfl.broadcast_to", (x, b.max(own, wanted))).result
    return Declined("a computed shape of unknown length")


@lowers("tile")
def tile(b: Builder, node: Node) -> Outcome:
    x, repeats = node.operands
    return b.tile(x, as_i32(b, repeats)) if repeats.ints() is None and repeats.dtype is not I32 else Declined("")


@lowers("pad")
def pad(b: Builder, node: Node) -> Outcome:
    """Borders that crop, and edge and reflect borders, go to the shared forms."""
    x, pads = node.operands[:2]
    amounts = pads.ints()
    if amounts is None or node.attr("mode") != "constant" or min(amounts, default=0) >= 0:
        return Declined("")
    axes = node.operand("axes")
    chosen = tuple(range(x.rank)) if axes is None else axes.ints()
    half = len(amounts) // 2
    for i, axis in enumerate(chosen):
        low, high = -min(amounts[i], 0), -min(amounts[half + i], 0)
        if low or high:
            x = b.slice(x, (low,), (-high if high else np.iinfo(np.int64).max,), (axis,))
    grow = tuple(max(a, 0) for a in amounts)
    return b.pad(x, grow, node.operand("value"), axes) if any(grow) else x


@lowers("shape")
def shape(b: Builder, node: Node) -> Value:
    return b.cast(shape_i32(b, node), to=I64)


@lowers("size")
def size(b: Builder, node: Node) -> Value:
    dims = b.call("tfl.shape", (node.operands[0],)).result
    return b.cast(b.reduce_prod(dims, (0,), keepdims=False), to=I64)


@lowers("constant_of_shape")
def constant_of_shape(b: Builder, node: Node) -> Value:
    value = b.const(np.asarray(node.attr("value"), node.attr("to").numpy))
    known = node.operands[0].ints()
    dims = as_i32(b, node.operands[0]) if known is None else i32(b, *known)
    return b.call("tfl.fill", (dims, value)).result


@lowers("range")
def range_(b: Builder, node: Node) -> Outcome:
    """Small integers count in int32."""
    if node.result.dtype.is_int and node.result.dtype not in (I32, I64):
        return b.cast(b.range(*(b.cast(v, to=I32) for v in node.operands)), to=node.result.dtype)
    return Declined("")


@lowers("reverse")
def reverse(b: Builder, node: Node) -> Outcome:
    """One axis at a time."""
    x, axes = node.operands[0], node.attr("axes")
    if len(axes) == 1:
        return Declined("")
    for axis in axes:
        x = b.reverse(x, axes=(axis,))
    return x


@lowers("depth_to_space", "space_to_depth")
def blocks(b: Builder, node: Node) -> Outcome:
    (x,) = node.operands
    if x.dtype is U8 or x.dtype is F32 or not node.attr("channels_last"):
        return Declined("")
    return b.cast(b.call(node.name, (b.cast(x, to=F32),), dict(node.attrs)).result, to=x.dtype)
