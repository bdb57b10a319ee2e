"""Quantised modules for MindIR: layers between dequantize and quantize as integer arithmetic, and what the file says of the
integers it stores. MindSpore has no quantised kernels on the CPU; what it has are casts, products and sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats import mindir
from ...ir.graph import Module
from ...ir.types import I2, I4, I8, U2, U4, U8, DType
from ...ir.value import Value
from ...passes.manager import Context, run_pipeline

#: Integers that MindIR has no dtype for, in the next one that it has.
WIDER: dict[DType, DType] = {I2: I8, I4: I8, U2: U8, U4: U8}
#: What MindSpore's quantisation tools call scale and zero point per tensor or channel.
ALGORITHM = "linear_quant_algo"


def prepare(module: Module) -> dict[str, dict[str, Any]]:
    """Rewrites `module` in place; returns the quantisation record of each weight that is stored as integers, by key."""
    _widen(module)
    records = _records(module)
    if any(True for _ in module.all_nodes("quantize")):
        run_pipeline(module, "integer-ops", Context(level=3))
    return records


def _widen(module: Module) -> None:
    """Constants of less than 8 bits as bytes, with their zero points: otherwise they would have to become floats."""
    for node in list(module.all_nodes("dequantize")):
        x, zero = node.operands[0], node.operand("zero_point")
        wide = WIDER.get(x.dtype) if x is not None and x.is_const else None  # type: ignore[arg-type]
        if wide is None or (zero is not None and not zero.is_const):
            continue
        for index, value in ((0, x), (2, zero)):
            if value is not None:
                node.set_operand(index, _bytes(module, value, wide))


def _bytes(module: Module, value: Value, wide: DType) -> Value:
    weight = value.weight
    assert weight is not None
    array = value.array().astype(wide.numpy)
    return module.add_weight(weight.wanted, array, weight.role, weight.origin or f"{value.dtype} as {wide}")


def _records(module: Module) -> dict[str, dict[str, Any]]:
    """Scales and zero points of integer weights with one scale, or one per channel; blocks have no such record."""
    found: dict[str, dict[str, Any]] = {}
    for node in module.all_nodes("dequantize"):
        x, scale, zero = (*node.operands, None)[:3]
        if x is None or not x.is_const or not scale.is_const:
            continue
        axes = [i for i, size in enumerate(scale.shape) if size != 1]
        if len(axes) > 1 or any(scale.shape[i] != x.shape[i] for i in axes) or (zero is not None and not zero.is_const):
            continue
        scales = scale.array().astype(np.float32).ravel()
        zeros = np.zeros(scales.shape, np.int64) if zero is None else zero.array().astype(np.int64).ravel()
        values = {
            "quant_scale": [float(s) for s in scales],
            "quant_zero_point": [int(z) for z in np.broadcast_to(zeros, scales.shape)],
            "num_bits": [x.dtype.bits],
        }
        if axes:
            values["channel_axis"] = [axes[0]]
        attributes = [mindir.encode_value(name, items) for name, items in values.items()]
        found[x.weight.key] = {"quant_algo_name": ALGORITHM, "attribute": attributes}
    return found
