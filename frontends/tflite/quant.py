"""QUANTIZE and DEQUANTIZE between floats and tensors with scale and zero point. Quantised kernels are not read."""

from __future__ import annotations

import numpy as np

from ...formats.tflite import Record
from ...ir.errors import InvalidModel, Unsupported
from ...ir.types import F16, F32, DType
from ...ir.value import Value
from .registry import Call, handles


def _parameters(c: Call, index: int, dtype: DType) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point, rank 0 or along the quantised axis."""
    tensor = c.reader.tensors[index]
    quant: Record | None = tensor["quantization"]
    if quant is None or quant["scale"] is None or not len(quant["scale"]):
        raise InvalidModel(f"{c.builtin} of a tensor without scale", code="F238")
    if quant["details_type"]:
        raise Unsupported("blockwise and custom quantisation", code="U241")
    scales = np.asarray(quant["scale"], np.float32)
    zeros = np.zeros(len(scales)) if quant["zero_point"] is None else np.asarray(quant["zero_point"])
    if len(zeros) != len(scales):
        raise InvalidModel(f"{len(scales)} scales with {len(zeros)} zero points", code="F238")
    shape: tuple[int, ...] = ()
    if len(scales) > 1:
        axis, rank = quant["quantized_dimension"], len(tensor["shape"] if tensor["shape"] is not None else ())
        if not 0 <= axis < rank or tensor["shape"][axis] != len(scales):
            raise InvalidModel(f"{len(scales)} scales along axis {axis}", code="F238")
        shape = tuple(len(scales) if i == axis else 1 for i in range(rank))
    return scales.reshape(shape), zeros.astype(dtype.numpy).reshape(shape)


@handles("QUANTIZE")
def quantize(c: Call) -> Value:
    if c.x.dtype is not F32:
        raise Unsupported(f"QUANTIZE of {c.x.dtype}", code="U242")
    to = c.result_types()[0].dtype
    scale, zero = _parameters(c, int(c.record["outputs"][0]), to)
    return c.b.quantize(c.x, scale, zero, to=to)


@handles("DEQUANTIZE")
def dequantize(c: Call) -> Value:
    """float16 constants are stored without a scale."""
    if c.x.dtype is F16:
        return c.b.cast(c.x, to=F32)
    scale, zero = _parameters(c, int(c.record["inputs"][0]), c.x.dtype)
    return c.b.dequantize(c.x, scale, zero, to=F32)
