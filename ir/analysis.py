"""Questions about graphs. networkx appears here only, on a read-only snapshot: for export, dominators, critical paths,
partitioning, and as an oracle in tests. Passes never change a graph through it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from .graph import Graph, Module, Node, Value
from .opdef import MOVEMENT

if TYPE_CHECKING:
    import networkx


class Quant(NamedTuple):
    """The parameters of a quantised value: constants or computed values, and the storage dtype by the value itself."""

    scale: Value
    zero_point: Value | None


def quant_of(value: Value) -> Quant | None:
    """Scale and zero point of an integer value: its `quantize` or `requantize` producer's, or its `dequantize` user's,
    looking through ops that only move elements. None when nothing says."""
    seen: set[Value] = set()
    current: Value | None = value
    while current is not None and current not in seen:
        seen.add(current)
        node = current.node
        if node is not None and node.name == "quantize":
            return Quant(node.operand("scale"), node.operand("zero_point"))
        for user in current.users:
            if user.name == "dequantize" and user.operands[0] is current:
                return Quant(user.operand("scale"), user.operand("zero_point"))
        movement = node is not None and node.has(MOVEMENT)
        current = node.operands[0] if movement else None  # type: ignore[union-attr]
    return None


def op_counts(module: Module) -> Counter[str]:
    """How many nodes of each op the module has, regions included."""
    return Counter(node.name for node in module.all_nodes())


def weight_bytes(module: Module) -> int:
    """Bytes of all weights in use, each once."""
    return sum(v.weight.nbytes for v in module.constants() if v.n_uses and v.weight is not None)


def snapshot(graph: Graph) -> networkx.MultiDiGraph:
    """The graph as networkx sees it: integers for nodes in order (op, loc, types as attributes), inputs as "in<i>",
    `return` as "return"; edges carry the operand index. Editing the snapshot does nothing to the IR."""
    import networkx

    picture = networkx.MultiDiGraph(name=graph.name)
    label: dict[Value, object] = {}
    for value in graph.inputs:
        label[value] = f"in{value.index}"
        picture.add_node(f"in{value.index}", op="input", type=str(value.type), hint=value.hint)
    for number, node in enumerate(graph.nodes()):
        types = ", ".join(str(v.type) for v in node.results)
        picture.add_node(
            number, op=node.name, type=types, loc=str(node.loc), hint=node.results[0].hint if node.results else ""
        )
        _edges(picture, node, number, label)
        label.update(dict.fromkeys(node.results, number))
    picture.add_node("return", op="return", type="", hint="")
    _edges(picture, graph.return_node, "return", label)
    return networkx.freeze(picture)


def _edges(picture: networkx.MultiDiGraph, node: Node, name: object, label: dict[Value, object]) -> None:
    for index, value in enumerate(node.operands):
        if value is not None and value in label:
            picture.add_edge(label[value], name, operand=index)


def immediate_dominators(graph: Graph) -> dict[object, object]:
    """For each node of the snapshot, the last one that every path from the inputs passes."""
    import networkx

    picture = networkx.DiGraph(snapshot(graph))
    sources = [n for n in picture if picture.in_degree(n) == 0]
    picture.add_edges_from(("entry", n) for n in sources)
    return dict(networkx.immediate_dominators(picture, "entry"))


def critical_path(graph: Graph) -> list[Node]:
    """The nodes of a longest chain of dependent nodes, first to last; O(nodes + edges)."""
    import networkx

    nodes = list(graph.nodes())
    picture = snapshot(graph).subgraph(range(len(nodes)))
    return [nodes[item] for item in networkx.dag_longest_path(networkx.DiGraph(picture))]
