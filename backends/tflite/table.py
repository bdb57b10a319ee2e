"""What TFLite has: one row per IR op that is written one for one. `legal`, the writer, `irc ops`, refusals read it.

A row names the builtin, the dtypes that its CPU kernels cover, a check of everything else, and how to emit operands and
options. The dtype sets were measured on LiteRT 2.3 without XNNPACK, the narrower of the two kernel sets. Knows no file
format beyond the names of operators, options and tensor types.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...ir import types as t
from ...ir.types import DType, TensorType
from ...ir.value import Node, Value

#: Dims and indices are int32 in a TFLite file.
I32_MIN, I32_MAX = -(2**31), 2**31 - 1

FAMILIES = ("elementwise", "image", "reduce", "shape", "index", "quant", "integer", "control")

#: IR dtype -> TensorType of the schema. What is missing here cannot be stored in a TFLite file.
TENSOR_TYPES: dict[DType, str] = {
    t.F32: "FLOAT32", t.F16: "FLOAT16", t.F64: "FLOAT64", t.BF16: "BFLOAT16", t.BOOL: "BOOL",
    t.I4: "INT4", t.I8: "INT8", t.I16: "INT16", t.I32: "INT32", t.I64: "INT64",
    t.U8: "UINT8", t.U16: "UINT16", t.U32: "UINT32", t.U64: "UINT64", t.C64: "COMPLEX64", t.C128: "COMPLEX128",
}  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """The runtime that is aimed at. `max_rank` bounds tensors (GPU and NPU delegates want 4 or 5)."""

    name: str = "litert"
    max_rank: int = 8


DEFAULT_PROFILE = Profile()


class Emitted(NamedTuple):
    """Operands (arrays become constants, None an omitted operand), the option slots that differ from zero, and the
    builtin where it is another than the row's."""

    inputs: Sequence[Value | np.ndarray | None]
    options: Mapping[str, Any] = {}
    builtin: str = ""


@dataclass(frozen=True)
class Row:
    """One IR op as one builtin."""

    builtin: str
    emit: Callable[[Node], Emitted]
    dtypes: frozenset[DType] | None = None  # of operand 0, or of `data`; None: any that can be stored
    check: Callable[[Node], str | None] = field(default=lambda node: None)
    data: int = 0


ROWS: dict[str, Row] = {}


def row(
    op: str, builtin: str, dtypes: str = "", check: Callable[[Node], str | None] | None = None, data: int = 0
) -> Callable[[Callable[[Node], Emitted]], Callable[[Node], Emitted]]:
    """Register how `op` is emitted; `dtypes` are names separated by blanks, none for all."""

    def register(emit: Callable[[Node], Emitted]) -> Callable[[Node], Emitted]:
        allowed = frozenset(map(t.dtype, dtypes.split())) if dtypes else None
        ROWS[op] = Row(builtin, emit, allowed, check or (lambda node: None), data)
        return emit

    return register


def rows() -> dict[str, Row]:
    """The whole table."""
    for family in FAMILIES:
        importlib.import_module(f".emit.{family}", __package__)
    return ROWS


def legal(node: Node, profile: Profile = DEFAULT_PROFILE) -> str | None:
    """None when `node` can be written as it is, else why not."""
    found = rows().get(node.name)
    if found is None:
        return "TFLite has no such operator"
    for value in (*node.inputs(), *node.results):
        reason = storable(value, profile)
        if reason is not None:
            return reason
    subject = node.operands[found.data] if len(node.operands) > found.data else node.results[0]
    if found.dtypes is not None and subject is not None and subject.dtype not in found.dtypes:
        return (
            f"{found.builtin} has no {subject.dtype} kernel (it has {', '.join(sorted(d.name for d in found.dtypes))})"
        )
    return found.check(node)


def storable(value: Value, profile: Profile = DEFAULT_PROFILE) -> str | None:
    """None when a tensor of this type fits into a file, else why not."""
    if not isinstance(value.type, TensorType):
        return f"a value of type {value.type} cannot be a tensor"
    if value.dtype is None or value.dtype not in TENSOR_TYPES:
        return f"TFLite has no tensors of {value.dtype or 'unknown dtype'}"
    if value.rank is not None and value.rank > profile.max_rank:
        return f"rank {value.rank} is above the {profile.max_rank} of {profile.name}"
    longest = max((d for d in value.shape or () if isinstance(d, int)), default=0)
    if longest > I32_MAX:
        return f"a dim of {longest} is above {I32_MAX}, the most that TFLite's shapes hold"
    return None


# ------------------------------------------------------------------------------------------- what emitters share


def i32(*numbers: int) -> np.ndarray:
    return np.asarray(numbers, np.int32)


def scalar_i32(number: int) -> np.ndarray:
    return np.asarray(number, np.int32)


def static_ints(value: Value | None) -> tuple[int, ...] | None:
    """Known integer elements, None for a computed or absent operand."""
    return None if value is None else value.ints()


def index_operand(value: Value) -> Value | np.ndarray:
    """An index or shape operand: a constant int32 where it is known, else the (int32) value itself."""
    numbers = value.ints()
    if numbers is None:
        return value
    clipped = np.clip(np.asarray(numbers, np.int64), I32_MIN, I32_MAX)
    return clipped.astype(np.int32).reshape([d for d in value.shape if isinstance(d, int)])


def needs_i32(value: Value | None) -> str | None:
    """Why a computed index operand cannot be emitted."""
    if value is None or value.ints() is not None or value.dtype is t.I32:
        return None
    return f"an index operand of {value.dtype} (TFLite takes int32)"


def plain(node: Node) -> Emitted:
    """Operands as they are, and attributes whose names are the option slots'."""
    return Emitted(node.operands, dict(node.attrs))


def bare(node: Node) -> Emitted:
    """Operands as they are, no options."""
    return Emitted(node.operands)


def broadcasts(node: Node) -> bool:
    shapes = [v.shape for v in node.inputs() if v.shape != ()]
    return any(shape != shapes[0] for shape in shapes[1:])


def rank_at_most(limit: int) -> Callable[[Node], str | None]:
    def check(node: Node) -> str | None:
        rank = max((v.rank or 0 for v in node.inputs()), default=0)
        return f"rank {rank}, the kernel takes {limit}" if rank > limit else None

    return check
