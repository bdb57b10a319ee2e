"""quantize, dequantize, requantize and dynamic_quantize as arithmetic, rounding as ONNX prescribes. Knows no target."""

from __future__ import annotations

from typing import Any

import ml_dtypes

from ...ir.builder import Builder
from ...ir.types import F32, F64, U8, DType
from ...ir.value import Node, Value
from .rules import Declined, decomposes, scalar, static


def spread_blocks(b: Builder, parameter: Value, x: Value, block_size: int = 0) -> Any:
    """A scale or zero point whose blocks are repeated until it broadcasts against `x`, or Declined."""
    if parameter.rank == 0:
        return parameter
    for axis, have in enumerate(parameter.shape):
        want = x.shape[axis]
        if have == 1 or have == want:
            continue
        if not static(*parameter.shape):
            return Declined("the shape of the scale is not known")
        if type(want) is not int or have == 0 or (want % have and not block_size):
            return Declined("blocks of a size that is not known")
        size, shape = block_size or want // have, parameter.shape
        apart = b.unsqueeze(parameter, (axis + 1,))
        wide = b.expand(apart, (*shape[: axis + 1], size, *shape[axis + 1 :]))
        parameter = b.reshape(wide, (*shape[:axis], have * size, *shape[axis + 1 :]))
        if have * size != want:
            parameter = b.slice(parameter, (0,), (want,), (axis,))
    return parameter


def _limits(to: DType) -> tuple[int, int]:
    info = ml_dtypes.iinfo(to.numpy)
    return int(info.min), int(info.max)


def _saturated(b: Builder, y: Value, to: DType) -> Value:
    """Integral floats clipped to the range of `to` and cast."""
    low, high = _limits(to)
    return b.cast(b.clip(y, scalar(b, low, y), scalar(b, high, y)), to=to)


@decomposes("quantize")
def quantize(b: Builder, node: Node) -> Value | Declined:
    """round(x / scale) + zero_point, saturated; the quotient in the wider float type of both."""
    x, scale, zero = (*node.operands, None)[:3]
    to = node.attr("to")
    if not to.is_int or to.bits > 16:
        return Declined(f"quantising to {to} is not decomposed")
    block = node.attr("block_size")
    wide = x.dtype if x.dtype.is_float and x.dtype.bits >= scale.dtype.bits else scale.dtype
    scale = spread_blocks(b, _cast(b, scale, wide), x, block)
    if isinstance(scale, Declined):
        return scale
    compute = wide if wide in (F32, F64) else F32
    y = b.round(_cast(b, b.div(_cast(b, x, wide), scale), compute))
    if zero is not None:
        zero = spread_blocks(b, _cast(b, zero, compute), x, block)
        if isinstance(zero, Declined):
            return zero
        y = b.add(y, zero)
    return _saturated(b, y, to)


def _cast(b: Builder, x: Value, to: DType) -> Value:
    """`x` in `to`; a single number that is known stays one."""
    if x.dtype is to:
        return x
    if x.is_const and x.rank == 0 and to.is_float:
        return b.const(x.array().astype(to.numpy), to)
    return b.cast(x, to=to)


@decomposes("dequantize")
def dequantize(b: Builder, node: Node) -> Value | Declined:
    """(x - zero_point) * scale; the difference in i32 where x has integers that f32 has not."""
    x, scale, zero = (*node.operands, None)[:3]
    to, block = node.attr("to"), node.attr("block_size")
    compute = F64 if F64 in (to, scale.dtype) else F32
    scale = spread_blocks(b, _cast(b, scale, compute), x, block)
    if isinstance(scale, Declined):
        return scale
    exact = x.dtype.is_int and x.dtype.bits >= 32
    if zero is not None:
        zero = spread_blocks(b, zero if exact else _cast(b, zero, compute), x, block)
        if isinstance(zero, Declined):
            return zero
    if exact and zero is not None:
        y = _cast(b, b.sub(x, zero), compute)
    else:
        y = _cast(b, x, compute)
        y = y if zero is None else b.sub(y, zero)
    return _cast(b, b.mul(y, scale), to)


@decomposes("requantize")
def requantize(b: Builder, node: Node) -> Value | Declined:
    """round(x * multiplier) + zero_point in f32, saturated. Fixed-point rounding is another arithmetic."""
    x, scale, zero = (*node.operands, None)[:3]
    if node.attr("rounding") != "half_even":
        return Declined("fixed-point rounding is not decomposed")
    scale = spread_blocks(b, scale, x)
    if isinstance(scale, Declined):
        return scale
    y = b.round(b.mul(b.cast(x, to=F32), _cast(b, scale, F32)))
    if zero is not None:
        zero = spread_blocks(b, zero, x)
        if isinstance(zero, Declined):
            return zero
        y = b.add(y, _cast(b, zero, F32))
    return _saturated(b, y, node.attr("to"))


@decomposes("dynamic_quantize")
def dynamic_quantize(b: Builder, node: Node) -> tuple[Value, ...]:
    """ONNX's function body: the range widened to hold 0, in 255 steps."""
    (x,) = node.operands
    x = _cast(b, x, F32)
    axes = tuple(range(x.rank))
    zero, steps = scalar(b, 0, x), scalar(b, 255, x)
    high = b.max(b.reduce_max(x, axes, keepdims=False), zero)
    low = b.min(b.reduce_min(x, axes, keepdims=False), zero)
    scale = b.div(b.sub(high, low), steps)
    safe = b.where(b.equal(scale, zero), scalar(b, 1, x), scale)
    offset = b.round(b.clip(b.sub(zero, b.div(low, safe)), zero, steps))
    y = b.clip(b.add(b.round(b.div(x, safe)), offset), zero, steps)
    return b.cast(y, to=U8), safe, b.cast(offset, to=U8)
