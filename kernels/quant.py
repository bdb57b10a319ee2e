"""quantize, dequantize, requantize, dynamic_quantize: rounding and saturation exactly as the runtimes do them.

Scales and zero points have rank 0 or the data's rank; along an axis they have size 1, the data's size, or a divisor of
it, which makes blocks. Integer results are compared exactly, so the divisions and products that are rounded here are
rounded in the type that ONNX prescribes, not only once at the end. Imports no framework.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from ..ir.errors import InvalidModel
from .blocks import BLOCK
from .numeric import is_integer
from .precision import narrow, quiet, saturate, wide
from .registry import kernel


def blocks_to(parameter: np.ndarray, shape: tuple[int, ...], block_size: int = 0) -> np.ndarray:
    """A scale or zero point with each block's entry repeated, so that it broadcasts to `shape`. Raises InvalidModel.

    With a `block_size` the last block may be shorter.
    """
    if parameter.ndim == 0:
        return parameter
    if parameter.ndim != len(shape):
        raise InvalidModel(f"quantisation parameter of rank {parameter.ndim} for data of rank {len(shape)}")
    for axis, (have, want) in enumerate(zip(parameter.shape, shape, strict=True)):
        if have not in (1, want):
            if (have != -(-want // block_size)) if block_size else (have == 0 or want % have):
                raise InvalidModel(f"{have} quantisation blocks do not divide axis {axis} of size {want}")
            parameter = np.repeat(parameter, block_size or want // have, axis=axis)
            parameter = parameter[(slice(None),) * axis + (slice(want),)]
    return parameter


def _clamp(y: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Integral float64 values saturated to an integer dtype; NaN becomes 0."""
    info = ml_dtypes.iinfo(dtype)
    return np.clip(np.nan_to_num(y, nan=0.0, posinf=np.inf, neginf=-np.inf), int(info.min), int(info.max)).astype(dtype)


@kernel("quantize")
def quantize(x, scale, zero_point=None, *, to, saturate=True, block_size=0):
    """round_half_even(x / scale) + zero_point, saturated to `to`.

    The quotient is rounded to the wider float type of x and scale first (ONNX QuantizeLinear). Float types take
    x / scale + zero_point in one rounding; `saturate` False lets them overflow to infinity or NaN.
    """
    if x.dtype == scale.dtype == np.float32 and _is_short(to.numpy):
        y = np.empty(x.shape, to.numpy)
        for part, level, step, offset in _short_blocks(x, scale, zero_point, block_size, y):
            _quantize_short(level, step, offset, part)
        return y
    division = x.dtype if not is_integer(x.dtype) and x.dtype.itemsize >= scale.dtype.itemsize else scale.dtype
    with quiet():
        quotient = wide(x) / wide(blocks_to(scale, x.shape, block_size))
        quotient = wide(narrow(quotient, division))
    offset = 0.0 if zero_point is None else wide(blocks_to(zero_point, x.shape, block_size))
    if is_integer(to.numpy):
        return _clamp(np.rint(quotient) + offset, to.numpy)
    return _saturated(quotient + offset, to.numpy) if saturate else narrow(quotient + offset, to.numpy)


def _is_short(dtype: np.dtype) -> bool:
    """An integer type whose values, and their differences, float32 holds exactly: products with a float32 scale and
    quotients by one are then rounded once in float32 itself."""
    return is_integer(dtype) and dtype.itemsize <= 2


def _short_blocks(x, scale, zero_point, block_size, y):
    """(part of y, part of x, float32 scale, float32 zero point): blocks that stay in cache where both are single numbers,
    else everything at once."""
    offset = np.zeros((), np.float32) if zero_point is None else zero_point
    if scale.size == 1 and offset.size == 1:
        step, offset = (v.reshape(()).astype(np.float32) for v in (scale, offset))
        source, made = np.ascontiguousarray(x).reshape(-1), y.reshape(-1)
        for start in range(0, x.size, BLOCK):
            yield made[start : start + BLOCK], source[start : start + BLOCK], step, offset
    else:
        step, offset = (blocks_to(v, x.shape, block_size).astype(np.float32) for v in (scale, offset))
        yield y, x, step, offset


def _quantize_short(x, scale, offset, y):
    """After the one float32 division everything is exact for what is not saturated; NaN becomes 0."""
    info = ml_dtypes.iinfo(y.dtype)
    with quiet():
        level = x / scale
        np.rint(level, out=level)
        level += offset
        np.clip(level, int(info.min), int(info.max), out=level)
        if np.isnan(level.max(initial=0)):
            level[np.isnan(level)] = 0
        y[...] = level


def _saturated(y: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return saturate(y, dtype)


@kernel("dequantize")
def dequantize(x, scale, zero_point=None, *, to, block_size=0):
    """(x - zero_point) * scale in `to`."""
    if _is_short(x.dtype) and scale.dtype == to.numpy == np.float32:
        y = np.empty(x.shape, np.float32)
        for part, values, step, offset in _short_blocks(x, scale, zero_point, block_size, y):
            part[...] = values
            part -= offset
            part *= step
        return y
    data = wide(x)
    if zero_point is not None:
        data = data - wide(blocks_to(zero_point, x.shape, block_size))
    with quiet():
        return narrow(np.asarray(data * wide(blocks_to(scale, x.shape, block_size))), to.numpy)


@kernel("requantize")
def requantize(x, scale, zero_point=None, *, to, rounding="half_even"):
    """i32 accumulators times a real multiplier, plus zero_point, saturated to `to`.

    half_even: in float32, as ONNX Runtime's integer kernels. fixed_point: the multiplier as a 31-bit mantissa and a
    shift, product and shift each rounded (gemmlowp's doubling high multiply, as LiteRT's reference kernels).
    """
    multiplier = blocks_to(scale, x.shape)
    scaled = _ROUNDINGS[rounding](x, multiplier)
    offset = 0.0 if zero_point is None else wide(blocks_to(zero_point, x.shape))
    return _clamp(scaled + offset, to.numpy)


def _scaled_half_even(x: np.ndarray, multiplier: np.ndarray) -> np.ndarray:
    with quiet():
        return np.rint(x.astype(np.float32) * multiplier.astype(np.float32)).astype(np.float64)


def _scaled_fixed_point(x: np.ndarray, multiplier: np.ndarray) -> np.ndarray:
    """TensorFlow Lite's MultiplyByQuantizedMultiplier with QuantizeMultiplier (double rounding)."""
    mantissa, shift = quantized_multiplier(multiplier)
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    shifted = (x.astype(np.int64) << left).astype(np.int32).astype(np.int64)
    product = shifted * mantissa
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = np.sign(product + nudge) * (np.abs(product + nudge) >> 31)  # C's division truncates
    high = np.where((shifted == mantissa) & (mantissa == -(1 << 31)), (1 << 31) - 1, high)
    mask = (np.int64(1) << right) - 1
    threshold = (mask >> 1) + (high < 0)
    return ((high >> right) + ((high & mask) > threshold)).astype(np.float64)


def quantized_multiplier(multiplier: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A real multiplier as (31-bit mantissa, power of two): multiplier = mantissa * 2**(shift - 31). i64 arrays."""
    fraction, shift = np.frexp(np.asarray(multiplier, np.float64))
    scaled = fraction * 2.0**31
    mantissa = (np.sign(scaled) * np.floor(np.abs(scaled) + 0.5)).astype(np.int64)
    full = mantissa == 1 << 31
    mantissa, shift = np.where(full, mantissa >> 1, mantissa), shift.astype(np.int64) + full
    tiny = shift < -31
    return np.where(tiny, 0, mantissa), np.where(tiny, 0, shift)


_ROUNDINGS = {"half_even": _scaled_half_even, "fixed_point": _scaled_fixed_point}


@kernel("dynamic_quantize")
def dynamic_quantize(x):
    """(u8 values, f32 scale, u8 zero point) from the range of x widened to hold 0: ONNX's float32 function body."""
    one = np.float32
    high = max(one(x.max()), one(0)) if x.size else one(0)
    low = min(one(x.min()), one(0)) if x.size else one(0)
    scale = one((high - low) / one(255))
    if scale == 0:
        scale = one(1)
    zero_point = np.asarray(np.clip(np.rint(one(0) - low / scale), 0, 255), np.uint8)
    scale = np.asarray(scale, np.float32)
    y = np.empty(x.shape, np.uint8)
    for part, values, step, offset in _short_blocks(x, scale, zero_point, 0, y):
        _quantize_short(values, step, offset, part)
    return y, scale, zero_point
