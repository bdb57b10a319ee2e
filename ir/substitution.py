"""Something in place of an expression's symbols: numbers (`evaluate`) or other dims (`rebuild`). Use it through `dims`.

Imports `expr` and `errors` only. Depth is capped where expressions are made, hence the recursion here is bounded.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

from .errors import InvalidModel, UsageError, clean
from .expr import Atom, Dim, Expr, Ranges, extremum, floordiv, modulo, sym


def evaluate(dim: Dim, bindings: Mapping[str, int]) -> int:
    """The number that `dim` has when each symbol has its bound value. UsageError for a symbol without one."""
    if not isinstance(dim, Expr):
        return dim
    total = 0
    for mono, coefficient in dim.terms:
        for atom, power in mono:
            coefficient *= _evaluate_atom(atom, bindings) ** power
        total += coefficient
    return total


def _evaluate_atom(atom: Atom, bindings: Mapping[str, int]) -> int:
    if atom.kind == "sym":
        if atom.args[0] not in bindings:
            raise UsageError(f"the dim {clean(atom.args[0])} has no value", hint=f"give one: {clean(atom.args[0])}=...")
        return operator.index(bindings[atom.args[0]])
    values = [evaluate(arg, bindings) for arg in atom.args]
    if atom.kind in ("div", "mod") and values[1] == 0:
        raise InvalidModel(f"the dim {clean(atom.text)} divides by zero")
    return _NUMBERS[atom.kind](*values)


_NUMBERS: dict[str, Callable[..., int]] = {"div": operator.floordiv, "mod": operator.mod, "min": min, "max": max}


def rebuild(dim: Dim, symbol: Callable[[str], Dim | None], ranges: Ranges | None = None) -> Dim:
    """`dim` made anew with `symbol(name)` for each symbol (None keeps it) and min/max decided under `ranges`."""
    if not isinstance(dim, Expr):
        return dim
    total: Dim = 0
    for mono, coefficient in dim.terms:
        product: Dim = coefficient
        for atom, power in mono:
            factor = _rebuild_atom(atom, symbol, ranges)
            for _ in range(power):
                product = product * factor
        total = total + product
    return total


def _rebuild_atom(atom: Atom, symbol: Callable[[str], Dim | None], ranges: Ranges | None) -> Dim:
    if atom.kind == "sym":
        new = symbol(atom.args[0])
        return sym(atom.args[0]) if new is None else new
    args = [rebuild(arg, symbol, ranges) for arg in atom.args]
    if atom.kind in ("min", "max"):
        return extremum(atom.kind, args, ranges)
    return (floordiv if atom.kind == "div" else modulo)(*args)
