"""What the rules of `move-data` ask of shapes: which axes of two shapes hold the same elements, what a slice, a pad or a
reshape says in numbers, and how a value is brought to another shape. No rule is defined here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...ir.dims import Dim, dim_eq
from ...ir.graph import Node, Value
from ...ir.ops.shapes import UNBOUNDED, slice_positions
from ..rewrite import StagingBuilder
from ..simplify import slices
from ..simplify.reshapes import REGROUPS, regrouping
from ..simplify.slices import TO_THE_END, Cut, build_slice

Shape = Sequence[Dim]


def equal_shapes(a: Shape | None, b: Shape | None) -> bool:
    """Both are known and surely equal."""
    if a is None or b is None or len(a) != len(b):
        return False
    return all(m == n or dim_eq(m, n) is True for m, n in zip(a, b, strict=True))


def moves_to(value: Value) -> Value | None:
    """What the reshape (squeeze ...) that makes `value` reads, if both shapes are known."""
    node = value.node
    if node is None or node.name not in REGROUPS:
        return None
    source = node.operands[0]
    return source if source is not None and source.shape is not None and value.shape is not None else None


# ------------------------------------------------------------------------------------------------ reshapes


class Group(NamedTuple):
    """Neighbouring axes of two shapes whose elements are the same ones; an axis of size 1 may stand alone."""

    left: tuple[int, ...]
    right: tuple[int, ...]


def grouped(a: Shape, b: Shape) -> list[Group] | None:
    """The smallest groups of axes of two shapes of the same elements, in order; None where the dims do not say."""
    made: list[Group] = []
    i = j = 0
    while i < len(a) or j < len(b):
        if i < len(a) and j < len(b) and (a[i] == b[j] or dim_eq(a[i], b[j]) is True):
            made.append(Group((i,), (j,)))
            i, j = i + 1, j + 1
        elif i < len(a) and a[i] == 1:
            made.append(Group((i,), ()))
            i += 1
        elif j < len(b) and b[j] == 1:
            made.append(Group((), (j,)))
            j += 1
        else:
            spans = _same_product(a[i:], b[j:])
            if spans is None:
                return None
            made.append(Group(tuple(range(i, i + spans[0])), tuple(range(j, j + spans[1]))))
            i, j = i + spans[0], j + spans[1]
    return made


def _same_product(a: Shape, b: Shape) -> tuple[int, int] | None:
    """How many leading dims of both have the same product."""
    if not a or not b:
        return None
    i = j = 1
    left, right = a[0], b[0]
    while not (left == right or dim_eq(left, right) is True):
        if i < len(a) and (j == len(b) or _goes_on(left, right)):
            left, i = left * a[i], i + 1
        elif j < len(b):
            right, j = right * b[j], j + 1
        else:
            return None
    return i, j


def _goes_on(left: Dim, right: Dim) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left < right
    return isinstance(left, int) or (not isinstance(right, int) and len(str(left)) < len(str(right)))


def partner(groups: Sequence[Group], axis: int) -> int | None:
    """The axis on the right that holds exactly what `axis` on the left holds."""
    for group in groups:
        if axis in group.left:
            return group.right[0] if len(group.left) == len(group.right) == 1 else None
    return None


def can_reshape(x: Value, shape: Shape) -> bool:
    """Whether `reshaped` finds a way."""
    return x.shape is not None and regrouping(x.shape, shape) is not None


def reshaped(b: StagingBuilder, x: Value, shape: Shape) -> Value | None:
    """`x` in another shape of as many elements by at most one node; None where no node can say it."""
    if equal_shapes(x.shape, shape):
        return x
    found = None if x.shape is None else regrouping(x.shape, shape)
    return None if found is None else found.build(b, x)


def relaid(b: StagingBuilder, constant: Value, shape: tuple[int, ...]) -> Value:
    """A constant in another shape; a named weight keeps its name and says where it came from."""
    weight = constant.weight
    assert weight is not None
    if tuple(constant.shape or ()) == shape:
        return constant
    array = constant.array().reshape(shape)
    if weight.role == "const":
        return b.const(array)
    return b.const(array, key=weight.wanted, role=weight.role, origin=f"reshaped {weight.origin or weight.wanted}")


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(perm)), key=perm.__getitem__))


def across(groups: list[tuple[tuple[int, ...], tuple[int, ...]]], perm: tuple[int, ...]) -> tuple[int, ...] | None:
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


# ------------------------------------------------------------------------------------------- slices and pads


def cuts_of(node: Node) -> dict[int, Cut] | None:
    """What a slice takes, by axis, with starts, ends and steps that are not negative (the end may lie behind the axis); None
    where a bound is unknown or counts from the end of an axis of unknown size."""
    x, named = node.operands[0], slices.cuts_of(node)
    if x is None or x.shape is None or named is None:
        return None
    made = {}
    for axis, cut in named.items():
        dim = x.shape[axis]
        if cut.step < 1 or (not isinstance(dim, int) and min(cut.start, cut.end) < 0):
            return None
        if isinstance(dim, int):
            places = slice_positions(dim, *cut)
            made[axis] = Cut(places.start, max(places.start, places.stop), cut.step)
        else:
            made[axis] = Cut(cut.start, TO_THE_END if cut.end >= UNBOUNDED else cut.end, cut.step)
    return made


def sliced(b: StagingBuilder, x: Value, cuts: dict[int, Cut]) -> Value:
    """`x` behind these cuts; those that take all need no node."""
    assert x.shape is not None
    real = {axis: cut for axis, cut in cuts.items() if not cut.everything(x.shape[axis])}
    return build_slice(b, x, real) if real else x


def pads_of(node: Node) -> dict[int, tuple[int, int]] | None:
    """(before, behind) of each axis that a pad changes; None where they are unknown."""
    x, amounts, axes = node.operands[0], node.operands[1].ints(), node.operand("axes")  # type: ignore[union-attr]
    if x is None or x.rank is None or amounts is None:
        return None
    along = range(x.rank) if axes is None else axes.ints()
    if along is None or len(amounts) != 2 * len(along):
        return None
    pairs = zip(along, amounts[: len(along)], amounts[len(along) :], strict=True)
    return {axis % x.rank: (low, high) for axis, low, high in pairs if low or high}


def padded(b: StagingBuilder, node: Node, x: Value, pads: dict[int, tuple[int, int]]) -> Value:
    """`x` padded by these amounts, with the fill and the mode of `node`."""
    rank = x.rank or 0
    amounts = [pads.get(axis, (0, 0))[side] for side in (0, 1) for axis in range(rank)]
    fill = node.operand("value")
    return b.pad(x, np.asarray(amounts, np.int64), fill, mode=node.attr("mode"))


def lengths_of(node: Node) -> list[Dim] | None:
    """The sizes of a split's results along its axis."""
    axis = node.attr("axis")
    if any(v.shape is None for v in node.results):
        return None
    return [v.shape[axis] for v in node.results]  # type: ignore[index]
