"""Whether a run can go on behind a branch: inference followed forward on what the branch would yield.

Frontends that specialise on ranks write `if(rank(x) == 2) ... else ...` whose branches yield different ranks. Often what
stands behind takes only one of them: then a run that takes the other branch fails there, and every run that succeeds takes
this one. The graph is not touched.
"""

from __future__ import annotations

import heapq

from ...ir.errors import TypeInferError
from ...ir.graph import Graph, Node, Value
from ...ir.opdef import Known

#: Nodes that are looked at behind one branch: a refutation far away is worth less than the time to find it.
REACH = 64


def cannot_follow(node: Node, number: int) -> bool:
    """Some node behind the `if` surely refuses what its branch `number` yields. All nodes of a graph run, so do those of
    the branch that a condition known by then takes."""
    shadows: dict[Value, Value] = {}
    outputs = node.regions[number].outputs
    for result, output in zip(node.results, outputs, strict=True):
        if output.type is not result.type or output.elems != result.elems:
            shadows[result] = _shadow(output.type, output.elems)
    heap: list[tuple[int, Node]] = []
    queued: set[Node] = set()
    _queue(heap, queued, shadows)
    left = REACH
    while heap and left:
        left -= 1
        at = heapq.heappop(heap)[1]
        try:
            known = _inferred(at, shadows)
        except TypeInferError:
            return True
        for value, found in zip(at.results, known or (), strict=False):
            if found.type is not value.type or found.elems != value.elems:
                shadows[value] = _shadow(found.type, found.elems)
                _push(heap, queued, value)
    return False


def _shadow(type_: object, elems: tuple | None) -> Value:
    made = Value(type_, None)  # type: ignore[arg-type]
    made._elems = elems
    return made


def _queue(heap: list, queued: set[Node], shadows: dict[Value, Value]) -> None:
    for value in list(shadows):
        _push(heap, queued, value)


def _push(heap: list, queued: set[Node], value: Value) -> None:
    for user in value.users:
        if user not in queued and user.op.name != "return":
            queued.add(user)
            heapq.heappush(heap, (user.order, user))  # orders within a graph differ


def _inferred(node: Node, shadows: dict[Value, Value]) -> tuple[Known, ...] | None:
    """What inference says of a node on shadows; None where it is left open. Raises TypeInferError."""
    operands = tuple(None if v is None else shadows.get(v, v) for v in node.operands)
    if not node.regions:
        return node.op.infer_results(operands, node.attrs)
    taken = operands[0].ints() if node.name == "if" and operands[0] is not None else None
    if taken is None or len(taken) != 1:
        return None
    return _inside(node.regions[0 if taken[0] else 1], operands[1:])


def _inside(region: Graph, values: tuple[Value | None, ...]) -> tuple[Known, ...] | None:
    """What a branch that is surely taken yields for these inputs. Raises TypeInferError."""
    inside: dict[Value, Value] = {i: v for i, v in zip(region.inputs, values, strict=True) if v is not None}
    for number, node in enumerate(region.nodes()):
        if number == REACH or node.regions:
            return None
        known = node.op.infer_results(tuple(None if v is None else inside.get(v, v) for v in node.operands), node.attrs)
        inside.update((v, _shadow(k.type, k.elems)) for v, k in zip(node.results, known, strict=True))
    return tuple(Known(v.type, v.elems) for v in (inside.get(v, v) for v in region.outputs))
