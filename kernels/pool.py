"""Pooling: maxima and sums are taken one axis after another, tap by tap over whole arrays framed with their padding.

Maxima stay in the stored dtype, sums are float64. Only a maximum's place needs the whole window, and a compiled loop: along
each axis output o reads input positions start[o], start[o] + dilation, ... below stop[o], clipped to the input. Imports no
framework.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..ir.ops.window import Window, output_sizes, resolve_pads, window
from .conv import channels_as, channels_first, framed, in_three_dims
from .jit import jit
from .numeric import exact, lowest
from .precision import narrow, wide
from .registry import kernel


def _taps_in_space(x, starts_d, stops_d, starts_h, stops_h, starts_w, stops_w, steps, y, where):
    """Steps of a loop over all windows."""
    return x.shape[0] * _taps(starts_d, stops_d) * _taps(starts_h, stops_h) * _taps(starts_w, stops_w)


def _taps(starts, stops):
    return int(np.maximum(stops - starts, 0).sum())


@jit(_taps_in_space)
def _window_argmax(x, starts_d, stops_d, starts_h, stops_h, starts_w, stops_w, steps, y, where):
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


class Bounds:
    """Where the windows of each spatial axis start and stop, and the step between taps."""

    def __init__(self, starts: list[np.ndarray], stops: list[np.ndarray], steps: tuple[int, ...]) -> None:
        self.starts, self.stops, self.steps = starts, stops, steps
        self.sizes = tuple(len(s) for s in starts)

    def in_three_dims(self) -> tuple[list[np.ndarray], tuple[int, ...]]:
        """Starts and stops of D, H, W in turn, and the steps; missing axes have one window of one position."""
        missing = 3 - len(self.steps)
        pairs = [(np.zeros(1, np.int64), np.ones(1, np.int64))] * missing
        pairs += list(zip(self.starts, self.stops, strict=True))
        return [array for pair in pairs for array in pair], (1,) * missing + tuple(self.steps)


def _sliding(geometry: Window, sizes: tuple[Any, ...], ceil_mode: bool) -> tuple[Bounds, Window]:
    outs: tuple[Any, ...] = output_sizes(geometry, sizes, ceil_mode)
    geometry = resolve_pads(geometry, sizes)
    starts, stops = [], []
    for axis, (size, out) in enumerate(zip(sizes, outs, strict=True)):
        first = np.arange(out, dtype=np.int64) * geometry.strides[axis] - geometry.begins[axis]
        step = geometry.dilations[axis]
        skipped = np.maximum(0, -(first // step))  # taps that lie before the input
        starts.append(first + skipped * step)
        stops.append(np.minimum(first + geometry.extents[axis], size))
    return Bounds(starts, stops, geometry.dilations), geometry


def _adaptive(sizes: tuple[int, ...], outs: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Starts and stops per axis: floor(i * size / out) to ceil((i + 1) * size / out), as torch's adaptive pools."""
    return [
        (np.arange(out, dtype=np.int64) * size // out, -(-np.arange(1, out + 1, dtype=np.int64) * size // out))
        for size, out in zip(sizes, outs, strict=True)
    ]


def _slide(ufunc: np.ufunc, x: np.ndarray, geometry: Window, outs: tuple[int, ...]) -> np.ndarray:
    """`ufunc` (maximum or add) over the windows of framed x [N, C, *S]: one tap of one axis at a time."""
    for axis, out in enumerate(outs, 2):
        step, dilation = geometry.strides[axis - 2], geometry.dilations[axis - 2]
        taps = [
            x[(slice(None),) * axis + (slice(first, first + (out - 1) * step + 1, step),)]
            for first in range(0, geometry.kernel[axis - 2] * dilation, dilation)
        ]
        y = taps[0].copy()
        for tap in taps[1:]:
            ufunc(y, tap, out=y)
        x = y
    return x


def _over_bounds(ufunc: np.ufunc, x: np.ndarray, bounds: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """`ufunc` over x[starts[o]:stops[o]] of each spatial axis of x [N, C, *S] in turn; no window is empty."""
    for axis, (starts, stops) in enumerate(bounds, 2):
        edge = np.zeros((*x.shape[:axis], 1, *x.shape[axis + 1 :]), x.dtype)  # a stop at the end is an index, too
        pairs = np.stack([starts, stops], axis=1).reshape(-1)
        x = ufunc.reduceat(np.concatenate([x, edge], axis=axis), pairs, axis=axis)
        x = x[(slice(None),) * axis + (slice(None, None, 2),)]
    return x


def _places(x: np.ndarray, bounds: Bounds) -> np.ndarray:
    """The flat place in its plane of each window's maximum; -1 where a window is empty."""
    full = in_three_dims(x)
    planes = full.reshape(math.prod(full.shape[:2]), *full.shape[2:])
    flat, steps = bounds.in_three_dims()
    y = np.empty((planes.shape[0], *map(len, flat[::2])))
    where = np.empty(y.shape, np.int64)
    _window_argmax(planes, *flat, steps, y, where)
    return where.reshape(*x.shape[:2], *bounds.sizes)


def _per_axis(counts: list[np.ndarray]) -> np.ndarray:
    """The outer product of one vector per spatial axis."""
    total = np.ones((1,) * len(counts))
    for axis, count in enumerate(counts):
        total = total * count.reshape([-1 if i == axis else 1 for i in range(len(counts))])
    return total


def _largest(x: np.ndarray, geometry: Window, ceil_mode: bool) -> np.ndarray:
    """Maxima of x [N, C, *S] in its dtype; a window of padding alone has the smallest value there is."""
    outs: Any = output_sizes(geometry, x.shape[2:], ceil_mode)
    whole = resolve_pads(geometry, x.shape[2:])
    if 0 in (*outs, *x.shape):
        return np.full((*x.shape[:2], *outs), lowest(x.dtype), x.dtype)
    fill: Any = np.asarray(lowest(x.dtype)).astype(np.float64)
    return narrow(_slide(np.maximum, framed(exact(x), whole, outs, fill), whole, outs), x.dtype)


def _sums(x: np.ndarray, geometry: Window, outs: tuple[int, ...]) -> np.ndarray:
    """float64 sums over the windows of float64 x [N, C, *S], whose padding is explicit."""
    if 0 in (*outs, *x.shape):
        return np.zeros((*x.shape[:2], *outs))
    return _slide(np.add, framed(x, geometry, outs), geometry, outs)


def _flat_indices(where: np.ndarray, shape: tuple[int, ...], storage_order: int) -> np.ndarray:
    """Places in a plane as ONNX's indices into the whole input; order 1 counts spatial axes from the first one."""
    plane = math.prod(shape[2:])
    if storage_order == 1:
        coordinates = np.unravel_index(np.maximum(where, 0), shape[2:])
        where = np.asarray(np.ravel_multi_index(coordinates, shape[2:], order="F"))
    first = np.arange(shape[0] * shape[1], dtype=np.int64).reshape(shape[0], shape[1], *(1,) * (where.ndim - 2))
    return where + first * plane


@kernel("max_pool")
def max_pool(x, *, kernel_shape, strides, pads, dilations, ceil_mode, auto_pad, channels_last, storage_order=0):
    """x [N, C, *S] to [N, C, *S']: padding never wins, NaN does."""
    data = channels_first(np.asarray, x, channels_last)
    geometry = window(kernel_shape, strides, pads, dilations, auto_pad)
    return channels_as(_largest(data, geometry, ceil_mode), channels_last)


@kernel("max_pool_with_indices")
def max_pool_with_indices(
    x, *, kernel_shape, strides, pads, dilations, ceil_mode, auto_pad, storage_order, channels_last
):
    """max_pool and the i64 flat index in x (seen channels-first) of each maximum, the first one among equals."""
    data = channels_first(np.asarray, x, channels_last)
    geometry = window(kernel_shape, strides, pads, dilations, auto_pad)
    y = _largest(data, geometry, ceil_mode)
    bounds, _ = _sliding(geometry, data.shape[2:], ceil_mode)
    indices = _flat_indices(_places(wide(data), bounds), data.shape, storage_order)
    return channels_as(y, channels_last), channels_as(indices, channels_last)


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
    outs = output_sizes(geometry, data.shape[2:], ceil_mode)
    geometry = resolve_pads(geometry, data.shape[2:])
    counts = []
    for axis, (size, out) in enumerate(zip(data.shape[2:], outs, strict=True)):
        taps = np.arange(geometry.kernel[axis]) * geometry.dilations[axis]
        places = np.arange(out)[:, None] * geometry.strides[axis] - geometry.begins[axis] + taps
        low, high = (-geometry.begins[axis], size + geometry.ends[axis]) if count_include_pad else (0, size)
        counts.append(((places >= low) & (places < high)).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        y = _sums(data, geometry, outs) / _per_axis(counts)
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
    outs = output_sizes(geometry, data.shape[2:], ceil_mode)
    y = _sums(np.abs(data) ** p, resolve_pads(geometry, data.shape[2:]), outs) ** (1.0 / p)
    return channels_as(narrow(y, x.dtype), channels_last)


def _spatial(x: np.ndarray, channels_last: bool) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1)) if channels_last else tuple(range(2, x.ndim))


@kernel("global_average_pool")
def global_average_pool(x, *, channels_last=False):
    """Mean over all spatial axes, kept with size 1."""
    return narrow(x.mean(axis=_spatial(x, channels_last), dtype=np.float64, keepdims=True), x.dtype)


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
    counts = [stop - start for start, stop in bounds]
    y = _over_bounds(np.add, data, bounds) / _per_axis(counts)
    return channels_as(narrow(y, x.dtype), channels_last)


@kernel("adaptive_max_pool")
def adaptive_max_pool(x, *, output_size, channels_last=False):
    """Largest value over `output_size` windows per axis that cover the input evenly."""
    data = channels_first(exact, x, channels_last)
    y = _over_bounds(np.maximum, data, _adaptive(data.shape[2:], output_size))
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
