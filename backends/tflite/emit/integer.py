"""Rows of the quantised operators: they share the builtins of the float ones, told apart by the types of their tensors.

`parameters` says what an op knows of its tensors' scale, zero point and quantised axis, which the writer puts on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ....ir.types import I16, I64
from ....ir.value import Node, Value
from ..ops.hybrid import Hybrid
from ..ops.integer import QConv, QFullyConnected, QTransposeConv, Quantised
from ..ops.integer_unary import hard_swish_fits, softmax_fits
from ..table import Emitted, index_operand, row
from .quant import quant_axis

_BOTH = "i8 i16"
#: Attributes that are no option slots.
_OURS = ("scales", "zeros")


class Parameters(NamedTuple):
    """How a tensor is quantised: scales, zero points, and the axis they go along."""

    scales: np.ndarray
    zeros: np.ndarray
    axis: int = 0

    def same(self, other: Parameters) -> bool:
        return np.array_equal(self.scales, other.scales) and np.array_equal(self.zeros, other.zeros)


def single(scale: float, zero: int) -> Parameters:
    return Parameters(np.asarray([scale], np.float32), np.asarray([zero], np.int64))


def parameters(node: Node) -> Iterator[tuple[Value, Parameters]]:
    """What `node` says of its operands and results."""
    if isinstance(node.op, Quantised):
        scales, zeros = node.attr("scales"), node.attr("zeros")
        for place, scale, zero in zip(node.op.quantised, scales, zeros, strict=False):
            yield node.operands[place], single(scale, zero)
        yield node.result, single(scales[-1], zeros[-1])
        if isinstance(node.op, (QConv, QTransposeConv, QFullyConnected)):
            yield from _weights(node)
    elif isinstance(node.op, Hybrid):
        scales = node.operand("w_scale").array()
        axis = 3 if node.name == "tfl.hybrid_depthwise_conv_2d" else 0
        yield node.operand("w"), Parameters(scales, np.zeros(len(scales), np.int64), axis)
    elif node.name == "tfl.quantize":
        yield node.result, single(node.attr("scale"), node.attr("zero"))
    elif node.name in ("quantize", "dequantize") and all(v is None or v.is_const for v in node.operands[1:]):
        yield (node.result if node.name == "quantize" else node.operands[0]), _declared(node)


def _weights(node: Node) -> Iterator[tuple[Value, Parameters]]:
    scales = node.operand("w_scale").array()
    zeros = np.zeros(len(scales), np.int64)
    axis = 3 if node.name == "tfl.q_depthwise_conv_2d" else 0
    yield node.operand("w"), Parameters(scales, zeros, axis)
    yield node.operand("b"), Parameters(np.float32(node.attr("scales")[0]) * scales, zeros)


def _declared(node: Node) -> Parameters:
    """A scale and a zero point, one of which may be a single number where the other has one for each channel."""
    scale, zero = node.operand("scale"), node.operand("zero_point")
    scales = scale.array().reshape(-1).astype(np.float32)
    zeros = np.zeros(1, np.int64) if zero is None else zero.array().reshape(-1).astype(np.int64)
    if not zeros.any():
        zeros = zeros[:1]
    along = zero if zero is not None and len(zeros) > len(scales) else scale
    scales, zeros = np.broadcast_arrays(scales, zeros)
    return Parameters(scales, zeros, max(quant_axis(along) or 0, 0))


# ------------------------------------------------------------------------------------------------------------- rows


def _options(node: Node) -> dict:
    return {key: value for key, value in node.attrs.items() if key not in _OURS}


def _with_constant_weights(node: Node) -> str | None:
    w, b = node.operand("w"), node.operand("b")
    if not w.is_const or not b.is_const:
        return "computed weights"
    return None if (b.dtype is I64) == (_data(node).dtype is I16) else "the bias has 64 bits where the data has 16"


def _data(node: Node) -> Value:
    assert isinstance(node.op, Quantised)
    return node.operands[node.op.quantised[0]]


for _name in ("conv_2d", "depthwise_conv_2d", "fully_connected"):

    @row(f"tfl.q_{_name}", _name.upper(), _BOTH, _with_constant_weights)
    def _product(node: Node) -> Emitted:
        return Emitted(node.operands[:3], _options(node))


def _constant_weights(node: Node) -> str | None:
    b = node.operand("b")
    return None if node.operand("w").is_const and (b is None or b.is_const) else "computed weights"


for _name in ("conv_2d", "depthwise_conv_2d", "fully_connected"):

    @row(f"tfl.hybrid_{_name}", _name.upper(), "f32", _constant_weights)
    def _hybrid(node: Node) -> Emitted:
        x, w, b, _ = node.operands
        return Emitted([x, w] if b is None else [x, w, b], dict(node.attrs))


@row("tfl.q_transpose_conv", "TRANSPOSE_CONV", _BOTH, _with_constant_weights, data=2)
def _transpose_conv(node: Node) -> Emitted:
    shape, w, x, b, _ = node.operands
    return Emitted([index_operand(shape), w, x, b], _options(node))


@row("tfl.q_batch_matmul", "BATCH_MATMUL", _BOTH)
def _batch_matmul(node: Node) -> Emitted:
    return Emitted(node.operands, _options(node))


def _same_rank(node: Node) -> str | None:
    rank = node.result.rank
    return f"broadcasting rank {rank}" if rank is None or rank > 4 else None


@row("tfl.q_add", "ADD", _BOTH, _same_rank)
@row("tfl.q_sub", "SUB", _BOTH, _same_rank)
def _sum(node: Node) -> Emitted:
    """The 16-bit kernels have another rounding for scales that are powers of two: it is never asked for."""
    return Emitted(node.operands, _options(node) | ({"pot_scale_int16": False} if _data(node).dtype is I16 else {}))


@row("tfl.q_mul", "MUL", _BOTH, _same_rank)
@row("tfl.q_squared_difference", "SQUARED_DIFFERENCE", "i8", _same_rank)
def _times(node: Node) -> Emitted:
    return Emitted(node.operands, {} if node.name.endswith("difference") else _options(node))


@row("tfl.q_mean", "MEAN", _BOTH)
@row("tfl.q_sum", "SUM", _BOTH)
def _reduction(node: Node) -> Emitted:
    axes = sorted(a % node.operands[0].rank for a in node.attr("reduced"))
    return Emitted([node.operands[0], np.asarray(axes, np.int32)], {"keep_dims": node.attr("keepdims")})


def _down_only(node: Node) -> str | None:
    return None if hard_swish_fits(*node.attr("scales")) else "a result with a scale below a 128th of its operand's"


def _up_only(node: Node) -> str | None:
    return None if node.operands[0].dtype is I16 or softmax_fits(node.attr("scales")[0]) else "a vanishing scale"


# The 16-bit tables of EXP and GELU hold what the float functions of the runtime's C library round to, which differs by place.
for _name, _builtin, _dtypes, _check in (
    ("relu", "RELU", _BOTH, None),
    ("relu6", "RELU6", _BOTH, None),
    ("relu_n1_to_1", "RELU_N1_TO_1", "i8", None),
    ("relu_0_to_1", "RELU_0_TO_1", "i8", None),
    ("abs", "ABS", _BOTH, None),
    ("leaky_relu", "LEAKY_RELU", _BOTH, None),
    ("prelu", "PRELU", _BOTH, None),
    ("hard_swish", "HARD_SWISH", "i8", _down_only),
    ("elu", "ELU", "i8", None),
    ("exp", "EXP", "i8", None),
    ("log", "LOG", _BOTH, None),
    ("gelu", "GELU", "i8", None),
    ("logistic", "LOGISTIC", _BOTH, None),
    ("tanh", "TANH", _BOTH, None),
    ("log_softmax", "LOG_SOFTMAX", "i8", _up_only),
):

    @row(f"tfl.q_{_name}", _builtin, _dtypes, _check)
    def _unary(node: Node) -> Emitted:
        return Emitted(node.operands, _options(node))


@row("tfl.q_softmax", "SOFTMAX", _BOTH, _up_only)
def _softmax(node: Node) -> Emitted:
    return Emitted(node.operands, {"beta": 1.0})


@row("tfl.quantize", "QUANTIZE", "f32")
@row("tfl.q_quantize", "QUANTIZE", "i8 i16 u8")
def _quantize(node: Node) -> Emitted:
    return Emitted(node.operands)


@row("tfl.q_pad", "PAD", "i8 i16")
def _pad(node: Node) -> Emitted:
    rank, pads = node.operands[0].rank, node.attr("pads")
    return Emitted([node.operands[0], np.asarray([pads[:rank], pads[rank:]], np.int32).T.copy()])
