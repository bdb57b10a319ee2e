"""com.microsoft: integer layers. Elementwise ones become dequantize, the float op, quantize; products stay integer.

onnxruntime runs the former by lookup tables and fused float kernels whose rounding is that of dequantize, op and quantize
up to ties: a result that lies within rounding of a half may be its neighbour. Products are the same to the last bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats.onnx.microsoft import DOMAIN
from ...ir.graph import Value
from ...ir.tensor import reinterpret
from ...ir.types import F16, F32, I64, U2, U4, U8, DType
from . import quant
from .conv import check_kernel, spatial_rank, window
from .importer import Call, Importer, known_dtype, rank_of
from .recurrent import attributes
from .registry import handles

handles("QuantizeLinear", domain=DOMAIN)(quant.quantize)
handles("DequantizeLinear", domain=DOMAIN)(quant.dequantize)


def _real(c: Importer, n: Call, x: Value, scale: Value, zero: Value | None) -> Value:
    """x in f32; parameters are single numbers here."""
    return c.b.dequantize(x, quant.aligned(c, n, x, scale, 0), quant.aligned(c, n, x, zero, 0), to=F32)


def _stored(c: Importer, n: Call, y: Value, scale: Value, zero: Value | None, like: Value) -> Value:
    made = quant.aligned(c, n, y, scale, 0), quant.aligned(c, n, y, zero, 0)
    return c.b.quantize(y, *made, to=known_dtype(like))


@handles("QLinearAdd", "QLinearMul", domain=DOMAIN)
def qlinear_binary(c: Importer, n: Call) -> Any:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = n.take(8)
    operands = _real(c, n, a, a_scale, a_zero), _real(c, n, b, b_scale, b_zero)
    return _stored(c, n, c.b.call(n.op_type[7:].lower(), operands).result, y_scale, y_zero, a)


@handles("QLinearSigmoid", "QLinearLeakyRelu", domain=DOMAIN)
def qlinear_unary(c: Importer, n: Call) -> Any:
    x, x_scale, x_zero, y_scale, y_zero = n.take(5)
    real = _real(c, n, x, x_scale, x_zero)
    y = c.b.sigmoid(real) if n.op_type == "QLinearSigmoid" else c.b.leaky_relu(real, alpha=n.attr("alpha", 0.01))
    return _stored(c, n, y, y_scale, y_zero, x)


@handles("QLinearSoftmax", domain=DOMAIN)
def qlinear_softmax(c: Importer, n: Call) -> Any:
    """`opset` says whose Softmax: before 13 the axes from `axis` on are one row."""
    x, x_scale, x_zero, y_scale, y_zero = n.take(5)
    real, rank = _real(c, n, x, x_scale, x_zero), rank_of(x, n)
    axis = n.attr("axis", -1)
    if not -rank <= axis < rank:
        raise n.invalid(f"axis {axis} is outside of rank {rank}")
    if n.attr("opset") >= 13:
        y = c.b.softmax(real, axis=axis)
    else:
        y = c.b.reshape(c.b.softmax(c.b.flatten(real, axis=axis % rank), axis=1), c.b.shape(x))
    return _stored(c, n, y, y_scale, y_zero, x)


@handles("QLinearConcat", domain=DOMAIN)
def qlinear_concat(c: Importer, n: Call) -> Any:
    """Triples of data, scale and zero point; those quantised as the result is are copied."""
    y_scale, y_zero, *rest = n.inputs
    if len(rest) % 3 or not all(rest[i] is not None for i in range(len(rest)) if i % 3 < 2):
        raise n.invalid(f"{len(rest)} operands are not triples of data, scale and zero point")
    parts = []
    for x, scale, zero in zip(*(rest[i::3] for i in range(3)), strict=True):
        if (scale, zero) == (y_scale, y_zero):
            parts.append(x)
        else:
            parts.append(_stored(c, n, _real(c, n, x, scale, zero), y_scale, y_zero, y_zero))  # type: ignore[arg-type]
    return c.b.concat(*parts, axis=n.attr("axis"))


def _channels_first(c: Importer, n: Call, x: Value, back: bool = False) -> Value:
    """What the kernels of other layouts see: the channel axis second (or `back` at the end) where the file has it last."""
    if not n.attr("channels_last", 0):
        return x
    rank = rank_of(x, n)
    return c.b.transpose(x, perm=(0, *range(2, rank), 1) if back else (0, rank - 1, *range(1, rank - 1)))


@handles("QLinearGlobalAveragePool", domain=DOMAIN)
def qlinear_global_average_pool(c: Importer, n: Call) -> Any:
    x, x_scale, x_zero, y_scale, y_zero = n.take(5)
    y = c.b.global_average_pool(_real(c, n, _channels_first(c, n, x), x_scale, x_zero))
    return _channels_first(c, n, _stored(c, n, y, y_scale, y_zero, x), back=True)


@handles("QLinearAveragePool", domain=DOMAIN)
def qlinear_average_pool(c: Importer, n: Call) -> Any:
    x, x_scale, x_zero, y_scale, y_zero = n.take(5)
    data = _channels_first(c, n, x)
    kernel = tuple(n.attr("kernel_shape"))
    if len(kernel) != rank_of(x, n) - 2:
        raise n.invalid(f"kernel_shape {list(kernel)} for data of rank {x.rank}")
    attrs: dict[str, Any] = {
        "ceil_mode": bool(n.attr("ceil_mode", 0)),
        "count_include_pad": bool(n.attr("count_include_pad", 0)),
    }
    real = _real(c, n, data, x_scale, x_zero)
    y = c.b.average_pool(real, kernel_shape=kernel, **attrs, **window(n, len(kernel)))
    return _channels_first(c, n, _stored(c, n, y, y_scale, y_zero, x), back=True)


@handles("QLinearConv", domain=DOMAIN)
def qlinear_conv(c: Importer, n: Call) -> Any:
    """As ONNX's, and the channels may be last."""
    x, *rest = n.take(9)
    check_kernel(n, rest[2])
    attrs = window(n, spatial_rank(n, rest[2], x))
    y = c.b.qlinear_conv(_channels_first(c, n, x), *rest, groups=n.attr("group", 1), **attrs)
    return _channels_first(c, n, y, back=True)


@handles("QGemm", domain=DOMAIN)
def qgemm(c: Importer, n: Call) -> Any:
    """alpha a' b' + c in integers, c in units of alpha a_scale b_scale; a float result without y_scale."""
    a, a_scale, a_zero, w, w_scale, w_zero, bias, y_scale, y_zero = n.take(9)
    b = c.b
    if (y_scale is None) != (y_zero is None):
        raise n.invalid("y_scale and y_zero_point come together")
    if n.attr("transA", 0):
        a = b.transpose(a, perm=(1, 0))
    if n.attr("transB", 0):
        w = b.transpose(w, perm=(1, 0))
    total = b.matmul_integer(a, w, quant.single(c, a_zero), quant.single(c, w_zero))
    total = total if bias is None else b.add(total, bias)
    alpha = n.attr("alpha", 1.0)
    unit = quant.single(c, a_scale)
    unit = unit if alpha == 1.0 else b.mul(unit, c.scalar(alpha, unit))
    unit = b.mul(unit, quant.single(c, w_scale))
    if y_scale is None:
        return b.mul(b.cast(total, to=F32), unit)
    ratio = b.div(unit, quant.single(c, y_scale))
    ratio = ratio if ratio.rank == 0 else b.unsqueeze(ratio, (0,))
    return b.requantize(total, ratio, quant.single(c, y_zero), to=known_dtype(y_zero))


@handles("MatMulIntegerToFloat", domain=DOMAIN)
def matmul_integer_to_float(c: Importer, n: Call) -> Any:
    a, w, a_scale, w_scale, a_zero, w_zero, bias = n.take(7)
    return _to_float(c, (a, a_scale, a_zero), (w, w_scale, w_zero), bias)


@handles("DynamicQuantizeMatMul", domain=DOMAIN)
def dynamic_quantize_matmul(c: Importer, n: Call) -> Any:
    """a is quantised to u8 by its own range."""
    a, w, w_scale, w_zero, bias = n.take(5)
    stored, scale, zero = c.b.dynamic_quantize(a)
    return _to_float(c, (stored, scale, zero), (w, w_scale, w_zero), bias)


def _to_float(c: Importer, left: tuple, right: tuple, bias: Value | None) -> Value:
    """The integer product times both scales, per tensor or (right) per column, plus a float bias; one rounding of halves."""
    (a, a_scale, a_zero), (w, w_scale, w_zero) = left, right
    b, to = c.b, known_dtype(w_scale)

    def wide(x: Value) -> Value:
        return b.cast(x, to=F32) if x.dtype is F16 else x

    total = b.cast(b.matmul_integer(a, w, quant.single(c, a_zero), quant.single(c, w_zero)), to=F32)
    y = b.mul(total, b.mul(quant.single(c, wide(a_scale)), quant.single(c, wide(w_scale))))
    y = y if bias is None else b.add(y, wide(bias))
    return y if to is F32 else b.cast(y, to=to)


@handles("DynamicQuantizeLSTM", domain=DOMAIN)
def dynamic_quantize_lstm(c: Importer, n: Call) -> Any:
    attrs = attributes(n, "LSTM", 1) | {"input_forget": bool(n.attr("input_forget", 0))}
    return c.b.call("dynamic_quantize_lstm", n.take(12), attrs).results


# ------------------------------------------------------------------------------------------------- MatMulNBits

PACKED: dict[int, DType] = {2: U2, 4: U4, 8: U8}


@handles("MatMulNBits", domain=DOMAIN)
def matmul_nbits(c: Importer, n: Call) -> Any:
    """a times the transpose of weights [N, K] stored in `bits` bits, in blocks along K that share a scale.

    accuracy_level only allows a kernel to round a; weight_prepacked says how a GPU's kernel wants the bytes.
    """
    a, packed, scales, zeros, groups, bias = n.take(6)
    bits, size, rows, columns = (n.attr(name) for name in ("bits", "block_size", "N", "K"))
    if bits not in PACKED:
        raise n.refuse(f"bits = {bits} (expected 2, 4 or 8)")
    if n.attr("weight_prepacked", 0):
        raise n.refuse(f"weight_prepacked = {n.attr('weight_prepacked')}: bytes in the order of one GPU's kernel")
    if size < 16 or size & (size - 1) or min(rows, columns) < 1:
        raise n.invalid(f"block_size {size}, N {rows}, K {columns}")
    blocks = -(-columns // size)
    whole = U8 if groups is not None else PACKED[bits]  # ONNX slices and gathers nothing smaller than a byte
    stored = _numbers(c, packed, bits, (rows, blocks * size), whole)
    scale = c.b.reshape(scales, (rows, blocks)) if not scales.is_const else quant.reshaped(c, scales, (rows, blocks))
    if zeros is None:
        zero = c.b.const(np.asarray(1 << (bits - 1)).astype(known_dtype(stored).numpy))
    elif zeros.dtype is U8:
        zero = _numbers(c, zeros, bits, (rows, blocks), known_dtype(stored))  # u8 where the data is no constant
    else:
        zero = c.b.reshape(zeros, (rows, blocks))
    if groups is not None:
        stored, scale, zero = _grouped(c, n, (stored, scale, zero), groups, columns)
    weights = _weights(c, stored, scale, zero, size)
    turned = c.b.transpose(weights, perm=(1, 0))
    if stored.shape[1] != columns:  # type: ignore[index]
        turned = c.b.slice(turned, (0,), (columns,), (0,))
    y = c.b.matmul(a, turned)
    return y if bias is None else c.b.add(y, bias)


def _numbers(c: Importer, packed: Value, bits: int, shape: tuple[int, int], to: DType) -> Value:
    """Numbers of `bits` bits, each row from a byte of its own on, first in the lowest bits: [rows, count] of `to`.

    A constant keeps its bytes and becomes a packed type; anything else is taken apart into u8, whatever `to` is.
    """
    rows, count = shape
    width = -(-count * bits // 8)
    dtype = PACKED[bits]
    weight = packed.weight
    if weight is not None:
        per = 8 // bits
        made: Any = reinterpret(weight.tensor, dtype, (rows, width * per))
        if width * per != count:
            made = made.numpy()[:, :count]
        if to is U8 and dtype is not U8:
            made = np.asarray(made).astype(np.uint8)
        return c.b.const(made, key=f"{weight.key}.unpacked", origin=f"unpack({weight.key})")
    row = c.b.reshape(packed, (rows, width, 1))
    if bits < 8:
        shifts = c.const(np.arange(0, 8, bits).astype(np.uint8))
        row = c.b.bitwise_and(c.b.bit_shift(row, shifts, direction="RIGHT"), c.const(np.uint8((1 << bits) - 1)))
    numbers = c.b.reshape(row, (rows, width * 8 // bits))
    return numbers if width * 8 == count * bits else c.b.slice(numbers, (0,), (count,), (1,))


def _grouped(c: Importer, n: Call, parts: tuple[Value, Value, Value], groups: Value, columns: int) -> tuple[Value, ...]:
    """g_idx names the block of each column: scales and zero points of one column each."""
    stored, scale, zero = parts
    index = c.b.cast(groups, to=I64)
    if groups.shape is None or groups.rank != 1 or type(groups.shape[0]) is not int or groups.shape[0] < columns:
        raise n.invalid(f"g_idx of type {groups.type} for {columns} columns")
    if groups.shape[0] != columns:
        index = c.b.slice(index, (0,), (columns,), (0,))
    if stored.shape[1] != columns:  # type: ignore[index]
        stored = c.b.slice(stored, (0,), (columns,), (1,))
    spread = [v if v.rank == 0 else c.b.gather(v, index, axis=1) for v in (scale, zero)]
    return stored, *spread


def _weights(c: Importer, stored: Value, scale: Value, zero: Value, size: int) -> Value:
    """(stored - zero) * scale in the scale's dtype; zero points may be floats."""
    to = known_dtype(scale)
    if zero.dtype is stored.dtype or zero.dtype is U8:
        return c.b.dequantize(_as(c, stored, zero), scale, _as(c, zero, stored), to=to)
    rows, columns = stored.shape  # type: ignore[misc]
    real = c.b.cast(stored, to=to)
    if scale.shape == stored.shape:
        return c.b.mul(c.b.sub(real, c.b.cast(zero, to=to)), scale)
    apart = c.b.reshape(real, (rows, -1, size))
    zero = zero if zero.rank == 0 else c.b.unsqueeze(zero, (2,))
    return c.b.reshape(c.b.mul(c.b.sub(apart, c.b.cast(zero, to=to)), c.b.unsqueeze(scale, (2,))), (rows, columns))


def _as(c: Importer, value: Value, other: Value) -> Value:
    """As u8 where the other one is: only one of them may be a constant."""
    return c.b.cast(value, to=U8) if other.dtype is U8 and value.dtype is not U8 else value
