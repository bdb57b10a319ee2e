"""Kernels of the reduce family: sums in float64 rounded once; integers exact, wrapping in their own type.

Empty reductions give the identity (sum 0, prod 1, min +inf or the type's maximum ...); a mean of nothing is NaN and is
refused for integers, an arg-reduction of nothing is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..ir.errors import InvalidModel
from .numeric import exact, highest, is_integer, lowest, narrow, truncate, wide
from .precision import quiet
from .registry import kernel

Array = np.ndarray
Axes = tuple[int, ...]


def reduced_axes(rank: int, axes: Array | None, noop_with_empty_axes: bool) -> Axes:
    """The axes to reduce: all when none are given, unless `noop_with_empty_axes`. Raises InvalidModel."""
    given = () if axes is None else tuple(int(a) for a in np.asarray(axes).reshape(-1))
    if not given:
        return () if noop_with_empty_axes else tuple(range(rank))
    if any(not -rank <= a < rank for a in given):
        raise InvalidModel(f"axes {given} out of range for rank {rank}", code="F020")
    made = tuple(a % rank for a in given)
    if len(set(made)) != len(made):
        raise InvalidModel(f"axes {given} name an axis twice", code="F020")
    return made


def _sum(x: Array, axes: Axes) -> Array:
    """In float64, complex128 or, for integers, their own type; no widened copy of x is made."""
    kept = x.dtype if x.dtype.kind not in "fc" else np.result_type(x.dtype, np.float64)
    return x.sum(axis=axes, dtype=kept, keepdims=True)


def _mean(x: Array, axes: Axes) -> Array:
    count = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
    if x.dtype.kind in "fc":
        return _sum(x, axes) / count
    if count == 0:
        raise InvalidModel("mean of no integers", code="F021")
    total = x.sum(axis=axes, dtype=np.uint64 if x.dtype.kind == "u" else np.int64, keepdims=True)
    return (total - np.fmod(total, total.dtype.type(count))) // total.dtype.type(count)


def _log(x: Array) -> Array:
    return np.log(x.astype(np.float64))


def _log_sum_exp(x: Array, axes: Axes) -> Array:
    """log(sum(exp(x))) shifted by the maximum, so that nothing overflows."""
    x = x.astype(np.float64)
    peak = x.max(axis=axes, keepdims=True, initial=-np.inf)
    peak = np.where(np.isfinite(peak), peak, 0.0)
    return np.log(np.exp(x - peak).sum(axis=axes, keepdims=True)) + peak


_REDUCE: dict[str, Callable[[Array, Axes], Array]] = {
    "reduce_sum": _sum,
    "reduce_mean": _mean,
    "reduce_prod": lambda x, axes: x.prod(axis=axes, dtype=x.dtype, keepdims=True),
    "reduce_l1": lambda x, axes: _sum(np.abs(x), axes),
    "reduce_l2": lambda x, axes: np.sqrt(_sum(np.square(x.astype(np.float64)), axes)),
    "reduce_sum_square": lambda x, axes: _sum(np.square(x), axes),
    "reduce_log_sum": lambda x, axes: _log(_sum(x, axes)),
    "reduce_log_sum_exp": _log_sum_exp,
}


def _reducer(function: Callable[[Array, Axes], Array], widen: Callable[[Array], Array] = wide) -> Callable[..., Array]:
    def run(x: Array, axes: Array | None = None, *, keepdims: bool, noop_with_empty_axes: bool) -> Array:
        over = reduced_axes(x.ndim, axes, noop_with_empty_axes)
        with quiet():
            y = np.asarray(function(widen(x), over))
        y = truncate(y, x.dtype) if is_integer(x.dtype) and y.dtype.kind == "f" else narrow(y, x.dtype)
        return y if keepdims else y.squeeze(axis=over)

    return run


def _selector(ufunc: np.ufunc, identity: Callable[[np.dtype], object]) -> Callable[..., Array]:
    """reduce_max and reduce_min: no arithmetic, NaN wins, the identity of the stored type where nothing is reduced."""

    def run(x: Array, axes: Array | None = None, *, keepdims: bool, noop_with_empty_axes: bool) -> Array:
        over = reduced_axes(x.ndim, axes, noop_with_empty_axes)
        y = exact(x)
        start = np.asarray(identity(x.dtype)).astype(y.dtype)
        made = narrow(np.asarray(ufunc.reduce(y, axis=over, keepdims=True, initial=start[()])), x.dtype)
        return made if keepdims else made.squeeze(axis=over)

    return run


def _logical(ufunc: np.ufunc) -> Callable[..., Array]:
    def run(x: Array, axes: Array | None = None, *, keepdims: bool, noop_with_empty_axes: bool) -> Array:
        over = reduced_axes(x.ndim, axes, noop_with_empty_axes)
        return np.asarray(ufunc.reduce(x, axis=over, keepdims=bool(keepdims)), dtype=np.bool_)

    return run


for _name, _function in _REDUCE.items():
    kernel(_name)(_reducer(_function, exact if _function in (_sum, _mean) else wide))
kernel("reduce_max")(_selector(np.maximum, lowest))
kernel("reduce_min")(_selector(np.minimum, highest))
kernel("reduce_all")(_logical(np.logical_and))
kernel("reduce_any")(_logical(np.logical_or))


def _arg_reduce(pick: Callable[..., Array]) -> Callable[..., Array]:
    def run(x: Array, *, axis: int, keepdims: bool, select_last_index: bool) -> Array:
        size = x.shape[axis]
        if size == 0:
            raise InvalidModel("arg-reduction along an empty axis", code="F021")
        y = exact(x)
        found = size - 1 - pick(np.flip(y, axis), axis=axis) if select_last_index else pick(y, axis=axis)
        found = np.asarray(found, dtype=np.int64)
        return np.expand_dims(found, axis) if keepdims else found

    return run


kernel("arg_max")(_arg_reduce(np.argmax))
kernel("arg_min")(_arg_reduce(np.argmin))


def _scan(ufunc: np.ufunc, start: int) -> Callable[..., Array]:
    """Running sum or product along `axis`; `exclusive` leaves out the element itself, `reverse` runs from the end."""

    def run(x: Array, axis: Array, *, exclusive: bool, reverse: bool) -> Array:
        along = reduced_axes(x.ndim, np.asarray(axis).reshape(-1), False)[0]
        y = np.moveaxis(wide(x), along, 0)
        y = y[::-1] if reverse else y
        if exclusive and len(y):
            y = np.concatenate([np.full_like(y[:1], start), y[:-1]])
        with quiet():
            made = ufunc.accumulate(y, axis=0, dtype=y.dtype)
        return narrow(np.ascontiguousarray(np.moveaxis(made[::-1] if reverse else made, 0, along)), x.dtype)

    return run


kernel("cumsum")(_scan(np.add, 0))
kernel("cumprod")(_scan(np.multiply, 1))


@kernel("topk")
def topk(x: Array, k: Array, *, axis: int, largest: bool, sorted: bool) -> tuple[Array, Array]:
    """The k largest (or smallest) along `axis`, sorted, equal values by rising index; NaN counts as largest."""
    size, count = x.shape[axis], int(np.asarray(k).reshape(-1)[0])
    if not 0 <= count <= size:
        raise InvalidModel(f"topk: k = {count} along an axis of {size}", code="F020")
    y = exact(x)
    if largest:  # a stable ascending sort of the mirrored axis, read backwards, keeps ties in rising order
        order = size - 1 - np.flip(np.argsort(np.flip(y, axis), axis=axis, kind="stable"), axis)
    else:
        order = np.argsort(y, axis=axis, kind="stable")
    chosen = np.ascontiguousarray(order.take(np.arange(count), axis=axis)).astype(np.int64)
    return np.take_along_axis(x, chosen, axis=axis), chosen
