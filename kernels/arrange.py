"""Kernels of the arrange family: tensors made from shapes and numbers, triangles, reversal, depth and space."""

from __future__ import annotations

import numpy as np

from ..ir.errors import InvalidModel
from ..ir.types import DType
from .budget import hold
from .numeric import narrow
from .registry import kernel
from .shape import as_ints

Array = np.ndarray
Number = int | float | bool | complex | str


@kernel("shape")
def shape_(x: Array, *, start: int, end: int | None) -> Array:
    return np.array(x.shape[start:end], dtype=np.int64)


@kernel("size")
def size(x: Array) -> Array:
    return np.array(x.size, dtype=np.int64)


@kernel("range")
def range_(start: Array, limit: Array, delta: Array) -> Array:
    """start + i * delta for 0 <= i < ceil((limit - start) / delta). Raises InvalidModel for a delta of 0."""
    first, last, step = (np.asarray(v).reshape(-1)[0] for v in (start, limit, delta))
    dtype = np.asarray(start).dtype
    if step == 0:
        raise InvalidModel("range: delta is 0", code="F021")
    if dtype.kind in "iu":
        count = len(range(int(first), int(last), int(step)))
        hold(8 * count)
        return np.arange(count, dtype=np.int64).astype(dtype) * step + first
    begin, end, by = float(first), float(last), float(step)
    if not np.all(np.isfinite((begin, end, by))):
        raise InvalidModel(f"range: {begin} to {end} by {by} has no length", code="F021")
    count = max(int(np.ceil((end - begin) / by)), 0)
    hold(8 * count)
    return narrow(begin + np.arange(count, dtype=np.float64) * by, dtype)


@kernel("constant_of_shape")
def constant_of_shape(shape: Array, *, value: Number, to: DType) -> Array:
    dims = as_ints(shape)
    if any(d < 0 for d in dims):
        raise InvalidModel(f"constant_of_shape: shape {dims}", code="F020")
    return np.full(dims, value, dtype=to.numpy)


def _channels_first(x: Array, channels_last: bool) -> Array:
    return np.moveaxis(x, -1, 1) if channels_last else x


def _restore(x: Array, channels_last: bool) -> Array:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1) if channels_last else x)


@kernel("depth_to_space")
def depth_to_space(x: Array, *, blocksize: int, mode: str, channels_last: bool) -> Array:
    """(N, C, H, W) to (N, C / b^2, H b, W b): depth read as (b, b, C') in mode DCR, (C', b, b) in mode CRD."""
    n, c, h, w = _channels_first(x, channels_last).shape
    b = blocksize
    split_depth = (n, b, b, c // (b * b), h, w) if mode == "DCR" else (n, c // (b * b), b, b, h, w)
    order = (0, 3, 4, 1, 5, 2) if mode == "DCR" else (0, 1, 4, 2, 5, 3)
    y = _channels_first(x, channels_last).reshape(split_depth).transpose(order)
    return _restore(y.reshape(n, c // (b * b), h * b, w * b), channels_last)


@kernel("space_to_depth")
def space_to_depth(x: Array, *, blocksize: int, mode: str, channels_last: bool) -> Array:
    """(N, C, H, W) to (N, C b^2, H / b, W / b): the inverse of depth_to_space in the same mode."""
    n, c, h, w = _channels_first(x, channels_last).shape
    b = blocksize
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    y = _channels_first(x, channels_last).reshape(n, c, h // b, b, w // b, b).transpose(order)
    return _restore(y.reshape(n, c * b * b, h // b, w // b), channels_last)


@kernel("trilu")
def trilu(x: Array, k: Array | None = None, *, upper: bool) -> Array:
    """The upper (or lower) triangle of the last two axes, the diagonal moved by `k`; zero (or the empty string) elsewhere."""
    offset = 0 if k is None else int(np.asarray(k).reshape(-1)[0])
    rows, columns = x.shape[-2:]
    hold(8 * (rows + 1) * (columns + 1))  # also where a dim is 0
    distance = np.arange(columns)[None, :] - np.arange(rows)[:, None]
    keep = distance >= offset if upper else distance <= offset
    return np.where(keep, x, np.zeros((), x.dtype) if x.dtype != np.object_ else "")


@kernel("eye_like")
def eye_like(x: Array, *, k: int, dtype: DType | None) -> Array:
    rows, columns = x.shape
    hold(8 * (rows + 1) * (columns + 1))
    return (np.arange(columns)[None, :] - np.arange(rows)[:, None] == k).astype(dtype.numpy if dtype else x.dtype)


@kernel("reverse")
def reverse(x: Array, *, axes: tuple[int, ...]) -> Array:
    return np.flip(x, axis=axes) if axes else x


@kernel("reverse_sequence")
def reverse_sequence(x: Array, lens: Array, *, batch_axis: int, time_axis: int) -> Array:
    """Along `time_axis`, the first lens[i] elements of batch entry i in reverse order, the others as they are."""
    steps = x.shape[time_axis]
    counts = np.asarray(lens).astype(np.int64)
    if counts.shape != (x.shape[batch_axis],) or np.any((counts < 0) | (counts > steps)):
        raise InvalidModel(f"reverse_sequence: lens {counts.tolist()} for {x.shape[batch_axis]} x {steps}", code="F020")
    at = np.arange(steps)[None, :]
    source = np.where(at < counts[:, None], counts[:, None] - 1 - at, at)
    y = np.moveaxis(x, (batch_axis, time_axis), (0, 1))
    index = source.reshape(source.shape + (1,) * (y.ndim - 2))
    made = np.take_along_axis(y, np.broadcast_to(index, source.shape + y.shape[2:]), axis=1)
    return np.ascontiguousarray(np.moveaxis(made, (0, 1), (batch_axis, time_axis)))
