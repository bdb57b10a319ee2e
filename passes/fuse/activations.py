"""Activations that exporters wrote out become one op again, in every association; targets that lack the op get the shortest
spelling that they take.

The rules compare numbers, not spellings (terms.py): a constant that is another one than the formula's, as far as its dtype
can say, is no match. All nodes of a formula but its input must have no other use.
"""

from __future__ import annotations

import math

from ...ir.graph import Node, Value
from ..manager import pattern_pass
from ..pattern import literal_equals
from ..rewrite import StagingBuilder, rule
from .kinks import KINKS
from .terms import gates, is_float, near, own, polynomial, ramp, stands_for, times_x


def _line_of(gate: Value, op: str) -> tuple[Node, float, float] | None:
    """(the node, a, b) of a * op(...) + b."""
    found = ramp(gate)
    node = None if found is None or not found.is_line else own(found.x, op)
    return None if node is None else (node, found.slope, found.offset)  # type: ignore[union-attr]


# x times a gate of x.


@rule("mul", "div", numerics="ulp", benefit=2)
def fuse_hard_swish(b: StagingBuilder, node: Node):
    """x * clip(x + 3, 0, 6) / 6 -> hard_swish(x)"""
    for factor, x, gate in gates(node):
        cut = ramp(gate)
        if cut is None or cut.x is not x:
            continue
        a, c, low, high = (factor * n for n in (cut.slope, cut.offset, cut.low, cut.high))
        if near(a, 1 / 6, x) and near(c, 0.5, x) and low == 0 and near(high, 1.0, x):
            return b.hard_swish(x)
        return b.decline("the line and its bounds are not x / 6 + 1 / 2 between 0 and 1")
    return None


@rule("mul", "div", numerics="ulp", benefit=2)
def fuse_silu(b: StagingBuilder, node: Node):
    """x * sigmoid(x) -> silu(x); x * sigmoid(k x) -> swish(x)"""
    for factor, x, gate in gates(node):
        sigmoid = own(gate, "sigmoid")
        k = None if sigmoid is None else times_x(sigmoid.operands[0], x)
        if k is None or not near(factor, 1.0, x):
            continue
        return b.silu(x) if near(k, 1.0, x) else b.swish(x, alpha=k)
    return None


@rule("div", numerics="ulp", benefit=2)
def fuse_silu_divided(b: StagingBuilder, node: Node):
    """x / (1 + exp(-x)) -> silu(x)"""
    x, below = node.operands
    if not stands_for(x, node) or not _one_plus_exp_minus(below, x):
        return None
    return b.silu(x)


def _one_plus_exp_minus(value: Value | None, x: Value | None) -> Value | None:
    """The x of 1 + exp(-x); half precision overflows where the sigmoid is still a number."""
    if value is None or not is_float(value) or value.dtype.name == "f16":  # type: ignore[union-attr]
        return None
    found = _line_of(value, "exp") if own(value) is not None else None
    if found is None or found[1:] != (1.0, 1.0):
        return None
    minus = own(found[0].operands[0])
    if minus is None:
        return None
    source = x if x is not None else minus.operands[0]
    return source if source is not None and times_x(minus.result, source) == -1.0 else None


@rule("mul", "div", numerics="ulp", benefit=2)
def fuse_gelu(b: StagingBuilder, node: Node):
    """x / 2 * (1 + erf(x / sqrt 2)) -> gelu(x)"""
    for factor, x, gate in gates(node):
        found = _line_of(gate, "erf")
        if found is None:
            continue
        erf, a, c = found
        k = times_x(erf.operands[0], x)
        if k is None or not (near(factor * a, 0.5, x) and near(factor * c, 0.5, x) and near(k, math.sqrt(0.5), x)):
            return b.decline("the constants are not 1/2 and sqrt 2")
        return b.gelu(x)
    return None


def _is_gelu_curve(value: Value | None, x: Value, scale: float) -> bool:
    """scale * sqrt(2 / pi) * (x + 0.044715 x^3)"""
    found = polynomial(value, x)
    if found is None:
        return False
    zeroth, first, second, third = found
    fits = near(first, scale * math.sqrt(2 / math.pi), x) and near(third, 0.044715 * first, x, units=4)
    return fits and not zeroth and not second


@rule("mul", "div", numerics="ulp", benefit=2)
def fuse_gelu_tanh(b: StagingBuilder, node: Node):
    """x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) -> gelu(x)"""
    for factor, x, gate in gates(node):
        sigmoid = own(gate, "sigmoid")
        if sigmoid is not None and near(factor, 1.0, x) and _is_gelu_curve(sigmoid.operands[0], x, 2.0):
            return b.gelu(x, approximate="tanh")
        found = _line_of(gate, "tanh")
        if found is None:
            continue
        tanh, a, c = found
        if near(factor * a, 0.5, x) and near(factor * c, 0.5, x) and _is_gelu_curve(tanh.operands[0], x, 1.0):
            return b.gelu(x, approximate="tanh")
    return None


@rule("mul", "div", numerics="ulp", benefit=2)
def fuse_mish(b: StagingBuilder, node: Node):
    """x * tanh(softplus(x)) -> mish(x)"""
    for factor, x, gate in gates(node):
        tanh = own(gate, "tanh")
        softplus = None if tanh is None else own(tanh.operands[0], "softplus")
        if softplus is not None and softplus.operands[0] is x and near(factor, 1.0, x):
            return b.mish(x)
    return None


# Lines between bounds.


@rule("clip", "relu6", "min", "max", "mul", "div", "add", "sub", numerics="ulp")
def fuse_hard_sigmoid(b: StagingBuilder, node: Node):
    """clip(a * x + c, 0, 1) -> hard_sigmoid(x)"""
    found = ramp(node.result)
    if found is None or found.nodes < 2 or found.is_line or not stands_for(found.x, node):
        return None
    x, slope, offset, low, high, _ = found
    if low != 0 or not near(high, 1.0, x):
        return b.decline("the bounds are not 0 and 1")
    if slope < 0 or (slope, offset) == (1.0, 0.0):
        return b.decline("the line falls, or is x itself")
    return b.hard_sigmoid(x, alpha=slope, beta=offset)


@rule("clip", "relu", "relu6", "min", "max", numerics="ulp")
def merge_bounds(b: StagingBuilder, node: Node):
    """min(max(x, low), high) -> clip(x, low, high)"""
    found = ramp(node.result)
    if found is None or (found.slope, found.offset) != (1.0, 0.0) or not stands_for(found.x, node):
        return None
    x, low, high = found.x, found.low, found.high
    if found.nodes < 2 and not (node.name == "max" and low == 0):
        return None
    if low == 0 and high in (6.0, math.inf):
        return b.relu(x) if high == math.inf else b.relu6(x)
    ends = [None if math.isinf(end) else b.const(end, x.dtype) for end in (low, high)]
    return b.clip(x, *ends)


# Exponentials.


@rule("div", "reciprocal", numerics="ulp")
def fuse_sigmoid(b: StagingBuilder, node: Node):
    """1 / (1 + exp(-x)) -> sigmoid(x)"""
    if node.name == "div" and not literal_equals(node.operands[0], 1.0):
        return None
    x = _one_plus_exp_minus(node.operands[-1], None)
    return b.sigmoid(x) if x is not None and stands_for(x, node) else None


@rule("add", "sub", numerics="ulp")
def fuse_tanh(b: StagingBuilder, node: Node):
    """2 * sigmoid(2 * x) - 1 -> tanh(x)"""
    found = _line_of(node.result, "sigmoid")
    if found is None or found[1:] != (2.0, -1.0):
        return None
    double = own(found[0].operands[0], "mul", "add")
    x = None if double is None else next((v for v in double.operands if not v.is_const), None)
    return b.tanh(x) if x is not None and times_x(double.result, x) == 2.0 and stands_for(x, node) else None


@rule("add", numerics="ulp")
def fuse_softplus_stable(b: StagingBuilder, node: Node):
    """max(x, 0) + log1p(exp(-|x|)) -> softplus(x)"""
    for upper, curve in (node.operands, node.operands[::-1]):
        relu, log = own(upper, "relu", "max"), own(curve, "log1p", "log")
        cut = None if relu is None or log is None else ramp(upper)
        if cut is None or cut[1:5] != (1.0, 0.0, 0.0, math.inf) or not stands_for(cut.x, node):
            continue
        exp = _exp_in_log(log)
        minus = None if exp is None else own(exp.operands[0])
        size = None if minus is None else own(minus.operands[0], "abs")
        if size is not None and size.operands[0] is cut.x and times_x(minus.result, size.result) == -1.0:  # type: ignore[union-attr]
            return b.softplus(cut.x)
    return None


def _exp_in_log(log: Node) -> Node | None:
    """The exp of log1p(exp(y)) or log(1 + exp(y))."""
    if log.name == "log1p":
        return own(log.operands[0], "exp")
    found = _line_of(log.operands[0], "exp") if own(log.operands[0]) is not None else None
    return found[0] if found is not None and found[1:] == (1.0, 1.0) else None


@rule("log", "log1p", numerics="approx")
def fuse_softplus(b: StagingBuilder, node: Node):
    """log(exp(x) + 1) -> softplus(x); approx: it does not overflow where the written-out form does"""
    exp = _exp_in_log(node)
    return b.softplus(exp.operands[0]) if exp is not None and stands_for(exp.operands[0], node) else None


@rule("div", numerics="ulp")
def fuse_softsign(b: StagingBuilder, node: Node):
    """x / (1 + |x|) -> softsign(x)"""
    x, below = node.operands
    found = _line_of(below, "abs") if own(below) is not None else None
    if found is None or found[1:] != (1.0, 1.0) or found[0].operands[0] is not x or not stands_for(x, node):
        return None
    return b.softsign(x)


# Roots.


@rule("div", "reciprocal", numerics="ulp")
def fuse_rsqrt(b: StagingBuilder, node: Node):
    """1 / sqrt(x) -> rsqrt(x)"""
    if node.name == "div" and not literal_equals(node.operands[0], 1.0):
        return None
    root = own(node.operands[-1], "sqrt")
    return b.rsqrt(root.operands[0]) if root is not None and stands_for(root.operands[0], node) else None


# Softmax.


def _over_one_axis(node: Node | None) -> int | None:
    """The axis of a reduction that keeps it as a dim of 1."""
    if node is None or not node.attr("keepdims"):
        return None
    axes, rank = node.operand("axes"), node.operands[0].rank
    over = None if axes is None else axes.ints()
    return over[0] % rank if over is not None and len(over) == 1 and rank is not None else None


def _shifted(value: Value | None, uses: int) -> tuple[Value, int] | None:
    """(x, axis) of x - max(x) along one axis."""
    node = None if value is None else value.node
    if node is None or node.name != "sub" or value.n_uses != uses:  # type: ignore[union-attr]
        return None
    x, peak = node.operands
    top = own(peak, "reduce_max")
    axis = _over_one_axis(top)
    return (x, axis) if axis is not None and top.operands[0] is x else None  # type: ignore[union-attr]


def _sums(value: Value | None, term: Value, axis: int) -> bool:
    """value is the sum of `term` along the axis."""
    node = own(value, "reduce_sum")
    return node is not None and node.operands[0] is term and _over_one_axis(node) == axis


@rule("div", numerics="ulp")
def fuse_softmax(b: StagingBuilder, node: Node):
    """exp(x - max(x)) / sum(exp(x - max(x))) -> softmax(x)"""
    power, total = node.operands
    exp = power.node
    found = _shifted(exp.operands[0], 1) if exp is not None and exp.name == "exp" and power.n_uses == 2 else None
    if found is None or not _sums(total, power, found[1]) or not stands_for(found[0], node):
        return None
    return b.softmax(found[0], axis=found[1])


@rule("sub", numerics="ulp")
def fuse_log_softmax(b: StagingBuilder, node: Node):
    """(x - max(x)) - log(sum(exp(x - max(x)))) -> log_softmax(x)"""
    shifted, low = node.operands
    found, log = _shifted(shifted, 2), own(low, "log")
    total = None if log is None else own(log.operands[0], "reduce_sum")
    exp = None if total is None else own(total.operands[0], "exp")
    if found is None or exp is None or exp.operands[0] is not shifted or not stands_for(found[0], node):
        return None
    return b.log_softmax(found[0], axis=found[1]) if _sums(log.operands[0], exp.result, found[1]) else None  # type: ignore[union-attr]


@rule("sub", numerics="ulp")
def fuse_log_softmax_of_sum(b: StagingBuilder, node: Node):
    """x - log_sum_exp(x) -> log_softmax(x)"""
    x, low = node.operands
    total = own(low, "reduce_log_sum_exp")
    axis = _over_one_axis(total)
    if axis is None or total.operands[0] is not x or not stands_for(x, node):  # type: ignore[union-attr]
        return None
    return b.log_softmax(x, axis=axis)


@rule("log", numerics="approx")
def fuse_log_of_softmax(b: StagingBuilder, node: Node):
    """log(softmax(x)) -> log_softmax(x); approx: a probability that rounds to 0 has a finite logarithm"""
    softmax = own(node.operands[0], "softmax")
    return None if softmax is None else b.log_softmax(softmax.operands[0], axis=softmax.attr("axis"))


fuse_activations = pattern_pass(
    "fuse-activations",
    [
        fuse_hard_swish,
        fuse_silu,
        fuse_silu_divided,
        fuse_gelu,
        fuse_gelu_tanh,
        fuse_mish,
        fuse_hard_sigmoid,
        merge_bounds,
        *KINKS,
        fuse_sigmoid,
        fuse_tanh,
        fuse_softplus_stable,
        fuse_softplus,
        fuse_softsign,
        fuse_rsqrt,
        fuse_softmax,
        fuse_log_softmax,
        fuse_log_softmax_of_sum,
        fuse_log_of_softmax,
    ],
    doc="Activations that were written out become one op.",
)
