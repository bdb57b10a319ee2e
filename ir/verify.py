"""The verifier: every invariant of the IR, checked in linear time. A pass may assume a verified module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .errors import AnyIRError, TypeInferError, VerifyError
from .graph import Graph, Module, Node, Value
from .opdef import SPATIAL
from .types import TensorType, refines

ERROR_LIMIT = 20


def verify(module: Module, *, allow_channels_last: bool = False) -> None:
    """Raise VerifyError naming what is wrong, with a window of IR around the first problem; at most 20 are listed.

    Checked: links and order, definitions before uses, closed regions, exact use lists, operand and result types against
    inference, signatures, weights. `channels_last` is refused unless layout assignment has run.
    """
    problems = list(_some(problems_of(module, allow_channels_last)))
    if problems:
        from .printer import window

        node, first = problems[0]
        shown = f"\n{window(node)}" if node is not None and node.graph is not None else ""
        rest = "".join(f"\n  also: {text}" for _, text in problems[1:])
        raise VerifyError(f"the IR is broken: {first}{shown}{rest}")


def _some(found: Iterator[tuple[Node | None, str]]) -> Iterator[tuple[Node | None, str]]:
    for _, problem in zip(range(ERROR_LIMIT), found, strict=False):
        yield problem


def problems_of(module: Module, allow_channels_last: bool = False) -> Iterator[tuple[Node | None, str]]:
    """All problems as (node, text), graph by graph."""
    uses: Counter[Value] = Counter()
    for graph in module.all_graphs():
        yield from _structure(graph, uses)
        for node in graph.nodes():
            yield from _types(node)
            if not allow_channels_last and node.has(SPATIAL) and node.attrs.get("channels_last"):
                yield node, f"{node.name} has channels_last before layout assignment"
    yield from _use_counts(module, uses)
    for signature in module.signatures.values():
        try:
            signature.check()
        except AnyIRError as error:
            yield None, str(error)
        if module.graphs.get(signature.graph.name) is not signature.graph:
            yield None, f"signature {signature.key!r} is of a graph that the module does not have"


def _structure(graph: Graph, uses: Counter[Value]) -> Iterator[tuple[Node | None, str]]:
    defined = set(graph.inputs)
    previous: Node | None = None
    node: Node | None = graph.first
    while node is not None:
        if node.graph is not graph or node.prev is not previous:
            yield node, f"{node.name} is linked wrongly"
            return
        if previous is not None and not previous.order < node.order:
            yield node, f"order labels of {previous.name} and {node.name} are not increasing"
        for index, value in enumerate(node.operands):
            if value is None:
                continue
            uses[value] += 1
            if value.is_const:
                if graph.module._constants.get(value.weight) is not value:  # type: ignore[arg-type]
                    yield node, f"operand {index} of {node.name} is a constant of another module"
            elif value not in defined:
                outside = "of another graph (regions are closed: pass it as an operand)" if value.graph is not graph else ""
                yield node, f"operand {index} of {node.name} is {outside or 'not defined before its use'}"
        defined.update(node.results)
        previous, node = node, node.next
    if previous is not graph.return_node:
        yield previous, f"@{graph.name} does not end in return"


def _types(node: Node) -> Iterator[tuple[Node | None, str]]:
    try:
        known = node.op.infer_results(node.operands, node.attrs, node.regions)
    except TypeInferError as error:
        yield node, str(error)
        return
    if len(known) != len(node.results):
        yield node, f"{node.name} has {len(node.results)} results, inference says {len(known)}"
        return
    for value, found in zip(node.results, known, strict=True):
        if not (refines(value.type, found.type) or refines(found.type, value.type)):
            yield node, f"result {value.index} of {node.name} is {value.type}, inference says {found.type}"


def _use_counts(module: Module, counted: Counter[Value]) -> Iterator[tuple[Node | None, str]]:
    for graph in module.all_graphs():
        values = [*graph.inputs, *(v for node in graph.nodes() for v in node.results)]
        for value in values:
            if value.n_uses != counted[value]:
                yield value.node, f"%{value.hint or '?'} lists {value.n_uses} uses, a recount finds {counted[value]}"
    for value in module.constants():
        weight = value.weight
        if value.n_uses != counted[value]:
            yield None, f"constant {weight.key!r} lists {value.n_uses} uses, a recount finds {counted[value]}"  # type: ignore[union-attr]
        if value.type is not TensorType(weight.tensor.dtype, tuple(weight.tensor.shape)):  # type: ignore[union-attr]
            yield None, f"constant {weight.key!r} is {value.type}, its tensor is not"  # type: ignore[union-attr]
