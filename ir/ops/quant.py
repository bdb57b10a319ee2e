"""quantize, dequantize, requantize, dynamic_quantize.

Scale and zero point have rank 0 or the data's rank. Along an axis their size is 1, the data's, or a divisor of it (then
each entry serves a block of data dim / scale dim): per tensor, per axis and per block are one encoding. Only a last block
that is shorter than the others needs the attribute block_size; 0 leaves it to the shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import dim_eq
from ..errors import TypeInferError
from ..opdef import PURE, Axis, AxisMap, OpDef, Sample, attr, op, operand, optional
from ..types import (
    BF16,
    F4E2M1,
    F6E2M3,
    F6E3M2,
    F8E4M3FN,
    F8E4M3FNUZ,
    F8E5M2,
    F8E5M2FNUZ,
    F8E8M0,
    F16,
    F32,
    F64,
    I2,
    I4,
    I8,
    I16,
    I32,
    U2,
    U4,
    U8,
    U16,
    DType,
    TensorType,
)
from . import rules

if TYPE_CHECKING:
    from ..value import Value

REAL_FLOAT = frozenset({F16, BF16, F32, F64})
SCALE = REAL_FLOAT | {F8E8M0}
STORED = frozenset(
    {I2, I4, I8, I16, I32, U2, U4, U8, U16, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F4E2M1, F6E2M3, F6E3M2}
)
INTEGER = frozenset({I8, I16, U8, U16, I4, U4, I32})


def check_parameter(value: Value | None, data: Value, what: str, block: int = 0) -> None:
    """Rank 0 or the data's rank, sizes that divide the data's (blocks of `block` cover them). Raises TypeInferError."""
    if value is None or value.shape is None or data.shape is None or len(value.shape) == 0:
        return
    if len(value.shape) != len(data.shape):
        raise TypeInferError(
            f"{what} of shape {rules.show(value.shape)} has neither rank 0 nor the data's rank {len(data.shape)}"
        )
    for have, want in zip(value.shape, data.shape, strict=True):
        if not (isinstance(have, int) and isinstance(want, int)) or have in (1, want):
            continue
        if (have != -(-want // block)) if block else (have == 0 or want % have):
            size = f" of {block}" if block else ""
            raise TypeInferError(
                f"{what} of shape {rules.show(value.shape)} does not divide data {rules.show(data.shape)} into blocks{size}"
            )


def quant_axes(data: Value, *parameters: Value | None) -> AxisMap | None:
    """Axes pass; those of parameters with size 1 are broadcast, blocked ones are pinned everywhere."""
    shape = data.shape
    shapes = [None if p is None else p.shape for p in parameters]
    if shape is None or any(p is not None and p.shape is None for p in parameters):
        return None
    blocked = {i for own in shapes for i, have in enumerate(own or ()) if _is_blocked(have, shape[i])}
    row = rules.passing(len(shape), blocked)
    rows: list[Any] = [row]
    for own in shapes:
        made = None if own is None else tuple(_parameter_axis(row[i], d, shape[i]) for i, d in enumerate(own))
        rows.append(made)
    return AxisMap(tuple(rows), (row,))


def _is_blocked(have: Any, want: Any) -> bool:
    return have != 1 and dim_eq(have, want) is not True


def _parameter_axis(axis: Axis | None, have: Any, want: Any) -> Axis | None:
    return Axis(axis.label, "broadcast") if axis is not None and have == 1 and want != 1 else axis


def _check_block(size: int) -> None:
    if size < 0:
        raise TypeInferError(f"block_size is {size}; expected 0 (as the shapes say) or more")


def _same_dtype(zero_point: Value | None, stored: DType | None) -> None:
    if (
        zero_point is not None
        and zero_point.dtype is not None
        and stored is not None
        and zero_point.dtype is not stored
    ):
        raise TypeInferError(f"zero_point has dtype {zero_point.dtype}, the quantised values {stored}; they must agree")


@op
class Quantize(OpDef):
    """round_half_even(x / scale) + zero_point, saturated to `to`; float types just round (ONNX QuantizeLinear-25).

    `saturate` False lets fp8 values overflow to infinity or NaN; integers always saturate.
    """

    x = operand(REAL_FLOAT | {I32})
    scale = operand(SCALE)
    zero_point = optional(STORED)
    to = attr(DType)
    saturate = attr(bool, True)
    block_size = attr(int, 0)

    def infer(self, x, scale, zero_point, *, to, block_size, **_):
        if to not in STORED:
            raise TypeInferError(f"{to} is no quantised type")
        _same_dtype(zero_point, to)
        _check_block(block_size)
        check_parameter(scale, x, "scale", block_size)
        check_parameter(zero_point, x, "zero_point", block_size)
        return TensorType(to, x.shape)

    def axes(self, x, scale, zero_point, **_):
        return quant_axes(x, scale, zero_point)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for to in (U8, I8, I16, I4, U4, I2, F8E4M3FN, F8E5M2):
            x = (rng.standard_normal((2, 3, 4)) * 5).astype(np.float32)
            yield Sample((x, np.array(0.11, np.float32), _zero_point(rng, (), to)), {"to": to})
        x = (rng.standard_normal((2, 3, 8)) * 5).astype(np.float32)
        for shape in ((1, 3, 1), (2, 3, 4), (1, 1, 2)):
            scale = rng.uniform(0.01, 0.2, shape).astype(np.float32)
            yield Sample((x, scale, _zero_point(rng, shape, I8)), {"to": I8})
        scale = rng.uniform(0.01, 0.2, (2, 3, 3)).astype(np.float32)
        yield Sample((x, scale, _zero_point(rng, scale.shape, I4)), {"to": I4, "block_size": 3})
        yield Sample((x * 1e6, np.array(1, np.float32), None), {"to": F8E4M3FN, "saturate": False})
        yield Sample((x.astype(np.float16), np.array(0.07, np.float16), None), {"to": U8})


@op
class Dequantize(OpDef):
    """(x - zero_point) * scale in `to` (ONNX DequantizeLinear-25)."""

    x = operand(STORED)
    scale = operand(SCALE)
    zero_point = optional(STORED)
    to = attr(DType)
    block_size = attr(int, 0)

    def infer(self, x, scale, zero_point, *, to, block_size):
        if to not in REAL_FLOAT:
            raise TypeInferError(f"dequantize to {to}; expected f16, bf16, f32 or f64")
        _same_dtype(zero_point, x.dtype)
        _check_block(block_size)
        check_parameter(scale, x, "scale", block_size)
        check_parameter(zero_point, x, "zero_point", block_size)
        return TensorType(to, x.shape)

    def axes(self, x, scale, zero_point, **_):
        return quant_axes(x, scale, zero_point)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for stored in (U8, I8, I32, I4, U4, U2, F8E4M3FN):
            x = _stored(rng, (2, 3, 4), stored)
            yield Sample((x, np.array(0.11, np.float32), _zero_point(rng, (), stored)), {"to": F32})
        x = _stored(rng, (2, 3, 8), I8)
        for shape in ((1, 3, 1), (2, 3, 4), (1, 1, 2)):
            scale = rng.uniform(0.01, 0.2, shape).astype(np.float32)
            yield Sample((x, scale, _zero_point(rng, shape, I8)), {"to": F32})
        scale = rng.uniform(0.01, 0.2, (2, 3, 3)).astype(np.float32)
        yield Sample((x, scale, _zero_point(rng, scale.shape, I8)), {"to": F32, "block_size": 3})
        yield Sample((x, np.array(0.5, np.float16), None), {"to": F16})


@op
class Requantize(OpDef):
    """saturate(round(x * scale) + zero_point) to `to` for i32 accumulators; `scale` is the ratio of real scales.

    rounding half_even: the product in float32, as ONNX Runtime; fixed_point: a 31-bit mantissa and a rounding shift, as
    LiteRT's reference kernels.
    """

    x = operand(frozenset({I32}))
    scale = operand(frozenset({F32, F64}))
    zero_point = optional(INTEGER)
    to = attr(DType)
    rounding = attr(str, "half_even", choices=("half_even", "fixed_point"))

    def infer(self, x, scale, zero_point, *, to, **_):
        if to not in INTEGER:
            raise TypeInferError(f"requantize to {to}; expected an integer type")
        _same_dtype(zero_point, to)
        check_parameter(scale, x, "scale")
        check_parameter(zero_point, x, "zero_point")
        return TensorType(to, x.shape)

    def axes(self, x, scale, zero_point, **_):
        return quant_axes(x, scale, zero_point)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.integers(-(2**20), 2**20, (2, 3, 4)).astype(np.int32)
        for rounding in ("half_even", "fixed_point"):
            scale = np.array(0.00013, np.float64)
            yield Sample((x, scale, np.array(-3, np.int8)), {"to": I8, "rounding": rounding})
            scales = rng.uniform(1e-5, 1e-3, (1, 3, 1)).astype(np.float32)
            yield Sample((x, scales, None), {"to": U8, "rounding": rounding})


@op
class DynamicQuantize(OpDef):
    """u8 values, f32 scale and u8 zero point from the data's own range (ONNX DynamicQuantizeLinear-11)."""

    x = operand(frozenset({F32}))
    results = ("y", "scale", "zero_point")
    traits = PURE

    def infer(self, x):
        return [TensorType(U8, x.shape), TensorType(F32, ()), TensorType(U8, ())]

    def axes(self, x):
        if x.shape is None:
            return None
        row = rules.passing(len(x.shape))
        return AxisMap((row,), (row, (), ()))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(((rng.standard_normal((3, 4)) * 3).astype(np.float32),))
        yield Sample((rng.uniform(1, 2, (2, 3)).astype(np.float32),))
        yield Sample((np.zeros((2, 2), np.float32),))


def _stored(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    low, high = _range(dtype)
    return np.asarray(rng.integers(max(low, -(2**20)), min(high, 2**20) + 1, shape)).astype(dtype.numpy)


def _zero_point(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    """Any value in the middle half of the range; 0 for float types and i32."""
    low, high = (0, 0) if dtype.is_float or dtype is I32 else _range(dtype)
    middle, quarter = (low + high) // 2, (high - low) // 4
    return np.asarray(rng.integers(middle - quarter, middle + quarter + 1, shape)).astype(dtype.numpy)


def _range(dtype: DType) -> tuple[int, int]:
    """Smallest and largest value of an integer dtype."""
    if dtype.is_signed:
        return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1
    return 0, (1 << dtype.bits) - 1
