"""quantized_decomposed operators, the form in which PT2E quantisation leaves a program, and fake quantisation.

torch multiplies by the reciprocal of the scale where the IR divides by it: values within an ULP of a tie may fall on its
other side. Integers that are stored stay exactly what they are. Must not import torch.
"""

from __future__ import annotations

import numpy as np

from ...ir.errors import InvalidModel, Unsupported
from ...ir.ops.quant import STORED
from ...ir.types import F32, I8, I16, I32, U8, DType
from ...ir.value import Value
from .context import Context
from .registry import Dtype, Float, Int, Tensor, handles

_LIMITS: dict[DType, tuple[int, int]] = {
    dtype: (int(np.iinfo(dtype.numpy).min), int(np.iinfo(dtype.numpy).max)) for dtype in (U8, I8, I16, I32)
}


def _checked(dtype: DType, low: int, high: int) -> tuple[int, int]:
    """The range that `dtype` holds. Raises Unsupported for a dtype without one, InvalidModel for an impossible range."""
    if dtype not in _LIMITS or dtype not in STORED:
        raise Unsupported(f"quantised values of dtype {dtype}")
    least, most = _LIMITS[dtype]
    if not least <= low < high <= most:
        raise InvalidModel(f"the range {low} to {high} is none of {dtype}")
    return least, most


def _quantized(c: Context, x: Value, scale: Value, zero: Value | None, low: int, high: int, dtype: DType) -> Value:
    least, most = _checked(dtype, low, high)
    y = c.b.quantize(c.as_float(x), scale, zero, to=dtype)
    if (low, high) == (least, most):
        return y
    return c.b.clip(y, c.const(low, dtype), c.const(high, dtype))


def _scale(c: Context, value: float) -> Value:
    return c.const(value, F32)


def _zero(c: Context, value: int, dtype: DType) -> Value | None:
    least, most = _LIMITS.get(dtype, (0, 0))
    if not least <= value <= most:
        raise InvalidModel(f"zero point {value} is not in the range of {dtype}")
    return c.const(value, dtype) if value else None


def _one_number(value: Value, what: str) -> np.ndarray:
    """A constant of one element. Raises Unsupported for a computed one."""
    if not value.is_const or value.array().size != 1:
        raise Unsupported(f"a {what} that is computed", hint="export a program whose quantisation is static")
    return value.array().reshape(())


def _vector(c: Context, value: Value, x: Value, axis: int, dtype: DType) -> Value:
    """A vector as an operand of x's rank, its entries along `axis`."""
    rank = c.rank(x)
    if value.rank != 1 or not -rank <= axis < rank:
        raise InvalidModel(f"quantisation parameters of rank {value.rank} along axis {axis} of a tensor of rank {rank}")
    shape = [1] * rank
    shape[axis] = -1
    if not value.is_const:
        return c.b.reshape(c.cast(value, dtype), shape)
    array = value.array()
    least, most = _LIMITS.get(dtype, (-np.inf, np.inf))
    if dtype is not F32 and array.size and not (least <= array.min() and array.max() <= most):
        raise InvalidModel(f"zero points outside of the range of {dtype}")
    return c.b.const(array.astype(dtype.numpy).reshape(shape), dtype)


def _zeros(c: Context, value: Value | None, x: Value, axis: int, dtype: DType) -> Value | None:
    if value is None or (value.is_const and not value.array().any()):
        return None
    return _vector(c, value, x, axis, dtype)


@handles("quantized_decomposed.quantize_per_tensor.default")
def quantize_per_tensor(
    c: Context, input: Tensor, scale: Float, zero_point: Int, quant_min: Int, quant_max: Int, dtype: Dtype
) -> Value:
    return _quantized(c, input, _scale(c, scale), _zero(c, zero_point, dtype), quant_min, quant_max, dtype)


@handles("quantized_decomposed.quantize_per_tensor.tensor")
def quantize_per_tensor_by_values(
    c: Context, input: Tensor, scale: Tensor, zero_point: Tensor, quant_min: Int, quant_max: Int, dtype: Dtype
) -> Value:
    step, zero = float(_one_number(scale, "scale")), int(_one_number(zero_point, "zero point"))
    return quantize_per_tensor(c, input, step, zero, quant_min, quant_max, dtype)


@handles("quantized_decomposed.dequantize_per_tensor.default")
def dequantize_per_tensor(
    c: Context, input: Tensor, scale: Float, zero_point: Int, quant_min: Int, quant_max: Int, dtype: Dtype,
    out_dtype: Dtype | None = None,
) -> Value:  # fmt: skip
    _checked(dtype, quant_min, quant_max)
    return c.b.dequantize(input, _scale(c, scale), _zero(c, zero_point, dtype), to=out_dtype or F32)


@handles("quantized_decomposed.dequantize_per_tensor.tensor")
def dequantize_per_tensor_by_values(
    c: Context, input: Tensor, scale: Tensor, zero_point: Tensor, quant_min: Int, quant_max: Int, dtype: Dtype,
    out_dtype: Dtype | None = None,
) -> Value:  # fmt: skip
    step, zero = float(_one_number(scale, "scale")), int(_one_number(zero_point, "zero point"))
    return dequantize_per_tensor(c, input, step, zero, quant_min, quant_max, dtype, out_dtype)


@handles("quantized_decomposed.quantize_per_channel")
def quantize_per_channel(
    c: Context, input: Tensor, scales: Tensor, zero_points: Tensor, axis: Int, quant_min: Int, quant_max: Int,
    dtype: Dtype,
) -> Value:  # fmt: skip
    zeros = _zeros(c, zero_points, input, axis, dtype)
    return _quantized(c, input, _vector(c, scales, input, axis, F32), zeros, quant_min, quant_max, dtype)


@handles("quantized_decomposed.dequantize_per_channel")
def dequantize_per_channel(
    c: Context, input: Tensor, scales: Tensor, zero_points: Tensor | None, axis: Int, quant_min: Int, quant_max: Int,
    dtype: Dtype, out_dtype: Dtype | None = None,
) -> Value:  # fmt: skip
    _checked(dtype, quant_min, quant_max)
    zeros = _zeros(c, zero_points, input, axis, dtype)
    return c.b.dequantize(input, _vector(c, scales, input, axis, F32), zeros, to=out_dtype or F32)


@handles("aten.fake_quantize_per_tensor_affine.default")
def fake_quantize_per_tensor(
    c: Context, self: Tensor, scale: Float, zero_point: Int, quant_min: Int, quant_max: Int
) -> Value:
    dtype = _holding(quant_min, quant_max)
    step, zero = _scale(c, scale), _zero(c, zero_point, dtype)
    return c.b.dequantize(_quantized(c, self, step, zero, quant_min, quant_max, dtype), step, zero, to=F32)


@handles("aten.fake_quantize_per_channel_affine")
def fake_quantize_per_channel(
    c: Context, self: Tensor, scale: Tensor, zero_point: Tensor, axis: Int, quant_min: Int, quant_max: Int
) -> Value:
    dtype = _holding(quant_min, quant_max)
    steps, zeros = _vector(c, scale, self, axis, F32), _zeros(c, zero_point, self, axis, dtype)
    return c.b.dequantize(_quantized(c, self, steps, zeros, quant_min, quant_max, dtype), steps, zeros, to=F32)


def _holding(low: int, high: int) -> DType:
    """The smallest dtype with this range. Raises InvalidModel when there is none."""
    for dtype in (I8, U8, I16):
        least, most = _LIMITS[dtype]
        if least <= low < high <= most:
            return dtype
    raise InvalidModel(f"a quantised range from {low} to {high}")


# ------------------------------------------------------------------------------- the same in what anyir itself has written


@handles("anyir.quantize_per_tensor")
def written_quantize_per_tensor(
    c: Context, x: Tensor, scale: Float, zero_point: Int, low: Int, high: Int, dtype: Dtype
) -> Value:
    return quantize_per_tensor(c, x, scale, zero_point, low, high, dtype)


@handles("anyir.dequantize_per_tensor")
def written_dequantize_per_tensor(c: Context, x: Tensor, scale: Float, zero_point: Int, low: Int, high: Int) -> Value:
    return dequantize_per_tensor(c, x, scale, zero_point, low, high, x.dtype)


@handles("anyir.quantize_per_channel")
def written_quantize_per_channel(
    c: Context, x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: Int, low: Int, high: Int, dtype: Dtype
) -> Value:
    return _quantized(c, x, scale, zero_point, low, high, dtype)


@handles("anyir.dequantize_per_channel")
def written_dequantize_per_channel(
    c: Context, x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: Int, low: Int, high: Int
) -> Value:
    return c.b.dequantize(x, scale, zero_point, to=F32)
