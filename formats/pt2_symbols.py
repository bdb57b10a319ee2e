"""Symbolic integers as torch writes them into `.pt2` files and prints them, read by a parser of our own.

torch stores sympy's `srepr` (`Mul(Integer(2), Symbol('s0', positive=True))`) and, in older files and in printed form, infix
text (`2*s0 + 1`, `Mod(s0, 2)`, `s0//2`). Both become the same small tree; nothing is evaluated and sympy is not needed.
Must not import torch, sympy or anything of the IR but its errors.
"""

from __future__ import annotations

import math
import re

from ..ir.errors import InvalidModel, LimitExceeded, Unsupported

Sym = int | float | str | tuple
"""A number, the name of a symbol, or `(operation, *Sym)` with an operation of `OPERATIONS`."""

MAX_LENGTH = 16384
MAX_DEPTH = 64

OPERATIONS = {
    "Add": "add", "Mul": "mul", "Pow": "pow", "PowByNatural": "pow", "FloatPow": "pow",
    "FloorDiv": "floordiv", "CleanDiv": "floordiv", "CeilDiv": "ceildiv",
    "IntTrueDiv": "truediv", "FloatTrueDiv": "truediv", "Rational": "truediv",
    "Mod": "mod", "PythonMod": "mod", "Min": "min", "Max": "max",
    "TruncToInt": "trunc", "FloorToInt": "floor", "floor": "floor", "CeilToInt": "ceil", "ceiling": "ceil",
    "RoundToInt": "round", "ToFloat": "float", "OpaqueUnaryFn_sqrt": "sqrt", "sqrt": "sqrt",
    "Identity": "identity",
}  # fmt: skip
_ARITY = {"floordiv": 2, "ceildiv": 2, "truediv": 2, "mod": 2, "pow": 2} | dict.fromkeys(
    ("trunc", "floor", "ceil", "round", "float", "sqrt", "identity"), 1
)
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?)|(?P<name>[A-Za-z_][A-Za-z_0-9.]*)"
    r"|(?P<string>'[^'\\]*')|(?P<mark>\*\*|//|[-+*/%(),=]))",
    re.ASCII,
)
_INFIX = {
    "+": ("add", 1),
    "-": ("sub", 1),
    "*": ("mul", 2),
    "/": ("truediv", 2),
    "//": ("floordiv", 2),
    "%": ("mod", 2),
}


def parse_symbolic(text: str) -> Sym:
    """The tree of one expression. Raises InvalidModel for bad syntax, Unsupported for an unknown function."""
    if len(text) > MAX_LENGTH:
        raise LimitExceeded(f"symbolic expression of {len(text)} characters (limit {MAX_LENGTH})")
    return _Parser(text).whole()


def symbols_of(tree: Sym) -> list[str]:
    """The names of the symbols in `tree`, each once, in the order of their first appearance."""
    found: dict[str, None] = {}
    stack = [tree]
    while stack:
        top = stack.pop()
        if isinstance(top, str):
            found.setdefault(top)
        elif isinstance(top, tuple):
            stack.extend(reversed(top[1:]))
    return list(found)


class _Parser:
    """Recursive descent with a depth counter."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._split(text)
        self.at = 0
        self.depth = 0

    def _split(self, text: str) -> list[tuple[str, str]]:
        tokens, position, end = [], 0, len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._bad(f"unexpected character at {position}")
            tokens.append((match.lastgroup or "", match.group().strip()))
            position = match.end()
        return [*tokens, ("end", "")]

    def _bad(self, why: str) -> InvalidModel:
        return InvalidModel(f"symbolic expression {self.text[:120]!r}: {why}")

    def _take(self, mark: str) -> bool:
        if self.tokens[self.at] == ("mark", mark):
            self.at += 1
            return True
        return False

    def _next(self) -> tuple[str, str]:
        token = self.tokens[self.at]
        if token[0] == "end":
            raise self._bad("ends too early")
        self.at += 1
        return token

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise self._bad(f"{mark!r} expected before {self.tokens[self.at][1]!r}")

    def whole(self) -> Sym:
        tree = self.sum()
        if self.tokens[self.at][0] != "end":
            raise self._bad(f"unexpected {self.tokens[self.at][1]!r}")
        return tree

    def sum(self, level: int = 1) -> Sym:
        """A chain of operators of `level` (1: + -, 2: * / // %), left to right."""
        self.depth += 1
        if self.depth > MAX_DEPTH * 4:
            raise LimitExceeded(f"symbolic expression nested deeper than {MAX_DEPTH}")
        left = self.sum(2) if level == 1 else self.power()
        while True:
            kind, mark = self.tokens[self.at]
            name, bound = _INFIX.get(mark, ("", 0)) if kind == "mark" else ("", 0)
            if bound != level:
                self.depth -= 1
                return left
            self.at += 1
            right = self.sum(2) if level == 1 else self.power()
            left = ("add", left, ("mul", -1, right)) if name == "sub" else (name, left, right)

    def power(self) -> Sym:
        """A signed atom, maybe to a power: `-a**b` is `-(a**b)`."""
        sign = 1
        while self.tokens[self.at] in (("mark", "-"), ("mark", "+")):
            sign = -sign if self.tokens[self.at][1] == "-" else sign
            self.at += 1
        base = self.atom()
        if self._take("**"):
            self.depth += 1
            if self.depth > MAX_DEPTH * 4:
                raise LimitExceeded(f"symbolic expression nested deeper than {MAX_DEPTH}")
            base = ("pow", base, self.power())
            self.depth -= 1
        if sign == 1:
            return base
        return -base if isinstance(base, int | float) else ("mul", -1, base)

    def atom(self) -> Sym:
        kind, text = self._next()
        if kind == "number":
            return self._number(text)
        if kind == "name":
            return self._call(text.rsplit(".", 1)[-1]) if self._take("(") else text
        if (kind, text) == ("mark", "("):
            tree = self.sum()
            self._expect(")")
            return tree
        raise self._bad(f"unexpected {text or 'end'!r}")

    def _number(self, text: str) -> int | float:
        if not text.isdigit():
            if not math.isfinite(float(text)):
                raise self._bad("a number out of range")
            return float(text)
        if len(text) > 19:
            raise self._bad("an integer of more than 19 digits")
        return int(text)

    def _call(self, name: str) -> Sym:
        if name in ("Symbol", "Float", "Integer"):
            return self._literal(name)
        operation = OPERATIONS.get(name)
        if operation is None:
            raise Unsupported(f"symbolic expression {self.text[:120]!r}: unknown function {name!r}")
        args: list[Sym] = []
        while not self._take(")"):
            if args:
                self._expect(",")
            if self._option():
                continue
            args.append(self.sum())
        if not args or len(args) != _ARITY.get(operation, len(args)):
            raise self._bad(f"{name} with {len(args)} arguments")
        return (operation, *args)

    def _option(self) -> bool:
        """Skip `evaluate=False` and the like: how sympy was to build the term, not what it means."""
        if self.tokens[self.at][0] == "name" and self.tokens[self.at + 1] == ("mark", "="):
            self.at += 2
            self._next()
            return True
        return False

    def _literal(self, name: str) -> Sym:
        negative = self._take("-")
        kind, text = self._next()
        while self._take(","):
            if not self._option():
                raise self._bad(f"{name} takes one value")
        self._expect(")")
        if name == "Symbol" and kind == "string" and re.fullmatch(r"[A-Za-z_][A-Za-z_0-9]*", text[1:-1], re.ASCII):
            return text[1:-1]
        if (
            name == "Float"
            and kind == "string"
            and re.fullmatch(r"-?[0-9]+(\.[0-9]*)?(e[-+]?[0-9]{1,3})?", text[1:-1], re.ASCII)
        ):
            return float(text[1:-1])
        if kind != "number" or name == "Symbol":
            raise self._bad(f"{name} of {text!r}")
        value = self._number(text)
        return -value if negative else value
