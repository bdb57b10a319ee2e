"""Gather, scatter, one-hot, non-zero, compress, unique. Indices count from the end when negative; out of range is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..dims import Dim, Expr, dim_eq, dim_lt
from ..errors import TypeInferError
from ..opdef import (
    MOVEMENT,
    PURE,
    SAME_QUANT,
    Axis,
    AxisMap,
    DtypeVar,
    Known,
    OpDef,
    Sample,
    attr,
    op,
    operand,
    optional,
)
from ..types import BOOL, C64, C128, F32, I32, I64, INDEX, TensorType
from .rules import agree, passing, show
from .sampling import draw, i64
from .shapes import NUMBERS, elem_array, elem_count, fresh_shape, known, moved_elems, norm_axis, object_array

T = DtypeVar("T")
MOVES = PURE | MOVEMENT | SAME_QUANT
REDUCTIONS = ("none", "add", "mul", "max", "min")


def _check_range(indices: Any, size: Dim) -> None:
    """Raises TypeInferError when a known index surely lies outside [-size, size)."""
    numbers = [e for e in indices.elems or () if type(e) is int]
    if type(size) is int and any(not -size <= e < size for e in numbers):
        worst = next(e for e in numbers if not -size <= e < size)
        raise TypeInferError(f"index {worst} is out of range for an axis of {size}")


def _numbers(indices: Any) -> np.ndarray | None:
    """Indices that are all known, as an int64 array of their shape."""
    if indices.ints() is None:
        return None
    array = elem_array(indices)
    return None if array is None else array.astype(np.int64)


@op
class Gather(OpDef):
    """Slices of x along `axis`: x.shape[:axis] + indices.shape + x.shape[axis + 1:]."""

    x = operand(T)
    indices = operand(INDEX)
    axis = attr(int, 0)
    traits = MOVES
    reads_elems = True

    def infer(self, x, indices, *, axis):
        if x.shape is None or indices.shape is None:
            return TensorType(x.dtype, None)
        along = norm_axis(axis, x.rank)
        _check_range(indices, x.shape[along])
        type_ = TensorType(x.dtype, (*x.shape[:along], *indices.shape, *x.shape[along + 1 :]))
        at = _numbers(indices) if x.elems is not None else None
        return Known(type_) if at is None else moved_elems(type_, [x], lambda a: np.take(a, at, axis=along))

    def axes(self, x, indices, *, axis):
        if x.rank is None or indices.rank is None:
            return None
        along = axis % x.rank
        row = passing(x.rank, (along,))
        inner = tuple(Axis(f"i{i}") for i in range(indices.rank))
        return AxisMap((row, inner), ((*row[:along], *inner, *row[along + 1 :]),))

    def samples(self, rng):
        x = draw(rng, (5, 3, 2))
        yield Sample((x, i64(0, -1, 4)))
        yield Sample((x, np.array([[2, -3]], np.int32)), {"axis": 1})
        yield Sample((x, np.asarray(1, np.int64)), {"axis": -1})
        yield Sample((x, np.empty((0, 2), np.int64)), {"axis": 0})
        yield Sample((draw(rng, (4,), BOOL), i64(3, 3)))
        yield Sample((i64(7, 8, 9), np.asarray(-2, np.int64)), {}, ("indices",))


def _same_rank(x: Any, indices: Any, axis: int) -> int | None:
    """The axis of an element-wise gather or scatter, checked; None when a rank is unknown."""
    if x.rank is None or indices.rank is None:
        return None
    if x.rank != indices.rank or x.rank == 0:
        raise TypeInferError(f"data {x.type} and indices {indices.type} must have one rank, at least 1")
    along = norm_axis(axis, x.rank)
    for i, (have, want) in enumerate(zip(x.shape, indices.shape, strict=True)):
        if i != along and dim_lt(have, want):
            raise TypeInferError(f"indices reach {want} on axis {i} of {x.type}")
    _check_range(indices, x.shape[along])
    return along


@op
class GatherElements(OpDef):
    """One element per index: for axis 0, y[i, j] = x[indices[i, j], j]."""

    x = operand(T)
    indices = operand(INDEX)
    axis = attr(int, 0)
    traits = MOVES
    reads_elems = True

    def infer(self, x, indices, *, axis):
        _same_rank(x, indices, axis)
        return TensorType(x.dtype, indices.shape)

    def samples(self, rng):
        x = draw(rng, (3, 4))
        yield Sample((x, rng.integers(-3, 3, (2, 4))))
        yield Sample((x, rng.integers(-4, 4, (3, 6)).astype(np.int32)), {"axis": 1})
        yield Sample((draw(rng, (5,), I32), i64(-1, 0, 4)), {"axis": -1})
        yield Sample((x, np.empty((0, 4), np.int64)))


@op
class GatherNd(OpDef):
    """The last axis of `indices` holds coordinates into x after `batch_dims` leading axes that both share."""

    x = operand(T)
    indices = operand(INDEX)
    batch_dims = attr(int, 0)
    traits = MOVES
    reads_elems = True

    def infer(self, x, indices, *, batch_dims):
        if x.shape is None or indices.shape is None:
            return TensorType(x.dtype, None)
        if not 0 <= batch_dims < min(x.rank, indices.rank):
            raise TypeInferError(f"batch_dims {batch_dims} for {x.type} and {indices.type}")
        depth = indices.shape[-1]
        batch = [
            agree(a, b, "batch dims") for a, b in zip(x.shape[:batch_dims], indices.shape[:batch_dims], strict=True)
        ]
        if type(depth) is not int:
            return TensorType(x.dtype, None)
        if not 1 <= depth <= x.rank - batch_dims:
            raise TypeInferError(f"{depth} coordinates into {x.rank - batch_dims} axes")
        shape = (*batch, *indices.shape[batch_dims:-1], *x.shape[batch_dims + depth :])
        at = _numbers(indices) if batch_dims == 0 and x.elems is not None else None
        if at is None:
            return TensorType(x.dtype, shape)
        return moved_elems(TensorType(x.dtype, shape), [x], lambda a: a[tuple(np.moveaxis(at, -1, 0))])

    def samples(self, rng):
        x = draw(rng, (2, 3, 4))
        yield Sample((x, np.array([[0, -1], [1, 2]], np.int64)))
        yield Sample((x, np.array([[[1, 2, 3]], [[0, 0, -4]]], np.int64)))
        yield Sample((x, np.array([[1], [-3]], np.int64)), {"batch_dims": 1})
        yield Sample((x, np.empty((0, 2), np.int64)))
        yield Sample((draw(rng, (5,), I32), np.array([[2], [2]], np.int64)))


class Scatter(OpDef):
    """Base: x with `updates` put (reduction none: the last of several wins) or reduced at `indices`."""

    x = operand(T)
    indices = operand(INDEX)
    updates = operand(T)
    reads_elems = True

    def _reducible(self, x: Any, reduction: str) -> None:
        complexes = {C64, C128} if reduction in ("add", "mul") else set()
        if reduction != "none" and x.dtype is not None and x.dtype not in NUMBERS | {BOOL} | complexes:
            raise TypeInferError(f"reduction {reduction} of {x.dtype}")

    def _moved(self, x: Any, updates: Any, reduction: str, index: Callable[[], Any] | None) -> Known:
        """Known elements where x is small, all indices are known and nothing is reduced."""
        if reduction != "none" or index is None or (x.elems is None and updates.elems is None):
            return Known(x.type)

        def move(data: np.ndarray, values: np.ndarray) -> np.ndarray:
            made = object_array(list(data.reshape(-1)), data.shape)
            made[index()] = values
            return made

        return moved_elems(x.type, [x, updates], move)


@op
class ScatterElements(Scatter):
    """The inverse of gather_elements: for axis 0, updates[i, j] goes to [indices[i, j], j]."""

    axis = attr(int, 0)
    reduction = attr(str, "none", choices=REDUCTIONS)

    def infer(self, x, indices, updates, *, axis, reduction):
        self._reducible(x, reduction)
        along = _same_rank(x, indices, axis)
        if updates.shape is not None and indices.shape is not None:
            if len(updates.shape) != len(indices.shape):
                raise TypeInferError(f"updates {updates.type} for indices {indices.type}")
            for a, b in zip(updates.shape, indices.shape, strict=True):
                agree(a, b, "dims of updates and indices")
        at = _numbers(indices)
        if at is None or along is None:
            return Known(x.type)

        def index() -> tuple:
            grid = list(np.ogrid[tuple(slice(0, d) for d in at.shape)])
            grid[along] = at
            return tuple(grid)

        return self._moved(x, updates, reduction, index)

    def samples(self, rng):
        for reduction in REDUCTIONS:
            unique = np.stack([rng.permutation(5)[:2] - 5 * (i % 2) for i in range(3)], axis=1)
            where = unique if reduction == "none" else rng.integers(-5, 5, (4, 3))
            for dtype in (F32, I32):
                yield Sample((draw(rng, (5, 3), dtype), where, draw(rng, where.shape, dtype)), {"reduction": reduction})
        yield Sample((draw(rng, (2, 4)), np.array([[3], [-4]], np.int32), draw(rng, (2, 1))), {"axis": -1})


@op
class ScatterNd(Scatter):
    """Slices `updates` go to the coordinates in the last axis of `indices`."""

    reduction = attr(str, "none", choices=REDUCTIONS)

    def infer(self, x, indices, updates, *, reduction):
        self._reducible(x, reduction)
        if x.shape is None or indices.shape is None:
            return x.type
        depth = indices.shape[-1] if indices.shape else None
        if type(depth) is not int:
            return x.type
        if depth > x.rank:
            raise TypeInferError(f"{depth} coordinates into {x.type}")
        wanted = (*indices.shape[:-1], *x.shape[depth:])
        if updates.shape is not None:
            if len(updates.shape) != len(wanted):
                raise TypeInferError(f"updates {updates.type}, expected shape {show(wanted)}")
            for a, b in zip(updates.shape, wanted, strict=True):
                agree(a, b, f"updates {updates.type}, expected shape {show(wanted)}")
        at = _numbers(indices)
        return self._moved(x, updates, reduction, None if at is None else lambda: tuple(np.moveaxis(at, -1, 0)))

    def samples(self, rng):
        x = draw(rng, (4, 3, 2))
        for reduction in REDUCTIONS:
            yield Sample((x, np.array([[1], [-1]], np.int64), draw(rng, (2, 3, 2))), {"reduction": reduction})
        twice = np.array([[1, 2], [1, 2], [-1, 0]], np.int64)
        yield Sample((draw(rng, (4, 3, 2), I32), twice, draw(rng, (3, 2), I32)), {"reduction": "add"})
        yield Sample((i64(1, 2, 3), np.array([[0]], np.int64), i64(9)), {}, ("indices",))


@op
class OneHot(OpDef):
    """A new axis of size `depth`: values[1] at the index, values[0] elsewhere; out of range: values[0] throughout."""

    indices = operand(DtypeVar("I", NUMBERS))
    depth = operand(DtypeVar("D", NUMBERS))
    values = operand(T)
    axis = attr(int, -1)
    reads_elems = True

    def infer(self, indices, depth, values, *, axis):
        if values.shape is not None and (values.rank != 1 or dim_eq(values.shape[0], 2) is False):
            raise TypeInferError(f"values is {values.type}, expected [off, on]")
        if indices.shape is None:
            return TensorType(values.dtype, None)
        place = norm_axis(axis, indices.rank + 1)
        shape = list(indices.shape)
        shape.insert(place, self._depth(depth))
        return TensorType(values.dtype, shape)

    @staticmethod
    def _depth(depth: Any) -> Dim:
        number = depth.scalar()
        found = depth.elems[0] if depth.elems else None if number is None else int(number)
        if found is not None and dim_lt(found, 0):
            raise TypeInferError(f"depth {found}")
        return Expr.fresh() if found is None else found

    def axes(self, indices, depth, values, *, axis):
        if indices.rank is None:
            return None
        row = tuple(Axis(f"i{i}") for i in range(indices.rank))
        place = axis % (indices.rank + 1)
        return AxisMap((row, (None,) * (depth.rank or 0), (None,)), ((*row[:place], None, *row[place:]),))

    def samples(self, rng):
        pair = np.array([0.0, 1.0], np.float32)
        for axis in (-1, 0, 1):
            where = rng.integers(-6, 6, (2, 3))
            yield Sample((where, np.asarray(4, np.int64), pair), {"axis": axis}, ("depth",))
        yield Sample((np.array([0.0, 2.0], np.float32), np.array([3.0], np.float32), i64(5, -5)), {}, ("depth",))
        yield Sample((np.asarray(1, np.int32), np.asarray(3, np.int32), pair), {}, ("depth",))
        yield Sample((np.array([1, 200], np.uint8), np.asarray(4, np.int64), pair), {}, ("depth",))


@op
class NonZero(OpDef):
    """i64[rank, count]: coordinates of the elements that are not zero, in row-major order."""

    x = operand(DtypeVar("T"))
    reads_elems = True

    def infer(self, x):
        if x.rank is None:
            return TensorType(I64, fresh_shape(2))
        array = elem_array(x)
        if array is None or x.ints() is None:
            return TensorType(I64, (x.rank, Expr.fresh()))
        found = np.array(np.nonzero(np.atleast_1d(array)), dtype=np.int64)[: x.rank]
        type_ = TensorType(I64, found.shape)
        return known(type_, [int(v) for v in found.reshape(-1)] if elem_count(type_) is not None else None)

    def samples(self, rng):
        for shape in ((5,), (2, 3), (2, 1, 3), (0, 3)):
            yield Sample((draw(rng, shape, I32, 0, 1),))
        yield Sample((draw(rng, (3, 3), BOOL),))


@op
class Compress(OpDef):
    """The slices along `axis` (of x flattened, if None) where `cond` is true."""

    x = operand(T)
    cond = operand(frozenset({BOOL}))
    axis = attr(int, None)
    traits = MOVES
    reads_elems = True

    def infer(self, x, cond, *, axis):
        if cond.rank not in (None, 1):
            raise TypeInferError(f"condition {cond.type} is no vector")
        flags = cond.ints()
        count = Expr.fresh() if flags is None else sum(flags)
        if axis is None:
            return TensorType(x.dtype, (count,))
        if x.shape is None:
            return TensorType(x.dtype, None)
        along = norm_axis(axis, x.rank)
        return TensorType(x.dtype, (*x.shape[:along], count, *x.shape[along + 1 :]))

    def axes(self, x, cond, *, axis):
        if x.rank is None or axis is None:
            return None
        row = passing(x.rank, (axis,))
        return AxisMap((row, (None,)), (row,))

    def samples(self, rng):
        x = draw(rng, (3, 4))
        yield Sample((x, np.array([True, False, True])), {"axis": 0}, ("cond",))
        yield Sample((x, np.array([False, True])), {"axis": 1}, ("cond",))
        yield Sample((x, draw(rng, (12,), BOOL)), {}, ("cond",))
        yield Sample((draw(rng, (4,), I64), np.zeros(4, bool)), {"axis": 0}, ("cond",))


@op
class Unique(OpDef):
    """The distinct elements of x flattened, or with `axis` its distinct slices: y, and as i64 the place of each one's
    first occurrence in x, for each of x its place in y, and how often each occurs (ONNX Unique-28).

    In ascending order (slices lexicographically, NaN last and equal to itself) if `sorted`, else as they first occur.
    """

    x = operand(T)
    axis = attr(int, None)
    sorted_ = attr(bool, True)
    results = ("y", "indices", "inverse", "counts")
    reads_elems = True

    def infer(self, x, *, axis, sorted):
        found = TensorType(I64, (Expr.fresh(),))
        if x.shape is None:
            y = TensorType(x.dtype, found.shape if axis is None else None)
            return [y, found, TensorType(I64, fresh_shape(1)), found]
        count = found.shape[0]
        if axis is None:
            return [TensorType(x.dtype, (count,)), found, TensorType(I64, (x.type.numel,)), found]
        along = norm_axis(axis, x.rank)
        shape = (*x.shape[:along], count, *x.shape[along + 1 :])
        return [TensorType(x.dtype, shape), found, TensorType(I64, (x.shape[along],)), found]

    def samples(self, rng):
        x = rng.integers(0, 3, (4, 2)).astype(np.float32)
        yield Sample((x,))
        yield Sample((x,), {"sorted": False})
        yield Sample((x,), {"axis": 0})
        yield Sample((x,), {"axis": -1, "sorted": False})
        yield Sample((rng.integers(-2, 2, (3, 1, 4)),), {"axis": 2})
        yield Sample((np.asarray(5, np.int32),))


@op
class TensorScatter(OpDef):
    """A cache with `update` written along `axis` from write_indices [batch] (0) on: past [B, ..., M, ...], update the
    same but for M, of which it has at most as many. Mode circular wraps around (ONNX TensorScatter-24)."""

    past = operand(T)
    update = operand(T)
    write_indices = optional(INDEX)
    axis = attr(int, -2)
    mode = attr(str, "linear", choices=("linear", "circular"))
    traits = MOVES

    def infer(self, past, update, write_indices, *, axis, mode):
        if write_indices is not None and write_indices.rank not in (None, 1):
            raise TypeInferError(f"write_indices {write_indices.type} is no vector")
        if past.shape is None or update.shape is None:
            return past.type
        if past.rank != update.rank or norm_axis(axis, past.rank) == 0:
            raise TypeInferError(f"{update.type} cannot be written into {past.type} along axis {axis}")
        along = norm_axis(axis, past.rank)
        for i, (have, want) in enumerate(zip(past.shape, update.shape, strict=True)):
            if (i == along and dim_lt(have, want) is True) or (i != along and dim_eq(have, want) is False):
                raise TypeInferError(f"{update.type} does not fit {past.type} on axis {i}")
        if write_indices is not None and write_indices.shape is not None:
            agree(write_indices.shape[0], past.shape[0], "write indices and batch")
        return past.type

    def axes(self, past, update, write_indices, *, axis, mode):
        if past.rank is None or past.rank != update.rank:
            return None
        row = passing(past.rank, (0, axis))
        return AxisMap((row, row, None if write_indices is None else (None,)), (row,))

    def samples(self, rng):
        past, update = draw(rng, (2, 3, 5, 2)), draw(rng, (2, 3, 2, 2))
        yield Sample((past, update, None))
        yield Sample((past, update, i64(3, 0)))
        yield Sample((past, update, i64(4, 7)), {"mode": "circular"})
        yield Sample((draw(rng, (2, 4)), draw(rng, (2, 1)), i64(1, 2)), {"axis": 1})
