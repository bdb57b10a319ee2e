"""The table of handlers: builtin operator -> function that builds its results.

@handles("SOFTMAX")
def softmax(c: Call) -> Value:
    return c.b.softmax(c.x, axis=-1)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...formats.tflite import Record
from ...formats.tflite_schema import ENUMS
from ...ir.builder import Builder
from ...ir.errors import InvalidModel, Unsupported
from ...ir.value import Value

if TYPE_CHECKING:
    from .reader import SubgraphReader

FAMILIES = ("elementwise", "image", "reduce", "shape", "index", "quant", "control")


@dataclass
class Call:
    """One operator being read: its operands (None where omitted), its options, and where to build."""

    builtin: str
    b: Builder
    operands: list[Value | None]
    options: Record | None
    reader: SubgraphReader
    record: Record

    @property
    def x(self) -> Value:
        return self.operand(0)

    def operand(self, index: int) -> Value:
        """A required operand. Raises InvalidModel when it is missing."""
        value = self.operands[index] if index < len(self.operands) else None
        if value is None:
            raise InvalidModel(f"{self.builtin} has no operand {index}", code="F230")
        return value

    def has(self, index: int) -> bool:
        return index < len(self.operands) and self.operands[index] is not None

    def option(self, name: str, default: Any = 0) -> Any:
        return default if self.options is None else self.options.get(name, default)

    def enum(self, slot: str, enum: str) -> str:
        """An option that is a member of an enum, by name. Raises InvalidModel for an unknown one."""
        code = self.option(slot)
        for name, value in ENUMS[enum].items():
            if value == code:
                return name
        raise InvalidModel(f"{self.builtin}: {slot} {code} is not a member of {enum}", code="F231")

    def ints(self, index: int) -> tuple[int, ...]:
        """An operand that must be constant integers. Raises Unsupported when it is computed."""
        numbers = self.operand(index).ints()
        if numbers is None:
            raise Unsupported(f"{self.builtin} with a computed operand {index}", code="U230")
        return numbers

    def constant(self, index: int) -> np.ndarray:
        value = self.operand(index)
        if not value.is_const:
            raise Unsupported(f"{self.builtin} with a computed operand {index}", code="U230")
        return value.array()

    def result_types(self) -> list[Any]:
        return self.reader.types(self.record["outputs"])


Handler = Callable[[Call], "Value | Sequence[Value]"]
_HANDLERS: dict[str, Handler] = {}


def handles(*builtins: str) -> Callable[[Handler], Handler]:
    """Register a handler for builtin operators."""

    def register(handler: Handler) -> Handler:
        for builtin in builtins:
            _HANDLERS[builtin] = handler
        return handler

    return register


def handlers() -> dict[str, Handler]:
    """The whole table."""
    for family in FAMILIES:
        importlib.import_module(f".{family}", __package__)
    return _HANDLERS
