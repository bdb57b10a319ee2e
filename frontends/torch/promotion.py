"""torch's type promotion: the dtype in which an operator combines tensors and Python numbers.

Tensors with dims decide; a rank-0 tensor and then a Python number only count when theirs is a higher category (bool < int
< float < complex). Rules: https://docs.pytorch.org/docs/stable/tensor_attributes.html#type-promotion-doc and
`aten/src/ATen/native/TypeProperties.cpp`. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...ir.errors import Unsupported
from ...ir.expr import Expr
from ...ir.types import BOOL, F32, I16, I32, I64, DType
from ...ir.value import Value

DEFAULT_FLOAT = F32
_RANK = {"bool": 0, "uint": 1, "int": 1, "float": 2, "complex": 3}
_NEXT_SIGNED = {8: I16, 16: I32, 32: I64}


def result_type(operands: Iterable[Any]) -> DType:
    """The common dtype of tensors (IR values) and numbers (bool, int, float, sizes known at run time)."""
    tensors: DType | None = None
    scalars: DType | None = None
    numbers: DType | None = None
    for item in operands:
        if not isinstance(item, Value):
            numbers = promote(numbers, _number_type(item))
        elif item.rank == 0:
            scalars = promote(scalars, item.dtype)
        else:
            tensors = promote(tensors, item.dtype)
    found = _combine(_combine(tensors, scalars), numbers)
    if found is None:
        raise Unsupported("operands of unknown dtype")
    return found


def _number_type(number: Any) -> DType:
    if isinstance(number, bool):
        return BOOL
    return I64 if isinstance(number, int | Expr) else DEFAULT_FLOAT


def _combine(higher: DType | None, lower: DType | None) -> DType | None:
    """The higher-priority dtype unless the other one is of a higher category."""
    if higher is None or lower is None:
        return higher or lower
    return higher if _RANK[higher.kind] >= _RANK[lower.kind] else lower


def promote(a: DType | None, b: DType | None) -> DType | None:
    """The smallest dtype that both fit in, as torch has it (f16 with bf16 gives f32, u8 with i8 gives i16)."""
    if a is None or b is None or a is b:
        return a or b
    low, high = sorted((a, b), key=lambda t: _RANK[t.kind])
    if _RANK[low.kind] != _RANK[high.kind]:
        return high
    if a.kind == b.kind:
        if a.bits == b.bits:
            return DEFAULT_FLOAT
        return a if a.bits > b.bits else b
    signed, unsigned = (a, b) if a.kind == "int" else (b, a)
    if signed.bits > unsigned.bits:
        return signed
    if unsigned.bits not in _NEXT_SIGNED:
        raise Unsupported(f"torch has no common dtype for {a} and {b}")
    return _NEXT_SIGNED[unsigned.bits]
