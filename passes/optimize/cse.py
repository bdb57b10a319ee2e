"""Common subexpressions: of two pure nodes with the same op, attributes and operands the later one goes."""

from __future__ import annotations

from ...ir.graph import Graph, Node, Value
from ...ir.opdef import PURE, RANDOM
from ..manager import Context, graph_pass


@graph_pass("cse")
def cse(graph: Graph, ctx: Context) -> None:
    """One sweep in order; equal small constants count as the same operand (weights themselves are never merged).

    Given:
        %1 = exp(%x)
        %2 = exp(%x)
        %3 = add(%1, %2)
    Result:
        %1 = exp(%x)
        %3 = add(%1, %1)
    """
    seen: dict[tuple, Node] = {}
    for node in graph.nodes():
        if not node.has(PURE) or node.has(RANDOM) or node.regions:
            continue
        key = (node.op.name, node.attrs.key, *map(_identity, node.operands))
        first = seen.setdefault(key, node)
        if first is not node and [v.type for v in first.results] == [v.type for v in node.results]:
            node.replace(*first.results)
            ctx.stats["cse"] += 1


def _identity(value: Value | None) -> object:
    """What makes two operands the same: the value, or the contents of an unnamed constant."""
    if value is None or value.weight is None or value.weight.role != "const":
        return value
    tensor = value.weight.tensor
    return (value.type, tensor.digest()) if tensor.nbytes <= 4096 else value
