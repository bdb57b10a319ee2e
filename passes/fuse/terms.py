"""What written-out formulas are made of, however they are associated: products, polynomials, lines cut off at both ends.

Exporters spell one formula in a dozen ways: `(x * clip(x + 3, 0, 6)) / 6`, `x * (clip(3 + x, 0, 6) * 0.1667)`. The functions
here take the spelling away and leave numbers that a rule compares: each looks at a bounded number of nodes, all of which
belong to the formula alone. Numbers are those of one-element constants, in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...ir.graph import Node, Value
from ..optimize.common import SMALL, same_shape

#: The most nodes that one formula is looked through.
MOST = 12

#: Distance from 1 to the next number, by dtype.
EPSILON = {"f16": 2.0**-10, "bf16": 2.0**-7, "f32": 2.0**-23, "f64": 2.0**-52}


def is_float(x: Value) -> bool:
    return x.dtype is not None and x.dtype.name in EPSILON


def near(number: float, wanted: float, like: Value, units: float = 0.99) -> bool:
    """Equal as far as the dtype of `like` can say: less than one unit in the last place away (or `units` of them, where
    several constants were rounded)."""
    return math.isclose(number, wanted, rel_tol=units * EPSILON[like.dtype.name])  # type: ignore[union-attr]


def number(value: Value | None) -> float | None:
    """A one-element float constant that is finite."""
    if value is None or not value.is_const or not is_float(value):
        return None
    found = value.scalar()
    return float(found) if found is not None and math.isfinite(found) else None


def fill(value: Value | None) -> float | None:
    """The number that all elements are."""
    node = None if value is None else value.node
    if node is not None and node.name == "constant_of_shape":
        return float(node.attr("value"))
    if node is not None and node.name == "expand":
        value = node.operands[0]
    if value is None or not value.is_const or value.weight.nbytes > SMALL:  # type: ignore[union-attr]
        return None
    found = value.array().astype(np.float64).reshape(-1)
    return float(found[0]) if found.size and bool(np.all(found == found[0])) else None


def own(value: Value | None, *ops: str) -> Node | None:
    """The node that computes `value`, when one use is all it has, and it is one of `ops` (if any are named)."""
    node = None if value is None else value.node
    if node is None or value.n_uses != 1 or (ops and node.name not in ops):  # type: ignore[union-attr]
        return None
    return node


def stands_for(x: Value, node: Node) -> bool:
    """Something of the shape and float dtype of `x` may replace the node's result."""
    return is_float(x) and x.dtype is node.result.dtype and same_shape(x, node.result)


class Product(NamedTuple):
    """`factor` times all of `parts`."""

    factor: float
    parts: tuple[Value, ...]


def product(root: Node) -> Product | None:
    """The product that a mul or a div by a number ends."""
    factor, nodes = 1.0, [root]
    parts: list[Value] = []
    for _ in range(MOST):
        if not nodes:
            return Product(factor, tuple(parts))
        node = nodes.pop()
        for index, value in enumerate(node.operands):
            scale = number(value)
            if node.name == "div" and index == 1:
                if not scale:
                    return None
                factor /= scale
            elif scale is not None:
                factor *= scale
            elif (deeper := _factors(value)) is not None:
                nodes.append(deeper)
            else:
                parts.append(value)
    return None


def _factors(value: Value | None) -> Node | None:
    node = own(value, "mul", "div")
    return node if node is not None and (node.name == "mul" or number(node.operands[1])) else None


def gates(root: Node) -> Iterator[tuple[float, Value, Value]]:
    """(factor, x, gate) of a product x * gate(x): both orders; x has the type of the whole and the gate is used here alone."""
    found = product(root)
    if found is None or len(found.parts) != 2:
        return
    for x, gate in (found.parts, found.parts[::-1]):
        if own(gate) is not None and stands_for(x, root):
            yield found.factor, x, gate


class Ramp(NamedTuple):
    """min(max(slope * x + offset, low), high); `nodes` of them were looked through."""

    x: Value
    slope: float
    offset: float
    low: float
    high: float
    nodes: int

    @property
    def is_line(self) -> bool:
        return self.low == -math.inf and self.high == math.inf


def ramp(root: Value | None) -> Ramp | None:
    """What the sums, products and bounds with numbers that end in `root` come to; None where they come to a constant.

    `root` may have several uses, what lies behind it has one each."""
    steps: list[tuple[str, float, float]] = []
    value, node, count = root, None if root is None else root.node, 0
    while node is not None and count < MOST:
        step = _step(node)
        if step is None:
            break
        steps += step[1]
        value = step[0]
        count += 1
        node = own(value)
    if value is None:
        return None
    slope, offset, low, high = 1.0, 0.0, -math.inf, math.inf
    for kind, a, b in reversed(steps):
        if kind == "line":
            slope, offset = slope * a, offset * a + b
            low, high = sorted((low * a + b, high * a + b))
        else:
            low, high = min(max(low, a), b), min(max(high, a), b)
    return Ramp(value, slope, offset, low, high, count) if low < high and slope else None


Steps = tuple[Value, list[tuple[str, float, float]]]


def _step(node: Node) -> Steps | None:
    """The operand of one node of a ramp, and what the node does to it, last thing first."""
    name = node.name
    if name in ("relu", "relu6"):
        return node.operands[0], [("bounds", 0.0, 6.0 if name == "relu6" else math.inf)]
    if name == "neg":
        return node.operands[0], [("line", -1.0, 0.0)]
    if name == "hard_sigmoid":
        return node.operands[0], [("bounds", 0.0, 1.0), ("line", node.attr("alpha"), node.attr("beta"))]
    if name == "clip":
        low, high = (_bound(node.operand(side), end) for side, end in (("min", -math.inf), ("max", math.inf)))
        return None if low is None or high is None or low > high else (node.operands[0], [("bounds", low, high)])
    if name in ("add", "sub", "mul", "div", "min", "max"):
        return _binary_step(node)
    return None


def _bound(value: Value | None, absent: float) -> float | None:
    if value is None:
        return absent
    found = value.scalar()
    return None if found is None or math.isnan(found) else float(found)


def _binary_step(node: Node) -> Steps | None:
    x, y = node.operands
    a, b = number(x), number(y)
    if (a is None) == (b is None):
        return None
    if b is None:  # the number stands first
        return {
            "add": lambda: (y, [("line", 1.0, a)]),
            "sub": lambda: (y, [("line", -1.0, a)]),
            "mul": lambda: (y, [("line", a, 0.0)]) if a else None,
            "div": lambda: None,
            "min": lambda: (y, [("bounds", -math.inf, a)]),
            "max": lambda: (y, [("bounds", a, math.inf)]),
        }[node.name]()
    return {
        "add": lambda: (x, [("line", 1.0, b)]),
        "sub": lambda: (x, [("line", 1.0, -b)]),
        "mul": lambda: (x, [("line", b, 0.0)]) if b else None,
        "div": lambda: (x, [("line", 1.0 / b, 0.0)]) if b else None,
        "min": lambda: (x, [("bounds", -math.inf, b)]),
        "max": lambda: (x, [("bounds", b, math.inf)]),
    }[node.name]()


Coefficients = tuple[float, float, float, float]


def polynomial(value: Value | None, x: Value) -> Coefficients | None:
    """The coefficients of `value` as a polynomial in `x` up to the third power; all nodes between have one use."""
    return _polynomial(value, x, 8)


def _polynomial(value: Value | None, x: Value, depth: int) -> Coefficients | None:
    if value is x:
        return (0.0, 1.0, 0.0, 0.0)
    constant = number(value)
    if constant is not None:
        return (constant, 0.0, 0.0, 0.0)
    node = own(value, "add", "sub", "mul", "div", "neg", "square", "pow")
    if node is None or depth == 0:
        return None
    first = _polynomial(node.operands[0], x, depth - 1)
    if first is None:
        return None
    if node.name == "neg":
        return _times(first, (-1.0, 0.0, 0.0, 0.0))
    if node.name == "square":
        return _times(first, first)
    second = _polynomial(node.operands[1], x, depth - 1)
    return None if second is None else _combined(node.name, first, second)


def _combined(name: str, a: Coefficients, b: Coefficients) -> Coefficients | None:
    if name in ("add", "sub"):
        sign = 1.0 if name == "add" else -1.0
        return tuple(p + sign * q for p, q in zip(a, b, strict=True))  # type: ignore[return-value]
    if name == "mul":
        return _times(a, b)
    if any(b[1:]):
        return None
    if name == "div":
        return _times(a, (1.0 / b[0], 0.0, 0.0, 0.0)) if b[0] else None
    square = _times(a, a)
    return {1.0: a, 2.0: square, 3.0: None if square is None else _times(square, a)}.get(b[0])


def _times(a: Coefficients, b: Coefficients) -> Coefficients | None:
    made = [0.0] * 7
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            made[i + j] += p * q
    return None if any(made[4:]) else tuple(made[:4])  # type: ignore[return-value]


def times_x(value: Value | None, x: Value) -> float | None:
    """The number k of k * x; None for anything else."""
    found = polynomial(value, x)
    return found[1] if found is not None and found[1] and not any((found[0], *found[2:])) else None
