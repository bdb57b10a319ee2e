"""Reverse-mode differentiation on the graph: the adjoint of everything between some values and one that depends on them.

    dx, dw = gradients(b, y, [x, w])       # nodes are added where `b` builds

The derivative of a node is a rule of the table in `vjp`. A value that rounds, compares or counts hands nothing back; an
op that has no rule is refused by name. Knows no frontend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..ir.builder import Builder
from ..ir.errors import Unsupported
from ..ir.graph import Node, Value
from .vjp import RULES, ones_like, zeros_like


def gradients(b: Builder, y: Value, xs: Sequence[Value], free: Iterable[Value] = ()) -> list[Value]:
    """The derivatives of the sum of y's elements by each of `xs`, each in the shape and dtype of its x.

    Values in `free` (and `xs`) are independent of each other, whatever computes them. Raises Unsupported for a float op
    on the way that has no rule.
    """
    if y.dtype is None or not y.dtype.is_float:
        raise Unsupported(f"the derivative of a value of type {y.type}")
    stop = dict.fromkeys((*xs, *free))
    adjoint: dict[Value, Value] = {y: ones_like(b, y)}
    active = _active(y, stop, xs)
    for node in reversed(active):
        handed = tuple(adjoint.pop(v, None) if v not in stop else None for v in node.results)
        if any(g is not None for g in handed):
            _hand_back(b, node, handed, adjoint)
    return [adjoint[x] if x in adjoint else zeros_like(b, x) for x in xs]


def _hand_back(b: Builder, node: Node, handed: tuple[Value | None, ...], adjoint: dict[Value, Value]) -> None:
    """Add what a node's results hand back to the adjoints of its operands."""
    rule = RULES.get(node.name)
    if rule is None:
        raise Unsupported(f"the derivative of {node.name} is not known", where=f"{node.name} at {node.loc}")
    for value, given in zip(node.operands, rule(b, node, handed), strict=False):
        if value is None or given is None or value.dtype is None or not value.dtype.is_float:
            continue
        adjoint[value] = b.add(adjoint[value], given) if value in adjoint else given


def _between(y: Value, stop: Mapping[Value, None]) -> list[Node]:
    """The nodes that y depends on, up to the values in `stop`, in the order of the graph."""
    found: dict[Node, None] = {}
    pending = [y]
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


def _active(y: Value, stop: Mapping[Value, None], xs: Sequence[Value]) -> list[Node]:
    """Those of them through which y varies with xs, smoothly: a node without a float result ends the way."""
    moving = dict.fromkeys(xs)
    active = []
    for node in _between(y, stop):
        smooth = any(v.dtype is None or v.dtype.is_float for v in node.results)
        if smooth and any(v in moving for v in node.inputs()):
            active.append(node)
            moving.update(dict.fromkeys(v for v in node.results if v not in stop))
    return active


def recomputed(b: Builder, y: Value, free: Iterable[Value], moved: Mapping[Value, Value]) -> Value:
    """y computed once more with the values in `moved` in the place of others; what does not depend on them is shared."""
    place = dict(moved)
    for node in _between(y, dict.fromkeys(free)):
        if not any(v in place for v in node.inputs()):
            continue
        if node.regions:
            raise Unsupported(f"{node.name} cannot be computed once more at other values")
        made = b.call(node.name, [None if v is None else place.get(v, v) for v in node.operands], dict(node.attrs))
        place.update(zip(node.results, made.results, strict=True))
    return place.get(y, y)


__all__ = ["gradients", "recomputed"]
