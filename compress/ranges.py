"""Ranges for activations: which observer looks at a value, and the range that hurts the next layer least.

What counts is not the error of a value but what it does behind the next product. There the squared error of an element of
channel c is worth sum_o w[o, c]^2, and where one elementwise op f stands between, the error of f(x) counts: so a channel
with a wide range and small weights behind it does not widen everybody's steps, and what a hard-swish makes zero of needs no
steps at all. The range minimises

    sum_x h(x) (f(x) - f(clip(x)))^2  +  step^2 / 12  sum_{x inside, x != 0} h(x) f'(x)^2

over a grid of both ends, h being the histogram of the channels, each weighted with what it is worth. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..ir.graph import Node, Value
from ..ir.opdef import ELEMENTWISE
from ..kernels.run import run_node
from ..passes.quantize.plan import Plan
from ..passes.quantize.roles import weighted
from .observers import OBSERVERS, Histogram, MinMax, _coarser

#: Bins on each side of zero for one channel, and shares of an extreme that are tried as an end.
BINS = 256
#: More channels than that are not told apart: their histograms would take too much memory.
CHANNELS = 1536
SHARES = np.geomspace(1.0, 0.02, 80)
ROUNDS = 4


#: What is cut off is off the same way everywhere and adds up behind the next layer, where errors of rounding cancel: its
#: square counts so many times as much.
COHERENT = 10.0


class Worth(NamedTuple):
    """What the squared error of each index along `axis` is worth, mean 1."""

    axis: int
    weights: np.ndarray


class ForOutput(Histogram):
    """Ranges that minimise the error behind the next layer; see the module. `f` maps values to what counts of them."""

    def __init__(self, worth: Worth | None, f: Callable[[np.ndarray], np.ndarray] | None) -> None:
        super().__init__(None if worth is None else worth.axis, BINS if worth is not None else 8 * BINS)
        self.worth = worth
        self.f = f

    def range(self, qmin: int, qmax: int, symmetric: bool = False) -> tuple[float, float]:
        """One range for all channels. Raises InvalidData as the base does."""
        super().range(qmin, qmax, symmetric)
        low, high = min(float(self.lo.min()), 0.0), max(float(self.hi.max()), 0.0)  # type: ignore[union-attr]
        points, counts = self._weighted_points()
        search = _Search(points, counts, self.f or (lambda x: x), qmax - qmin)
        return search.symmetric(max(-low, high)) if symmetric else search.ends(low, high)

    def _cut(self, channel: int, lo: float, hi: float, qmin: int, qmax: int, symmetric: bool) -> tuple[float, float]:
        return lo, hi

    def _weighted_points(self) -> tuple[np.ndarray, np.ndarray]:
        """(middles, weights) of the bins in use of all channels together; zeros are left out: they cost nothing."""
        assert self.counts is not None and self.exponents is not None
        widest = int(self.exponents.max())
        weights = np.ones(len(self.counts)) if self.worth is None else self.worth.weights
        total = np.zeros(2 * self.bins)
        for counts, exponent, weight in zip(self.counts, self.exponents, weights, strict=True):
            if counts.any():
                total += weight * _coarser(counts, widest - int(exponent))
        used = np.flatnonzero(total)
        middles = (used - self.bins + 0.5) * np.ldexp(1.0 / self.bins, widest)
        return np.clip(middles, self.lo.min(), self.hi.max()), total[used]  # type: ignore[union-attr]


class _Search:
    """The ends with the smallest error."""

    def __init__(self, points: np.ndarray, counts: np.ndarray, f: Callable, steps: int) -> None:
        self.points = points
        self.counts = counts
        self.f = f
        self.steps = steps
        self.made = f(points)
        gap = np.maximum(np.abs(points) * 1e-3, 1e-6)
        self.slope = ((f(points + gap) - f(points - gap)) / (2 * gap)) ** 2

    def error(self, low: float, high: float) -> float:
        inside = (self.points >= low) & (self.points <= high)
        cut = np.clip(self.points[~inside], low, high)
        lost = (self.counts[~inside] * (self.made[~inside] - self.f(cut)) ** 2).sum()
        step = (high - low) / self.steps
        return float(COHERENT * lost + step**2 / 12 * (self.counts[inside] * self.slope[inside]).sum())

    def ends(self, low: float, high: float) -> tuple[float, float]:
        best = low, high
        for _ in range(ROUNDS):
            before = best
            best = best[0], self._best([(best[0], high * share) for share in SHARES])[1]
            best = self._best([(low * share, best[1]) for share in SHARES])[0], best[1]
            if best == before:
                break
        return best

    def symmetric(self, bound: float) -> tuple[float, float]:
        return self._best([(-bound * share, bound * share) for share in SHARES])

    def _best(self, ranges: list[tuple[float, float]]) -> tuple[float, float]:
        """The first, widest, of the ranges with the smallest error."""
        return min(ranges, key=lambda ends: self.error(*ends))


def observer_for(name: str, plan: Plan) -> Callable[[Value], MinMax]:
    """Makes the observer of each value: one of OBSERVERS, or "output"."""
    if name != "output":
        return lambda value: OBSERVERS[name]()
    worths = worth_of_values(plan)
    return lambda value: ForOutput(worths.get(value), _next_function(plan, value))


def _next_function(plan: Plan, value: Value) -> Callable[[np.ndarray], np.ndarray] | None:
    """The elementwise op that alone takes `value`, as a function of numbers."""
    node = value.single_user()
    if node is None or not node.has(ELEMENTWISE) or node not in plan.nodes or value.n_uses != 1:
        return None
    others = [v for v in node.operands[1:] if v is not None]
    if node.operands[0] is not value or any(v.scalar() is None for v in others):
        return None
    constants = [None if v is None else v.array().reshape(()) for v in node.operands[1:]]

    def apply(x: np.ndarray) -> np.ndarray:
        return run_node(node, [x.astype(value.dtype.numpy), *constants])[0].astype(np.float64)  # type: ignore[union-attr]

    return apply


# ------------------------------------------------------------------------------------------------ what channels are worth


def worth_of_values(plan: Plan) -> dict[Value, Worth]:
    """What the channels of each computed value are worth to the products behind it; values without an answer are missing."""
    found: dict[Value, Worth] = {}
    for node in plan.graph.reversed():
        for value in node.results:
            _settle(value, found)
    for value in plan.graph.inputs:
        _settle(value, found)
    return found


def _settle(value: Value, found: dict[Value, Worth]) -> None:
    parts = []
    for use in value.uses:
        part = _worth_at(use.node, use.index, value, found)
        if part is None:
            return
        parts.append(part)
    axes = {part.axis for part in parts}
    if len(axes) == 1 and len(parts[0].weights) <= CHANNELS:
        total = np.sum([part.weights for part in parts], axis=0)
        if total.sum() > 0:
            found[value] = Worth(axes.pop(), total / total.mean())


def _worth_at(node: Node, place: int, value: Value, found: dict[Value, Worth]) -> Worth | None:
    """What `node` makes of errors in its operand `place`."""
    if node.name in ("conv", "gemm", "matmul"):
        return _product_worth(node, place, value)
    if not node.results or node.results[0] not in found:
        return None
    behind = found[node.results[0]]
    if node.has(ELEMENTWISE) and node.result.rank == value.rank and node.result.shape == value.shape:
        return _scaled(node, behind, value)
    if node.name in _SAME_CHANNELS and behind.axis == 1:
        return behind
    return None


#: Ops that keep channel 1 apart.
_SAME_CHANNELS = frozenset(
    ["max_pool", "average_pool", "global_average_pool", "global_max_pool", "resize", "adaptive_average_pool"]
)


def _scaled(node: Node, behind: Worth, value: Value) -> Worth:
    """Behind a product with a constant per channel errors are that much larger."""
    factor = next((v for v in node.operands if v is not None and v.is_const), None) if node.name == "mul" else None
    if factor is None or factor.type.numel != len(behind.weights):  # type: ignore[attr-defined]
        return behind
    weights = behind.weights * factor.array().astype(np.float64).reshape(-1) ** 2
    return Worth(behind.axis, weights / max(weights.mean(), np.finfo(np.float64).tiny))


def _product_worth(node: Node, place: int, value: Value) -> Worth | None:
    """sum_o w[o, c]^2 for every channel c that a product sums over."""
    where = weighted(node)
    if where is None or place != 1 - where.place or where.place != 1:
        return None
    weight = node.operands[1].array().astype(np.float64) ** 2  # type: ignore[union-attr]
    if not np.isfinite(weight).all():
        return None
    if node.name == "conv":
        groups = node.attr("groups")
        per_group = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).sum(axis=(1, 3))
        return Worth(1, _mean_one(per_group.reshape(-1)))
    if node.name == "gemm" and node.attr("transA"):
        return None
    others = tuple(i for i in range(weight.ndim) if i != where.summed)
    return Worth((value.rank or 1) - 1, _mean_one(weight.sum(axis=others)))


def _mean_one(weights: np.ndarray) -> np.ndarray:
    mean = weights.mean()
    return weights / mean if mean > 0 else np.ones_like(weights)


__all__ = ["ForOutput", "Worth", "observer_for", "worth_of_values"]
