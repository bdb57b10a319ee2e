"""Quantised modules for MindIR: layers between dequantize and quantize as integer arithmetic, and what the file says of the
integers it stores. MindSpore has no quantised kernels on the CPU; what it has are casts, products and sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats import mindir
from ...ir.graph import Module
from ...passes.manager import Context, run_pipeline
from ...passes.quantize.widen import widen_stored

#: What MindSpore's quantisation tools call scale and zero point per tensor or channel.
ALGORITHM = "linear_quant_algo"


def prepare(module: Module) -> dict[str, dict[str, Any]]:
    """Rewrites `module` in place; returns the quantisation record of each weight that is stored as integers, by key."""
    widen_stored(module)
    records = _records(module)
    if any(True for _ in module.all_nodes("quantize")):
        run_pipeline(module, "integer-ops", Context(level=3))
    return records


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
