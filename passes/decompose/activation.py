"""Activations and the softmax family as comparisons, products and exponentials. Knows no target.

Formulas are ONNX's, arranged so that no branch overflows: the exponential only ever sees what is not positive.
"""

from __future__ import annotations

import math

from ...ir.builder import Builder
from ...ir.value import Node, Value
from .rules import Declined, decomposes, scalar


@decomposes("relu")
def relu(b: Builder, node: Node) -> Value:
    """max(x, 0)"""
    (x,) = node.operands
    return b.max(x, scalar(b, 0, x))


@decomposes("relu6")
def relu6(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.clip(x, scalar(b, 0, x), scalar(b, 6, x))


@decomposes("leaky_relu", rounds=True)
def leaky_relu(b: Builder, node: Node) -> Value:
    """max(x, alpha x) where alpha is at most 1: the same element is chosen, and NaN survives."""
    (x,) = node.operands
    alpha = node.attr("alpha")
    scaled = b.mul(x, scalar(b, alpha, x))
    if 0 <= alpha <= 1:
        return b.max(x, scaled)
    return b.where(b.less(x, scalar(b, 0, x)), scaled, x)


@decomposes("prelu", rounds=True)
def prelu(b: Builder, node: Node) -> Value:
    x, slope = node.operands
    return b.where(b.less(x, scalar(b, 0, x)), b.mul(x, slope), x)


def _exponential_below_zero(b: Builder, x: Value, alpha: float, divisor: float) -> Value:
    """x above zero, alpha * (exp(x / divisor) - 1) below."""
    low = b.min(x, scalar(b, 0, x))
    if divisor != 1:
        low = b.div(low, scalar(b, divisor, x))
    curve = b.expm1(low)
    if alpha != 1:
        curve = b.mul(curve, scalar(b, alpha, x))
    return b.where(b.less(x, scalar(b, 0, x)), curve, x)


@decomposes("elu", rounds=True)
def elu(b: Builder, node: Node) -> Value:
    return _exponential_below_zero(b, node.operands[0], node.attr("alpha"), 1.0)


@decomposes("celu", rounds=True)
def celu(b: Builder, node: Node) -> Value:
    alpha = node.attr("alpha")
    return _exponential_below_zero(b, node.operands[0], alpha, alpha)


@decomposes("selu", rounds=True)
def selu(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    curve = _exponential_below_zero(b, x, node.attr("alpha"), 1.0)
    return b.mul(curve, scalar(b, node.attr("gamma"), x))


@decomposes("thresholded_relu")
def thresholded_relu(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.where(b.greater(x, scalar(b, node.attr("alpha"), x)), x, scalar(b, 0, x))


@decomposes("sigmoid", rounds=True)
def sigmoid(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    one = scalar(b, 1, x)
    return b.div(one, b.add(b.exp(b.neg(x)), one))


@decomposes("hard_sigmoid", rounds=True)
def hard_sigmoid(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    line = b.add(b.mul(x, scalar(b, node.attr("alpha"), x)), scalar(b, node.attr("beta"), x))
    return b.clip(line, scalar(b, 0, x), scalar(b, 1, x))


@decomposes("hard_swish", rounds=True)
def hard_swish(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    line = b.add(b.mul(x, scalar(b, 1 / 6, x)), scalar(b, 0.5, x))
    return b.mul(x, b.clip(line, scalar(b, 0, x), scalar(b, 1, x)))


@decomposes("silu", rounds=True)
def silu(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.mul(x, b.sigmoid(x))


@decomposes("swish", rounds=True)
def swish(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    alpha = node.attr("alpha")
    return b.mul(x, b.sigmoid(x if alpha == 1 else b.mul(x, scalar(b, alpha, x))))


@decomposes("softplus", rounds=True)
def softplus(b: Builder, node: Node) -> Value:
    """max(x, 0) + log1p(exp(-|x|))"""
    (x,) = node.operands
    return b.add(b.max(x, scalar(b, 0, x)), b.log1p(b.exp(b.neg(b.abs(x)))))


@decomposes("mish", rounds=True)
def mish(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.mul(x, b.tanh(b.softplus(x)))


@decomposes("softsign", rounds=True)
def softsign(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.div(x, b.add(b.abs(x), scalar(b, 1, x)))


@decomposes("gelu", rounds=True)
def gelu(b: Builder, node: Node) -> Value:
    """x / 2 * (1 + erf(x / sqrt 2)), or its tanh form."""
    (x,) = node.operands
    one, half = scalar(b, 1, x), scalar(b, 0.5, x)
    if node.attr("approximate") == "tanh":
        cube = b.mul(b.mul(b.mul(x, x), x), scalar(b, 0.044715, x))
        curve = b.tanh(b.mul(b.add(x, cube), scalar(b, math.sqrt(2 / math.pi), x)))
    else:
        curve = b.erf(b.mul(x, scalar(b, math.sqrt(0.5), x)))
    return b.mul(b.mul(x, half), b.add(curve, one))


@decomposes("shrink", rounds=True)
def shrink(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    bias, edge = scalar(b, node.attr("bias"), x), node.attr("lambd")
    high = b.where(b.greater(x, scalar(b, edge, x)), b.sub(x, bias), scalar(b, 0, x))
    return b.where(b.less(x, scalar(b, -edge, x)), b.add(x, bias), high)


@decomposes("clip")
def clip(b: Builder, node: Node) -> Value:
    """min(max(x, low), high)"""
    x, low, high = (*node.operands, None, None)[:3]
    y = x if low is None else b.max(x, low)
    return y if high is None else b.min(y, high)


def _shifted(b: Builder, x: Value, axis: int) -> Value:
    return b.sub(x, b.reduce_max(x, (axis,), keepdims=True))


@decomposes("softmax", rounds=True)
def softmax(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    axis = node.attr("axis") % x.rank
    power = b.exp(_shifted(b, x, axis))
    return b.div(power, b.reduce_sum(power, (axis,), keepdims=True))


@decomposes("log_softmax", rounds=True)
def log_softmax(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    axis = node.attr("axis") % x.rank
    shifted = _shifted(b, x, axis)
    total = b.log(b.reduce_sum(b.exp(shifted), (axis,), keepdims=True))
    return b.sub(shifted, total)


@decomposes("hardmax")
def hardmax(b: Builder, node: Node) -> Value | Declined:
    """1 at the first maximum along the axis, else 0: the arg_max compared with the positions along the axis."""
    (x,) = node.operands
    axis = node.attr("axis") % x.rank
    length = x.shape[axis]
    if length == 0:
        return Declined("an empty axis has no maximum")
    best = b.arg_max(x, axis=axis, keepdims=True)
    if type(length) is int:
        line = b.const(list(range(length)))
    else:
        line = b.range(0, b.squeeze(b.shape(x, start=axis, end=axis + 1), (0,)), 1)
    place = b.reshape(line, (-1, *[1] * (x.rank - 1 - axis)))
    return b.cast(b.equal(best, place), to=x.dtype)
