"""Rules of `move-data` on transposes: products take their operands transposed, and unit axes move for nothing.

Products may sum in another order of memory, hence "ulp"; the others are exact.
"""

from __future__ import annotations

from typing import NamedTuple

from ...ir.graph import Node, Value
from ..rewrite import StagingBuilder, rule
from ..simplify.reshapes import REGROUPS
from .axes import across, grouped, inverse, moves_to, reshaped


def _swapped(value: Value) -> Value | None:
    """x where `value` is x with its last two axes swapped."""
    node = value.node
    if node is None or node.name != "transpose":
        return None
    perm = node.attr("perm")
    rank = len(perm)
    return node.operands[0] if rank >= 2 and perm == (*range(rank - 2), rank - 1, rank - 2) else None


@rule("gemm", numerics="ulp")
def transposes_into_gemm(b: StagingBuilder, node: Node):
    """gemm(transpose(x), y) -> gemm(x, y) with transA, and so for y"""
    x, y = _swapped(node.operands[0]), _swapped(node.operands[1])
    if x is None and y is None:
        return None
    attrs = dict(node.attrs)
    attrs["transA"] = bool(node.attr("transA")) != (x is not None)
    attrs["transB"] = bool(node.attr("transB")) != (y is not None)
    operands = (node.operands[0] if x is None else x, node.operands[1] if y is None else y, *node.operands[2:])
    return b.call("gemm", operands, attrs).result


@rule("matmul", numerics="ulp")
def transpose_behind_matmul(b: StagingBuilder, node: Node):
    """matmul(transpose(x), transpose(y)) -> transpose(matmul(y, x))"""
    left, right = node.operands
    x, y = _swapped(left), _swapped(right)
    if x is None or y is None or x.rank != y.rank or node.result.rank is None:
        return None
    if left.n_uses != 1 or right.n_uses != 1 or left is right:
        return b.decline("a transpose would stay for others")
    rank = node.result.rank
    return b.transpose(b.matmul(y, x), perm=(*range(rank - 2), rank - 1, rank - 2))


@rule("transpose")
def transpose_of_unsqueeze(b: StagingBuilder, node: Node):
    """transpose that moves only the axes which a reshape has just made -> another reshape"""
    x, perm = node.operands[0], node.attr("perm")
    source = moves_to(x)
    if source is None or x.shape is None or source.shape is None:
        return None
    kept = [axis for axis in perm if x.shape[axis] != 1]
    if kept != sorted(kept):
        return b.decline("it moves axes that are not of size 1")
    return reshaped(b, source, [x.shape[axis] for axis in perm])


@rule(*REGROUPS)
def reshape_of_unit_transpose(b: StagingBuilder, node: Node):
    """reshape(transpose(x)) where only axes of size 1 changed places -> reshape(x)"""
    below = node.operands[0].node if node.operands[0] is not None else None
    if below is None or below.name != "transpose" or node.results[0].shape is None:
        return None
    x, perm = below.operands[0], below.attr("perm")
    if x.shape is None:
        return None
    kept = [axis for axis in perm if x.shape[axis] != 1]
    if kept != sorted(kept):
        return b.decline("it moves axes that are not of size 1")
    return reshaped(b, x, node.results[0].shape)


@rule("transpose", benefit=2)
def transposes_around_reshape(b: StagingBuilder, node: Node):
    """transpose(reshape(transpose(x))) -> reshape(transpose(x)), or transpose(reshape(x))"""
    middle = moves_to(node.operands[0])
    inner = middle.node if middle is not None else None
    if inner is None or inner.name != "transpose" or node.operands[0].n_uses != 1 or middle.n_uses != 1:
        return None
    x, first, second = inner.operands[0], inner.attr("perm"), node.attr("perm")
    found = meeting(node.operands[0], second)
    if found is None or x.shape is None:
        return b.decline("both tear apart what the reshape groups")
    if found.in_front:
        turned = b.transpose(x, perm=tuple(first[axis] for axis in found.perm))
        return reshaped(b, turned, node.result.shape)
    source = reshaped(b, x, [node.operands[0].shape[axis] for axis in found.perm])
    if source is None:
        return b.decline("no reshape can say the shape")
    where = inverse(found.perm)
    return b.transpose(source, perm=tuple(where[axis] for axis in second))


class Meeting(NamedTuple):
    """On which side of a reshape one transpose does the work of two: by `perm` in front of it, or behind it what stood in
    front by the inverse of `perm`."""

    in_front: bool
    perm: tuple[int, ...]


def meeting(flat: Value, second: tuple[int, ...]) -> Meeting | None:
    """How a transpose by `second` of `flat`, a reshape of a transpose, meets that one: on the side with more axes, if there is
    a choice. None where both tear its groups apart."""
    middle = moves_to(flat)
    groups = None if middle is None else grouped(middle.shape, flat.shape)  # type: ignore[arg-type]
    if groups is None:
        return None
    in_front = across([(g.right, g.left) for g in groups], second)
    behind = across([(g.left, g.right) for g in groups], inverse(middle.node.attr("perm")))  # type: ignore[union-attr]
    splits = len(flat.shape) > len(middle.shape)  # type: ignore[arg-type, union-attr]
    if behind is not None and (splits or in_front is None):
        return Meeting(False, behind)
    return None if in_front is None else Meeting(True, in_front)


@rule(*REGROUPS, benefit=2)
def reshapes_around_transpose(b: StagingBuilder, node: Node):
    """reshape(transpose(reshape(x))) whose first one only joins axes that move together -> reshape(transpose(x))"""
    turned = moves_to(node.results[0])
    inner = turned.node if turned is not None else None
    if inner is None or inner.name != "transpose" or turned.n_uses != 1:
        return None
    middle = inner.operands[0]
    x = moves_to(middle)
    groups = None if x is None or middle.n_uses != 1 else grouped(x.shape, middle.shape)
    if groups is None or any(len(g.right) > 1 for g in groups):
        return b.decline("the first reshape does more than to join axes")
    before = across([(g.right, g.left) for g in groups], inner.attr("perm"))
    return None if before is None else reshaped(b, b.transpose(x, perm=before), node.results[0].shape)


RULES = (
    transposes_into_gemm,
    transpose_behind_matmul,
    transpose_of_unsqueeze,
    reshape_of_unit_transpose,
    transposes_around_reshape,
    reshapes_around_transpose,
)
