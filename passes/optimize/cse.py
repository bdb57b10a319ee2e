"""Common subexpressions: of two pure nodes with the same op, attributes and operands the later one goes, in regions too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...ir.graph import Graph, Module, Node, Value
from ...ir.opdef import PURE, RANDOM
from ...ir.tensor import BLOCK
from ...ir.types import STRING
from ..control.regions import add_captures, captures
from ..manager import Context, module_pass

#: Candidates that a node with weights is compared with, the latest first: bounds the work where thousands differ.
COMPARED = 8
#: Bytes of two weights that are compared before all of them are: almost all that differ differ there.
FIRST = 4096


@module_pass("cse")
def cse(module: Module, ctx: Context) -> None:
    """One sweep in order over each graph and the regions in it: a region captures what its graph has computed before.

    Constants count as the same operand when type and bytes are equal; parameters only where the level admits rounding
    (-O2), since two equal parameters may still train apart, while two nodes that are one train as one. Weights themselves
    are never merged.

    Given:
        %1 = exp(%x)
        %2 = exp(%x)
        %3 = add(%1, %2)
    Result:
        %1 = exp(%x)
        %3 = add(%1, %1)
    """
    for graph in module.graphs.values():
        _Sweep(ctx).run(graph)


class _Scope:
    """What one graph has computed so far. A value of a region that stands for one outside goes by that one's identity."""

    def __init__(self, graph: Graph, outer: _Scope | None) -> None:
        self.graph = graph
        self.outer = outer
        self.node = graph.parent
        self.seen: dict[tuple, list[Node]] = {}
        self.same: dict[Value, Value] = {}
        for value, row in captures(self.node) if self.node is not None and outer is not None else ():
            place = graph.parent.regions.index(graph)  # type: ignore[union-attr]
            self.same[row[place]] = outer.same.get(value, value)

    def inwards(self) -> list[_Scope]:
        """The scopes from the outermost to this one."""
        chain: list[_Scope] = []
        scope: _Scope | None = self
        while scope is not None:
            chain.append(scope)
            scope = scope.outer
        return chain[::-1]


class _Sweep:
    """Walks graphs and regions in order, with an explicit stack of scopes."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.roles = ("const", "buffer", "param") if ctx.admits("ulp") else ("const", "buffer")

    def run(self, graph: Graph) -> None:
        stack: list[tuple[_Scope, Iterator[Node]]] = [(_Scope(graph, None), graph.nodes())]
        while stack:
            scope, nodes = stack[-1]
            for node in nodes:
                if node.has(PURE) and not node.has(RANDOM):
                    self.visit(node, scope)
                if node.name in ("if", "loop", "scan") and node.regions:
                    stack += [(_Scope(r, scope), r.nodes()) for r in reversed(node.regions)]
                    break
            else:
                stack.pop()

    def visit(self, node: Node, scope: _Scope) -> None:
        """Replace `node` by an equal one of its graph or of a graph around it, or remember it."""
        key = (node.op.name, node.attrs.key, *(self.identity(v, scope) for v in node.operands))
        where: _Scope | None = scope
        while where is not None:
            for first in reversed(where.seen.get(key, ())[-COMPARED:]):
                if self.equal(first, node):
                    self.merge(first, node, where, scope)
                    return
            where = where.outer
        scope.seen.setdefault(key, []).append(node)

    def identity(self, value: Value | None, scope: _Scope) -> object:
        """What two equal operands share: the value that they are, or of constants that may be compared the type."""
        if value is None or value.weight is None:
            return scope.same.get(value, value) if value is not None else None
        return value.type if value.weight.role in self.roles and value.dtype is not STRING else value

    def equal(self, first: Node, node: Node) -> bool:
        """Two nodes of one key: the types of their results and the contents of their constants are equal too, and neither has
        captured more since."""
        if len(first.operands) != len(node.operands):
            return False
        if any(a.type is not b.type for a, b in zip(first.results, node.results, strict=True)):
            return False
        pairs = zip(first.operands, node.operands, strict=True)
        if not all(a is b or a is None or b is None or not b.is_const or _same_bytes(a, b) for a, b in pairs):
            return False
        return not node.regions or same_regions(first, node)

    def merge(self, first: Node, node: Node, where: _Scope, scope: _Scope) -> None:
        values: Sequence[Value] = first.results
        needed = [bool(v.n_uses) for v in node.results]
        chain = scope.inwards()
        for inner in chain[chain.index(where) + 1 :]:
            region = inner.graph.parent.regions.index(inner.graph)  # type: ignore[union-attr]
            captured = {outer: row[region] for outer, row in captures(inner.node)}  # type: ignore[arg-type]
            missing = [v for v, is_needed in zip(values, needed, strict=True) if is_needed and v not in captured]
            if missing:
                captured.update(zip(missing, add_captures(inner.node, missing)[region], strict=True))  # type: ignore[arg-type]
            for value in captured.keys() & set(values):
                inner.same[captured[value]] = inner.outer.same.get(value, value)  # type: ignore[union-attr]
            values = [captured.get(v, v) for v in values]
        node.replace(*values)
        self.ctx.stats["cse" if where is scope else "capture instead of computing"] += 1


def _same_bytes(a: Value, b: Value) -> bool:
    """Two constants of one type have equal bytes; what differs at the front is not read further."""
    if a.weight is None or b.weight is None:
        return False
    x, y = a.weight.tensor, b.weight.tensor
    if x is y or (x.nbytes > FIRST and x.structure() == y.structure()):
        return True
    for size in (FIRST, BLOCK):
        for one, two in zip(x.blocks(size), y.blocks(size), strict=True):
            if not np.array_equal(one.view(np.uint8), two.view(np.uint8)):
                return False
            if size == FIRST:
                break
    return True


def same_regions(first: Node, node: Node) -> bool:
    """The regions of two nodes compute the same: compared node by node, regions in regions too."""
    same: dict[Value, Value] = {}
    pending = list(zip(first.regions, node.regions, strict=True))
    while pending:
        mine, theirs = pending.pop()
        if [v.type for v in mine.inputs] != [v.type for v in theirs.inputs]:
            return False
        same.update(zip(theirs.inputs, mine.inputs, strict=True))
        one, two = mine.first, theirs.first
        while one.op is two.op and one.attrs is two.attrs and len(one.regions) == len(two.regions):
            if one.operands != tuple(same.get(v, v) for v in two.operands):  # type: ignore[arg-type]
                return False
            if one.next is None or two.next is None:
                break
            same.update(zip(two.results, one.results, strict=True))
            pending += zip(one.regions, two.regions, strict=True)
            one, two = one.next, two.next
        if one.next is not None or two.next is not None:
            return False
    return True
