"""Pooling: windows as per-axis bounds, so that plain, padded, dilated, overhanging and adaptive pools share loops.

Along each axis output o reads input positions start[o], start[o] + dilation, ... below stop[o], already clipped to the
input. Maxima and sums are taken one axis after another; only a maximum's place needs the whole window. Values are taken
to float64, which holds every dtype that ONNX pools exactly. Imports no framework.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..ir.ops.window import Window, output_sizes, resolve_pads, window
from .conv import channels_as, channels_first, in_three_dims
from .jit import jit
from .precision import narrow, wide
from .registry import kernel


def _taps_along_axis(x, starts, stops, step, y):
    """Steps of a loop over the windows of the middle axis."""
    return _taps(starts, stops) * x.shape[0] * x.shape[2] + y.size


@jit(_taps_along_axis)
def _axis_max(x, starts, stops, step, y):
    """y [A, O, B] = the largest of x [A, I, B] in each window of the middle axis; NaN wins, an empty one is -inf."""
    outer, _, inner = x.shape
    for a in range(outer):
        for o in range(len(starts)):
            if inner == 1:
                best = -np.inf
                for i in range(starts[o], stops[o], step):
                    value = x[a, i, 0]
                    best = value if value > best or value != value else best
                y[a, o, 0] = best
                continue
            target = y[a, o]
            for b in range(inner):
                target[b] = -np.inf
            for i in range(starts[o], stops[o], step):
                line = x[a, i]
                for b in range(inner):
                    value = line[b]
                    best = target[b]
                    target[b] = value if value > best or value != value else best


@jit(_taps_along_axis)
def _axis_sum(x, starts, stops, step, y):
    """y [A, O, B] = the sum of x [A, I, B] over each window of the middle axis."""
    outer, _, inner = x.shape
    for a in range(outer):
        for o in range(len(starts)):
            if inner == 1:
                total = 0.0
                for i in range(starts[o], stops[o], step):
                    total += x[a, i, 0]
                y[a, o, 0] = total
                continue
            target = y[a, o]
            for b in range(inner):
                target[b] = 0.0
            for i in range(starts[o], stops[o], step):
                line = x[a, i]
                for b in range(inner):
                    target[b] += line[b]


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


def _adaptive(sizes: tuple[int, ...], outs: tuple[int, ...]) -> Bounds:
    """floor(i * size / out) to ceil((i + 1) * size / out), as torch's adaptive pools."""
    starts = [np.arange(out, dtype=np.int64) * size // out for size, out in zip(sizes, outs, strict=True)]
    stops = [-(-np.arange(1, out + 1, dtype=np.int64) * size // out) for size, out in zip(sizes, outs, strict=True)]
    return Bounds(starts, stops, (1,) * len(outs))


def _reduce(body, x: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Apply `_axis_max` or `_axis_sum` along each spatial axis of x [N, C, *S] in turn."""
    for axis, (starts, stops, step) in enumerate(zip(bounds.starts, bounds.stops, bounds.steps, strict=True), 2):
        inner = math.prod(x.shape[axis + 1 :])
        y = np.empty((*x.shape[:axis], len(starts), *x.shape[axis + 1 :]))
        outer = math.prod(x.shape[:axis])
        source, target = x.reshape(outer, x.shape[axis], inner), y.reshape(outer, len(starts), inner)
        body(source, starts, stops, step, target)
        x = y
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


def _largest(x: np.ndarray, bounds: Bounds, dtype: np.dtype) -> np.ndarray:
    """Maxima in `dtype`; an empty window has the smallest value there is."""
    y = _reduce(_axis_max, x, bounds)
    if dtype.kind in "iu":
        y = np.maximum(y, np.iinfo(dtype).min)
    return narrow(y, dtype)


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
    data = channels_first(wide, x, channels_last)
    bounds, _ = _sliding(window(kernel_shape, strides, pads, dilations, auto_pad), data.shape[2:], ceil_mode)
    return channels_as(_largest(data, bounds, x.dtype), channels_last)


@kernel("max_pool_with_indices")
def max_pool_with_indices(
    x, *, kernel_shape, strides, pads, dilations, ceil_mode, auto_pad, storage_order, channels_last
):
    """max_pool and the i64 flat index in x (seen channels-first) of each maximum, the first one among equals."""
    data = channels_first(wide, x, channels_last)
    bounds, _ = _sliding(window(kernel_shape, strides, pads, dilations, auto_pad), data.shape[2:], ceil_mode)
    y = _largest(data, bounds, x.dtype)
    indices = _flat_indices(_places(data, bounds), data.shape, storage_order)
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
    bounds, geometry = _sliding(geometry, data.shape[2:], ceil_mode)
    counts = []
    for axis, (size, out) in enumerate(zip(data.shape[2:], bounds.sizes, strict=True)):
        taps = np.arange(geometry.kernel[axis]) * geometry.dilations[axis]
        places = np.arange(out)[:, None] * geometry.strides[axis] - geometry.begins[axis] + taps
        low, high = (-geometry.begins[axis], size + geometry.ends[axis]) if count_include_pad else (0, size)
        counts.append(((places >= low) & (places < high)).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        y = _reduce(_axis_sum, data, bounds) / _per_axis(counts)
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
    y = _reduce(_axis_sum, np.abs(data) ** p, bounds) ** (1.0 / p)
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
    counts = [stop - start for start, stop in zip(bounds.starts, bounds.stops, strict=True)]
    y = _reduce(_axis_sum, data, bounds) / _per_axis(counts)
    return channels_as(narrow(y, x.dtype), channels_last)


@kernel("adaptive_max_pool")
def adaptive_max_pool(x, *, output_size, channels_last=False):
    """Largest value over `output_size` windows per axis that cover the input evenly."""
    data = channels_first(wide, x, channels_last)
    return channels_as(_largest(data, _adaptive(data.shape[2:], output_size), x.dtype), channels_last)


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
