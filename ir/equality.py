"""Structural equality of modules: what `==` means and, when it is false, where the first difference is."""

from __future__ import annotations

from dataclasses import replace

from .graph import Graph, Module, Node, Value
from .signature import Slot
from .symbols import Renaming, anonymous
from .types import Type
from .weights import Weight


class _Pair:
    """Two modules side by side: values found equal so far, and one naming of the symbols that have no name of their
    own."""

    def __init__(self, a: Module, b: Module) -> None:
        self.same: dict[Value, Value] = {}
        self.left: Renaming = anonymous(a)
        self.right: Renaming = anonymous(b)

    def types(self, a: list[Value] | tuple[Value, ...], b: list[Value] | tuple[Value, ...]) -> bool:
        return len(a) == len(b) and all(self._type(x.type, y.type) for x, y in zip(a, b, strict=True))

    def _type(self, a: Type, b: Type) -> bool:
        return self.left.type(a) is self.right.type(b)


def first_difference(a: Module, b: Module) -> str | None:
    """Where two modules differ first, in words; None when they are equal.

    Compared: graphs by name, ops, attributes, operands, result types, weights (key for params and buffers, type,
    digest), signatures, facts. Not compared: hints, locations, metadata, diagnostics, unused weights.
    """
    if list(a.graphs) != list(b.graphs):
        return f"graphs: {list(a.graphs)} and {list(b.graphs)}"
    pair = _Pair(a, b)
    for name in a.graphs:
        found = _graphs(a.graphs[name], b.graphs[name], pair, f"@{name}")
        if found:
            return found
    agree = pair.left.facts(a.facts) == pair.right.facts(b.facts)
    return _signatures(a, b) or (None if agree else "facts differ")


def _graphs(a: Graph, b: Graph, pair: _Pair, where: str) -> str | None:
    pending = [(a, b, where)]
    while pending:
        left, right, place = pending.pop()
        if not pair.types(left.inputs, right.inputs):
            return f"{place}: inputs {left.inputs} and {right.inputs}"
        pair.same.update(zip(left.inputs, right.inputs, strict=True))
        mine, other = left.first, right.first
        while True:
            found = _nodes(mine, other, pair, place)
            if found:
                return found
            pending.extend((x, y, f"{place}/{mine.name}") for x, y in zip(mine.regions, other.regions, strict=True))
            if mine is left.return_node:
                break
            mine, other = mine.next, other.next  # type: ignore[assignment]
    return None


def _nodes(a: Node, b: Node, pair: _Pair, where: str) -> str | None:
    if a.op is not b.op or pair.left.attrs(a.attrs) != pair.right.attrs(b.attrs):
        return f"{where}: {a} and {b}"
    if len(a.operands) != len(b.operands) or len(a.regions) != len(b.regions):
        return f"{where}: operands of {a} and {b}"
    for x, y in zip(a.operands, b.operands, strict=True):
        if not _values(x, y, pair.same):
            return f"{where}: operand {x} of {a} and {y} of {b}"
    if not pair.types(a.results, b.results):
        return f"{where}: result types of {a} and {b}"
    pair.same.update(zip(a.results, b.results, strict=True))
    return None


def _values(a: Value | None, b: Value | None, same: dict[Value, Value]) -> bool:
    if a is None or b is None:
        return a is b
    if a.weight is None or b.weight is None:
        return same.get(a) is b
    if same.get(a) is b:
        return True
    if not _weights(a.weight, b.weight):
        return False
    same[a] = b  # a hint only: unnamed constants are equal by contents, however often each side stores them
    return True


def _signatures(a: Module, b: Module) -> str | None:
    if list(a.signatures) != list(b.signatures):
        return f"signatures: {list(a.signatures)} and {list(b.signatures)}"
    for key, left in a.signatures.items():
        right = b.signatures[key]
        if left.graph.name != right.graph.name:
            return f"signature {key!r} is of @{left.graph.name} and @{right.graph.name}"
        if (left.outputs, left.state) != (right.outputs, right.state) or not _slots(left.inputs, right.inputs):
            return f"signature {key!r}: slots differ"
    return None


def _slots(a: list[Slot], b: list[Slot]) -> bool:
    """The same inputs with the same defaults."""
    if [replace(slot, default=None) for slot in a] != [replace(slot, default=None) for slot in b]:
        return False
    pairs = [(x.default, y.default) for x, y in zip(a, b, strict=True)]
    return all(x is y or (x is not None and y is not None and _weights(x, y)) for x, y in pairs)


def _weights(a: Weight, b: Weight) -> bool:
    """The same contents and role; the same key too, unless the weight is a nameless one."""
    if a.role != b.role or (a.key != b.key and a.role != "const") or a.type is not b.type:
        return False
    return a.tensor.digest() == b.tensor.digest()
