"""Types travel forward: when a value becomes better known, only the nodes that it reaches are inferred again.

A symbol that inference has to make up (for a dim that depends on data) is made up once: inferred again, the node keeps
the symbols that its results have.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from .dims import Dim, Expr, sym, symbols
from .errors import TypeInferError
from .expr import ANONYMOUS, made_since
from .graph import Graph, Module, Node
from .opdef import Known
from .symbols import Renaming
from .types import TensorType, Type, meet


def inferred(node: Node) -> tuple[Known, ...]:
    """What inference says of the results of `node`; what it makes up goes by the symbols of the results as they are.
    Raises TypeInferError."""
    mark = Expr.mark()
    known = node.op.infer_results(node._operands, node.attrs, node.regions)
    if Expr.mark() == mark or len(known) != len(node.results):
        return known
    own: dict[str, Dim] = {}
    for value, found in zip(node.results, known, strict=True):
        for new, old in zip(_dims(found.type), _dims(value.type), strict=False):
            _recognise(new, old, mark, own)
    renaming = Renaming(own)
    return tuple(Known(renaming.type(k.type), k.elems and tuple(map(renaming.dim, k.elems))) for k in known)


def _dims(type_: Type) -> Iterable[Dim]:
    while not isinstance(type_, TensorType):
        if not hasattr(type_, "elem"):
            return ()
        type_ = type_.elem
    return type_.shape or ()


def _recognise(new: Dim, old: Dim, mark: int, own: dict[str, Dim]) -> None:
    """Note in `own` that a symbol made up since `mark` is one of `old`, if that makes both dims the same."""
    if not isinstance(new, Expr) or not isinstance(old, Expr):
        return
    made = [name for name in symbols(new) if made_since(name, mark)]
    if len(made) == 1 and made[0] not in own:
        for name in symbols(old):
            if ANONYMOUS.match(name) and Renaming({made[0]: sym(name)}).dim(new) is old:
                own[made[0]] = sym(name)
                return


def infer_node(node: Node) -> bool:
    """Infer one node again and refine its results; True if any became better known. Raises TypeInferError.

    Inference has the last word on symbolic dims; what contradicts the known type is left for the verifier to report."""
    try:
        known = inferred(node)
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
    pending = _Worklist(seeds)
    for node in pending:
        if infer_node(node):
            for value in node.results:
                pending.add(value.users)


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
    pending = _Worklist(nodes)
    for node in pending:
        for value, found in zip(node.results, inferred(node), strict=True):
            if found.type is not value.type:
                value.type, value._elems = found.type, found.elems
                pending.add(value.users)


class _Worklist:
    """Nodes in the order of their graphs, each once however often it is added before its turn; `return` has no types."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.heap: list[tuple[int, int, Node]] = []
        self.queued: set[Node] = set()
        self.count = 0
        self.add(nodes)

    def add(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node not in self.queued and node.op.name != "return":
                self.queued.add(node)
                heapq.heappush(self.heap, (node.order, self.count, node))
                self.count += 1

    def __iter__(self) -> Iterator[Node]:
        while self.heap:
            node = heapq.heappop(self.heap)[2]
            self.queued.discard(node)
            if node.graph is not None:
                yield node
