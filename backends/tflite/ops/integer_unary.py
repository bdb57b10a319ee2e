"""TFLite's quantised activations and other functions of one tensor, equal to LiteRT's reference kernels.

8-bit functions without a kernel of their own are tables of 256 results, 16-bit ones are interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ....ir.errors import TypeInferError
from ....ir.opdef import attr, op, operand
from ....ir.types import I8, I16
from ....kernels.quant import quantized_multiplier
from ....kernels.registry import kernel
from .fixedpoint import (
    LOWEST,
    SIGMOID_TABLE,
    byte_table,
    exp_of_negative,
    high_product,
    leading_zeros,
    logarithm,
    looked_up,
    reciprocal,
    rescaled,
    rounded,
    scaled,
    shifted_right,
    short_table,
    wrapped,
)
from .integer import STORED, Quantised

_BYTE = frozenset({I8})
_FIXED = {  # op: the scale and zero point that its result must have, for i8 and i16
    "tfl.q_softmax": {I8: (1 / 256, -128), I16: (1 / 32768, 0)},
    "tfl.q_logistic": {I8: (1 / 256, -128), I16: (1 / 32768, 0)},
    "tfl.q_tanh": {I8: (1 / 128, 0), I16: (1 / 32768, 0)},
    "tfl.q_log_softmax": {I8: (16 / 256, 127)},
}


def fixed_parameters(name: str, dtype) -> tuple[float, int] | None:
    """Scale and zero point that the result of an op has, whatever its operand; None where they are free."""
    return _FIXED.get(name, {}).get(dtype)


class QUnary(Quantised):
    """Base of the functions of one tensor that keep its shape."""

    x = operand(STORED)

    def infer(self, x, *, scales, zeros, **_):
        self.check(scales, zeros, x)
        fixed = fixed_parameters(self.name, x.dtype)
        if fixed is not None and (np.float32(scales[1]), zeros[1]) != (np.float32(fixed[0]), fixed[1]):
            raise TypeInferError(f"{self.name} makes scale {fixed[0]} and zero point {fixed[1]}, not {scales[1:]}")
        return x.type


def _define(name: str, doc: str, run: Callable, dtypes=STORED, **attributes) -> None:
    body = {"__doc__": doc, "__module__": __name__, "x": operand(dtypes), **attributes}
    op(name=f"tfl.{name}")(type(name.title().replace("_", ""), (QUnary,), body))
    kernel(f"tfl.{name}")(run)


def _single(scales: tuple[float, ...]) -> list[np.float32]:
    return [np.float32(s) for s in scales]


def _stored(y: np.ndarray, dtype: np.dtype) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.clip(y, info.min, info.max).astype(dtype)


# ------------------------------------------------------------------------------------------------- piecewise linear


def _clamped(low: float, high: float | None) -> Callable:
    def run(x, *, scales, zeros):
        a, c = _single(scales)
        info = np.iinfo(x.dtype)
        made = scaled(x.astype(np.int64) - zeros[0], a / c) + zeros[1]
        least = max(info.min, zeros[1] + int(rounded(np.asarray(np.float32(low) / c))))
        most = info.max if high is None else min(info.max, zeros[1] + int(rounded(np.asarray(np.float32(high) / c))))
        return np.minimum(np.maximum(made, least), most).astype(x.dtype)

    return run


_define("q_relu", "Negative values become zero.", _clamped(0, None))
_define("q_relu6", "Values kept within 0 and 6.", _clamped(0, 6))
_define("q_relu_n1_to_1", "Values kept within -1 and 1.", _clamped(-1, 1), _BYTE)
_define("q_relu_0_to_1", "Values kept within 0 and 1.", _clamped(0, 1), _BYTE)


def _leaky_relu(x, *, scales, zeros, alpha):
    a, c = _single(scales)
    value = x.astype(np.int64) - zeros[0]
    slope = a * np.float32(alpha) / c
    below = scaled(value, abs(slope)) * (-1 if slope < 0 else 1)
    return _stored(np.where(value >= 0, scaled(value, a / c), below) + zeros[1], x.dtype)


_define("q_leaky_relu", "Negative values times `alpha`.", _leaky_relu, alpha=attr(float, 0.01))


def _abs(x, *, scales, zeros):
    a, c = _single(scales)
    value = np.abs(x.astype(np.int64) - zeros[0])
    return _stored((value if a == c else scaled(value, a / c)) + zeros[1], x.dtype)


_define("q_abs", "Magnitudes.", _abs)


@op(name="tfl.q_prelu")
class QPrelu(Quantised):
    """Negative values times the quantised `slope`, which broadcasts to x."""

    x = operand(STORED)
    slope = operand(_BYTE)
    quantised = (0, 1)

    def infer(self, x, slope, *, scales, zeros):
        self.check(scales, zeros)
        return x.type


@kernel("tfl.q_prelu")
def _prelu(x, slope, *, scales, zeros):
    a, b, c = _single(scales)
    value = x.astype(np.int64) - zeros[0]
    below = scaled(value * (slope.astype(np.int64) - zeros[1]), a * b / c)
    return _stored(np.where(value >= 0, scaled(value, a / c), below) + zeros[2], x.dtype)


# ---------------------------------------------------------------------------------------------------------- hard swish


def _short_multiplier(real: np.float32) -> tuple[int, int]:
    """A multiplier with a 15-bit mantissa, halves up."""
    mantissa, shift = (int(v) for v in quantized_multiplier(np.asarray(real, np.float64)))
    return (mantissa + (1 << 15)) >> 16 if mantissa < 0x7FFF0000 else 0x7FFF, shift


def _short(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -(1 << 15), (1 << 15) - 1)


def _hard_swish(x, *, scales, zeros):
    """x / 128 steps times a gate that saturates to [0, 1] in 16 bits, the product shifted into the result's steps."""
    a, c = _single(scales)
    fine = np.float32(1 / 128) * a
    out_mantissa, out_shift = _short_multiplier(fine / c)
    gate_mantissa, gate_shift = _short_multiplier(fine / np.float32(3 / 32768))
    value = (x.astype(np.int64) - zeros[0]) << 7
    value = value.astype(np.int16).astype(np.int64)
    before = high_product(value, out_mantissa, 15)
    gate = _short(value << (gate_shift - 1)) if gate_shift > 0 else value
    gate = high_product(gate, gate_mantissa, 15)
    if gate_shift > 0:
        gate = _short(gate << 1)
    elif gate_shift < 0:
        gate = shifted_right(gate, -gate_shift)
    gate = (gate + (1 << 15)) >> 1
    product = gate * before
    product = np.where(product >= 0, product >> 15, -(-product >> 15))
    return _stored(shifted_right(product, -out_shift) + zeros[1], x.dtype)


_define("q_hard_swish", "x times the hard sigmoid of x.", _hard_swish, _BYTE)


def hard_swish_fits(x_scale: float, y_scale: float) -> bool:
    """The kernel shifts its product to the right only."""
    return _short_multiplier(np.float32(1 / 128) * np.float32(x_scale) / np.float32(y_scale))[1] <= 0


# ------------------------------------------------------------------------------------------------------------- tables


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.float32(1) / (np.float32(1) + _exact(np.exp)(-x))


def _exact(function: Callable) -> Callable:
    """A function rounded once to float32, as good libraries do it."""
    return lambda x: np.asarray(function(x.astype(np.float64))).astype(x.dtype)


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _gelu(x: np.ndarray) -> np.ndarray:
    return np.float32(0.5) * x * _exact(_erfc)(x * np.float32(-math.sqrt(0.5)))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    return np.float32(0.5) * x * (np.float32(1) + _exact(np.tanh)(inner))


def _elu(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, _exact(np.expm1)(x), x)


def _tabled(x: np.ndarray, function: Callable, scales, zeros) -> np.ndarray:
    info = np.iinfo(x.dtype)
    parameters = (scales[0], zeros[0], scales[1], zeros[1])
    if x.dtype == np.int8:
        table = byte_table(function, *parameters, info.min, info.max)
        return table[x.astype(np.int64) - info.min].astype(x.dtype)
    return looked_up(x.astype(np.int64), short_table(function, *parameters)).astype(x.dtype)


def _table(function: Callable) -> Callable:
    return lambda x, *, scales, zeros: _tabled(x, function, scales, zeros)


_define("q_elu", "exp(x) - 1 below zero.", _table(_elu), _BYTE)
_define("q_exp", "Powers of e.", _table(_exact(np.exp)))


def _log(x, *, scales, zeros):
    """Of what is not positive: the least value that the result can have."""
    least = np.float32(np.iinfo(x.dtype).min - zeros[1]) * np.float32(scales[1])

    def function(v: np.ndarray) -> np.ndarray:
        return np.where(v <= 0, least, _exact(np.log)(np.where(v <= 0, v.dtype.type(1), v)))

    return _tabled(x, function, scales, zeros)


_define("q_log", "Natural logarithms.", _log)


def _gelu_kernel(x, *, scales, zeros, approximate):
    return _tabled(x, _gelu_tanh if approximate else _gelu, scales, zeros)


_define("q_gelu", "x times the normal distribution at x.", _gelu_kernel, approximate=attr(bool, False))


def _sixteen_bit_multiplier(scale: float, shifts: tuple[int, ...]) -> tuple[int, int]:
    """Into steps of 1 / 4096 / 3 (multiplier, right shift); a scale within a thousandth of a power of two, in logarithms,
    counts as that power."""
    single = np.float32
    exponent = np.log(single(scale)) * (single(1) / np.log(single(2)))
    shift = 12 + round(float(exponent))
    if abs(exponent - np.round(exponent)) < single(1e-3) and shift in shifts:
        return 3 << shift, 0
    multiplier, places = float(np.float32(scale) * np.float32(4096)) * 3.0, 0
    while multiplier <= 32767 / 2 and places <= 30:
        multiplier, places = multiplier * 2, places + 1
    return int(multiplier), places


def _sixteen_bit_steps(x: np.ndarray, scale: float, shifts: tuple[int, ...]) -> np.ndarray:
    multiplier, places = _sixteen_bit_multiplier(scale, shifts)
    return (x.astype(np.int64) * multiplier + ((1 << places) >> 1)) >> places


def _interpolated(magnitude: np.ndarray, bits: int, most: int) -> np.ndarray:
    place = magnitude >> bits
    inside = np.minimum(place, 254)
    here, there = SIGMOID_TABLE[inside], SIGMOID_TABLE[inside + 1]
    return np.where(place >= 255, most, (here << bits) + (magnitude & ((1 << bits) - 1)) * (there - here))


def _logistic(x, *, scales, zeros):
    if x.dtype == np.int8:
        return _tabled(x, _sigmoid, scales, zeros)
    steps = _sixteen_bit_steps(x, scales[0], (0,))
    y = _interpolated(np.abs(steps), 9, 0x7FFF << 10)
    return (np.where(steps >= 0, y + (1 << 9), (1 << 25) - y + (1 << 9) - 1) >> 10).astype(np.int16)


def _tanh(x, *, scales, zeros):
    if x.dtype == np.int8:
        return _tabled(x, _exact(np.tanh), scales, zeros)
    steps = _sixteen_bit_steps(x, scales[0], (0, 1))
    y = _interpolated(np.abs(steps), 8, 0xFFFF << 8)
    y = np.where(steps >= 0, y - (1 << 23) + (1 << 7), -y + (1 << 23) + (1 << 7) - 1)
    return (y >> 8).astype(np.int16)


_define("q_logistic", "1 / (1 + exp(-x)).", _logistic)
_define("q_tanh", "Hyperbolic tangents.", _tanh)


# ----------------------------------------------------------------------------------------------------------- softmax

_SCALED_BITS, _SUM_BITS = 5, 12


def _softmax_multiplier(scale: float) -> tuple[int, int, int]:
    """(mantissa, shift, least difference that counts) of differences in raw numbers with 5 integer bits."""
    real = min(float(np.float32(scale)) * (1 << (31 - _SCALED_BITS)), float((1 << 31) - 1))
    mantissa, shift = (int(v) for v in quantized_multiplier(np.asarray(real, np.float64)))
    radius = math.floor(((1 << _SCALED_BITS) - 1) * (1 << (31 - _SCALED_BITS)) / (1 << shift))
    return mantissa, shift, -radius


def softmax_fits(scale: float) -> bool:
    """The 8-bit kernels only scale differences up."""
    return bool(np.float32(scale) * np.float64(1 << (31 - _SCALED_BITS)) > 1)


def _exponentials(x: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences to the largest along the last axis, scaled; which of them count; and their exponentials."""
    mantissa, shift, least = _softmax_multiplier(scale)
    difference = x.astype(np.int64) - x.max(axis=-1, keepdims=True).astype(np.int64)
    counts = difference >= least
    raw = rescaled(np.where(counts, difference, 0), mantissa, shift)
    return difference, raw, np.where(counts, exp_of_negative(raw, _SCALED_BITS), 0)


def _softmax(x, *, scales, zeros):
    if x.dtype == np.int16:
        return _softmax_short(x, scales[0])
    _, _, powers = _exponentials(x, scales[0])
    total = wrapped(np.where(powers > 0, shifted_right(powers, _SUM_BITS), 0).sum(axis=-1, keepdims=True))
    inverse, over = reciprocal(total, _SUM_BITS)
    made = shifted_right(high_product(inverse, powers), over + 31 - 8)
    return np.where(powers > 0, _stored(made - 128, np.dtype(np.int8)), np.int8(-128))


def _softmax_short(x: np.ndarray, scale: float) -> np.ndarray:
    """exp and 1 / (1 + x) by interpolated tables."""
    exp_table = short_table(np.exp, 10 / 65535, 32767, 2 / 65535, 0, np.float64)
    inverse_table = short_table(lambda v: 1 / (1 + v), 1 / 65535, -32768, 2 / 65535, 0, np.float64)
    difference = x.astype(np.int64) - x.max(axis=-1, keepdims=True).astype(np.int64)
    steps = scaled(difference, np.float64(np.float32(scale)) / (10.0 / 65535.0))
    powers = looked_up(_short(steps + 32767), exp_table)
    total = powers.sum(axis=-1, keepdims=True)
    headroom = leading_zeros(total)
    shifted = ((total << (headroom - 1)) + (1 << 13)) >> 14
    inverse = looked_up(_short(shifted - ((1 << 15) + (1 << 16))), inverse_table)
    places = 31 - headroom
    made = (powers * inverse + (np.int64(1) << (places - 1))) >> places
    return np.clip(made, 0, 32767).astype(np.int16)


_define("q_softmax", "Softmax along the last axis.", _softmax)


def _log_softmax(x, *, scales, zeros):
    mantissa, shift, least = _softmax_multiplier(scales[0])
    difference, raw, powers = _exponentials(x, scales[0])
    total = wrapped(np.where(powers > 0, shifted_right(powers, _SUM_BITS), 0).sum(axis=-1, keepdims=True))
    log_total = logarithm(total, _SUM_BITS, _SCALED_BITS)
    back, back_shift = (int(v) for v in quantized_multiplier(np.float64((1 << (31 - shift)) / mantissa)))
    floor = np.maximum(least - 1, rescaled(wrapped(log_total + LOWEST), back, back_shift))
    counts = difference > floor
    all_raw = rescaled(np.where(counts, difference, 0), mantissa, shift)
    made = shifted_right(all_raw - log_total, 31 - _SCALED_BITS - 4) + 127
    return np.where(counts, _stored(made, np.dtype(np.int8)), np.int8(-128))


_define("q_log_softmax", "Logarithm of the softmax along the last axis.", _log_softmax, _BYTE)
