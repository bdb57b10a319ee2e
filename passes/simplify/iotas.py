"""Counted indices: 0, 1, 2 ... along one axis, as exporters make them for positions and masks. Reading a table at counted
places is a slice of it, reading a tensor at every place of a grid is the tensor itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...ir.dims import Dim, dim_eq, dim_le
from ...ir.graph import Node, Value
from ..optimize.common import producer, same_dims, same_type, small_const
from ..rewrite import StagingBuilder, rule
from .broadcasts import uniform
from .reshapes import regrouped, sources
from .shape_arithmetic import vector_of_dims


class Iota(NamedTuple):
    """0, 1, 2 ... along `axis`, all other axes of size 1; as many as `limit` says, at most `table` where that is a number."""

    axis: int
    length: Dim
    limit: Value
    table: int | None


def iota(value: Value | None) -> Iota | None:
    """What `value` counts; None when it does not."""
    if value is None or not value.shape or value.dtype is None or not value.dtype.is_int:
        return None
    open_axes = [i for i, d in enumerate(value.shape) if d != 1]
    if len(open_axes) != 1:
        return None
    for source in sources(value):
        found = _range(source) or _cut_table(source)
        if found is not None:
            return Iota(open_axes[0], value.shape[open_axes[0]], *found)
    return None


def _range(value: Value) -> tuple[Value, None] | None:
    """The limit of range(0, limit, 1) that is surely not negative."""
    node = producer(value, "range")
    if node is None:
        return None
    start, limit, step = node.operands
    if start.ints() != (0,) or step.ints() != (1,) or not _not_negative(limit):  # type: ignore[union-attr]
        return None
    return limit, None  # type: ignore[return-value]


def _cut_table(value: Value) -> tuple[Value, int] | None:
    """(end, n) of a slice 0:end of a constant that counts 0 ... n - 1."""
    node = producer(value, "slice")
    if node is None or not small_const(node.operands[0]) or node.operand("axes") is None:
        return None
    table, ends, axes = node.operands[0], node.operand("ends"), node.operand("axes").ints()
    steps = node.operand("steps")
    if node.operand("starts").ints() != (0,) or (steps is not None and steps.ints() != (1,)) or not _not_negative(ends):
        return None
    shape = table.shape  # type: ignore[union-attr]
    count = shape[axes[0]] if axes is not None and len(axes) == 1 else None  # type: ignore[index]
    numbers = table.array().reshape(-1)  # type: ignore[union-attr]
    if count is None or numbers.size != count or not np.array_equal(numbers, np.arange(numbers.size)):
        return None
    return ends, numbers.size


def _not_negative(value: Value | None) -> bool:
    elems = value.elems if value is not None else None
    return elems is not None and len(elems) == 1 and elems[0] is not None and dim_le(0, elems[0]) is True


@rule("gather")
def gather_counted(b: StagingBuilder, node: Node):
    """gather(x, range(0, n, 1)) -> slice(x, 0, n)"""
    x, places = node.operands
    counted = iota(places)
    if counted is None or x.shape is None:
        return None
    axis = node.attr("axis") % x.rank
    rows, rank = x.shape[axis], places.rank
    if counted.table is not None and not (isinstance(rows, int) and counted.table <= rows):
        return None
    if rank > 1:
        if x.weight is None or x.n_uses > 1:
            return b.decline("the slice would have to be reshaped")
        unit = tuple(rows if i == counted.axis else 1 for i in range(rank))
        x = b.reshape(x, (*x.shape[:axis], *unit, *x.shape[axis + 1 :]))
    axis += counted.axis
    if counted.table is not None and counted.table < rows:  # type: ignore[operator]
        x = b.slice(x, (0,), (counted.table,), (axis,))
    limit = counted.limit
    bound = b.reshape(limit, (1,)) if limit.rank == 0 else limit
    start, along = (b.const(np.asarray([n], bound.dtype.numpy)) for n in (0, axis))  # type: ignore[union-attr]
    return b.slice(x, start, bound, along)


@rule("gather_nd")
def gather_grid(b: StagingBuilder, node: Node):
    """gather_nd(x, every place of x in order) -> reshape(x)"""
    x, places = node.operands
    joined = producer(places, "concat")
    if joined is None or node.attr("batch_dims") or x.shape is None or places.shape is None:
        return None
    grid = places.shape[:-1]
    if joined.attr("axis") != len(grid) or len(joined.operands) > len(x.shape):
        return None
    axes = [_grid_axis(part, grid, dim) for part, dim in zip(joined.operands, x.shape, strict=False)]
    if None in axes or axes != sorted(set(axes)) or any(d != 1 for i, d in enumerate(grid) if i not in axes):  # type: ignore
        return b.decline("the places are not those of x in order")
    if same_type(x, node.result):
        return x
    found = regrouped(b, x, node.result)
    return None if found is None else found[1].build(b, found[0])


def _grid_axis(part: Value | None, grid: tuple[Dim, ...], size: Dim) -> int | None:
    """The axis of the grid along which `part`, of its shape and one coordinate, counts from 0 to `size`."""
    if part is None or part.shape is None or part.shape[-1:] != (1,):
        return None
    value = next((v for v in sources(part) if same_dims(v.shape, grid)), None)
    widened = producer(value, "expand")
    counted = iota(value if widened is None else widened.operands[0])
    if counted is None or dim_eq(counted.length, size) is not True:
        return None
    inner = value if widened is None else widened.operands[0]
    axis = counted.axis + len(grid) - inner.rank  # type: ignore[union-attr, operator]
    return axis if dim_eq(grid[axis], size) is True else None


@rule("and")
def and_with_truth(b: StagingBuilder, node: Node):
    """and(greater_equal(range(0, n, 1), 0), y), and(expand(true), y) -> expand(y), or y"""
    for truth, y in (node.operands, node.operands[::-1]):
        if always_true(truth):  # type: ignore[arg-type]
            if same_type(y, node.result):  # type: ignore[arg-type]
                return y
            shape = vector_of_dims(b, node, node.result.shape, y)  # type: ignore[arg-type]
            return b.decline("the shape is not at hand") if shape is None else b.expand(y, shape)
    return None


def always_true(value: Value) -> bool:
    """Truth that fills a tensor, or a comparison that holds for counted indices, whatever their number."""
    if value.node is not None and uniform(value) == np.True_:
        return True
    node = producer(value, "greater_equal", "greater")
    if node is None or iota(node.operands[0]) is None:
        return False
    bound = node.operands[1].ints() if small_const(node.operands[1]) else None  # type: ignore[union-attr]
    return bool(bound) and max(bound) <= (0 if node.name == "greater_equal" else -1)  # type: ignore[type-var, operator]


RULES = (gather_counted, gather_grid, and_with_truth)
