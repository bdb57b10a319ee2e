"""Torch expressions of quantize and dequantize: quantized_decomposed operators, the form that PT2E quantisation leaves and
torch's compilers recognise. Parameters that are computed, blocks, and other dtypes stay arithmetic."""

from __future__ import annotations

import ml_dtypes

from ...ir.types import F32, I8, I16, I32, U8, DType
from ...ir.value import Node, Value
from .calls import Call, Refusal, number, only, rank_of, row, shape_of

_STORED = frozenset({U8, I8, I16, I32})


def _bounds(dtype: DType) -> tuple[int, int]:
    if dtype not in _STORED:
        raise Refusal(f"torch's quantisation has no {dtype}")
    info = ml_dtypes.iinfo(dtype.numpy)
    return int(info.min), int(info.max)


def _axis(x: Value, scale: Value) -> int:
    """The one axis along which the scale has an entry for every index."""
    shape = shape_of(x)
    axes = [i for i, size in enumerate(scale.shape or ()) if size != 1]
    if not scale.is_const or len(scale.shape or ()) != len(shape) or len(axes) > 1:
        raise Refusal("torch quantises with constant scales, per tensor or along one axis")
    if axes and scale.shape[axes[0]] != shape[axes[0]]:  # type: ignore[index]
        raise Refusal("torch quantises with whole channels, not with blocks")
    return axes[0] if axes else 0


def _call(node: Node, name: str, stored: DType, *last: object) -> Call:
    x, scale, zero = (*node.operands, None)[:3]
    assert x is not None and scale is not None
    if scale.dtype is not F32:
        raise Refusal("torch's scales are f32")
    low, high = _bounds(stored)
    if rank_of(scale) == 0:
        step, offset = number(scale), 0 if zero is None else number(zero)
        if step is None or offset is None:
            raise Refusal("its scale or zero point is computed")
        return Call(f"helpers.{name}_per_tensor", x, step, offset, low, high, *last)
    axis = _axis(x, scale)
    if zero is not None and (not zero.is_const or zero.shape != scale.shape):
        raise Refusal("its zero point is computed, or of another shape than its scale")
    return Call(f"helpers.{name}_per_channel", x, scale, zero, axis, low, high, *last)


@row("quantize")
def quantize(node: Node) -> Call:
    only(node, "to")
    if node.operands[0].dtype is not F32:
        raise Refusal("torch quantises f32")
    return _call(node, "quantize", node.attr("to"), node.attr("to"))


@row("dequantize")
def dequantize(node: Node) -> Call:
    only(node, "to")
    x = node.operands[0]
    if node.attr("to") is not F32 or x.dtype is None:
        raise Refusal("torch dequantises to f32")
    return _call(node, "dequantize", x.dtype)
