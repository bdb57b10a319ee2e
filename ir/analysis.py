"""Questions about graphs. networkx appears here only, on a read-only snapshot: for export, dominators, critical paths,
partitioning, and as an oracle in tests. Passes never change a graph through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from .dims import evaluate, symbols
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


def macs(node: Node, sizes: Mapping[str, int]) -> int | None:
    """Multiply-accumulates of one run of a conv, gemm, matmul, attention or recurrent node, symbols bound by `sizes`; 0 for
    other ops, None where a shape is not known. Regions are not entered: how often they run is not known."""
    count = _MACS.get(node.name)
    if count is None:
        return 0
    try:
        return count(node, lambda index: _sized(node.operands[index], sizes), lambda: _sized(node.results[0], sizes))
    except _Unknown:
        return None


class _Unknown(Exception):
    """A shape that is not known."""


Shaped = Callable[[int], tuple[int, ...]]
Made = Callable[[], tuple[int, ...]]


def _sized(value: Value | None, sizes: Mapping[str, int]) -> tuple[int, ...]:
    if value is None or value.shape is None or any(s not in sizes for d in value.shape for s in symbols(d)):
        raise _Unknown
    return tuple(evaluate(d, sizes) for d in value.shape)


def _conv_macs(weight: int) -> Callable[[Node, Shaped, Made], int]:
    """Every result is a sum over the input channels of its group and the window."""
    return lambda node, shape, made: prod(made()) * prod(shape(weight)[1:])


def _product_macs(a: int) -> Callable[[Node, Shaped, Made], int]:
    return lambda node, shape, made: prod(made()) * shape(a)[-1]


def _transposed_macs(node: Node, shape: Shaped, made: Made) -> int:
    """Every input is spread over the output channels of its group and the window."""
    return prod(shape(0)) * prod(shape(1)[1:])


def _gemm_macs(node: Node, shape: Shaped, made: Made) -> int:
    return prod(made()) * shape(0)[0 if node.attr("transA") else 1]


def _recurrent_macs(gates: int) -> Callable[[Node, Shaped, Made], int]:
    """W is [directions, gates * hidden, input], R [directions, gates * hidden, hidden], x [time, batch, input]."""
    return lambda node, shape, made: prod(shape(0)[:2]) * (prod(shape(1)) + prod(shape(2)))


def _attention_macs(node: Node, shape: Shaped, made: Made) -> int:
    """q k^T and the weighted sum of v, masked places included."""
    query, key, value = shape(0), shape(1), shape(2)
    heads = query[1] if len(query) == 4 else node.attr("q_num_heads")
    widths = [
        s[-1] if len(s) == 4 else s[-1] // h for s, h in ((query, heads), (value, node.attr("kv_num_heads") or 1))
    ]
    past = shape(4)[2] if len(node.operands) > 4 and node.operands[4] is not None else 0
    return query[0] * heads * query[-2] * (key[-2] + past) * sum(widths)


_MACS: dict[str, Callable[[Node, Shaped, Made], int]] = {
    "conv": _conv_macs(1),
    "conv_integer": _conv_macs(1),
    "qlinear_conv": _conv_macs(3),
    "conv_transpose": _transposed_macs,
    "gemm": _gemm_macs,
    "matmul": _product_macs(0),
    "matmul_integer": _product_macs(0),
    "qlinear_matmul": _product_macs(0),
    "attention": _attention_macs,
    "lstm": _recurrent_macs(4),
    "gru": _recurrent_macs(3),
    "rnn": _recurrent_macs(1),
}

#: Ops whose work `macs` counts: the layers of a network.
LAYERS = frozenset(_MACS)
