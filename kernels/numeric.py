"""Widening and narrowing: how every kernel gets from a stored dtype to the dtype it computes in, and back.

Float kernels compute in float64 and round once; this module does that one rounding, correctly for every float type
(kernels/precision.py), and knows what the others need: integers of all widths, e8m0, extremes, float to integer.
Imports numpy and ml_dtypes only.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from . import precision
from .precision import quiet

E8M0 = np.dtype(ml_dtypes.float8_e8m0fnu)
SMALL_INTS = tuple(np.dtype(t) for t in (ml_dtypes.int2, ml_dtypes.uint2, ml_dtypes.int4, ml_dtypes.uint4))
E8M0_BIAS, E8M0_MAX_EXPONENT, E8M0_NAN = 127, 127, 0xFF


def is_native(dtype: np.dtype) -> bool:
    """numpy's own dtype: its arithmetic is exact for integers and correctly rounded for + - * / sqrt."""
    return dtype.isbuiltin == 1


def is_integer(dtype: np.dtype) -> bool:
    return dtype.kind in "iu" or dtype in SMALL_INTS


def is_float(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or (not is_native(dtype) and dtype.kind == "V" and dtype not in SMALL_INTS)


def wide(x: np.ndarray) -> np.ndarray:
    """`x` in the type to compute in: float64, complex128, or for integers their own type (2 and 4 bit: int64)."""
    if x.dtype.kind == "c":
        return x.astype(np.complex128, copy=False)
    if is_float(x.dtype):
        return x.astype(np.float64, copy=False)
    return x.astype(np.int64) if x.dtype in SMALL_INTS else x


def exact(x: np.ndarray) -> np.ndarray:
    """`x` as it is where numpy's own arithmetic already rounds once (or not at all), else widened."""
    return x if is_native(x.dtype) else wide(x)


def narrow(y: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`y` rounded once, to nearest even, to a float or complex `dtype`; wrapped modulo 2**bits to an integer `dtype`.

    A float never meets an integer `dtype` here: see `truncate`. Overflow gives infinity, or NaN where there is none.
    """
    y = np.asarray(y)
    if y.dtype == dtype:
        return y
    with quiet():
        if dtype == E8M0:
            return to_e8m0(y.astype(np.float64), saturate=False, round_mode="nearest")
        if is_float(dtype) and not is_native(dtype):
            return precision.narrow(y.astype(np.float64), dtype)
        return y.astype(dtype)


def truncate(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float64 to an integer `dtype`, toward zero.

    ONNX leaves values out of range undefined. What x86 does, and so every runtime there: targets below 32 bits take the
    low bits of an int32, uint32 those of an int64; NaN and what does not fit the wider type become its minimum.
    """
    whole = np.trunc(np.asarray(x, dtype=np.float64))
    bits = _bits(dtype)
    if dtype == np.uint64:
        high = whole >= 2.0**63
        low = _fitted(np.where(high, whole - 2.0**63, whole), 64)
        return np.where(high, low.view(np.uint64) ^ np.uint64(1 << 63), low.view(np.uint64)).astype(dtype)
    via = 64 if bits == 64 or dtype == np.uint32 else 32
    return narrow(_fitted(whole, via), dtype)


def _fitted(whole: np.ndarray, bits: int) -> np.ndarray:
    """Integral float64 values as int64; those outside a signed type of `bits` become its minimum."""
    limit = 2.0 ** (bits - 1)
    fits = (whole >= -limit) & (whole < limit)
    return np.where(fits, whole, -limit).astype(np.int64)


def _bits(dtype: np.dtype) -> int:
    if dtype in SMALL_INTS:
        return 2 if dtype in SMALL_INTS[:2] else 4
    return dtype.itemsize * 8


def to_e8m0(x: np.ndarray, *, saturate: bool, round_mode: str) -> np.ndarray:
    """float64 to the power-of-two type of OCP microscaling formats v1.0 (section 5.4.1), as ONNX Cast-24 describes it.

    `round_mode` up | down | nearest picks the power (a tie goes up). Not positive: the smallest power if `saturate`,
    else NaN; infinite or too large: the largest power if `saturate`, else NaN.
    """
    x = np.asarray(x, dtype=np.float64)
    usable = np.isfinite(x) & (x > 0)
    fraction, exponent = np.frexp(np.where(usable, x, 1.0))  # x = fraction * 2**exponent, fraction in [0.5, 1)
    floor = exponent - 1
    up = {"up": fraction > 0.5, "down": np.zeros(x.shape, bool), "nearest": fraction >= 0.75}[round_mode]
    power = floor + up
    large = (power > E8M0_MAX_EXPONENT) | (x == np.inf)
    small = (power < -E8M0_BIAS) | (x <= 0)
    code = np.clip(power, -E8M0_BIAS, E8M0_MAX_EXPONENT) + E8M0_BIAS
    code = np.where(large, E8M0_BIAS + E8M0_MAX_EXPONENT if saturate else E8M0_NAN, code)
    code = np.where(small, 0 if saturate else E8M0_NAN, code)
    return np.where(np.isnan(x), E8M0_NAN, code).astype(np.uint8).view(E8M0)


def lowest(dtype: np.dtype) -> object:
    """The identity of max: -infinity, or the smallest value of a type that has no infinity."""
    return _extreme(dtype, -1)


def highest(dtype: np.dtype) -> object:
    """The identity of min: infinity, or the largest value of a type that has no infinity."""
    return _extreme(dtype, 1)


def _extreme(dtype: np.dtype, sign: int) -> object:
    if dtype == np.bool_:
        return sign > 0
    if is_integer(dtype):
        info = ml_dtypes.iinfo(dtype)
        return info.max if sign > 0 else info.min
    infinite = narrow(np.array(sign * np.inf), dtype)
    return (
        infinite
        if np.isinf(infinite.astype(np.float64))
        else np.array(sign * float(ml_dtypes.finfo(dtype).max)).astype(dtype)
    )
