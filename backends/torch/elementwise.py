"""Torch expressions of elementwise ops. Numbers stand inline where torch takes them without changing the dtype."""

from __future__ import annotations

from typing import Any

from ...ir.types import BOOL, F32, F64, U8
from ...ir.value import Node, Value
from .calls import Call, Refusal, number, row, simple

_UNARY = {
    "abs": "torch.abs", "neg": "torch.neg", "exp": "torch.exp", "log": "torch.log", "sqrt": "torch.sqrt", "rsqrt": "torch.rsqrt",
    "reciprocal": "torch.reciprocal", "floor": "torch.floor", "ceil": "torch.ceil", "round": "torch.round",
    "sign": "torch.sign", "erf": "torch.erf", "sin": "torch.sin", "cos": "torch.cos", "tan": "torch.tan",
    "asin": "torch.asin", "acos": "torch.acos", "atan": "torch.atan", "sinh": "torch.sinh", "cosh": "torch.cosh",
    "asinh": "torch.asinh", "acosh": "torch.acosh", "atanh": "torch.atanh", "trunc": "torch.trunc", "square": "torch.square",
    "log1p": "torch.log1p", "expm1": "torch.expm1", "is_nan": "torch.isnan", "not": "torch.logical_not",
    "bitwise_not": "torch.bitwise_not",
}  # fmt: skip
_TENSORS = {"min": "torch.minimum", "max": "torch.maximum", "atan2": "torch.atan2"}
_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">",
    "greater_equal": ">=", "and": "&", "or": "|", "xor": "^", "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^",
}  # fmt: skip

for _name, _fn in {**_UNARY, **_TENSORS}.items():
    row(_name)(simple(_fn))


def _arguments(node: Node) -> tuple[Any, Any]:
    """Both operands, a rank-0 constant as a number as long as the other one is a tensor of the same dtype."""
    a, b = node.operands
    assert a is not None and b is not None
    if a.dtype is not b.dtype:
        raise Refusal(f"operands of dtypes {a.dtype} and {b.dtype}")
    x, y = number(a), number(b)
    if y is not None:
        return a, y
    return (x, b) if x is not None else (a, b)


def _infix(sign: str) -> Any:
    def made(node: Node) -> Call:
        return Call(sign, *_arguments(node))

    return made


for _name, _sign in _INFIX.items():
    row(_name)(_infix(_sign))


row("torch.straight_round")(simple("helpers.straight_round"))


@row("div", "floor_div")
def div(node: Node) -> Call:
    a, b = _arguments(node)
    is_float = node.result.dtype is not None and node.result.dtype.is_float
    if node.name == "div" and is_float:
        return Call("/", a, b)
    if not isinstance(a, Value):
        a, b = node.operands
    return Call("torch.div", a, b, rounding_mode="floor" if node.name == "floor_div" else "trunc")


@row("mod")
def mod(node: Node) -> Call:
    a, b = node.operands
    return Call("torch.fmod" if node.attr("fmod") else "torch.remainder", a, b)


@row("pow")
def pow_(node: Node) -> Call:
    return Call("torch.pow", *_arguments(node))


@row("bit_shift")
def bit_shift(node: Node) -> Call:
    if node.result.dtype is not U8:
        raise Refusal("torch shifts signed integers another way")
    left = node.attr("direction") == "LEFT"
    return Call("torch.bitwise_left_shift" if left else "torch.bitwise_right_shift", *node.operands)


@row("is_inf")
def is_inf(node: Node) -> Call:
    negative, positive = node.attr("detect_negative"), node.attr("detect_positive")
    if not negative and not positive:
        raise Refusal("it looks for no infinity at all")
    name = "torch.isinf" if negative and positive else "torch.isneginf" if negative else "torch.isposinf"
    return Call(name, *node.operands)


@row("cast")
def cast(node: Node) -> Call:
    (x,) = node.operands
    to = node.attr("to")
    assert x is not None and x.dtype is not None
    if to.bits == 8 and to.is_float:
        raise Refusal("torch rounds to 8-bit floats by rules of its own")
    return Call(".to", x, to)


@row("bitcast")
def bitcast(node: Node) -> Call:
    return Call(".view", *node.operands, node.attr("to"))


@row("where")
def where(node: Node) -> Call:
    cond, x, y = node.operands
    a, b = number(x), number(y)
    if a is not None and b is None and y is not None and y.dtype is not BOOL:
        return Call("torch.where", cond, a, y)
    if b is not None and a is None and x is not None and x.dtype is not BOOL:
        return Call("torch.where", cond, x, b)
    return Call("torch.where", cond, x, y)


@row("clip")
def clip(node: Node) -> Call:
    """Bounds are both numbers or both tensors."""
    x = node.operand("x")
    bounds = {name: node.operand(name) for name in ("min", "max") if node.operand(name) is not None}
    if not bounds:
        raise Refusal("it has no bounds")
    numbers = {name: number(value) for name, value in bounds.items()}
    if (x.dtype in (F32, F64) or x.dtype.is_int) and all(value is not None for value in numbers.values()):
        return Call("torch.clamp", x, **numbers)
    return Call("torch.clamp", x, **bounds)
