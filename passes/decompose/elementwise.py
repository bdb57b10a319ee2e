"""Elementwise functions through others, accurate near zero and at infinity. Knows no target.

A function is written through one that is likelier to exist; where cancellation would cost digits (expm1, log1p,
asinh ...) the formula is the one that keeps them.
"""

from __future__ import annotations

import math

import numpy as np

from ...ir.builder import Builder
from ...ir.types import BOOL
from ...ir.value import Node, Value
from .rules import Declined, decomposes, scalar


@decomposes("identity")
def identity(b: Builder, node: Node) -> Value:
    return node.operands[0]


@decomposes("neg")
def neg(b: Builder, node: Node) -> Value:
    """x * -1 keeps the sign of zero, 0 - x would not."""
    (x,) = node.operands
    return b.mul(x, scalar(b, -1, x))


@decomposes("abs")
def abs_(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.max(x, b.neg(x)) if x.dtype.is_signed else x


@decomposes("sign")
def sign(b: Builder, node: Node) -> Value:
    """(x > 0) - (x < 0)"""
    (x,) = node.operands
    zero = scalar(b, 0, x)
    above = b.cast(b.greater(x, zero), to=x.dtype)
    return b.sub(above, b.cast(b.less(x, zero), to=x.dtype)) if x.dtype.is_signed else above


@decomposes("square")
def square(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.mul(x, x)


@decomposes("reciprocal")
def reciprocal(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.div(scalar(b, 1, x), x)


@decomposes("rsqrt", rounds=True)
def rsqrt(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.reciprocal(b.sqrt(x))


@decomposes("ceil")
def ceil(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.neg(b.floor(b.neg(x)))


@decomposes("trunc")
def trunc(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    if not x.dtype.is_float:
        return x
    return b.where(b.less(x, scalar(b, 0, x)), b.ceil(x), b.floor(x))


@decomposes("round")
def round_(b: Builder, node: Node) -> Value:
    """Half to even: up when the rest is above one half, or is one half and the floor is odd. Exact."""
    (x,) = node.operands
    low, half = b.floor(x), scalar(b, 0.5, x)
    rest = b.sub(x, low)
    odd = b.equal(b.sub(low, b.mul(b.floor(b.mul(low, half)), scalar(b, 2, x))), scalar(b, 1, x))
    up = b.or_(b.greater(rest, half), b.and_(b.equal(rest, half), odd))
    return b.where(up, b.add(low, scalar(b, 1, x)), low)


@decomposes("expm1", rounds=True)
def expm1(b: Builder, node: Node) -> Value:
    """2 t / (1 - t) with t = tanh(x / 2) near zero, exp(x) - 1 elsewhere."""
    (x,) = node.operands
    one = scalar(b, 1, x)
    t = b.tanh(b.mul(b.clip(x, scalar(b, -1, x), one), scalar(b, 0.5, x)))
    near = b.div(b.mul(t, scalar(b, 2, x)), b.sub(one, t))
    return b.where(b.less(b.abs(x), one), near, b.sub(b.exp(x), one))


@decomposes("log1p", rounds=True)
def log1p(b: Builder, node: Node) -> Value:
    """log(u) x / (u - 1) with u = 1 + x (Kahan): the rounding of u cancels."""
    (x,) = node.operands
    one = scalar(b, 1, x)
    u = b.add(x, one)
    tiny, huge = b.equal(u, one), b.equal(u, scalar(b, math.inf, x))
    divisor = b.where(tiny, one, b.sub(u, one))
    y = b.mul(b.log(u), b.div(x, divisor))
    return b.where(tiny, x, b.where(huge, u, y))


@decomposes("sinh", rounds=True)
def sinh(b: Builder, node: Node) -> Value:
    """(e + e / (e + 1)) / 2 with e = expm1(|x|), given the sign of x."""
    (x,) = node.operands
    e = b.expm1(b.abs(x))
    fraction = b.sub(scalar(b, 1, x), b.reciprocal(b.add(e, scalar(b, 1, x))))
    half = b.mul(b.add(e, fraction), scalar(b, 0.5, x))
    return b.where(b.less(x, scalar(b, 0, x)), b.neg(half), half)


@decomposes("cosh", rounds=True)
def cosh(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.mul(b.add(b.exp(x), b.exp(b.neg(x))), scalar(b, 0.5, x))


@decomposes("tan", rounds=True)
def tan(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.div(b.sin(x), b.cos(x))


@decomposes("asinh", rounds=True)
def asinh(b: Builder, node: Node) -> Value:
    """log1p(a + a^2 / (1 + sqrt(a^2 + 1))) with a = |x|, given the sign of x."""
    (x,) = node.operands
    a, one = b.abs(x), scalar(b, 1, x)
    squared = b.mul(a, a)
    y = b.log1p(b.add(a, b.div(squared, b.add(b.sqrt(b.add(squared, one)), one))))
    return b.where(b.less(x, scalar(b, 0, x)), b.neg(y), y)


@decomposes("acosh", rounds=True)
def acosh(b: Builder, node: Node) -> Value:
    """log1p(t + sqrt(2 t + t^2)) with t = x - 1"""
    (x,) = node.operands
    t = b.sub(x, scalar(b, 1, x))
    return b.log1p(b.add(t, b.sqrt(b.add(b.add(t, t), b.mul(t, t)))))


@decomposes("atanh", rounds=True)
def atanh(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.mul(b.sub(b.log1p(x), b.log1p(b.neg(x))), scalar(b, 0.5, x))


@decomposes("asin", rounds=True)
def asin(b: Builder, node: Node) -> Value:
    """atan2(x, sqrt((1 - x)(1 + x)))"""
    (x,) = node.operands
    one = scalar(b, 1, x)
    return b.atan2(x, b.sqrt(b.mul(b.sub(one, x), b.add(x, one))))


@decomposes("acos", rounds=True)
def acos(b: Builder, node: Node) -> Value:
    """2 atan2(sqrt(1 - x), sqrt(1 + x))"""
    (x,) = node.operands
    one = scalar(b, 1, x)
    half = b.atan2(b.sqrt(b.sub(one, x)), b.sqrt(b.add(x, one)))
    return b.mul(half, scalar(b, 2, x))


#: atan by argument reduction to |t| <= tan(pi/8) and a minimax polynomial (Cephes `atanf`, error below 1 ULP of f32).
_ATAN = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)


@decomposes("atan", rounds=True)
def atan(b: Builder, node: Node) -> Value | Declined:
    (x,) = node.operands
    if x.dtype.bits > 32:
        return Declined("arc tangent in f64 has no exact decomposition")
    a, one = b.abs(x), scalar(b, 1, x)
    big, middle = (
        b.greater(a, scalar(b, math.tan(3 * math.pi / 8), x)),
        b.greater(a, scalar(b, math.tan(math.pi / 8), x)),
    )
    safe = b.where(big, a, one)
    t = b.where(big, b.neg(b.div(one, safe)), b.where(middle, b.div(b.sub(a, one), b.add(a, one)), a))
    offset = b.where(big, scalar(b, math.pi / 2, x), b.where(middle, scalar(b, math.pi / 4, x), scalar(b, 0, x)))
    z = b.mul(t, t)
    poly = b.add(b.mul(b.mul(_horner(b, z, _ATAN), z), t), t)
    y = b.add(offset, poly)
    return b.where(b.less(x, scalar(b, 0, x)), b.neg(y), y)


@decomposes("atan2", rounds=True)
def atan2(b: Builder, node: Node) -> Value:
    """atan(y / x), turned by pi in the left half plane; along the y axis a quarter turn. Zeros count as positive."""
    y, x = node.operands
    zero, pi = scalar(b, 0, x), scalar(b, math.pi, x)
    vertical = b.equal(x, zero)
    angle = b.atan(b.div(y, b.where(vertical, scalar(b, 1, x), x)))
    turn = b.where(b.less(y, zero), b.neg(pi), pi)
    plane = b.where(b.less(x, zero), b.add(angle, turn), angle)
    upright = b.mul(b.sign(y), scalar(b, math.pi / 2, x))
    return b.where(vertical, upright, plane)


#: erf on [-4, 4] as a ratio of polynomials (the f32 approximation of Eigen and XLA, a few ULP of f32).
_ERF_TOP = (
    -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05, -7.34990630326855e-04,
    -2.95459980854025e-03, -1.60960333262415e-02,
)  # fmt: skip
_ERF_BOTTOM = (
    -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02,
)  # fmt: skip


def _horner(b: Builder, z: Value, coefficients: tuple[float, ...]) -> Value:
    total = scalar(b, coefficients[0], z)
    for c in coefficients[1:]:
        total = b.add(b.mul(z, total), scalar(b, c, z))
    return total


@decomposes("erf", rounds=True)
def erf(b: Builder, node: Node) -> Value | Declined:
    (x,) = node.operands
    if x.dtype.bits > 32:
        return Declined("the error function in f64 has no exact decomposition")
    t = b.clip(x, scalar(b, -4, x), scalar(b, 4, x))
    z = b.mul(t, t)
    return b.div(b.mul(t, _horner(b, z, _ERF_TOP)), _horner(b, z, _ERF_BOTTOM))


# ---------------------------------------------------------------------------------------- integers, order, logic


@decomposes("floor_div", rounds=True)
def floor_div(b: Builder, node: Node) -> Value:
    """Integers: truncated, less one where signs differ and a rest is left."""
    x, y = node.operands
    if x.dtype.is_float:
        return b.floor(b.div(x, y))
    q = b.div(x, y)
    if not x.dtype.is_signed:
        return q
    zero = scalar(b, 0, x)
    rest = b.sub(x, b.mul(q, y))
    lower = b.and_(b.not_(b.equal(rest, zero)), b.not_equal(b.less(rest, zero), b.less(y, zero)))
    return b.sub(q, b.cast(lower, to=x.dtype))


@decomposes("mod")
def mod(b: Builder, node: Node) -> Value | Declined:
    x, y = node.operands
    if x.dtype.is_float:
        return Declined("a float remainder through division would be rounded wrongly near multiples")
    if node.attr("fmod"):
        return b.sub(x, b.mul(b.div(x, y), y))
    return b.sub(x, b.mul(b.floor_div(x, y), y))


@decomposes("is_nan")
def is_nan(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.not_(b.equal(x, x))


@decomposes("is_inf")
def is_inf(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    found = [b.equal(x, scalar(b, math.inf, x))] if node.attr("detect_positive") else []
    if node.attr("detect_negative"):
        found.append(b.equal(x, scalar(b, -math.inf, x)))
    if not found:
        return b.not_equal(x, x) if not x.dtype.is_float else b.and_(b.equal(x, x), b.not_(b.equal(x, x)))
    return found[0] if len(found) == 1 else b.or_(*found)


@decomposes("not_equal")
def not_equal(b: Builder, node: Node) -> Value:
    return b.not_(b.equal(*node.operands))


@decomposes("greater")
def greater(b: Builder, node: Node) -> Value:
    x, y = node.operands
    return b.less(y, x)


@decomposes("greater_equal")
def greater_equal(b: Builder, node: Node) -> Value:
    x, y = node.operands
    return b.less_equal(y, x)


@decomposes("less_equal")
def less_equal(b: Builder, node: Node) -> Value:
    """less or equal, for NaN is neither."""
    x, y = node.operands
    return b.or_(b.less(x, y), b.equal(x, y))


@decomposes("not")
def not_(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.equal(x, b.const(np.asarray(False)))


@decomposes("xor")
def xor(b: Builder, node: Node) -> Value:
    return b.not_equal(*node.operands)


@decomposes("bitwise_not")
def bitwise_not(b: Builder, node: Node) -> Value:
    """-1 - x in two's complement; an unsigned x from the largest number."""
    (x,) = node.operands
    if x.dtype is BOOL:
        return b.not_(x)
    return b.sub(scalar(b, -1 if x.dtype.is_signed else (1 << x.dtype.bits) - 1, x), x)


@decomposes("bit_shift")
def bit_shift(b: Builder, node: Node) -> Value | Declined:
    """By a constant amount: a product or quotient with a power of two; unsigned, as ONNX has it."""
    x, amount = node.operands
    shifts = amount.ints()
    if shifts is None or x.dtype.is_signed or any(not 0 <= s < x.dtype.bits for s in shifts):
        return Declined("only unsigned shifts by constants below the width become products")
    power = b.const(np.asarray([1 << s for s in shifts], x.dtype.numpy).reshape(amount.shape))
    return b.mul(x, power) if node.attr("direction").lower() == "left" else b.div(x, power)
