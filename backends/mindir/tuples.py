"""Shape arguments as tuples of integers: constants, tuples of computed dims, or the elements of a computed vector.

MindSpore refuses a tensor where it wants a shape. A dim that a symbol spells is read from a value that has it
(`TupleGetItem(Shape(x), i)`), which keeps the compiled graph free of data-dependent shapes; only what no symbol spells
goes through TensorToTuple. Must not import MindSpore.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import Dim, symbols
from ...ir.expr import Atom, terms_of
from ...ir.types import I64
from ...ir.value import Node, Value

_MAKERS = ("ms.make_tuple", "ms.tensor_to_tuple")
_SCALARS = ("ms.dim", "ms.scalar", "ms.item")


def is_tuple(value: Value) -> bool:
    """This operand can be written as a tuple."""
    return value.ints() is not None or (value.node is not None and value.node.name in _MAKERS)


def is_scalar(value: Value) -> bool:
    """This value is a scalar in MindSpore, not a tensor of rank 0."""
    return value.node is not None and value.node.name in _SCALARS


def scalar_of(b: Builder, node: Node, value: Value) -> Value:
    """A rank-0 value as a scalar: spelled by dims where inference knows it, else taken out of the tensor."""
    known = value.elems[0] if value.elems else None
    if known is not None and type(known) is not int:
        wanted = dict.fromkeys(symbols(known))
        sources = _sources(node, wanted)
        if len(sources) == len(wanted):
            return _Maker(b, sources).scalar(known)
    return b.call("ms.item", (value,)).results[0]


def needs_tuple(index: int):
    """A check that operand `index` can be written as a tuple."""

    def check(node: Node) -> str | None:
        return None if is_tuple(node.operands[index]) else "a computed shape becomes a tuple first"

    return check


def tuple_of(b: Builder, node: Node, dims: Sequence[Dim], operand: Value, *, rest: bool = False) -> Value:
    """A tuple with these dims for `node`. `rest`: one unknown dim may be -1. `operand` is the computed vector."""
    unknown = [i for i, d in enumerate(dims) if type(d) is not int]
    if not unknown:
        return b.const(np.asarray(list(dims), np.int64))
    if rest and len(unknown) == 1 and 0 not in dims:
        return b.const(np.asarray([-1 if i in unknown else d for i, d in enumerate(dims)], np.int64))
    spelled = _spelled(b, node, dims)
    if spelled is not None:
        return spelled
    if is_tuple(operand):
        return operand
    return b.call("ms.tensor_to_tuple", (operand if operand.dtype is I64 else b.cast(operand, to=I64),)).results[0]


def _spelled(b: Builder, node: Node, dims: Sequence[Dim]) -> Value | None:
    """ms.make_tuple of dims whose symbols are dims of values that stand before `node`."""
    wanted = dict.fromkeys(s for dim in dims for s in symbols(dim))
    sources = _sources(node, wanted)
    if len(sources) < len(wanted):
        return None
    maker = _Maker(b, sources)
    return b.call("ms.make_tuple", [maker.scalar(dim) for dim in dims]).results[0]


def _sources(node: Node, wanted: dict[str, None]) -> dict[str, tuple[Value, int]]:
    """For each symbol a value and the axis that is it: graph inputs first, then the nearest node before."""
    found: dict[str, tuple[Value, int]] = {}

    def look(value: Value) -> None:
        for axis, dim in enumerate(value.shape or ()):
            name = getattr(dim, "symbol", None)
            if name in wanted:
                found.setdefault(name, (value, axis))

    for value in node.graph.inputs:
        look(value)
    for value in node.inputs():
        if not value.is_const:
            look(value)
    at = node.prev
    while at is not None and len(found) < len(wanted):
        for value in at.results:
            look(value)
        at = at.prev
    return found


class _Maker:
    """Builds the scalar of a dim; its recursion is bounded by the depth that expressions may have."""

    def __init__(self, b: Builder, sources: dict[str, tuple[Value, int]]) -> None:
        self.b = b
        self.sources = sources
        self.made: dict[object, Value] = {}

    def scalar(self, dim: Dim) -> Value:
        if type(dim) is int:
            return self.b.const(np.asarray(dim, np.int64))
        if dim not in self.made:
            total = None
            for mono, coefficient in terms_of(dim):
                term = None if coefficient == 1 and mono else self.scalar(coefficient)
                for atom, power in mono:
                    for _ in range(power):
                        term = self._joined("mul", term, self._atom(atom))
                total = self._joined("add", total, term)
            self.made[dim] = total
        return self.made[dim]

    def _atom(self, atom: Atom) -> Value:
        if atom not in self.made:
            if atom.kind == "sym":
                value, axis = self.sources[atom.args[0]]
                self.made[atom] = self.b.call("ms.dim", (value,), {"axis": axis}).results[0]
            else:
                made = self.scalar(atom.args[0])
                for arg in atom.args[1:]:
                    made = self._joined(atom.kind, made, self.scalar(arg))
                self.made[atom] = made
        return self.made[atom]

    def _joined(self, kind: str, a: Value | None, c: Value) -> Value:
        return c if a is None else self.b.call("ms.scalar", (a, c), {"kind": kind}).results[0]
