"""Which nodes a pass is for: `where` expressions, and the names that layers have for people.

    selector('op=conv & scope~"head"')(node)        name=fc1 | weight~"^encoder\\." & !dtype=f64

Keys are op, name (`layer_name`), scope (the source's layer path), weight (keys of constants) and dtype (of the first
result). `=` and `!=` compare the whole text, `~` searches a regular expression. `!` binds tighter than `&`, `&` tighter
than `|`. An empty expression takes every node. Imports no framework and runs nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..ir.errors import UsageError
from ..ir.graph import Module, Node, Value
from ..ir.opdef import MOVEMENT
from ..ir.ops import load_families

Predicate = Callable[[Node], bool]

DEPTH_LIMIT = 32
TEXT_LIMIT = 4096
#: Names of the model longer than this are cut before a regular expression sees them.
NAME_LIMIT = 1000
#: Names listed in an error.
_LISTED = 5


def layer_name(node: Node) -> str:
    """The name of a node for people: its weight's key, else where it comes from in the source, else its result's name
    or its op."""
    weight = weight_of(node)
    if weight is not None:
        return weight.weight.key  # type: ignore[union-attr]
    scopes = [scope for scope in _scopes(node) if scope]
    return scopes[0] if scopes else next((r.hint for r in node.results if r.hint), node.name)


def weight_of(node: Node) -> Value | None:
    """The constant that a node has for a weight, itself or before dequantize, casts and moves: the first trained one, else
    (a file may not tell) the first of two dims or more. None where it has none."""
    found = [source for source in map(stored, node.inputs()) if source.is_const and source.rank]
    trained = (value for value in found if value.weight.role == "param")  # type: ignore[union-attr]
    return next(trained, None) or next((value for value in found if value.rank > 1), None)  # type: ignore[operator]


def stored(value: Value) -> Value:
    """The value that `value` stands for once dequantize, casts and moves of elements before it are looked through."""
    while (node := value.node) is not None and (node.name in ("dequantize", "cast") or node.has(MOVEMENT)):
        if len(node.results) != 1 or node.operands[0] is None:
            break
        value = node.operands[0]
    return value


def _scopes(node: Node) -> list[str]:
    return [leaf.scope for leaf in (node.loc.fused or (node.loc,))]


def _weights(node: Node) -> list[str]:
    found = (stored(operand) for operand in node.inputs())
    return [value.weight.key for value in found if value.is_const]  # type: ignore[union-attr]


def _dtypes(node: Node) -> list[str]:
    return [str(node.results[0].dtype)] if node.results and node.results[0].dtype is not None else []


#: key -> the texts of a node that it looks at; one that fits is enough.
KEYS: dict[str, Callable[[Node], Sequence[str]]] = {
    "op": lambda node: [node.name],
    "name": lambda node: [layer_name(node)],
    "scope": _scopes,
    "weight": _weights,
    "dtype": _dtypes,
}


class Term(NamedTuple):
    """One comparison of an expression: `name = fc1`, standing at `column` of its text."""

    key: str
    operator: str
    value: str
    column: int


@dataclass(frozen=True)
class Selector:
    """A parsed `where` expression: call it with a node. `terms` are its comparisons in order."""

    text: str
    test: Predicate = field(repr=False)
    terms: tuple[Term, ...] = ()

    def __call__(self, node: Node) -> bool:
        return self.test(node)


def selector(text: str) -> Selector:
    """The predicate that `text` describes. Raises UsageError (R012) with the place of a mistake."""
    if not text.strip():
        return Selector("", lambda node: True)
    reader = _Reader(text)
    test = reader.either(0)
    if reader.token:
        reader.fail(f"unexpected {reader.token!r}")
    return Selector(text, test, tuple(reader.terms))


def select(module: Module, where: str, among: Iterable[Node] | None = None) -> list[Node]:
    """The nodes of `module` (or those `among` them) that `where` takes, in order. Raises UsageError (R022) when it takes
    none, with the names that come near."""
    wanted = selector(where)
    nodes = list(module.all_nodes() if among is None else among)
    found = [node for node in nodes if wanted(node)]
    if nodes and not found:
        raise UsageError(f"where: {where!r} fits no layer of the model", code="R022", hint=_nearest(wanted, nodes))
    return found


def check_names(module: Module, names: Iterable[str]) -> None:
    """Every one of `names` is a layer's. Raises UsageError (R022) that lists all others with near matches."""
    known = list(dict.fromkeys(layer_name(node) for node in module.all_nodes()))
    wrong = [name for name in dict.fromkeys(names) if name not in set(known)]
    if wrong:
        told = [f"{name!r}{_like(name, known)}" for name in wrong]
        raise UsageError(f"no layer of the model is called {', '.join(told)}", code="R022", hint=_HINT)


_HINT = "irc compress IN --dry-run lists the layers"


def _like(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, _LISTED, 0.5)
    near += [other for other in known if other not in near and (name in other or other in name)][: _LISTED - len(near)]
    return f" (near: {', '.join(near)})" if near else ""


def _nearest(wanted: Selector, nodes: Sequence[Node]) -> str:
    """Of the comparisons that no node passes, what comes near."""
    for term in wanted.terms:
        known = list(dict.fromkeys(text for node in nodes for text in KEYS[term.key](node)))
        hits = _compare(term)
        if term.operator != "!=" and not any(map(hits, known)):
            near = _like(term.value, known)
            if near:
                return f"{term.key}{term.operator}{term.value}{near}"
            if len(known) <= _LISTED:
                return f"{term.key} is one of: {', '.join(known)}"
    return _HINT


def _compare(term: Term) -> Callable[[str], bool]:
    if term.operator == "~":
        pattern = re.compile(term.value)
        return lambda text: pattern.search(text[:NAME_LIMIT]) is not None
    wanted = _plain(term.value) if term.key == "op" else term.value
    return (lambda text: _plain(text) == wanted) if term.key == "op" else (lambda text: text == wanted)


def _plain(op: str) -> str:
    """Op names are known by ONNX's spelling too: MaxPool, max_pool."""
    return op.replace("_", "").casefold()


_TOKEN = re.compile(r"""\s*("[^"\n]*"|'[^'\n]*'|!=|[=~&|!()]|[^\s"'=~&|!()]+)""")
_MARKS = frozenset(["=", "~", "!=", "&", "|", "!", "(", ")"])


class _Reader:
    """Recursive descent over at most DEPTH_LIMIT parentheses."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = self.end = 0
        self.token = ""
        self.terms: list[Term] = []
        if len(text) > TEXT_LIMIT:
            raise UsageError(
                f"where: an expression of {len(text)} characters", code="R012", hint=f"at most {TEXT_LIMIT}"
            )
        self.advance()

    def advance(self) -> str:
        done = self.token
        found = _TOKEN.match(self.text, self.end)
        if found is None:
            self.at, self.token = len(self.text), ""
            if rest := self.text[self.end :].strip():
                self.at = len(self.text) - len(self.text[self.end :].lstrip())
                self.fail(f"a quote is not closed: {rest[:40]}" if rest[0] in "\"'" else f"unexpected {rest[0]!r}")
        else:
            self.at, self.end, self.token = found.start(1), found.end(), found[1]
        return done

    def fail(self, what: str, hint: str = "") -> None:
        place = f"{what} at column {self.at + 1} of where\n  {self.text}\n  {' ' * self.at}^"
        raise UsageError(place, code="R012", hint=hint)

    def either(self, depth: int) -> Predicate:
        parts = [self.both(depth)]
        while self.token == "|":
            self.advance()
            parts.append(self.both(depth))
        return parts[0] if len(parts) == 1 else lambda node: any(part(node) for part in parts)

    def both(self, depth: int) -> Predicate:
        parts = [self.one(depth)]
        while self.token == "&":
            self.advance()
            parts.append(self.one(depth))
        return parts[0] if len(parts) == 1 else lambda node: all(part(node) for part in parts)

    def one(self, depth: int) -> Predicate:
        if depth > DEPTH_LIMIT:
            self.fail("nested too deeply")
        if self.token == "!":
            self.advance()
            inner = self.one(depth + 1)
            return lambda node: not inner(node)
        if self.token == "(":
            self.advance()
            inner = self.either(depth + 1)
            if self.token != ")":
                self.fail(f"expected ')', found {self.token or 'the end'!r}")
            self.advance()
            return inner
        return self.term()

    def term(self) -> Predicate:
        column = self.at + 1
        key = self.token
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else f"keys are: {', '.join(KEYS)}"
            self.fail(f"expected a key, found {key or 'the end'!r}", hint)
        self.advance()
        if self.token not in ("=", "~", "!="):
            self.fail(f"expected =, != or ~, found {self.token or 'the end'!r}")
        operator = self.advance()
        if not self.token or self.token in _MARKS:
            self.fail(f"expected what {key} is compared with, found {self.token or 'the end'!r}")
        term = Term(key, operator, self.value(key, operator), column)
        self.advance()
        self.terms.append(term)
        texts, hits = KEYS[key], _compare(term)
        if operator == "!=":
            return lambda node: not any(map(hits, texts(node)))
        return lambda node: any(map(hits, texts(node)))

    def value(self, key: str, operator: str) -> str:
        """The token as text: a regular expression that compiles, an op that exists."""
        text = self.token[1:-1] if self.token[0] in "\"'" else self.token
        if operator == "~":
            try:
                re.compile(text)
            except (re.error, RecursionError, OverflowError) as error:
                self.fail(f"not a regular expression: {error}")
        elif key == "op" and "." not in text:
            ops = {_plain(name): name for name in load_families()}
            if _plain(text) not in ops:
                near = difflib.get_close_matches(_plain(text), ops, 1)
                self.fail(f"there is no op {text!r}", f"did you mean {ops[near[0]]}?" if near else "irc ops lists them")
        return text


def names(module: Module) -> Iterator[str]:
    """Every layer name of the module, each once, in order."""
    yield from dict.fromkeys(layer_name(node) for node in module.all_nodes())
