"""TFLite's ops that move, count or place elements, with int32 index operands, each with its kernel."""

from __future__ import annotations

import numpy as np

from ....ir.dims import Dim, Expr
from ....ir.errors import TypeInferError
from ....ir.opdef import MOVEMENT, PURE, SAME_QUANT, Known, OpDef, attr, ints, op, operand
from ....ir.types import I32, I64, TensorType
from ....ir.value import Value
from ....kernels.registry import get_kernel, kernel
from .common import INDICES


def _length(vector: Value) -> int:
    """Elements of a shape operand; 0 where that is not known."""
    return vector.shape[0] if vector.shape and type(vector.shape[0]) is int else 0


def shape_from(vector: Value) -> tuple[Dim, ...] | None:
    """The shape that a shape operand stands for, as far as it is known."""
    elems = vector.elems or (None,) * _length(vector)
    if not elems and vector.shape != (0,):
        return None
    return tuple(Expr.fresh() if e is None else e for e in elems)


@op(name="tfl.broadcast_to")
class BroadcastTo(OpDef):
    """x broadcast to exactly `shape`."""

    x = operand()
    shape = operand(INDICES)
    reads_elems = True
    traits = PURE | MOVEMENT | SAME_QUANT

    def infer(self, x, shape):
        wanted = shape.elems or (None,) * _length(shape)
        if not wanted and shape.shape != (0,):
            return TensorType(x.dtype, None)
        lifted = (1,) * (len(wanted) - (x.rank or 0)) + (x.shape or ())
        dims = (d if k is None and d != 1 else k for k, d in zip(wanted, lifted, strict=True))
        return TensorType(x.dtype, tuple(Expr.fresh() if d is None else d for d in dims))


@kernel("tfl.broadcast_to")
def _broadcast_to(x, shape):
    return np.ascontiguousarray(np.broadcast_to(x, tuple(int(d) for d in shape)))


@op(name="tfl.scatter_nd")
class ScatterNd(OpDef):
    """Zeros of `shape` with `updates` added at `indices`; repeated indices add up."""

    indices = operand(INDICES)
    updates = operand()
    shape = operand(INDICES)
    reads_elems = True

    def infer(self, indices, updates, shape):
        return TensorType(updates.dtype, shape_from(shape))


@kernel("tfl.scatter_nd")
def _scatter_nd(indices, updates, shape):
    y = np.zeros(tuple(int(d) for d in shape), updates.dtype)
    np.add.at(y, tuple(np.moveaxis(indices, -1, 0)), updates)
    return y


@op(name="tfl.shape")
class Shape(OpDef):
    """The dims of x as an int32 vector."""

    x = operand()

    def infer(self, x):
        if x.shape is None:
            return TensorType(I32, None)
        return Known(TensorType(I32, (len(x.shape),)), x.shape)


@kernel("tfl.shape")
def _shape(x):
    return np.asarray(x.shape, np.int32)


@op(name="tfl.fill")
class Fill(OpDef):
    """A tensor of `dims` with every element `value`."""

    dims = operand(INDICES)
    value = operand()
    reads_elems = True

    def infer(self, dims, value):
        if value.shape != ():
            raise TypeInferError(f"fill takes a scalar, got {value.type}")
        return TensorType(value.dtype, shape_from(dims))


@kernel("tfl.fill")
def _fill(dims, value):
    return np.full(tuple(int(d) for d in dims), value)


@op(name="tfl.topk_v2")
class TopkV2(OpDef):
    """The `k` largest elements along the last axis, falling, and their int32 positions; ties by rising position."""

    x = operand()
    k = operand(INDICES)
    results = ("values", "indices")
    reads_elems = True

    def infer(self, x, k):
        if not x.shape or k.ints() is None:
            raise TypeInferError("topk_v2 takes a tensor of known rank and a known k")
        shape = (*x.shape[:-1], k.ints()[0])
        return [TensorType(x.dtype, shape), TensorType(I32, shape)]


@kernel("tfl.topk_v2")
def _topk(x, k):
    values, indices = get_kernel("topk")(x, np.asarray(k, np.int64).reshape(1), axis=-1, largest=True, sorted=True)
    return values, indices.astype(np.int32)


@op(name="tfl.one_hot")
class OneHot(OpDef):
    """A new axis of size `depth`: `on` at the index, `off` elsewhere; an index out of range is off throughout."""

    indices = operand(frozenset({I32, I64}))
    on = operand()
    off = operand()
    depth = attr(int)
    axis = attr(int, -1)

    def infer(self, indices, on, off, *, depth, axis):
        if indices.shape is None:
            return TensorType(on.dtype, None)
        at = axis % (len(indices.shape) + 1)
        return TensorType(on.dtype, (*indices.shape[:at], depth, *indices.shape[at:]))


@kernel("tfl.one_hot")
def _one_hot(indices, on, off, *, depth, axis):
    hot = np.arange(depth) == indices[..., None]
    y = np.where(hot, on, off).astype(on.dtype)
    return np.ascontiguousarray(np.moveaxis(y, -1, axis % y.ndim))


@op(name="tfl.where")
class Where(OpDef):
    """int64 [count, rank]: coordinates of the elements that are not zero, in row-major order."""

    x = operand()

    def infer(self, x):
        return TensorType(I64, None if x.rank is None else (Expr.fresh(), x.rank))


@kernel("tfl.where")
def _where(x):
    return np.argwhere(x).astype(np.int64).reshape(-1, x.ndim)


@op(name="tfl.strided_slice")
class StridedSlice(OpDef):
    """x[begin : end : strides] with one computed begin and end per axis, clamped as in Python."""

    x = operand()
    begin = operand(INDICES)
    end = operand(INDICES)
    strides = attr(ints)
    traits = PURE | MOVEMENT | SAME_QUANT

    def infer(self, x, begin, end, *, strides):
        if x.shape is None:
            return x.type
        return TensorType(x.dtype, tuple(Expr.fresh() for _ in x.shape))


@kernel("tfl.strided_slice")
def _strided_slice(x, begin, end, *, strides):
    spans = (slice(int(a), int(b), s) for a, b, s in zip(begin, end, strides, strict=True))
    return np.ascontiguousarray(x[tuple(spans)])


@op(name="tfl.dynamic_update_slice")
class DynamicUpdateSlice(OpDef):
    """x with `update` put where `start` says, moved back inside where it would reach out."""

    x = operand()
    update = operand()
    start = operand(INDICES)
    traits = PURE | SAME_QUANT

    def infer(self, x, update, start):
        return x.type


@kernel("tfl.dynamic_update_slice")
def _dynamic_update_slice(x, update, start):
    y = x.copy()
    corner = [min(max(int(s), 0), n - u) for s, n, u in zip(start, x.shape, update.shape, strict=True)]
    y[tuple(slice(c, c + u) for c, u in zip(corner, update.shape, strict=True))] = update
    return y
