"""Rows of tables that no index can reach: behind the largest that clips, arg_max, remainders and constants let through.

    %i = clip(%ids, 0, 99)
    %y = gather(%table, %i)          : table f32[512, 64] becomes f32[100, 64]

Rows in front of the smallest index stay: every index would have to be made smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir.graph import Module, Node, Value
from ...ir.tensor import ArrayTensor
from ...ir.types import BOOL, STRING, DType

UNREACHED = "unreached-row"
#: Constants of more elements are not looked at.
LARGEST = 1 << 20

#: The least and the largest that an element can be.
Reach = tuple[float, float]
ANYTHING: Reach = (-math.inf, math.inf)


def drop_unreached_rows(module: Module) -> list[dict[str, Any]]:
    """Cut tables behind the last row that is looked up; a row of the report for each."""
    reaches: dict[Value, Reach] = {}
    for graph in module.all_graphs():
        for node in graph.nodes():
            _note(node, reaches)
    lookups: dict[Value, list[Node]] = {}
    for node in module.all_nodes("gather"):
        lookups.setdefault(node.operands[0], []).append(node)  # type: ignore[arg-type]
    made = [_cut(module, table, nodes, reaches) for table, nodes in lookups.items() if table.is_const]
    return [row for row in made if row is not None]


def _cut(module: Module, table: Value, nodes: Sequence[Node], reaches: dict[Value, Reach]) -> dict[str, Any] | None:
    rank = table.rank or 0
    if rank < 2 or len(nodes) != table.n_uses or any(node.attr("axis") % rank for node in nodes):
        return None
    found = [_reach(node.operands[1], reaches) for node in nodes]
    rows = int(table.shape[0])  # type: ignore[index, arg-type]
    lowest, last = _union(found)
    if lowest < 0 or last + 1 >= rows:
        return None
    last = int(last)
    tail, weight = table.shape[1:], table.weight  # type: ignore[index]
    assert weight is not None
    kept = weight.tensor.region((0,) * rank, (last + 1, *tail))  # type: ignore[arg-type]
    origin = f"rows 0 to {last} of {weight.origin or weight.wanted}"
    new = module.add_weight(weight.wanted, ArrayTensor(np.ascontiguousarray(kept)), weight.role, origin)
    new.weight.aliases = weight.aliases  # type: ignore[union-attr]
    table.replace_uses(new)
    return {"pass": "dead-weights", "layer": new.weight.key, "kind": UNREACHED, "count": rows - last - 1,  # type: ignore[union-attr]
            "proof": f"every index that is looked up is from 0 to {last}", "bound": 0.0}  # fmt: skip


# ------------------------------------------------------------------------------------------------ what indices can be


def _reach(value: Value | None, reaches: dict[Value, Reach]) -> Reach:
    """What is known of the elements, of integers at least what their type can hold."""
    whole = ANYTHING if value is None else _held_by(value.dtype)
    if value is None or whole == ANYTHING or not value.is_const:
        return whole if value is None else reaches.get(value, whole)
    if value.weight is None or not 0 < value.weight.tensor.size <= LARGEST:
        return whole
    array = value.array()
    return int(array.min()), int(array.max())


def _held_by(dtype: DType | None) -> Reach:
    if dtype is BOOL:
        return 0, 1
    if dtype is None or dtype is STRING or dtype.numpy.kind not in "iu":
        return ANYTHING
    info = np.iinfo(dtype.numpy)
    return int(info.min), int(info.max)


def _note(node: Node, reaches: dict[Value, Reach]) -> None:
    """What the results can be; what leaves the type wraps around to anywhere."""
    rule = _RULES.get(node.name)
    for value in node.results if rule is not None else ():
        low, high = rule(node, [_reach(v, reaches) for v in node.operands])  # type: ignore[misc]
        least, most = _held_by(value.dtype)
        if (least, most) != ANYTHING and least <= low and high <= most:
            reaches[value] = low, high


def _union(found: Sequence[Reach]) -> Reach:
    return min(low for low, _ in found), max(high for _, high in found)


def _least(node: Node, found: list[Reach]) -> Reach:
    return min(low for low, _ in found), min(high for _, high in found)


def _largest(node: Node, found: list[Reach]) -> Reach:
    return max(low for low, _ in found), max(high for _, high in found)


def _clip(node: Node, found: list[Reach]) -> Reach:
    """The lesser of the upper end and of the larger of x and the lower one; ends that are absent say nothing."""
    x, low, high = (*found, ANYTHING, ANYTHING)[:3]
    raised = x if low == ANYTHING else _largest(node, [x, low])
    return raised if high == ANYTHING else _least(node, [raised, high])


def _remainder(node: Node, found: list[Reach]) -> Reach:
    """Has the sign of the divisor, but for C's fmod."""
    least, most = found[1]
    return (0, most - 1) if least > 0 and not node.attr("fmod") else ANYTHING


def _position(node: Node, found: list[Reach]) -> Reach:
    """A place along an axis; where the numbers themselves are integers, those of topk are no places."""
    x = node.operands[0]
    if x is None or x.shape is None or (len(node.results) > 1 and not x.dtype.is_float):  # type: ignore[union-attr]
        return ANYTHING
    size = x.shape[node.attr("axis")]
    return (0, size - 1) if type(size) is int and size > 0 else ANYTHING


def _sum(node: Node, found: list[Reach]) -> Reach:
    (a, b), (c, d) = found
    return a + c, b + d


def _difference(node: Node, found: list[Reach]) -> Reach:
    (a, b), (c, d) = found
    return a - d, b - c


#: Results are elements of the first operand.
_MOVING = (
    "identity", "cast", "reshape", "transpose", "split", "slice", "squeeze", "unsqueeze", "expand", "tile", "flatten", "reverse",
    "gather",
)  # fmt: skip
_RULES: dict[str, Callable[[Node, list[Reach]], Reach]] = {
    **dict.fromkeys(_MOVING, lambda node, found: found[0]), "concat": lambda node, found: _union(found),
    "where": lambda node, found: _union(found[1:]), "clip": _clip, "min": _least, "max": _largest, "mod": _remainder,
    "arg_max": _position, "arg_min": _position, "topk": _position, "add": _sum, "sub": _difference,
}  # fmt: skip
