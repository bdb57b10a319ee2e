"""Gathers and scatters: indices made non-negative, scatters over SCATTER_ND, which starts from zeros and adds."""

from __future__ import annotations

import numpy as np

from ....ir.builder import Builder
from ....ir.types import BOOL, F32, I32, I64
from ....ir.value import Node, Value
from ....passes.decompose.rules import Declined, Outcome
from ..emit.index import never_negative
from . import lowers
from .common import as_i32, dims_of, i32, numbers, shape_vector, static


def counted_from_start(b: Builder, indices: Value, length: Value | int) -> Value:
    """Indices with negative ones counted from the end, as TFLite wants them."""
    if indices.is_const and isinstance(length, int):
        array = indices.array()
        return b.const(np.where(array < 0, array + length, array).astype(array.dtype))
    zero = b.const(np.asarray(0, indices.dtype.numpy))
    size = b.const(np.asarray(length, indices.dtype.numpy)) if isinstance(length, int) else length
    return b.where(b.less(indices, zero), b.add(indices, size), indices)


def _length(b: Builder, x: Value, axis: int, dtype) -> Value | int:
    known = x.shape[axis]
    if isinstance(known, int):
        return known
    size = b.gather(b.call("tfl.shape", (x,)).result, b.const(np.asarray(axis, np.int32)), axis=0)
    return size if dtype is I32 else b.cast(size, to=dtype)


@lowers("gather")
def gather(b: Builder, node: Node) -> Outcome:
    x, indices = node.operands
    if never_negative(indices) or x.rank is None:
        return Declined("")
    length = _length(b, x, node.attr("axis") % x.rank, indices.dtype)
    return b.gather(x, counted_from_start(b, indices, length), axis=node.attr("axis"))


@lowers("gather_nd")
def gather_nd(b: Builder, node: Node) -> Outcome:
    """Each column of the indices has its own axis to count from the end of."""
    x, indices = node.operands
    if node.attr("batch_dims") or never_negative(indices) or x.rank is None:
        return Declined("")
    if type(indices.shape[-1]) is not int:
        return Declined("coordinates of unknown depth")
    return b.gather_nd(x, _coordinates(b, x, indices), batch_dims=0)


def _coordinates(b: Builder, x: Value, indices: Value) -> Value:
    """Coordinates into `x` with negative ones counted from the end of their axis."""
    sizes = x.shape[: numbers(indices.shape[-1:])[0]]
    if never_negative(indices):
        return indices
    if indices.is_const and static(sizes):
        given = indices.array()
        return b.const(np.where(given < 0, given + np.asarray(sizes), given).astype(given.dtype))
    zero = b.const(np.asarray(0, indices.dtype.numpy))
    ends = i32(b, *numbers(sizes)) if static(sizes) else dims_of(b, sizes, x)
    ends = ends if indices.dtype is I32 else b.cast(ends, to=indices.dtype)
    return b.where(b.less(indices, zero), b.add(indices, ends), indices)


@lowers("scatter_nd")
def scatter_nd(b: Builder, node: Node) -> Outcome:
    """none: where(touched, scattered, x); add: x + scattered. Needs the shape of x, at least as computed."""
    x, indices, updates = node.operands
    how = node.attr("reduction")
    if how not in ("none", "add") or x.rank is None:
        return Declined(f"a scatter that reduces by {how}")
    if type(indices.shape[-1]) is not int:
        return Declined("coordinates of unknown depth")
    places = as_i32(b, _coordinates(b, x, indices))
    if how == "none" and not _distinct(places):
        return Declined("coordinates that repeat: SCATTER_ND adds what should replace")
    shape = shape_vector(b, x)
    if x.dtype not in (F32, I32, I64):
        return Declined(f"a scatter of {x.dtype}")
    scattered = b.call("tfl.scatter_nd", (places, updates, shape)).result
    if how == "add":
        return b.add(x, scattered)
    ones = b.const(np.ones((), np.int32))
    hits = b.call("tfl.broadcast_to", (ones, shape_vector(b, updates))).result
    touched = b.call("tfl.scatter_nd", (places, hits, shape)).result
    return b.where(b.not_equal(touched, b.const(np.zeros((), np.int32))), scattered, x)


def _distinct(indices: Value) -> bool:
    """No coordinate occurs twice: ONNX leaves the winner of equal ones open unless they are computed."""
    if not indices.is_const:
        return True  # repeated coordinates without a reduction are undefined in ONNX
    rows = indices.array()
    rows = rows.reshape(-1, rows.shape[-1])
    return len(np.unique(rows, axis=0)) == len(rows)


@lowers("one_hot")
def one_hot(b: Builder, node: Node) -> Outcome:
    indices, depth, values = node.operands
    if depth.ints() is None or not values.is_const:
        return Declined("")
    if indices.dtype not in (I32, I64):
        return b.one_hot(b.cast(indices, to=I64), depth, values, axis=node.attr("axis"))
    count = depth.ints()[0]
    off, on = (b.const(np.asarray(v)) for v in values.array())
    if on.dtype not in (F32, I32, I64, BOOL):
        return Declined("")
    wrapped = indices if never_negative(indices) else counted_from_start(b, indices, count)
    axis = node.attr("axis") % (indices.rank + 1)
    last = -1 if axis == indices.rank else axis
    return b.call("tfl.one_hot", (wrapped, on, off), {"depth": count, "axis": last}).result


@lowers("non_zero")
def non_zero(b: Builder, node: Node) -> Outcome:
    (x,) = node.operands
    if not x.rank:
        return Declined("a scalar")
    return b.transpose(b.call("tfl.where", (x,)).result, perm=(1, 0))
