"""Calls as the nodes of the functions that they call. Knows no target."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.clone import copy_nodes
from ...ir.graph import Value
from ...ir.infer import propagate
from ...ir.value import Node
from .rules import Outcome, decomposes


@decomposes("call")
def call(b: Builder, node: Node) -> Outcome:
    """The body in place of the call; its nodes' origins lie inside that of the call."""
    (body,) = node.regions
    mapping: dict[Value, Value] = dict(zip(body.inputs, node.inputs(), strict=True))
    made = copy_nodes(body, node.graph, mapping, before=node)  # type: ignore[arg-type]
    for new in made:
        new.loc = new.loc.under(node.loc.scope)
    propagate(made)  # operands may be better known than the body's inputs, or constant
    return tuple(mapping.get(v, v) for v in body.outputs)
