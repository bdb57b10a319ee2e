"""Rules and the worklist driver that applies them: one match at a time, types kept, nothing half done.

    @rewrites(lambda p, x: p.mul(x, p.sigmoid(x)), numerics="ulp")
    def fuse_silu(b, x):
        \"\"\"mul(x, sigmoid(x)) -> silu(x)\"\"\"
        if not x.dtype.is_float:
            return b.decline("silu needs a float input")
        return b.silu(x)

    @rule("reshape")                      # the procedural form: looks at the node itself
    def merge_reshapes(b, node): ...

`b` stages nodes: nothing enters the graph until the right side returns its values (one per result of the root; for several
roots a tuple with one item per root). Returning None or `b.decline(reason)` leaves the graph as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from ..ir.builder import Builder
from ..ir.errors import AnyIRError, PassError, UsageError
from ..ir.graph import Graph, Node, Value
from ..ir.infer import propagate
from ..ir.loc import UNKNOWN_LOC, Loc
from ..ir.opdef import PURE, OpDef
from ..ir.types import TensorType, meet, refines
from .pattern import Call, Literal, Match, Pattern, Trace, Var, match, parse_rule

if TYPE_CHECKING:
    from .manager import Context

#: How often one rule may fire, per node of the graph at the start and in all, before it is held to be endless.
FIRES_PER_NODE = 20
FIRES_AT_LEAST = 2000

NUMERICS = ("exact", "ulp", "approx")


class Declined:
    """What a right side returns when it does not apply after all."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Instead:
    """What a procedural right side returns that replaces results of several nodes, or only the used ones of its root."""

    __slots__ = ("nodes", "values")

    def __init__(self, values: dict[Value, Value], nodes: Sequence[Node]) -> None:
        self.values = values
        self.nodes = nodes


class StagingBuilder(Builder):
    """A builder whose nodes are in no graph until the driver commits them. Their location, the fused one of the nodes
    that they stand for, is made with the first of them: most attempts build none."""

    def __init__(self, graph: Graph, sources: Sequence[Node], tag: str) -> None:
        super().__init__(graph)
        self.staged: list[Node] = []
        self.edits: list[tuple[Node, dict[int, Value], dict[str, Any]]] = []
        self._sources = sources
        self._tag = tag

    def aim(self, sources: Sequence[Node], tag: str) -> StagingBuilder:
        """A builder for another attempt: this one as long as nothing was staged, else a fresh one."""
        if self.staged or self.edits:
            return StagingBuilder(self.graph, sources, tag)
        self._sources, self._tag, self.loc = sources, tag, UNKNOWN_LOC
        return self

    def make(self, op: OpDef, operands: tuple, attrs: dict[str, Any], regions: tuple[Graph, ...] = ()) -> Node:
        if self._sources and self.loc is UNKNOWN_LOC:
            self.loc = Loc.fuse([node.loc for node in reversed(self._sources)], self._tag)
            self._sources = ()
        return super().make(op, operands, attrs, regions)

    def place(self, node: Node) -> Node:
        self.staged.append(node)
        return node

    def edit(self, node: Node, operands: dict[int, Value], attrs: dict[str, Any] | None = None) -> None:
        """Once the match is applied, give a node of the graph other constants for some operands (and other attributes);
        its results must keep their types."""
        self.edits.append((node, operands, attrs or {}))

    @staticmethod
    def decline(reason: str) -> Declined:
        """Leave the graph as it is; `irc explain` shows the reason."""
        return Declined(reason)

    @staticmethod
    def instead(values: dict[Value, Value], nodes: Sequence[Node]) -> Instead:
        """Replace each of these values by another one; `nodes` are those that this is done for (they go when unused)."""
        return Instead(values, nodes)


@dataclass(frozen=True)
class Rule:
    """A rewrite rule. `benefit` orders rules at one node (higher first, then by name); `escape` allows interior values to
    be used outside the match (they then stay); `numerics` is the class that an -O level must admit."""

    name: str
    root: tuple[str, ...]
    apply: Callable[..., Any]
    pattern: Pattern | None = None
    numerics: str = "exact"
    benefit: int = 1
    escape: bool = False
    doc: str = ""

    def child_ops(self) -> list[tuple[int, str]]:
        """(operand index, op) pairs that the root's producers must have, for rejecting early; none if order may change."""
        if self.pattern is None or self.commutes():
            return []
        return [(i, part.op) for i, part in enumerate(self.pattern.root.args) if isinstance(part, Call)]

    def commutes(self) -> bool:
        from ..ir.opdef import COMMUTATIVE
        from ..ir.ops import get_op

        return any(get_op(name).has(COMMUTATIVE) for name in self.root)


def rewrites(
    pattern: Callable[..., Any], *, numerics: str = "exact", benefit: int = 1, escape: bool = False, name: str = ""
) -> Callable[[Callable[..., Any]], Rule]:
    """Make a rule from a pattern lambda and the decorated right side; see the module's docstring."""
    if numerics not in NUMERICS:
        raise UsageError(f"numerics is one of {', '.join(NUMERICS)}, not {numerics!r}")

    def decorate(function: Callable[..., Any]) -> Rule:
        traced = Pattern.trace(pattern)
        doc = (function.__doc__ or "").strip()
        return Rule(
            name or function.__name__,
            (traced.root.op,),
            function,
            traced,
            numerics,
            benefit,
            escape,
            doc or traced.text,
        )

    return decorate


def rule(*ops: str, numerics: str = "exact", benefit: int = 1, name: str = "") -> Callable[[Callable[..., Any]], Rule]:
    """Make a procedural rule for nodes of these ops: `function(b, node)` returns values, None, or `b.decline(...)`."""
    if numerics not in NUMERICS:
        raise UsageError(f"numerics is one of {', '.join(NUMERICS)}, not {numerics!r}")

    def decorate(function: Callable[..., Any]) -> Rule:
        doc = (function.__doc__ or "").strip()
        return Rule(name or function.__name__, tuple(ops), function, None, numerics, benefit, False, doc)

    return decorate


def text_rule(text: str, numerics: str = "exact") -> Rule:
    """A rule from `op(...) -> value` text."""
    pattern, right = parse_rule(text)

    def build(b: StagingBuilder, part: Any, bound: dict[str, Any]) -> Any:
        if isinstance(part, Var):
            return bound[part.name]
        if isinstance(part, Literal):
            return part.value
        attrs = {k: bound[v.name] if isinstance(v, Var) else v for k, v in part.attrs.items()}
        return b.call(part.op, [build(b, arg, bound) for arg in part.args], attrs).result

    def apply(b: StagingBuilder, **bound: Any) -> Any:
        made = build(b, right, bound)
        return made if isinstance(made, Value) else b.decline("the right side is a bare number")

    return Rule(text, (pattern.root.op,), apply, pattern, numerics, doc=text)


def as_rules(items: Iterable[Rule | str]) -> list[Rule]:
    return [text_rule(item) if isinstance(item, str) else item for item in items]


class RuleSet:
    """Rules indexed by root op, best first and then by name, or, with a `shuffle` seed, in a random order: rules of the same
    benefit must not care."""

    def __init__(self, rules: Iterable[Rule], shuffle: int | None = None) -> None:
        self.rules = sorted(rules, key=lambda r: r.name)
        if shuffle is not None:
            Random(shuffle).shuffle(self.rules)
        self.by_root: dict[str, list[tuple[Rule, list[tuple[int, str]]]]] = {}
        for item in sorted(self.rules, key=lambda r: -r.benefit):
            for op in item.root:
                self.by_root.setdefault(op, []).append((item, item.child_ops()))

    def candidates(self, node: Node) -> Iterable[Rule]:
        """The rules whose root and direct producers fit `node`."""
        for item, children in self.by_root.get(node.op.name, ()):
            for index, op in children:
                value = node.operands[index] if index < len(node.operands) else None
                if value is None or value.node is None or value.node.op.name != op:
                    break
            else:
                yield item


class RewriteDriver:
    """Applies a rule set to one graph until nothing matches, revisiting only what a change touched.

    It listens to the graph, so edits by rules and by type refinement requeue their neighbourhood. A rule that fires
    more often than its budget stops the run with PassError, naming the rules that fed each other.
    """

    def __init__(self, graph: Graph, rules: RuleSet, ctx: Context) -> None:
        self.graph = graph
        self.rules = rules
        self.ctx = ctx
        self.fired: Counter[str] = Counter()
        self.pending: dict[Node, None] = {}
        self.spare = StagingBuilder(graph, (), "")

    def run(self) -> int:
        """Rewrite to a fixpoint; returns how many matches were applied."""
        nodes = list(self.graph.nodes())
        budget = max(FIRES_AT_LEAST, FIRES_PER_NODE * len(nodes))
        # A stack: popped from the end, so the first node in the graph is visited first.
        self.pending = dict.fromkeys(reversed(nodes))
        self.graph.listeners.append(self)
        try:
            while self.pending:
                node = self.pending.popitem()[0]
                if node.graph is self.graph:
                    self.visit(node, budget)
        finally:
            self.graph.listeners.remove(self)
        self.ctx.stats.update(self.fired)
        return self.fired.total()

    def visit(self, node: Node, budget: int) -> None:
        alone = Match([node], {"node": node}, [node])
        for item in self.rules.candidates(node):
            if self.spare.staged or self.spare.edits:
                self.spare = StagingBuilder(self.graph, (), "")
            if apply_rule(item, node, self.spare, alone):
                self.fired[item.name] += 1
                if self.fired[item.name] > budget:
                    busy = ", ".join(name for name, _ in self.fired.most_common(3))
                    raise PassError(
                        f"rewriting does not come to an end: rule {item.name!r} fired {budget} times ({busy})"
                    )
                return

    # Listener.

    def inserted(self, node: Node) -> None:
        self.pending[node] = None

    def changed(self, node: Node) -> None:
        if node is not self.graph.return_node:
            self.pending[node] = None
            for value in node.results:
                for use in value.uses:
                    if use.node.next is not None:
                        self.pending[use.node] = None
        for value in node.inputs():
            if value.node is not None and value.n_uses <= 2:
                self.pending[value.node] = None

    def erased(self, node: Node) -> None:
        self.pending.pop(node, None)
        for value in node.inputs():
            if value.node is not None:
                self.pending[value.node] = None
                if value.n_uses == 2:  # the other user may now own the value alone, which is what most patterns ask for
                    self.pending.update(dict.fromkeys(u for u in value.users if u is not node and u.next is not None))


def attempt(
    item: Rule, node: Node, trace: Trace | None = None, spare: StagingBuilder | None = None, alone: Match | None = None
) -> tuple[StagingBuilder, Match, Any] | None:
    """Match one rule at one node and build its right side, staged only (by `spare`, a builder of this graph, if it is
    unused; `alone` is the match of the node by itself, where it was made before). None when it does not apply; `trace` says
    why."""
    if item.pattern is None:
        found = alone or Match([node], {"node": node}, [node])
    else:
        hit = match(item.pattern, node, trace)
        if hit is None:
            return None
        found = hit
        found.bound = {name: found.bound.get(name) for name in dict.fromkeys((*item.pattern.names, *found.bound))}
        outside = None if item.escape else found.escaping()
        if outside is not None:
            if trace is not None:
                trace.note(len(found.nodes), outside.node, f"%{outside.hint} is also used outside the match")
            return None
    spare = spare or StagingBuilder(node.graph, (), "")  # type: ignore[arg-type]
    builder = spare.aim(found.nodes, item.name)
    made = item.apply(builder, **found.bound)
    if made is None or isinstance(made, Declined):
        if trace is not None:
            trace.note(len(found.nodes) + 1, node, made.reason if made else "the rule does not apply")
        return None
    if isinstance(made, Instead):
        roots = sorted({v.node: None for v in made.values if v.node is not None}, key=lambda n: n.order)
        found = Match(roots, found.bound, list(dict.fromkeys((*roots, *made.nodes))))
        made = [[made.values.get(v, v) for v in root.results] for root in roots]
        made = made if len(roots) > 1 else made[0]
    return builder, found, made


def apply_rule(item: Rule, node: Node, spare: StagingBuilder | None = None, alone: Match | None = None) -> bool:
    """Try one rule at one node; True when the graph was changed."""
    tried = attempt(item, node, None, spare, alone)
    if tried is None:
        return False
    commit(item, *tried)
    return True


def _per_root(item: Rule, found: Match, made: Any) -> list[list[Value]]:
    groups = made if len(found.roots) > 1 else [made]
    shaped = [list(g) if isinstance(g, (tuple, list)) else [g] for g in groups]
    if len(shaped) != len(found.roots) or any(
        len(g) != len(r.results) for g, r in zip(shaped, found.roots, strict=True)
    ):
        raise PassError(f"rule {item.name!r} returns a wrong number of values", where=str(found.root))
    return shaped


def commit(item: Rule, builder: StagingBuilder, found: Match, made: Any) -> None:
    """Insert what was staged, replace the roots, erase what died, and let better types travel on."""
    groups = _per_root(item, found, made)
    for root, values in zip(found.roots, groups, strict=True):
        for old, new in zip(root.results, values, strict=True):
            if not isinstance(new, Value):
                raise PassError(f"rule {item.name!r} returned {new!r}, not a value", where=str(root))
            if new is not old:
                _check_type(item, old, new)
                _check_place(item, root, new, builder.staged)
    graph: Graph = builder.graph
    anchor = min(found.roots, key=lambda n: n.order) if len(found.roots) > 1 else found.root
    _check_order(item, builder.staged, anchor)
    for node in builder.staged:
        graph.insert(node, anchor)
    refined = []
    for root, values in zip(found.roots, groups, strict=True):
        for old, new in zip(root.results, values, strict=True):
            if new is old:
                continue
            if new.type is not old.type and refines(new.type, old.type):
                refined += old.users
            elif new.node is not None:  # the type of a graph's input is its interface
                new.refine(meet(old.type, new.type) or new.type, new._elems or old._elems)
            old.replace_uses(new)
    for node, operands, attrs in builder.edits:
        node.loc = Loc.fuse([node.loc, *(root.loc for root in found.roots)], item.name)
        count = max(len(node.operands), *(index + 1 for index in operands), 0)
        given = (*node.operands, *[None] * (count - len(node.operands)))
        node.set_operands(operands.get(index, value) for index, value in enumerate(given))
        for name, new in attrs.items():
            node.set_attr(name, new)
    erase_dead(sorted(found.nodes, key=lambda n: n.order, reverse=True))
    erase_dead(reversed(builder.staged))
    propagate(refined)


def _check_type(item: Rule, old: Value, new: Value) -> None:
    """The new value must say the same as the old one or more; where it says less, the old type must refine it."""
    a, b = new.type, old.type
    if meet(a, b) is None:
        both = isinstance(a, TensorType) and isinstance(b, TensorType)
        what = f"{b} by {a}" if both else f"{old} by {new}"
        raise PassError(f"rule {item.name!r} replaces {what}: the type is another one")


def _check_place(item: Rule, root: Node, new: Value, staged: Sequence[Node]) -> None:
    """A value that was there before must be defined before the node that it replaces, in the same graph."""
    if new.is_const or new.node in staged:
        return
    if new.graph is not root.graph or (new.node is not None and not new.node.before(root)):
        raise PassError(
            f"rule {item.name!r} returns %{new.hint}, which is not defined before its root", where=str(root)
        )


def _check_order(item: Rule, staged: Sequence[Node], anchor: Node) -> None:
    """The new nodes stand before the first root: their operands must be defined by then."""
    if not staged:
        return
    inside = {v for node in staged for v in node.results}
    for node in staged:
        for value in node.inputs():
            late = value.node is not None and value not in inside and not value.node.before(anchor)
            if late or (value not in inside and not value.is_const and value.graph is not anchor.graph):
                raise PassError(f"rule {item.name!r} uses %{value.hint} before it is defined", where=str(anchor))


def erase_dead(nodes: Iterable[Node]) -> None:
    """Erase those of these nodes that are pure and unused, users before producers, and what then nobody uses either: a
    dead user would keep other patterns from owning what it reads."""
    for first in nodes:
        stack = [first]
        while stack:
            node = stack.pop()
            if node.graph is not None and node.has(PURE) and not any(v.n_uses for v in node.results):
                stack += [v.node for v in node.inputs() if v.node is not None]
                node.erase()


def rewrite_graph(graph: Graph, rules: RuleSet, ctx: Context) -> int:
    """Apply rules to one graph (regions are graphs of their own). Errors get the graph's name."""
    try:
        return RewriteDriver(graph, rules, ctx).run()
    except AnyIRError as error:
        raise error.at(f"@{graph.name}" if graph.name else "region") from None


def near_misses(graph: Graph, item: Rule) -> list[Trace]:
    """For each node that could be a root of the rule and is none: how far it matched and why it stopped, deepest first."""
    traces = []
    for node in graph.nodes(*item.root):
        trace = Trace()
        if attempt(item, node, trace) is None:
            traces.append(trace)
    return sorted(traces, key=lambda t: -t.depth)
