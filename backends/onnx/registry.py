"""The emission table: IR op -> functions that write it as ONNX nodes, by the opset they start at.

    @emits("softmax", since=13)
    def softmax(e, n): e.node("Softmax", n.operands, axis=n.attr("axis"))

A row covers all later opsets until the next one. A row may refuse (`e.refuse`) or ask for a newer opset (`e.needs`).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...ir.graph import Node
    from .emitter import Emitter

Row = Callable[["Emitter", "Node"], Any]

FAMILIES = (
    "activation",
    "attention",
    "control",
    "conv",
    "elementwise",
    "index",
    "matmul",
    "ml",
    "norm",
    "ort",
    "pool",
    "quant",
    "random",
    "recurrent",
    "reduce",
    "resize",
    "sequence",
    "shape",
    "signal",
    "spelled",
    "structure",
    "text",
    "trees",
    "vision",
)

_TABLE: dict[str, list[tuple[int, Row]]] = {}


def emits(*ops: str, since: int = 1) -> Callable[[Row], Row]:
    """Register a row for IR ops from opset `since` on. Registering the same start twice is an error."""

    def register(row: Row) -> Row:
        for op in ops:
            entries = _TABLE.setdefault(op, [])
            if any(start == since for start, _ in entries):
                raise TypeError(f"two ONNX rows for {op} since {since}")
            entries.append((since, row))
            entries.sort(key=lambda entry: entry[0])
        return row

    return register


def row_for(op: str, opset: int) -> Row | None:
    """The newest row of `op` that starts at or below `opset`."""
    for since, found in reversed(table().get(op, [])):
        if since <= opset:
            return found
    return None


def first_opset(op: str) -> int | None:
    """Where the op's first row starts; None when it has none."""
    entries = table().get(op)
    return entries[0][0] if entries else None


def starts(op: str) -> list[int]:
    """The opsets at which the op's rows start."""
    return [since for since, _ in table().get(op, [])]


@functools.cache
def table() -> dict[str, list[tuple[int, Row]]]:
    """All rows, the family files loaded."""
    for family in FAMILIES:
        importlib.import_module(f".{family}", __package__)
    return _TABLE
