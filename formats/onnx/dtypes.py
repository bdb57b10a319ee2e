"""ONNX element types: their codes, their IR dtypes, and the typed field that holds each. Imports nothing of onnx.

Codes and fields: onnx.proto, `TensorProto.DataType` and the comments of the `*_data` fields.
"""

from __future__ import annotations

from ...ir import types as t
from ...ir.errors import InvalidModel

FROM_CODE = {
    1: t.F32,
    2: t.U8,
    3: t.I8,
    4: t.U16,
    5: t.I16,
    6: t.I32,
    7: t.I64,
    8: t.STRING,
    9: t.BOOL,
    10: t.F16,
    11: t.F64,
    12: t.U32,
    13: t.U64,
    14: t.C64,
    15: t.C128,
    16: t.BF16,
    17: t.F8E4M3FN,
    18: t.F8E4M3FNUZ,
    19: t.F8E5M2,
    20: t.F8E5M2FNUZ,
    21: t.U4,
    22: t.I4,
    23: t.F4E2M1,
    24: t.F8E8M0,
    25: t.U2,
    26: t.I2,
    27: t.F6E2M3,
    28: t.F6E3M2,
}
TO_CODE = {dtype: code for code, dtype in FROM_CODE.items()}

# How schemas spell element types: `tensor(float)`, `tensor(float16)` ...
SCHEMA_NAMES = {
    t.F32: "float",
    t.F64: "double",
    t.U8: "uint8",
    t.I8: "int8",
    t.U16: "uint16",
    t.I16: "int16",
    t.I32: "int32",
    t.I64: "int64",
    t.U32: "uint32",
    t.U64: "uint64",
    t.STRING: "string",
    t.BOOL: "bool",
    t.F16: "float16",
    t.BF16: "bfloat16",
    t.C64: "complex64",
    t.C128: "complex128",
    t.F8E4M3FN: "float8e4m3fn",
    t.F8E4M3FNUZ: "float8e4m3fnuz",
    t.F8E5M2: "float8e5m2",
    t.F8E5M2FNUZ: "float8e5m2fnuz",
    t.U4: "uint4",
    t.I4: "int4",
    t.F4E2M1: "float4e2m1",
    t.F8E8M0: "float8e8m0",
    t.U2: "uint2",
    t.I2: "int2",
    t.F6E2M3: "float6e2m3",
    t.F6E3M2: "float6e3m2",
}

# code -> (typed field, numpy storage of one entry of the field). Complex types take two entries per element.
TYPED_FIELD = {
    1: ("float_data", "<f4"),
    14: ("float_data", "<f4"),
    11: ("double_data", "<f8"),
    15: ("double_data", "<f8"),
}
TYPED_FIELD |= {
    7: ("int64_data", "<i8"),
    12: ("uint64_data", "<u8"),
    13: ("uint64_data", "<u8"),
    8: ("string_data", "O"),
}
TYPED_FIELD |= dict.fromkeys((2, 3, 4, 5, 6, 9, 10, *range(16, 29)), ("int32_data", "<i4"))

FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")

# The 6-bit floats are one byte each in memory, but a bit stream of 6 bits per element in `raw_data`.
SIX_BIT = frozenset({t.F6E2M3, t.F6E3M2})


def file_bits(dtype: t.DType) -> int:
    """Bits of one element in `raw_data`."""
    return 6 if dtype in SIX_BIT else dtype.bits


def file_bytes(dtype: t.DType, count: int) -> int:
    """Bytes of `count` elements in `raw_data`; sub-byte elements share bytes, the last byte is filled with zeros."""
    return (count * file_bits(dtype) + 7) // 8


def from_code(code: int, where: str) -> t.DType:
    """The dtype of an ONNX type code. Raises InvalidModel for 0 (undefined) and for unknown codes."""
    found = FROM_CODE.get(code)
    if found is None:
        raise InvalidModel(f"{code} is not an ONNX element type (1 to {max(FROM_CODE)})", where=where)
    return found


#: The first IR version of a file that may hold the type; those that are not listed are older than functions.
IR_VERSIONS = {
    **dict.fromkeys((t.F8E4M3FN, t.F8E4M3FNUZ, t.F8E5M2, t.F8E5M2FNUZ), 9),
    **dict.fromkeys((t.U4, t.I4), 10),
    t.F4E2M1: 11,
    t.F8E8M0: 12,
    **dict.fromkeys((t.U2, t.I2), 13),
    **dict.fromkeys((t.F6E2M3, t.F6E3M2), 14),
}
