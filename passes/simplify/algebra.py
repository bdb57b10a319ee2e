"""Arithmetic that is known to come out the same, bit for bit: neutral elements, signs, bounds, integers that wrap.

What only holds for real numbers (x * a / b, x - x) stands in `reassociate`, or nowhere.
"""

from __future__ import annotations

import math

import numpy as np

from ...ir.graph import Node, Value
from ...ir.opdef import COMMUTATIVE
from ..optimize.common import SMALL, is_float, is_integer, producer, same_shape, same_type, small_const
from ..pattern import literal_equals
from ..rewrite import StagingBuilder, rule


@rule("add", "mul", "min", "max", "and", "or", "xor", "equal", "not_equal", "bitwise_and", "bitwise_or", "bitwise_xor")
def constant_second(b: StagingBuilder, node: Node):
    """add(c, x) -> add(x, c)"""
    x, y = node.operands[:2]
    if not node.has(COMMUTATIVE) or not x.is_const or y.is_const:
        return None
    if node.name in ("min", "max") and has_float_zero(x):
        return b.decline("of 0.0 and -0.0 the one that stands first may be taken")
    return b.call(node.name, (y, x), dict(node.attrs)).result


def has_float_zero(constant: Value) -> bool:
    """A float constant with a zero in it, or one too large to look."""
    if not is_float(constant):
        return False
    return constant.weight.nbytes > SMALL or not np.all(constant.array())  # type: ignore[union-attr]


#: What leaves x as it is on the right hand, for floats and for integers. x + 0.0 turns -0.0 into 0.0, so only -0.0 is neutral
#: in a float sum; pow may miss by an ulp in double precision.
_NEUTRAL: dict[str, tuple[float | None, int | None]] = {
    "mul": (1, 1), "div": (1, 1), "floor_div": (None, 1), "pow": (1, 1), "add": (-0.0, 0), "sub": (0, 0),
    "min": (math.inf, None), "max": (-math.inf, None),
    "bitwise_or": (None, 0), "bitwise_xor": (None, 0), "bit_shift": (None, 0),
}  # fmt: skip


@rule(*_NEUTRAL)
def neutral_element(b: StagingBuilder, node: Node):
    """mul(x, 1), div(x, 1), add(x, -0.0), sub(x, 0), min(x, inf), max(x, -inf) -> x"""
    x, y = node.operands
    if x.dtype is None or not x.dtype.is_numeric or x.dtype.kind == "complex" or not y.is_const:
        return None
    neutral = _NEUTRAL[node.name][0 if is_float(x) else 1]
    if neutral is None or (node.name == "pow" and _double(x)):
        return None
    return x if literal_equals(y, neutral) and same_type(x, node.result) else None


def _double(x: Value) -> bool:
    return x.dtype is not None and x.dtype.bits > 32 and is_float(x)


@rule("mul", "div")
def multiply_by_minus_one(b: StagingBuilder, node: Node):
    """mul(x, -1), div(x, -1) -> neg(x)"""
    x, c = node.operands
    if x.dtype is None or not x.dtype.is_signed or x.dtype.is_packed or not literal_equals(c, -1):
        return None
    if node.name == "div" and not is_float(x):
        return None  # the smallest integer has no quotient
    return b.neg(x) if same_type(x, node.result) else None


@rule("sub")
def subtract_constant(b: StagingBuilder, node: Node):
    """sub(x, c) -> add(x, -c)"""
    x, c = node.operands
    if not small_const(c) or x.is_const or c.dtype is None or c.weight.role == "param":
        return None
    if not is_float(c) and not (is_integer(c) and c.dtype.is_signed):
        return None
    return b.add(x, b.const(np.asarray(np.negative(c.array()))))


@rule("div")
def divide_by_power_of_two(b: StagingBuilder, node: Node):
    """div(x, c) -> mul(x, 1/c) where c is a power of two (exact)"""
    x, c = node.operands
    number = c.scalar()
    if number is None or c.dtype is None or not c.dtype.is_float or not math.isfinite(number) or number == 0:
        return None
    mantissa, exponent = math.frexp(number)
    if abs(mantissa) != 0.5 or not -100 < exponent < 100 or c.dtype.bits < 32:
        return None
    return b.mul(x, b.const(np.asarray(1.0 / c.array(), c.dtype.numpy)))


@rule("pow")
def pow_to_square(b: StagingBuilder, node: Node):
    """pow(x, 2) -> square(x); not in double precision, where pow may miss by an ulp"""
    x, exponent = node.operands
    if not is_float(x) or _double(x) or x.dtype is not node.result.dtype or not same_shape(x, node.result):
        return None
    return b.square(x) if literal_equals(exponent, 2) else None


@rule("add", "mul")
def merge_integer_constants(b: StagingBuilder, node: Node):
    """add(add(x, c), d) -> add(x, c + d), mul(mul(x, c), d) -> mul(x, c * d) for integers, which wrap"""
    inner, d = producer(node.operands[0], node.name), node.operands[1]
    if inner is None or not is_integer(node.result) or not small_const(d):
        return None
    x, c = inner.operands
    if x.is_const or not small_const(c):
        return None
    together = b.call(node.name, (c, d)).result
    made = b.call(node.name, (x, together)).result
    return made if same_type(made, node.result) and _no_larger(together, c, d) else None


def _no_larger(made: Value, c: Value, d: Value) -> bool:
    return made.type.numel <= max(c.type.numel, d.type.numel)  # type: ignore[attr-defined]


@rule("add", "sub")
def merge_subtracted_integer(b: StagingBuilder, node: Node):
    """add(sub(c, x), d) -> sub(c + d, x), sub(c, add(x, d)) -> sub(c - d, x) for integers"""
    x, y = node.operands
    inner = producer(x if node.name == "add" else y, "sub" if node.name == "add" else "add")
    if inner is None or not is_integer(node.result):
        return None
    c, kept, d = (
        (inner.operands[0], inner.operands[1], y) if node.name == "add" else (x, inner.operands[0], inner.operands[1])
    )
    if kept.is_const or not (small_const(c) and small_const(d)):  # type: ignore[union-attr]
        return None
    together = b.call(node.name, (c, d)).result
    made = b.sub(together, kept)
    return made if same_type(made, node.result) and _no_larger(together, c, d) else None  # type: ignore[arg-type]


@rule("abs", "square")
def sign_under_even(b: StagingBuilder, node: Node):
    """abs(neg(x)) -> abs(x), square(neg(x)) -> square(x), square(abs(x)) -> square(x)"""
    inner = producer(node.operands[0], "neg", "abs")
    if inner is None or (node.name, inner.name) == ("abs", "abs"):
        return None
    return b.call(node.name, (inner.operands[0],), dict(node.attrs)).result


@rule("add")
def add_negated(b: StagingBuilder, node: Node):
    """add(x, neg(y)), add(neg(y), x) -> sub(x, y)"""
    x, y = node.operands
    negated = producer(y, "neg")
    if negated is None and producer(x, "neg") is not None:
        x, negated = y, producer(x, "neg")
    return b.sub(x, negated.operands[0]) if negated is not None else None


@rule("sub")
def subtract_negated(b: StagingBuilder, node: Node):
    """sub(x, neg(y)) -> add(x, y)"""
    negated = producer(node.operands[1], "neg")
    return b.add(node.operands[0], negated.operands[0]) if negated is not None else None


#: What equal operands give: the operand, or a number (integers and bools only).
_EQUAL_OPERANDS = {
    "min": None, "max": None, "and": None, "or": None, "bitwise_and": None, "bitwise_or": None,
    "sub": 0, "xor": False, "bitwise_xor": 0,
    "equal": True, "less_equal": True, "greater_equal": True, "not_equal": False, "less": False, "greater": False,
}  # fmt: skip
#: A number takes the place of a whole tensor only up to so many elements.
MOST_ELEMENTS = 1024


@rule(*_EQUAL_OPERANDS)
def equal_operands(b: StagingBuilder, node: Node):
    """min(x, x), and(x, x) -> x; for integers and bools sub(x, x) -> 0, equal(x, x) -> true"""
    x, y = node.operands
    if x is not y:
        return None
    gives = _EQUAL_OPERANDS[node.name]
    if gives is None:
        return x
    type_ = node.result.type
    if is_float(x) or x.dtype is None or x.dtype.kind == "string" or not type_.is_static or type_.numel > MOST_ELEMENTS:  # type: ignore
        return None
    return b.const(np.full(type_.shape, gives, type_.dtype.numpy))  # type: ignore[attr-defined]


@rule("mul", "bitwise_and")
def integer_times_zero(b: StagingBuilder, node: Node):
    """mul(x, 0), bitwise_and(x, 0) -> 0 for integers"""
    type_ = node.result.type
    if not is_integer(node.result) or not type_.is_static or type_.numel > MOST_ELEMENTS:  # type: ignore[attr-defined]
        return None
    if not literal_equals(node.operands[1], 0):  # type: ignore[arg-type]
        return None
    return b.const(np.zeros(type_.shape, type_.dtype.numpy))  # type: ignore[attr-defined]


RULES = (
    constant_second,
    neutral_element,
    multiply_by_minus_one,
    subtract_constant,
    divide_by_power_of_two,
    pow_to_square,
    merge_integer_constants,
    merge_subtracted_integer,
    sign_under_even,
    add_negated,
    subtract_negated,
    equal_operands,
    integer_times_zero,
    "neg(neg(x)) -> x",
)
