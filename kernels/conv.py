"""conv, conv_transpose and conv_integer: windows by compiled code, products by BLAS, in float64.

A convolution of any rank runs in three spatial dims (leading ones of size 1). Windows are unfolded a few output rows at
a time, so that the buffer stays in cache and large images need no large copy. Convolutions with very few input channels
per group (depthwise) are summed directly: unfolding them would be all copying. Imports no framework.
"""

from __future__ import annotations

import numpy as np

from ..ir.ops.window import Window, output_sizes, resolve_pads, transposed, window
from .jit import jit
from .precision import narrow, wide
from .registry import kernel

UNFOLD_BYTES = 16 << 20
DIRECT_CHANNELS = 2


@jit(lambda x, cols, *_: cols.size)
def _unfold(x, cols, first, kernel, strides, dilations, begins, out_h):
    """x [A, C, D, H, W] to cols [A, C*KD*KH*KW, rows, OW]: the taps of output rows first.. (row = od * out_h + oh)."""
    planes, channels, depth, height, width = x.shape
    _, _, rows, out_w = cols.shape
    for a in range(planes):
        index = 0
        for c in range(channels):
            for kd in range(kernel[0]):
                for kh in range(kernel[1]):
                    for kw in range(kernel[2]):
                        shift = kw * dilations[2] - begins[2]
                        low = min(max(0, -(shift // strides[2])), out_w)
                        high = max(low, min(out_w, (width - shift + strides[2] - 1) // strides[2]))
                        for row in range(rows):
                            d = (first + row) // out_h * strides[0] + kd * dilations[0] - begins[0]
                            h = (first + row) % out_h * strides[1] + kh * dilations[1] - begins[1]
                            if d < 0 or d >= depth or h < 0 or h >= height:
                                for o in range(out_w):
                                    cols[a, index, row, o] = 0.0
                                continue
                            for o in range(low):
                                cols[a, index, row, o] = 0.0
                            for o in range(low, high):
                                cols[a, index, row, o] = x[a, c, d, h, o * strides[2] + shift]
                            for o in range(high, out_w):
                                cols[a, index, row, o] = 0.0
                        index += 1


@jit(lambda x, w, y, *_: y.size * w[0].size)
def _direct(x, w, y, strides, dilations, begins):
    """Add the convolution of x [N, C, D, H, W] with w [O, C/groups, KD, KH, KW] to y [N, O, OD, OH, OW].

    Line by line over contiguous slices: that is what the compiler can vectorise.
    """
    samples, channels, depth, height, _ = x.shape
    outs, per_group, kernel_d, kernel_h, _ = w.shape
    _, _, out_d, out_h, _ = y.shape
    outs_per_group = outs * per_group // channels
    for n in range(samples):
        for out in range(outs):
            for c in range(per_group):
                source = out // outs_per_group * per_group + c
                for od in range(out_d):
                    for oh in range(out_h):
                        target = y[n, out, od, oh]
                        for kd in range(kernel_d):
                            d = od * strides[0] + kd * dilations[0] - begins[0]
                            for kh in range(kernel_h):
                                h = oh * strides[1] + kh * dilations[1] - begins[1]
                                if d >= 0 and d < depth and h >= 0 and h < height:
                                    line, taps = x[n, source, d, h], w[out, c, kd, kh]
                                    _add_line(line, taps, target, strides[2], dilations[2], begins[2])


@jit(lambda line, weights, target, *_: weights.size * target.size)
def _add_line(line, weights, target, stride, dilation, begin):
    """Add the one-dimensional convolution of `line` with `weights` to `target`."""
    for k in range(len(weights)):
        weight = weights[k]
        shift = k * dilation - begin
        low = max(0, -(shift // stride))
        high = min(len(target), (len(line) - shift + stride - 1) // stride)
        if high <= low:
            continue
        if stride == 1:
            into = target[low:high]
            part = line[low + shift : high + shift]
            for i in range(len(into)):
                into[i] += weight * part[i]
        else:
            for o in range(low, high):
                target[o] += weight * line[o * stride + shift]


@jit(lambda cols, *_: cols.size)
def _fold(cols, y, first, strides, dilations, begins, in_h):
    """Add cols [O, KD, KH, KW, rows, W] at the places where input rows first.. put their taps in y [O, OD, OH, OW]."""
    outs, kernel_d, kernel_h, kernel_w, rows, width = cols.shape
    _, out_d, out_h, out_w = y.shape
    for out in range(outs):
        for kd in range(kernel_d):
            for kh in range(kernel_h):
                for kw in range(kernel_w):
                    shift = kw * dilations[2] - begins[2]
                    low = min(max(0, -(shift // strides[2])), width)
                    high = min(width, (out_w - shift + strides[2] - 1) // strides[2])
                    for row in range(rows):
                        d = (first + row) // in_h * strides[0] + kd * dilations[0] - begins[0]
                        h = (first + row) % in_h * strides[1] + kh * dilations[1] - begins[1]
                        if d < 0 or d >= out_d or h < 0 or h >= out_h:
                            continue
                        for i in range(low, high):
                            y[out, d, h, i * strides[2] + shift] += cols[out, kd, kh, kw, row, i]


@kernel("conv")
def conv(x, w, b=None, *, strides=(), pads=(), dilations=(), groups=1, auto_pad="explicit", channels_last=False):
    """x [N, C, *S] (or [N, *S, C]), w [O, C/groups, *K], b [O] to [N, O, *S'] in x's dtype and layout."""
    geometry = window(w.shape[2:], strides, pads, dilations, auto_pad)
    y = convolve(channels_first(wide, x, channels_last), wide(w), geometry, groups)
    return _finish(y, b, x.dtype, channels_last)


@kernel("conv_integer")
def conv_integer(
    x, w, x_zp=None, w_zp=None, *, strides=(), pads=(), dilations=(), groups=1, auto_pad="explicit", channels_last=False
):
    """8-bit x and w less their zero points in i32, exactly: float64 holds every partial sum. Padding is x_zp."""
    geometry = window(w.shape[2:], strides, pads, dilations, auto_pad)
    data = channels_first(wide, x, channels_last)
    if x_zp is not None:
        data = data - wide(x_zp)
    weights = wide(w)
    if w_zp is not None:
        weights = weights - wide(w_zp).reshape((-1,) + (1,) * (w.ndim - 1))
    y = convolve(data, weights, geometry, groups)
    return channels_as(y.astype(np.int64).astype(np.int32), channels_last)


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
    data = channels_first(wide, x, channels_last)
    geometry = window(w.shape[2:], strides, pads, dilations, auto_pad)
    geometry, sizes = transposed(geometry, data.shape[2:], output_padding, output_shape)
    y = _convolve_transposed(data, wide(w), geometry, sizes, groups)
    return _finish(y, b, x.dtype, channels_last)


def channels_first(convert, x, channels_last):
    """`convert(x)` with the channel axis second."""
    return convert(np.moveaxis(x, -1, 1)) if channels_last else convert(x)


def channels_as(y, channels_last):
    """`y` [N, C, *S] in the declared layout, contiguous."""
    return np.ascontiguousarray(np.moveaxis(y, 1, -1)) if channels_last else y


def _finish(y, b, dtype, channels_last):
    if b is not None:
        y += wide(b).reshape((-1,) + (1,) * (y.ndim - 2))
    return channels_as(narrow(y, dtype), channels_last)


def in_three_dims(x: np.ndarray) -> np.ndarray:
    """[A, B, *S] as [A, B, D, H, W]."""
    return x.reshape(x.shape[:2] + (1,) * (5 - x.ndim) + x.shape[2:])


def widen(w: Window) -> Window:
    """The window over three spatial dims."""
    missing = 3 - len(w.kernel)
    ones, zeros = (1,) * missing, (0,) * missing
    return Window(ones + w.kernel, ones + w.strides, ones + w.dilations, zeros + w.begins, zeros + w.ends)


def convolve(x: np.ndarray, w: np.ndarray, geometry: Window, groups: int) -> np.ndarray:
    """float64 convolution of x [N, C, *S] with w [O, C/groups, *K]."""
    geometry = resolve_pads(geometry, x.shape[2:])
    sizes = output_sizes(geometry, x.shape[2:])
    full = widen(geometry)
    x3, w3 = in_three_dims(x), in_three_dims(w)
    y = np.zeros((x.shape[0], w.shape[0], *(1,) * (3 - len(sizes)), *sizes))
    if y.size and w.size:
        if w.shape[1] <= DIRECT_CHANNELS and groups > 1:
            _direct(x3, w3, y, full.strides, full.dilations, full.begins)
        elif _is_pointwise(full):
            _pointwise(x3, w3, y, full.strides, groups)
        else:
            _unfolded(x3, w3, y, full, groups)
    return y.reshape(x.shape[0], w.shape[0], *sizes)


def _is_pointwise(w: Window) -> bool:
    return w.kernel == (1, 1, 1) and not any(w.begins) and not any(w.ends)


def _pointwise(x, w, y, strides, groups):
    n, outs = y.shape[:2]
    taken = np.ascontiguousarray(x[:, :, :: strides[0], :: strides[1], :: strides[2]])
    columns = taken.reshape(n, groups, x.shape[1] // groups, -1)
    np.matmul(w.reshape(groups, outs // groups, -1), columns, out=y.reshape(n, groups, outs // groups, -1))


def _unfolded(x, w, y, full, groups):
    """Unfold and multiply as many whole samples, or else as many output rows of one, as the buffer holds."""
    n, outs, out_d, out_h, out_w = y.shape
    weights = w.reshape(groups, outs // groups, -1)
    taps, rows = weights.shape[2], out_d * out_h
    row_bytes = 8 * groups * taps * out_w
    tile = max(1, min(rows, UNFOLD_BYTES // row_bytes))
    batch = max(1, min(n, UNFOLD_BYTES // (row_bytes * rows)))
    buffer = np.empty(batch * groups * taps * tile * out_w)
    planes = x.reshape(n * groups, x.shape[1] // groups, *x.shape[2:])
    results = y.reshape(n, groups, outs // groups, rows * out_w)
    for start in range(0, n, batch):
        count = min(batch, n - start)
        part = planes[start * groups : (start + count) * groups]
        for first in range(0, rows, tile):
            height = min(tile, rows - first)
            cols = buffer[: count * groups * taps * height * out_w].reshape(count * groups, taps, height, out_w)
            _unfold(part, cols, first, full.kernel, full.strides, full.dilations, full.begins, out_h)
            place = slice(first * out_w, (first + height) * out_w)
            into = results[start : start + count, :, :, place]
            np.matmul(weights, cols.reshape(count, groups, taps, -1), out=into)


def _convolve_transposed(x, w, geometry, sizes, groups):
    full = widen(geometry)
    n, channels = x.shape[:2]
    outs = w.shape[1] * groups
    x3 = in_three_dims(x)
    y = np.zeros((n, outs, *(1,) * (3 - len(sizes)), *sizes))
    if y.size and w.size and x.size:
        _folded(x3, w.reshape(groups, channels // groups, -1), y, full, groups)
    return y.reshape(n, outs, *sizes)


def _folded(x, weights, y, full, groups):
    n, _, in_d, in_h, in_w = x.shape
    taps, rows = weights.shape[2], in_d * in_h
    tile = max(1, min(rows, UNFOLD_BYTES // (8 * taps * in_w)))
    inputs = x.reshape(n, groups, -1, rows * in_w)
    results = y.reshape(n, groups, -1, *y.shape[2:])
    turned = np.ascontiguousarray(weights.transpose(0, 2, 1))
    for first in range(0, rows, tile):
        count = min(tile, rows - first)
        place = slice(first * in_w, (first + count) * in_w)
        for i in range(n):
            for g in range(groups):
                cols = (turned[g] @ inputs[i, g, :, place]).reshape(-1, *full.kernel, count, in_w)
                _fold(cols, results[i, g], first, full.strides, full.dilations, full.begins, in_h)
