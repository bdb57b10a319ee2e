"""Quantisation. ONNX gives scales per tensor, along `axis`, or in blocks; the IR aligns them with the data's rank."""

from __future__ import annotations

from typing import Any

from ...formats.onnx import dtypes
from ...ir.graph import Value
from ...ir.types import U8, DType
from .importer import Call, Importer, known_dtype, rank_of
from .registry import handles


def aligned(c: Importer, n: Call, x: Value, parameter: Value | None, axis: int) -> Value | None:
    """A scale or zero point as rank 0, or of the rank of `x`: a vector gets size-1 axes around `axis`."""
    if parameter is None or parameter.rank == 0:
        return parameter
    if parameter.rank is None:
        raise n.refuse("the rank of the scale is not known")
    if parameter.rank > 1:
        return parameter
    if parameter.shape == (1,):
        return c.b.squeeze(parameter, (0,)) if not parameter.is_const else _reshaped(c, parameter, ())
    rank = rank_of(x, n)
    if not -rank <= axis < rank:
        raise n.invalid(f"axis {axis} is outside of rank {rank}")
    axis %= rank
    if parameter.is_const:
        return _reshaped(c, parameter, (1,) * axis + tuple(parameter.shape) + (1,) * (rank - axis - 1))  # type: ignore[arg-type]
    return c.b.unsqueeze(parameter, tuple(i for i in range(rank) if i != axis))


def _reshaped(c: Importer, value: Value, shape: tuple[int, ...]) -> Value:
    """A constant of another shape; a weight of its own, derived from the old one's."""
    if value.shape == shape:
        return value
    weight = value.weight
    array = value.array().reshape(shape)
    if weight.key.startswith("const"):  # type: ignore[union-attr]
        return c.b.const(array)
    return c.b.const(array, key=f"{weight.key}.aligned", role="const", origin=f"reshape({weight.key})")  # type: ignore[union-attr]


def check_scale(c: Importer, n: Call, scale: Value) -> None:
    """ONNX leaves scales of 0, negative or not finite open: they are kept, with a note."""
    import numpy as np

    if scale.is_const:
        values = np.asarray(scale.array(), np.float64)
        if not (np.isfinite(values) & (values > 0)).all():
            c.note(n, "a quantisation scale is not a positive finite number")


def check_blocks(n: Call, x: Value, scale: Value, axis: int) -> None:
    """block_size repeats what the shapes say; a last block that is shorter cannot be said by shapes alone."""
    size = n.attr("block_size", 0)
    if not size or x.shape is None or scale.shape is None:
        return
    if len(x.shape) != len(scale.shape) or not -len(x.shape) <= axis < len(x.shape):
        raise n.invalid(f"blocks along axis {axis} of data {x.type} with scales {scale.type}")
    have, want = scale.shape[axis], x.shape[axis]
    if type(have) is int and type(want) is int and have * size != want:
        raise n.refuse(f"{want} elements in {have} blocks of {size}: the last block would be shorter")


def _code(n: Call) -> DType:
    """The quantised dtype: of the zero point, else `output_dtype`, else uint8."""
    zero = n.take(3)[2]
    code = n.attr("output_dtype", 0)
    declared = dtypes.from_code(code, n.label) if code else None
    if zero is not None:
        if declared not in (None, zero.dtype):
            raise n.invalid(f"output_dtype {declared} contradicts the zero point's {zero.dtype}")
        return zero.dtype  # type: ignore[return-value]
    return declared or U8


@handles("QuantizeLinear")
def quantize(c: Importer, n: Call) -> Any:
    x, scale, zero = n.take(3)
    axis = n.attr("axis", 1)
    check_scale(c, n, scale)
    check_blocks(n, x, scale, axis)
    if n.attr("precision"):
        precision = dtypes.from_code(n.attrs["precision"], n.label)
        x, scale = (v if v.dtype is precision else c.b.cast(v, to=precision) for v in (x, scale))
    return c.b.quantize(
        x,
        aligned(c, n, x, scale, axis),
        aligned(c, n, x, zero, axis),
        to=_code(n),
        saturate=bool(n.attr("saturate", 1)),
    )


@handles("DequantizeLinear")
def dequantize(c: Importer, n: Call) -> Any:
    x, scale, zero = n.take(3)
    axis = n.attr("axis", 1)
    check_scale(c, n, scale)
    check_blocks(n, x, scale, axis)
    code = n.attr("output_dtype", 0)
    to = dtypes.from_code(code, n.label) if code else known_dtype(scale)
    return c.b.dequantize(x, aligned(c, n, x, scale, axis), aligned(c, n, x, zero, axis), to=to)


@handles("DynamicQuantizeLinear")
def dynamic_quantize(c: Importer, n: Call) -> Any:
    return c.b.dynamic_quantize(n.x)


@handles("QLinearMatMul")
def qlinear_matmul(c: Importer, n: Call) -> Any:
    """Dequantise, multiply, quantise: sums are exact in the reference kernels, which round once at the end."""
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = n.take(8)

    def real(x: Value, scale: Value, zero: Value, axis: int) -> Value:
        return c.b.dequantize(x, aligned(c, n, x, scale, axis), aligned(c, n, x, zero, axis), to=known_dtype(scale))

    product = c.b.matmul(real(a, a_scale, a_zero, -2), real(b, b_scale, b_zero, -1))
    scale, zero = aligned(c, n, product, y_scale, -2), aligned(c, n, product, y_zero, -2)
    return c.b.quantize(product, scale, zero, to=known_dtype(y_zero))


@handles("QLinearConv")
def qlinear_conv(c: Importer, n: Call) -> Any:
    """The bias is i32 in units of x_scale * w_scale."""
    from .conv import check_kernel, spatial_rank, window

    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = n.take(9)
    check_kernel(n, w)

    def real(value: Value, scale: Value, zero: Value) -> Value:
        return c.b.dequantize(
            value, aligned(c, n, value, scale, 0), aligned(c, n, value, zero, 0), to=known_dtype(scale)
        )

    real_bias = None
    if bias is not None:
        unit = c.b.mul(aligned(c, n, x, x_scale, 0), w_scale)
        real_bias = c.b.mul(c.b.cast(bias, to=known_dtype(x_scale)), unit)
    attrs = window(n, spatial_rank(n, w, x))
    y = c.b.conv(real(x, x_scale, x_zero), real(w, w_scale, w_zero), real_bias, groups=n.attr("group", 1), **attrs)
    return c.b.quantize(y, aligned(c, n, y, y_scale, 1), aligned(c, n, y, y_zero, 1), to=known_dtype(y_zero))
