"""The forms that quantised layers are written in: QDQ as they stand, QOperator, or MatMulNBits.

QDQ is standard ONNX and what most runtimes fuse by themselves. QOperator writes layers as operators on integers: QLinearConv
and QLinearMatMul of ONNX, the rest from com.microsoft (`ops.py`), tables for functions that have no operator, and products
of 16-bit data, which onnxruntime has not, as two of bytes.
MatMulNBits writes products with weights in blocks of 4 or 8 bits, which onnxruntime multiplies without unpacking the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import ml_dtypes
import numpy as np

from ...ir.graph import Module, Node, Value
from ...ir.types import F32, I4, I8, I16, I32, U4, U8, U16
from ...kernels.run import run_node
from ...passes.manager import Context, run_pipeline
from ...passes.quantize import fold, integer, integer_elementwise
from ...passes.quantize.layers import Layer, layer_of
from ...passes.quantize.qdq import Encoding, encoding_of, made_by, reliable, same
from ...passes.rewrite import RuleSet, StagingBuilder, rule
from .ops import packed


def keep_lstm(module: Module) -> None:
    """A file that came with onnxruntime's quantised LSTM is written with it: spelled out it is a loop for each direction."""
    fold.settle(module, RuleSet([whole_lstm]), Context())


def rewrite(module: Module, form: str) -> None:
    """Bring the quantised layers of `module` into `form`, in place; what the form has no operator for stays QDQ."""
    if form == "qoperator":
        fold.settle(module, RuleSet([two_halves]), Context())
        run_pipeline(module, "fold,cse")
        fold.settle(module, RuleSet(r for r in fold.RULES if r.numerics == "exact"), Context())
        fold.settle(module, RuleSet([*_QOPERATOR, integer.qlinear_layer]), Context())
        fold.settle(module, RuleSet([table, sixteen_bits, unread_bias]), Context())
    elif form == "matmulnbits":
        fold.settle(module, RuleSet([matmul_nbits]), Context())
    else:
        fold.settle(module, RuleSet([gemm_zero_point, sixteen_bits, unread_bias]), Context())


# ----------------------------------------------------------------------------------------------------------------- QDQ


@rule("gemm", numerics="exact")
def gemm_zero_point(b: StagingBuilder, node: Node):
    """gemm(D(x), D(w)) whose weight has no zero point -> with zeros: onnxruntime makes no QGemm without"""
    data, weight = (made_by(value, "dequantize") for value in node.operands[:2])
    if data is None or weight is None or weight.operand("zero_point") is not None:
        return None
    stored, scale = weight.operands[0], weight.operand("scale")
    if stored.dtype not in (I8, U8) or scale.shape is None or not all(isinstance(d, int) for d in scale.shape):
        return b.decline("the weight is no constant of bytes")
    zero = b.const(np.zeros(scale.shape, stored.dtype.numpy))
    real = b.call("dequantize", [stored, scale, zero], dict(weight.attrs)).result
    return b.call("gemm", [node.operands[0], real, *node.operands[2:]], dict(node.attrs)).result


@rule("dequantize", numerics="exact")
def unread_bias(b: StagingBuilder, node: Node):
    """dequantize(constant of 32 bits) that no layer has for its bias -> floats: as many bytes, and no scales"""
    stored, p = node.operands[0], encoding_of(node)
    if stored.dtype is not I32 or not stored.is_const or not p.constant or node.result.dtype is not F32:
        return None
    if any(use.node.name in ("conv", "gemm") and use.index == 2 for use in node.result.uses):
        return b.decline("a layer reads it")
    weight = stored.weight
    floats = run_node(node, [None if v is None else v.array() for v in node.operands])[0]
    return b.const(floats, key=weight.wanted, role=weight.role, origin=f"dequantize({weight.key})")


#: What onnxruntime has not for 16 bits, and the operands that are data.
_SIXTEEN = {
    "pad": (0, 2), "max_pool": (0,), "resize": (0,), "depth_to_space": (0,), "space_to_depth": (0,), "max": (0, 1),
    "min": (0, 1), "where": (1, 2), "clip": (0, 1, 2),
}  # fmt: skip


@rule(*_SIXTEEN, numerics="exact")
def sixteen_bits(b: StagingBuilder, node: Node):
    """an op on 16-bit integers -> the same on f32 between casts: onnxruntime moves integers of 16 bits by few operators"""
    kind = node.result.dtype
    if kind not in (I16, U16):
        return None
    why = fold.more_than_choosing(node)
    if why is not None:
        return b.decline(why)
    data = _SIXTEEN[node.name]
    operands = [b.cast(v, to=F32) if i in data and v is not None else v for i, v in enumerate(node.operands)]
    return b.cast(b.call(node.name, operands, dict(node.attrs)).result, to=kind)


# ------------------------------------------------------------------------------------------------------------ QOperator


def _triple(b: StagingBuilder, node: Node) -> tuple[Value, Value, Value]:
    """The integers below a dequantize node, their scale and zero point."""
    return node.operands[0], *_numbers(b, encoding_of(node))  # type: ignore[return-value]


def _numbers(b: StagingBuilder, p: Encoding) -> tuple[Value, Value]:
    """Single parameters as constants of rank 0."""
    scale = b.const(np.asarray(p.scales().item(), np.float32))
    return scale, b.const(np.asarray(p.zeros().item(), p.stored.numpy))


def _ended(node: Node, names: tuple[str, ...], count: int) -> tuple[Node, list[Node]] | None:
    """The float op that `node` (quantize) alone uses, its operands dequantised bytes of the result's type."""
    found = integer_elementwise.source(node, count)
    if found is None or found[0].name not in names:
        return None
    same = all(encoding_of(inner).stored is node.result.dtype for inner in found[1])
    return found if same else None


@rule("quantize", numerics="approx", benefit=5)
def qlinear_binary(b: StagingBuilder, node: Node):
    """quantize(D(x) + D(y)) -> QLinearAdd, of a product -> QLinearMul"""
    found = _ended(node, ("add", "mul"), 2)
    if found is None:
        return None
    operands = [v for inner in found[1] for v in _triple(b, inner)]
    return b.call(f"ort.qlinear_{found[0].name}", [*operands, *_numbers(b, encoding_of(node))]).result


@rule("quantize", numerics="approx", benefit=5)
def qlinear_unary(b: StagingBuilder, node: Node):
    """quantize(f(D(x))) -> QLinearSigmoid, QLinearLeakyRelu, QLinearSoftmax and the average pools"""
    names = ("sigmoid", "leaky_relu", "softmax", "average_pool", "global_average_pool")
    found = _ended(node, names, 1)
    if found is None:
        return None
    made, (inner,) = found
    if made.attrs.get("channels_last") or any(d != 1 for d in made.attrs.get("dilations", ())):
        return b.decline("the operator has channels first and no dilations")
    attrs = {key: value for key, value in made.attrs.items() if key not in ("channels_last", "dilations")}
    return b.call(f"ort.qlinear_{made.name}", [*_triple(b, inner), *_numbers(b, encoding_of(node))], attrs).result


@rule("quantize", numerics="approx", benefit=5)
def qlinear_mean(b: StagingBuilder, node: Node):
    """quantize(reduce_mean(D(x)) over all spatial axes) -> QLinearGlobalAveragePool"""
    found = _ended(node, ("reduce_mean",), 1)
    if found is None:
        return None
    made, (inner,) = found
    axes, rank = integer_elementwise.mean_axes(made), inner.result.rank or 0
    if axes is None or rank < 3 or tuple(axes) != tuple(range(2, rank)):
        return b.decline("a mean over other axes than the spatial ones")
    pooled = b.call("ort.qlinear_global_average_pool", [*_triple(b, inner), *_numbers(b, encoding_of(node))]).result
    return pooled if made.attr("keepdims") else b.squeeze(pooled, tuple(axes))


@rule("concat", numerics="approx", benefit=5)
def qlinear_concat(b: StagingBuilder, node: Node):
    """concat(quantize(D(x)), ...) with the same parameters -> QLinearConcat"""
    outer = [made_by(v, "quantize") for v in node.operands]
    inner = [made_by(n.operands[0], "dequantize") if n is not None else None for n in outer]
    first = next((n for n, below in zip(outer, inner, strict=True) if below is not None), None)
    if first is None:
        return None
    out = encoding_of(first)
    fitting = all(below is None or same(out, encoding_of(n)) for n, below in zip(outer, inner, strict=True))  # type: ignore[arg-type]
    if reliable(out) is not None or not out.single or not fitting or out.stored not in (I8, U8):
        return b.decline("the parts are not quantised alike, to 8 bits")
    own = _numbers(b, out)
    parts: list[Value] = []
    for value, below in zip(node.operands, inner, strict=True):
        if below is None:
            parts += [value, *own]  # type: ignore[list-item]
            continue
        p = encoding_of(below)
        if reliable(p) is not None or not p.single or p.stored is not out.stored:
            return b.decline("a part has parameters along an axis, or is of another type")
        parts += _triple(b, below)
    return b.call("ort.qlinear_concat", [*own, *parts], {"axis": node.attr("axis")}).result


@rule("quantize", numerics="approx", benefit=6)
def qgemm(b: StagingBuilder, node: Node):
    """quantize(gemm(D(a), D(w), bias)) and of a matmul with a bias -> QGemm, rows flattened around it"""
    c = integer.closed(node)
    if not isinstance(c, integer.Closed):
        return b.decline(c) if c else None
    layer = c.layer
    if layer.node.name == "conv" or (layer.node.name == "matmul" and c.bias is None):
        return None
    x, w = layer.x.operands[0], layer.w.operands[0]
    columns = w.shape[-1] if w.shape and w.rank == 2 else None  # type: ignore[union-attr]
    if type(columns) is not int or x.rank is None or x.rank < 2 or layer.node.attrs.get("transA"):  # type: ignore[union-attr]
        return b.decline("the weights are no matrix of known size, or the data is transposed")
    bias = integer.bias_of(b, c)
    if isinstance(bias, str):
        return b.decline(bias)
    turned = layer.node.name == "gemm" and layer.node.attr("transB")
    columns = int(w.shape[0 if turned else 1])  # type: ignore[union-attr, index, arg-type]
    operands = list(integer.factors(b, layer))
    operands[0] = x if x.rank == 2 else b.reshape(x, (-1, x.shape[-1]))  # type: ignore[union-attr, index]
    total = None if bias is None else b.const(np.broadcast_to(bias.reshape(-1), (columns,)).copy())
    out = (b.const(integer.out_scale(c)), integer.zero_of(b, c.out))
    y = b.call("ort.qgemm", (*operands, total, *out), {"alpha": c.factor, "transB": turned}).result
    if x.rank != 2:  # type: ignore[union-attr]
        y = b.reshape(y, _unflattened(b, x, columns))  # type: ignore[arg-type]
    return integer.clamped(b, y, c)


@rule("conv", "gemm", "matmul", numerics="ulp")
def two_halves(b: StagingBuilder, node: Node):
    """layer(D(16 bits), D(w)) -> the sums of its upper bytes times 256 s, and of its lower bytes times s: onnxruntime has no
    products of 16-bit integers, but computes those of bytes in integers"""
    layer = layer_of(node)
    if layer is None or layer.data.stored not in (I16, U16):
        return None
    data, weights = layer.data, _unsigned(b, layer.w)
    why = reliable(data) or (None if weights else "the weights are no constant of bytes")
    if why is not None or not data.single:
        return b.decline(why or "the data has parameters along an axis")
    halves = [Layer(node, half, weights) for half in _bytes(b, layer.x.operands[0], data)]  # type: ignore[arg-type]
    why = next(filter(None, map(integer.unfit, halves)), None)
    if why is not None:
        return b.decline(why)
    upper, lower = (integer.real_product(b, half) for half in halves)
    return integer.with_bias(b, layer, b.add(upper, lower))


def _unsigned(b: StagingBuilder, w: Node) -> Node | None:
    """What dequantises constant bytes, as unsigned ones: sums of their products with unsigned data saturate nowhere."""
    stored, p = w.operands[0], encoding_of(w)
    if p.stored is U8:
        return w
    if p.stored is not I8 or not stored.is_const or not p.constant:  # type: ignore[union-attr]
        return None
    weight = stored.weight  # type: ignore[union-attr]
    bytes_ = (stored.array() ^ np.int8(-128)).view(np.uint8)  # type: ignore[union-attr]
    made = b.const(bytes_, key=weight.wanted, role=weight.role, origin=f"{weight.key} + 128")  # type: ignore[union-attr]
    zero = b.const((p.zeros() + 128).astype(np.uint8))
    return b.dequantize(made, p.scale, zero, to=F32, block_size=p.block).node


def _bytes(b: StagingBuilder, x: Value, p: Encoding) -> Iterator[Node]:
    """What dequantises the upper and the lower bytes of 16-bit integers: s (256 (hi - z_hi) + lo - z_lo) = s (x - z)."""
    shift = 1 << 15 if p.stored is I16 else 0
    moved = b.add(b.cast(x, to=F32), b.const(np.float32(shift)))  # floats: whole numbers, and the fastest kernels
    upper = b.floor(b.mul(moved, b.const(np.float32(1 / 256))))
    lower = b.sub(moved, b.mul(upper, b.const(np.float32(256))))
    zeros = divmod(p.zeros().item() + shift, 256)
    for bits, factor, zero in zip((upper, lower), (256, 1), zeros, strict=True):
        scale = b.const(np.float32(factor * p.scales().item()))
        yield b.dequantize(b.cast(bits, to=U8), scale, b.const(np.uint8(zero)), to=F32).node  # type: ignore[misc]


class Sum(NamedTuple):
    """An integer product whose i32 sums are requantised: parameters as arrays [1], or with one entry per channel."""

    product: Node
    ratio: np.ndarray
    bias: np.ndarray | None
    x_zero: np.ndarray
    w_zero: np.ndarray
    y_zero: np.ndarray


def _sum(node: Node) -> Sum | str | None:
    """What `node` (requantize) rounds; a reason where one operator does not say it, None where it is something else."""
    total, ratio, y_zero = (*node.operands, None)[:3]
    bias, made = None, total.node  # type: ignore[union-attr]
    if made is not None and made.name == "add" and made.operands[0].type is total.type:  # type: ignore[union-attr]
        bias, made = made.operands[1], made.operands[0].node  # type: ignore[union-attr]
    if made is None or made.name not in ("matmul_integer", "conv_integer") or node.attr("rounding") != "half_even":
        return None
    if node.result.dtype not in (I8, U8) or ratio.dtype is not F32:  # type: ignore[union-attr]
        return "the result has no 8 bits, or the ratio is no f32"
    x, w, x_zero, w_zero = (*made.operands, None, None)[:4]
    conv, rank = made.name == "conv_integer", made.result.rank
    channels = w.shape[0 if conv else -1] if w.shape else None  # type: ignore[union-attr]
    if made.attrs.get("channels_last") or (not conv and (rank != 2 or w.rank != 2)) or type(channels) is not int:  # type: ignore[union-attr]
        return "no matrices, channels last, or channels of unknown number"
    found: list[np.ndarray | None] = []
    for value, like in ((ratio, None), (bias, None), (x_zero, x), (w_zero, w), (y_zero, node.result)):
        vector = None if value is None else _vector(value, rank, 1 if conv else rank - 1, channels)  # type: ignore[operator, arg-type]
        if value is not None and vector is None:
            return "a parameter is computed, or varies along another axis than the channels"
        found.append(np.zeros(1, like.dtype.numpy) if vector is None and like is not None else vector)  # type: ignore[union-attr]
    made_of = Sum(made, *found)  # type: ignore[arg-type]
    return made_of if made_of.x_zero.size == made_of.y_zero.size == 1 else "zero points of data along an axis"


def _vector(value: Value, rank: int, axis: int, channels: int) -> np.ndarray | None:
    """A constant as one number [1], or as one for each of the channels along `axis`; None for anything else."""
    if not value.is_const:
        return None
    array = value.array()
    if array.size == 1:
        return array.reshape(1)
    place = 0 if array.ndim == 1 and (value.dtype in (I8, U8) or axis == rank - 1) else axis - rank + array.ndim
    fits = 0 <= place < array.ndim and array.size == array.shape[place] == channels
    return array.reshape(-1) if fits else None


def _spread(parameter: np.ndarray, shape: tuple) -> np.ndarray:
    """One number or one for each channel as rank 0, or as a vector of `shape`."""
    return np.broadcast_to(parameter.reshape(() if parameter.size == 1 else -1), shape).copy()


@rule("requantize", benefit=6)
def requantized_product(b: StagingBuilder, node: Node):
    """requantize(matmul_integer + c) -> QGemm, requantize(conv_integer + c) -> QLinearConv: the ratio is the one scale"""
    s = _sum(node)
    if not isinstance(s, Sum):
        return b.decline(s) if s else None
    x, w = s.product.operands[:2]
    conv = s.product.name == "conv_integer"
    channels = w.shape[0 if conv else 1]  # type: ignore[union-attr, index]
    wide = (channels,) if max(s.ratio.size, s.w_zero.size) > 1 else ()
    scale, w_zero = (_spread(v, wide) for v in (s.ratio, s.w_zero))
    bias = None if s.bias is None else b.const(np.broadcast_to(s.bias, (channels,)).astype(np.int32))  # type: ignore[arg-type]
    one, zeros = b.const(np.float32(1)), [b.const(v.reshape(())) for v in (s.x_zero, s.y_zero)]
    factors = (x, one, zeros[0], w, b.const(scale), b.const(w_zero))
    if not conv:
        return b.call("ort.qgemm", (*factors, bias, one, zeros[1])).result
    attrs = {key: value for key, value in s.product.attrs.items() if key != "channels_last"}
    return b.call("qlinear_conv", (*factors, one, zeros[1], bias), attrs).result


def _unflattened(b: StagingBuilder, x: Value, columns: int) -> object:
    """The shape of the product for data x: the leading dims of x, then the columns."""
    lead = x.shape[:-1]  # type: ignore[index]
    if sum(type(d) is not int for d in lead) <= 1:
        return (*(d if type(d) is int else -1 for d in lead), columns)
    return b.concat(b.shape(x, start=0, end=len(lead)), b.const(np.asarray([columns], np.int64)), axis=0)


@rule("quantize", benefit=3)
def table(b: StagingBuilder, node: Node):
    """quantize(f(D(q))) for a function of one element without an operator -> gather(table, q)"""
    found = integer_elementwise.chain(node)
    if found is None or not found[1]:
        return None
    return integer_elementwise.tabulate.apply(b, node)


@rule("dynamic_quantize_lstm")
def whole_lstm(b: StagingBuilder, node: Node):
    """dynamic_quantize_lstm -> DynamicQuantizeLSTM"""
    return b.call("ort.dynamic_quantize_lstm", node.operands, dict(node.attrs)).results


_QOPERATOR = (qlinear_binary, qlinear_unary, qlinear_mean, qlinear_concat, qgemm, requantized_product, whole_lstm)


# ---------------------------------------------------------------------------------------------------------- MatMulNBits

#: The number that is added to stored integers to make them unsigned.
SHIFT = {I4: 8, U4: 0, I8: 128, U8: 0}
SMALLEST = 16


class Blocks(NamedTuple):
    """Weights [N, K] as unsigned numbers, scales and zero points [N, blocks of `size`]."""

    numbers: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    bits: int
    size: int


@rule("matmul", "gemm", numerics="ulp")
def matmul_nbits(b: StagingBuilder, node: Node):
    """matmul(a, dequantize(weights in 4 or 8 bits)) -> MatMulNBits"""
    a = node.operands[0]
    bias = node.operands[2] if node.name == "gemm" and len(node.operands) > 2 else None
    if a.dtype is not F32 or a.rank is None or made_by(a, "dequantize") is not None:  # type: ignore[union-attr]
        return b.decline("the data is quantised, or no f32")
    plain = node.name == "matmul" or (node.attr("alpha") == 1.0 and not node.attr("transA"))
    if not plain or (bias is not None and (node.attr("beta") != 1.0 or bias.rank != 1)):
        return b.decline("the gemm has factors, a transposed a, or a bias that is no vector")
    found = _stored(node)
    if found is None:
        return None
    made = blocked(*found)
    if isinstance(made, str):
        return b.decline(made)
    weight = found[0].weight
    rows, columns = made.numbers.shape
    name = weight.wanted if weight.role != "const" else None  # type: ignore[union-attr]

    def const(array: np.ndarray, suffix: str) -> Value:
        if name is None:
            return b.const(array)
        return b.const(array, key=f"{name}{suffix}", role=weight.role, origin=f"packed({weight.key})")  # type: ignore[union-attr]

    count = made.scales.shape[1]
    padded = np.zeros((rows, count * made.size), np.uint8)
    padded[:, :columns] = made.numbers
    data = packed(padded, made.bits).reshape(rows, count, made.size * made.bits // 8)
    plain_zero = bool((made.zeros == 1 << (made.bits - 1)).all())
    zeros = None if plain_zero else const(packed(made.zeros, made.bits).reshape(-1), ".zeros")
    operands = (a, const(data, ""), const(made.scales.reshape(-1), ".scales"), zeros, bias)
    attrs = {"K": columns, "N": rows, "bits": made.bits, "block_size": made.size}
    return b.call("ort.matmul_nbits", operands, attrs).result


def _stored(node: Node) -> tuple[Value, Encoding, bool, int | None] | None:
    """The stored weights of a product, whether they lie as [N, K] already, and how many of K count; else None."""
    value, turned, count = node.operands[1], node.name == "gemm" and bool(node.attr("transB")), None
    inner = value.node  # type: ignore[union-attr]
    if inner is not None and inner.name == "slice":  # what reading a padded MatMulNBits leaves behind
        starts, axes = inner.operand("starts").ints(), inner.operand("axes").ints() if inner.operand("axes") else None
        if starts != (0,) or axes != (0,) or inner.result.shape is None or turned:
            return None
        count = inner.result.shape[0]
        inner = inner.operands[0].node  # type: ignore[union-attr]
    if inner is not None and inner.name == "transpose" and inner.operands[0].rank == 2:  # type: ignore[union-attr]
        turned, inner = not turned, inner.operands[0].node  # type: ignore[union-attr]
    if inner is None or inner.name != "dequantize" or not inner.operands[0].is_const or inner.result.rank != 2:  # type: ignore[union-attr]
        return None
    p = encoding_of(inner)
    if p.stored not in SHIFT or not p.constant or inner.result.dtype is not F32:
        return None
    return inner.operands[0], p, turned, count if type(count) is int else None  # type: ignore[return-value]


def blocked(stored: Value, p: Encoding, turned: bool, count: int | None) -> Blocks | str:
    """Weights in the blocks of MatMulNBits, or why they are not so: sizes are powers of two from 16 on, along K."""
    scales, zeros, numbers = p.scales(), p.zeros(), stored.array().astype(np.int64)
    if not turned:
        numbers, scales, zeros = numbers.T, scales.T, zeros.T
    rows, depth = numbers.shape
    wide = [v for v in (scales, zeros) if v.ndim == 2 and v.shape[1] != 1]
    columns = {v.shape[1] for v in wide}
    if len(columns) > 1:
        return "scales and zero points lie in different blocks"
    blocks = columns.pop() if columns else 1
    size = p.block or (depth // blocks if wide else _block_of(depth))
    if size < SMALLEST or size & (size - 1):
        return f"blocks of {size} (a power of two from {SMALLEST} on is wanted)"
    total = -(-depth // size)
    if wide and total != blocks:
        return "the blocks do not lie along the rows of the product"
    shift, bits = SHIFT[p.stored], p.stored.bits
    info = ml_dtypes.iinfo(p.stored.numpy)
    spread = [np.broadcast_to(v.reshape((1, 1)) if v.ndim == 0 else v, (rows, total)) for v in (scales, zeros)]
    unsigned = (numbers + shift).astype(np.uint8)
    offsets = (spread[1] + shift).astype(np.uint8)
    if int(info.max) + shift >= 1 << bits:
        return f"{p.stored} does not fit {bits} bits"
    kept = depth if count is None else count
    if -(-kept // size) != total:
        return "the blocks go beyond what counts"
    return Blocks(unsigned[:, :kept], np.ascontiguousarray(spread[0], np.float32), offsets, bits, size)


def _block_of(depth: int) -> int:
    """Scales for whole rows are repeated for each block: large ones, so that few are stored."""
    return min(max(SMALLEST, 1 << math.ceil(math.log2(max(depth, 1)))), 256)
