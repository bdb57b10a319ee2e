"""Elementwise operators and activations."""

from __future__ import annotations

import numpy as np

from ...ir.value import Value
from .registry import Call, handles

_SAME = {
    "ABS": "abs", "NEG": "neg", "EXP": "exp", "LOG": "log", "SQRT": "sqrt", "RSQRT": "rsqrt", "FLOOR": "floor",
    "CEIL": "ceil", "ROUND": "round", "SIN": "sin", "COS": "cos", "SQUARE": "square", "SIGN": "sign", "TANH": "tanh",
    "LOGISTIC": "sigmoid", "RELU": "relu", "RELU6": "relu6", "HARD_SWISH": "hard_swish", "LOGICAL_NOT": "not",
    "ELU": "elu",
    "RELU_N1_TO_1": "tfl.relu_n1_to_1", "RELU_0_TO_1": "tfl.relu_0_to_1",
    "MAXIMUM": "max", "MINIMUM": "min", "POW": "pow", "FLOOR_DIV": "floor_div", "FLOOR_MOD": "mod", "ATAN2": "atan2",
    "EQUAL": "equal", "NOT_EQUAL": "not_equal", "LESS": "less", "LESS_EQUAL": "less_equal", "GREATER": "greater",
    "GREATER_EQUAL": "greater_equal", "LOGICAL_AND": "and", "LOGICAL_OR": "or", "BITWISE_XOR": "bitwise_xor",
    "STABLEHLO_AND": "bitwise_and", "SQUARED_DIFFERENCE": "tfl.squared_difference", "SELECT_V2": "where",
    "PRELU": "prelu",
}  # fmt: skip


@handles(*_SAME)
def same(c: Call) -> Value:
    return c.b.call(_SAME[c.builtin], c.operands).result


@handles("ADD", "SUB", "MUL", "DIV")
def arithmetic(c: Call) -> Value:
    """A fused activation makes it TFLite's own op."""
    activation = c.enum("fused_activation_function", "ActivationFunctionType")
    name = c.builtin.lower()
    if activation == "NONE":
        return c.b.call(name, c.operands).result
    return c.b.call(f"tfl.{name}", c.operands, {"fused_activation_function": activation}).result


@handles("CAST")
def cast(c: Call) -> Value:
    """The result's type decides; the option may be absent."""
    to = c.result_types()[0].dtype
    return c.x if c.x.dtype is to else c.b.cast(c.x, to=to)


@handles("BITCAST")
def bitcast(c: Call) -> Value:
    return c.b.bitcast(c.x, to=c.result_types()[0].dtype)


@handles("RIGHT_SHIFT")
def right_shift(c: Call) -> Value:
    return c.b.call("bit_shift", c.operands, {"direction": "RIGHT"}).result


@handles("LEAKY_RELU")
def leaky_relu(c: Call) -> Value:
    return c.b.leaky_relu(c.x, alpha=c.option("alpha", 0.0))


@handles("GELU")
def gelu(c: Call) -> Value:
    return c.b.gelu(c.x, approximate="tanh" if c.option("approximate") else "none")


@handles("SOFTMAX")
def softmax(c: Call) -> Value:
    beta = c.option("beta", 0.0)
    x = c.x if beta == 1 else c.b.mul(c.x, np.asarray(beta, np.float32))
    return c.b.softmax(x, axis=-1)


@handles("LOG_SOFTMAX")
def log_softmax(c: Call) -> Value:
    return c.b.log_softmax(c.x, axis=-1)
