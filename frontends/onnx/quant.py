"""Quantisation. ONNX gives scales per tensor, along `axis`, or in blocks; the IR aligns them with the data's rank."""

from __future__ import annotations

import math
from typing import Any

from ...formats.onnx import dtypes
from ...ir.dims import dim_eq
from ...ir.errors import InvalidModel
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
        return single(c, parameter)
    rank = rank_of(x, n)
    if not -rank <= axis < rank:
        raise n.invalid(f"axis {axis} is outside of rank {rank}")
    axis %= rank
    if parameter.is_const:
        return reshaped(c, parameter, (1,) * axis + tuple(parameter.shape) + (1,) * (rank - axis - 1))  # type: ignore[arg-type]
    return c.b.unsqueeze(parameter, tuple(i for i in range(rank) if i != axis))


def reshaped(c: Importer, value: Value, shape: tuple[int, ...]) -> Value:
    """A constant of another shape; a weight of its own, derived from the old one's."""
    if value.shape == shape:
        return value
    weight, sizes = value.weight, (value.array().size, math.prod(shape))
    if -1 not in shape and sizes[0] != sizes[1]:
        raise InvalidModel(f"{sizes[0]} scales or zero points, expected {sizes[1]}")
    array = value.array().reshape(shape)
    if weight.key.startswith("const"):  # type: ignore[union-attr]
        return c.b.const(array)
    return c.b.const(array, key=f"{weight.key}.aligned", role="const", origin=f"reshape({weight.key})")  # type: ignore[union-attr]


def single(c: Importer, parameter: Value | None) -> Value | None:
    """A vector of one number as rank 0; anything else as it is."""
    if parameter is None or parameter.shape != (1,):
        return parameter
    return reshaped(c, parameter, ()) if parameter.is_const else c.b.squeeze(parameter, (0,))


def check_scale(c: Importer, n: Call, scale: Value) -> None:
    """ONNX leaves scales of 0, negative or not finite open: they are kept, with a note."""
    import numpy as np

    if scale.is_const:
        values = np.asarray(scale.array(), np.float64)
        if not (np.isfinite(values) & (values > 0)).all():
            c.note(n, "a quantisation scale is not a positive finite number")


def block_of(n: Call, x: Value, scale: Value, axis: int) -> int:
    """block_size repeats what the shapes say (then 0), unless the last block is shorter, or a size is not known.

    Scales along an axis are blocks of 1 where it is not known that there is one for each element.
    """
    size = n.attr("block_size", 0)
    if x.shape is None or scale.shape is None:
        return size
    if not size:
        along = len(scale.shape) == 1 and scale.shape != (1,) and -len(x.shape) <= axis < len(x.shape)
        return int(along and dim_eq(scale.shape[0], x.shape[axis]) is not True)
    if size < 0 or len(x.shape) != len(scale.shape) or not -len(x.shape) <= axis < len(x.shape):
        raise n.invalid(f"blocks of {size} along axis {axis} of data {x.type} with scales {scale.type}")
    have, want = scale.shape[axis], x.shape[axis]
    if type(have) is int and type(want) is int:
        if have != -(-want // size):
            raise n.invalid(f"{want} elements in {have} blocks of {size}")
        return 0 if have in (1, want) or have * size == want else size
    return size


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
    block = block_of(n, x, scale, axis)
    if n.attr("precision"):
        precision = dtypes.from_code(n.attrs["precision"], n.label)
        x, scale = (v if v.dtype is precision else c.b.cast(v, to=precision) for v in (x, scale))
    return c.b.quantize(
        x,
        aligned(c, n, x, scale, axis),
        aligned(c, n, x, zero, axis),
        to=_code(n),
        saturate=bool(n.attr("saturate", 1)),
        block_size=block,
    )


@handles("DequantizeLinear")
def dequantize(c: Importer, n: Call) -> Any:
    x, scale, zero = n.take(3)
    axis = n.attr("axis", 1)
    check_scale(c, n, scale)
    block = block_of(n, x, scale, axis)
    code = n.attr("output_dtype", 0)
    to = dtypes.from_code(code, n.label) if code else known_dtype(scale)
    scale, zero = aligned(c, n, x, scale, axis), aligned(c, n, x, zero, axis)
    return c.b.dequantize(x, scale, zero, to=to, block_size=block)


@handles("DynamicQuantizeLinear")
def dynamic_quantize(c: Importer, n: Call) -> Any:
    return c.b.dynamic_quantize(n.x)


@handles("QLinearMatMul")
def qlinear_matmul(c: Importer, n: Call) -> Any:
    return c.b.qlinear_matmul(*n.take(8))


@handles("QLinearConv")
def qlinear_conv(c: Importer, n: Call) -> Any:
    from .conv import check_kernel, spatial_rank, window

    x, w = n.inputs[0], n.inputs[3]
    check_kernel(n, w)  # type: ignore[arg-type]
    return c.b.qlinear_conv(*n.take(9), groups=n.attr("group", 1), **window(n, spatial_rank(n, w, x)))
