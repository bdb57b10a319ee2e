"""Control flow that the graph already decides: branches and loops that vanish, shrink, or give up what they need not do.

`if`, `loop` and `scan` are looked at twice. From the outside in, what is known outside enters: captures are known better,
conditions and trip counts are constants (see branches.py and loops.py). From the inside out, what nobody needs leaves: dead
nodes, results, captures. Regions stay closed throughout. Knows no target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.graph import Graph, Module, Node, Value
from ...ir.infer import infer_node, propagate
from ...ir.opdef import PURE, Known
from ...ir.types import Type, meet
from ..manager import Context, module_pass

_NAMES = ("if", "loop", "scan")


@module_pass("regions")
def regions(module: Module, ctx: Context) -> None:
    """Simplify control flow. Results are equal to the last bit in every run that the original completes.

    Given:
        %c = not(%b)
        %y = if(%c, %x, %x) {then(%p, %q) {return(%p)} else(%p, %q) {%n = neg(%q); return(%n)}}
    Result:
        %y = if(%b, %x) {then(%p) {%n = neg(%p); return(%n)} else(%p) {return(%p)}}
    """
    from .branches import simplify_if
    from .loops import simplify_loop

    for graph in module.all_graphs():
        merged: dict[Value, Node] = {}
        at = graph.first
        while at is not graph.return_node:
            before = at.prev
            if at.name in _NAMES:
                inform(at)
                (simplify_if(at, merged, ctx) if at.name == "if" else simplify_loop(at, ctx))
            if at.graph is graph:
                at = at.next  # type: ignore[assignment]
            else:  # go on with what stands in its place
                at = graph.first if before is None else _next(before, graph)
    for graph in reversed(list(module.all_graphs())):
        for node in graph.reversed():
            if node.has(PURE) and not any(value.n_uses for value in node.results):
                if graph.parent is not None or node.regions:
                    node.erase()
            elif node.name in _NAMES:
                shrink(node, ctx)


def _next(node: Node, graph: Graph) -> Node:
    """The node of `graph` behind this one, which may have left it meanwhile."""
    at = node.next
    while at is not None and at.graph is not graph:
        at = at.next
    return at or graph.return_node


def first_capture(node: Node) -> tuple[int, int]:
    """Where the captures begin: among the operands, and among the inputs of each region."""
    if node.name == "if":
        return 1, 0
    if node.name == "loop":
        return (2 + node.attr("carried"),) * 2
    return (node.attr("carried") + node.attr("num_scan_inputs"),) * 2


def captures(node: Node) -> list[tuple[Value, list[Value]]]:
    """Each captured value with the inputs that stand for it in the regions."""
    outside, inside = first_capture(node)
    rows = zip(*(region.inputs[inside:] for region in node.regions), strict=True)
    return [(value, list(row)) for value, row in zip(node.operands[outside:], rows, strict=True)]  # type: ignore[misc]


def inform(node: Node) -> None:
    """Regions know of their captures what is known outside, and then of their results."""
    users: list[Node] = []
    for outer, row in captures(node):
        for inner in row:
            elems = outer.elems if inner._elems is None else None
            if inner.refine(meet(outer.type, inner.type) or inner.type, elems):
                users += inner.users
    if users:
        propagate(users)
        infer_again(node)


def infer_again(node: Node) -> None:
    """Infer the results of `node`, and what they reach, anew."""
    if infer_node(node):
        propagate(user for value in node.results for user in value.users)


def replace(node: Node, values: Sequence[Value]) -> bool:
    """Put `values` in place of the results and erase the node; what is better known travels on. False, and nothing is done,
    where a type contradicts (the declared type of an optional, say)."""
    if any(meet(old.type, new.type) is None for old, new in zip(node.results, values, strict=True)):
        return False
    better: list[Node] = []
    for old, new in zip(node.results, values, strict=True):
        if new.node is not None:
            new.refine(meet(old.type, new.type) or new.type, new._elems or old._elems)
        if new.type is not old.type or new.elems != old.elems:
            better += old.users
        old.replace_uses(new)
    node.erase()
    propagate(user for user in better if user.graph is not None)
    return True


def inline(node: Node, region: Graph, values: Sequence[Value], outputs: Sequence[int]) -> list[Value] | None:
    """Move the nodes of `region` in front of `node`, `values` standing for its inputs; returns its outputs of these numbers.
    None, and nothing is done, where an input cannot take its value's type."""
    if any(meet(inner.type, outer.type) is None for inner, outer in zip(region.inputs, values, strict=True)):
        return None
    better: list[Node] = []
    for inner, outer in zip(region.inputs, values, strict=True):
        if outer.is_const or outer.type is not inner.type or outer.elems != inner.elems:
            better += inner.users
        inner.replace_uses(outer)
    made = [region.outputs[i] for i in outputs]
    region.set_outputs(())
    node.graph.absorb(region, before=node)  # type: ignore[union-attr]
    propagate(user for user in better if user.graph is node.graph)
    return made


def rebuild(
    node: Node,
    operands: Sequence[Value | None],
    kept: Sequence[int],
    attrs: dict[str, Any] | None = None,
    more: Sequence[Type] = (),
) -> Node:
    """A node in place of `node` with other operands, the results of numbers `kept` and then some of types `more`, and its
    regions."""
    new_attrs = node.attrs if attrs is None else node.op.make_attrs({**node.attrs, **attrs})
    regions, node.regions = node.regions, ()
    made = Node(node.op, tuple(operands), new_attrs, regions, node.loc)
    known = [Known(node.results[i].type, node.results[i]._elems) for i in kept]
    made.make_results((*known, *map(Known, more)))
    node.graph.insert(made, node)  # type: ignore[union-attr]
    for i, new in zip(kept, made.results, strict=False):
        node.results[i].replace_uses(new)
    node.erase()
    return made


def add_captures(node: Node, values: Sequence[Value]) -> list[list[Value]]:
    """Make the regions take these values of the outside too: for each region the inputs that stand for them."""
    rows = []
    for region in node.regions:
        row = [region.add_input(value.type, value.hint) for value in values]
        for inner, value in zip(row, values, strict=True):
            inner._elems = value.elems
        rows.append(row)
    node.set_operands((*node.operands, *values))
    return rows


def shrink(node: Node, ctx: Context) -> None:
    """Results that nobody uses, and captures that are constants, the same as another one, or unused."""
    from .branches import drop_results_of_if
    from .loops import drop_results_of_loop

    node = drop_results_of_if(node, ctx) if node.name == "if" else drop_results_of_loop(node, ctx)
    for region in node.regions:
        drop_dead(region)
    outside, inside = first_capture(node)
    first: dict[Value, list[Value]] = {}
    kept, rows = list(node.operands[:outside]), []
    users: list[Node] = []
    for outer, row in captures(node):
        same = [outer] * len(row) if outer.is_const else first.setdefault(outer, row)
        for inner, new in zip(row, same, strict=True):
            if inner is not new:
                users += inner.users
                inner.replace_uses(new)
        if same is row and any(inner.n_uses for inner in row):
            kept.append(outer)
            rows.append(row)
    if len(kept) == len(node.operands):
        return
    ctx.stats["drop captures"] += len(node.operands) - len(kept)
    node.set_operands(kept)
    for number, region in enumerate(node.regions):
        region.set_inputs([*region.inputs[:inside], *(row[number] for row in rows)])
    propagate(users)
    infer_again(node)


def drop_dead(graph: Graph) -> None:
    """Erase pure nodes that nobody uses, last first."""
    for node in graph.reversed():
        if node.has(PURE) and not any(value.n_uses for value in node.results):
            node.erase()


def count_nodes(graph: Graph, most: int) -> int:
    """The nodes of a graph and of the regions in it; counting stops above `most`."""
    total, pending = 0, [graph]
    while pending and total <= most:
        for node in pending.pop().nodes():
            total += 1
            pending += node.regions
            if total > most:
                break
    return total
