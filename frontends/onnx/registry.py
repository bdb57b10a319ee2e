"""The handler table: (domain, op_type) -> lowering functions by the opset they start at. Knows neither onnx nor the IR.

    @handles("Softmax", since=13)
    def softmax(c, n): ...

A handler covers all later opsets until the next one of the same operator: bumps that only widen types need none.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .importer import Call, Importer

Handler = Callable[["Importer", "Call"], Any]

FAMILIES = (
    "activation",
    "attention",
    "control",
    "conv",
    "elementwise",
    "index",
    "matmul",
    "microsoft",
    "microsoft_attention",
    "microsoft_quant",
    "ml",
    "ml_models",
    "norm",
    "pool",
    "quant",
    "random",
    "recurrent",
    "reduce",
    "resize",
    "sequence",
    "shape",
    "signal",
    "text",
    "training",
    "trees",
    "vision",
)

_TABLE: dict[tuple[str, str], list[tuple[int, Handler]]] = {}


def handles(*op_types: str, since: int = 1, domain: str = "") -> Callable[[Handler], Handler]:
    """Register a handler for operators from opset `since` on. Registering the same version twice is an error."""

    def register(handler: Handler) -> Handler:
        for op_type in op_types:
            entries = _TABLE.setdefault((domain, op_type), [])
            if any(version == since for version, _ in entries):
                raise TypeError(f"two handlers for {domain}::{op_type} since {since}")
            entries.append((since, handler))
            entries.sort(key=lambda entry: entry[0])
        _newest.cache_clear()
        return handler

    return register


def handler(domain: str, op_type: str, opset: int) -> Handler | None:
    """The newest handler that starts at or below `opset`."""
    table()
    return _newest(domain, op_type, opset)


@functools.cache
def _newest(domain: str, op_type: str, opset: int) -> Handler | None:
    return next((found for since, found in reversed(_TABLE.get((domain, op_type), [])) if since <= opset), None)


@functools.cache
def table() -> dict[tuple[str, str], list[tuple[int, Handler]]]:
    """All handlers, the family files loaded."""
    for family in FAMILIES:
        importlib.import_module(f".{family}", __package__)
    return _TABLE
