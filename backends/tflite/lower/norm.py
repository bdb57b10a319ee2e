"""Normalisations by stored moments as one product and one sum with constants computed at compile time."""

from __future__ import annotations

import numpy as np

from ....ir.builder import Builder
from ....ir.types import F32
from ....ir.value import Node, Value
from ....passes.decompose.rules import Declined, Outcome


def batch_norm(b: Builder, node: Node) -> Outcome:
    """x * a + c with a = scale / sqrt(var + epsilon) and c = bias - mean * a, both rounded once from float64."""
    x, *moments = node.operands
    if x.dtype is not F32 or x.rank is None or not all(v.is_const for v in moments):
        return Declined("")
    scale, bias, mean, var = (v.array().astype(np.float64) for v in moments)
    factor = scale / np.sqrt(var + node.attr("epsilon"))
    offset = bias - mean * factor
    return b.add(b.mul(x, _channels(b, node, moments[0], factor)), _channels(b, node, moments[1], offset))


def _channels(b: Builder, node: Node, source: Value, vector: np.ndarray) -> Value:
    """A vector that broadcasts along the channels."""
    rank = node.operands[0].rank
    plain = node.attr("channels_last") or rank < 3
    array = vector.astype(np.float32).reshape(-1 if plain else (-1, *[1] * (rank - 2)))
    return b.const(array, key=source.weight.key, role=source.weight.role, origin="batch norm folded into one vector")


#: Rules that run before layout assignment, ahead of the shared decompositions.
BEFORE_LAYOUT = {"batch_norm": batch_norm}
