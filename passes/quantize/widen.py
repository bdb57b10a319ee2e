"""Stored integers of less than 8 bits as bytes, for targets that have no such dtype: otherwise they would become floats."""

from __future__ import annotations

from ...ir.graph import Module
from ...ir.types import I2, I4, I8, U2, U4, U8, DType
from ...ir.value import Value

WIDER: dict[DType, DType] = {I2: I8, I4: I8, U2: U8, U4: U8}


def widen_stored(module: Module) -> None:
    """Constants behind dequantize, and their zero points, in the next wider dtype: the same numbers. In place."""
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
