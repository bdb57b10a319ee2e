"""Shapes, tuples and movement. Must not import MindSpore."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.value import Value
from .registry import Call, handles


@handles("Shape", 1)
def shape(b: Builder, n: Call) -> tuple[Value, ...]:
    x = n.tensor(0)
    return tuple(b.call("ms.dim", (x,), {"axis": axis}).results[0] for axis in range(n.rank(x)))


@handles("MakeTuple", None)
def make_tuple(b: Builder, n: Call) -> Any:
    return tuple(n.args)


_SCALARS = {
    "ScalarAdd": "add",
    "ScalarSub": "sub",
    "ScalarMul": "mul",
    "ScalarFloorDiv": "div",
    "ScalarMod": "mod",
    "ScalarMax": "max",
    "ScalarMin": "min",
}


def _scalar(b: Builder, n: Call) -> Value:
    parts = [a if isinstance(a, Value) else b.const(np.asarray(n.int(i), np.int64)) for i, a in enumerate(n.args)]
    return b.call("ms.scalar", parts, {"kind": _SCALARS[n.primitive]}).results[0]


for _name in _SCALARS:
    handles(_name, 2)(_scalar)


@handles("TensorToTuple", 1)
def tensor_to_tuple(b: Builder, n: Call) -> Value:
    return b.call("ms.tensor_to_tuple", (n.tensor(0),)).results[0]


@handles("Reshape", 2)
def reshape(b: Builder, n: Call) -> Value:
    return b.reshape(n.tensor(0), n.shape(1), allowzero=True)


@handles("BroadcastTo", 2)
def broadcast_to(b: Builder, n: Call) -> Value:
    return b.expand(n.tensor(0), n.shape(1))


@handles("FillV2", 2)
def fill(b: Builder, n: Call) -> Value:
    value = n.tensor(1)
    if not value.is_const:
        return b.expand(value, n.shape(0))
    return b.constant_of_shape(n.shape(0), value=value.scalar(), to=n.dtype(value))


@handles("Tile", 2)
def tile(b: Builder, n: Call) -> Value:
    return b.tile(n.tensor(0), n.shape(1))


@handles("Transpose", 2)
def transpose(b: Builder, n: Call) -> Value:
    return b.transpose(n.tensor(0), perm=n.ints(1))


@handles("Concat", 2)
def concat(b: Builder, n: Call) -> Value:
    return b.concat(*n.tensors(0), axis=n.int(1))


@handles("Split", 3)
def split(b: Builder, n: Call) -> tuple[Value, ...]:
    made = b.split(n.tensor(0), axis=n.int(1), num_outputs=n.int(2))
    return made if isinstance(made, tuple) else (made,)


@handles("SplitWithSize", 3)
def split_with_size(b: Builder, n: Call) -> tuple[Value, ...]:
    made = b.split(n.tensor(0), n.ints(1), axis=n.int(2))
    return made if isinstance(made, tuple) else (made,)


@handles("StridedSlice", 9)
def strided_slice(b: Builder, n: Call) -> Value:
    if any(n.int(i) for i in range(4, 9)):
        raise n.wrong("masks are not read")
    x, strides = n.tensor(0), n.ints(3)
    axes = tuple(range(len(strides)))
    begin, end = n.shape(1), n.shape(2)
    return b.slice(x, begin, end, axes, strides)


@handles("Squeeze", 2)
def squeeze(b: Builder, n: Call) -> Value:
    return b.squeeze(n.tensor(0), n.ints(1))


@handles("ExpandDims", 2)
def expand_dims(b: Builder, n: Call) -> Value:
    return b.unsqueeze(n.tensor(0), (n.int(1),))


@handles("ReverseV2", 2)
def reverse(b: Builder, n: Call) -> Value:
    return b.reverse(n.tensor(0), axes=n.ints(1))


@handles("PadV3", 3)
def pad(b: Builder, n: Call) -> Value:
    """Pads are begin and end of the last axis first."""
    if n.attr("mode", str) != "constant" or n.attr("paddings_contiguous", bool) is not True:
        raise n.wrong("only constant, contiguous padding is read")
    flat, x = n.ints(1), n.tensor(0)
    count = len(flat) // 2
    if len(flat) % 2 or count > n.rank(x):
        raise n.wrong(f"{len(flat)} pads for rank {n.rank(x)}")
    begins, ends = flat[0::2][::-1], flat[1::2][::-1]
    axes = tuple(range(n.rank(x) - count, n.rank(x)))
    return b.pad(x, (*begins, *ends), n.tensor(2), axes, mode="constant")


@handles("DepthToSpace", 1)
def depth_to_space(b: Builder, n: Call) -> Value:
    return b.depth_to_space(n.tensor(0), blocksize=n.attr("block_size", int), mode="DCR")


@handles("SpaceToDepth", 1)
def space_to_depth(b: Builder, n: Call) -> Value:
    return b.space_to_depth(n.tensor(0), blocksize=n.attr("block_size", int))


@handles("Tril", 1)
def tril(b: Builder, n: Call) -> Value:
    return b.trilu(n.tensor(0), b.const(np.asarray(n.attr("diagonal", int), np.int64)), upper=False)


@handles("Triu", 2)
def triu(b: Builder, n: Call) -> Value:
    return b.trilu(n.tensor(0), b.const(np.asarray(n.int(1), np.int64)), upper=True)


@handles("Range", 4)
def range_(b: Builder, n: Call) -> Value:
    """Bounds are tensors, or scalars of one kind."""
    bounds = []
    for i, arg in enumerate(n.args[:3]):
        if type(arg) in (int, float):
            bounds.append(b.const(np.asarray(arg, np.int64 if type(arg) is int else np.float32)))
        else:
            bounds.append(n.tensor(i))
    return b.range(*bounds)
