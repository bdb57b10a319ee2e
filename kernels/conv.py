"""conv, conv_transpose and conv_integer: windows as strided views, products by BLAS, sums in float64.

A convolution of any rank runs in three spatial dims (leading ones of size 1) over data framed with its padding. Windows
are unfolded a tile of output places at a time, so that buffers stay in cache, and each tile is rounded as soon as it is
summed. Convolutions with very few input channels per group (depthwise) are summed by a compiled loop instead: unfolding
them would be all copying. Imports no framework.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np

from ..ir.ops.window import Window, output_sizes, resolve_pads, transposed, window
from .budget import hold
from .constants import kept
from .jit import jit
from .precision import narrow, wide
from .product import BYTE_RANGE, integer_product, less_zero_point, multiply, widened
from .registry import kernel

UNFOLD_BYTES = 1 << 19
#: Tiles of fewer output places than this waste BLAS.
LEAST_PLACES = 96
#: How a tensor is tiled is remembered up to about this many tiles.
MOST_KEPT_TILES = 64
DIRECT_CHANNELS = 2
#: Places that a compiled convolution adds up at a time: they stay in the innermost cache.
LINE = 1024

_geometry = functools.lru_cache(maxsize=1 << 10)(window)


@jit(lambda x, w, bias, y, *_: y.size * w[0].size)
def _slide(x, w, bias, y, size, columns, strides, dilations):
    """The first `size` of y [O, OD, L] = bias [O] + the convolution of x [C, D, SH, SW, L'] with w [O, C/groups, KD, KH, KW], in
    float64.

    x is framed, and place (p, q) of a plane stands at [p % SH, q % SW, p // SH * columns + q // SW] with SH and SW the last
    strides: what one tap adds to all places of a plane then lies in one line. So does the result, its rows `columns` apart;
    what stands between the end of one and the beginning of the next is nothing.
    """
    outs, per_group, kernel_d, kernel_h, kernel_w = w.shape
    share = outs * per_group // len(x)
    odd = 3 if kernel_w % 2 and kernel_w > 1 else kernel_w % 2  # taps that do not go in pairs
    for out in range(outs):
        for od in range(y.shape[1]):
            for start in range(0, size, LINE):
                line = y[out, od, start : min(start + LINE, size)]
                _fill(line, bias[out])
                for c in range(per_group):
                    for kd in range(kernel_d):
                        phases = x[out // share * per_group + c, od * strides[0] + kd * dilations[0]]
                        for kh in range(kernel_h):
                            p = kh * dilations[1]
                            plane = phases[p % strides[1]]
                            row = start + p // strides[1] * columns
                            taps = w[out, c, kd, kh]
                            for kw in range(0, kernel_w - odd, 2):
                                first = _seen(plane, row, kw * dilations[2], strides[2])
                                second = _seen(plane, row, (kw + 1) * dilations[2], strides[2])
                                _add_pair(line, first, taps[kw], second, taps[kw + 1])
                            last = _seen(plane, row, (kernel_w - 1) * dilations[2], strides[2])
                            if odd == 1:
                                _add_scaled(line, last, taps[kernel_w - 1])
                            elif odd:
                                first = _seen(plane, row, (kernel_w - 3) * dilations[2], strides[2])
                                second = _seen(plane, row, (kernel_w - 2) * dilations[2], strides[2])
                                _add_three(line, first, second, last, taps[kernel_w - 3 :])


@jit(lambda *_: 1)
def _seen(plane, row, q, stride):
    """What the tap in column q sees, from the beginning of a row on."""
    return plane[q % stride, row + q // stride :]


@jit(lambda line, value: line.size)
def _fill(line, value):
    for i in range(len(line)):
        line[i] = value


@jit(lambda line, first, a, second, b: line.size)
def _add_pair(line, first, a, second, b):
    """line += a * first + b * second."""
    for i in range(len(line)):
        line[i] += a * first[i] + b * second[i]


@jit(lambda line, first, second, third, taps: line.size)
def _add_three(line, first, second, third, taps):
    """line = (line + (taps[0] * first + taps[1] * second)) + taps[2] * third: in one go what _add_pair and _add_scaled do."""
    a, b, c = taps[0], taps[1], taps[2]
    for i in range(len(line)):
        line[i] = (line[i] + (a * first[i] + b * second[i])) + c * third[i]


@jit(lambda line, source, weight: line.size)
def _add_scaled(line, source, weight):
    """line += weight * source."""
    for i in range(len(line)):
        line[i] += weight * source[i]


@kernel("conv")
def conv(x, w, b=None, *, strides=(), pads=(), dilations=(), groups=1, auto_pad="explicit", channels_last=False):
    """x [N, C, *S] (or [N, *S, C]), w [O, C/groups, *K], b [O] to [N, O, *S'] in x's dtype and layout."""
    geometry = _geometry(w.shape[2:], strides, pads, dilations, auto_pad)
    bias = np.zeros(w.shape[0]) if b is None else kept(wide, b)
    y = convolve(channels_first(stored, x, channels_last), stored(w), bias, geometry, groups)
    return channels_as(narrow(y, x.dtype), channels_last)


@kernel("conv_integer")
def conv_integer(
    x, w, x_zp=None, w_zp=None, *, strides=(), pads=(), dilations=(), groups=1, auto_pad="explicit", channels_last=False
):
    """8-bit x and w less their zero points in i32, exactly. Padding is x_zp."""
    geometry = _geometry(w.shape[2:], strides, pads, dilations, auto_pad)
    data = less_zero_point(channels_first(np.asarray, x, channels_last), x_zp)
    zeros = None if w_zp is None else w_zp.reshape((-1,) + (1,) * (w.ndim - 1))
    return channels_as(_convolve_integers(data, less_zero_point(w, zeros), geometry, groups), channels_last)


@kernel("conv_transpose")
def conv_transpose(
    x,
    w,
    b=None,
    *,
    strides=(),
    pads=(),
    output_padding=(),
    dilations=(),
    groups=1,
    auto_pad="explicit",
    output_shape=(),
    channels_last=False,
):
    """x [N, C, *S], w [C, O/groups, *K], b [O] to [N, O, *S']: the gradient of conv by its input."""
    data = channels_first(stored, x, channels_last)
    geometry = _geometry(w.shape[2:], strides, pads, dilations, auto_pad)
    geometry, sizes = transposed(geometry, data.shape[2:], output_padding, output_shape)
    y = _convolve_transposed(data, stored(w), geometry, sizes, groups)
    if b is not None:
        y += wide(b).reshape((-1,) + (1,) * (y.ndim - 2))
    return channels_as(narrow(y, x.dtype), channels_last)


def stored(x: np.ndarray) -> np.ndarray:
    """`x` as convolutions read it: in its own dtype if that is float32, else in float64."""
    return x if x.dtype == np.float32 else wide(x)


def channels_first(convert, x, channels_last):
    """`convert(x)` with the channel axis second."""
    return convert(np.moveaxis(x, -1, 1)) if channels_last else convert(x)


def channels_as(y, channels_last):
    """`y` [N, C, *S] in the declared layout, contiguous."""
    return np.ascontiguousarray(np.moveaxis(y, 1, -1)) if channels_last else y


def in_three_dims(x: np.ndarray) -> np.ndarray:
    """[A, B, *S] as [A, B, D, H, W]."""
    return x.reshape(x.shape[:2] + (1,) * (5 - x.ndim) + x.shape[2:])


def widen(w: Window) -> Window:
    """The window over three spatial dims."""
    missing = 3 - len(w.kernel)
    ones, zeros = (1,) * missing, (0,) * missing
    return Window(ones + w.kernel, ones + w.strides, ones + w.dilations, zeros + w.begins, zeros + w.ends)


def framed(x: np.ndarray, w: Window, sizes: tuple[int, ...], fill: float = 0.0) -> np.ndarray:
    """x [A, B, *S] grown by its padding, filled with `fill`, and cropped, so that it ends with the last tap of each axis;
    x itself where nothing changes. `sizes` are those of the output."""
    lengths, source, target = _frame(x.shape[2:], w, tuple(sizes))
    if lengths == x.shape[2:] and not any(w.begins):
        return x
    hold(math.prod(x.shape[:2]) * math.prod(lengths) * x.itemsize)
    y = np.full((*x.shape[:2], *lengths), fill, x.dtype)
    y[(..., *target)] = x[(..., *source)]
    return y


@functools.lru_cache(maxsize=1 << 10)
def _frame(shape: tuple[int, ...], w: Window, sizes: tuple[int, ...]) -> tuple:
    """The lengths of a frame, and which part of the data goes where in it."""
    lengths = tuple((o - 1) * s + e for o, s, e in zip(sizes, w.strides, w.extents, strict=True))
    source: list[slice] = []
    target: list[slice] = []
    for size, length, begin in zip(shape, lengths, w.begins, strict=True):
        first, place = max(-begin, 0), max(begin, 0)
        count = max(min(size - first, length - place), 0)
        source.append(slice(first, first + count))
        target.append(slice(place, place + count))
    return lengths, source, target


def windows(x: np.ndarray, w: Window, sizes: tuple[int, ...]) -> np.ndarray:
    """framed x [A, B, *S], contiguous, as a view [A, B, *kernel, *sizes]: every tap of every output."""
    steps = x.strides[2:]
    taps = tuple(step * d for step, d in zip(steps, w.dilations, strict=True))
    moves = tuple(step * s for step, s in zip(steps, w.strides, strict=True))
    return np.ndarray((*x.shape[:2], *w.kernel, *sizes), x.dtype, x, 0, (*x.strides[:2], *taps, *moves))


def convolve(x: np.ndarray, w: np.ndarray, bias: np.ndarray, geometry: Window, groups: int) -> np.ndarray:
    """x [N, C, *S] with w [O, C/groups, *K] plus bias [O], summed in float64, rounded once to the `stored` dtype of x."""
    x3, w3, full, sizes = _prepared(x, w, geometry)
    y = np.empty((x.shape[0], w.shape[0], *sizes), x.dtype)
    if y.size and not w.size:
        y[...] = bias.reshape(-1, 1, 1, 1)
    elif y.size and w.shape[1] <= DIRECT_CHANNELS and groups > 1:
        _direct(x3, w3, bias, y, full, groups)
    elif y.size:
        _unfolded(x3, w3, bias, y, full, groups)
    return y.reshape(x.shape[0], w.shape[0], *sizes[3 - len(geometry.kernel) :])


def _convolve_integers(x: np.ndarray, w: np.ndarray, geometry: Window, groups: int) -> np.ndarray:
    """The same of integral float32 values up to 255 in size, exactly, in int32."""
    x3, w3, full, sizes = _prepared(x, w, geometry)
    y = np.zeros((x.shape[0], w.shape[0], *sizes), np.int32)
    if y.size and w.size:
        weights = w3.reshape(groups, w.shape[0] // groups, -1)
        results = y.reshape(x.shape[0], groups, weights.shape[1], -1)
        for samples, places, cols in _tiles(x3, full, sizes, groups, np.float32):
            results[samples, :, :, places] = integer_product(weights, cols, BYTE_RANGE, BYTE_RANGE)
    return y.reshape(x.shape[0], w.shape[0], *sizes[3 - len(geometry.kernel) :])


def _prepared(x: np.ndarray, w: np.ndarray, geometry: Window):
    """Data, weights, window and output sizes in three spatial dims."""
    return in_three_dims(x), in_three_dims(w), *_in_space(geometry, x.shape[2:])


@functools.lru_cache(maxsize=1 << 10)
def _in_space(geometry: Window, sizes: tuple[int, ...]) -> tuple[Window, tuple[int, ...]]:
    """The window, its padding explicit, and the output sizes in three spatial dims."""
    whole = resolve_pads(geometry, sizes)
    outs: Any = output_sizes(whole, sizes)
    return widen(whole), (1,) * (3 - len(outs)) + tuple(outs)


def _direct(x, w, bias, y, full, groups):
    """As many whole groups at a time as the buffers hold."""
    n, outs = y.shape[:2]
    per_group, share, (_, step_h, step_w) = w.shape[1], outs // groups, full.strides
    weights, (out_d, out_h, out_w) = wide(w), y.shape[2:]
    lengths, source, target = _frame(x.shape[2:], full, (out_d, out_h, out_w))
    rows, columns = -(-lengths[1] // step_h), -(-lengths[2] // step_w)
    size = (out_h - 1) * columns + out_w
    each = per_group * lengths[0] * step_h * step_w * rows * columns + share * out_d * out_h * columns
    step = max(1, min(groups, UNFOLD_BYTES // (8 * each)))
    hold(8 * step * each)
    planes = np.zeros((step * per_group, lengths[0], step_h, step_w, rows, columns))
    made = np.empty((step * share, out_d, out_h * columns))
    moves = [(a, b, _in_phase(source[1], target[1], step_h, a), _in_phase(source[2], target[2], step_w, b))
             for a, b in itertools.product(range(step_h), range(step_w))]  # fmt: skip
    for i, first in itertools.product(range(n), range(0, groups, step)):
        count = min(step, groups - first)
        inputs, taken = x[i, first * per_group : (first + count) * per_group, source[0]], planes[: count * per_group]
        for a, b, (read_rows, their_rows), (read_columns, their_columns) in moves:
            taken[:, target[0], a, b, their_rows, their_columns] = inputs[:, :, read_rows, read_columns]
        part, results = slice(first * share, (first + count) * share), made[: count * share]
        lines = taken.reshape(*taken.shape[:4], -1)
        _slide(lines, weights[part], bias[part], results, size, columns, full.strides, full.dilations)
        y[i, part] = results.reshape(-1, out_d, out_h, columns)[..., :out_w]


def _in_phase(source: slice, target: slice, stride: int, phase: int) -> tuple[slice, slice]:
    """What part of `source`, which goes to `target`, goes to the places there that are `phase` modulo `stride`, and where it
    goes among these."""
    ahead = (phase - target.start) % stride
    first = (target.start + ahead) // stride
    count = max(-(-(target.stop - target.start - ahead) // stride), 0)
    return slice(source.start + ahead, source.stop, stride), slice(first, first + count)


def _unfolded(x, w, bias, y, full, groups):
    n, outs = y.shape[:2]
    if groups == 1 and _is_pointwise(full, x.shape[2:], y.shape[2:]):
        matrix = w.reshape(outs, -1)
        for data, made in zip(x.reshape(n, x.shape[1], -1), y.reshape(n, outs, -1), strict=True):
            multiply(matrix, data, made, _adder(bias[:, None]))
        return
    results, offsets = y.reshape(n, groups, outs // groups, -1), bias.reshape(groups, -1, 1)
    weights = w.reshape(groups, outs // groups, -1)
    for samples, places, cols in _tiles(x, full, y.shape[2:], groups, np.float64):
        if n == groups == 1 and cols.shape[3] == results.shape[3]:  # one product: large weights go by panels
            multiply(weights[0], cols[0, 0], results[0, 0], _adder(offsets[0]))
            return
        weights = widened(weights)
        made = np.matmul(weights, cols)
        made += offsets
        results[samples, :, :, places] = made


def _is_pointwise(full, places, sizes):
    """Whether every output place sees one tap of the data, its own: nothing has to be unfolded."""
    return full.kernel == full.strides == (1, 1, 1) and places == sizes and not any(full.begins)


def _adder(offsets):
    """Adds offsets [M, 1] to the rows of a product."""

    def add(part, rows, columns):
        part += offsets[rows]

    return add


def _tiles(x, full, sizes, groups, dtype):
    """Unfold x [N, C, D, H, W] tile by tile: (samples, output places, cols [samples, groups, taps, places]).

    A tile has as many whole samples as the buffer holds, or else planes, rows or places of one.
    """
    lines = np.ascontiguousarray(framed(x, full, sizes))
    view = windows(lines.reshape(len(x) * groups, -1, *lines.shape[2:]), full, sizes)
    taps = math.prod(view.shape[1:5])
    fits = max(UNFOLD_BYTES // (np.dtype(dtype).itemsize * groups * taps), LEAST_PLACES)
    few = len(x) * math.prod(sizes) <= MOST_KEPT_TILES * fits
    biggest, plan = (_tile_plan if few else _tile_plan.__wrapped__)(len(x), sizes, fits)
    buffer = np.empty(groups * taps * biggest, dtype)
    for samples, box, places in plan:
        part = view[samples.start * groups : samples.stop * groups][box]
        cols = buffer[: part.size].reshape(part.shape)
        np.copyto(cols, part)
        yield samples, places, cols.reshape(-1, groups, taps, places.stop - places.start)


@functools.lru_cache(maxsize=1 << 8)
def _tile_plan(n: int, sizes: tuple[int, ...], fits: int) -> tuple[int, list[tuple[slice, tuple, slice]]]:
    """Places of the largest tile, and per tile its samples, its box in the last three axes, its output places."""
    steps, left = [0, 0, 0], fits
    for axis in (2, 1, 0):
        steps[axis] = min(sizes[axis], max(left, 1))
        left //= sizes[axis]
    count = min(n, max(left, 1))
    plan = []
    for start in range(0, n, count):
        samples = slice(start, min(start + count, n))
        for corner in itertools.product(*(range(0, size, step) for size, step in zip(sizes, steps, strict=True))):
            spans = [slice(c, min(c + t, size)) for c, t, size in zip(corner, steps, sizes, strict=True)]
            first = (corner[0] * sizes[1] + corner[1]) * sizes[2] + corner[2]
            places = slice(first, first + math.prod(span.stop - span.start for span in spans))
            plan.append((samples, (..., *spans), places))
    return count * math.prod(steps), plan


def _convolve_transposed(x, w, geometry, sizes, groups):
    """float64: products of weights and inputs, each tap added where it falls in a frame around the output."""
    full = widen(geometry)
    n, channels = x.shape[:2]
    x3, whole = in_three_dims(x), (1,) * (3 - len(sizes)) + tuple(sizes)
    shifts = [max(-begin, 0) for begin in full.begins]
    spans = [(i - 1) * s + e for i, s, e in zip(x3.shape[2:], full.strides, full.extents, strict=True)]
    starts = [begin + shift for begin, shift in zip(full.begins, shifts, strict=True)]
    frame = [max(a + shift, b + size) for a, shift, b, size in zip(spans, shifts, starts, whole, strict=True)]
    hold(8 * n * w.shape[1] * groups * math.prod(frame))
    y = np.zeros((n, groups, w.shape[1], *frame))
    if y.size and w.size and x.size:
        weights = widened(w.reshape(groups, channels // groups, -1)).transpose(0, 2, 1)
        inputs = x3.reshape(n, groups, channels // groups, *x3.shape[2:])
        rows = max(1, UNFOLD_BYTES // (8 * weights.shape[1] * x3.shape[4]))
        blocks = itertools.product(range(n), range(groups), range(x3.shape[2]), range(0, x3.shape[3], rows))
        for i, g, d, h in blocks:
            part = inputs[i, g, :, d, h : h + rows]
            cols = weights[g] @ widened(part.reshape(len(part), -1))
            at = (shifts[0] + d * full.strides[0], shifts[1] + h * full.strides[1], shifts[2])
            _fold(cols.reshape(-1, *full.kernel, *part.shape[1:]), y[i, g], full, at)
    inside = tuple(slice(start, start + size) for start, size in zip(starts, whole, strict=True))
    return y[(..., *inside)].reshape(n, w.shape[1] * groups, *sizes)


def _fold(cols, y, full, at):
    """Add cols [O, KD, KH, KW, H, W] of one plane of inputs to y [O, *S]; `at` is where its first tap falls."""
    height, width = cols.shape[4:]
    for kd, kh, kw in itertools.product(*map(range, full.kernel)):
        top, left = at[1] + kh * full.dilations[1], at[2] + kw * full.dilations[2]
        rows = slice(top, top + (height - 1) * full.strides[1] + 1, full.strides[1])
        columns = slice(left, left + (width - 1) * full.strides[2] + 1, full.strides[2])
        y[:, at[0] + kd * full.dilations[0], rows, columns] += cols[:, kd, kh, kw]
