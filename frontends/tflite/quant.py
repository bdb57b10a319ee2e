"""Quantised tensors: operators on them are read as float ones between dequantize and quantize, their integers kept.

    CONV_2D(i8 x, i8 w, i32 b) -> i8 y      becomes      quantize(tfl.conv_2d(dequantize(x), dequantize(w), dequantize(b)))

Float data with integer weights is what LiteRT quantises as it comes: its product reads dequantize(dynamic_quantize(x)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...formats.tflite import Record
from ...ir.builder import Builder
from ...ir.errors import InvalidModel, Unsupported
from ...ir.types import F16, F32, I4, I8, I16, I32, I64, U8, DType
from ...ir.value import Value
from .registry import Call, handles

if TYPE_CHECKING:
    from .reader import SubgraphReader

#: Operators that say themselves what they do to integers, or carry them through.
PLAIN = frozenset(["QUANTIZE", "DEQUANTIZE", "DENSIFY", "CAST", "BITCAST", "IF", "WHILE", "SHAPE"])
#: Operators whose weights, the second operand, may be integers where the data are floats.
HYBRID = frozenset(["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
_DATA = (I8, U8, I16, I4)
_SUMS = (I32, I64)
_BLOCKWISE = 2


def is_quantised(reader: SubgraphReader, index: int) -> bool:
    """The tensor has a scale and is of a type that stands for real numbers: sums only as constants."""
    tensor = reader.tensors[index] if 0 <= index < len(reader.tensors) else None
    quant = None if tensor is None else tensor["quantization"]
    if quant is None or not (quant["details_type"] or (quant["scale"] is not None and len(quant["scale"]))):
        return False
    dtype = reader.dtype(index)
    return dtype in _DATA or (dtype in _SUMS and reader.value(index).is_const)


def floats(reader: SubgraphReader, index: int) -> Value:
    """The real numbers of a quantised tensor."""
    found = reader.floats.get(index)
    if found is None:
        value, b = reader.value(index), Builder(reader.graph)
        scale, zero, block = parameters(reader, index)
        if value.dtype is I64:
            value, zero = _narrowed(b, value), np.zeros(zero.shape, np.int32)
        if value.dtype is I64:  # beyond 32 bits: the numbers themselves
            found = b.const((value.array() * scale.astype(np.float64)).astype(np.float32), key=value.weight.key)
        else:
            found = b.dequantize(value, scale, zero, to=F32, block_size=block)
        reader.floats[index] = found
    return found


def _narrowed(b: Builder, value: Value) -> Value:
    array = value.array()
    if array.size and np.abs(array).max() >= 1 << 31:
        return value
    return b.const(array.astype(np.int32), key=value.weight.key, role=value.weight.role)


def integers(reader: SubgraphReader, index: int, value: Value) -> Value:
    """The integers of a quantised result that was computed in floats."""
    scale, zero, block = parameters(reader, index)
    return Builder(reader.graph).quantize(value, scale, zero, to=reader.dtype(index), block_size=block)


def operands(reader: SubgraphReader, builtin: str, indices: list[int]) -> list[Value | None]:
    """What a handler reads: floats for quantised tensors, None for what is omitted and for variables."""
    made: list[Value | None] = []
    for place, index in enumerate(indices):
        if index < 0 or reader.is_variable(index):
            made.append(None)
        elif builtin in PLAIN or not is_quantised(reader, index):
            made.append(reader.value(index))
        elif builtin == "PADV2" and place == 2 and reader.value(index).is_const:
            made.append(_number(reader, index))
        else:
            made.append(floats(reader, index))
    whole = [index in reader.values and reader.values[index].dtype is F32 for index in indices[:1]]
    if builtin in HYBRID and whole == [True] and is_quantised(reader, indices[1]):
        made[0] = _dynamic(reader, reader.value(indices[0]))
    return made


def _number(reader: SubgraphReader, index: int) -> Value:
    scale, zero, _ = parameters(reader, index)
    array = reader.value(index).array().astype(np.float64)
    return Builder(reader.graph).const(((array - zero) * scale).astype(np.float32))


def _dynamic(reader: SubgraphReader, x: Value) -> Value:
    b = Builder(reader.graph)
    return b.dequantize(*b.dynamic_quantize(x), to=F32)


def parameters(reader: SubgraphReader, index: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Scale and zero point, rank 0 or along the quantised axis, and the size of blocks where there are any."""
    tensor, dtype = reader.tensors[index], reader.dtype(index)
    quant: Record | None = tensor["quantization"]
    if quant is not None and quant["details_type"]:
        return _blockwise(reader, index, quant, dtype)
    if quant is None or quant["scale"] is None or not len(quant["scale"]):
        raise InvalidModel("a quantised tensor without scale", code="F238")
    scales = np.asarray(quant["scale"], np.float32)
    zeros = np.zeros(len(scales)) if quant["zero_point"] is None else np.asarray(quant["zero_point"])
    if len(zeros) != len(scales):
        raise InvalidModel(f"{len(scales)} scales with {len(zeros)} zero points", code="F238")
    if not (np.isfinite(scales) & (scales > 0)).all():
        raise InvalidModel("a scale that is not positive", code="F238")
    shape: tuple[int, ...] = ()
    if len(scales) > 1:
        axis, rank = quant["quantized_dimension"], len(tensor["shape"] if tensor["shape"] is not None else ())
        if not 0 <= axis < rank or tensor["shape"][axis] != len(scales):
            raise InvalidModel(f"{len(scales)} scales along axis {axis}", code="F238")
        shape = tuple(len(scales) if i == axis else 1 for i in range(rank))
    _check_zeros(zeros, dtype)
    return scales.reshape(shape), zeros.astype(dtype.numpy).reshape(shape), 0


def _check_zeros(zeros: np.ndarray, dtype: DType) -> None:
    low, high = (
        (-(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1) if dtype.is_signed else (0, (1 << dtype.bits) - 1)
    )
    if len(zeros) and not (low <= int(zeros.min()) and int(zeros.max()) <= high):
        raise InvalidModel(f"a zero point outside {dtype}", code="F238")


def _blockwise(reader: SubgraphReader, index: int, quant: Record, dtype: DType) -> tuple[np.ndarray, np.ndarray, int]:
    """One float16 scale per row and block of columns, in a tensor of its own; no zero points."""
    details = quant["details"]
    if quant["details_type"] != _BLOCKWISE or details is None or details["zero_points"] >= 0:
        raise Unsupported("custom quantisation, or blocks with zero points", code="U241")
    shape, size = reader.tensors[index]["shape"], details["block_size"]
    scales = reader.value(details["scales"]).array().astype(np.float32)
    if shape is None or len(shape) != 2 or size <= 0 or scales.shape != (shape[0], -(-shape[1] // size)):
        raise InvalidModel(f"blocks of {size} with scales of shape {list(scales.shape)}", code="F238")
    return scales, np.zeros(scales.shape, dtype.numpy), 0 if shape[1] % size == 0 else size


@handles("QUANTIZE")
def quantize(c: Call) -> Value:
    """From floats, or from integers with other parameters."""
    source, index = int(c.record["inputs"][0]), int(c.record["outputs"][0])
    x = c.x
    if x.dtype is not F32:
        if not is_quantised(c.reader, source):
            raise Unsupported(f"QUANTIZE of {x.dtype}", code="U242")
        x = floats(c.reader, source)
    return integers(c.reader, index, x)


@handles("DEQUANTIZE")
def dequantize(c: Call) -> Value:
    """float16 constants are stored without a scale."""
    if c.x.dtype is F16:
        return c.b.cast(c.x, to=F32)
    return floats(c.reader, int(c.record["inputs"][0]))
