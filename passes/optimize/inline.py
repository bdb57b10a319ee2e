"""Calls of functions as the functions' nodes: what optimises across their borders."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.graph import Graph
from ..decompose.structure import call
from ..manager import Context, graph_pass


@graph_pass("inline")
def inline(graph: Graph, ctx: Context) -> None:
    """Put the body of every called function in place of the call, inner calls first.

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
        node.replace(*call(Builder(graph, before=node), node))  # type: ignore[misc]
        ctx.stats["inline"] += 1
