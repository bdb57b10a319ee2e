"""Normalisations: moments in float64 (two passes: mean first, then squared distances), rounded once at the end.

Whole-array numpy: each is a few passes over the data, and the passes need no loop of their own. Imports no framework.
"""

from __future__ import annotations

import math

import numpy as np

from .blocks import along
from .budget import ELEMENT, spend
from .constants import kept
from .jit import jit
from .precision import narrow, wide
from .registry import kernel


def _channelwise(vector: np.ndarray, rank: int, channels_last: bool) -> np.ndarray:
    """A vector per channel, shaped to broadcast against data of `rank`."""
    return wide(vector).reshape((-1,) if channels_last else (-1,) + (1,) * max(rank - 2, 0))


def _standardise(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    """(x - mean) / sqrt(variance + epsilon) over `axes`; x is float64 and stays as it is."""
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = np.square(centred).mean(axis=axes, keepdims=True)
    centred /= np.sqrt(variance + epsilon)
    return centred


def _affine(y: np.ndarray, scale: np.ndarray | None, bias: np.ndarray | None) -> np.ndarray:
    if scale is not None:
        y = y * scale
    return y if bias is None else y + bias


@kernel("batch_norm")
def batch_norm(x, scale, bias, mean, var, *, epsilon=1e-5, channels_last=False):
    """(x - mean) / sqrt(var + epsilon) * scale + bias per channel; x [N, C, *S] or, of rank 1 or 2, [N] or [N, C]."""
    if x.ndim == 1:
        return batch_norm(x[:, None], scale, bias, mean, var, epsilon=epsilon)[:, 0]
    mean, factor, bias = kept(_statistics, scale, bias, mean, var, parameters=(epsilon,))
    if channels_last:
        parameters = [v.reshape(1, -1, 1) for v in (mean, factor, bias)]
        return along(_scaled, x, x.ndim - 1, x.ndim, parameters)
    lines = [v if len(x) == 1 else np.tile(v, len(x)) for v in (mean, factor, bias)]
    if x.dtype in (np.float32, np.float64):
        data = np.ascontiguousarray(x).reshape(lines[0].size, math.prod(x.shape[2:]))
        y = np.empty_like(data)
        if _scale_lines.ready(data, *lines, y):
            _scale_lines(data, *lines, y)
            return y.reshape(x.shape)
    return along(_scaled, x, 2, 2, [v.reshape(-1, 1, 1) for v in lines])


def _statistics(scale, bias, mean, var, epsilon):
    """Per channel, in float64: what is taken off, the factor, what is added."""
    scale, bias, mean, var = map(wide, (scale, bias, mean, var))
    return mean, scale / np.sqrt(var + epsilon), bias


@jit(lambda x, *_: x.size)
def _scale_lines(x, mean, factor, bias, y):
    """y [R, n] = (x - mean) * factor + bias, one mean, factor and bias per line; in float64, rounded once."""
    for r in range(len(x)):
        line, into, m, f, b = x[r], y[r], mean[r], factor[r], bias[r]
        for i in range(len(line)):
            into[i] = (line[i] - m) * f + b


def _scaled(y: np.ndarray, mean: np.ndarray, factor: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(y - mean) * factor + bias, in place."""
    y -= mean
    y *= factor
    y += bias
    return y


@kernel("layer_norm")
def layer_norm(x, scale=None, bias=None, *, axis=-1, epsilon=1e-5):
    """Zero mean and unit variance over the axes from `axis` on, then scale and bias that broadcast to x."""
    first = axis % x.ndim
    given = [(v, _trailing(v, x.shape[first:])) for v in (scale, bias)]
    if any(v is not None and line is None for v, line in given):  # scale or bias vary along other axes too
        y = _standardise(wide(x), tuple(range(first, x.ndim)), epsilon)
        return narrow(_affine(y, *(None if v is None else wide(v) for v in (scale, bias))), x.dtype)
    factor, offset = (line for _, line in given)
    return along(lambda y: _affine(_standardise(y, (1,), epsilon), factor, offset), x, first, x.ndim)


def _trailing(v: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """`v` broadcast to the normalised axes as [1, n, 1]; None where it varies along others."""
    if v is None or any(size != 1 for size in v.shape[: max(v.ndim - len(shape), 0)]):
        return None
    kept = wide(v).reshape(v.shape[max(v.ndim - len(shape), 0) :])
    return np.broadcast_to(kept, shape).reshape(1, -1, 1)


@kernel("instance_norm")
def instance_norm(x, scale, bias, *, epsilon=1e-5, channels_last=False):
    """Zero mean and unit variance over the spatial axes of each sample and channel, then scale and bias [C]."""
    if channels_last:
        y = _standardise(wide(x), tuple(range(1, x.ndim - 1)), epsilon)
        return narrow(_affine(y, wide(scale), wide(bias)), x.dtype)
    parameters = [np.tile(wide(v), len(x)).reshape(-1, 1, 1) for v in (scale, bias)]
    return along(lambda y, *affine: _affine(_standardise(y, (1,), epsilon), *affine), x, 2, x.ndim, parameters)


@kernel("group_norm")
def group_norm(x, scale, bias, *, num_groups, epsilon=1e-5, channels_last=False):
    """Zero mean and unit variance over each sample's group of channels, then scale and bias [C] (ONNX 21)."""
    data = wide(np.moveaxis(x, -1, 1)) if channels_last else wide(x)
    grouped = data.reshape(data.shape[0], num_groups, math.prod(data.shape[1:]) // num_groups)
    y = _standardise(grouped, (2,), epsilon).reshape(data.shape)
    y = narrow(_affine(y, *(_channelwise(v, x.ndim, False) for v in (scale, bias))), x.dtype)
    return np.ascontiguousarray(np.moveaxis(y, 1, -1)) if channels_last else y


@kernel("rms_norm")
def rms_norm(x, scale=None, *, axis=-1, epsilon=1e-5):
    """x / sqrt(mean(x^2) + epsilon) over the axes from `axis` on, then scale (Zhang and Sennrich, 2019)."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    data = wide(x)
    y = data / np.sqrt(np.square(data).mean(axis=axes, keepdims=True) + epsilon)
    return narrow(_affine(y, None if scale is None else wide(scale), None), x.dtype)


@kernel("lrn")
def lrn(x, *, alpha=1e-4, beta=0.75, bias=1.0, size, channels_last=False):
    """x / (bias + alpha / size * sum of x^2 over `size` channels)^beta; the window of an even size leans ahead."""
    data = wide(np.moveaxis(x, -1, 1)) if channels_last else wide(x)
    squares, channels = np.square(data), data.shape[1]
    total = np.zeros_like(data)
    spend(ELEMENT * x.size * min(size, 2 * channels))
    for shift in range(max(-((size - 1) // 2), 1 - channels), min(size // 2, channels - 1) + 1):
        low, high = max(0, -shift), min(channels, channels - shift)
        if low < high:
            total[:, low:high] += squares[:, low + shift : high + shift]
    y = narrow(data / (bias + alpha / size * total) ** beta, x.dtype)
    return np.ascontiguousarray(np.moveaxis(y, 1, -1)) if channels_last else y


@kernel("lp_normalization")
def lp_normalization(x, *, axis=-1, p=2):
    """x over its p-norm along `axis`; 0 where the norm is 0."""
    data = wide(x)
    norm = (np.abs(data) ** p).sum(axis=axis, keepdims=True) ** (1.0 / p)
    return narrow(np.where(norm == 0, 0.0, data / np.where(norm == 0, 1.0, norm)), x.dtype)


@kernel("mean_variance_normalization")
def mean_variance_normalization(x, *, axes=(0, 2, 3)):
    """(x - mean) / (standard deviation + 1e-9) over `axes`, as ONNX's function body has it."""
    data = wide(x)
    centred = data - data.mean(axis=tuple(axes), keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(axis=tuple(axes), keepdims=True))
    return narrow(centred / (deviation + 1e-9), x.dtype)
