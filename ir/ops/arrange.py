"""Ops that make tensors from shapes and numbers, and those that rearrange axes: ranges, triangles, depth and space.

Like ir/ops/shape.py, on symbolic dims and known elements; semantics are ONNX's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dims import Dim, Expr, ceildiv, dim_eq, dim_lt, dim_max
from ..errors import TypeInferError
from ..opdef import (
    MOVEMENT,
    PURE,
    SAME_QUANT,
    SPATIAL,
    Axis,
    AxisMap,
    DtypeVar,
    OpDef,
    Sample,
    attr,
    ints,
    op,
    operand,
    optional,
)
from ..types import BF16, BOOL, F16, F32, F64, I16, I32, I64, INDEX, U8, DType, TensorType
from .rules import channels_first, in_layout, passing
from .sampling import SHAPES, draw, i64
from .shapes import elem_count, entries, fresh_shape, known, moved_elems, norm_axes, norm_axis

T = DtypeVar("T")
STEPPED = DtypeVar("T", frozenset({F16, BF16, F32, F64, I16, I32, I64}))
MOVES = PURE | MOVEMENT | SAME_QUANT


@op
class Shape(OpDef):
    """i64 vector of the dims start:end (Python slicing) of x."""

    x = operand(T)
    start = attr(int, 0)
    end = attr(int, None)
    reads_elems = True

    def infer(self, x, *, start, end):
        if x.shape is None:
            return TensorType(I64, fresh_shape(1))
        dims = x.shape[start:end]
        return known(TensorType(I64, (len(dims),)), dims)

    def samples(self, rng):
        for shape in SHAPES:
            yield Sample((draw(rng, shape),))
        yield Sample((draw(rng, (2, 3, 4)),), {"start": -2})
        yield Sample((draw(rng, (2, 3, 4)),), {"start": 1, "end": -1})


@op
class Size(OpDef):
    """i64 scalar: the number of elements of x."""

    x = operand(T)

    def infer(self, x):
        total = x.type.numel
        return known(TensorType(I64, ()), None if total is None else [total])

    def samples(self, rng):
        for shape in SHAPES:
            yield Sample((draw(rng, shape),))


@op
class Range(OpDef):
    """start + i * delta for 0 <= i < ceil((limit - start) / delta); the operands are scalars."""

    start = operand(STEPPED)
    limit = operand(STEPPED)
    delta = operand(STEPPED)
    reads_elems = True

    def infer(self, start, limit, delta):
        dtype = next((v.dtype for v in (start, limit, delta) if v.dtype is not None), None)
        rows = [v.elems[0] if v.elems else None for v in (start, limit, delta)]
        if any(e is None for e in rows):
            return TensorType(dtype, (_float_count(start, limit, delta),))
        first, last, step = rows
        if step == 0 or isinstance(step, Expr):
            if step == 0:
                raise TypeInferError("a range with delta 0")
            return TensorType(dtype, fresh_shape(1))
        count = dim_max(ceildiv(last - first, step) if step > 0 else ceildiv(first - last, -step), 0)
        type_ = TensorType(dtype, (count,))
        small = type(count) is int and count <= 1024
        return known(type_, [first + i * step for i in range(count)] if small else None)

    def samples(self, rng):
        for rows, dtype in (
            ((1, 8, 3), I64),
            ((5, -4, -2), I32),
            ((3, 3, 1), I64),
            ((0.5, 2.5, 0.25), F32),
            ((4, 1, 1), F32),
        ):
            yield Sample(tuple(np.asarray(v, dtype.numpy) for v in rows), {}, ("start", "limit", "delta"))


def _float_count(start: Any, limit: Any, delta: Any) -> Dim:
    values = [v.scalar() for v in (start, limit, delta)]
    if any(v is None for v in values):
        return Expr.fresh()
    first, last, step = values
    if not step or not all(map(math.isfinite, values)):
        raise TypeInferError(f"a range from {first} to {last} by {step} has no length")
    return max(math.ceil((last - first) / step), 0)


@op
class ConstantOfShape(OpDef):
    """A tensor of `shape` with every element `value`, a Python number, in the dtype `to`."""

    shape = operand(INDEX)
    value = attr(object, 0.0)
    to = attr(DType, F32)
    reads_elems = True

    def infer(self, shape, *, value, to):
        dims = entries(shape)
        if dims is None:
            return TensorType(to, None)
        if any(d is not None and dim_lt(d, 0) for d in dims):
            raise TypeInferError(f"a negative dim in the shape {dims}")
        type_ = TensorType(to, [Expr.fresh() if d is None else d for d in dims])
        count = elem_count(type_)
        return known(type_, None if count is None or not (to.is_int or to is BOOL) else [int(value)] * count)

    def samples(self, rng):
        for dims, value, to in (((2, 3), 1.5, F32), ((), 7, I64), ((0, 2), 0, I32), ((4,), True, BOOL), ((2,), 3, U8)):
            yield Sample((i64(*dims),), {"value": value, "to": to}, ("shape",))


class DepthSpace(OpDef):
    """Base of the two ops that move elements between the channel axis and blocks of the image plane."""

    x = operand(T)
    blocksize = attr(int)
    traits = PURE | MOVEMENT | SAME_QUANT | SPATIAL

    def _blocks(self, x: Any, blocksize: int, channels_last: bool) -> tuple[Dim, ...] | None:
        """(N, C, H, W) of x; None when the rank is unknown."""
        if blocksize < 1:
            raise TypeInferError(f"blocksize {blocksize}")
        if x.rank not in (None, 4):
            raise TypeInferError(f"{x.type} has not rank 4")
        return None if x.shape is None else channels_first(x.shape, channels_last)

    def axes(self, x, *, channels_last, **attrs):
        row = in_layout((Axis("n"), None, None, None), channels_last)
        return AxisMap((row,), (row,))


def _exactly(dim: Dim, divisor: int, what: str) -> Dim:
    if dim_eq(dim % divisor, 0) is False:
        raise TypeInferError(f"{what} {dim} is no multiple of {divisor}")
    return dim // divisor


@op
class DepthToSpace(DepthSpace):
    """(N, C, H, W) to (N, C / b^2, H b, W b); depth is read as (b, b, C') in mode DCR, as (C', b, b) in mode CRD."""

    mode = attr(str, "DCR", choices=("DCR", "CRD"))
    channels_last = attr(bool, False)

    def infer(self, x, *, blocksize, mode, channels_last):
        shape = self._blocks(x, blocksize, channels_last)
        if shape is None:
            return TensorType(x.dtype, fresh_shape(None))
        n, c, h, w = shape
        made = n, _exactly(c, blocksize * blocksize, "depth"), h * blocksize, w * blocksize
        return TensorType(x.dtype, in_layout(made, channels_last))

    def samples(self, rng):
        for mode in ("DCR", "CRD"):
            yield Sample((draw(rng, (2, 8, 3, 1)),), {"blocksize": 2, "mode": mode})
            yield Sample((draw(rng, (1, 2, 3, 9)),), {"blocksize": 3, "mode": mode, "channels_last": True})


@op
class SpaceToDepth(DepthSpace):
    """(N, C, H, W) to (N, C b^2, H / b, W / b): the inverse of depth_to_space in the same mode."""

    mode = attr(str, "DCR", choices=("DCR", "CRD"))
    channels_last = attr(bool, False)

    def infer(self, x, *, blocksize, mode, channels_last):
        shape = self._blocks(x, blocksize, channels_last)
        if shape is None:
            return TensorType(x.dtype, fresh_shape(None))
        n, c, h, w = shape
        made = n, c * blocksize * blocksize, _exactly(h, blocksize, "height"), _exactly(w, blocksize, "width")
        return TensorType(x.dtype, in_layout(made, channels_last))

    def samples(self, rng):
        for mode in ("DCR", "CRD"):
            yield Sample((draw(rng, (2, 3, 4, 6)),), {"blocksize": 2, "mode": mode})
        yield Sample((draw(rng, (1, 2, 3, 6)),), {"blocksize": 3})
        yield Sample((draw(rng, (1, 2, 4, 3)),), {"blocksize": 2, "channels_last": True})


@op
class Trilu(OpDef):
    """The upper (or lower) triangle of the last two axes, the diagonal moved by `k`; zero elsewhere."""

    x = operand(T)
    k = optional(INDEX)
    upper = attr(bool, True)

    def infer(self, x, k, *, upper):
        if x.rank is not None and x.rank < 2:
            raise TypeInferError(f"{x.type} has no triangle: rank 2 or more is needed")
        return x.type

    def axes(self, x, k, *, upper):
        if x.rank is None:
            return None
        row = passing(x.rank, (-1, -2))
        return AxisMap((row, None if k is None else (None,) * (k.rank or 0)), (row,))

    def samples(self, rng):
        for shape in ((3, 4), (2, 4, 3), (1, 1), (0, 3)):
            for upper in (True, False):
                yield Sample((draw(rng, shape),), {"upper": upper})
                yield Sample((draw(rng, shape, I32), np.asarray(-1, np.int64)), {"upper": upper}, ("k",))
        yield Sample((draw(rng, (3, 3)), i64(5)), {}, ("k",))


@op
class EyeLike(OpDef):
    """Ones on the k-th diagonal and zeros elsewhere, of the shape of the matrix x, in `dtype` or its own."""

    x = operand(T)
    k = attr(int, 0)
    dtype = attr(DType, None)

    def infer(self, x, *, k, dtype):
        if x.rank not in (None, 2):
            raise TypeInferError(f"{x.type} is no matrix")
        return TensorType(dtype or x.dtype, x.shape)

    def samples(self, rng):
        for shape, k in (((3, 4), 0), ((4, 2), -1), ((2, 5), 3), ((0, 2), 0)):
            yield Sample((draw(rng, shape),), {"k": k})
        yield Sample((draw(rng, (3, 3), I32),), {"dtype": F64})


@op
class Reverse(OpDef):
    """The elements in reverse order along each axis of `axes`."""

    x = operand(T)
    axes_ = attr(ints)
    traits = MOVES
    reads_elems = True

    def infer(self, x, *, axes):
        if x.rank is None:
            return x.type
        along = norm_axes(axes, x.rank)
        return moved_elems(x.type, [x], lambda a: np.flip(a, along))

    def axes(self, x, *, axes):
        if x.rank is None:
            return None
        row = passing(x.rank, axes)
        return AxisMap((row,), (row,))

    def samples(self, rng):
        for shape, axes in (((5,), (0,)), ((2, 3, 4), (-1, 0)), ((2, 3), ()), ((0, 2), (1,))):
            yield Sample((draw(rng, shape),), {"axes": axes})
        yield Sample((i64(1, 2, 3),), {"axes": (0,)})


@op
class ReverseSequence(OpDef):
    """Reverse the first lens[i] elements along `time_axis` for entry i of `batch_axis`; the others stay."""

    x = operand(T)
    lens = operand(INDEX)
    batch_axis = attr(int, 1)
    time_axis = attr(int, 0)
    traits = MOVES

    def infer(self, x, lens, *, batch_axis, time_axis):
        if x.rank is not None:
            batch, time = norm_axis(batch_axis, x.rank), norm_axis(time_axis, x.rank)
            if batch == time:
                raise TypeInferError("batch_axis and time_axis are the same")
            if lens.shape is not None and (lens.rank != 1 or dim_eq(lens.shape[0], x.shape[batch]) is False):
                raise TypeInferError(f"lens {lens.type} for {x.shape[batch]} batch entries")
        return x.type

    def axes(self, x, lens, *, batch_axis, time_axis):
        if x.rank is None:
            return None
        row = passing(x.rank, (time_axis,))
        return AxisMap((row, (Axis(f"d{batch_axis % x.rank}"),)), (row,))

    def samples(self, rng):
        yield Sample((draw(rng, (4, 3)), i64(4, 0, 2)))
        yield Sample((draw(rng, (3, 5, 2)), i64(1, 5, 3)), {"batch_axis": 0, "time_axis": 1})
        yield Sample((draw(rng, (2, 3, 4)), i64(2, 4)), {"batch_axis": 0, "time_axis": 2})
