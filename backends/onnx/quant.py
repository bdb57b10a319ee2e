"""Quantisation. The IR aligns scales with the data's rank; ONNX wants scalars, vectors with an axis, or blocks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...formats.onnx import dtypes
from ...formats.onnx.microsoft import DOMAIN
from ...ir.dims import Dim
from ...ir.graph import Node, Value
from ...ir.types import I32
from .conv import window
from .emitter import Emitter, Literal, Temp
from .registry import emits


class Grain(NamedTuple):
    """How finely a scale speaks: over the whole tensor, along `axis`, or for blocks of `block` along it."""

    axis: int | None
    block: int | None


def grain(e: Emitter, x: Value, shape: tuple[Dim, ...], block_size: int = 0) -> Grain:
    """Read from the shapes (`shape` is the parameters') and `block_size`. Raises Refusal where ONNX has no word for it."""
    if shape and x.shape is None:
        raise e.refuse("the data's shape is not known")
    wide = [i for i, d in enumerate(shape) if d != 1]
    if not wide:
        return Grain(None, None)
    if len(wide) == 1 and (block_size == 1 or shape[wide[0]] == x.shape[wide[0]]):  # type: ignore[index]
        return Grain(wide[0], None)
    blocked = [i for i, d in enumerate(shape) if d != x.shape[i]]  # type: ignore[index]
    axis = blocked[0] if blocked else len(shape) - 1
    have, want = shape[axis], x.shape[axis]  # type: ignore[index]
    if len(blocked) > 1 or not (block_size or (type(have) is int and type(want) is int)):
        raise e.refuse(f"scales of shape {list(shape)} for data of shape {list(x.shape)}")  # type: ignore[arg-type]
    e.needs(21, "quantisation in blocks")
    return Grain(axis, block_size or want // have)  # type: ignore[operator, arg-type]


def finer(e: Emitter, scale: Value, zero: Value | None) -> tuple[Dim, ...]:
    """The shape that scale and zero point have together. Raises Refusal when it is not known."""
    shapes = [v.shape for v in (scale, zero) if v is not None]
    if any(shape is None for shape in shapes):
        raise e.refuse("the shape of the scale or zero point is not known")
    rank = max(map(len, shapes))  # type: ignore[arg-type]
    rows = [shape for shape in shapes if len(shape) == rank]  # type: ignore[arg-type]
    return tuple(next((d for d in dims if d != 1), 1) for dims in zip(*rows, strict=True))  # type: ignore[arg-type]


def parameter(e: Emitter, value: Value | None, how: Grain, shape: tuple[Dim, ...]) -> Value | Literal | Temp | None:
    """A scale or zero point in the shape that ONNX wants for `how`; both get the finer one's `shape`."""
    if value is None:
        return None
    vector: tuple[int, ...] = () if how.axis is None else (-1,)
    own: tuple[Dim, ...] = value.shape or (1,) * len(shape)
    if any(have == 1 and want != 1 for have, want in zip(own, shape, strict=True)):
        return _spread(e, value, how, shape, vector)
    if how.block is not None or value.rank == len(vector):
        return value
    if value.is_const:
        key = value.weight.key.removesuffix(".aligned")  # type: ignore[union-attr]
        return Literal(value.array().reshape(vector), value.dtype, key)  # type: ignore[arg-type]
    made_by = value.node
    if made_by is not None and made_by.name == "unsqueeze" and made_by.operands[0].rank == len(vector):  # type: ignore[union-attr]
        return made_by.operands[0]  # the reader aligned it
    return e.temp("Reshape", [value, e.ints(vector)], value.dtype)


def _spread(e: Emitter, value: Value, how: Grain, shape: tuple[Dim, ...], vector: tuple[int, ...]) -> Literal | Temp:
    """A parameter that is coarser than its partner, repeated."""
    if not all(type(d) is int for d in shape):
        raise e.refuse(f"a scale and a zero point of different shapes, one of them {list(shape)}")
    target = shape if how.block is not None else vector
    if value.is_const:
        full = np.broadcast_to(value.array(), shape).reshape(target)  # type: ignore[arg-type]
        return Literal(full, value.dtype, value.weight.key)  # type: ignore[arg-type, union-attr]
    made = e.temp("Expand", [value, e.ints(shape)], value.dtype)  # type: ignore[arg-type]
    return made if target == shape else e.temp("Reshape", [made, e.ints(target)], value.dtype)  # type: ignore[arg-type]


def _operands(e: Emitter, n: Node) -> tuple[list[Any], dict[str, Any]]:
    x, scale, zero = (*n.operands, None)[:3]
    shape = finer(e, scale, zero)  # type: ignore[arg-type]
    how = grain(e, x, shape, n.attr("block_size"))  # type: ignore[arg-type]
    inputs = [x, parameter(e, scale, how, shape), parameter(e, zero, how, shape)]
    return inputs, {"axis": how.axis, "block_size": how.block}


@emits("quantize")
def quantize(e: Emitter, n: Node) -> None:
    inputs, attrs = _operands(e, n)
    to = n.attr("to")
    if inputs[2] is None and to.name != "u8":
        if e.opset >= 21:
            attrs["output_dtype"] = dtypes.TO_CODE[to]
        else:
            inputs[2] = _zero(e, n, inputs[1], to)
    if not n.attr("saturate") and to.is_float:
        attrs["saturate"] = 0
    e.node("QuantizeLinear", inputs, **attrs)


def _zero(e: Emitter, n: Node, scale: Any, to: Any) -> Literal:
    """Before opset 21 only a zero point can say the type."""
    shape = scale.array.shape if isinstance(scale, Literal) else getattr(scale, "shape", None)
    if shape is None or not all(type(d) is int for d in shape):
        e.needs(21, "a quantised type without a zero point")
    return Literal(np.zeros(shape, to.numpy), to)  # type: ignore[arg-type]


@emits("dequantize")
def dequantize(e: Emitter, n: Node) -> None:
    inputs, attrs = _operands(e, n)
    to, scale = n.attr("to"), n.operands[1]
    if n.operands[0].dtype is I32:  # type: ignore[union-attr]
        _refuse_zero_point(e, n)
        inputs[2] = None
    if to is scale.dtype:  # type: ignore[union-attr]
        e.node("DequantizeLinear", inputs, **attrs)
    elif e.opset >= 23:
        e.node("DequantizeLinear", inputs, output_dtype=dtypes.TO_CODE[to], **attrs)
    else:
        e.node("Cast", [e.temp("DequantizeLinear", inputs, scale.dtype, **attrs)], to=dtypes.TO_CODE[to])  # type: ignore[union-attr]


def _refuse_zero_point(e: Emitter, n: Node) -> None:
    """int32 data has no zero point in ONNX (QuantizeLinear never yields it)."""
    zero = n.operand("zero_point")
    if zero is not None and not (zero.is_const and not zero.array().any()):
        raise e.refuse("int32 data with a zero point")


@emits("dynamic_quantize")
def dynamic_quantize(e: Emitter, n: Node) -> None:
    e.node("DynamicQuantizeLinear", n.operands)


@emits("qlinear_matmul")
def qlinear_matmul(e: Emitter, n: Node) -> None:
    e.node("QLinearMatMul", n.operands)


# ------------------------------------------------------------------------------------- onnxruntime's own, where asked for

_PLAIN = {
    "ort.qlinear_add": "QLinearAdd",
    "ort.qlinear_mul": "QLinearMul",
    "ort.qlinear_sigmoid": "QLinearSigmoid",
    "ort.qlinear_leaky_relu": "QLinearLeakyRelu",
    "ort.qlinear_concat": "QLinearConcat",
    "ort.qlinear_global_average_pool": "QLinearGlobalAveragePool",
}


@emits(*_PLAIN)
def qlinear_plain(e: Emitter, n: Node) -> None:
    e.node(_PLAIN[n.name], n.operands, domain=DOMAIN, **n.attrs.plain)


@emits("ort.qlinear_softmax")
def qlinear_softmax(e: Emitter, n: Node) -> None:
    e.node("QLinearSoftmax", n.operands, domain=DOMAIN, axis=n.attr("axis"), opset=13)


@emits("ort.qlinear_average_pool")
def qlinear_average_pool(e: Emitter, n: Node) -> None:
    e.node(
        "QLinearAveragePool",
        n.operands,
        domain=DOMAIN,
        kernel_shape=n.attr("kernel_shape"),
        ceil_mode=int(n.attr("ceil_mode")),
        count_include_pad=int(n.attr("count_include_pad")),
        **window(e, n, dilations=False),
    )


@emits("ort.qgemm")
def qgemm(e: Emitter, n: Node) -> None:
    e.node("QGemm", n.operands, domain=DOMAIN, alpha=n.attr("alpha"), transB=int(n.attr("transB")))


@emits("ort.matmul_nbits")
def matmul_nbits(e: Emitter, n: Node) -> None:
    a, weights, scales, zeros, bias = (*n.operands, None, None)[:5]
    e.node("MatMulNBits", [a, weights, scales, zeros, None, bias], domain=DOMAIN, **n.attrs.plain)
