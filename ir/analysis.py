"""Questions about graphs. networkx appears here only, on a read-only snapshot: for export, dominators, critical paths,
partitioning, and as an oracle in tests. Passes never change a graph through it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from .graph import Graph, Module, Node, Value
from .opdef import SAME_QUANT

if TYPE_CHECKING:
    import networkx


class Quant(NamedTuple):
    """The parameters of a quantised value: constants or computed values, and the storage dtype by the value itself."""

    scale: Value
    zero_point: Value | None


#: Ops that make or take integers, with the operands that say how: result or operand -> (scale, zero point).
_MAKES = {
    "quantize": {0: (1, 2)},
    "qlinear_matmul": {0: (6, 7)},
    "qlinear_conv": {0: (6, 7)},
}
_TAKES = {
    "dequantize": {0: (1, 2)},
    "qlinear_matmul": {0: (1, 2), 3: (4, 5)},
    "qlinear_conv": {0: (1, 2), 3: (4, 5)},
}


def quant_of(value: Value) -> Quant | None:
    """Scale and zero point of an integer value: what made it says, or who takes it, looking through ops that only move
    or choose elements. None when nothing says, or where parameters along an axis would have to move along."""
    pending, seen = [value], {value}
    for current in pending:
        found = _said(current)
        if found is not None:
            single = all(v is None or v.rank == 0 or v.type.numel == 1 for v in found)  # type: ignore[attr-defined]
            return found if single or current is value else None
        node = current.node
        near = [node.operands[0]] if node is not None and node.has(SAME_QUANT) else []
        for user in current.users:
            if user.has(SAME_QUANT) and user.operands[0] is current:
                near += [made for made in user.results if made.dtype is current.dtype]
        for other in near:
            if other is not None and other not in seen:
                seen.add(other)
                pending.append(other)
    return None


def _said(value: Value) -> Quant | None:
    """What the node that makes `value`, or the first that takes it, says of its scale and zero point."""
    node = value.node
    if node is not None and node.name == "dynamic_quantize" and value.index == 0:
        return Quant(node.results[1], node.results[2])
    places = [(node, _MAKES.get(node.name, {}).get(value.index))] if node is not None else []
    places += [(use.node, _TAKES.get(use.node.name, {}).get(use.index)) for use in value.uses]
    for source, place in places:
        if place is not None:
            scale, zero = (source.operands[i] if i < len(source.operands) else None for i in place)
            return Quant(scale, zero)  # type: ignore[arg-type]
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
