"""Rows of quantize and dequantize: scale and zero point become the quantisation of the integer tensor."""

from __future__ import annotations

import numpy as np

from ....ir.value import Node, Value
from ..table import Emitted, row

_STORED = "i8 u8 i16"


def _constants(node: Node) -> str | None:
    scale, zero = node.operand("scale"), node.operand("zero_point")
    integer = node.operands[0] if node.name == "dequantize" else node.result
    if integer.dtype.name not in (*_STORED.split(), "i4"):
        return f"no quantised tensors of {integer.dtype}"
    if not scale.is_const or (zero is not None and not zero.is_const):
        return "computed scales"
    steps = scale.array().astype(np.float32)
    if not (np.isfinite(steps) & (steps > 0)).all():
        return "a scale that is not positive and finite"
    if quant_axis(scale) is None:
        return "scales that are neither per tensor nor per axis"
    if quant_axis(scale) >= 0 and zero is not None and zero.array().any():
        return "a zero point per axis"
    return None


def quant_axis(scale: Value) -> int | None:
    """The axis that scales go along, -1 for one scale, None for blocks or several axes."""
    axes = [i for i, d in enumerate(scale.shape) if d != 1]
    return -1 if not axes else axes[0] if len(axes) == 1 else None


@row("quantize", "QUANTIZE", "f32", _constants)
def _quantize(node: Node) -> Emitted:
    return Emitted(node.operands[:1])


@row("dequantize", "DEQUANTIZE", "i8 u8 i16 i4", _constants)
def _dequantize(node: Node) -> Emitted:
    return Emitted(node.operands[:1])
