"""Symbols of a whole module: put other dims in their place, and give the anonymous ones names that mean nothing else.

An anonymous symbol (a dim of which nothing but its identity is known) is named by a counter of the process or by a
digest. Neither may be seen outside: text and comparison rename them by their first appearance in the module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .dims import Dim, Expr, Facts, dim_le, substitute, sym, symbols
from .errors import UsageError, clean
from .expr import ANONYMOUS, SIGNED
from .graph import Module
from .types import MapType, OptionalType, SequenceType, TensorType, Type


class Renaming:
    """Other dims in place of symbols, in dims, types and facts. An empty mapping changes nothing and costs nothing."""

    def __init__(self, mapping: Mapping[str, Dim]) -> None:
        self.mapping = mapping
        self._types: dict[Type, Type] = {}

    def dim(self, old: Dim | None) -> Dim | None:
        return substitute(old, self.mapping) if isinstance(old, Expr) and self.mapping else old

    def type(self, old: Type) -> Type:
        if not self.mapping:
            return old
        if old not in self._types:
            self._types[old] = _rebuilt(old, self.dim)
        return self._types[old]

    def attrs(self, old: Mapping[str, Any]) -> Mapping[str, Any]:
        """Attributes, some of which may be types."""
        if not self.mapping or not any(isinstance(item, Type) for item in old.values()):
            return old
        return {name: self.type(item) if isinstance(item, Type) else item for name, item in old.items()}

    def facts(self, old: Facts) -> Facts:
        """The facts about what stands in the symbols' places; those about numbers are checked and gone. Raises
        UsageError."""
        if not self.mapping:
            return old
        new = Facts()
        for name, ranges in old.ranges.items():
            for low, high, origin in ranges:
                _move_range(new, name, self.mapping.get(name, sym(name)), low, high, origin)
        for name, divisors in old.divisors.items():
            for divisor, origin in divisors:
                _move_divisor(new, name, self.mapping.get(name, sym(name)), divisor, origin)
        for a, b, origin in old.equalities:
            new.add_equal(substitute(a, self.mapping), substitute(b, self.mapping), origin)
        return new


def _rebuilt(old: Type, dim: Callable[[Dim | None], Dim | None]) -> Type:
    wrappers: list[Callable[[Type], Type]] = []
    while isinstance(old, SequenceType | OptionalType | MapType):
        wrappers.append(old.with_elem)
        old = old.elem
    if isinstance(old, TensorType) and old.shape is not None:
        old = TensorType(old.dtype, tuple(dim(d) for d in old.shape))  # type: ignore[misc]
    for wrapper in reversed(wrappers):
        old = wrapper(old)
    return old


def _move_range(new: Facts, name: str, target: Dim, low: int, high: int | None, origin: str) -> None:
    if isinstance(target, Expr) and target.symbol is not None:
        new.add_range(target.symbol, low, high, origin)
    elif dim_le(low, target) is False or (high is not None and dim_le(target, high) is False):
        bounds = f"at least {low}" if high is None else f"{low} to {high}"
        raise UsageError(f"the dim {clean(name)} is {bounds}, it cannot be {clean(target)}")


def _move_divisor(new: Facts, name: str, target: Dim, divisor: int, origin: str) -> None:
    if isinstance(target, Expr) and target.symbol is not None:
        new.add_divisor(target.symbol, divisor, origin)
    elif isinstance(target, int) and target % divisor:
        raise UsageError(f"the dim {clean(name)} is a multiple of {divisor}, it cannot be {target}")


def replace_symbols(module: Module, mapping: Mapping[str, Dim]) -> None:
    """Put dims in place of symbols everywhere in `module`. Raises UsageError where a number contradicts a fact."""
    renaming = Renaming(mapping)
    facts = renaming.facts(module.facts)
    for graph in module.all_graphs():
        for value in (*graph.inputs, *(v for node in graph.nodes() for v in node.results)):
            value.type = renaming.type(value.type)
            if value._elems is not None:
                value._elems = tuple(map(renaming.dim, value._elems))
        for node in graph.nodes():
            for name, item in node.attrs.items():
                if isinstance(item, Type):
                    node.set_attr(name, renaming.type(item))
    module.facts = facts


def anonymous(module: Module) -> Renaming:
    """The renaming of a module's anonymous symbols to `_0`, `_1` ... in the order of their first appearance.
    O(nodes)."""
    found = dict.fromkeys(name for type_ in _types(module) for name in _symbols_of(type_))
    for facts in (module.facts.ranges, module.facts.divisors):
        found.update(dict.fromkeys(facts))
    found.update(dict.fromkeys(n for a, b, _ in module.facts.equalities for d in (a, b) for n in symbols(d)))
    names = [name for name in found if ANONYMOUS.match(name)]
    return Renaming({name: sym(f"_z{i:016x}" if SIGNED.match(name) else f"_{i}") for i, name in enumerate(names)})


def _types(module: Module) -> dict[Type, None]:
    """Each type of values and attributes once."""
    found: dict[Type, None] = {}
    for graph in module.all_graphs():
        found.update((value.type, None) for value in graph.inputs)
        for node in graph.nodes():
            found.update((value.type, None) for value in node.results)
            found.update((item, None) for item in node.attrs.values() if isinstance(item, Type))
    return found


def _symbols_of(type_: Type) -> Iterator[str]:
    while isinstance(type_, SequenceType | OptionalType | MapType):
        type_ = type_.elem
    if isinstance(type_, TensorType):
        for dim in type_.shape or ():
            if isinstance(dim, Expr):
                yield from symbols(dim)


def settle_symbols(module: Module) -> None:
    """Rename anonymous symbols for good, in a module that is about to be written: the same input gives the same bytes."""
    replace_symbols(module, anonymous(module).mapping)
