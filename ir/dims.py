"""Dims: an int or a symbolic expression, with facts about symbols, three-valued comparison and a parser.

`Dim = int | Expr`; `sym("N")` makes a symbol (an integer >= 0), + - * // % work between dims. What comparisons may rely
on stands in `Facts`; a fact that was merely declared justifies no answer. Imports `expr`, `substitution` and `errors` only.
"""

from __future__ import annotations

import functools
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

from .errors import InvalidModel, UsageError, clean
from .expr import MAX_BITS, MAX_DEGREE, MAX_TEXT, Bound, Dim, Expr, Mono, Ranges, sym
from .expr import atoms as _atoms
from .expr import default_ranges as _default_ranges
from .expr import extremum as _extremum
from .expr import interval as _interval
from .expr import natural as _natural
from .expr import terms_of as _terms_of
from .substitution import evaluate as evaluate
from .substitution import rebuild as _rebuild

__all__ = [
    "Dim", "Expr", "Facts", "bind_shape", "ceildiv", "dim_eq", "dim_le", "dim_lt", "dim_max", "dim_min", "dim_range",
    "evaluate", "match_dim", "parse_dim", "simplify", "substitute", "sym", "symbols",
]  # fmt: skip

ORIGINS = ("inferred", "guard", "declared")


def dim_min(*dims: Dim) -> Dim:
    """The smallest of some dims."""
    return _extremum("min", dims)


def dim_max(*dims: Dim) -> Dim:
    """The largest of some dims."""
    return _extremum("max", dims)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """a / b rounded up. InvalidModel when b is the number 0."""
    return -(-a // b) if isinstance(b, Expr) or b < 0 else (a + (b - 1)) // _not_zero(b)


def _not_zero(b: int) -> int:
    if b == 0:
        raise InvalidModel("a dim is divided by zero")
    return b


def symbols(dim: Dim) -> tuple[str, ...]:
    """Names of all symbols in `dim`, each once, sorted (numbers in names as numbers)."""
    return tuple(sorted({atom.args[0] for atom in _atoms(dim) if atom.kind == "sym"}, key=_natural))


def substitute(dim: Dim, mapping: Mapping[str, Dim]) -> Dim:
    """`dim` with symbols replaced, all at once."""
    return _rebuild(dim, mapping.get)


# ---------------------------------------------------------------------------------------------------- facts


class Facts:
    """What is known about a module's symbols: ranges, divisors, equalities, each with its origin.

    `inferred` follows from the graph, `guard` is checked when the model runs or was checked when it was traced,
    `declared` is only said. Comparisons use the first two. Facts of one kind about one thing are intersected.
    """

    __slots__ = ("_solved", "_zero", "divisors", "equalities", "ranges")

    def __init__(self) -> None:
        self.ranges: dict[str, list[tuple[int, int | None, str]]] = {}
        self.divisors: dict[str, list[tuple[int, str]]] = {}
        self.equalities: list[tuple[Dim, Dim, str]] = []
        self._solved: dict[str, Dim] = {}  # symbols that an equality defines, by the others
        self._zero: list[Expr] = []  # expressions that are zero and define no symbol

    def add_range(self, name: str, low: int = 0, high: int | None = None, origin: str = "inferred") -> None:
        """low <= name, and name <= high unless that is None."""
        self._check(origin)
        if high is not None and high < low:
            raise InvalidModel(f"the dim {clean(name)} has an empty range {low}..{high}")
        self.ranges.setdefault(name, []).append((low, high, origin))

    def add_divisor(self, name: str, divisor: int, origin: str = "inferred") -> None:
        """`name` is a multiple of `divisor`."""
        self._check(origin)
        if divisor < 1:
            raise InvalidModel(f"the dim {clean(name)} cannot be a multiple of {divisor}")
        self.divisors.setdefault(name, []).append((divisor, origin))

    def add_equal(self, a: Dim, b: Dim, origin: str = "inferred") -> None:
        """a == b. InvalidModel when that is impossible (a declared one is recorded all the same)."""
        self._check(origin)
        if (a, b, origin) in self.equalities:
            return
        self.equalities.append((a, b, origin))
        if origin == "declared":
            return
        gap = substitute(a, self._solved) - substitute(b, self._solved)
        if dim_eq(gap, 0, self) is False:
            raise InvalidModel(f"the dims {clean(a)} and {clean(b)} cannot be equal")
        if isinstance(gap, Expr):
            self._learn(gap)

    @staticmethod
    def _check(origin: str) -> None:
        if origin not in ORIGINS:
            raise UsageError(f"origin {clean(origin)!r} of a fact", hint=f"one of {', '.join(ORIGINS)}")

    def _learn(self, gap: Expr) -> None:
        """gap == 0: solve for a symbol that occurs once, with coefficient 1 or -1; best one without own facts."""
        for name in sorted(symbols(gap), key=lambda name: name in self.divisors or name in self.ranges):
            own = [c for mono, c in gap.terms if len(mono) == 1 and mono[0][1] == 1 and mono[0][0].args == (name,)]
            if own in ([1], [-1]):
                value = sym(name) - gap if own == [1] else sym(name) + gap
                if name not in symbols(value):
                    self._solved = {key: substitute(old, {name: value}) for key, old in self._solved.items()}
                    self._solved[name] = value
                    return
        self._zero.append(gap)

    def range_of(self, name: str) -> tuple[Bound, Bound]:
        """Proven bounds of a symbol."""
        low, high = _default_ranges(name)
        for least, most, origin in self.ranges.get(name, ()):
            if origin != "declared":
                low, high = max(low, least), high if most is None else min(high, most)
        return low, high

    def divisor_of(self, name: str) -> int:
        """The proven divisor of a symbol, 1 if none."""
        return math.lcm(*(k for k, origin in self.divisors.get(name, ()) if origin != "declared"))

    def copy(self) -> Facts:
        new = Facts()
        new.ranges = {name: list(rows) for name, rows in self.ranges.items()}
        new.divisors = {name: list(rows) for name, rows in self.divisors.items()}
        new.equalities, new._solved, new._zero = list(self.equalities), dict(self._solved), list(self._zero)
        return new

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Facts):
            return NotImplemented
        mine, theirs = (self.ranges, self.divisors, self.equalities), (other.ranges, other.divisors, other.equalities)
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]


def simplify(dim: Dim, facts: Facts | None = None) -> Dim:
    """`dim` under proven facts: equalities put in, floordiv and mod by known divisors resolved, min/max decided. One that
    divides by what the facts prove to be 0 has no value and stays as it is."""
    if facts is None or not isinstance(dim, Expr):
        return dim
    try:
        return _simplified(dim, facts)
    except InvalidModel:
        return dim


def _simplified(dim: Expr, facts: Facts) -> Dim:
    view, ranges = _under(substitute(dim, facts._solved), facts)
    back = {_quotient(name, k): name for name in facts.divisors if (k := facts.divisor_of(name)) > 1}
    quotients = [name for name in symbols(view) if name in back]
    restored = {name: sym(back[name]) // facts.divisor_of(back[name]) for name in quotients}
    return _rebuild(view, restored.get, ranges) if not quotients else substitute(view, restored)


def _quotient(name: str, k: int) -> str:
    return f"{name} / {k}"


def _under(dim: Dim, facts: Facts) -> tuple[Dim, Ranges]:
    """`dim` with each symbol that has a divisor k written as k times a symbol of its own, and the ranges for that."""
    quotients: dict[str, tuple[str, int]] = {}

    def symbol(name: str) -> Dim | None:
        k = facts.divisor_of(name) if name in facts.divisors else 1
        if k == 1:
            return None
        quotients[_quotient(name, k)] = name, k
        return k * sym(_quotient(name, k))

    def ranges(name: str) -> tuple[Bound, Bound]:
        if name not in quotients:
            return facts.range_of(name)
        whole, k = quotients[name]
        low, high = facts.range_of(whole)
        return -(-low // k), high if math.isinf(high) else high // k

    try:
        return _rebuild(dim, symbol, ranges), ranges
    except InvalidModel:  # it divides by what is 0 by these facts: it has no value, so any range is true of it
        return dim, ranges


# ----------------------------------------------------------------------------------------------- comparison


def dim_range(dim: Dim, facts: Facts | None = None) -> tuple[Bound, Bound]:
    """(low, high): every value of `dim` lies there; infinities where nothing is known."""
    views = _views(dim, facts)
    return max(_lowest(view, ranges) for view, ranges in views), min(-_lowest(-view, ranges) for view, ranges in views)


def dim_le(a: Dim, b: Dim, facts: Facts | None = None) -> bool | None:
    """a <= b for all values of the symbols: True; for none: False; else None."""
    low, high = dim_range(b - a, facts)
    return True if low >= 0 else False if high < 0 else None


def dim_lt(a: Dim, b: Dim, facts: Facts | None = None) -> bool | None:
    """a < b for all values of the symbols: True; for none: False; else None."""
    low, high = dim_range(b - a, facts)
    return True if low > 0 else False if high <= 0 else None


def dim_eq(a: Dim, b: Dim, facts: Facts | None = None) -> bool | None:
    """a == b for all values of the symbols: True; for none: False; else None."""
    if a is b:
        return True
    gap = a - b
    if not isinstance(gap, Expr):
        return gap == 0
    return _is_zero_by_default(gap) if facts is None else _is_zero(gap, facts)


@functools.lru_cache(maxsize=1 << 14)
def _is_zero_by_default(gap: Expr) -> bool | None:
    return _is_zero(gap, None)


def _is_zero(gap: Expr, facts: Facts | None) -> bool | None:
    for view, ranges in _views(gap, facts):
        view = _without_mods(view)
        if not isinstance(view, Expr):
            return view == 0
        low, high = _lowest(view, ranges), -_lowest(-view, ranges)
        if low > 0 or high < 0 or _never_zero(view):
            return False
        if low == high == 0 or (facts is not None and any(_proportional(view, known, facts) for known in facts._zero)):
            return True
    return None


def _views(dim: Dim, facts: Facts | None) -> list[tuple[Dim, Ranges]]:
    """`dim` as ranges and divisors show it, and again with equalities put in (which may hide either)."""
    if facts is None:
        return [(dim, _default_ranges)]
    solved = substitute(dim, facts._solved)
    return [_under(dim, facts)] if solved is dim else [_under(dim, facts), _under(solved, facts)]


def _never_zero(gap: Expr) -> bool:
    """The constant is no multiple of what divides all other terms."""
    constant = dict(gap.terms).get((), 0)
    return bool(constant % math.gcd(*(c for mono, c in gap.terms if mono)))


def _proportional(gap: Expr, known: Expr, facts: Facts) -> bool:
    zero = _without_mods(_under(known, facts)[0])
    if not isinstance(zero, Expr) or len(zero.terms) != len(gap.terms):
        return False
    factor = Fraction(gap.terms[0][1], zero.terms[0][1])
    return all(m == n and c == factor * k for (m, c), (n, k) in zip(gap.terms, zero.terms, strict=True))


def _without_mods(dim: Dim) -> Dim:
    """x % b as x - b*(x//b) on the top level, where it may cancel."""
    if not any(atom.kind == "mod" for mono, _ in _terms_of(dim) for atom, _ in mono):
        return dim
    total: Dim = 0
    for mono, coefficient in _terms_of(dim):
        product: Dim = coefficient
        for atom, power in mono:
            one: Dim = Expr(((((atom, 1),), 1),))
            if atom.kind == "mod":
                x, b = atom.args
                one = x - b * (x // b)
            for _ in range(power):
                product = product * one
        total = total + product
    return total


def _lowest(dim: Dim, ranges: Ranges) -> Bound:
    """A lower bound: the best of term-wise intervals and of relaxations of floordiv, min and max."""
    if not isinstance(dim, Expr):
        return dim
    return _lowest_by_default(dim) if ranges is _default_ranges else _search_lowest(dim, ranges)


@functools.lru_cache(maxsize=1 << 14)
def _lowest_by_default(dim: Expr) -> Bound:
    return _search_lowest(dim, _default_ranges)


def _search_lowest(dim: Expr, ranges: Ranges) -> Bound:
    best: Bound = -math.inf
    for view in dict.fromkeys((dim, _without_mods(dim))):
        queue: list[dict[Mono, Fraction]] = [{mono: Fraction(c) for mono, c in _terms_of(view)}]
        for _ in range(24):  # relaxations tried
            if not queue:
                break
            terms = queue.pop(0)
            low = _interval(((mono, c) for mono, c in terms.items() if c), ranges)[0]
            best = max(best, low if math.isinf(low) else math.ceil(low))
            queue.extend(_relaxations(terms))
    return best


def _relaxations(terms: dict[Mono, Fraction]) -> list[dict[Mono, Fraction]]:
    """The sum with its first relaxable atom replaced by expressions that make it no larger."""
    for mono, c in terms.items():
        if len(mono) != 1 or mono[0][1] != 1 or not c:
            continue
        kind, args = mono[0][0].kind, mono[0][0].args
        if kind == "div" and not isinstance(args[1], Expr):  # (x - b + 1) / b <= x // b <= x / b
            numerator = args[0] - (args[1] - 1) if c > 0 else args[0]
            return [_replaced(terms, mono, numerator, c / args[1])]
        if (kind == "max" and c > 0) or (kind == "min" and c < 0):
            return [_replaced(terms, mono, arg, c) for arg in args]
    return []


def _replaced(terms: dict[Mono, Fraction], old: Mono, new: Dim, factor: Fraction) -> dict[Mono, Fraction]:
    total = {mono: c for mono, c in terms.items() if mono is not old}
    for mono, c in _terms_of(new):
        total[mono] = total.get(mono, Fraction(0)) + c * factor
    return total


# -------------------------------------------------------------------------------------------------- binding


def match_dim(dim: Dim, value: int, bindings: Mapping[str, int] | None = None) -> dict[str, int] | None:
    """What `dim == value` says about the symbols that `bindings` leaves open.

    A new binding when one symbol is left and enters linearly; {} when nothing follows or nothing is open; None when
    the size is impossible.
    """
    known: dict[str, Dim] = dict(bindings or {})
    gap = substitute(dim, known) - operator.index(value)
    if not isinstance(gap, Expr):
        return {} if gap == 0 else None
    if dim_eq(gap, 0) is False:
        return None
    affine = dict(gap.terms)
    constant = affine.pop((), 0)
    ((mono, c), *more) = affine.items()
    if more or len(mono) != 1 or mono[0][0].kind != "sym" or mono[0][1] != 1:
        return {}
    solution, rest = divmod(-constant, c)
    if rest or solution < _default_ranges(mono[0][0].args[0])[0]:
        return None
    return {mono[0][0].args[0]: solution}


def _shown(shape: Sequence[Dim]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def bind_shape(
    shape: Sequence[Dim], sizes: Sequence[int], bindings: Mapping[str, int] | None = None, what: str = "shape"
) -> dict[str, int]:
    """`bindings` extended by what concrete `sizes` say about `shape`. InvalidModel when they do not fit."""
    bound = dict(bindings or {})
    if len(shape) != len(sizes):
        raise InvalidModel(f"{what} has rank {len(sizes)}, expected {_shown(shape)}")
    pairs = [(dim, size) for dim, size in zip(shape, sizes, strict=True) if type(dim) is not int or dim != size]
    for _ in range(2):  # a second look: a later dim may have bound what an earlier one needs
        looked, pairs = pairs, []
        for dim, size in looked:
            new = match_dim(dim, size, bound)
            if new is None:
                values = ", ".join(f"{name}={bound[name]}" for name in symbols(dim) if name in bound)
                raise InvalidModel(
                    f"{what} {list(sizes)} does not fit {_shown(shape)}" + (f" with {values}" if values else "")
                )
            bound.update(new)
            if not new:
                pairs.append((dim, size))
    return bound


# -------------------------------------------------------------------------------------------------- parsing

_TOKEN = re.compile(r'\s*+(?:([0-9]++)|([A-Za-z_][A-Za-z0-9_.]*+)|("(?:[^"\\]|\\.)*+")|(//|\*\*|[-+*%^(),])|(\Z))')
_MAX_NESTING = 64


def parse_dim(text: str) -> Dim:
    """The dim that `text` says: numbers, names ("odd ones" in JSON quotes), + - * // % ^, parentheses, min max ceildiv.

    Raises InvalidModel with the column for anything else, for text that is too long or nested too deep.
    """
    return _Parser(text).whole()


class _Parser:
    """Precedence climbing with a depth counter."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0
        self.column = 0
        if len(text) > 4 * MAX_TEXT:
            raise InvalidModel(f"a dim of {len(text)} characters (at most {4 * MAX_TEXT})")
        self.advance()

    def fail(self, why: str) -> InvalidModel:
        return InvalidModel(f"dim {clean(self.text)!r}, column {self.column + 1}: {why}")

    def advance(self) -> None:
        self.column = self.at
        found = _TOKEN.match(self.text, self.at)
        if not found:
            raise self.fail("unexpected character")
        self.number, self.name, self.quoted, self.mark, _ = found.groups()
        self.end = found.lastindex == 5
        self.at = found.end()

    def take(self, *marks: str) -> str | None:
        mark = self.mark if self.mark in marks else None
        if mark:
            self.advance()
        return mark

    def expect(self, mark: str) -> None:
        if not self.take(mark):
            raise self.fail(f"{mark!r} expected")

    def whole(self) -> Dim:
        dim = self.sum()
        if not self.end:
            raise self.fail("an operator or the end expected")
        return dim

    def sum(self) -> Dim:
        self.depth += 1
        if self.depth > _MAX_NESTING:
            raise self.fail(f"nested deeper than {_MAX_NESTING}")
        total = self.product()
        while mark := self.take("+", "-"):
            right = self.product()
            total = total + right if mark == "+" else total - right
        self.depth -= 1
        return total

    def product(self) -> Dim:
        total = self.factor()
        while mark := self.take("*", "//", "%"):
            total = _OPERATORS[mark](total, self.factor())
            if not isinstance(total, Expr) and total.bit_length() > MAX_BITS:
                raise self.fail("the number is too large")
        return total

    def factor(self) -> Dim:
        negative = False
        while self.take("-"):
            negative = not negative
        base = self.atom()
        if self.take("^", "**"):
            if self.number is None or len(self.number) > 3 or int(self.number) > MAX_DEGREE:
                raise self.fail(f"a power up to {MAX_DEGREE} expected")
            base, power = 1, (base, int(self.number))
            for _ in range(power[1]):
                base = base * power[0]
            self.advance()
        return -base if negative else base

    def atom(self) -> Dim:
        number, name, quoted = self.number, self.name, self.quoted
        if self.take("("):
            inside = self.sum()
            self.expect(")")
            return inside
        if number is None and name is None and quoted is None:
            raise self.fail("a number, a name or '(' expected")
        if number is not None and len(number) > 40:
            raise self.fail("the number is too large")
        self.advance()
        if name in _FUNCTIONS and self.take("("):
            return self.call(name)
        if number is not None:
            return int(number)
        return sym(name if name is not None else self.unquote(quoted or ""))

    def unquote(self, quoted: str) -> str:
        try:
            return json.loads(quoted, strict=False)
        except ValueError:
            raise self.fail("a quoted name in JSON's escapes expected") from None

    def call(self, name: str) -> Dim:
        args = [self.sum()]
        while self.take(","):
            args.append(self.sum())
        self.expect(")")
        if name == "ceildiv" and len(args) != 2:
            raise self.fail("ceildiv takes two arguments")
        return _FUNCTIONS[name](*args)


_OPERATORS: dict[str, Callable[[Dim, Dim], Dim]] = {"*": operator.mul, "//": operator.floordiv, "%": operator.mod}
_FUNCTIONS: dict[str, Callable[..., Dim]] = {"min": dim_min, "max": dim_max, "ceildiv": ceildiv}


def product(dims: Iterable[Dim]) -> Dim:
    """The product of some dims, 1 of none: a number of elements."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total
