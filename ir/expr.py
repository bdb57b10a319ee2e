"""Symbolic integer expressions in normal form; use them through `dims`, which adds facts, comparison and parsing.

An expression is an integer polynomial over atoms; an atom is a symbol or an opaque floordiv, mod, min or max of
expressions. Expressions and atoms are interned, so equal normal forms are one object. A symbol stands for an integer
>= 0. Whatever grows over a cap becomes one opaque symbol named by the digest of what it stands for. Depth is capped
too, hence the recursion here is bounded. Imports `errors` only.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Union

from .errors import InvalidModel, clean

_CACHED = 1 << 14  # results that are remembered per operation: a graph repeats few shapes many times
MAX_TERMS, MAX_DEPTH, MAX_DEGREE, MAX_BITS, MAX_TEXT = 64, 24, 32, 128, 1 << 16

Dim = Union[int, "Expr"]
Mono = tuple[tuple["Atom", int], ...]  # atoms with their powers, ordered by text; () is the constant's
Bound = int | float  # a Python int or an infinity
Ranges = Callable[[str], tuple[Bound, Bound]]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
#: Names that stand for nothing but themselves: made by `fresh`, or for what grew over a cap.
ANONYMOUS = re.compile(r"_(?:[0-9]{1,18}|[nz][0-9a-f]{16})\Z")
SIGNED = re.compile(r"_z[0-9a-f]{16}\Z")  # of the latter, those that may be negative
_FRESH = re.compile(r"_[0-9]{1,18}\Z")
_DIGITS = re.compile(r"[0-9]+")
FUNCTIONS = ("min", "max", "ceildiv")


class Atom:
    """A symbol (`args` is its name) or an opaque operation on dims. Interned."""

    __slots__ = ("args", "depth", "kind", "order", "text")
    _interned: ClassVar[dict[tuple[Any, ...], Atom]] = {}

    kind: str
    args: tuple[Any, ...]
    depth: int
    text: str
    order: tuple[str, str]  # text with its numbers padded: _9 before _10, so that only their sequence counts

    def __new__(cls, kind: str, *args: Any) -> Atom:
        found = cls._interned.get((kind, *args))
        if found is None:
            found = object.__new__(cls)
            found.kind, found.args = kind, args
            found.depth = 0 if kind == "sym" else 1 + max(depth_of(arg) for arg in args)
            found.text = _atom_text(kind, args)
            found.order = natural(found.text)
            if kind == "sym" and _FRESH.match(args[0]):
                Expr._fresh = max(Expr._fresh, int(args[0][1:]) + 1)
            cls._interned[(kind, *args)] = found
        return found

    @property
    def signed(self) -> bool:
        return bool(SIGNED.match(self.args[0]))

    def __reduce__(self) -> tuple[Any, ...]:
        return Atom, (self.kind, *self.args)


class Expr:
    """A dim that is not a number: two terms or more, or one that holds an atom. Made by operators, `sym`, `fresh`.

    Interned: `a is b` where normal forms agree, and `==` is that. Supports + - * // % with ints and expressions
    (Python's floor semantics), has no truth value and no order (see `dims.dim_eq`, `dim_lt`, `dim_le`).
    """

    __slots__ = ("depth", "terms", "text")
    __array_ufunc__ = None  # numpy integers on the left hand the operation over
    _interned: ClassVar[dict[tuple[Any, ...], Expr]] = {}
    _fresh: ClassVar[int] = 0

    terms: tuple[tuple[Mono, int], ...]
    depth: int
    text: str

    def __new__(cls, terms: tuple[tuple[Mono, int], ...]) -> Expr:
        found = cls._interned.get(terms)
        if found is None:
            found = object.__new__(cls)
            found.terms = terms
            found.depth = max(atom.depth for mono, _ in terms for atom, _ in mono)
            found.text = _terms_text(terms)
            cls._interned[terms] = found
        return found

    @staticmethod
    def fresh() -> Expr:
        """A new symbol, `_0`, `_1` ...: its number is above all that this process has seen."""
        return sym(f"_{Expr._fresh}")

    @staticmethod
    def mark() -> int:
        """A point in time: see `made_since`."""
        return Expr._fresh

    @property
    def symbol(self) -> str | None:
        """The name when this is a bare symbol."""
        (mono, coefficient), *more = self.terms
        bare = not more and coefficient == 1 and len(mono) == 1 and mono[0][1] == 1 and mono[0][0].kind == "sym"
        return mono[0][0].args[0] if bare else None

    def __add__(self, other: Dim) -> Dim:
        return _binary(add, self, other)

    def __radd__(self, other: Dim) -> Dim:
        return _binary(add, other, self)

    def __sub__(self, other: Dim) -> Dim:
        return _binary(lambda a, b: add(a, b, -1), self, other)

    def __rsub__(self, other: Dim) -> Dim:
        return _binary(lambda a, b: add(a, b, -1), other, self)

    def __mul__(self, other: Dim) -> Dim:
        return _binary(multiply, self, other)

    def __rmul__(self, other: Dim) -> Dim:
        return _binary(multiply, other, self)

    def __floordiv__(self, other: Dim) -> Dim:
        return _binary(floordiv, self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return _binary(floordiv, other, self)

    def __mod__(self, other: Dim) -> Dim:
        return _binary(modulo, self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return _binary(modulo, other, self)

    def __neg__(self) -> Dim:
        return multiply(self, -1)

    def __pos__(self) -> Expr:
        return self

    def __bool__(self) -> bool:
        raise TypeError(f"the symbolic dim {self} has no truth value; use dim_eq, dim_lt or dim_le")

    def __copy__(self) -> Expr:
        return self

    def __deepcopy__(self, memo: object) -> Expr:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Expr, (self.terms,)

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


def natural(text: str) -> tuple[str, str]:
    """A sorting key that takes the numbers in `text` as numbers."""
    return _DIGITS.sub(lambda digits: digits[0].zfill(20), text), text


def sym(name: str) -> Expr:
    """The symbol `name` (any non-empty text), an integer >= 0."""
    if not isinstance(name, str) or not name:
        raise InvalidModel(f"{clean(name)!r} is not the name of a dimension")
    return Expr(((((Atom("sym", name), 1),), 1),))


def made_since(name: str, mark: int) -> bool:
    """`name` is that of a symbol which `fresh` made after `mark` was taken."""
    return bool(_FRESH.match(name)) and int(name[1:]) >= mark


def depth_of(dim: Dim) -> int:
    return dim.depth if isinstance(dim, Expr) else 0


def terms_of(dim: Dim) -> tuple[tuple[Mono, int], ...]:
    return dim.terms if isinstance(dim, Expr) else (((), dim),) if dim else ()


def atoms(dim: Dim) -> Iterator[Atom]:
    """All atoms of `dim`, nested ones too, in order; one may come twice."""
    stack = [dim]
    while stack:
        for mono, _ in terms_of(stack.pop()):
            for atom, _ in mono:
                yield atom
                stack.extend(arg for arg in atom.args if isinstance(arg, Expr))


# --------------------------------------------------------------------------------------------- construction


def _binary(op: Callable[[Dim, Dim], Dim], a: Any, b: Any) -> Dim:
    try:
        return op(
            a if isinstance(a, Expr) else operator.index(a),
            b if isinstance(b, Expr) else operator.index(b),
        )
    except TypeError:
        if isinstance(a, Expr | int) and isinstance(b, Expr | int):
            raise
        return NotImplemented


def _mono_key(mono: Mono) -> tuple[int, tuple[tuple[tuple[str, str], int], ...]]:
    return -sum(power for _, power in mono), tuple((atom.order, -power) for atom, power in mono)


def build(terms: dict[Mono, int]) -> Dim:
    """The normal form of a sum: an int, an expression, or over the caps one opaque symbol."""
    kept = [(mono, coefficient) for mono, coefficient in terms.items() if coefficient]
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    kept.sort(key=lambda term: _mono_key(term[0]))
    ordered = tuple(kept)
    if len(ordered) > MAX_TERMS or any(_too_big(mono, coefficient) for mono, coefficient in ordered):
        return _opaque(_terms_text(ordered), interval(ordered)[0] >= 0)
    found = Expr(ordered)
    return found if len(found.text) <= MAX_TEXT else _opaque(found.text, bounds(found)[0] >= 0)


def _too_big(mono: Mono, coefficient: int) -> bool:
    return coefficient.bit_length() > MAX_BITS or sum(power for _, power in mono) > MAX_DEGREE


def _opaque(text: str, nonnegative: bool) -> Expr:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return sym(f"_{'n' if nonnegative else 'z'}{digest}")


def standing_for(text: str) -> Expr:
    """The symbol, an integer >= 0, that stands for what `text` says: the same for the same text."""
    return _opaque(text, True)


def _make_atom(kind: str, *args: Dim) -> Dim:
    if max(map(depth_of, args)) >= MAX_DEPTH or sum(len(str(arg)) for arg in args) > MAX_TEXT:
        text = _atom_text(kind, args)
        return _opaque(text, _atom_range(kind, args, default_ranges)[0] >= 0)
    return Expr(((((Atom(kind, *args), 1),), 1),))


@functools.lru_cache(maxsize=_CACHED)
def add(a: Dim, b: Dim, sign: int = 1) -> Dim:
    """a + sign*b"""
    if not isinstance(a, Expr) and not isinstance(b, Expr):
        return a + sign * b
    total = dict(terms_of(a))
    for mono, coefficient in terms_of(b):
        total[mono] = total.get(mono, 0) + sign * coefficient
    return build(total)


@functools.lru_cache(maxsize=_CACHED)
def multiply(a: Dim, b: Dim) -> Dim:
    if not isinstance(a, Expr) and not isinstance(b, Expr):
        return a * b
    total: dict[Mono, int] = {}
    for left, x in terms_of(a):
        for right, y in terms_of(b):
            mono = _mono_times(left, right)
            total[mono] = total.get(mono, 0) + x * y
    return build(total)


def _mono_times(a: Mono, b: Mono) -> Mono:
    if not a or not b:
        return a or b
    powers = dict(a)
    for atom, power in b:
        powers[atom] = powers.get(atom, 0) + power
    return tuple(sorted(powers.items(), key=lambda item: item[0].order))


def _mono_over(a: Mono, b: Mono) -> Mono | None:
    """a / b, or None when b does not divide a."""
    powers = dict(a)
    for atom, power in b:
        left = powers.get(atom, 0) - power
        if left < 0:
            return None
        powers[atom] = left
    return tuple((atom, power) for atom, power in powers.items() if power)


def _shared(a: Dim, b: Dim) -> Mono:
    """The largest product of atoms that divides every term of both."""
    monos = [mono for dim in (a, b) for mono, _ in terms_of(dim)]
    powers = dict(monos[0])
    for mono in monos[1:]:
        other = dict(mono)
        powers = {atom: min(power, other[atom]) for atom, power in powers.items() if atom in other}
    return tuple(powers.items())


def _over(a: Dim, mono: Mono) -> Dim:
    """a / mono, where that is known to divide every term."""
    return build({_mono_over(own, mono) or (): coefficient for own, coefficient in terms_of(a)})


def _split(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """(q, r) with a = b*q + r, and r without what `b` (a number > 0, one term, or an exact factor) divides."""
    (lead, divisor), *more = terms_of(b)
    if more:
        return _divide_exactly(a, b)
    quotient: dict[Mono, int] = {}
    rest: dict[Mono, int] = {}
    for mono, coefficient in terms_of(a):
        over = _mono_over(mono, lead)
        whole, left = divmod(coefficient, divisor) if over is not None else (0, coefficient)
        if over is not None and whole and not (lead and left):
            quotient[over] = whole
            coefficient = left
        rest[mono] = coefficient
    return build(quotient), build(rest)


def _divide_exactly(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """Polynomial division by several terms: (q, 0) when it comes out even, else (0, a)."""
    (lead, divisor), *_ = terms_of(b)
    quotient: Dim = 0
    rest = a
    for _ in range(2 * MAX_TERMS):
        if not isinstance(rest, Expr):
            break
        mono, coefficient = rest.terms[0]
        over = _mono_over(mono, lead)
        if over is None or coefficient % divisor:
            break
        step = build({over: coefficient // divisor})
        quotient, rest = quotient + step, rest - step * b
    return (quotient, 0) if not isinstance(rest, Expr) and rest == 0 else (0, a)


def _common(rest: Dim, divisor: int) -> tuple[int, Dim, int]:
    """(g, x, c) with rest = g*x + c, 0 <= c < g, g the gcd of `divisor` and all coefficients but the constant's."""
    g = math.gcd(divisor, *(coefficient for mono, coefficient in terms_of(rest) if mono))
    constant = dict(terms_of(rest)).get((), 0)
    scaled = {mono: coefficient // g for mono, coefficient in terms_of(rest)}
    return g, build(scaled), constant % g


@functools.lru_cache(maxsize=_CACHED)
def floordiv(a: Dim, b: Dim) -> Dim:
    """a // b as Python defines it. InvalidModel when b is the number 0; a symbolic b counts as not 0."""
    if not isinstance(b, Expr):
        if b == 0:
            raise InvalidModel(f"the dim {clean(a)} is divided by zero")
        if not isinstance(a, Expr):
            return a // b
        if b < 0:
            a, b = -a, -b
    elif not isinstance(a, Expr) and a == 0:
        return 0
    quotient, rest = _split(a, b)
    if isinstance(b, Expr):
        if not isinstance(rest, Expr) and rest == 0:
            return quotient
        shared = _shared(rest, b)
        if shared:  # (x*m) // (y*m) = x // y
            return quotient + floordiv(_over(rest, shared), _over(b, shared))
        return quotient + _make_atom("div", rest, b)
    if not isinstance(rest, Expr):
        return quotient + rest // b
    g, rest, _ = _common(rest, b)
    b //= g
    low, high = bounds(rest)
    if b == 1 or (math.isfinite(low) and math.isfinite(high) and low // b == high // b):
        return quotient + (rest if b == 1 else int(low) // b)
    inner, shift = _lone_atom(rest, "div")
    if inner is not None:  # (x // d + c) // b = (x + c*d) // (d*b)
        x, d = inner.args
        return quotient + floordiv(x + shift * d, d * b)
    return quotient + _make_atom("div", rest, b)


def _lone_atom(dim: Dim, kind: str) -> tuple[Atom | None, int]:
    """(atom, c) when `dim` is atom + c, the atom of that kind and over a positive number."""
    terms = terms_of(dim)
    constant = terms[1][1] if len(terms) == 2 and not terms[1][0] else 0
    mono, coefficient = terms[0]
    if len(terms) > 2 or (len(terms) == 2 and terms[1][0]) or coefficient != 1 or len(mono) != 1 or mono[0][1] != 1:
        return None, 0
    atom = mono[0][0]
    return (atom, constant) if atom.kind == kind and not isinstance(atom.args[1], Expr) else (None, 0)


@functools.lru_cache(maxsize=_CACHED)
def modulo(a: Dim, b: Dim) -> Dim:
    """a % b as Python defines it. InvalidModel when b is the number 0; a symbolic b counts as not 0."""
    if not isinstance(b, Expr):
        if b == 0:
            raise InvalidModel(f"the dim {clean(a)} is taken modulo zero")
        if b < 0:
            return -modulo(-a, -b)
        if not isinstance(a, Expr):
            return a % b
        return _modulo_number(a, b)
    _, rest = _split(a, b)
    return 0 if not isinstance(rest, Expr) and rest == 0 else _make_atom("mod", rest, b)


def _modulo_number(a: Dim, b: int) -> Dim:
    while True:
        _, rest = _split(a, b)
        a = _unwrap_mods(rest, b)
        if a is rest or not isinstance(a, Expr):
            break
    if not isinstance(a, Expr):
        return a % b
    g, rest, constant = _common(a, b)
    if b == g:
        return constant
    low, high = bounds(rest)
    if math.isfinite(low) and math.isfinite(high) and low // (b // g) == high // (b // g):
        return g * (rest - int(low) // (b // g) * (b // g)) + constant
    return g * _make_atom("mod", rest, b // g) + constant


def _unwrap_mods(dim: Dim, b: int) -> Dim:
    """Replace x % d by x where b divides d: the same modulo b."""
    for mono, coefficient in terms_of(dim):
        for atom, _ in mono[:1] if len(mono) == 1 and mono[0][1] == 1 else ():
            if atom.kind == "mod" and not isinstance(atom.args[1], Expr) and atom.args[1] % b == 0:
                dim = dim + coefficient * (atom.args[0] - Expr(((mono, 1),)))
    return dim


def extremum(kind: str, args: Iterable[Dim], ranges: Ranges | None = None) -> Dim:
    """The `min` or `max` of some dims; what another argument always beats is left out."""
    flat: list[Dim] = []
    for arg in args:
        terms = terms_of(arg)
        nested = len(terms) == 1 and terms[0][1] == 1 and len(terms[0][0]) == 1 and terms[0][0][0][1] == 1
        atom = terms[0][0][0][0] if nested else None
        flat.extend(atom.args if atom and atom.kind == kind else [arg])
    numbers = [arg for arg in flat if not isinstance(arg, Expr)]
    flat = sorted({arg for arg in flat if isinstance(arg, Expr)}, key=lambda arg: natural(str(arg)))
    if numbers:
        flat.append(min(numbers) if kind == "min" else max(numbers))
    kept = list(flat)
    for arg in flat:
        others = [other for other in kept if other is not arg]
        gaps = (arg - other if kind == "min" else other - arg for other in others)
        if any(bounds(gap, ranges)[0] >= 0 for gap in gaps):
            kept = others
    return kept[0] if len(kept) == 1 else _make_atom(kind, *kept)


# --------------------------------------------------------------------------------------------------- bounds


def default_ranges(name: str) -> tuple[Bound, Bound]:
    return (-math.inf if SIGNED.match(name) else 0), math.inf


def _times(x: Bound, y: Bound) -> Bound:
    if x == 0 or y == 0:
        return 0
    if math.isinf(x) or math.isinf(y):
        return math.inf if (x > 0) == (y > 0) else -math.inf
    return x * y


def _interval_times(a: tuple[Bound, Bound], b: tuple[Bound, Bound]) -> tuple[Bound, Bound]:
    corners = [_times(x, y) for x in a for y in b]
    return min(corners), max(corners)


def interval(terms: Iterable[tuple[Mono, Any]], ranges: Ranges = default_ranges) -> tuple[Any, Any]:
    """Bounds of a sum, each term by itself."""
    low: Any = 0
    high: Any = 0
    for mono, coefficient in terms:
        span: tuple[Bound, Bound] = (coefficient, coefficient)
        for atom, power in mono:
            one = _atom_range(atom.kind, atom.args, ranges)
            for _ in range(power):
                span = _interval_times(span, one)
        low = -math.inf if math.isinf(low) or math.isinf(span[0]) else low + span[0]
        high = math.inf if math.isinf(high) or math.isinf(span[1]) else high + span[1]
    return low, high


def bounds(dim: Dim, ranges: Ranges | None = None) -> tuple[Bound, Bound]:
    """(low, high) that hold for every value of the symbols; infinities where nothing is known."""
    return interval(terms_of(dim), ranges or default_ranges)


def _atom_range(kind: str, args: tuple[Any, ...], ranges: Ranges) -> tuple[Bound, Bound]:
    if kind == "sym":
        return ranges(args[0])
    spans = [bounds(arg, ranges) for arg in args]
    lows, highs = [span[0] for span in spans], [span[1] for span in spans]
    if kind == "min":
        return min(lows), min(highs)
    if kind == "max":
        return max(lows), max(highs)
    low, high = spans[0]
    small, large = spans[1]
    if small < 0:  # a divisor of unknown sign
        return -math.inf, math.inf
    small = max(small, 1)  # symbolic divisors count as not 0
    if kind == "mod":
        return 0, min(large - 1, high) if low >= 0 else large - 1
    floor = [_floor(x, y) for x in (low, high) for y in (small, large)]
    return min(floor), max(floor)


def _floor(x: Bound, y: Bound) -> Bound:
    if math.isinf(x):
        return x
    return x // y if not math.isinf(y) else (0 if x >= 0 else -1)


# ------------------------------------------------------------------------------------------------- printing


def _atom_text(kind: str, args: tuple[Any, ...]) -> str:
    if kind == "sym":
        name = args[0]
        return name if _PLAIN.match(name) and name not in FUNCTIONS else json.dumps(name)
    if kind in ("min", "max"):
        return f"{kind}({', '.join(map(str, args))})"
    left, right = (str(arg) if _is_simple(arg) else f"({arg})" for arg in args)
    return f"{left}//{right}" if kind == "div" else f"{left} % {right}"


def _is_simple(dim: Dim) -> bool:
    """Prints as one name, number or call: needs no parentheses anywhere."""
    if not isinstance(dim, Expr):
        return dim >= 0
    (mono, coefficient), *more = dim.terms
    lone = not more and coefficient == 1 and len(mono) == 1 and mono[0][1] == 1
    return lone and mono[0][0].kind not in ("div", "mod")


def _factor_text(atom: Atom, power: int) -> str:
    text = f"({atom.text})" if atom.kind in ("div", "mod") else atom.text
    return text if power == 1 else f"{text}^{power}"


def _terms_text(terms: tuple[tuple[Mono, int], ...]) -> str:
    out: list[str] = []
    for mono, coefficient in terms:
        factors = [] if abs(coefficient) == 1 and mono else [str(abs(coefficient))]
        lone = coefficient == 1 and len(mono) == 1 and mono[0][1] == 1
        factors += [mono[0][0].text] if lone else [_factor_text(atom, power) for atom, power in mono]
        sign = "-" if coefficient < 0 else "+"
        out.append((f" {sign} " if out else sign.replace("+", "")) + "*".join(factors))
    return "".join(out)
