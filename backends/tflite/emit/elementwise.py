"""Rows of elementwise ops and activations."""

from __future__ import annotations

from collections.abc import Callable

from ....ir.types import F16, F32
from ....ir.value import Node
from ..table import TENSOR_TYPES, Emitted, bare, broadcasts, plain, row

_UNARY = {
    "ABS": ("abs", "f32 i32"),
    "NEG": ("neg", "f32 i32 i64"),
    "EXP": ("exp", "f32"),
    "LOG": ("log", "f32"),
    "SQRT": ("sqrt", "f32"),
    "RSQRT": ("rsqrt", "f32"),
    "FLOOR": ("floor", "f32"),
    "CEIL": ("ceil", "f32"),
    "ROUND": ("round", "f32"),
    "SIN": ("sin", "f32"),
    "COS": ("cos", "f32"),
    "SQUARE": ("square", "f32"),
    "SIGN": ("sign", "f32 i32"),
    "TANH": ("tanh", "f32"),
    "LOGISTIC": ("sigmoid", "f32"),
    "RELU": ("relu", "f32"),
    "RELU6": ("relu6", "f32"),
    "HARD_SWISH": ("hard_swish", "f32"),
    "LOGICAL_NOT": ("not", "bool"),
    "RELU_N1_TO_1": ("tfl.relu_n1_to_1", "f32"),
    "RELU_0_TO_1": ("tfl.relu_0_to_1", "f32"),
}
for _builtin, (_op, _dtypes) in _UNARY.items():
    row(_op, _builtin, _dtypes)(bare)


def _low_rank(node: Node) -> str | None:
    """Kernels that broadcast in four dims only."""
    rank = node.results[0].rank
    if rank is None or (rank > 4 and broadcasts(node)):
        return f"broadcasting rank {rank}, the kernel broadcasts up to 4"
    return None


def _known_rank(node: Node) -> str | None:
    return "a tensor of unknown rank" if node.results[0].rank is None else None


_BINARY: dict[str, tuple[str, str, Callable[[Node], str | None]]] = {
    "ADD": ("add", "f32 i32 i64", _known_rank),
    "SUB": ("sub", "f32 i32 i64", _known_rank),
    "MUL": ("mul", "f32 i32 i64", _known_rank),
    "DIV": ("div", "f32 i32", _known_rank),
    "MAXIMUM": ("max", "f32 i32 i64 i16 i8", _known_rank),
    "MINIMUM": ("min", "f32 i32 i64 i16 i8", _known_rank),
    "FLOOR_DIV": ("floor_div", "f32 i32", _low_rank),
    "EQUAL": ("equal", "f32 i32 i64 bool", _low_rank),
    "NOT_EQUAL": ("not_equal", "f32 i32 i64 bool", _low_rank),
    "LESS": ("less", "f32 i32 i64", _low_rank),
    "LESS_EQUAL": ("less_equal", "f32 i32 i64", _low_rank),
    "GREATER": ("greater", "f32 i32 i64", _low_rank),
    "GREATER_EQUAL": ("greater_equal", "f32 i32 i64", _low_rank),
    "LOGICAL_AND": ("and", "bool", _low_rank),
    "LOGICAL_OR": ("or", "bool", _low_rank),
    "BITWISE_XOR": ("bitwise_xor", "i32 u32 i16 u8 i8", _low_rank),
    "SQUARED_DIFFERENCE": ("tfl.squared_difference", "f32", _low_rank),
}
for _builtin, (_op, _dtypes, _check) in _BINARY.items():
    row(_op, _builtin, _dtypes, _check)(bare)

for _name in ("add", "sub", "mul", "div"):
    row(f"tfl.{_name}", _name.upper(), "f32", _known_rank)(plain)


def _one_type(node: Node) -> str | None:
    x, y = node.operands
    if x.dtype is not y.dtype:
        return f"a power of {x.dtype} and {y.dtype}"
    if x.dtype.is_int and (not y.is_const or y.array().min() < 0):
        return "an integer power whose exponent may be negative"
    return _low_rank(node)


row("pow", "POW", "f32 i32", _one_type)(bare)


def _one_shape(node: Node) -> str | None:
    x, y = node.operands
    return None if x.shape is not None and x.shape == y.shape else "the kernel does not broadcast"


row("atan2", "ATAN2", "f32", _one_shape)(bare)
row("bitwise_and", "STABLEHLO_AND", "i32 i64 i16 u8 i8 bool", _one_shape)(bare)


def _right(node: Node) -> str | None:
    if node.attr("direction").lower() != "right":
        return "RIGHT_SHIFT goes right"
    return _one_shape(node)


row("bit_shift", "RIGHT_SHIFT", "u32 u8", _right)(bare)


def _floored(node: Node) -> str | None:
    return (
        "fmod keeps the sign of the dividend, FLOOR_MOD that of the divisor" if node.attr("fmod") else _low_rank(node)
    )


row("mod", "FLOOR_MOD", "f32 i32 i64", _floored)(bare)


def _select(node: Node) -> str | None:
    rank = node.results[0].rank
    if rank is None or (rank > 5 and broadcasts(node)):
        return f"broadcasting rank {rank}, SELECT_V2 broadcasts up to 5"
    return None


row("where", "SELECT_V2", "f32 f16 i32 i64 u32 i16 u8 i8 bool", _select, data=1)(bare)

_CASTABLE = "f32 f16 f64 i32 i64 i16 i8 u8 u32 bool bf16"


def _castable(node: Node) -> str | None:
    return None if node.result.dtype.name in _CASTABLE.split() else f"CAST does not reach {node.result.dtype}"


@row("cast", "CAST", _CASTABLE, _castable)
def _cast(node: Node) -> Emitted:
    """A constant in halves is read through DEQUANTIZE, which delegates take in."""
    if node.operands[0].is_const and (node.operands[0].dtype, node.result.dtype) == (F16, F32):
        return Emitted(node.operands[:1], {}, "DEQUANTIZE")
    names = [TENSOR_TYPES[v.dtype] for v in (node.operands[0], node.result)]
    return Emitted(node.operands[:1], {"in_data_type": names[0], "out_data_type": names[1]})


row("bitcast", "BITCAST", "f32 i32 u32 i16 u8 i8 i64")(lambda node: Emitted(node.operands))


def _plain_elu(node: Node) -> str | None:
    return None if node.attr("alpha") == 1 else "ELU has alpha 1"


row("elu", "ELU", "f32", _plain_elu)(bare)


@row("leaky_relu", "LEAKY_RELU", "f32")
def _leaky_relu(node: Node) -> Emitted:
    return Emitted(node.operands, {"alpha": node.attr("alpha")})


@row("gelu", "GELU", "f32")
def _gelu(node: Node) -> Emitted:
    return Emitted(node.operands, {"approximate": node.attr("approximate") == "tanh"})


def _one_way(node: Node) -> str | None:
    slope = node.operands[1]
    return _low_rank(node) or (None if slope.rank else "a scalar slope")


row("prelu", "PRELU", "f32", _one_way)(bare)


def _last_axis(node: Node) -> str | None:
    rank = node.operands[0].rank
    if not rank or rank > 4:
        return f"{node.name} of rank {rank}; the kernel takes 1 to 4"
    return None if node.attr("axis") % rank == rank - 1 else "the kernel runs along the last axis only"


@row("softmax", "SOFTMAX", "f32", _last_axis)
def _softmax(node: Node) -> Emitted:
    return Emitted(node.operands, {"beta": 1.0})


row("log_softmax", "LOG_SOFTMAX", "f32", _last_axis)(bare)
