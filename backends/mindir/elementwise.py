"""Elementwise ops: which primitive computes which op, for which dtypes. Must not import MindSpore.

MindSpore on CPU divides 64-bit integers in f64: quotients and remainders are exact for numbers below 2^51.
"""

from __future__ import annotations

import math

import numpy as np

from ...formats.mindir import TYPE_IDS
from ...ir.builder import Builder
from ...ir.types import BF16, BOOL, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64
from ...ir.value import Node, Value
from ...passes.decompose.rules import Declined, Outcome, scalar
from .registry import EVERY, FLOAT_2, FLOAT_3, INTS, NUMBERS, SIGNED, Call, Dtypes, emits, lowers, simple

_BOOL: Dtypes = frozenset({BOOL})

#: op, primitive, dtypes: one argument per operand.
_SIMPLE: tuple[tuple[str, str, Dtypes], ...] = (
    ("abs", "Abs", FLOAT_3 | SIGNED | {U8}),
    ("neg", "Neg", NUMBERS),
    ("exp", "Exp", frozenset({F16, F64})),
    ("log", "Log", FLOAT_3),
    ("sqrt", "Sqrt", FLOAT_3),
    ("rsqrt", "Rsqrt", FLOAT_3),
    ("reciprocal", "Reciprocal", FLOAT_3),
    ("floor", "Floor", FLOAT_3),
    ("ceil", "Ceil", FLOAT_3),
    ("trunc", "Trunc", FLOAT_3),
    ("sign", "Sign", FLOAT_3 | {I32, I64}),
    ("square", "Square", NUMBERS),
    ("erf", "Erf", FLOAT_3),
    ("sin", "Sin", FLOAT_3),
    ("cos", "Cos", FLOAT_3),
    ("tan", "Tan", FLOAT_3),
    ("asin", "Asin", FLOAT_3),
    ("acos", "ACos", FLOAT_3),
    ("atan", "Atan", FLOAT_3),
    ("sinh", "Sinh", FLOAT_3),
    ("cosh", "Cosh", FLOAT_3),
    ("asinh", "Asinh", FLOAT_3),
    ("acosh", "Acosh", FLOAT_3),
    ("atanh", "Atanh", FLOAT_3),
    ("log1p", "Log1p", frozenset({F16, F64})),
    ("expm1", "Expm1", frozenset({F16, F64})),
    ("is_nan", "IsNan", FLOAT_3),
    ("not", "LogicalNot", _BOOL),
    ("bitwise_not", "Invert", INTS),
    ("identity", "Identity", EVERY),
    ("add", "Add", NUMBERS),
    ("sub", "Sub", FLOAT_3 | SIGNED | {U8, U16}),
    ("mul", "Mul", NUMBERS),
    ("floor_div", "FloorDiv", NUMBERS),
    ("min", "Minimum", NUMBERS),
    ("max", "Maximum", NUMBERS - {U16}),
    ("atan2", "Atan2", FLOAT_3),
    ("equal", "Equal", EVERY),
    ("not_equal", "NotEqual", EVERY),
    ("less", "Less", EVERY),
    ("less_equal", "LessEqual", EVERY),
    ("greater", "Greater", EVERY),
    ("greater_equal", "GreaterEqual", EVERY),
    ("and", "LogicalAnd", _BOOL),
    ("or", "LogicalOr", _BOOL),
    ("xor", "LogicalXor", _BOOL),
    ("bitwise_and", "BitwiseAnd", INTS | _BOOL),
    ("bitwise_or", "BitwiseOr", INTS | _BOOL),
    ("bitwise_xor", "BitwiseXor", INTS | _BOOL),
)
for _op, _primitive, _dtypes in _SIMPLE:
    simple(_op, _primitive, _dtypes)


@emits("round", FLOAT_3)
def round_(node: Node) -> Call:
    return Call("Round", (node.operands[0], 0))


def _both_signs(node: Node) -> str | None:
    both = node.attr("detect_negative") and node.attr("detect_positive")
    return None if both else "IsInf tells no sign"


@emits("is_inf", FLOAT_3, check=_both_signs)
def is_inf(node: Node) -> Call:
    return Call("IsInf", node.operands)


@emits("div", NUMBERS)
def div(node: Node) -> Call:
    """Div of integers would return floats."""
    return Call("Div" if node.operands[0].dtype.is_float else "TruncateDiv", node.operands)


@emits("mod", FLOAT_3 | SIGNED | {U8})
def mod(node: Node) -> Call:
    return Call("Mod" if node.attr("fmod") else "FloorMod", node.operands)


def _same_dtypes(node: Node) -> str | None:
    a, b = node.operands
    return None if a.dtype is b.dtype else "base and exponent have different dtypes"


@emits("pow", NUMBERS, check=_same_dtypes)
def pow_(node: Node) -> Call:
    return Call("Pow", node.operands)


@lowers("pow")
def mixed_pow(b: Builder, node: Node) -> Outcome:
    """In the base's dtype if that is a float, else in f64 and rounded towards zero as a cast does."""
    x, y = node.operands
    if x.dtype is y.dtype:
        return Declined("")
    if x.dtype.is_float:
        return b.pow(x, b.cast(y, to=x.dtype))
    return b.cast(b.pow(b.cast(x, to=F64), b.cast(y, to=F64)), to=x.dtype)


def _inside(node: Node) -> str | None:
    """MindSpore takes the amount modulo the width."""
    amounts, bits = node.operands[1].ints(), node.operands[0].dtype.bits
    inside = amounts is not None and all(0 <= s < bits for s in amounts)
    return None if inside or _clipped(node.operands[1]) else "the amount may be negative or above the width"


def _clipped(amount: Value) -> bool:
    node = amount.node
    while node is not None and node.name == "cast":
        node = node.operands[0].node
    return node is not None and node.name == "clip"


@lowers("bit_shift")
def guarded_shift(b: Builder, node: Node) -> Outcome:
    """By an amount within the width; by any other nothing but the sign is left."""
    x, amount = node.operands
    if _inside(node) is None:
        return Declined("")
    low, high = scalar(b, 0, amount), scalar(b, x.dtype.bits - 1, amount)
    shifted = b.bit_shift(x, b.clip(amount, low, high), direction=node.attr("direction"))
    inside = b.and_(b.greater_equal(amount, low), b.less_equal(amount, high))
    signs = node.attr("direction") == "RIGHT" and x.dtype.is_signed
    outside = b.neg(b.cast(b.less(x, scalar(b, 0, x)), to=x.dtype)) if signs else scalar(b, 0, x)
    return b.where(inside, shifted, outside)


@emits("bit_shift", INTS, check=_inside)
def bit_shift(node: Node) -> Call:
    return Call("LeftShift" if node.attr("direction") == "LEFT" else "RightShift", node.operands)


@emits("where", EVERY, data=1)
def where(node: Node) -> Call:
    return Call("Select", node.operands)


_CLAMPED = FLOAT_2 | {F64, I8, I16, I32, I64, U8, U32, U64}


def _bounds(node: Node) -> list[float | int | None] | None:
    """Bounds as plain numbers: absent, or constants that the 32-bit scalars of the format hold exactly."""
    made: list[float | int | None] = []
    for value in (*node.operands[1:], None, None)[:2]:
        number = None if value is None else value.scalar()
        if value is not None and (number is None or number != number):
            return None
        if number is not None and value.dtype.is_float:
            with np.errstate(all="ignore"):
                if float(np.float32(number)) != number:
                    return None
            number = None if math.isinf(number) else float(number)
        made.append(number)
    return made


def _constant_bounds(node: Node) -> str | None:
    return None if _bounds(node) else "the bounds are not plain numbers"


@emits("clip", _CLAMPED, check=_constant_bounds)
def clip(node: Node) -> Call:
    low, high = _bounds(node)
    if low is None and high is None:
        return Call("Identity", (node.operands[0],))
    return Call("ClampScalar", (node.operands[0], low, high))


# MindSpore's own f32 kernels of these lose digits: tanh a thousand ULP, exp a hundred, log1p all of them near zero. Its
# sinh, cosh, atanh and pow are those of the C library.

#: e^64 in f32: its power with the 64th part of x is e^x, and the rounding of the base counts only a 64th.
_BASE = 64.0


def _exponential(b: Builder, x: Value, sign: int = 1) -> Value:
    """e^x, or e^-x."""
    return b.pow(scalar(b, math.exp(_BASE), x), b.mul(x, scalar(b, sign / _BASE, x)))


@lowers("sigmoid")
def sigmoid(b: Builder, node: Node) -> Outcome:
    (x,) = node.operands
    if x.dtype is not F32:
        return Declined("")
    return b.reciprocal(b.add(_exponential(b, x, -1), scalar(b, 1, x)))


@lowers("exp")
def exp(b: Builder, node: Node) -> Outcome:
    (x,) = node.operands
    return _exponential(b, x) if x.dtype is F32 else Declined("")


@lowers("expm1")
def expm1(b: Builder, node: Node) -> Outcome:
    """2 sinh(x / 2) e^(x / 2), where x below -80 gives the same -1."""
    (x,) = node.operands
    if x.dtype is not F32:
        return Declined("")
    half = b.mul(b.max(x, scalar(b, -80, x)), scalar(b, 0.5, x))
    return b.mul(b.mul(b.sinh(half), scalar(b, 2, x)), _exponential(b, half))


@lowers("log1p")
def log1p(b: Builder, node: Node) -> Outcome:
    """2 atanh(x / (2 + x)) near zero, log(1 + x) elsewhere."""
    (x,) = node.operands
    if x.dtype is not F32:
        return Declined("")
    half, two = scalar(b, 0.5, x), scalar(b, 2, x)
    small = b.clip(x, scalar(b, -0.5, x), half)
    near = b.mul(b.atanh(b.div(small, b.add(small, two))), two)
    return b.where(b.equal(small, x), near, b.log(b.add(x, scalar(b, 1, x))))


@lowers("tanh")
def tanh(b: Builder, node: Node) -> Outcome:
    """sinh / cosh; beyond 15 it is 1 to the last bit."""
    (x,) = node.operands
    if x.dtype is not F32:
        return Declined("")
    inside = b.clip(x, scalar(b, -15, x), scalar(b, 15, x))
    return b.div(b.sinh(inside), b.cosh(inside))


_CAST: Dtypes = EVERY | {BF16}


def _castable(node: Node) -> str | None:
    return None if node.attr("to") in _CAST else f"there is no cast to {node.attr('to')}"


@emits("cast", _CAST, check=_castable)
def cast(node: Node) -> Call:
    return Call("Cast", (node.operands[0], TYPE_IDS[node.attr("to").name]))
