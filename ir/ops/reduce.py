"""Reductions, arg-reductions, running sums and top-k. Axes are operands, as in newest ONNX."""

from __future__ import annotations

import functools
import operator
from typing import Any, ClassVar

import numpy as np

from ..dims import Dim, dim_lt, dim_max, dim_min
from ..errors import TypeInferError
from ..opdef import PURE, SAME_QUANT, Axis, AxisMap, DtypeVar, Known, OpDef, Sample, attr, op, operand, optional
from ..types import BOOL, F16, F32, F64, I32, I64, INDEX, U8, DType, TensorType
from . import shapes
from .rules import passing
from .sampling import draw, i64
from .shapes import FLOATS, INTS, NUMBERS, norm_axes, norm_axis

REDUCIBLE = DtypeVar("T", FLOATS | INTS)
ORDERED = DtypeVar("T", NUMBERS | {BOOL})
NUMBER = DtypeVar("T", NUMBERS)
BOOLEAN = DtypeVar("T", frozenset({BOOL}))


def _axes_of(x: Any, axes: Any, noop_with_empty_axes: bool) -> tuple[int, ...] | None:
    """Non-negative reduced axes; None when they, or the rank, are unknown."""
    if x.rank is None:
        return None
    given = () if axes is None else shapes.operand_ints(axes)
    if given is None:
        return None
    if not given:
        return () if noop_with_empty_axes else tuple(range(x.rank))
    return norm_axes(given, x.rank)


class Reduce(OpDef):
    """Base: reduces `axes` (all when absent or empty, none if `noop_with_empty_axes`); the dtype stays."""

    x = operand(REDUCIBLE)
    axes_ = optional(INDEX)
    keepdims = attr(bool, True)
    noop_with_empty_axes = attr(bool, False)
    reads_elems = True
    dtypes: ClassVar[tuple[DType, ...]] = (F32, F64, I32)
    domain: ClassVar[tuple[float, float]] = (-4.0, 4.0)
    #: The reduction adds elements that count for nothing when zero: axes may be permuted and zero slices dropped.
    zero_is_neutral: ClassVar[bool] = False
    #: How two known elements become one, where shape arithmetic needs it.
    join: ClassVar[Any] = None

    def infer(self, x, axes, *, keepdims, noop_with_empty_axes):
        over = _axes_of(x, axes, noop_with_empty_axes)
        if over is None:
            return TensorType(x.dtype, self._unknown(x, axes, keepdims))
        kept = [1 if i in over else d for i, d in enumerate(x.shape) if keepdims or i not in over]
        return self._elems(TensorType(x.dtype, kept), x, over)

    def _unknown(self, x: Any, axes: Any, keepdims: bool) -> tuple[Dim, ...] | None:
        """The rank is known where dims are kept, or where the number of axes is."""
        if x.rank is None:
            return None
        count = axes.shape[0] if axes is not None and axes.rank == 1 else None
        if keepdims:
            return shapes.fresh_shape(x.rank)
        return shapes.fresh_shape(x.rank - count) if type(count) is int and 0 < count <= x.rank else None

    def _elems(self, type_: TensorType, x: Any, over: tuple[int, ...]) -> Known:
        join = type(self).join
        if join is None or x.elems is None or any(e is None for e in x.elems):
            return Known(type_)

        def move(array: np.ndarray) -> np.ndarray:
            rows = np.moveaxis(array, over, range(array.ndim - len(over), array.ndim))
            size = int(np.prod([array.shape[a] for a in over], dtype=np.int64))
            rows = rows.reshape(-1, size) if size else np.empty((0, 1), object)
            return shapes.object_array([functools.reduce(join, row) for row in rows], (len(rows),))

        if 0 in x.shape:
            return Known(type_)
        return shapes.moved_elems(type_, [x], move)

    def axes(self, x, axes, *, keepdims, noop_with_empty_axes):
        over = _axes_of(x, axes, noop_with_empty_axes)
        if over is None:
            return None
        reduced = "contract" if self.zero_is_neutral else None
        source = tuple(
            (Axis(f"d{i}", reduced) if reduced else None) if i in over else Axis(f"d{i}") for i in range(x.rank)
        )
        result = tuple(None if i in over else Axis(f"d{i}") for i in range(x.rank) if keepdims or i not in over)
        pinned = None if axes is None else (None,) * (axes.rank or 0)
        return AxisMap((source, pinned), (result,))

    def samples(self, rng):
        low, high = self.domain
        for dtype in self.dtypes:
            x = draw(rng, (2, 3, 4), dtype, low, high)
            yield Sample((x, i64(1)), {}, ("axes",))
            yield Sample((x, i64(-1, 0)), {"keepdims": False}, ("axes",))
            yield Sample((x,), {"keepdims": False})
        yield Sample((draw(rng, (2, 3), F32, low, high),), {"noop_with_empty_axes": True})
        yield Sample((draw(rng, (), F32, low, high),))
        yield Sample((draw(rng, (3, 1, 5), F16, low, high), i64(0, 1)), {}, ("axes",))


def _empty_samples(self: Reduce, rng: np.random.Generator) -> Any:
    yield from Reduce.samples(self, rng)
    yield Sample((draw(rng, (2, 0, 3), self.dtypes[0]), i64(1)), {"keepdims": False}, ("axes",))


@op
class ReduceSum(Reduce):
    """Sum; of nothing: 0."""

    zero_is_neutral = True
    join = staticmethod(operator.add)
    samples = _empty_samples


@op
class ReduceMean(Reduce):
    """Arithmetic mean; of no floats: NaN. Integers truncate toward zero."""


@op
class ReduceMax(Reduce):
    """Largest element; of nothing: -inf or the dtype's smallest value. NaN wins."""

    x = operand(ORDERED)
    traits = PURE | SAME_QUANT
    dtypes = (F32, I32, U8, BOOL)
    join = staticmethod(dim_max)
    samples = _empty_samples


@op
class ReduceMin(Reduce):
    """Smallest element; of nothing: inf or the dtype's largest value. NaN wins."""

    x = operand(ORDERED)
    traits = PURE | SAME_QUANT
    dtypes = (F32, I32, U8, BOOL)
    join = staticmethod(dim_min)
    samples = _empty_samples


@op
class ReduceProd(Reduce):
    """Product; of nothing: 1."""

    join = staticmethod(operator.mul)
    samples = _empty_samples


@op
class ReduceL1(Reduce):
    """Sum of absolute values."""

    zero_is_neutral = True
    samples = _empty_samples


@op
class ReduceL2(Reduce):
    """Square root of the sum of squares."""

    zero_is_neutral = True
    samples = _empty_samples


@op
class ReduceLogSum(Reduce):
    """Logarithm of the sum; of nothing: -inf."""

    zero_is_neutral = True
    domain = (0.1, 4.0)
    dtypes = (F32, F64)


@op
class ReduceLogSumExp(Reduce):
    """log(sum(exp(x))), safe from overflow; of nothing: -inf."""

    dtypes = (F32, F64)
    samples = _empty_samples


@op
class ReduceSumSquare(Reduce):
    """Sum of squares."""

    zero_is_neutral = True
    samples = _empty_samples


@op
class ReduceAll(Reduce):
    """Logical and; of nothing: true."""

    x = operand(BOOLEAN)
    dtypes = (BOOL,)

    def samples(self, rng):
        return _bool_samples(rng)


@op
class ReduceAny(Reduce):
    """Logical or; of nothing: false."""

    x = operand(BOOLEAN)
    dtypes = (BOOL,)

    def samples(self, rng):
        return _bool_samples(rng)


def _bool_samples(rng: np.random.Generator) -> Any:
    for shape in ((2, 3, 4), (3, 1, 5), (2, 0, 3)):
        yield Sample((draw(rng, shape, BOOL), i64(1)), {}, ("axes",))
        yield Sample((draw(rng, shape, BOOL), i64(-1, 0)), {"keepdims": False}, ("axes",))
    yield Sample((draw(rng, (), BOOL),))


class ArgReduce(OpDef):
    """Base: i64 position of the extreme element along `axis`, the first one unless `select_last_index`."""

    x = operand(NUMBER)
    axis = attr(int, 0)
    keepdims = attr(bool, True)
    select_last_index = attr(bool, False)

    def infer(self, x, *, axis, keepdims, select_last_index):
        if x.rank is None:
            return TensorType(I64, None)
        along = norm_axis(axis, x.rank)
        if x.shape[along] == 0:
            raise TypeInferError(f"axis {axis} of {x.type} is empty: there is no extreme element")
        return TensorType(I64, [1 if i == along else d for i, d in enumerate(x.shape) if keepdims or i != along])

    def axes(self, x, *, axis, keepdims, select_last_index):
        if x.rank is None:
            return None
        labels = passing(x.rank, (axis % x.rank,))
        return AxisMap((labels,), (tuple(a for a in labels if keepdims or a is not None),))

    def samples(self, rng):
        for dtype in (F32, I32):
            for last in (False, True):
                attrs = {"axis": 1, "keepdims": not last, "select_last_index": last}
                yield Sample((draw(rng, (3, 4, 2), dtype, 0, 2),), attrs)
        yield Sample((draw(rng, (5,), F64),), {"axis": -1})
        yield Sample((draw(rng, (0, 3)),), {"axis": 1})


@op
class ArgMax(ArgReduce):
    """Position of the largest element."""


@op
class ArgMin(ArgReduce):
    """Position of the smallest element."""


class Scan(OpDef):
    """Base: runs along `axis` (a scalar operand), from the end if `reverse`, leaving out the element if `exclusive`."""

    x = operand(REDUCIBLE)
    axis = operand(INDEX)
    exclusive = attr(bool, False)
    reverse = attr(bool, False)
    reads_elems = True

    def infer(self, x, axis, *, exclusive, reverse):
        at = shapes.operand_ints(axis)
        if at is not None and x.rank is not None:
            norm_axis(at[0], x.rank)
        return x.type

    def axes(self, x, axis, *, exclusive, reverse):
        at = shapes.operand_ints(axis)
        if at is None or x.rank is None:
            return None
        labels = passing(x.rank, (at[0] % x.rank,))
        return AxisMap((labels, (None,) * (axis.rank or 0)), (labels,))

    def samples(self, rng):
        for dtype in (F32, I32):
            for exclusive in (False, True):
                for reverse in (False, True):
                    attrs = {"exclusive": exclusive, "reverse": reverse}
                    yield Sample((draw(rng, (3, 4), dtype), np.asarray(-1, np.int64)), attrs, ("axis",))
        yield Sample((draw(rng, (5, 1, 2), F16), np.asarray(0, np.int32)), {}, ("axis",))
        yield Sample((draw(rng, (2, 0)), np.asarray(1, np.int64)), {"exclusive": True}, ("axis",))


@op
class Cumsum(Scan):
    """Running sum."""


@op
class Cumprod(Scan):
    """Running product."""


@op
class Topk(OpDef):
    """The `k` largest (or smallest) elements along `axis` and their i64 positions; ties by rising position."""

    x = operand(NUMBER)
    k = operand(INDEX)
    axis = attr(int, -1)
    largest = attr(bool, True)
    sorted = attr(bool, True)
    results = ("values", "indices")
    reads_elems = True

    def infer(self, x, k, *, axis, largest, sorted):
        if x.rank is None:
            return [TensorType(x.dtype, None), TensorType(I64, None)]
        along = norm_axis(axis, x.rank)
        found = k.elems[0] if k.elems and k.elems[0] is not None else shapes.fresh_shape(1)[0]
        if dim_lt(x.shape[along], found) or dim_lt(found, 0):
            raise TypeInferError(f"k = {found} along an axis of {x.shape[along]}")
        shape = [found if i == along else d for i, d in enumerate(x.shape)]
        return [TensorType(x.dtype, shape), TensorType(I64, shape)]

    def axes(self, x, k, *, axis, largest, sorted):
        if x.rank is None:
            return None
        labels = passing(x.rank, (axis % x.rank,))
        return AxisMap((labels, (None,) * (k.rank or 0)), (labels, labels))

    def samples(self, rng):
        for dtype in (F32, I32):
            for largest in (True, False):
                x = draw(rng, (3, 7), dtype, 0, 4)
                yield Sample((x, i64(3)), {"largest": largest}, ("k",))
                yield Sample((x, i64(2)), {"axis": 0, "largest": largest}, ("k",))
        yield Sample((draw(rng, (4,)), i64(0)), {}, ("k",))
        yield Sample((draw(rng, (2, 3)), i64(3)), {"sorted": False}, ("k",))
