"""Channels that are almost a number times another, where rounding, or a number that is no power of two, keeps them from being
so exactly: |x[i] - factor[i] base| <= radius[i] + gain[i] sup|source|, `source` being the data of the layer that makes them.

Rows that point the same way have projections that are, for their size, the same: one sort of those finds the candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...ir.graph import Module, Node, Value
from .gains import bias_of
from .layers import Layers
from .movement import origin
from .products import Product
from .spans import LARGEST, Spans

Array = np.ndarray


class Near(NamedTuple):
    """By channel; equal ids have one base."""

    ids: Array
    factor: Array
    radius: Array
    gain: Array
    source: Value

    def but(self, ids: Array, factor: Array) -> Near:
        return Near(ids, factor, self.radius, self.gain, self.source)


class NearTwins:
    """Of the rows of each dense layer, and of what passes them on unharmed."""

    def __init__(self, module: Module, layers: Layers, spans: Spans, bound: float) -> None:
        self.along: dict[tuple[Value, int], Near] = {}
        for graph in module.all_graphs():
            for node in graph.nodes():
                if node in layers.products:
                    p = layers.products[node]
                    self._tell(node.result, p.out_axis, _rows(p, bias_of(p, spans), bound))
                elif node.name in _PASSING:
                    for axis in range(node.result.rank or 0):
                        self._tell(node.result, axis, self._passed(node, axis))

    def at(self, value: Value, axis: int) -> Near | None:
        return self.along.get((value, axis))

    def _tell(self, value: Value, axis: int, near: Near | None) -> None:
        if near is not None and len(np.unique(near.ids)) < len(near.ids):
            self.along[value, axis] = near

    def _passed(self, node: Node, axis: int) -> Near | None:
        """Homogeneous ops that bring no two numbers further apart; most of them for positive factors alone."""
        if node.name in _POINTWISE:
            found = self.at(node.operands[0], axis)  # type: ignore[arg-type]
            return None if found is None or abs(node.attrs.get("alpha", 0.0)) > 1 else _signed(found)
        parts = origin(node, 0, axis)
        if parts is None or len(parts) != 1 or len(parts[0]) != 1 or parts[0][0].table.shape[1] != 1:
            return None
        part = parts[0][0]
        found = self.at(node.operands[part.operand], part.axis)  # type: ignore[arg-type]
        if found is None or part.table.min() < 0:
            return None
        ids, factor, radius, gain = (array[part.table[:, 0]] for array in found[:4])
        pieces = np.zeros_like(ids) if part.within is None else part.within
        named = np.unique(np.stack([ids, pieces], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
        return _signed(Near(named, factor, radius, gain, found.source))


_POINTWISE = frozenset({"relu", "leaky_relu", "abs", "identity"})
_PASSING = _POINTWISE | {
    "max_pool", "average_pool", "global_average_pool", "global_max_pool", "adaptive_average_pool", "adaptive_max_pool",
    "reduce_mean", "reduce_max", "transpose", "reshape", "flatten", "squeeze", "unsqueeze",
}  # fmt: skip


def _signed(near: Near) -> Near:
    """Negative factors have a base of their own."""
    return near.but(2 * near.ids + (near.factor < 0), np.abs(near.factor))


def _rows(p: Product, bias: Array | None, bound: float) -> Near | None:
    size = p.w.type.numel  # type: ignore[attr-defined]
    if bias is None or p.groups != 1 or p.outputs < 2 or size > LARGEST or not p.is_finite:
        return None
    rows = p.cube(p.numbers())[0].reshape(p.outputs, -1).astype(np.float64)
    sums = np.abs(rows).sum(axis=1)
    mixed = np.random.default_rng(0).uniform(-1, 1, rows.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        keys = np.abs(rows @ mixed) / sums
    order = np.argsort(keys, kind="stable")
    ids, factor = np.arange(p.outputs), np.ones(p.outputs)
    radius, gain = np.zeros(p.outputs), np.zeros(p.outputs)
    base = order[0]
    for i in order[1:].tolist():
        if keys[i] - keys[base] <= 2 * bound:
            number = rows[base] @ rows[i] / (rows[base] @ rows[base])
            left = np.abs(rows[i] - number * rows[base]).sum()
            if left <= bound * sums[i]:
                ids[i], factor[i] = base, number
                gain[i], radius[i] = abs(p.alpha) * left, abs(bias[i] - number * bias[base])
                continue
        base = i
    return Near(ids, factor, radius, gain, p.x)
