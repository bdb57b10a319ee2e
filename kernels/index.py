"""Kernels of the index family: gather, scatter, one-hot, non-zero, compress.

Negative indices count from the end; an index out of range is refused, never clamped or wrapped. Scatter reductions
accumulate in float64 (integers: exactly, wrapping) in row-major order of the updates and round once at the end; with
reduction "none" the last of several updates of one element wins.
"""

from __future__ import annotations

import numpy as np

from ..ir.errors import InvalidModel
from .budget import hold
from .numeric import narrow, wide
from .registry import kernel

Array = np.ndarray

_REDUCE: dict[str, np.ufunc] = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def checked(indices: Array, size: int, op: str) -> Array:
    """int64 indices in [0, size). Raises InvalidModel when one lies outside [-size, size)."""
    at = np.asarray(indices).astype(np.int64, copy=False)
    low, high = (at.min(), at.max()) if at.size > 1 else (at.item(),) * 2 if at.size else (0, 0)
    if at.size and (low < -size or high >= size):
        worst = high if high >= size else low
        raise InvalidModel(f"{op}: index {int(worst)} out of range for an axis of {size}", code="F022")
    return at if low >= 0 else np.where(at < 0, at + size, at)


@kernel("gather")
def gather(x: Array, indices: Array, *, axis: int) -> Array:
    """Whole slices: result shape x.shape[:axis] + indices.shape + x.shape[axis + 1:]."""
    return np.take(x, checked(indices, x.shape[axis], "gather"), axis=axis)


@kernel("gather_elements")
def gather_elements(x: Array, indices: Array, *, axis: int) -> Array:
    """One element per index: y[i, j] = x[indices[i, j], j] for axis 0; other dims may be shorter than those of x."""
    return x[_element_index(x, indices, axis, "gather_elements")]


def _element_index(x: Array, indices: Array, axis: int, op: str) -> tuple[Array, ...]:
    along = axis % x.ndim
    for i, (have, want) in enumerate(zip(x.shape, indices.shape, strict=True)):
        if i != along and want > have:
            raise InvalidModel(f"{op}: indices have {want} on axis {i}, data has {have}", code="F020")
    grid = list(np.ogrid[tuple(slice(0, d) for d in indices.shape)])
    grid[along] = checked(indices, x.shape[along], op)
    return tuple(grid)


@kernel("gather_nd")
def gather_nd(x: Array, indices: Array, *, batch_dims: int) -> Array:
    """The last axis of `indices` holds coordinates into x after `batch_dims` shared leading axes."""
    depth = indices.shape[-1]
    batch = x.shape[:batch_dims]
    grid = [g.reshape(g.shape + (1,) * (indices.ndim - 1 - batch_dims)) for g in _ogrid(batch)]
    at = [checked(indices[..., i], x.shape[batch_dims + i], "gather_nd") for i in range(depth)]
    index = (*grid, *at)
    return x[index] if index else np.broadcast_to(x, indices.shape[:-1] + x.shape).copy()


def _ogrid(shape: tuple[int, ...]) -> list[Array]:
    return list(np.ogrid[tuple(slice(0, d) for d in shape)]) if shape else []


def _scatter(x: Array, index: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    if reduction == "none":
        out = x.copy()
        out[index] = updates
        return out
    out = np.array(wide(x), copy=True)
    with np.errstate(all="ignore"):
        if x.dtype == np.bool_ and reduction in ("add", "mul"):
            (np.logical_or if reduction == "add" else np.logical_and).at(out, index, updates)
        else:
            _REDUCE[reduction].at(out, index, wide(updates))
    return narrow(out, x.dtype)


@kernel("scatter_elements")
def scatter_elements(x: Array, indices: Array, updates: Array, *, axis: int, reduction: str) -> Array:
    """The inverse of gather_elements: x with updates[i, j] put, or reduced, at [indices[i, j], j] for axis 0."""
    return _scatter(x, _element_index(x, indices, axis, "scatter_elements"), updates, reduction)


@kernel("scatter_nd")
def scatter_nd(x: Array, indices: Array, updates: Array, *, reduction: str) -> Array:
    """x with slices put, or reduced, at the coordinates in the last axis of `indices`."""
    index = tuple(checked(indices[..., i], x.shape[i], "scatter_nd") for i in range(indices.shape[-1]))
    if index:
        return _scatter(x, index, updates, reduction)
    flat = _scatter(x[None], (np.zeros(indices.shape[:-1], np.int64),), updates, reduction)
    return flat[0]


@kernel("one_hot")
def one_hot(indices: Array, depth: Array, values: Array, *, axis: int) -> Array:
    """values[1] where the index is, values[0] elsewhere; an index outside [-depth, depth) gives values[0] only."""
    count = int(np.asarray(depth).reshape(-1)[0])
    if count < 0:
        raise InvalidModel(f"one_hot: depth {count}", code="F020")
    at = np.trunc(indices) if indices.dtype.kind == "f" else indices
    at = np.where(at < 0, at + np.asarray(count, at.dtype), at) if at.dtype.kind != "u" else at
    place = axis % (indices.ndim + 1)
    ladder = np.arange(count).reshape((count,) + (1,) * (indices.ndim - place))
    return np.where(np.expand_dims(at, place) == ladder, values[1], values[0])


@kernel("non_zero")
def non_zero(x: Array) -> Array:
    """i64[rank, count]: coordinates of the elements that are not zero, in row-major order."""
    found = wide(x) != 0 if x.dtype != np.object_ else x.astype(bool)
    return np.array(np.nonzero(np.atleast_1d(found)), dtype=np.int64)[: x.ndim]


@kernel("compress")
def compress(x: Array, cond: Array, *, axis: int | None) -> Array:
    """Slices along `axis` (of x flattened if None) where `cond` is true; a shorter `cond` drops what lies beyond it."""
    data = x.reshape(-1) if axis is None else x
    along = 0 if axis is None else axis
    if cond.size > data.shape[along]:
        if np.any(cond[data.shape[along] :]):
            raise InvalidModel(f"compress: condition of {cond.size} for an axis of {data.shape[along]}", code="F020")
        cond = cond[: data.shape[along]]
    return np.compress(cond, data, axis=along)


@kernel("unique")
def unique(x: Array, *, axis: int | None, sorted: bool) -> tuple[Array, Array, Array, Array]:
    """Elements become their ranks, so that slices of any dtype compare as rows of integers."""
    hold(48 * x.size)
    data = x.reshape(-1) if axis is None else x
    along = 0 if axis is None else axis % x.ndim
    _, ranks = np.unique(wide(data).reshape(-1), return_inverse=True)
    count = data.shape[along]
    rows = np.moveaxis(ranks.reshape(data.shape), along, 0).reshape(count, data.size // count if count else 1)
    order = np.lexsort(rows.T[::-1]) if rows.shape[1] else np.arange(len(rows))
    ordered = rows[order]
    starts = np.concatenate([np.ones(min(len(rows), 1), bool), (ordered[1:] != ordered[:-1]).any(axis=1)])
    first, inverse = order[starts], np.empty(len(rows), np.int64)
    inverse[order] = np.cumsum(starts) - 1
    counts = np.bincount(inverse, minlength=len(first)).astype(np.int64)
    if not sorted:
        seen = np.argsort(first)
        first, counts = first[seen], counts[seen]
        inverse = np.argsort(seen)[inverse]
    return np.take(data, first, axis=along), first.astype(np.int64), inverse, counts


@kernel("tensor_scatter")
def tensor_scatter(past: Array, update: Array, write_indices: Array | None = None, *, axis: int, mode: str) -> Array:
    """past with update[b] written along `axis` from write_indices[b] on, modulo the size of that axis if circular."""
    along, count = axis % past.ndim, update.shape[axis]
    size, made = past.shape[axis], past.copy()
    starts = np.zeros(len(past), np.int64) if write_indices is None else write_indices.astype(np.int64)
    for batch, start in enumerate(starts.tolist()):
        at = start + np.arange(count)
        if mode == "circular":
            at = at % size
        elif count and not 0 <= start <= size - count:
            raise InvalidModel(f"tensor_scatter: {count} entries from {start} on do not fit {size}", code="F022")
        np.moveaxis(made[batch], along - 1, 0)[at] = np.moveaxis(update[batch], along - 1, 0)
    return made
