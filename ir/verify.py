"""The verifier: every invariant of the IR, checked in linear time. A pass may assume a verified module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .errors import AnyIRError, TypeInferError, VerifyError
from .graph import Graph, Module, Node, Value
from .infer import inferred
from .opdef import SPATIAL
from .types import TensorType, meet
from .value import Use

ERROR_LIMIT = 20

Problem = tuple[Node | None, str]


def verify(module: Module, *, allow_channels_last: bool = False) -> None:
    """Raise VerifyError naming what is wrong, with a window of IR around the first problem; at most 20 are listed.

    Checked: links and order, definitions before uses, closed regions, exact use lists, operand and result types against
    inference, signatures, weights. `channels_last` is refused unless layout assignment has run.
    """
    problems = [
        problem for _, problem in zip(range(ERROR_LIMIT), problems_of(module, allow_channels_last), strict=False)
    ]
    if problems:
        from .printer import window

        node, first = problems[0]
        shown = f"\n{window(node)}" if node is not None and node.graph is not None else ""
        rest = "".join(f"\n  also: {text}" for _, text in problems[1:])
        raise VerifyError(f"the IR is broken: {first}{shown}{rest}")


def problems_of(module: Module, allow_channels_last: bool = False) -> Iterator[Problem]:
    """All problems as (node, text), graph by graph."""
    pending = list(reversed(module.graphs.values()))
    for name, graph in module.graphs.items():
        if graph.name != name or graph.module is not module or graph.parent is not None:
            yield None, f"graph @{name} is not the module's own graph of that name"
    counter = _Uses()
    while pending:
        graph = pending.pop()
        broken = _links(graph)
        if broken:
            yield broken
            return  # what follows would walk in circles
        yield from _inputs(graph)
        inner: list[Graph] = []
        yield from _nodes(graph, counter, inner, allow_channels_last)
        pending.extend(reversed(inner))
    yield from counter.lost(module)
    yield from _constants(module)
    yield from _signatures(module)


def _links(graph: Graph) -> Problem | None:
    """The list of nodes is well linked, ends in `return`, and its order labels grow."""
    previous, order, last = None, 0, graph.return_node
    node: Node | None = graph.first
    while node is not None:
        if node.graph is not graph or node.prev is not previous:
            return node, f"{node.name} is linked wrongly"
        if node.order <= order:
            return node, f"the order label of {node.name} is not above that of the node before it"
        previous, order, node = node, node.order, node.next
    return None if previous is last else (previous, f"@{graph.name} does not end in return")


def _inputs(graph: Graph) -> Iterator[Problem]:
    for index, value in enumerate(graph.inputs):
        if value.owner is not graph or value.index != index or value.weight is not None:
            yield None, f"input {index} of @{graph.name} is not the graph's own value number {index}"


class _Uses:
    """Use lists against the operands seen: each operand must be listed, and nothing else may be."""

    def __init__(self) -> None:
        self.operands = 0
        self.listed = 0
        self.values: list[Value] = []

    def lost(self, module: Module) -> Iterator[Problem]:
        """Lists that are too long. Every operand is in its list (`_nodes` saw to that), so equal totals say that all is
        well, and only otherwise is it worth counting value by value."""
        constants = list(module._constants.values())
        listed = self.listed + sum(value.n_uses for value in constants)
        if listed == self.operands:
            return
        counted: Counter[Value] = Counter()
        for graph in module.all_graphs():
            for node in (*graph.nodes(), graph.return_node):
                counted.update(node.inputs())
        for graph in module.all_graphs():
            for value in (*graph.inputs, *(v for node in graph.nodes() for v in node.results), *constants):
                if value.n_uses != counted[value]:
                    found = f"lists {value.n_uses} uses, a recount finds {counted[value]}"
                    yield value.node, f"%{value.hint or '?'} {found}"


def _nodes(graph: Graph, counter: _Uses, inner: list[Graph], allow_channels_last: bool) -> Iterator[Problem]:
    """Operands are defined before, listed as uses, and of this graph; results are what inference says. Regions go to
    `inner`. The fast way through: what is wrong is only looked at closely once something is."""
    defined = set(graph.inputs)
    constants = graph.module._constants
    counter.listed += sum(value.n_uses for value in graph.inputs)
    node: Node | None = graph.first
    while node is not None:
        index = 0
        for value in node._operands:
            if value is not None:
                counter.operands += 1
                uses = value._uses
                listed = uses.__class__ is Use and uses.node is node and uses.index == index
                if not listed and not (uses.__class__ is dict and (node, index) in uses):
                    yield node, f"operand {index} of {node.name} is not in the use list of %{value.hint or '?'}"
                if value not in defined and (value.weight is None or constants.get(value.weight) is not value):
                    yield node, f"operand {index} of {node.name} is {_why_undefined(value, graph)}"
            index += 1
        if not _results_hold(node):
            yield from _results(node)
        if node.regions:
            inner += node.regions
        if not allow_channels_last and node.op.has(SPATIAL) and node.attrs.get("channels_last"):
            yield node, f"{node.name} has channels_last before layout assignment"
        for value in node.results:
            defined.add(value)
            uses = value._uses
            if uses is not None:
                counter.listed += 1 if uses.__class__ is Use else len(uses)
        node = node.next


def _why_undefined(value: Value, graph: Graph) -> str:
    if value.is_const:
        return "a constant of another module"
    if value.graph is not graph:
        return "of another graph (regions are closed: pass it as an operand)"
    return "not defined before its use"


def _results_hold(node: Node) -> bool:
    """Results and regions of this node are surely right."""
    if node.regions:
        return False
    try:
        known = inferred(node)
    except TypeInferError:
        return False
    results = node.results
    if len(known) != len(results):
        return False
    for index, value in enumerate(results):
        if value.type is not known[index].type or value.owner is not node or value.index != index:
            return False
    return True


def _results(node: Node) -> Iterator[Problem]:
    """What is wrong with results and regions; nothing, where declared types only know more or less than inference."""
    for region in node.regions:
        if region.parent is not node:
            yield node, f"a region of {node.name} belongs to another node"
    try:
        known = inferred(node)
    except TypeInferError as error:
        yield node, str(error)
        return
    if len(known) != len(node.results):
        yield node, f"{node.name} has {len(node.results)} results, inference says {len(known)}"
        return
    for index, (value, found) in enumerate(zip(node.results, known, strict=True)):
        if value.owner is not node or value.index != index:
            yield node, f"result {index} of {node.name} is not the node's own value number {index}"
        if meet(value.type, found.type) is None:
            yield node, f"result {index} of {node.name} is {value.type}, inference says {found.type}"


def _constants(module: Module) -> Iterator[Problem]:
    for value in module._constants.values():
        weight = value.weight
        if value.type is not TensorType(weight.tensor.dtype, tuple(weight.tensor.shape)):  # type: ignore[union-attr]
            yield None, f"constant {weight.key!r} is {value.type}, its tensor is not"  # type: ignore[union-attr]
        if module.weights.get(weight.key) is not weight:  # type: ignore[union-attr]
            yield None, f"the module does not own the weight {weight.key!r} under that key"  # type: ignore[union-attr]


def _signatures(module: Module) -> Iterator[Problem]:
    for signature in module.signatures.values():
        try:
            signature.check()
        except AnyIRError as error:
            yield None, str(error)
        if module.graphs.get(signature.graph.name) is not signature.graph:
            yield None, f"signature {signature.key!r} is of a graph that the module does not have"
    for weight in module.defaults():
        if module.weights.get(weight.key) is not weight:
            yield None, f"the module does not own the weight {weight.key!r}, the default of an input"
