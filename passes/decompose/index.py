"""Gathers, scatters and one-hot through each other, with index grids where axes have to be named. Knows no target."""

from __future__ import annotations

import numpy as np

from ...ir.builder import Builder
from ...ir.types import I64
from ...ir.value import Node, Value
from .rules import Declined, decomposes, room, shape_of, sizes


def _as_i64(b: Builder, x: Value) -> Value:
    return x if x.dtype is I64 else b.cast(x, to=I64)


def _line(b: Builder, x: Value, axis: int, rank: int, place: int) -> Value:
    """0 .. dim - 1 of `axis` of `x`, along `place` of a tensor of `rank`."""
    length = x.shape[axis]
    if type(length) is int:
        line = b.const(np.arange(room(length)))
    else:
        line = b.range(0, b.squeeze(b.shape(x, start=axis, end=axis + 1), (0,)), 1)
    return b.reshape(line, tuple(-1 if i == place else 1 for i in range(rank)))


def _grid(b: Builder, indices: Value, axis: int) -> Value:
    """Indices along one axis as full coordinates: [*indices.shape, rank]."""
    rank = indices.rank
    target = shape_of(b, [*sizes(indices), 1])
    columns = []
    for i in range(rank):
        column = b.unsqueeze(_as_i64(b, indices), (rank,)) if i == axis else _line(b, indices, i, rank + 1, i)
        columns.append(column if i == axis else b.expand(column, target))
    return b.concat(*columns, axis=rank)


@decomposes("gather_elements")
def gather_elements(b: Builder, node: Node) -> Value:
    x, indices = node.operands
    return b.gather_nd(x, _grid(b, indices, node.attr("axis") % x.rank))


@decomposes("scatter_elements")
def scatter_elements(b: Builder, node: Node) -> Value:
    x, indices, updates = node.operands
    return b.scatter_nd(x, _grid(b, indices, node.attr("axis") % x.rank), updates, reduction=node.attr("reduction"))


@decomposes("gather_nd")
def gather_nd(b: Builder, node: Node) -> Value | Declined:
    """Batch dims become leading coordinates."""
    x, indices = node.operands
    batch = node.attr("batch_dims")
    if batch == 0:
        return Declined("")
    rank = indices.rank
    lead = shape_of(b, [*sizes(indices, range(rank - 1)), 1])
    columns = [b.expand(_line(b, indices, i, rank, i), lead) for i in range(batch)]
    return b.gather_nd(x, b.concat(*columns, _as_i64(b, indices), axis=rank - 1))


@decomposes("gather")
def gather(b: Builder, node: Node) -> Value | Declined:
    """One known index of a known axis is a slice."""
    x, indices = node.operands
    axis, at = node.attr("axis") % x.rank, indices.ints()
    if at is None or indices.rank != 0:
        return Declined("")
    start = at[0]
    stop = np.iinfo(np.int64).max if start == -1 else start + 1
    return b.squeeze(b.slice(x, (start,), (stop,), (axis,)), (axis,))


@decomposes("one_hot")
def one_hot(b: Builder, node: Node) -> Value | Declined:
    """Positions along a new axis compared with the indices, which count from the end where negative."""
    indices, depth, values = node.operands
    rank = indices.rank + 1
    axis = node.attr("axis") % rank
    length = depth.ints()
    if length is not None:
        line, count = b.const(np.arange(room(max(length[0], 0)))), b.const(np.asarray(length[0]))
    else:
        count = b.reshape(_as_i64(b, depth), ())
        line = b.range(0, count, 1)
    wanted = indices if indices.dtype is I64 else b.cast(indices, to=I64)
    wanted = b.where(b.less(wanted, b.const(np.asarray(0))), b.add(wanted, count), wanted)
    place = b.reshape(line, tuple(-1 if i == axis else 1 for i in range(rank)))
    hit = b.equal(b.unsqueeze(wanted, (axis,)), place)
    off = b.reshape(b.slice(values, (0,), (1,), (0,)), ())
    on = b.reshape(b.slice(values, (1,), (2,), (0,)), ())
    return b.where(hit, on, off)


@decomposes("compress")
def compress(b: Builder, node: Node) -> Value:
    """Gather at the places where the condition holds."""
    x, cond = node.operands
    axis = node.attr("axis")
    if axis is None:
        x, axis = b.reshape(x, (-1,)), 0
    places = b.reshape(b.non_zero(cond), (-1,))
    return b.gather(x, places, axis=axis % x.rank)
