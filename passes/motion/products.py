"""Rules of `move-data` on transposes: products take their operands transposed, and unit axes move for nothing.

Products may sum in another order of memory, hence "ulp"; the others are exact.
"""

from __future__ import annotations

from ...ir.graph import Node, Value
from ..rewrite import StagingBuilder, rule
from ..simplify.reshapes import REGROUPS
from .axes import grouped, moves_to, reshaped


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
    groups = grouped(middle.shape, node.operands[0].shape)
    if groups is None or x.shape is None:
        return None
    before = _across([(g.right, g.left) for g in groups], second)
    if before is not None:  # the outer one moves whole groups: it can do so in front of the reshape
        turned = b.transpose(x, perm=tuple(first[axis] for axis in before))
        return reshaped(b, turned, node.result.shape)
    place = {axis: i for i, axis in enumerate(first)}
    behind = _across([(g.left, g.right) for g in groups], tuple(place[axis] for axis in range(len(first))))
    if behind is None:
        return b.decline("both tear apart what the reshape groups")
    source = reshaped(b, x, [node.operands[0].shape[axis] for axis in behind])
    if source is None:
        return b.decline("no reshape can say the shape")
    where = {axis: i for i, axis in enumerate(behind)}
    return b.transpose(source, perm=tuple(where[axis] for axis in second))


def _across(groups: list[tuple[tuple[int, ...], tuple[int, ...]]], perm: tuple[int, ...]) -> tuple[int, ...] | None:
    """The permutation of the axes on the other side of a reshape that moves the same groups; None where `perm` tears one
    apart. Axes of size 1 that only the other side has keep their place behind what stands before them."""
    made: list[int] = []
    waiting = {near[0]: (near, far) for near, far in groups if near}
    lonely = {i: far for i, (near, far) in enumerate(groups) if not near}
    at = 0
    while at < len(perm):
        near, far = waiting.get(perm[at], ((), ()))
        if not near or perm[at : at + len(near)] != near:
            return None
        made += far
        at += len(near)
    for index, far in lonely.items():
        before = [axis for _, others in groups[:index] for axis in others]
        spot = made.index(before[-1]) + 1 if before else 0
        made[spot:spot] = far
    return tuple(made)


RULES = (
    transposes_into_gemm,
    transpose_behind_matmul,
    transpose_of_unsqueeze,
    reshape_of_unit_transpose,
    transposes_around_reshape,
)
