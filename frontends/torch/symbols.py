"""Sizes known only at run time: torch's symbolic expressions as dims, and dims as values of the graph.

A dim is turned into nodes where a handler needs it as a tensor: each of its symbols is read from the shape of a value
that has it as a dim (or as an affine function of it), the rest is integer arithmetic. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Callable

from ...formats.pt2_symbols import Sym
from ...ir.builder import Builder
from ...ir.dims import Dim, ceildiv, dim_max, dim_min, sym, symbols
from ...ir.errors import InvalidModel, Unsupported, clean
from ...ir.expr import Atom, Expr, terms_of
from ...ir.types import F64, I64
from ...ir.value import Value
from .registry import Symbolic

_MAX_POWER = 16


class Symbols:
    """The symbols of one program: their names in the IR, and where their run-time values come from."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.sources: dict[str, Callable[[Builder], Value]] = {}
        self._made: dict[tuple[int, str], Value] = {}

    # From torch's trees.

    def dim(self, tree: Sym) -> Dim:
        """The dim that a tree describes. Raises Unsupported for what is no integer."""
        if isinstance(tree, int):
            return tree
        if isinstance(tree, str):
            return sym(self.names.get(tree, tree))
        if not isinstance(tree, tuple):
            raise Unsupported(f"{tree} where an integer size is needed")
        operation, *args = tree
        if operation == "truediv":
            raise Unsupported("a size that is a fraction")
        if operation in ("trunc", "floor", "ceil"):
            return self._rounded(operation, args[0])
        build = _DIMS.get(operation)
        if build is None:
            raise Unsupported(f"a size computed by {operation!r}")
        return build(*map(self.dim, args))

    def _rounded(self, operation: str, inner: Sym) -> Dim:
        """Integer division written as a rounded true division (sizes are not negative, so trunc is floor)."""
        if isinstance(inner, tuple) and inner[0] == "truediv":
            a, b = self.dim(_without_float(inner[1])), self.dim(_without_float(inner[2]))
            return ceildiv(a, b) if operation == "ceil" else a // b
        return self.dim(_without_float(inner))

    def number(self, tree: Sym) -> Dim | float | Symbolic:
        """A symbolic int or float argument: a number, a dim, or a float to be computed at run time."""
        if isinstance(tree, float):
            return tree
        return Symbolic(tree) if isinstance(tree, tuple) and is_float(tree) else self.dim(tree)

    # Into the graph.

    def learn(self, value: Value) -> None:
        """Remember which symbols can be read from the shape of `value`; the first value that has one stays its source."""
        for axis, size in enumerate(value.shape or ()):
            names = symbols(size)
            if len(names) == 1 and names[0] not in self.sources and isinstance(size, Expr):
                affine = _affine(size)
                if affine is not None:
                    self.sources[names[0]] = _Read(value, axis, *affine)

    def define(self, name: str, value: Value) -> None:
        """The symbol `name` is the only element of `value` (an `item()` call)."""
        self.sources.setdefault(name, lambda b: b.cast(b.reshape(value, b.const([], I64)), to=I64))

    def value(self, b: Builder, dim: Dim) -> Value:
        """`dim` as an i64 scalar of the graph."""
        if not isinstance(dim, Expr):
            return b.const(dim, I64)
        total: Value | None = None
        for mono, coefficient in terms_of(dim):
            term = self._term(b, mono, coefficient)
            total = term if total is None else b.add(total, term)
        assert total is not None
        return total

    def _term(self, b: Builder, mono: tuple[tuple[Atom, int], ...], coefficient: int) -> Value:
        term: Value | None = b.const(coefficient, I64) if coefficient != 1 or not mono else None
        for atom, power in mono:
            if power > _MAX_POWER:
                raise Unsupported(f"a size to the power {power}")
            for _ in range(power):
                factor = self._atom(b, atom)
                term = factor if term is None else b.mul(factor, term)
        assert term is not None
        return term

    def _atom(self, b: Builder, atom: Atom) -> Value:
        if atom.kind == "sym":
            return self._symbol(b, atom.args[0])
        args = [self.value(b, arg) for arg in atom.args]
        operation = {"div": b.floor_div, "mod": b.mod, "min": b.min, "max": b.max}[atom.kind]
        total = args[0]
        for arg in args[1:]:
            total = operation(total, arg)
        return total

    def _symbol(self, b: Builder, name: str) -> Value:
        made = self._made.get((id(b.graph), name))
        if made is None:
            source = self.sources.get(name)
            if source is None:
                raise Unsupported(f"the size {clean(name)} is needed as a number but is no dim of an input")
            made = self._made[id(b.graph), name] = source(b)
        return made

    def float_value(self, b: Builder, tree: Sym) -> Value:
        """A symbolic float as an f64 scalar of the graph."""
        if isinstance(tree, float):
            return b.const(tree, F64)
        if not isinstance(tree, tuple) or not is_float(tree):
            return b.cast(self.value(b, self.dim(tree)), to=F64)
        operation, *args = tree
        build = _FLOATS.get(operation)
        if build is None:
            raise Unsupported(f"a number computed from sizes by {operation!r}")
        values = [self.float_value(b, arg) for arg in args]
        total = values[0] if len(values) > 1 else build(b, values[0])
        for value in values[1:]:
            total = build(b, total, value)
        return total


class _Read:
    """Reads a symbol from `factor * symbol + offset == size of value along axis`."""

    def __init__(self, value: Value, axis: int, factor: int, offset: int) -> None:
        self.value, self.axis, self.factor, self.offset = value, axis, factor, offset

    def __call__(self, b: Builder) -> Value:
        size = b.squeeze(b.shape(self.value, start=self.axis, end=self.axis + 1), (0,))
        if self.offset:
            size = b.sub(size, b.const(self.offset, I64))
        return size if self.factor == 1 else b.floor_div(size, b.const(self.factor, I64))


def _affine(dim: Expr) -> tuple[int, int] | None:
    """(factor, offset) of `factor * symbol + offset`; None for anything else."""
    factor = offset = 0
    for mono, coefficient in terms_of(dim):
        if not mono:
            offset = coefficient
        elif len(mono) == 1 and mono[0][1] == 1 and mono[0][0].kind == "sym":
            factor = coefficient
        else:
            return None
    return (factor, offset) if factor > 0 else None


def _without_float(tree: Sym) -> Sym:
    return tree[1] if isinstance(tree, tuple) and tree[0] == "float" else tree


def is_float(tree: Sym) -> bool:
    """The tree's value is a float. Depth is bounded by the parser."""
    if isinstance(tree, float):
        return True
    if not isinstance(tree, tuple):
        return False
    if tree[0] in ("trunc", "floor", "ceil", "round"):
        return False
    return tree[0] in ("float", "truediv", "sqrt") or any(map(is_float, tree[1:]))


def _power(base: Dim, exponent: Dim) -> Dim:
    if not isinstance(exponent, int) or not 0 <= exponent <= _MAX_POWER:
        raise Unsupported(f"a size to the power {exponent}")
    total: Dim = 1
    for _ in range(exponent):
        total = total * base
    return total


def _chain(step: Callable[[Dim, Dim], Dim]) -> Callable[..., Dim]:
    def fold(first: Dim, *rest: Dim) -> Dim:
        for item in rest:
            first = step(first, item)
        return first

    return fold


def _divided(a: Dim, b: Dim) -> Dim:
    if b == 0:
        raise InvalidModel("a size is divided by zero")
    return a // b


_DIMS: dict[str, Callable[..., Dim]] = {
    "add": _chain(lambda a, b: a + b), "mul": _chain(lambda a, b: a * b), "pow": _power, "floordiv": _divided,
    "ceildiv": ceildiv, "mod": lambda a, b: a - b * _divided(a, b), "min": dim_min, "max": dim_max,
    "identity": lambda a: a,
}  # fmt: skip
_FLOATS: dict[str, Callable[..., Value]] = {
    "add": lambda b, x, y: b.add(x, y), "mul": lambda b, x, y: b.mul(x, y), "truediv": lambda b, x, y: b.div(x, y),
    "pow": lambda b, x, y: b.pow(x, y), "sqrt": lambda b, x: b.sqrt(x), "float": lambda b, x: x,
    "identity": lambda b, x: x, "min": lambda b, x, y: b.min(x, y), "max": lambda b, x, y: b.max(x, y),
}  # fmt: skip
