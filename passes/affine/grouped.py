"""Linear layers that act on groups of channels, written as an einsum of the channels cut into groups, are grouped convolutions.

Runtimes take an einsum apart while it runs, with copies of the data on both sides; a convolution has its weights as it needs
them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...ir.dims import Dim
from ...ir.graph import Node, Value
from ...ir.tensor import as_tensor
from ..motion.axes import equal_shapes, reshaped
from ..rewrite import StagingBuilder, rule


class Groups(NamedTuple):
    """An einsum [N, T, groups, rows] -> [N, T, groups, columns], and the axes of its weights that these are."""

    groups: int
    rows: int
    columns: int
    axes: tuple[int, int, int]


@rule("reshape", numerics="ulp", benefit=2)
def einsum_of_groups_to_conv(b: StagingBuilder, node: Node):
    """reshape(einsum(reshape(x), w)) on groups of channels -> transpose(conv(transpose(x), w')), where that is no more nodes"""
    einsum = _lone(node.operands[0], "einsum")
    cut = _lone(einsum.operands[0], "reshape") if einsum is not None and len(einsum.operands) == 2 else None
    found = _groups(einsum) if einsum is not None and cut is not None else None
    if einsum is None or cut is None or found is None:
        return None
    batch, length = einsum.result.shape[:2]  # type: ignore[index]
    back = _places(node.result, batch, length, found.groups * found.columns)
    if back is None:
        return b.decline("the groups are not put together again, or other dims with them")
    x = cut.operands[0]
    rows = reshaped(b, x, (batch, length, found.groups * found.rows))  # type: ignore[arg-type]
    if rows is None or not (rows is x or _lone(x, "transpose")):
        return b.decline("there would be more nodes")
    kernel = _kernel(b, einsum.operands[1], found)  # type: ignore[arg-type]
    attrs = {"groups": found.groups, "strides": (1,), "pads": (0, 0), "dilations": (1,)}
    return b.transpose(b.call("conv", (b.transpose(rows, perm=(0, 2, 1)), kernel), attrs).result, perm=back)


def _places(value: Value, batch: Dim, length: Dim, channels: int) -> tuple[int, ...] | None:
    """Where the axes of `value` stand in [batch, channels, length]; of the first and the last one may be moved if it is 1."""
    if equal_shapes(value.shape, (batch, length, channels)):
        return (0, 2, 1)
    moved = 1 in (batch, length) and equal_shapes(value.shape, (length, batch, channels))
    return (2, 0, 1) if moved else None


def _lone(value: Value | None, op: str) -> Node | None:
    """The node of this op that made the value for one reader."""
    node = value.node if value is not None and value.n_uses == 1 else None
    return node if node is not None and node.name == op else None


def _groups(einsum: Node) -> Groups | None:
    """The sizes and axes of an einsum that multiplies each group of the last axis but one by a matrix of its own."""
    x, w = einsum.operands
    terms, _, result = einsum.attr("equation").replace(" ", "").partition("->")
    left, right = terms.split(",")
    if w.weight is None or not w.dtype.is_float or len(left) != 4 or len(set(left)) < 4 or len(right) != 3:  # type: ignore[union-attr]
        return None
    group, inner = left[2:]
    outer = next((c for c in right if c not in left), "")
    if set(right) != {group, inner, outer} or result != left[:3] + outer or "." in terms:
        return None
    axes = (right.index(group), right.index(outer), right.index(inner))
    groups, columns, rows = (w.shape[axis] for axis in axes)  # type: ignore[union-attr, index]
    fits = x.shape is not None and x.shape[2:] == (groups, rows) and groups * rows * columns > 0  # type: ignore[union-attr]
    return Groups(groups, rows, columns, axes) if fits else None


def _kernel(b: StagingBuilder, w: Value, found: Groups) -> Value:
    """The weights as those of a convolution: [groups * columns, rows, 1]."""
    old = w.weight
    shape = (found.groups * found.columns, found.rows, 1)
    origin = "; ".join(filter(None, (old.origin, "as a kernel")))  # type: ignore[union-attr]
    array = np.ascontiguousarray(w.array().transpose(found.axes)).reshape(shape)
    return b.const(as_tensor(array, w.dtype), key=old.wanted, role=old.role, origin=origin)  # type: ignore[union-attr]
