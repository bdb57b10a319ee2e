"""Rules of `move-data` on gathers, expands and other rearrangements: what picks elements by constant places merges with
what moved them. Exact; never more nodes than before.
"""

from __future__ import annotations

import numpy as np

from ...ir.graph import Node, Value
from ...ir.ops.shapes import entries
from ..rewrite import StagingBuilder, rule
from ..simplify.reshapes import REGROUPS
from ..simplify.slices import Cut
from .axes import Group, cuts_of, equal_shapes, grouped, lengths_of, moves_to, reshaped, sliced

#: Indices beyond this many are not looked at one by one.
MOST_INDICES = 4096


def _places(node: Node) -> tuple[int, np.ndarray] | None:
    """(axis, indices) of a gather by constant places; negative ones are counted from the front where the axis is known."""
    x, indices = node.operands
    if x.shape is None or not indices.is_const or indices.shape is None or indices.type.numel > MOST_INDICES:  # type: ignore[attr-defined]
        return None
    axis = node.attr("axis") % len(x.shape)
    at, size = indices.array().astype(np.int64), x.shape[axis]
    if isinstance(size, int):
        at = np.where(at < 0, at + size, at)
        if at.size and (at.min() < 0 or at.max() >= size):
            return None
    return axis, at


@rule("gather")
def gather_of_gather(b: StagingBuilder, node: Node):
    """gather(gather(x, c), d) along one axis by constants -> gather(x, c[d])"""
    inner, outer = node.operands[0].node, _places(node)
    found = _places(inner) if inner is not None and inner.name == "gather" else None
    if outer is None or found is None or found[0] != outer[0] or found[1].ndim != 1:
        return None
    if outer[1].size and outer[1].min() < 0:
        return b.decline("an index counts from the end")
    return b.gather(inner.operands[0], np.asarray(found[1][outer[1]]), axis=outer[0])


@rule("gather")
def gather_of_slice(b: StagingBuilder, node: Node):
    """gather(slice(x)) by constants along the axis that is cut -> gather(x)"""
    inner, found = node.operands[0].node, _places(node)
    if inner is None or inner.name != "slice" or found is None:
        return None
    cuts, (axis, at) = cuts_of(inner), found
    if cuts is None or list(cuts) != [axis] or not isinstance(node.operands[0].shape[axis], int):
        return b.decline("it cuts another axis, or one of unknown size")
    return b.gather(inner.operands[0], np.asarray(cuts[axis].start + at * cuts[axis].step), axis=axis)


@rule("gather")
def gather_of_concat(b: StagingBuilder, node: Node):
    """gather(concat(x, y), 3) -> gather of the part in which the place lies"""
    joined, found = node.operands[0].node, _places(node)
    if joined is None or joined.name != "concat" or found is None or found[1].size < 1:
        return None
    axis, at = found
    if joined.attr("axis") % node.operands[0].rank != axis:
        return b.decline("it joins along another axis")
    low, high, begin = int(at.min()), int(at.max()), 0
    for part in joined.operands:
        size = part.shape[axis] if part.shape is not None else None
        if not isinstance(size, int) or low < begin:
            return b.decline("where the parts lie is unknown, or the places lie in several")
        if high < begin + size and low >= begin:
            return b.gather(part, np.asarray(at - begin), axis=axis)
        if low < begin + size:
            return b.decline("the places lie in several parts")
        begin += size
    return None


@rule("gather", benefit=0)  # what merges with the gather in front comes first
def gather_of_range(b: StagingBuilder, node: Node):
    """gather(x, [2, 3, 4]) -> slice(x)"""
    found = _places(node)
    if found is None or found[1].ndim != 1 or found[1].size == 0:
        return None
    axis, at = found
    if not isinstance(node.operands[0].shape[axis], int):
        return b.decline("a gather beyond the end fails, a slice takes less")
    if np.any(np.diff(at) != 1):
        return b.decline("the places do not follow each other")
    return sliced(b, node.operands[0], {axis: Cut(int(at[0]), int(at[-1]) + 1, 1)})


@rule("gather", benefit=2)
def gather_the_only(b: StagingBuilder, node: Node):
    """gather of the only element of an axis -> reshape"""
    found = _places(node)
    if found is None or found[1].size != 1 or node.operands[0].shape[found[0]] != 1 or node.result.shape is None:
        return None
    return reshaped(b, node.operands[0], node.result.shape)


# -------------------------------------------------------------------------- one element of an axis, without the axis


@rule("gather", benefit=2)
def gather_of_transpose(b: StagingBuilder, node: Node):
    """gather(transpose(x), 2) that leaves the other axes in the order of x -> gather(x, 2) along another axis"""
    turn, indices = node.operands[0].node, node.operands[1]
    if turn is None or turn.name != "transpose" or indices.rank != 0:
        return None
    perm = turn.attr("perm")
    axis = perm[node.attr("axis")]
    rest = [a for a in perm if a != axis]
    if rest != sorted(rest):
        return b.decline("it moves the other axes")
    return b.gather(turn.operands[0], indices, axis=axis)


@rule("gather", benefit=2)
def gather_of_pieces(b: StagingBuilder, node: Node):
    """gather(reshape(x), 2) of one piece of an axis that the reshape cut -> slice(x)"""
    x, found = moves_to(node.operands[0]), _places(node)
    if x is None or found is None or found[1].ndim or node.result.rank != x.rank:
        return None
    (axis, at), shape = found, node.result.shape
    groups = grouped(x.shape, node.operands[0].shape)
    if groups is None or Group((axis,), (axis, axis + 1)) not in groups or not isinstance(x.shape[axis], int):
        return b.decline("the reshape does not cut one axis there")
    width = shape[axis]
    if (
        at < 0
        or not isinstance(width, int)
        or not equal_shapes(shape, [width if i == axis else d for i, d in enumerate(x.shape)])
    ):
        return b.decline("the reshape changes other axes, too")
    return sliced(b, x, {axis: Cut(int(at) * width, (int(at) + 1) * width, 1)})


@rule(*REGROUPS, benefit=2)
def pick_by_gather(b: StagingBuilder, node: Node):
    """squeeze(slice(x)) of one element of an axis -> gather(x, place)"""
    source = moves_to(node.results[0])
    if source is None or source.node is None or source.node.name != "slice" or source.n_uses != 1:
        return None
    cuts = cuts_of(source.node)
    if cuts is None or len(cuts) != 1:
        return None
    ((axis, cut),) = cuts.items()
    rest = [d for i, d in enumerate(source.shape) if i != axis]
    if source.shape[axis] != 1 or not equal_shapes(node.result.shape, rest):
        return b.decline("the axis stays, or may be empty")
    return b.gather(source.node.operands[0], cut.start, axis=axis)


@rule("split")
def pick_pieces_by_gather(b: StagingBuilder, node: Node):
    """split into single elements whose axis is dropped -> gathers"""
    lengths, x = lengths_of(node), node.operands[0]
    if lengths is None or x.rank is None or any(n != 1 for n in lengths):
        return None
    axis, made = node.attr("axis") % x.rank, {}
    for place, value in enumerate(node.results):
        user = value.single_user()
        if value.n_uses == 0:
            continue
        if user is None or user.next is None or moves_to(user.results[0]) is not value:
            return b.decline("one of them keeps the axis")
        if not equal_shapes(user.result.shape, [d for i, d in enumerate(value.shape) if i != axis]):
            return b.decline("one of them keeps the axis")
        made[user.result] = b.gather(x, place, axis=axis)
    return b.instead(made, [node]) if made else None


@rule(*REGROUPS, benefit=2)
def pick_by_slice(b: StagingBuilder, node: Node):
    """unsqueeze(gather(x, place)) at the same axis -> slice(x)"""
    source = moves_to(node.results[0])
    if source is None or source.node is None or source.node.name != "gather" or source.n_uses != 1:
        return None
    found = _places(source.node)
    if found is None or found[1].size != 1 or found[1].ndim > 1:
        return None
    (axis, at), x = found, source.node.operands[0]
    if not isinstance(x.shape[axis], int):
        return b.decline("a gather beyond the end fails, a slice takes less")
    if not equal_shapes(node.result.shape, [1 if i == axis else d for i, d in enumerate(x.shape)]):
        return b.decline("the new axis stands elsewhere")
    start = int(at.reshape(-1)[0])
    return sliced(b, x, {axis: Cut(start, start + 1, 1)})


# ------------------------------------------------------------------------------------------------ the others


@rule("expand")
def merge_expands(b: StagingBuilder, node: Node):
    """expand(expand(x)) -> expand(x)"""
    inner = node.operands[0].node
    if inner is None or inner.name != "expand":
        return None
    middle, target = node.operands[0].shape, entries(node.operands[1])
    x = inner.operands[0]
    if middle is None or x.shape is None or target is None or len(target) < len(middle):
        return b.decline("what it grows to is unknown")
    for axis, dim in enumerate(reversed(middle), 1):
        wanted, own = target[-axis], x.shape[-axis] if axis <= len(x.shape) else 1
        if not (wanted == dim or own == dim):
            return b.decline("the inner one grows an axis that the outer one does not name")
    return b.expand(x, node.operands[1])


@rule("reverse")
def merge_reverses(b: StagingBuilder, node: Node):
    """reverse(reverse(x)) -> x, or one reverse"""
    inner, rank = node.operands[0].node, node.operands[0].rank
    if inner is None or inner.name != "reverse" or rank is None:
        return None
    axes = {a % rank for a in node.attr("axes")} ^ {a % rank for a in inner.attr("axes")}
    return b.reverse(inner.operands[0], axes=tuple(sorted(axes))) if axes else inner.operands[0]


@rule("depth_to_space", "space_to_depth")
def drop_depth_space(b: StagingBuilder, node: Node):
    """depth_to_space(space_to_depth(x)) in one mode -> x, and the other way round"""
    inner = node.operands[0].node
    if inner is None or {node.name, inner.name} != {"depth_to_space", "space_to_depth"} or node.attrs != inner.attrs:
        return None
    x: Value = inner.operands[0]
    return x if equal_shapes(x.shape, node.result.shape) else b.decline("the sizes may be no multiples of the block")


RULES = (
    gather_of_gather,
    gather_of_slice,
    gather_of_concat,
    gather_of_range,
    gather_the_only,
    gather_of_transpose,
    gather_of_pieces,
    pick_by_gather,
    pick_pieces_by_gather,
    pick_by_slice,
    merge_expands,
    merge_reverses,
    drop_depth_space,
)
