"""Reverse-mode differentiation on the graph: the adjoint of everything between some values and one that depends on them.

    dx, dw = gradients(b, y, [x, w])       # nodes are added where `b` builds

The derivative of a node is a rule of the table in `vjp`, else that of the ops which its decomposition spells it with. A
value that rounds, compares or counts hands nothing back; an op that has neither is refused by name. Knows no frontend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..ir.builder import Builder
from ..ir.errors import AnyIRError, Unsupported
from ..ir.graph import Node, Value
from ..ir.opdef import PURE
from .decompose import Declined, load
from .vjp import RULES, ones_like, zeros_like

#: Nodes of a decomposition that is differentiated: more are steps of a recurrent layer, one after the other.
MOST_PARTS = 64


def gradients(b: Builder, y: Value, xs: Sequence[Value], free: Iterable[Value] = ()) -> list[Value]:
    """The derivatives of the sum of y's elements by each of `xs`, each in the shape and dtype of its x.

    Values in `free` (and `xs`) are independent of each other, whatever computes them. Raises Unsupported for a float op
    on the way that has no rule.
    """
    if y.dtype is None or not y.dtype.is_float:
        raise Unsupported(f"the derivative of a value of type {y.type}")
    adjoint = _pulled_back(b, {y: ones_like(b, y)}, xs, free)
    return [adjoint[x] if x in adjoint else zeros_like(b, x) for x in xs]


def _pulled_back(
    b: Builder, handed: Mapping[Value, Value], xs: Sequence[Value], free: Iterable[Value] = ()
) -> dict[Value, Value]:
    """The adjoints of `xs` from those of the values in `handed`; what gets nothing is missing."""
    stop = dict.fromkeys((*xs, *free))
    adjoint = dict(handed)
    for node in reversed(_active(handed, stop, xs)):
        given = tuple(adjoint.pop(v, None) if v not in stop else None for v in node.results)
        if any(g is not None for g in given):
            _hand_back(b, node, given, adjoint)
    return adjoint


def _hand_back(b: Builder, node: Node, handed: tuple[Value | None, ...], adjoint: dict[Value, Value]) -> None:
    """Add what a node's results hand back to the adjoints of its operands."""
    rule = RULES.get(node.name)
    found = rule(b, node, handed) if rule is not None else None
    for value, given in zip(node.operands, found if found is not None else _by_parts(b, node, handed), strict=False):
        if value is None or given is None or value.dtype is None or not value.dtype.is_float:
            continue
        adjoint[value] = b.add(adjoint[value], given) if value in adjoint else given


def _by_parts(b: Builder, node: Node, handed: tuple[Value | None, ...]) -> list[Value | None]:
    """What a node hands back that its decomposition spells with other ops, which are computed once more."""
    unknown = Unsupported(f"the derivative of {node.name} is not known", where=f"{node.name} at {node.loc}")
    rule = load().get(node.name)
    if rule is None or not node.has(PURE) or any(v.rank is None for v in node.inputs()):
        raise unknown
    before = len(b.graph)
    try:
        made = rule(b, node)
    except AnyIRError as error:
        raise unknown from error
    if isinstance(made, Declined) or len(b.graph) - before > MOST_PARTS:
        raise unknown
    spelt: Sequence[Value | None] = made if isinstance(made, tuple) else (made,)  # type: ignore[assignment]
    seeds: dict[Value, Value] = {}
    for value, given in zip(spelt, handed, strict=True):
        if given is not None:
            if value is None:
                raise unknown
            seeds[value] = b.add(seeds[value], given) if value in seeds else given
    xs = list(dict.fromkeys(v for v in node.inputs() if v.dtype is not None and v.dtype.is_float))
    adjoint = _pulled_back(b, seeds, xs)
    return [adjoint.pop(v, None) if v is not None else None for v in node.operands]


def _between(ys: Iterable[Value], stop: Mapping[Value, None]) -> list[Node]:
    """The nodes that `ys` depend on, up to the values in `stop`, in the order of the graph."""
    found: dict[Node, None] = {}
    pending = list(ys)
    while pending:
        value = pending.pop()
        node = value.node
        if value in stop or node is None or node in found:
            continue
        found[node] = None
        pending.extend(node.inputs())
    graphs = {id(node.graph) for node in found}
    if len(graphs) > 1:
        raise Unsupported("a derivative across the border of a subgraph")
    return sorted(found, key=lambda node: node.order)


def _active(ys: Iterable[Value], stop: Mapping[Value, None], xs: Sequence[Value]) -> list[Node]:
    """Those of them through which `ys` vary with xs, smoothly: a node without a float result ends the way."""
    moving = dict.fromkeys(xs)
    active = []
    for node in _between(ys, stop):
        smooth = any(v.dtype is None or v.dtype.is_float for v in node.results)
        if smooth and any(v in moving for v in node.inputs()):
            active.append(node)
            moving.update(dict.fromkeys(v for v in node.results if v not in stop))
    return active


def recomputed(b: Builder, y: Value, free: Iterable[Value], moved: Mapping[Value, Value]) -> Value:
    """y computed once more with the values in `moved` in the place of others; what does not depend on them is shared."""
    place = dict(moved)
    for node in _between([y], dict.fromkeys(free)):
        if not any(v in place for v in node.inputs()):
            continue
        if node.regions:
            raise Unsupported(f"{node.name} cannot be computed once more at other values")
        made = b.call(node.name, [None if v is None else place.get(v, v) for v in node.operands], dict(node.attrs))
        place.update(zip(node.results, made.results, strict=True))
    return place.get(y, y)


__all__ = ["gradients", "recomputed"]
