"""Left sides of rewrite rules: written by calling ops, matched at one root node.

    lambda p, x: p.mul(x, p.sigmoid(x))             # parameters bind by name; a name used twice must be the same value
    lambda p, x, w, s: p.conv(x, p.const(w), strides=s)   # a parameter in an attribute binds the attribute
    "neg(neg(x)) -> x"                              # the same as text, for one-liners

Parts: `p.const(x)` a constant; `p.any_of(a, b)` the first that matches; `p.maybe("cast", x)` x with or without that op
around it; `p.rest("xs")` all remaining operands; numbers and tuples match constants with exactly these elements; None an
absent operand. A tuple of patterns has several roots, each sharing a value with the ones before. Patterns never cross a
region. Operands of commutative ops are tried in both orders.

A failed match says why: the matcher keeps the deepest partial match and the reason it stopped there.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir.errors import UsageError
from ..ir.graph import Node, Value
from ..ir.opdef import COMMUTATIVE
from ..ir.ops import get_op


class Part:
    """Base of pattern parts."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class Var(Part):
    """Any value (or attribute), bound to `name`."""

    name: str


@dataclass(frozen=True, eq=False)
class Const(Part):
    """A constant, bound to `name`."""

    name: str


@dataclass(frozen=True, eq=False)
class Literal(Part):
    """A constant with exactly these elements (broadcast to its shape)."""

    value: Any


@dataclass(frozen=True, eq=False)
class AnyOf(Part):
    """The first alternative that matches."""

    options: tuple[Part | None, ...]


@dataclass(frozen=True, eq=False)
class Maybe(Part):
    """`inner`, or `op(inner)`."""

    op: str
    inner: Part


@dataclass(frozen=True, eq=False)
class Rest(Part):
    """All operands from here on, bound as a tuple."""

    name: str


@dataclass(frozen=True, eq=False)
class Call(Part):
    """A node of this op; attributes that are not named are free."""

    op: str
    args: tuple[Part | None, ...]
    attrs: dict[str, Any] = field(default_factory=dict)


class PatternBuilder:
    """The `p` of a pattern lambda: calling an op on it makes a part."""

    def __getattr__(self, name: str) -> Callable[..., Call]:
        if name.startswith("__"):
            raise AttributeError(name)
        op = get_op(name[:-1] if name.endswith("_") else name).name
        return lambda *args, **attrs: Call(op, tuple(map(_part, args)), attrs)

    @staticmethod
    def const(part: Any) -> Part:
        return Const(part.name) if isinstance(part, Var) else _part(part)  # type: ignore[return-value]

    @staticmethod
    def any_of(*parts: Any) -> Part:
        return AnyOf(tuple(map(_part, parts)))

    @staticmethod
    def maybe(op: str, part: Any) -> Part:
        return Maybe(get_op(op).name, _part(part))  # type: ignore[arg-type]

    @staticmethod
    def rest(name: str) -> Part:
        return Rest(name)


def _part(item: Any) -> Part | None:
    return item if item is None or isinstance(item, Part) else Literal(item)


@dataclass(frozen=True)
class Pattern:
    """A compiled left side: its roots, and the names that a right side may ask for."""

    roots: tuple[Call, ...]
    names: tuple[str, ...]
    text: str

    @staticmethod
    def trace(function: Callable[..., Any]) -> Pattern:
        """The pattern that a lambda builds. Raises UsageError when its roots are not op calls."""
        params = list(inspect.signature(function).parameters)
        made = function(PatternBuilder(), *[Var(name) for name in params[1:]])
        roots = made if isinstance(made, tuple) else (made,)
        if not roots or not all(isinstance(r, Call) for r in roots):
            raise UsageError("the root of a pattern is an op call")
        return Pattern(roots, tuple(params[1:]), " & ".join(map(show, roots)))

    @property
    def root(self) -> Call:
        return self.roots[0]


def show(part: Any) -> str:
    """A part as text, for messages."""
    if isinstance(part, Call):
        attrs = "".join(f", {k}={v.name if isinstance(v, Var) else v}" for k, v in part.attrs.items())
        return f"{part.op}({', '.join(map(show, part.args))}{attrs})"
    if isinstance(part, (Var, Rest)):
        return part.name
    if isinstance(part, Const):
        return f"const {part.name}"
    if isinstance(part, Maybe):
        return f"[{part.op}]({show(part.inner)})"
    if isinstance(part, AnyOf):
        return " | ".join(map(show, part.options))
    return "none" if part is None else repr(part.value)


class Match:
    """What a pattern bound: values and attributes by name, the root nodes, and every matched node."""

    __slots__ = ("bound", "nodes", "roots")

    def __init__(self, roots: list[Node], bound: dict[str, Any], nodes: list[Node]) -> None:
        self.roots = roots
        self.bound = bound
        self.nodes = nodes

    @property
    def root(self) -> Node:
        return self.roots[0]

    def escaping(self) -> Value | None:
        """A value of an interior node that something outside the match uses; None when there is none."""
        inside, roots = set(self.nodes), set(self.roots)
        for node in self.nodes:
            if node not in roots:
                for value in node.results:
                    if any(user not in inside for user in value.users):
                        return value
        return None


@dataclass
class Trace:
    """The deepest partial match so far: how many nodes agreed, which node stopped it, and why."""

    depth: int = -1
    node: Node | None = None
    reason: str = ""

    def note(self, depth: int, node: Node | None, reason: str) -> None:
        if depth > self.depth:
            self.depth, self.node, self.reason = depth, node, reason


@dataclass
class _State:
    """One branch of the search: what is bound and which nodes agreed."""

    bound: dict[str, Any]
    nodes: list[Node]

    def copy(self) -> _State:
        return _State(dict(self.bound), list(self.nodes))


def match(pattern: Pattern, node: Node, trace: Trace | None = None) -> Match | None:
    """The first match of `pattern` with its first root at `node`; None when there is none."""
    matcher = _Matcher(trace)
    for state in matcher.call(pattern.root, node, _State({}, [])):
        found = matcher.more_roots(pattern, [node], state)
        if found is not None:
            return found
    return None


class _Matcher:
    """Backtracking search over a pattern; its recursion is bounded by the pattern's size, never by the graph's."""

    def __init__(self, trace: Trace | None) -> None:
        self.trace = trace

    def fail(self, state: _State, node: Node | None, reason: Callable[[], str]) -> None:
        if self.trace is not None:
            self.trace.note(len(state.nodes), node, reason())

    def call(self, part: Call, node: Node, state: _State) -> Iterator[_State]:
        if node.op.name != part.op:
            self.fail(state, node, lambda: f"expected {part.op}, found {node.name}")
            return
        state = state.copy()
        state.nodes.append(node)
        if not self.attrs(part, node, state):
            return
        yield from self.args(part, part.args, node, state)
        if node.op.has(COMMUTATIVE) and len(part.args) >= 2 and part.args[0] is not part.args[1]:
            yield from self.args(part, (part.args[1], part.args[0], *part.args[2:]), node, state)

    def attrs(self, part: Call, node: Node, state: _State) -> bool:
        return all(self.attr(name, wanted, node, state) for name, wanted in part.attrs.items())

    def attr(self, name: str, wanted: Any, node: Node, state: _State) -> bool:
        actual = node.attrs.get(name)
        named = isinstance(wanted, Var)
        expected = state.bound.setdefault(wanted.name, actual) if named else wanted
        if actual == expected:
            return True
        self.fail(
            state, node, lambda: f"attribute {name} is {actual}, {'elsewhere' if named else 'expected'} {expected}"
        )
        return False

    def args(self, part: Call, args: tuple[Part | None, ...], node: Node, state: _State) -> Iterator[_State]:
        operands = node.operands
        if args and isinstance(args[-1], Rest):
            state = state.copy()
            state.bound[args[-1].name] = tuple(operands[len(args) - 1 :])
            args, operands = args[:-1], operands[: len(args) - 1]
        given = (*operands, *([None] * (len(args) - len(operands))))
        if len(given) > len(args) and any(v is not None for v in given[len(args) :]):
            self.fail(state, node, lambda: f"{node.name} has {len(operands)} operands, the pattern has {len(args)}")
            return
        yield from self.each(list(zip(args, given, strict=False)), node, state)

    def each(self, pairs: list[tuple[Part | None, Value | None]], node: Node, state: _State) -> Iterator[_State]:
        if not pairs:
            yield state
            return
        (part, value), rest = pairs[0], pairs[1:]
        for found in self.value(part, value, node, state):
            yield from self.each(rest, node, found)

    def value(self, part: Part | None, value: Value | None, user: Node, state: _State) -> Iterator[_State]:
        if part is None or value is None:
            if part is None and value is None:
                yield state
            elif part is not None and isinstance(part, Var):
                yield from self.bind(part.name, value, user, state)
            else:
                self.fail(state, user, lambda: "an operand is absent on one side")
        elif isinstance(part, Var):
            yield from self.bind(part.name, value, user, state)
        elif isinstance(part, Const):
            if value.is_const:
                yield from self.bind(part.name, value, user, state)
            else:
                self.fail(state, user, lambda: f"%{value.hint} must be a constant")
        elif isinstance(part, Literal):
            if literal_equals(value, part.value):
                yield state
            else:
                self.fail(state, user, lambda: f"%{value.hint} is not the constant {part.value}")
        elif isinstance(part, AnyOf):
            for option in part.options:
                yield from self.value(option, value, user, state)
        elif isinstance(part, Maybe):
            yield from self.value(Call(part.op, (part.inner,)), value, user, state)
            yield from self.value(part.inner, value, user, state)
        elif isinstance(part, Call):
            if value.node is None:
                self.fail(state, user, lambda: f"%{value.hint} is no result of {part.op}")
            else:
                yield from self.call(part, value.node, state)

    def bind(self, name: str, value: Value | None, user: Node, state: _State) -> Iterator[_State]:
        if name not in state.bound:
            state = state.copy()
            state.bound[name] = value
            yield state
        elif state.bound[name] is value:
            yield state
        else:
            self.fail(state, user, lambda: f"{name} is two different values")

    def more_roots(self, pattern: Pattern, roots: list[Node], state: _State) -> Match | None:
        """Find the remaining roots among the users of values that are bound already."""
        if len(roots) == len(pattern.roots):
            return Match(roots, state.bound, state.nodes)
        wanted = pattern.roots[len(roots)]
        anchors = [v for v in state.bound.values() if isinstance(v, Value)]
        anchors += [v for node in state.nodes for v in node.results]
        seen: dict[Node, None] = {}
        for anchor in anchors:
            seen.update(
                (u, None) for u in anchor.users if u.name == wanted.op and u not in roots and u.graph is roots[0].graph
            )
        for candidate in seen:
            for found in self.call(wanted, candidate, state):
                done = self.more_roots(pattern, [*roots, candidate], found)
                if done is not None:
                    return done
        return None


#: Constants with more elements are not compared with the literals of patterns.
LITERAL_LIMIT = 64


def literal_equals(value: Value, wanted: Any) -> bool:
    """`value` is a constant whose elements are `wanted` (a number broadcasts; -0.0 is not 0.0, NaN matches nothing)."""
    if not value.is_const:
        return False
    count = value.type.numel  # type: ignore[attr-defined]
    expected = np.asarray(wanted)
    if not 0 < count <= LITERAL_LIMIT or (expected.ndim and expected.size != count):
        return False
    dtype = value.dtype
    if dtype is None or dtype.kind in ("string", "complex"):
        return False
    flat, target = value.array().reshape(-1), expected.reshape(-1)
    if not dtype.is_float and expected.dtype.kind in "biu":
        return bool(np.all(flat.astype(object) == target.astype(object)))  # exact: 2**53 + 1 is not 2**53
    flat = flat.astype(np.float64)
    target = np.broadcast_to(target, flat.shape).astype(np.float64)
    return bool(np.array_equal(flat, target) and np.array_equal(np.signbit(flat), np.signbit(target)))


_RULE_TOKEN = re.compile(r"\s*(->|[A-Za-z_][A-Za-z0-9_.]*|-?\d+(?:\.\d+)?|[(),=])")


def parse_rule(text: str) -> tuple[Pattern, Call | Var | Literal]:
    """`op(x, 1) -> x`: the pattern and its right side. Raises UsageError with the place of a mistake."""
    tokens, at = [], 0
    while at < len(text.rstrip()):
        found = _RULE_TOKEN.match(text, at)
        if found is None:
            raise UsageError(f"rule {text!r}: unexpected {text[at]!r} at {at + 1}")
        tokens.append(found[1])
        at = found.end()
    reader = _RuleReader(text, tokens)
    left = reader.expression()
    reader.expect("->")
    right = reader.expression()
    if reader.tokens or not isinstance(left, Call):
        raise UsageError(f"rule {text!r} is `op(...) -> value`")
    bound = set(_names_in(left))
    unbound = [name for name in _names_in(right) if name not in bound]
    if unbound:
        raise UsageError(f"rule {text!r}: {unbound[0]} does not stand on the left side")
    return Pattern((left,), tuple(reader.names), show(left)), right


def _names_in(part: Any) -> Iterator[str]:
    """The variables of a rule's side, in operands and attributes."""
    if isinstance(part, Var):
        yield part.name
    elif isinstance(part, Call):
        for inner in (*part.args, *part.attrs.values()):
            yield from _names_in(inner)


class _RuleReader:
    def __init__(self, text: str, tokens: list[str]) -> None:
        self.text = text
        self.tokens = tokens
        self.names: dict[str, Var] = {}

    def take(self) -> str:
        if not self.tokens:
            raise UsageError(f"rule {self.text!r} ends too early")
        return self.tokens.pop(0)

    def expect(self, token: str) -> None:
        found = self.take()
        if found != token:
            raise UsageError(f"rule {self.text!r}: expected {token!r}, found {found!r}")

    def expression(self) -> Any:
        token = self.take()
        if token.lstrip("-").replace(".", "", 1).isdigit():
            return Literal(float(token) if "." in token else int(token))
        if token in ("true", "false"):
            return Literal(token == "true")
        if not (token[0].isalpha() or token[0] == "_"):
            raise UsageError(f"rule {self.text!r}: expected a name or a number, found {token!r}")
        if not self.tokens or self.tokens[0] != "(":
            return self.names.setdefault(token, Var(token))
        self.take()
        args: list[Part | None] = []
        attrs: dict[str, Any] = {}
        while self.tokens and self.tokens[0] != ")":
            if len(self.tokens) > 1 and self.tokens[1] == "=":
                name = self.take()
                self.take()
                value = self.expression()
                attrs[name] = value.value if isinstance(value, Literal) else value
            else:
                args.append(self.expression())
            if not self.tokens or self.tokens[0] != ",":
                break
            self.take()
        self.expect(")")
        return Call(get_op(token).name, tuple(args), attrs)
