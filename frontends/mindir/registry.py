"""The table of primitives that are read, and the checked view of a node that handlers get. Must not import MindSpore.

    @handles("Softmax", 2)
    def softmax(b, n):
        (axis,) = n.ints(1)
        return b.softmax(n.tensor(0), axis=axis)

Arguments are Values, or plain Python: numbers, strings, None, tuples and lists of all these. A handler returns a Value,
or a tuple of Values for a primitive whose result is a tuple.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...ir.builder import Builder
from ...ir.errors import InvalidModel, clean
from ...ir.tensor import Tensor
from ...ir.types import DType
from ...ir.value import Value

FAMILIES = ("elementwise", "numeric", "shape", "spatial")

Handler = Callable[[Builder, "Call"], Any]


class Entry(NamedTuple):
    """A handler and the number of arguments that its primitive has (None: any)."""

    handler: Handler
    arity: int | None


HANDLERS: dict[str, Entry] = {}


def handles(name: str, arity: int | None) -> Callable[[Handler], Handler]:
    """Register the handler of a primitive."""

    def register(handler: Handler) -> Handler:
        HANDLERS[name] = Entry(handler, arity)
        return handler

    return register


def load() -> dict[str, Entry]:
    for family in FAMILIES:
        importlib.import_module(f".{family}", __package__)
    return HANDLERS


Index = int  # methods called `int` and `bool` hide the types
Ints = tuple[int, ...]


class Call:
    """A primitive with its arguments and attributes. Accessors raise InvalidModel for what has another kind."""

    def __init__(self, builder: Builder, primitive: str, args: list[Any], attrs: dict[str, Any], where: str) -> None:
        self.builder = builder
        self.primitive = primitive
        self.args = args
        self.attrs = attrs
        self.where = where

    def wrong(self, what: str) -> InvalidModel:
        return InvalidModel(f"{clean(self.primitive)}: {what}", where=self.where)

    def tensor(self, index: Index) -> Value:
        """A tensor argument; a constant tensor becomes a constant of the module."""
        return self.as_tensor(self.args[index], f"argument {index}")

    def as_tensor(self, arg: Any, what: str) -> Value:
        if isinstance(arg, Value):
            return arg
        if isinstance(arg, Tensor):
            return self.builder.const(arg)
        raise self.wrong(f"{what} is no tensor")

    def tensors(self, index: Index) -> list[Value]:
        """A tuple of tensors."""
        items = self.args[index]
        if not isinstance(items, (tuple, list)):
            raise self.wrong(f"argument {index} is no tuple")
        return [self.as_tensor(item, f"an element of argument {index}") for item in items]

    def _plain(self, index: Index, kinds: tuple[type, ...], what: str) -> Any:
        arg = self.args[index]
        if type(arg) not in kinds:
            raise self.wrong(f"argument {index} is no {what}")
        return arg

    def int(self, index: Index) -> Any:
        return self._plain(index, (int,), "integer")

    def bool(self, index: Index) -> Any:
        return self._plain(index, (bool,), "truth value")

    def number(self, index: Index) -> float:
        return self._plain(index, (int, float), "number")

    def ints(self, index: Index) -> Ints:
        """A tuple of plain integers."""
        return self._integers(self.args[index], f"argument {index}")

    def _integers(self, items: Any, what: str) -> Ints:
        if not isinstance(items, (tuple, list)) or any(type(i) is not int for i in items):
            raise self.wrong(f"{what} is no tuple of integers")
        return tuple(items)

    def shape(self, index: Index) -> Any:
        """A tuple of integers, some of them computed, as an operand for the builder."""
        items = self.args[index]
        if isinstance(items, Value):
            return items
        if isinstance(items, (tuple, list)) and any(isinstance(i, Value) for i in items):
            parts = [i if isinstance(i, Value) else self.builder.const(np.asarray(i, np.int64)) for i in items]
            return self.builder.call("ms.make_tuple", parts).results[0]
        return self.builder.const(np.asarray(self.ints(index), np.int64).reshape(-1))

    def attr(self, name: str, kind: type) -> Any:
        """A required attribute of exactly this Python type."""
        value = self.attrs.get(name)
        if type(value) is not kind:
            raise self.wrong(f"attribute {name} is missing or no {kind.__name__}")
        return value

    def attr_ints(self, name: str, count: Index | None = None) -> Ints:
        """A required tuple of integers, `count` of them."""
        made = self._integers(self.attrs.get(name), f"attribute {name}")
        if count is not None and len(made) != count:
            raise self.wrong(f"attribute {name} has {len(made)} entries, expected {count}")
        return made

    def rank(self, value: Value) -> Index:
        if value.rank is None:
            raise self.wrong("the rank of an argument is not known")
        return value.rank

    def dtype(self, value: Value) -> DType:
        if value.dtype is None:
            raise self.wrong("the dtype of an argument is not known")
        return value.dtype
