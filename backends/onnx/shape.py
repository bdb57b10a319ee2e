"""Ops that move, cut, join and measure. Shape-like operands are attributes in older opsets: then they must be known."""

from __future__ import annotations

import numpy as np

from ...formats.onnx import dtypes
from ...ir.graph import Node, Value
from ...ir.tensor import as_tensor
from ...ir.types import I64
from .emitter import Emitter, Literal, Temp
from .registry import emits


def as_i64(e: Emitter, value: Value | None) -> Value | Temp | None:
    """ONNX wants i64 where the IR takes i32 as well."""
    if value is None or value.dtype is I64:
        return value
    known = value.ints()
    if known is not None:
        return Literal(np.asarray(known, np.int64).reshape(value.array().shape if value.is_const else (-1,)), I64)  # type: ignore[return-value]
    return e.temp("Cast", [value], I64, to=7)


def operands(n: Node, count: int) -> tuple:
    return (*n.operands, *([None] * count))[:count]


@emits("reshape")
def reshape(e: Emitter, n: Node) -> None:
    x, shape = n.operands
    if n.attr("allowzero"):
        known = shape.ints()  # type: ignore[union-attr]
        if known is None or 0 in known:
            e.needs(14, "allowzero")
            e.node("Reshape", [x, as_i64(e, shape)], allowzero=1)
            return
    e.node("Reshape", [x, as_i64(e, shape)])


@emits("transpose")
def transpose(e: Emitter, n: Node) -> None:
    e.node("Transpose", n.operands, perm=n.attr("perm"))


@emits("concat")
def concat(e: Emitter, n: Node) -> None:
    e.node("Concat", n.operands, axis=n.attr("axis"))


@emits("split")
def split(e: Emitter, n: Node) -> None:
    """Equal parts need no sizes; unequal ones from `num_outputs` alone only since opset 18."""
    x, sizes = operands(n, 2)
    axis = n.attr("axis")
    if sizes is not None:
        e.node("Split", [x, as_i64(e, sizes)], axis=axis)
        return
    count = len(n.results)
    if e.opset >= 18:
        e.node("Split", [x], axis=axis, num_outputs=count)
        return
    parts = [v.shape[axis] if v.shape else None for v in n.results]
    if all(type(p) is int for p in parts):
        e.node("Split", [x, e.ints(parts)], axis=axis)  # type: ignore[arg-type]
        return
    e.needs(18, "a split into parts of unknown size")


@emits("slice")
def slice_(e: Emitter, n: Node) -> None:
    """ONNX wants one index type for all bounds."""
    x, *bounds = n.operands
    if len({v.dtype for v in bounds if v is not None}) > 1:
        bounds = [as_i64(e, v) for v in bounds]  # type: ignore[misc]
    e.node("Slice", [x, *bounds])


@emits("pad", since=18)
def pad(e: Emitter, n: Node) -> None:
    x, pads, value, axes = operands(n, 4)
    if n.attr("mode") == "wrap":
        e.needs(19, "pad mode wrap")
    e.node("Pad", [x, as_i64(e, pads), value, axes], mode=n.attr("mode"))


@emits("pad", since=11)
def pad_all_axes(e: Emitter, n: Node) -> None:
    """Before opset 18 pads cover all axes."""
    x, pads, value, axes = operands(n, 4)
    if n.attr("mode") == "wrap":
        e.needs(19, "pad mode wrap")
    if axes is None:
        e.node("Pad", [x, as_i64(e, pads), value], mode=n.attr("mode"))
        return
    known, at = e.known(pads, "pads", 18), e.known(axes, "axes", 18)
    if x.rank is None:
        e.needs(18, "pads of some axes of an unknown rank")
    wide = [0] * (2 * x.rank)
    for i, axis in enumerate(at):  # type: ignore[arg-type]
        wide[axis % x.rank], wide[x.rank + axis % x.rank] = known[i], known[len(at) + i]  # type: ignore[index, arg-type]
    e.node("Pad", [x, e.ints(wide), value], mode=n.attr("mode"))


@emits("squeeze", "unsqueeze", since=13)
def squeeze(e: Emitter, n: Node) -> None:
    x, axes = operands(n, 2)
    e.node("Squeeze" if n.name == "squeeze" else "Unsqueeze", [x, as_i64(e, axes)])


@emits("expand")
def expand(e: Emitter, n: Node) -> None:
    e.node("Expand", [n.operands[0], as_i64(e, n.operands[1])])


@emits("tile")
def tile(e: Emitter, n: Node) -> None:
    e.node("Tile", [n.operands[0], as_i64(e, n.operands[1])])


@emits("flatten")
def flatten(e: Emitter, n: Node) -> None:
    e.node("Flatten", n.operands, axis=n.attr("axis"))


@emits("shape", since=15)
def shape(e: Emitter, n: Node) -> None:
    e.node("Shape", n.operands, start=n.attr("start") or None, end=n.attr("end"))


@emits("shape")
def shape_then_slice(e: Emitter, n: Node) -> None:
    """`start` and `end` came with opset 15."""
    start, end = n.attr("start"), n.attr("end")
    if not start and end is None:
        e.node("Shape", n.operands)
        return
    whole = e.temp("Shape", n.operands, I64)
    last = np.iinfo(np.int64).max if end is None else end
    e.node("Slice", [whole, e.ints((start,)), e.ints((last,))])


@emits("size")
def size(e: Emitter, n: Node) -> None:
    e.node("Size", n.operands)


@emits("range")
def range_(e: Emitter, n: Node) -> None:
    e.node("Range", n.operands)


@emits("constant_of_shape")
def constant_of_shape(e: Emitter, n: Node) -> None:
    value = as_tensor(np.asarray([n.attr("value")]).astype(n.attr("to").numpy), n.attr("to"))
    e.node("ConstantOfShape", [as_i64(e, n.operands[0])], value=value)


@emits("depth_to_space")
def depth_to_space(e: Emitter, n: Node) -> None:
    if n.attr("channels_last"):
        raise e.refuse("ONNX has channels first only")
    e.node("DepthToSpace", n.operands, blocksize=n.attr("blocksize"), mode=n.attr("mode"))


@emits("space_to_depth")
def space_to_depth(e: Emitter, n: Node) -> None:
    if n.attr("channels_last"):
        raise e.refuse("ONNX has channels first only")
    if n.attr("mode") != "DCR":
        e.needs(28, "space_to_depth in mode CRD")
    e.node("SpaceToDepth", n.operands, blocksize=n.attr("blocksize"), mode="CRD" if n.attr("mode") == "CRD" else None)


@emits("trilu", since=14)
def trilu(e: Emitter, n: Node) -> None:
    x, k = operands(n, 2)
    e.node("Trilu", [x, as_i64(e, k)], upper=int(n.attr("upper")))


@emits("eye_like")
def eye_like(e: Emitter, n: Node) -> None:
    dtype = n.attr("dtype")
    e.node("EyeLike", n.operands, k=n.attr("k"), dtype=None if dtype is None else dtypes.TO_CODE[dtype])


@emits("reverse")
def reverse(e: Emitter, n: Node) -> None:
    """A slice with steps of -1."""
    axes = n.attr("axes")
    least = np.iinfo(np.int64).min
    ones = (-1,) * len(axes)
    e.node("Slice", [n.operands[0], e.ints(ones), e.ints((least,) * len(axes)), e.ints(axes), e.ints(ones)])


@emits("reverse_sequence")
def reverse_sequence(e: Emitter, n: Node) -> None:
    x, lens = n.operands
    e.node("ReverseSequence", [x, as_i64(e, lens)], batch_axis=n.attr("batch_axis"), time_axis=n.attr("time_axis"))
