"""Calls of functions as the functions' nodes: what optimises across their borders."""

from __future__ import annotations

from ...ir.graph import Graph
from ..control.regions import inline as put_in_place
from ..control.regions import replace
from ..manager import Context, graph_pass


@graph_pass("inline")
def inline(graph: Graph, ctx: Context) -> None:
    """Put the body of every called function in place of the call, inner calls first; its nodes' origins then lie inside
    that of the call.

    Given:
        %1 = call(%x) {name = "twice"} : f32[2] {
          body(%a: f32[2]) {
            %2 = add(%a, %a) : f32[2]
            return(%2)
          }
        }
        return(%1)
    Result:
        %1 = add(%x, %x)
        return(%1)
    """
    for node in graph.nodes("call"):
        (body,) = node.regions
        for inner in body.nodes():
            inner.loc = inner.loc.under(node.loc.scope)
        outputs = put_in_place(node, body, node.operands, range(len(body.outputs)))  # type: ignore[arg-type]
        if outputs is not None and replace(node, outputs):
            ctx.stats["inline"] += 1
