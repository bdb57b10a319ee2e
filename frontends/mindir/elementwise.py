"""Elementwise primitives and activations. Must not import MindSpore."""

from __future__ import annotations

import numpy as np

from ...formats.mindir import DTYPE_OF_TYPE_ID
from ...ir.builder import Builder
from ...ir.value import Value
from .registry import Call, handles

#: Primitive -> op with the same operands and no attributes.
SAME: dict[str, str] = {
    "Abs": "abs", "Neg": "neg", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Rsqrt": "rsqrt", "Reciprocal": "reciprocal",
    "Floor": "floor", "Ceil": "ceil", "Trunc": "trunc", "Sign": "sign", "Square": "square", "Erf": "erf", "Sin": "sin",
    "Cos": "cos", "Tan": "tan", "Asin": "asin", "ACos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh",
    "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh", "Log1p": "log1p", "Expm1": "expm1", "IsNan": "is_nan",
    "IsInf": "is_inf", "LogicalNot": "not", "Invert": "bitwise_not", "Identity": "identity", "ReLU": "relu",
    "ReLU6": "relu6", "Sigmoid": "sigmoid", "Tanh": "tanh", "SiLU": "silu", "Softsign": "softsign",
    "Softplus": "softplus", "Mish": "mish", "HSwish": "hard_swish", "SeLU": "selu", "Add": "add", "Sub": "sub",
    "Mul": "mul", "Div": "div", "TruncateDiv": "div", "FloorDiv": "floor_div", "Minimum": "min", "Maximum": "max",
    "Pow": "pow", "Atan2": "atan2", "Equal": "equal", "NotEqual": "not_equal", "Less": "less",
    "LessEqual": "less_equal", "Greater": "greater", "GreaterEqual": "greater_equal", "LogicalAnd": "and",
    "LogicalOr": "or", "LogicalXor": "xor", "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor", "Select": "where", "PReLU": "ms.prelu", "MatMulExt": "matmul",
    "TensorShape": "shape", "TensorToScalar": "ms.item", "NonZero": "ms.non_zero", "GatherNd": "gather_nd",
}  # fmt: skip

_BINARY = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "TruncateDiv",
    "FloorDiv",
    "Minimum",
    "Maximum",
    "Pow",
    "Atan2",
    "Equal",
    "NotEqual",
    "Less",
    "LessEqual",
    "Greater",
    "GreaterEqual",
    "LogicalAnd",
    "LogicalOr",
    "LogicalXor",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "PReLU",
    "MatMulExt",
    "GatherNd",
]
_ARITY = {**dict.fromkeys(SAME, 1), **dict.fromkeys(_BINARY, 2), "Select": 3}


def _same(b: Builder, n: Call) -> Value:
    return b.call(SAME[n.primitive], [n.tensor(i) for i in range(len(n.args))]).results[0]


for _name, _count in _ARITY.items():
    handles(_name, _count)(_same)


@handles("Round", 2)
def round_(b: Builder, n: Call) -> Value:
    if n.int(1) != 0:
        raise n.wrong("only rounding to integers is read")
    return b.round(n.tensor(0))


@handles("Mod", 2)
def mod(b: Builder, n: Call) -> Value:
    return b.mod(n.tensor(0), n.tensor(1), fmod=True)


@handles("FloorMod", 2)
def floor_mod(b: Builder, n: Call) -> Value:
    return b.mod(n.tensor(0), n.tensor(1), fmod=False)


@handles("LeftShift", 2)
def left_shift(b: Builder, n: Call) -> Value:
    return b.bit_shift(n.tensor(0), n.tensor(1), direction="LEFT")


@handles("RightShift", 2)
def right_shift(b: Builder, n: Call) -> Value:
    return b.bit_shift(n.tensor(0), n.tensor(1), direction="RIGHT")


@handles("ClampScalar", 3)
def clamp(b: Builder, n: Call) -> Value:
    x = n.tensor(0)
    bounds = [None if n.args[i] is None else b.const(np.asarray(n.number(i), n.dtype(x).numpy)) for i in (1, 2)]
    return b.clip(x, *bounds)


@handles("Cast", 2)
def cast(b: Builder, n: Call) -> Value:
    to = DTYPE_OF_TYPE_ID.get(n.int(1))
    if to is None:
        raise n.wrong(f"dtype number {n.int(1)} is not known")
    return b.cast(n.tensor(0), to=to)


@handles("HSigmoid", 1)
def hard_sigmoid(b: Builder, n: Call) -> Value:
    return b.hard_sigmoid(n.tensor(0), alpha=1 / 6, beta=0.5)


@handles("Elu", 2)
def elu(b: Builder, n: Call) -> Value:
    return b.elu(n.tensor(0), alpha=float(n.number(1)))


@handles("CeLU", 2)
def celu(b: Builder, n: Call) -> Value:
    return b.celu(n.tensor(0), alpha=float(n.number(1)))


@handles("GeLU", 1)
def gelu(b: Builder, n: Call) -> Value:
    return b.gelu(n.tensor(0), approximate="tanh")


@handles("HShrink", 2)
def hard_shrink(b: Builder, n: Call) -> Value:
    return b.shrink(n.tensor(0), bias=0.0, lambd=float(n.number(1)))


@handles("SoftShrink", 2)
def soft_shrink(b: Builder, n: Call) -> Value:
    edge = float(n.number(1))
    return b.shrink(n.tensor(0), bias=edge, lambd=edge)


@handles("Softmax", 2)
def softmax(b: Builder, n: Call) -> Value:
    axes = n.ints(1)
    if len(axes) != 1:
        raise n.wrong("softmax over several axes is not read")
    return b.softmax(n.tensor(0), axis=axes[0])


@handles("LogSoftmax", 2)
def log_softmax(b: Builder, n: Call) -> Value:
    return b.log_softmax(n.tensor(0), axis=n.int(1))
