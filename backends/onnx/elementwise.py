"""Elementwise ops."""

from __future__ import annotations

from typing import Any

from ...formats.onnx import dtypes
from ...ir.graph import Node
from .emitter import Emitter
from .registry import emits

PLAIN = {
    "abs": "Abs",
    "neg": "Neg",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "reciprocal": "Reciprocal",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
    "sign": "Sign",
    "erf": "Erf",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "asin": "Asin",
    "acos": "Acos",
    "atan": "Atan",
    "sinh": "Sinh",
    "cosh": "Cosh",
    "tanh": "Tanh",
    "asinh": "Asinh",
    "acosh": "Acosh",
    "atanh": "Atanh",
    "is_nan": "IsNaN",
    "not": "Not",
    "bitwise_not": "BitwiseNot",
    "identity": "Identity",
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "pow": "Pow",
    "min": "Min",
    "max": "Max",
    "equal": "Equal",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "and": "And",
    "or": "Or",
    "xor": "Xor",
    "bitwise_and": "BitwiseAnd",
    "bitwise_or": "BitwiseOr",
    "bitwise_xor": "BitwiseXor",
    "where": "Where",
    "clip": "Clip",
}


@emits(*PLAIN)
def plain(e: Emitter, n: Node) -> None:
    e.node(PLAIN[n.name], n.operands)


@emits("mod")
def mod(e: Emitter, n: Node) -> None:
    fmod, dtype = n.attr("fmod"), n.result.dtype
    if not fmod and (dtype is None or dtype.is_float):
        e.needs(28, "mod with the divisor's sign on floats")
    e.node("Mod", n.operands, fmod=int(fmod) or None)


@emits("bit_shift")
def bit_shift(e: Emitter, n: Node) -> None:
    e.node("BitShift", n.operands, direction=n.attr("direction"))


@emits("is_inf")
def is_inf(e: Emitter, n: Node) -> None:
    e.node(
        "IsInf",
        n.operands,
        detect_negative=None if n.attr("detect_negative") else 0,
        detect_positive=None if n.attr("detect_positive") else 0,
    )


@emits("not_equal")
def not_equal(e: Emitter, n: Node) -> None:
    from ...ir.types import BOOL

    e.node("Not", [e.temp("Equal", n.operands, BOOL)])


@emits("cast")
def cast(e: Emitter, n: Node) -> None:
    attrs: dict[str, Any] = {"saturate": None if n.attr("saturate") else 0}
    if n.attr("round_mode") != "up":
        e.needs(24, f"round_mode {n.attr('round_mode')}")
        attrs["round_mode"] = n.attr("round_mode")
    e.node("Cast", n.operands, to=dtypes.TO_CODE[n.attr("to")], **attrs)


@emits("bitcast", since=26)
def bitcast(e: Emitter, n: Node) -> None:
    e.node("BitCast", n.operands, to=dtypes.TO_CODE[n.attr("to")])
