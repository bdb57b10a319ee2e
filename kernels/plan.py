"""How a graph is run: where each node finds its operands, which values die with it, where its results go.

Worked out once per version of a graph and left on it, so that a run is a loop over a list. Imports no numpy.
"""

from __future__ import annotations

from typing import NamedTuple

from ..ir.graph import Graph, Node, Value
from ..ir.weights import Weight


class Step(NamedTuple):
    """One node. Slots are places in the list of values of a run; slot 0 always holds None."""

    node: Node
    #: Per operand; 0 where it is absent or a constant.
    slots: tuple[int, ...]
    #: The constants among the operands: position and weight.
    constants: tuple[tuple[int, Weight], ...]
    #: Whose last use this is.
    dead: tuple[int, ...]
    #: The results that are used: position and slot.
    made: tuple[tuple[int, int], ...]


class Plan(NamedTuple):
    """The inputs are in the slots 1 to `inputs`; `final` is `return`."""

    inputs: int
    size: int
    steps: tuple[Step, ...]
    final: Step


def plan_of(graph: Graph) -> Plan:
    """The plan of this version of the graph."""
    if graph.plan is None or graph.plan[0] != graph.version:
        graph.plan = graph.version, _planned(graph)
    made: Plan = graph.plan[1]
    return made


def _planned(graph: Graph) -> Plan:
    nodes = [*graph.nodes(), graph.return_node]
    last = {value: node for node in nodes for value in node.operands if value is not None and value.weight is None}
    used = [*graph.inputs, *(value for node in nodes for value in node.results if value in last)]
    slots = {value: place for place, value in enumerate(used, 1)}
    *steps, final = [_step(node, slots, last) for node in nodes]
    return Plan(len(graph.inputs), 1 + len(used), tuple(steps), final)


def _step(node: Node, slots: dict[Value, int], last: dict[Value, Node]) -> Step:
    operands = list(enumerate(node.operands))
    read = [value for value in dict.fromkeys(node.operands) if value is not None and value.weight is None]
    return Step(
        node,
        tuple(0 if value is None or value.weight is not None else slots[value] for _, value in operands),
        tuple((place, value.weight) for place, value in operands if value is not None and value.weight is not None),
        tuple(slots[value] for value in read if last[value] is node),
        tuple((place, slots[value]) for place, value in enumerate(node.results) if value in slots),
    )
