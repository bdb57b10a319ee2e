"""Elementwise operators: arithmetic, comparison, logic, bits, casts, clip, where; n-ary ones become chains."""

from __future__ import annotations

from typing import Any

from ...formats.onnx import dtypes
from ...ir.graph import Value
from ...ir.types import DType
from .importer import Call, Importer, rank_of
from .registry import handles

UNARY = {
    "Abs": "abs",
    "Neg": "neg",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Sign": "sign",
    "Erf": "erf",
    "Sin": "sin",
    "Cos": "cos",
    "Tan": "tan",
    "Asin": "asin",
    "Acos": "acos",
    "Atan": "atan",
    "Sinh": "sinh",
    "Cosh": "cosh",
    "Tanh": "tanh",
    "Asinh": "asinh",
    "Acosh": "acosh",
    "Atanh": "atanh",
    "IsNaN": "is_nan",
    "Not": "not",
    "BitwiseNot": "bitwise_not",
}

BINARY = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
    "Equal": "equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "And": "and",
    "Or": "or",
    "Xor": "xor",
    "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
}

CHAINS = {"Min": "min", "Max": "max", "Sum": "add"}


def legacy_broadcast(c: Importer, n: Call) -> tuple[Value, Value]:
    """The operands of a binary operator; before opset 7 the second one is aligned at `axis` of the first."""
    a, b = n.inputs[:2]
    axis = n.attrs.get("axis")
    if n.opset >= 7 or not n.attr("broadcast", 0) or axis is None:
        return a, b  # type: ignore[return-value]
    rank_a, rank_b = rank_of(a, n), rank_of(b, n)  # type: ignore[arg-type]
    axis += rank_a if axis < 0 else 0
    trailing = rank_a - axis - rank_b
    if axis < 0 or trailing < 0:
        raise n.invalid(f"axis {axis} does not place a rank-{rank_b} operand in a rank-{rank_a} one")
    if not trailing:
        return a, b  # type: ignore[return-value]
    return a, c.b.unsqueeze(b, tuple(range(rank_b, rank_b + trailing)))  # type: ignore[return-value]


@handles(*UNARY)
def unary(c: Importer, n: Call) -> Any:
    return c.b.call(UNARY[n.op_type], (n.x,)).result


@handles(*BINARY)
def binary(c: Importer, n: Call) -> Any:
    return c.b.call(BINARY[n.op_type], legacy_broadcast(c, n)).result


@handles("Identity")
def identity(c: Importer, n: Call) -> Any:
    return c.b.identity(n.x)


@handles("Pow")
def power(c: Importer, n: Call) -> Any:
    """Since opset 12 the exponent may have another dtype; the result has the base's."""
    return c.b.pow(*legacy_broadcast(c, n))


@handles("Mod")
def mod(c: Importer, n: Call) -> Any:
    fmod = bool(n.attr("fmod", 0))
    if n.x.dtype is not None and n.x.dtype.is_float and not fmod and n.opset < 28:
        raise n.invalid("fmod must be 1 for float operands")
    return c.b.mod(*n.inputs, fmod=fmod)


@handles("BitShift")
def bit_shift(c: Importer, n: Call) -> Any:
    direction = n.attr("direction")
    if direction not in ("LEFT", "RIGHT"):
        raise n.invalid(f"direction is {direction!r} (LEFT or RIGHT expected)")
    return c.b.bit_shift(*n.inputs, direction=direction)


@handles("IsInf")
def is_inf(c: Importer, n: Call) -> Any:
    return c.b.is_inf(
        n.x, detect_negative=bool(n.attr("detect_negative", 1)), detect_positive=bool(n.attr("detect_positive", 1))
    )


@handles("Where")
def where(c: Importer, n: Call) -> Any:
    return c.b.where(*n.inputs)


@handles(*CHAINS)
def chain(c: Importer, n: Call) -> Any:
    result = n.x
    for value in n.inputs[1:]:
        result = c.b.call(CHAINS[n.op_type], (result, value)).result
    return c.b.identity(result) if len(n.inputs) == 1 else result


@handles("Mean")
def mean(c: Importer, n: Call) -> Any:
    total = n.x
    for value in n.inputs[1:]:
        total = c.b.add(total, value)
    return c.b.div(total, c.scalar(len(n.inputs), total)) if len(n.inputs) > 1 else c.b.identity(total)  # type: ignore[union-attr]


@handles("Clip")
def clip_attributes(c: Importer, n: Call) -> Any:
    """Before opset 11 the bounds are attributes; the schema's defaults are the ends of float32 and bound nothing."""
    given = n.node.attrs
    low = c.scalar(n.attrs["min"], n.x) if "min" in given else None
    high = c.scalar(n.attrs["max"], n.x) if "max" in given else None
    return c.b.clip(n.x, low, high)


@handles("Clip", since=11)
def clip(c: Importer, n: Call) -> Any:
    return c.b.clip(*n.take(3))


_CAST_NAMES = {
    "FLOAT": 1,
    "UINT8": 2,
    "INT8": 3,
    "UINT16": 4,
    "INT16": 5,
    "INT32": 6,
    "INT64": 7,
    "STRING": 8,
    "BOOL": 9,
    "FLOAT16": 10,
    "DOUBLE": 11,
    "UINT32": 12,
    "UINT64": 13,
}


def target_dtype(n: Call) -> DType:
    """The attribute `to`: a code, or a name before opset 6."""
    to = n.attr("to")
    code = _CAST_NAMES.get(to, 0) if isinstance(to, str) else to
    return dtypes.from_code(code, n.label)


@handles("Cast")
def cast(c: Importer, n: Call) -> Any:
    attrs: dict[str, Any] = {"to": target_dtype(n), "saturate": bool(n.attr("saturate", 1))}
    if n.attr("round_mode", "up") != "up":
        attrs["round_mode"] = n.attr("round_mode")
    return c.b.cast(n.x, **attrs)


@handles("CastLike")
def cast_like(c: Importer, n: Call) -> Any:
    dtype = n.inputs[1].dtype  # type: ignore[union-attr]
    if dtype is None:
        raise n.refuse("the dtype to cast to is not known")
    attrs: dict[str, Any] = {"to": dtype, "saturate": bool(n.attr("saturate", 1))}
    if n.attr("round_mode", "up") != "up":
        attrs["round_mode"] = n.attr("round_mode")
    return c.b.cast(n.x, **attrs)


@handles("BitCast")
def bitcast(c: Importer, n: Call) -> Any:
    return c.b.bitcast(n.x, to=target_dtype(n))
