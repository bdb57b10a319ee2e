"""What MindSpore has: one row per IR op that becomes one primitive. Must not import MindSpore.

    @emits("softmax", FLOAT_3)                       # dtypes of the first operand
    def softmax(node):
        return Call("Softmax", (node.operands[0], (node.attr("axis"),)))

    @emits("average_pool", FLOAT_2, check=plain_pool)  # check(node) -> reason or None, on top of the dtypes

    @lowers("gemm")                                  # a rewrite, tried before the shared decompositions
    def gemm(b, node): ...

A `Call` is data: the primitive, its arguments in MindSpore's order and its attributes. Dtype sets are what MindSpore
2.10 on CPU computed correctly in a run of every primitive with every dtype; other dtypes go through a wider one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...formats.mindir import TENSOR_CODES
from ...ir.types import (
    BF16,
    BOOL,
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    DType,
    TensorType,
)
from ...ir.value import Node, Value
from ...passes.decompose.rules import Rule

FAMILIES = (
    "activation",
    "control",
    "conv",
    "elementwise",
    "index",
    "matmul",
    "norm",
    "pool",
    "recurrent",
    "reduce",
    "resize",
    "shape",
    "slices",
)

Dtypes = frozenset[DType]
FLOAT_2: Dtypes = frozenset({F32, F16})
FLOAT_3: Dtypes = FLOAT_2 | {F64}
SIGNED: Dtypes = frozenset({I8, I16, I32, I64})
UNSIGNED: Dtypes = frozenset({U8, U16, U32, U64})
INTS: Dtypes = SIGNED | UNSIGNED
NUMBERS: Dtypes = FLOAT_3 | INTS
EVERY: Dtypes = NUMBERS | {BOOL}


class Tensors(NamedTuple):
    """A list argument: MakeTuple of tensors."""

    values: tuple[Value, ...]


class Shape(NamedTuple):
    """A tuple of ints that may be computed: a constant's elements, or the tuple that an `ms` op makes."""

    value: Value


class Call(NamedTuple):
    """One primitive with its arguments; `picks` are the elements of its tuple that are the node's results."""

    primitive: str
    args: tuple[Any, ...]
    attrs: Mapping[str, Any] = {}
    picks: tuple[int, ...] | None = None


Check = Callable[[Node], str | None]
Emit = Callable[[Node], Call]


class Row(NamedTuple):
    """How one op is written (None: it has regions, `control` does it), for which dtypes of the operand `data`, and what
    else must hold."""

    emit: Emit | None
    dtypes: Dtypes
    check: Check | None
    data: int


ROWS: dict[str, Row] = {}
RULES: dict[str, Rule] = {}


def emits(name: str, dtypes: Dtypes, *, check: Check | None = None, data: int = 0) -> Callable[[Emit], Emit]:
    """Register how `name` is written."""

    def register(emit: Emit) -> Emit:
        ROWS[name] = Row(emit, dtypes, check, data)
        return emit

    return register


def simple(name: str, primitive: str, dtypes: Dtypes) -> None:
    """An op whose operands are the primitive's arguments, without attributes."""
    ROWS[name] = Row(lambda node: Call(primitive, node.operands), dtypes, None, 0)


def regional(name: str, check: Check) -> None:
    """An op with regions, which becomes functions and calls."""
    ROWS[name] = Row(None, frozenset(), check, 0)


def lowers(*names: str) -> Callable[[Rule], Rule]:
    """Register a rewrite of MindIR's own; see `passes.decompose.rules`."""

    def register(rule: Rule) -> Rule:
        for name in names:
            RULES[name] = rule
        return rule

    return register


def load() -> None:
    """Fill the tables."""
    for family in FAMILIES:
        importlib.import_module(f".{family}", __package__)


def legal(node: Node, profile: str = "mindspore") -> str | None:
    """None when `node` can be written as it is, else the reason why not."""
    if not ROWS:
        load()
    row = ROWS.get(node.name)
    if row is None:
        return "MindSpore has no such operator"
    reason = untyped(node)
    if reason:
        return reason
    if node.attrs.get("channels_last"):
        return "MindSpore on CPU is channels-first"
    if row.dtypes:
        kind = node.operands[row.data].dtype
        if kind not in row.dtypes:
            return f"MindSpore has no CPU kernel for {kind}"
    return row.check(node) if row.check else None


def untyped(node: Node) -> str | None:
    """Why one of the node's values is no tensor that MindSpore computes with; no rewrite of the node helps then."""
    return next((reason for v in (*node.operands, *node.results) if (reason := type_reason(v))), None)


def type_reason(value: Value | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value.type, TensorType):
        return f"values of type {value.type} do not exist in MindIR"
    if value.dtype is None:
        return "its dtype is not known"
    if value.dtype.name not in TENSOR_CODES:
        return f"MindIR has no dtype {value.dtype}"
    if value.rank is None:
        return "its rank is not known"
    empty = 0 in value.shape and not value.is_const
    return "MindSpore on CPU computes garbage of tensors without elements" if empty else None


# ------------------------------------------------------------------------------------------------- wider dtypes

#: Where a dtype may go without losing a value: candidates in order of preference.
WIDER: dict[DType, tuple[DType, ...]] = {
    BF16: (F32,),
    F16: (F32,),
    BOOL: (U8, I32),
    I8: (I16, I32, I64),
    I16: (I32, I64),
    I32: (I64,),
    U8: (I16, I32, I64),
    U16: (I32, I64),
    U32: (I64,),
}
