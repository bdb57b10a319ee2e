"""Fixed-point arithmetic of LiteRT's reference kernels, vectorised: exact to the last bit, in int64 arrays of int32 values.

A real multiplier is a 31-bit mantissa and a power of two. "Raw" numbers with I integer bits stand for raw / 2**(31 - I).
Sources: LiteRT `tflite/kernels/internal/{common,quantization_util}` and gemmlowp's `fixedpoint`. Must not import the IR.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....kernels.quant import quantized_multiplier

LOWEST, HIGHEST = -(1 << 31), (1 << 31) - 1


def rounded(x: np.ndarray) -> np.ndarray:
    """C's round: halves away from zero, in the dtype of `x`."""
    return np.trunc(x + np.copysign(x.dtype.type(0.5), x)) if x.dtype == np.float64 else _rounded_single(x)


def _rounded_single(x: np.ndarray) -> np.ndarray:
    """Through float64, where adding a half to a float32 is exact."""
    wide = x.astype(np.float64)
    return np.trunc(wide + np.copysign(0.5, wide)).astype(x.dtype)


def wrapped(x: np.ndarray) -> np.ndarray:
    """int64 values as an int32 register would hold them."""
    return x.astype(np.int32).astype(np.int64)


def high_product(a: np.ndarray, b: np.ndarray | int, bits: int = 31) -> np.ndarray:
    """a * b / 2**bits, halves away from zero on the positive side, saturated (gemmlowp's doubling high multiply)."""
    product = a * np.int64(b)
    nudged = product + np.where(product >= 0, 1 << (bits - 1), 1 - (1 << (bits - 1)))
    high = np.where(nudged >= 0, nudged >> bits, -(-nudged >> bits))
    return np.minimum(high, (1 << bits) - 1)


def shifted_right(x: np.ndarray, places: np.ndarray | int) -> np.ndarray:
    """x / 2**places, halves away from zero."""
    places = np.asarray(places, np.int64)
    mask = (np.int64(1) << places) - 1
    return (x >> places) + ((x & mask) > (mask >> 1) + (x < 0))


def rescaled(x: np.ndarray, mantissa: np.ndarray | int, shift: np.ndarray | int) -> np.ndarray:
    """x * mantissa * 2**(shift - 31) for int32 x, the product and the shift each rounded."""
    shift = np.asarray(shift, np.int64)
    left = wrapped(x << np.maximum(shift, 0))
    return shifted_right(high_product(left, np.asarray(mantissa, np.int64)), np.maximum(-shift, 0))


def rescaled_wide(x: np.ndarray, mantissa: np.ndarray | int, shift: np.ndarray | int) -> np.ndarray:
    """x * mantissa * 2**(shift - 31) for sums of 16-bit products: a 15-bit mantissa, rounded once, halves up."""
    mantissa, shift = np.asarray(mantissa, np.int64), np.asarray(shift, np.int64)
    short = np.where(mantissa < 0x7FFF0000, (mantissa + (1 << 15)) >> 16, 0x7FFF)
    total = 15 - shift
    return wrapped((x * short + (np.int64(1) << (total - 1))) >> total)


def scaled(x: np.ndarray, real: np.ndarray | float, wide: bool = False) -> np.ndarray:
    """x times a real multiplier, as int32 kernels do it (`wide`: kernels that sum in 64 bits)."""
    mantissa, shift = quantized_multiplier(np.asarray(real, np.float64))
    return (rescaled_wide if wide else rescaled)(x, mantissa, shift)


# ------------------------------------------------------------------------------------------- functions on raw numbers


def pot_product(x: np.ndarray, power: int) -> np.ndarray:
    """x * 2**power, rounded or saturated."""
    if power <= 0:
        return shifted_right(x, -power)
    return np.clip(x << power, LOWEST, HIGHEST)


_EXP_EIGHTH, _THIRD = 1895147668, 715827883
# 31-bit fractions of exp(-1/4), exp(-1/2), exp(-1) ... exp(-16).
_EXP_POWERS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)


def exp_of_negative(x: np.ndarray, integer_bits: int) -> np.ndarray:
    """exp of raw numbers <= 0, with no integer bits: a polynomial below one quarter, a product per binary digit."""
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    part = (x & (quarter - 1)) - quarter
    y = _exp_of_small(pot_product(part, integer_bits))
    rest = part - x
    for power, factor in zip(range(-2, integer_bits), _EXP_POWERS, strict=False):
        y = np.where(rest & (1 << (fraction_bits + power)), high_product(y, factor), y)
    return np.where(x == 0, HIGHEST, y)


def _exp_of_small(x: np.ndarray) -> np.ndarray:
    """exp on [-1/4, 0): Taylor's series of order 4 around -1/8."""
    t = x + (1 << 28)
    t2 = high_product(t, t)
    t3, t4 = high_product(t2, t), high_product(t2, t2)
    series = shifted_right(high_product(shifted_right(t4, 2) + t3, _THIRD) + t2, 1)
    return _EXP_EIGHTH + high_product(t + series, _EXP_EIGHTH)


def reciprocal_of_one_plus(x: np.ndarray) -> np.ndarray:
    """1 / (1 + x) for x in [0, 1), no integer bits: three steps of Newton and Raphson."""
    total = x + HIGHEST
    half = np.where(total >= 0, (total + 1) >> 1, -((1 - total) >> 1))
    y = 1515870810 + high_product(half, -1010580540)  # 48/17 - 32/17 d, with two integer bits
    for _ in range(3):
        error = (1 << 29) - high_product(half, y)
        y = y + pot_product(high_product(y, error), 2)
    return pot_product(y, 1)


def leading_zeros(x: np.ndarray) -> np.ndarray:
    """Of positive int32 values."""
    return 32 - np.frexp(x.astype(np.float64))[1].astype(np.int64)


def reciprocal(x: np.ndarray, integer_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(1 / x as a fraction in (1/2, 1], how many bits x is over a unit) for raw x > 0."""
    headroom = leading_zeros(x)
    rest = wrapped(((x << headroom) & 0xFFFFFFFF) - (1 << 31))
    return reciprocal_of_one_plus(rest), integer_bits - headroom


def logarithm(x: np.ndarray, integer_bits: int, out_bits: int) -> np.ndarray:
    """log of raw x >= 1, with `out_bits` integer bits: a rational function of the mantissa, plus powers of two."""
    bits = out_bits + 1
    log_2, quarter_root, half_root = 1488522236, 1805811301, 1518500250
    alpha_n, alpha_d, alpha_i, alpha_f = 117049297, 127690142, 1057819769, 638450708
    quarter = 1 << (29 - bits)
    zeros_a = leading_zeros(x)
    a = pot_product_each(high_product(pot_product_each(x, zeros_a - 1), half_root), 1)
    power_a = np.clip(pot_product(integer_bits - zeros_a, 31 - bits) + quarter, LOWEST, HIGHEST)
    zeros_b = leading_zeros(high_product(x, half_root)) - 1
    b = pot_product_each(x, zeros_b)
    power_b = np.clip(pot_product(integer_bits - zeros_b, 31 - bits) - quarter, LOWEST, HIGHEST)
    r, power = np.minimum(a, b), np.maximum(power_a, power_b)
    total = r + quarter_root
    p = np.where(total >= 0, (total + 1) >> 1, -((1 - total) >> 1))
    q = wrapped(2 * (r - quarter_root))
    square = high_product(q, q)
    above = wrapped(high_product(q, r) + high_product(high_product(q, square), alpha_n))
    inner = wrapped(alpha_i + q + high_product(square, alpha_d))
    below = reciprocal_of_one_plus(wrapped(high_product(p, inner) + high_product(q, alpha_f)))
    made = high_product(power, log_2) + high_product(shifted_right(above, bits), below)
    return pot_product(wrapped(made), bits - out_bits)


def pot_product_each(x: np.ndarray, power: np.ndarray | int) -> np.ndarray:
    """x * 2**power with a power >= 0 for each element, saturated."""
    return np.clip(x << np.asarray(power, np.int64), LOWEST, HIGHEST)


# --------------------------------------------------------------------------------------------------------- tables


def _sigmoid_table() -> np.ndarray:
    """65536 times the logistic function at multiples of 1/24, shifted to halve the error of chords between them."""
    y = 65536 / (1 + np.exp(-np.arange(512.0) / 48))
    here, middle, there = y[:-2:2], y[1:-1:2], y[2::2]
    table = np.floor(here - ((here + there) / 2 - middle) / 2 + 0.5)
    return np.append(table, 65535).astype(np.int64)


SIGMOID_TABLE = _sigmoid_table()


def byte_table(function, x_scale, x_zero, y_scale, y_zero, low: int, high: int) -> np.ndarray:
    """The results of a float32 function for every 8-bit value from `low` to `high`."""
    one = np.float32
    x = one(x_scale) * np.arange(low - x_zero, high + 1 - x_zero).astype(one)
    with np.errstate(all="ignore"):
        y = np.asarray(function(x), one) * (one(1) / one(y_scale))
    y = np.clip(rounded(y).astype(np.float64) + y_zero, low, high)
    return y.astype(np.int64)


def short_table(function, x_scale, x_zero, y_scale, y_zero, dtype: Any = np.float32) -> np.ndarray:
    """513 support points of a function over the 16-bit values, shifted to halve the error between them."""
    one, low, high = dtype, -(1 << 15), (1 << 15) - 1
    first, last = one(x_scale) * one(low - x_zero), one(x_scale) * one(high - x_zero)
    spread = one(y_scale) * one(high - y_zero) - one(y_scale) * one(low - y_zero)
    step, inverse = (last - first) / one(512), one(high - low + 1) / spread
    at = first + np.arange(513).astype(one) * step
    with np.errstate(all="ignore"):
        here = np.asarray(function(at), one)
        middle = np.asarray(function(at[:-1] + step / one(2)), one)
        end = rounded(np.asarray(function(last), one).reshape(1) * inverse)
    sample = rounded(here[:-1] * inverse)
    between = rounded((here[1:] * inverse + sample) / one(2))
    bias = rounded((between - rounded(middle * inverse)) / one(2))
    return np.clip(np.concatenate([sample - bias, end]), low, high).astype(np.int64)


def looked_up(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """A 16-bit value in a table of 513 points, interpolated."""
    place = 256 + (x >> 7)
    base, slope = table[place], table[place + 1] - table[place]
    return base + ((slope * (x & 0x7F) + 64) >> 7)
