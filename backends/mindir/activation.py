"""Activations and the softmax family. Must not import MindSpore."""

from __future__ import annotations

import math

import numpy as np

from ...ir.builder import Builder
from ...ir.types import F16, F64
from ...ir.value import Node, Value
from ...passes.decompose.rules import Declined, Outcome
from .registry import FLOAT_2, FLOAT_3, NUMBERS, Call, Dtypes, emits, lowers, simple

_SIMPLE: tuple[tuple[str, str, Dtypes], ...] = (
    ("relu", "ReLU", NUMBERS),
    ("relu6", "ReLU6", FLOAT_2),
    ("sigmoid", "Sigmoid", frozenset({F16, F64})),
    ("tanh", "Tanh", frozenset({F16, F64})),
    ("silu", "SiLU", frozenset({F16, F64})),
    ("softsign", "Softsign", FLOAT_3),
    ("softplus", "Softplus", FLOAT_2),
    ("hard_swish", "HSwish", FLOAT_3),
    ("ms.prelu", "PReLU", FLOAT_2),
)
for _op, _primitive, _dtypes in _SIMPLE:
    simple(_op, _primitive, _dtypes)


def _is(name: str, wanted: float, text: str):
    def check(node: Node) -> str | None:
        return None if math.isclose(node.attr(name), wanted, rel_tol=1e-6) else text

    return check


def _sixth(node: Node) -> str | None:
    fits = math.isclose(node.attr("alpha"), 1 / 6, rel_tol=1e-6) and node.attr("beta") == 0.5
    return None if fits else "HSigmoid is x / 6 + 1 / 2"


@emits("hard_sigmoid", FLOAT_3, check=_sixth)
def hard_sigmoid(node: Node) -> Call:
    return Call("HSigmoid", node.operands)


@emits("elu", FLOAT_3, check=_is("alpha", 1.0, "Elu has alpha 1"))
def elu(node: Node) -> Call:
    return Call("Elu", (node.operands[0], 1.0))


@emits("celu", FLOAT_2)
def celu(node: Node) -> Call:
    return Call("CeLU", (node.operands[0], float(node.attr("alpha"))))


#: Self-normalising networks (Klambauer et al., 2017), as MindSpore has them built in.
_SELU_ALPHA, _SELU_GAMMA = 1.6732632423543772, 1.0507009873554805


def _usual(node: Node) -> str | None:
    fits = math.isclose(node.attr("alpha"), _SELU_ALPHA, rel_tol=1e-6)
    fits = fits and math.isclose(node.attr("gamma"), _SELU_GAMMA, rel_tol=1e-6)
    return None if fits else "SeLU has fixed constants"


@emits("selu", FLOAT_2, check=_usual)
def selu(node: Node) -> Call:
    return Call("SeLU", node.operands)


def _tanh_form(node: Node) -> str | None:
    return None if node.attr("approximate") == "tanh" else "GeLU is the tanh form"


@emits("gelu", FLOAT_3, check=_tanh_form)
def gelu(node: Node) -> Call:
    return Call("GeLU", node.operands)


def _hard_or_soft(node: Node) -> str | None:
    bias, edge = node.attr("bias"), node.attr("lambd")
    return None if edge >= 0 and bias in (0, edge) else "MindSpore shrinks by nothing or by the threshold"


@emits("shrink", FLOAT_2, check=_hard_or_soft)
def shrink(node: Node) -> Call:
    soft = node.attr("bias") == node.attr("lambd")
    return Call("SoftShrink" if soft else "HShrink", (node.operands[0], float(node.attr("lambd"))))


#: What a finite input leaves finite: products and normalisations end the search, the others pass it on.
_FINITE = frozenset((
    "conv", "conv_transpose", "matmul", "ms.conv_transpose", "ms.matmul", "ms.lstm", "batch_norm", "layer_norm", "group_norm",
    "lrn", "relu", "relu6", "ms.prelu", "sigmoid", "tanh", "gelu", "softmax", "hard_swish", "hard_sigmoid", "average_pool",
    "sinh", "cosh", "erf",
))  # fmt: skip
_PASSING = frozenset((
    "add", "sub", "mul", "neg", "abs", "ms.bias_add", "reshape", "transpose", "squeeze", "unsqueeze", "slice", "concat",
    "expand", "split", "gather", "tile", "cast", "identity", "reduce_mean", "reduce_max", "reduce_sum", "max_pool",
))  # fmt: skip
_SEARCH = 64


def surely_finite(value: Value) -> bool:
    """No element can be an infinity, as far as a short walk over the producers tells (overflow apart)."""
    pending, seen = [value], 0
    while pending:
        at, seen = pending.pop(), seen + 1
        if at.dtype is not None and not at.dtype.is_float:
            continue
        if at.is_const:
            if not np.isfinite(at.array().astype(np.float64)).all():
                return False
        elif at.node is None or seen > _SEARCH or at.node.name not in _FINITE | _PASSING:
            return False
        elif at.node.name in _PASSING:
            pending += at.node.inputs()
    return True


def _whole_rows(node: Node) -> str | None:
    """Over the last axis, a row of nothing but -inf makes MindSpore stop: it and all rows after it are garbage."""
    x = node.operands[0]
    inner = node.attr("axis") % max(x.rank, 1) < x.rank - 1
    return None if inner or surely_finite(x) else "a row of -inf may come in"


@emits("softmax", FLOAT_3, check=_whole_rows)
def softmax(node: Node) -> Call:
    return Call("Softmax", (node.operands[0], (node.attr("axis"),)))


@emits("log_softmax", FLOAT_2)
def log_softmax(node: Node) -> Call:
    return Call("LogSoftmax", (node.operands[0], node.attr("axis")))


@lowers("softmax")
def softmax_of_masked_rows(b: Builder, node: Node) -> Outcome:
    """Over an inner axis MindSpore keeps rows apart: a dim of 1 behind the last axis makes it an inner one."""
    (x,) = node.operands
    if x.dtype not in FLOAT_3 or not x.rank or node.attr("axis") % x.rank < x.rank - 1:
        return Declined("")
    return b.squeeze(b.softmax(b.unsqueeze(x, (x.rank,)), axis=x.rank - 1), (x.rank,))


@lowers("prelu")
def prelu(b: Builder, node: Node) -> Outcome:
    """A slope per channel, or one for all: ms.prelu takes it flat."""
    x, slope = node.operands
    if x.dtype not in FLOAT_2 or x.rank is None or x.rank < 2 or not _per_channel(x, slope):
        return Declined("")
    flat = b.const(slope.array().reshape(-1)) if slope.is_const else b.reshape(slope, (-1,))
    return b.call("ms.prelu", (x, flat)).results[0]


def _per_channel(x: Value, slope: Value) -> bool:
    if slope.shape is None or any(type(d) is not int for d in slope.shape):
        return False
    aligned = (1,) * (x.rank - slope.rank) + tuple(slope.shape)
    others = [d for axis, d in enumerate(aligned) if axis != 1]
    return all(d == 1 for d in others) and aligned[1] in (1, x.shape[1])
