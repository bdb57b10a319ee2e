"""Types travel forward: when a value becomes better known, only the nodes that it reaches are inferred again."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from .errors import TypeInferError
from .graph import Graph, Module, Node
from .types import meet


def infer_node(node: Node) -> bool:
    """Infer one node again and refine its results; True if any became better known. Raises TypeInferError.

    Inference has the last word on symbolic dims; what contradicts the known type is left for the verifier to report."""
    try:
        known = node.op.infer_results(node.operands, node.attrs, node.regions)
    except TypeInferError as error:
        raise error.at(f"{node.name} at {node.loc}") from None
    changed = False
    for value, found in zip(node.results, known, strict=True):
        known_together = meet(found.type, value.type)
        if known_together is not None:
            changed |= value.refine(known_together, found.elems)
    return changed


def propagate(seeds: Iterable[Node]) -> None:
    """Infer the seeds again and whatever their refinements reach; linear in the nodes whose types change."""
    pending = dict.fromkeys(seeds)
    while pending:
        node = next(iter(pending))
        del pending[node]
        if node.graph is not None and node.op.name != "return" and infer_node(node):
            pending.update(dict.fromkeys(user for value in node.results for user in value.users))


def infer_graph(graph: Graph) -> None:
    """Infer every node once, in order, regions included."""
    for node in graph.nodes():
        infer_node(node)


def infer_module(module: Module) -> None:
    """Infer all graphs and regions; inner regions before the nodes that hold them see refined bodies."""
    for graph in reversed(list(module.all_graphs())):
        infer_graph(graph)


def retype(nodes: Iterable[Node]) -> None:
    """Infer these nodes again and take what inference says, whether or not it refines the old type; then go on with the
    users of what changed. For passes that change shapes on purpose (dead weights, pruning). Raises TypeInferError."""
    heap = [(node.order, n, node) for n, node in enumerate(dict.fromkeys(nodes))]
    queued = {node for _, _, node in heap}
    heapq.heapify(heap)
    count = len(heap)
    while heap:
        node = heapq.heappop(heap)[2]
        queued.discard(node)
        if node.graph is None or node.op.name == "return":
            continue
        known = node.op.infer_results(node.operands, node.attrs, node.regions)
        for value, found in zip(node.results, known, strict=True):
            if found.type is value.type:
                continue
            value.type, value._elems = found.type, found.elems
            for user in value.users:
                if user not in queued:
                    queued.add(user)
                    heapq.heappush(heap, (user.order, count, user))
                    count += 1
