"""Activations with a kink that exporters wrote out become one op again: by a comparison and a choice, by a maximum, or as the
sum of what they are above and below 0.

What the op gives for NaN decides about comparisons: `where(x > t, x, 0)` is 0 there, `where(x <= t, 0, x)` and
thresholded_relu are NaN.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ...ir.graph import Node, Value
from ..optimize.common import same_shape
from ..rewrite import StagingBuilder, rule
from .terms import EPSILON, fill, is_float, near, number, own, product, ramp, stands_for, times_x

_TURNED = {"greater": "less", "less": "greater", "greater_equal": "less_equal", "less_equal": "greater_equal"}


class _Kink(NamedTuple):
    """scale * x where x > 0, `low` elsewhere."""

    x: Value
    scale: float
    low: Value


def _order(test: Value | None) -> tuple[str, Value, float] | None:
    """(how, x, t) of a comparison of a value with a number, the value first."""
    node = own(test, *_TURNED)
    if node is None:
        return None
    left, right = node.operands
    bound, other = number(right), number(left)
    if bound is not None and is_float(left):  # type: ignore[arg-type]
        return node.name, left, bound  # type: ignore[return-value]
    return None if other is None else (_TURNED[node.name], right, other)  # type: ignore[return-value]


def _kinked(node: Node) -> _Kink | None:
    """What a choice by the sign of x, or a maximum of x and a fraction of it, comes to."""
    if node.name == "max":
        for x, low in (node.operands, node.operands[::-1]):
            scale = times_x(low, x) if own(low) is not None else None  # type: ignore[arg-type]
            if scale is not None and 0 < scale < 1:
                return _Kink(x, 1.0, low)  # type: ignore[arg-type]
        return None
    found = _order(node.operands[0])
    if found is None or found[2]:
        return None
    how, x, _ = found
    high, low = node.operands[1:] if how.startswith("greater") else node.operands[:0:-1]
    scale = times_x(high, x)
    return None if scale is None or scale < 0 else _Kink(x, scale, low)  # type: ignore[arg-type]


def _sloped(b: StagingBuilder, x: Value, slope: Value) -> Value:
    """x where it is positive, slope * x elsewhere."""
    alpha = number(slope)
    return b.prelu(x, slope) if alpha is None else b.leaky_relu(x, alpha=alpha)


@rule("where", "max", numerics="ulp")
def fuse_leaky_relu(b: StagingBuilder, node: Node):
    """where(x > 0, x, a * x), max(x, a * x) -> leaky_relu(x), prelu(x, a)"""
    found = _kinked(node)
    if found is None or found.scale != 1.0 or not stands_for(found.x, node):
        return None
    x, _, low = found
    scale = times_x(low, x)
    if scale is not None:
        return b.leaky_relu(x, alpha=scale)
    times = own(low, "mul")
    if times is None or x not in times.operands:
        return b.decline("what stands below 0 is no multiple of x")
    slope = times.operands[1] if times.operands[0] is x else times.operands[0]
    if not slope.is_const or not same_shape(low, x):  # type: ignore[union-attr]
        return b.decline("the slope is computed, or wider than x")
    return b.prelu(x, slope)


@rule("add", "sub", numerics="ulp")
def fuse_prelu(b: StagingBuilder, node: Node):
    """relu(x) - a * relu(-x), relu(x) + a * min(x, 0) -> prelu(x, a), leaky_relu(x)"""
    for upper, lower in (node.operands, node.operands[::-1])[: 1 if node.name == "sub" else 2]:
        relu, times = own(upper, "relu"), own(lower, "mul")
        if relu is None or times is None or not stands_for(relu.operands[0], node):  # type: ignore[arg-type]
            continue
        x = relu.operands[0]
        for part, slope in (times.operands, times.operands[::-1]):
            sign = _below_zero(part, x)  # type: ignore[arg-type]
            if sign and slope.is_const and same_shape(lower, x):  # type: ignore[union-attr,arg-type]
                turned = sign * (-1 if node.name == "sub" else 1) < 0
                return _sloped(b, x, _negated(b, slope) if turned else slope)  # type: ignore[arg-type]
    return None


def _negated(b: StagingBuilder, slope: Value) -> Value:
    alpha = number(slope)
    return b.neg(slope) if alpha is None else b.const(-alpha, slope.dtype)


def _below_zero(value: Value, x: Value) -> int:
    """1 for min(x, 0), -1 for relu(-x), else 0."""
    found = ramp(value) if own(value) is not None else None
    if found is None or found.x is not x or found.offset:
        return 0
    if (found.slope, found.low, found.high) == (-1.0, 0.0, math.inf):
        return -1
    return int((found.slope, found.low, found.high) == (1.0, -math.inf, 0.0))


# Exponentials below 0.


class _Curve(NamedTuple):
    """scale * (exp(rate * x) - 1)"""

    x: Value
    scale: float
    rate: float


def _curve(value: Value, x: Value, high: float) -> _Curve | None:
    """The curve that `value` is, cut off above `high`."""
    found = ramp(value) if own(value) is not None else None
    power = None if found is None else own(found.x, "exp", "expm1")
    if power is None or (found.low, found.high) != (-math.inf, high):  # type: ignore[union-attr]
        return None
    if found.offset != (0.0 if power.name == "expm1" else -found.slope):  # type: ignore[union-attr]
        return None
    rate = _rate(power.operands[0], x)  # type: ignore[arg-type]
    return None if rate is None else _Curve(x, found.slope, rate)  # type: ignore[union-attr]


def _rate(value: Value, x: Value) -> float | None:
    """The positive k of k * x or k * min(x, 0)."""
    if value is x:
        return 1.0
    found = ramp(value) if own(value) is not None else None
    if found is None or found.x is not x or found.offset or found.low != -math.inf or found.high not in (0.0, math.inf):
        return None
    return found.slope if found.slope > 0 else None


def _exponential(b: StagingBuilder, curve: _Curve, scale: float):
    """The op that is scale * x above 0 and the curve below."""
    x, height, rate = curve
    if near(rate, 1.0, x):
        return b.elu(x, alpha=height) if scale == 1.0 else b.selu(x, alpha=height / scale, gamma=scale)
    if scale == 1.0 and height > 0 and near(rate * height, 1.0, x):
        return b.celu(x, alpha=height)
    return b.decline("the curve is not a * (exp(x) - 1) or a * (exp(x / a) - 1)")


@rule("where", numerics="ulp")
def fuse_elu(b: StagingBuilder, node: Node):
    """where(x > 0, x, a * (exp(x) - 1)) -> elu(x); with a multiple of x selu, with exp(x / a) celu"""
    found = _kinked(node)
    curve = None if found is None or not stands_for(found.x, node) else _curve(found.low, found.x, math.inf)
    return None if curve is None else _exponential(b, curve, found.scale)  # type: ignore[union-attr]


@rule("add", "sub", numerics="ulp")
def fuse_elu_of_sum(b: StagingBuilder, node: Node):
    """relu(x) + min(a * (exp(x) - 1), 0), relu(x) - relu(a - a * exp(x)) -> elu(x), selu, celu"""
    for upper, lower in (node.operands, node.operands[::-1])[: 1 if node.name == "sub" else 2]:
        cut = ramp(upper) if own(upper) is not None else None
        if cut is None or cut.offset or (cut.low, cut.high) != (0.0, math.inf) or not stands_for(cut.x, node):
            continue
        curve = _lowered(lower, cut.x) if node.name == "sub" else _curve(lower, cut.x, 0.0)  # type: ignore[arg-type]
        if curve is not None and cut.slope > 0 and curve.scale > 0:
            return _exponential(b, curve, cut.slope)
    return None


def _lowered(value: Value | None, x: Value) -> _Curve | None:
    """The curve that relu(a - a * exp(x)) takes away."""
    found = ramp(value) if own(value) is not None else None
    power = None if found is None else own(found.x, "exp")
    if power is None or found[1:5] != (-found.offset, found.offset, 0.0, math.inf):  # type: ignore[union-attr,index]
        return None
    rate = _rate(power.operands[0], x)  # type: ignore[arg-type]
    return None if rate is None else _Curve(x, found.offset, rate)  # type: ignore[union-attr]


@rule("mul", "div", numerics="ulp")
def fuse_selu(b: StagingBuilder, node: Node):
    """elu(x) * c, selu(x) * c -> selu(x)"""
    found = product(node)
    made = own(found.parts[0], "elu", "selu") if found is not None and len(found.parts) == 1 else None
    if made is None or not stands_for(made.result, node):
        return None
    factor = found.factor * (made.attr("gamma") if made.name == "selu" else 1.0)  # type: ignore[union-attr]
    if factor <= 0:
        return b.decline("the factor is not positive")
    return b.selu(made.operands[0], alpha=made.attr("alpha"), gamma=factor)


# Thresholds.


@rule("where", numerics="ulp")
def fuse_thresholded_relu(b: StagingBuilder, node: Node):
    """where(x <= t, 0, x) -> thresholded_relu(x); where(|x| <= t, 0, x) -> shrink(x)"""
    found = _order(node.operands[0])
    _, zero, x = node.operands
    if found is None or fill(zero) != 0.0 or not stands_for(x, node):  # type: ignore[arg-type]
        return None
    how, tested, bound = found
    if how != "less_equal":
        return b.decline("NaN and the threshold itself are other than the op's")
    if tested is x:
        return b.thresholded_relu(x, alpha=bound)
    size = own(tested, "abs")
    if size is None or size.operands[0] is not x or bound < 0:
        return b.decline("another value is compared")
    return b.shrink(x, lambd=bound, bias=0.0)


@rule("where", numerics="ulp")
def softplus_above_threshold(b: StagingBuilder, node: Node):
    """where(k * x > t, x, softplus(k * x) / k) -> softplus(k * x) / k, where the two agree above t to the last digit"""
    found = _order(node.operands[0])
    _, x, curve = node.operands
    if found is None or not found[0].startswith("greater") or not stands_for(x, node):  # type: ignore[arg-type]
        return None
    _, tested, bound = found
    factor, made = _softplus_in(curve)  # type: ignore[arg-type]
    if made is None or made.operands[0] is not tested or not same_shape(curve, node.result):  # type: ignore[arg-type]
        return None
    scale = 1.0 if tested is x else _times_shared(tested, x)  # type: ignore[arg-type]
    if scale is None or not near(factor * scale, 1.0, x):  # type: ignore[arg-type]
        return b.decline("the curve is another one")
    if bound <= 0 or math.exp(-bound) > bound * EPSILON[x.dtype.name] / 2:  # type: ignore[union-attr]
        return b.decline("the threshold is so low that the curve differs from x above it")
    return curve


def _softplus_in(value: Value) -> tuple[float, Node | None]:
    """(c, softplus) of c * softplus(...)."""
    if value.node is not None and value.node.name == "softplus":
        return 1.0, value.node
    found = product(value.node) if own(value, "mul", "div") is not None else None  # type: ignore[arg-type]
    made = own(found.parts[0], "softplus") if found is not None and len(found.parts) == 1 else None
    return (found.factor if found is not None else 1.0), made


def _times_shared(value: Value, x: Value) -> float | None:
    """The number k of a value k * x that has other users."""
    node = value.node
    if node is None or node.name not in ("mul", "div"):
        return None
    found = product(node)
    return found.factor if found is not None and found.parts == (x,) else None


KINKS = (
    fuse_leaky_relu,
    fuse_prelu,
    fuse_elu,
    fuse_elu_of_sum,
    fuse_selu,
    fuse_thresholded_relu,
    softplus_above_threshold,
)
