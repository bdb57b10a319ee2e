"""What integer arithmetic says about its weights: which stored constant they are, and how large they are as real numbers.

Scales of integer products stand behind the sums: `requantize(sum, a_scale w_scale / y_scale)`, or `sum * (a_scale w_scale)` in
floats. Works on the IR alone; edits nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.graph import Node, Value

#: What passes a factor on as it is.
_SAME = frozenset(("cast", "reshape", "squeeze", "unsqueeze"))


def factors(*values: Value | None) -> list[Value]:
    """The constants that `values` are products of, in order; what they are divided by is none of them."""
    found: list[Value] = []
    pending = list(reversed(values))
    while pending:
        value = pending.pop()
        node = value.node if value is not None else None
        if value is not None and value.is_const:
            found.append(value)
        elif node is not None and node.name == "mul":
            pending += reversed(node.operands)
        elif node is not None and (node.name in _SAME or node.name == "div"):
            pending.append(node.operands[0])
    return found


def told_scales(node: Node) -> list[Value]:
    """The constants that the sums of `node` are multiplied by: of a product the data's scale, then that of the weights."""
    value = node.result
    while value.n_uses == 1:
        user = value.uses[0].node
        if user.name in ("add", "cast"):
            value = user.result
        elif user.name == "requantize":
            return factors(user.operands[1])
        elif user.name == "mul":
            return factors(*(other for other in user.operands if other is not value))
        else:
            break
    return []


def stored_weight(value: Value) -> tuple[Value, tuple[int, ...]] | None:
    """The constant that `value` is or is the transpose of, used nowhere else, and how its axes are turned."""
    node = value.node
    turned = node is not None and node.name == "transpose" and value.n_uses == 1
    stored = node.operands[0] if turned and node is not None else value
    if stored is None or stored.weight is None or not stored.rank or stored.n_uses != 1:
        return None
    return stored, tuple(node.attr("perm")) if turned and node is not None else tuple(range(stored.rank))


def unit_of(integers: np.ndarray, scales: Sequence[Value], axis: int) -> np.ndarray:
    """What one step of `integers` stands for while they are trained, of their rank: the last of `scales`, one number or a vector
    along `axis`. Where none fits, what makes them as large as a fresh layer's weights: the results do not depend on it, only
    how fast training moves them.
    """
    if scales:
        told = scales[-1].array().astype(np.float32)
        if told.size in (1, integers.shape[axis]) and np.isfinite(told).all() and (told > 0).all():
            return along(told.reshape(-1), integers.ndim, axis)
    terms = integers.size / max(1, integers.shape[axis])
    spread = float(np.sqrt(np.mean(np.square(integers.astype(np.float64))))) if integers.size else 0.0
    return np.full((1,) * integers.ndim, 1 / (max(spread, 1.0) * max(terms, 1.0) ** 0.5), np.float32)


def along(vector: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """A vector of one number, or one for each index of `axis`, laid out for an array of `rank`."""
    return vector.reshape(tuple(-1 if i == axis % rank else 1 for i in range(rank)))
