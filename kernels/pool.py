"""Pooling: windows as per-axis bounds, so that plain, padded, dilated, overhanging and adaptive pools share two loops.

Along each axis output o reads input positions start[o], start[o] + dilation, ... below stop[o], already clipped to the
input. Values are taken to float64, which holds every dtype that ONNX pools exactly. Imports no framework.
"""

from __future__ import annotations

import numpy as np

from ..ir.ops.window import Window, output_sizes, resolve_pads, window
from .conv import channels_as, channels_first, in_three_dims
from .jit import jit
from .precision import narrow, wide
from .registry import kernel


@jit
def _window_max(x, starts_d, stops_d, starts_h, stops_h, starts_w, stops_w, steps, y, where):
    """Largest value (NaN wins) of each window of x [P, D, H, W] and its flat place in the plane; -inf, -1 if empty."""
    planes, _, height, width = x.shape
    for p in range(planes):
        for od in range(len(starts_d)):
            for oh in range(len(starts_h)):
                for ow in range(len(starts_w)):
                    best = -np.inf
                    place = -1
                    for d in range(starts_d[od], stops_d[od], steps[0]):
                        for h in range(starts_h[oh], stops_h[oh], steps[1]):
                            for w in range(starts_w[ow], stops_w[ow], steps[2]):
                                value = x[p, d, h, w]
                                if value > best or place < 0 or (value != value and best == best):
                                    best = value
                                    place = (d * height + h) * width + w
                    y[p, od, oh, ow] = best
                    where[p, od, oh, ow] = place


@jit
def _window_sum(x, starts_d, stops_d, starts_h, stops_h, starts_w, stops_w, steps, y):
    """Sum over each window of x [P, D, H, W]."""
    for p in range(x.shape[0]):
        for od in range(len(starts_d)):
            for oh in range(len(starts_h)):
                for ow in range(len(starts_w)):
                    total = 0.0
                    for d in range(starts_d[od], stops_d[od], steps[0]):
                        for h in range(starts_h[oh], stops_h[oh], steps[1]):
                            for w in range(starts_w[ow], stops_w[ow], steps[2]):
                                total += x[p, d, h, w]
                    y[p, od, oh, ow] = total


class Bounds:
    """Where the windows of each spatial axis start and stop, and the step between taps."""

    def __init__(self, starts: list[np.ndarray], stops: list[np.ndarray], steps: tuple[int, ...]) -> None:
        missing = 3 - len(steps)
        one = [np.zeros(1, np.int64)] * missing, [np.ones(1, np.int64)] * missing
        self.sizes = tuple(len(s) for s in starts)
        self.steps = (1,) * missing + tuple(steps)
        self.flat = [a for pair in zip(one[0] + starts, one[1] + stops, strict=True) for a in pair]
        self.full = tuple(len(a) for a in self.flat[::2])


def _sliding(geometry: Window, sizes: tuple[int, ...], ceil_mode: bool) -> tuple[Bounds, Window]:
    outs = output_sizes(geometry, sizes, ceil_mode)
    geometry = resolve_pads(geometry, sizes)
    starts, stops = [], []
    for axis, (size, out) in enumerate(zip(sizes, outs, strict=True)):
        first = np.arange(out, dtype=np.int64) * geometry.strides[axis] - geometry.begins[axis]
        step = geometry.dilations[axis]
        skipped = np.maximum(0, -(first // step))  # taps that lie before the input
        starts.append(first + skipped * step)
        stops.append(np.minimum(first + geometry.extents[axis], size))
    return Bounds(starts, stops, geometry.dilations), geometry


def _adaptive(sizes: tuple[int, ...], outs: tuple[int, ...]) -> Bounds:
    """floor(i * size / out) to ceil((i + 1) * size / out), as torch's adaptive pools."""
    starts = [np.arange(out, dtype=np.int64) * size // out for size, out in zip(sizes, outs, strict=True)]
    stops = [-(-np.arange(1, out + 1, dtype=np.int64) * size // out) for size, out in zip(sizes, outs, strict=True)]
    return Bounds(starts, stops, (1,) * len(outs))


def _planes(x: np.ndarray) -> np.ndarray:
    full = in_three_dims(x)
    return full.reshape(-1, *full.shape[2:])


def _largest(x: np.ndarray, bounds: Bounds) -> tuple[np.ndarray, np.ndarray]:
    planes = _planes(x)
    y = np.empty((planes.shape[0], *bounds.full))
    where = np.empty(y.shape, np.int64)
    _window_max(planes, *bounds.flat, bounds.steps, y, where)
    shape = (*x.shape[:2], *bounds.sizes)
    return y.reshape(shape), where.reshape(shape)


def _total(x: np.ndarray, bounds: Bounds) -> np.ndarray:
    planes = _planes(x)
    y = np.empty((planes.shape[0], *bounds.full))
    _window_sum(planes, *bounds.flat, bounds.steps, y)
    return y.reshape(*x.shape[:2], *bounds.sizes)


def _per_axis(counts: list[np.ndarray]) -> np.ndarray:
    """The outer product of one vector per spatial axis."""
    total = np.ones((1,) * len(counts))
    for axis, count in enumerate(counts):
        total = total * count.reshape([-1 if i == axis else 1 for i in range(len(counts))])
    return total


def _max_pool(x, kernel_shape, strides, pads, dilations, ceil_mode, auto_pad, storage_order, channels_last):
    data = channels_first(wide, x, channels_last)
    geometry = window(kernel_shape, strides, pads, dilations, auto_pad)
    bounds, _ = _sliding(geometry, data.shape[2:], ceil_mode)
    y, where = _largest(data, bounds)
    if x.dtype.kind in "iu":
        y = np.where(where < 0, np.iinfo(x.dtype).min, y)
    y = channels_as(narrow(y, x.dtype), channels_last)
    return y, channels_as(_flat_indices(where, data.shape, storage_order), channels_last)


def _flat_indices(where: np.ndarray, shape: tuple[int, ...], storage_order: int) -> np.ndarray:
    """Places in a plane as ONNX's indices into the whole input; order 1 counts spatial axes from the first one."""
    plane = int(np.prod(shape[2:]))
    if storage_order == 1:
        coordinates = np.unravel_index(np.maximum(where, 0), shape[2:])
        where = np.ravel_multi_index(coordinates, shape[2:], order="F")
    first = np.arange(shape[0] * shape[1], dtype=np.int64).reshape(shape[0], shape[1], *(1,) * (where.ndim - 2))
    return where + first * plane


@kernel("max_pool")
def max_pool(
    x,
    *,
    kernel_shape,
    strides=(),
    pads=(),
    dilations=(),
    ceil_mode=False,
    auto_pad="explicit",
    storage_order=0,
    channels_last=False,
):
    """x [N, C, *S] to [N, C, *S']: padding never wins, NaN does."""
    return _max_pool(x, kernel_shape, strides, pads, dilations, ceil_mode, auto_pad, storage_order, channels_last)[0]


@kernel("max_pool_with_indices")
def max_pool_with_indices(
    x,
    *,
    kernel_shape,
    strides=(),
    pads=(),
    dilations=(),
    ceil_mode=False,
    auto_pad="explicit",
    storage_order=0,
    channels_last=False,
):
    """max_pool and the i64 flat index in x (seen channels-first) of each maximum, the first one among equals."""
    return _max_pool(x, kernel_shape, strides, pads, dilations, ceil_mode, auto_pad, storage_order, channels_last)


@kernel("average_pool")
def average_pool(
    x,
    *,
    kernel_shape,
    strides=(),
    pads=(),
    dilations=(),
    ceil_mode=False,
    auto_pad="explicit",
    count_include_pad=False,
    channels_last=False,
):
    """Mean over each window; with `count_include_pad` padding counts as zeros, an overhang of ceil_mode never does."""
    data = channels_first(wide, x, channels_last)
    geometry = window(kernel_shape, strides, pads, dilations, auto_pad)
    bounds, geometry = _sliding(geometry, data.shape[2:], ceil_mode)
    counts = []
    for axis, (size, out) in enumerate(zip(data.shape[2:], bounds.sizes, strict=True)):
        taps = np.arange(geometry.kernel[axis]) * geometry.dilations[axis]
        places = np.arange(out)[:, None] * geometry.strides[axis] - geometry.begins[axis] + taps
        low, high = (-geometry.begins[axis], size + geometry.ends[axis]) if count_include_pad else (0, size)
        counts.append(((places >= low) & (places < high)).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        y = _total(data, bounds) / _per_axis(counts)
    return channels_as(narrow(y, x.dtype), channels_last)


@kernel("lp_pool")
def lp_pool(
    x,
    *,
    kernel_shape,
    strides=(),
    pads=(),
    dilations=(),
    ceil_mode=False,
    auto_pad="explicit",
    p=2,
    channels_last=False,
):
    """(sum of |x|^p)^(1/p) over each window."""
    data = channels_first(wide, x, channels_last)
    geometry = window(kernel_shape, strides, pads, dilations, auto_pad)
    bounds, _ = _sliding(geometry, data.shape[2:], ceil_mode)
    y = _total(np.abs(data) ** p, bounds) ** (1.0 / p)
    return channels_as(narrow(y, x.dtype), channels_last)


def _spatial(x: np.ndarray, channels_last: bool) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1)) if channels_last else tuple(range(2, x.ndim))


@kernel("global_average_pool")
def global_average_pool(x, *, channels_last=False):
    """Mean over all spatial axes, kept with size 1."""
    return narrow(wide(x).mean(axis=_spatial(x, channels_last), keepdims=True), x.dtype)


@kernel("global_max_pool")
def global_max_pool(x, *, channels_last=False):
    """Largest value over all spatial axes, kept with size 1; NaN wins."""
    return x.max(axis=_spatial(x, channels_last), keepdims=True)


@kernel("global_lp_pool")
def global_lp_pool(x, *, p=2, channels_last=False):
    """(sum of |x|^p)^(1/p) over all spatial axes, kept with size 1."""
    total = (np.abs(wide(x)) ** p).sum(axis=_spatial(x, channels_last), keepdims=True)
    return narrow(total ** (1.0 / p), x.dtype)


@kernel("adaptive_average_pool")
def adaptive_average_pool(x, *, output_size, channels_last=False):
    """Mean over `output_size` windows per axis that cover the input evenly."""
    data = channels_first(wide, x, channels_last)
    bounds = _adaptive(data.shape[2:], output_size)
    counts = [stop - start for start, stop in zip(bounds.flat[::2], bounds.flat[1::2], strict=True)]
    y = _total(data, bounds) / _per_axis(counts[-len(output_size) :])
    return channels_as(narrow(y, x.dtype), channels_last)


@kernel("adaptive_max_pool")
def adaptive_max_pool(x, *, output_size, channels_last=False):
    """Largest value over `output_size` windows per axis that cover the input evenly."""
    data = channels_first(wide, x, channels_last)
    y, _ = _largest(data, _adaptive(data.shape[2:], output_size))
    return channels_as(narrow(y, x.dtype), channels_last)


@kernel("max_unpool")
def max_unpool(x, indices, output_shape=None, *, kernel_shape, strides=(), pads=()):
    """Zeros, but each x at its flat index.

    Indices count in the shape that kernel, strides and pads imply; a larger `output_shape` holds that result at its
    origin (ONNX MaxUnpool).
    """
    geometry = window(kernel_shape, strides, pads)
    implied = list(x.shape[:2])
    for axis, size in enumerate(x.shape[2:]):
        padding = geometry.begins[axis] + geometry.ends[axis]
        implied.append((size - 1) * geometry.strides[axis] + geometry.kernel[axis] - padding)
    y = np.zeros(int(np.prod(implied)), x.dtype)
    y[indices.ravel()] = x.ravel()
    y = y.reshape(implied)
    if output_shape is None:
        return y
    placed = np.zeros(tuple(int(n) for n in output_shape), x.dtype)
    placed[tuple(slice(0, n) for n in implied)] = y
    return placed
