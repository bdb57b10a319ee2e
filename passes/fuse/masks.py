"""What a mask of attention hides: none of a query's keys by -inf, all later ones, or those where a condition is false.

Everything here reads numbers of constants and a bounded number of nodes; what is not surely so is not said.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import ml_dtypes
import numpy as np

from ...ir.dims import Dim, dim_eq
from ...ir.graph import Node, Value
from ..optimize.common import SMALL, same_dims
from .terms import EPSILON, fill, own

#: The most nodes of a mask that are looked at, and how deep they stand.
DEEPEST = 12
#: A score this low, beside one that is not, has a weight of 0.
LOW = -1e4

_ARITHMETIC = {"add", "sub", "mul", "min", "max", "neg", "abs"}
_MOVES = {"reshape", "unsqueeze", "squeeze", "expand", "transpose", "slice", "gather", "concat", "identity", "trilu"}


class Numbers(NamedTuple):
    """The least constant of a mask, and whether two parts of it are added that may come to -inf together."""

    least: float
    adds: bool


def finite(value: Value) -> Numbers | None:
    """What a mask is made of that no -inf comes out of but by overflow: a sum of products of finite constants and integers."""
    todo, least, adds = [(value, 0)], 0.0, False
    for _ in range(4 * DEEPEST):
        if not todo:
            return Numbers(least, adds)
        item, depth = todo.pop()
        if item.dtype is None or not (item.dtype.is_numeric or item.dtype.kind == "bool"):
            return None
        if not item.dtype.is_float:
            continue
        node = item.node
        if item.is_const or (node is not None and node.name == "constant_of_shape"):
            low = _least(item)
            if low is None:
                return None
            least = min(least, low)
            continue
        if node is None or depth == DEEPEST:
            return None
        adds |= node.name in ("add", "sub") and all(not v.is_const or (_least(v) or 0) <= LOW for v in node.inputs())
        if node.name == "where":
            todo += [(v, depth + 1) for v in node.operands[1:]]  # type: ignore[misc]
        elif node.name in _ARITHMETIC or node.name in _MOVES or node.name in ("cast", "dequantize"):
            todo += [(v, depth + 1) for v in node.inputs()]
        else:
            return None
    return None


def _least(value: Value) -> float | None:
    """The least number of a constant, when all are finite."""
    if not value.is_const:
        low = fill(value)
        return low if low is not None and math.isfinite(low) else None
    if value.weight.nbytes > SMALL:  # type: ignore[union-attr]
        return None
    found = value.array().astype(np.float64)
    return float(found.min(initial=0.0)) if np.all(np.isfinite(found)) else None


def _plane(value: Value) -> Value:
    """What leading dims of 1 were given to."""
    while value.node is not None and value.node.name in ("unsqueeze", "reshape", "cast", "identity"):
        source = value.node.operands[0]
        if not source.rank or source.rank < 2 or not same_dims(source.shape[-2:], value.shape[-2:]):  # type: ignore[index]
            break
        value = source
    return value


def _rows(value: Value) -> np.ndarray | None:
    """A constant as one matrix."""
    if not value.is_const or value.weight.nbytes > SMALL or value.rank < 2 or any(d != 1 for d in value.shape[:-2]):  # type: ignore[union-attr,operator,index]
        return None
    return value.array().astype(np.float64).reshape(value.shape[-2:])  # type: ignore[index,arg-type]


def is_triangle(value: Value | None) -> bool | None:
    """True for what is true, or not 0, exactly where a column stands no later than its row; False for the opposite."""
    turned = False
    for _ in range(DEEPEST):
        if value is None:
            return None
        value = _plane(value)
        rows = _rows(value)
        if rows is not None:
            lower = np.arange(rows.shape[0])[:, None] >= np.arange(rows.shape[1])
            same, other = (np.array_equal(rows != 0, which) for which in (lower, ~lower))
            return None if same == other else same != turned
        node = value.node
        if node is None:
            return None
        if node.name == "trilu":
            found = _triangle_of(node)
            return None if found is None else found != turned
        if node.name == "not" or (node.name == "equal" and any(fill(v) == 0 for v in node.operands)):
            turned = not turned
            value = next(v for v in node.operands if node.name == "not" or fill(v) != 0)
        elif _is_corner(node):
            value = node.operands[0]
        else:
            return None
    return None


def _triangle_of(node: Node) -> bool | None:
    shift = node.operand("k")
    start = 0 if shift is None else shift.scalar()
    if not fill(node.operands[0]) or start != int(node.attr("upper")):
        return None
    return not node.attr("upper")


def _is_corner(node: Node) -> bool:
    """A slice of a matrix from its first row or column on."""
    if node.name != "slice" or not node.operands[0].rank or node.operands[0].rank < 2:
        return False
    starts, steps = node.operand("starts"), node.operand("steps")
    first = starts is not None and starts.ints() is not None and not any(starts.ints())  # type: ignore[arg-type]
    return first and (steps is None or set(steps.ints() or (0,)) == {1})


class Hidden(NamedTuple):
    """Keys where `seen` is false (`turned`: true) have `low` for a score, or that much added to it."""

    seen: Value
    turned: bool
    low: float


def hidden_by(node: Node | None, score: Value | None = None) -> Hidden | None:
    """The condition of where(seen, score, low), by default with 0 for a score."""
    if node is None or node.name != "where":
        return None
    test, first, second = node.operands
    for kept, other, turned in ((first, second, False), (second, first, True)):
        low = fill(other)
        if (kept is score if score is not None else fill(kept) == 0) and low is not None and low <= LOW:
            return Hidden(test, turned, low)  # type: ignore[arg-type]
    return None


def is_causal(hidden: Hidden, queries: Dim, keys: Dim) -> bool:
    """Exactly the later keys are hidden from each query."""
    return is_triangle(hidden.seen) is not hidden.turned and _is_square(hidden.seen, queries, keys)


def _is_square(mask: Value, queries: Dim, keys: Dim) -> bool:
    """A row for each query, a column for each key, as many of both; a corner of a constant has them where it fits at all."""
    if is_triangle(mask) is None or any(d != 1 for d in mask.shape[:-2]):  # type: ignore[index]
        return False
    cut = mask.node is not None and mask.node.name == "slice" and not any(type(d) is int for d in mask.shape[-2:])  # type: ignore[index]
    return same_dims(mask.shape[-2:], (queries, keys)) or (cut and dim_eq(queries, keys) is True)  # type: ignore[index]


def added(mask: Value) -> Hidden | None:
    """What a mask hides that is 0 for some keys and low for the others."""
    plane = _plane(mask)
    found = hidden_by(plane.node)
    if found is not None:
        return found
    if plane.node is not None and plane.node.name == "trilu":
        low = fill(plane.node.operands[0])
        return Hidden(plane, True, low) if low is not None and low <= LOW else None
    rows = _rows(plane)
    lows = set() if rows is None else set(rows[rows != 0].tolist())
    return Hidden(plane, True, lows.pop()) if len(lows) == 1 and max(lows) <= LOW else None


def absorbs(low: float, like: Value) -> bool:
    """Adding a score to `low` gives `low` again, for scores up to 16."""
    return math.isfinite(low) and -low * EPSILON[like.dtype.name] / 2 >= 16  # type: ignore[union-attr]


def lowest(like: Value) -> float:
    """The least number of a dtype: some runtimes take it for -inf in a mask."""
    return float(ml_dtypes.finfo(like.dtype.numpy).min)  # type: ignore[union-attr]


def guarded(value: Value | None) -> Node | None:
    """The softmax p of where(is_nan(p), 0, p): a query that sees no key weighs none."""
    chosen = own(value, "where")
    test = None if chosen is None else own(chosen.operands[0], "is_nan")
    weights = None if test is None else test.operands[0]
    if weights is None or chosen.operands[2] is not weights or fill(chosen.operands[1]) != 0 or weights.n_uses != 2:  # type: ignore[union-attr]
        return None
    return weights.node if weights.node is not None and weights.node.name == "softmax" else None
