"""What the elements of integers can be: bounds that clips, remainders, arg_max, flags, constants and the types themselves let
through. Must not know what for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ...ir.graph import Node, Value
from ...ir.types import BOOL, STRING, DType

#: Constants of more elements are not looked at.
LARGEST = 1 << 20
#: So many nodes in front of a value are asked.
NODES = 32

#: The least and the largest that an element can be.
Reach = tuple[float, float]
ANYTHING: Reach = (-math.inf, math.inf)


def reach_of(value: Value) -> Reach:
    """What the elements of `value` can be, as far as the nodes right in front of it tell."""
    found: dict[Node, None] = {}
    waiting = [value]
    while waiting and len(found) < NODES:
        node = waiting.pop().node
        if node is not None and node.name in _RULES and node not in found:
            found[node] = None
            waiting += node.inputs()
    reaches: dict[Value, Reach] = {}
    for node in sorted(found, key=lambda n: n.order):
        note(node, reaches)
    return reach(value, reaches)


def reach(value: Value | None, reaches: dict[Value, Reach]) -> Reach:
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


def note(node: Node, reaches: dict[Value, Reach]) -> None:
    """What the results can be; what leaves the type wraps around to anywhere."""
    rule = _RULES.get(node.name)
    for value in node.results if rule is not None else ():
        low, high = rule(node, [reach(v, reaches) for v in node.operands])  # type: ignore[misc]
        least, most = _held_by(value.dtype)
        if (least, most) != ANYTHING and least <= low and high <= most:
            reaches[value] = low, high


def union(found: Sequence[Reach]) -> Reach:
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
    **dict.fromkeys(_MOVING, lambda node, found: found[0]), "concat": lambda node, found: union(found),
    "where": lambda node, found: union(found[1:]), "clip": _clip, "min": _least, "max": _largest, "mod": _remainder,
    "arg_max": _position, "arg_min": _position, "topk": _position, "add": _sum, "sub": _difference,
}  # fmt: skip
