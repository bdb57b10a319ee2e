"""Operators of onnxruntime's domain com.microsoft for quantised models, named `ort.*`, each with a kernel beside it.

Written only when a QOperator or MatMulNBits form is asked for. Operands stand in the operator's order, attributes carry its
names. A kernel is dequantize, the float op, quantize: onnxruntime's tables and fused kernels round the same real value, up to
ties; products are exact integers. Imports no framework.
"""

from __future__ import annotations

import numpy as np

from ...ir.errors import TypeInferError
from ...ir.opdef import OpDef, attr, ints, op, operand, optional, variadic
from ...ir.ops import get_op, rules
from ...ir.ops.qlinear import DynamicQuantizeLstm as CoreLstm
from ...ir.ops.shapes import broadcast_shapes
from ...ir.types import F32, I8, I32, U8, DType, TensorType
from ...ir.value import Value
from ...kernels.registry import get_kernel, kernel

BYTE = frozenset({I8, U8})
REAL = frozenset({F32})


def _real(x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    """Dequantised by single numbers."""
    return get_kernel("dequantize")(x, scale.reshape(()), None if zero is None else zero.reshape(()), to=F32)


def _stored(y: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    to = DType.of(zero.dtype)
    return get_kernel("quantize")(np.asarray(y, np.float32), scale.reshape(()), zero.reshape(()), to=to)


def _like(y_zp: Value, shape: tuple | None) -> TensorType:
    return TensorType(y_zp.dtype, shape)


class _Binary(OpDef):
    """A and B, each with scale and zero point, then those of the result."""

    a = operand(BYTE)
    a_scale = operand(REAL)
    a_zp = operand(BYTE)
    b = operand(BYTE)
    b_scale = operand(REAL)
    b_zp = operand(BYTE)
    c_scale = operand(REAL)
    c_zp = operand(BYTE)

    def infer(self, a, a_scale, a_zp, b, b_scale, b_zp, c_scale, c_zp):
        if a.shape is None or b.shape is None:
            return _like(c_zp, None)
        return _like(c_zp, broadcast_shapes(a.shape, b.shape))


@op(name="ort.qlinear_add")
class QlinearAdd(_Binary):
    """quantize(D(a) + D(b))"""


@op(name="ort.qlinear_mul")
class QlinearMul(_Binary):
    """quantize(D(a) * D(b))"""


@kernel("ort.qlinear_add")
def _qlinear_add(a, a_scale, a_zp, b, b_scale, b_zp, c_scale, c_zp):
    return _stored(_real(a, a_scale, a_zp) + _real(b, b_scale, b_zp), c_scale, c_zp)


@kernel("ort.qlinear_mul")
def _qlinear_mul(a, a_scale, a_zp, b, b_scale, b_zp, c_scale, c_zp):
    return _stored(_real(a, a_scale, a_zp) * _real(b, b_scale, b_zp), c_scale, c_zp)


class _Unary(OpDef):
    """X with scale and zero point, then those of the result."""

    x = operand(BYTE)
    x_scale = operand(REAL)
    x_zp = operand(BYTE)
    y_scale = operand(REAL)
    y_zp = operand(BYTE)

    def infer(self, x, x_scale, x_zp, y_scale, y_zp, **_):
        return _like(y_zp, x.shape)


@op(name="ort.qlinear_sigmoid")
class QlinearSigmoid(_Unary):
    """quantize(sigmoid(D(x)))"""


@op(name="ort.qlinear_leaky_relu")
class QlinearLeakyRelu(_Unary):
    """quantize(leaky_relu(D(x)))"""

    alpha = attr(float, 0.01)


@op(name="ort.qlinear_softmax")
class QlinearSoftmax(_Unary):
    """quantize(softmax(D(x))) along `axis`, as Softmax of opset 13 and newer."""

    axis = attr(int, -1)


def _between(name: str):
    """A kernel: the float op of that name between dequantize and quantize."""

    def run(x, x_scale, x_zp, y_scale, y_zp, **attrs):
        return _stored(get_kernel(name)(_real(x, x_scale, x_zp), **attrs), y_scale, y_zp)

    return run


for _name in ("sigmoid", "leaky_relu", "softmax"):
    kernel(f"ort.qlinear_{_name}")(_between(_name))


@op(name="ort.qlinear_average_pool")
class QlinearAveragePool(_Unary):
    """quantize(average_pool(D(x)))"""

    kernel_shape = attr(ints)
    strides = attr(ints, ())
    pads = attr(ints, ())
    ceil_mode = attr(bool, False)
    auto_pad = attr(str, "explicit", choices=("explicit", "same_upper", "same_lower"))
    count_include_pad = attr(bool, False)

    def infer(self, x, x_scale, x_zp, y_scale, y_zp, *, count_include_pad, **window):
        own = get_op("max_pool").infer(x, **window, dilations=(), storage_order=0, channels_last=False)
        return _like(y_zp, own.shape)


@op(name="ort.qlinear_global_average_pool")
class QlinearGlobalAveragePool(_Unary):
    """quantize(global_average_pool(D(x)))"""

    def infer(self, x, x_scale, x_zp, y_scale, y_zp):
        shape = rules.ranked(x, "x", least=3)
        return _like(y_zp, None if shape is None else (*shape[:2], *(1,) * (len(shape) - 2)))


@kernel("ort.qlinear_average_pool")
def _qlinear_average_pool(x, x_scale, x_zp, y_scale, y_zp, **attrs):
    return _stored(get_kernel("average_pool")(_real(x, x_scale, x_zp), **attrs), y_scale, y_zp)


@kernel("ort.qlinear_global_average_pool")
def _qlinear_global_average_pool(x, x_scale, x_zp, y_scale, y_zp):
    y = get_kernel("global_average_pool")(_real(x, x_scale, x_zp), channels_last=False)
    return _stored(y, y_scale, y_zp)


@op(name="ort.qlinear_concat")
class QlinearConcat(OpDef):
    """Triples of data, scale and zero point, requantised where they differ from the result's and joined along `axis`."""

    y_scale = operand(REAL)
    y_zp = operand(BYTE)
    parts = variadic(BYTE | REAL)
    axis = attr(int)

    def infer(self, y_scale, y_zp, parts, *, axis):
        if not parts or len(parts) % 3:
            raise TypeInferError(f"{len(parts)} operands are not triples of data, scale and zero point")
        joined = get_op("concat").infer(parts[::3], axis=axis)
        return _like(y_zp, joined.type.shape)


@kernel("ort.qlinear_concat")
def _qlinear_concat(y_scale, y_zp, *parts, axis):
    same = (y_scale.item(), y_zp.item())
    made = []
    for x, scale, zero in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        kept = (scale.item(), zero.item()) == same and x.dtype == y_zp.dtype
        made.append(x if kept else _stored(_real(x, scale, zero), y_scale, y_zp))
    return np.concatenate(made, axis=axis)


@op(name="ort.qgemm")
class Qgemm(OpDef):
    """saturate(round((A - a_zp)(B - b_zp) + C) a_scale b_scale / y_scale) + y_zp): matrices in 8 bits, C in i32 in units of
    alpha a_scale b_scale; B may have a scale and zero point for each column."""

    a = operand(BYTE)
    a_scale = operand(REAL)
    a_zp = operand(BYTE)
    b = operand(BYTE)
    b_scale = operand(REAL)
    b_zp = operand(BYTE)
    c = optional(frozenset({I32}))
    y_scale = operand(REAL)
    y_zp = operand(BYTE)
    alpha = attr(float, 1.0)
    transB = attr(bool, False)

    def infer(self, a, a_scale, a_zp, b, b_scale, b_zp, c, y_scale, y_zp, *, alpha, transB):
        first, second = rules.ranked(a, "a", 2), rules.ranked(b, "b", 2)
        if first is None or second is None:
            return _like(y_zp, None)
        deep, wide = second[::-1] if transB else second
        rules.agree(first[1], deep, "the contracted dims")
        return _like(y_zp, (first[0], wide))


@kernel("ort.qgemm")
def _qgemm(a, a_scale, a_zp, b, b_scale, b_zp, c, y_scale, y_zp, *, alpha=1.0, transB=False):
    total = get_kernel("matmul_integer")(
        a, b.T if transB else b, a_zp.reshape(()), b_zp if b_zp.size > 1 else b_zp.reshape(())
    )
    total = total if c is None else total + c
    ratio = np.float32(alpha) * a_scale.reshape(()) * b_scale / y_scale.reshape(())
    ratio = np.asarray(ratio.reshape(()) if ratio.size == 1 else ratio.reshape(1, -1), np.float32)
    return get_kernel("requantize")(total, ratio, y_zp.reshape(()), to=DType.of(y_zp.dtype), rounding="half_even")


@op(name="ort.matmul_nbits")
class MatmulNbits(OpDef):
    """a [.., K] times the transpose of weights [N, K] of `bits` bits, in blocks of `block_size` along K, each with a scale
    and zero point; [N, blocks, block_size * bits / 8] bytes, the first number in the lowest bits."""

    a = operand(REAL)
    b = operand(frozenset({U8}))
    scales = operand(REAL)
    zero_points = optional(frozenset({U8}))
    bias = optional(REAL)
    K = attr(int)
    N = attr(int)
    bits = attr(int, 4)
    block_size = attr(int)

    def infer(self, a, b, scales, zero_points, bias, *, K, N, bits, block_size):
        if a.shape is None:
            return TensorType(F32, None)
        rules.agree(a.shape[-1], K, "the contracted dims")
        return TensorType(F32, (*a.shape[:-1], N))


def unpacked(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Rows of bytes as rows of `count` numbers of `bits` bits, u8."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (data.reshape(len(data), -1, 1) >> shifts) & np.uint8((1 << bits) - 1)
    return numbers.reshape(len(data), -1)[:, :count]


def packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    """The reverse: rows of u8 numbers below 2**bits as rows of whole bytes."""
    per = 8 // bits
    rows, count = numbers.shape
    full = np.zeros((rows, -(-count // per) * per), np.uint8)
    full[:, :count] = numbers
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(full.reshape(rows, -1, per) << shifts, axis=-1).astype(np.uint8)


@kernel("ort.matmul_nbits")
def _matmul_nbits(a, b, scales, zero_points=None, bias=None, *, K, N, bits=4, block_size):
    blocks = -(-K // block_size)
    stored = unpacked(b.reshape(N, -1), bits, blocks * block_size).astype(np.float32).reshape(N, blocks, block_size)
    zeros = np.float32(1 << (bits - 1))
    if zero_points is not None:
        zeros = unpacked(zero_points.reshape(N, -1), bits, blocks).astype(np.float32)[:, :, None]
    weights = ((stored - zeros) * scales.reshape(N, blocks, 1)).reshape(N, -1)[:, :K]
    y = get_kernel("matmul")(a, np.ascontiguousarray(weights.T))
    return y if bias is None else get_kernel("add")(y, bias)


@op(name="ort.dynamic_quantize_lstm")
class DynamicQuantizeLstm(CoreLstm):
    """The core's op as onnxruntime's operator, weights of both directions in one tensor as they came."""


@kernel("ort.dynamic_quantize_lstm")
def _dynamic_quantize_lstm(*operands, **attrs):
    return get_kernel("dynamic_quantize_lstm")(*operands, **attrs)
