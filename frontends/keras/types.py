"""Keras' dtypes: names in configs, dtype policies, and the promotion that `keras.ops` applies and the IR does not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ...ir import types as t
from ...ir.errors import InvalidModel, Unsupported, clean

BY_NAME: dict[str, t.DType] = {
    "bool": t.BOOL, "int8": t.I8, "int16": t.I16, "int32": t.I32, "int64": t.I64,
    "uint8": t.U8, "uint16": t.U16, "uint32": t.U32, "uint64": t.U64,
    "float16": t.F16, "bfloat16": t.BF16, "float32": t.F32, "float64": t.F64,
    "string": t.STRING, "complex64": t.C64, "complex128": t.C128,
    "int": t.I32, "float": t.F32,
}  # fmt: skip

#: (compute, variable) of the mixed policies.
_MIXED = {"mixed_float16": (t.F16, t.F32), "mixed_bfloat16": (t.BF16, t.F32)}


def named(name: Any, where: str) -> t.DType:
    """The dtype that a config names. Raises InvalidModel for anything else."""
    found = BY_NAME.get(name) if isinstance(name, str) else None
    if found is None:
        raise InvalidModel(f"dtype {clean(name)!r} is unknown", where=where)
    return found


@dataclass(frozen=True)
class Quantized:
    """What a layer's weights became: `mode` is int8, int4 or float8; `block` is the size of groups, 0 without."""

    mode: str
    block: int = 0


#: Class name of a policy, and the form of its `mode`.
_QUANTIZED = {
    "QuantizedDTypePolicy": r"(int8|int4)",
    "QuantizedFloat8DTypePolicy": r"(float8)",
    "Int4DTypePolicy": r"(int4)/(-1|[1-9][0-9]{0,8})",
}


def quantized(value: Any) -> Quantized | None:
    """How a config's `dtype` says that the layer is quantized; None where it does not."""
    inner = value.get("config") if isinstance(value, dict) else None
    form = _QUANTIZED.get(value["class_name"]) if isinstance(inner, dict) and "class_name" in value else None
    mode = inner.get("mode") if isinstance(inner, dict) else None
    found = re.fullmatch(form, mode) if form is not None and isinstance(mode, str) else None
    if found is None:
        return None
    block = int(found[2]) if found.re.groups > 1 else 0
    return Quantized(found[1], max(0, block))


def policy(value: Any, where: str) -> tuple[t.DType, t.DType]:
    """(compute dtype, variable dtype) of a config's `dtype`: None, a name, or a serialized DTypePolicy."""
    if isinstance(value, dict):
        inner = value.get("config")
        if quantized(value) is not None:
            return policy(inner.get("source_name"), where)  # type: ignore[union-attr]
        if value.get("class_name") not in ("DTypePolicy", "FloatDTypePolicy", "Policy"):
            raise Unsupported(
                f"dtype policy {clean(value.get('class_name'))!r} is not supported",
                where=where,
                hint="save the model before it is quantized, and quantize with anyir",
            )
        value = inner.get("name") if isinstance(inner, dict) else ""
    if value is None:
        return t.F32, t.F32
    if value in _MIXED:
        return _MIXED[value]
    return named(value, where), named(value, where)


def _float_of(a: t.DType, b: t.DType) -> t.DType:
    if a is b:
        return a
    if {a, b} == {t.F16, t.BF16}:
        return t.F32
    return a if a.bits >= b.bits else b


def _int_of(a: t.DType, b: t.DType) -> t.DType:
    if a.is_signed == b.is_signed:
        return a if a.bits >= b.bits else b
    signed, unsigned = (a, b) if a.is_signed else (b, a)
    if signed.bits > unsigned.bits:
        return signed
    wider = {8: t.I16, 16: t.I32, 32: t.I64}.get(unsigned.bits)
    return wider or t.F32  # uint64 with a signed int has no common integer


def promote(a: t.DType, b: t.DType) -> t.DType:
    """The dtype of an operation on tensors of dtypes `a` and `b`: Keras' lattice (`backend.result_type`)."""
    if a is b:
        return a
    if t.BOOL in (a, b):
        return b if a is t.BOOL else a
    if a.is_float and b.is_float:
        return _float_of(a, b)
    if a.is_float or b.is_float:
        return a if a.is_float else b
    return _int_of(a, b)


def with_scalar(dtype: t.DType, scalar: Any) -> t.DType:
    """The dtype of an operation on a tensor and a Python number: numbers are weak, but a float lifts integers."""
    if isinstance(scalar, bool):
        return dtype
    if isinstance(scalar, float):
        return dtype if dtype.is_float else t.F32
    return t.I32 if dtype is t.BOOL else dtype
