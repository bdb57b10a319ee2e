"""Quantisation. The IR aligns scales with the data's rank; ONNX wants scalars, vectors with an axis, or blocks."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...formats.onnx import dtypes
from ...ir.graph import Node, Value
from ...ir.types import I32
from .emitter import Emitter, Literal, Temp
from .registry import emits


class Grain(NamedTuple):
    """How finely a scale speaks: over the whole tensor, along `axis`, or for blocks of `block` along it."""

    axis: int | None
    block: int | None


def grain(e: Emitter, x: Value, scale: Value) -> Grain:
    """Read from the shapes. Raises Refusal where ONNX has no word for it."""
    if scale.shape is None or (scale.shape and x.shape is None):
        raise e.refuse("the scale's shape is not known")
    wide = [i for i, d in enumerate(scale.shape) if d != 1]
    if not wide:
        return Grain(None, None)
    if len(wide) == 1 and scale.shape[wide[0]] == x.shape[wide[0]]:  # type: ignore[index]
        return Grain(wide[0], None)
    blocked = [i for i, d in enumerate(scale.shape) if d != x.shape[i]]  # type: ignore[index]
    sizes = [(scale.shape[i], x.shape[i]) for i in blocked]  # type: ignore[index]
    if len(blocked) != 1 or not all(type(d) is int for pair in sizes for d in pair):
        raise e.refuse(f"scales of shape {list(scale.shape)} for data of shape {list(x.shape)}")  # type: ignore[arg-type]
    e.needs(21, "quantisation in blocks")
    (have, want) = sizes[0]
    return Grain(blocked[0], want // have)  # type: ignore[operator, arg-type]


def parameter(e: Emitter, value: Value | None, how: Grain) -> Value | Literal | Temp | None:
    """A scale or zero point in the shape that ONNX wants for `how`."""
    if value is None or how.block is not None:
        return value
    shape: tuple[int, ...] = () if how.axis is None else (-1,)
    if value.rank == len(shape):
        return value
    if value.is_const:
        key = value.weight.key.removesuffix(".aligned")  # type: ignore[union-attr]
        return Literal(value.array().reshape(shape), value.dtype, key)  # type: ignore[arg-type]
    made_by = value.node
    if made_by is not None and made_by.name == "unsqueeze" and made_by.operands[0].rank == len(shape):  # type: ignore[union-attr]
        return made_by.operands[0]  # the reader aligned it
    return e.temp("Reshape", [value, e.ints(shape)], value.dtype)


def _operands(e: Emitter, n: Node) -> tuple[list[Any], dict[str, Any]]:
    x, scale, zero = (*n.operands, None)[:3]
    how = grain(e, x, scale)  # type: ignore[arg-type]
    inputs = [x, parameter(e, scale, how), parameter(e, zero, how)]
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
    import numpy as np

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
    elif e.opset >= 28:
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
