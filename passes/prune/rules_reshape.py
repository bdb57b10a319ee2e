"""Reshape and flatten: axes that are merged and split, by mixed radix.

Both shapes are cut into the least blocks with equal products and each block into factors; an axis is the product of its
factors in row-major order. A channel of a factor is a whole slab of the flat axis, and two factors of one axis cannot both
be cut, for what is left must be a box again: heads or features of a head, groups or channels of a group. Which one is a
question that `groups.py` answers once the rest of the graph is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...ir.dims import Dim, dim_eq
from ...ir.graph import Node
from .atoms import SINGLE, Axes, Axis, Bundle, Fixed, Lane
from .walk import Walk, rewriting, rule

if TYPE_CHECKING:
    from .remove import Cut


class Factor(NamedTuple):
    """`size` consecutive steps that an axis of the source and one of the result share; None where there is no partner. A
    symbolic size is that of a whole axis."""

    size: Dim
    source: int | None
    result: int | None


@rule("reshape", "flatten")
def reshape(walk: Walk, node: Node) -> list[Axes]:
    x, y = node.operands[0], node.result
    if x is None or x.shape is None or y.shape is None:
        return walk.held(node, "has a shape that is not known")
    row, shape = _unfolded(walk.axes(node, 0, bundles=True), x.shape)
    if 0 in x.shape or 0 in y.shape:
        return walk.held(node, "has no elements")
    if not any(isinstance(axis, Lane) for axis in row):
        return [(walk.fixed(node, "makes it of fixed axes"),) * len(y.shape)]
    factors = factored(shape, y.shape)
    parts = _split(walk, node, row, shape, factors)
    return [_merged(walk, node, y.shape, factors, parts)]


def _unfolded(row: Axes, shape: Sequence[Dim]) -> tuple[Axes, tuple[Dim, ...]]:
    """Axes and dims with every bundle taken apart."""
    parts = [axis.parts if isinstance(axis, Bundle) else ((dim, axis),) for dim, axis in zip(shape, row, strict=True)]
    flat = [part for bundle in parts for part in bundle]
    return tuple(axis for _, axis in flat), tuple(dim for dim, _ in flat)


def factored(source: Sequence[Dim], result: Sequence[Dim]) -> list[Factor]:
    """The factors of both shapes, outermost first; axes of 1 have none, and what finds no partner is left unpaired."""
    left = [(i, n) for i, n in enumerate(source) if n != 1]
    right = [(i, n) for i, n in enumerate(result) if n != 1]
    made: list[Factor] = []
    while left and right:
        a, b = _block(left), _block(right)
        i, j = _first_cut(a, b)
        made += _pair(left[:i], right[:j])
        left, right = left[i:], right[j:]
    return (
        made
        + [Factor(n, i, None) for i, n in left if type(n) is int]
        + [Factor(n, None, j) for j, n in right if type(n) is int]
    )


def _block(axes: list[tuple[int, Dim]]) -> list[Dim]:
    """Running products."""
    made: list[Dim] = []
    for _, n in axes:
        made.append(n if not made else made[-1] * n)
    return made


def _first_cut(a: list[Dim], b: list[Dim]) -> tuple[int, int]:
    """How many axes of each side make the first block; all of them where no products agree."""
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            if dim_eq(left, right) is True:
                return i + 1, j + 1
    return len(a), len(b)


def _pair(left: list[tuple[int, Dim]], right: list[tuple[int, Dim]]) -> list[Factor]:
    """The factors of one block: from the inside out, so that a symbolic axis outside does not matter."""
    if len(left) == len(right) == 1 and dim_eq(left[0][1], right[0][1]) is True:
        return [Factor(left[0][1], left[0][0], right[0][0])]
    made: list[Factor] = []
    a, b = list(left), list(right)
    while a and b:
        (i, m), (j, n) = a.pop(), b.pop()
        if type(m) is not int or type(n) is not int or max(m, n) % min(m, n):
            if dim_eq(m, n) is not True:
                a.append((i, m))
                b.append((j, n))
                break
            made.append(Factor(m, i, j))  # the same symbolic axis on both sides
            continue
        size = min(m, n)
        made.append(Factor(size, i, j))
        if m > size:
            a.append((i, m // size))
        if n > size:
            b.append((j, n // size))
    if len(b) == 1 and a and dim_eq(math.prod(n for _, n in a), b[0][1]) is True:
        return [Factor(n, i, b[0][0]) for i, n in a] + made[::-1]  # whole axes make the outermost one
    made += [Factor(n, i, None) for i, n in reversed(a) if type(n) is int]
    made += [Factor(n, None, j) for j, n in reversed(b) if type(n) is int]
    return made[::-1]


def _split(walk: Walk, node: Node, row: Axes, shape: Sequence[Dim], factors: list[Factor]) -> list[Axis]:
    """One axis for each factor, as the source has it."""
    parts: list[Axis] = [walk.fixed(node, "mixes it with other axes")] * len(factors)
    for i, axis in enumerate(row):
        own = [k for k, factor in enumerate(factors) if factor.source == i]
        if not isinstance(axis, Lane):
            for k in own:
                parts[k] = axis
        elif dim_eq(math.prod(factors[k].size for k in own), shape[i]) is not True:
            walk.space.pin(axis, parts[own[0]].reason if own else walk.fixed(node, "mixes it with other axes").reason)  # type: ignore[union-attr]
        elif len(own) == 1 and factors[own[0]].result is not None:
            parts[own[0]] = axis
        else:
            for k, part in zip(own, _cut_up(walk, node, i, axis, [factors[k] for k in own]), strict=True):
                parts[k] = part
    return parts


def _cut_up(walk: Walk, node: Node, index: int, lane: Lane, factors: list[Factor]) -> list[Axis]:
    """The parts of one axis of the source."""
    sizes = [int(f.size if f.result is not None else -f.size) for f in factors]  # type: ignore[arg-type, operator]
    return parts_of(walk, node, ("from", node, index), lane, sizes)


def parts_of(walk: Walk, node: Node, key: tuple[Any, ...], lane: Lane, sizes: Sequence[int]) -> list[Axis]:
    """A lane as a product of parts of these sizes (negative: one that cannot be cut). All but the chosen one are fixed;
    while the question is open each part has atoms of its own that lead nowhere."""
    beside = walk.fixed(node, "cuts it in step with another part of its axis")
    if not any(n > 1 for n in sizes):
        walk.space.pin(lane, walk.fixed(node, "mixes it with other axes").reason)
        return [beside] * len(sizes)
    whole, able = [abs(n) for n in sizes], [i for i, n in enumerate(sizes) if n > 1]
    answer: int | None = able[0]
    if len(able) > 1:
        answer = walk.answer(key, able)
        if answer is None:
            made: list[Axis] = [Lane(walk.space.fresh(n), lane.zero) if n > 1 else beside for n in sizes]
            walk.ask(key, made)
            return made
    table = np.moveaxis(lane.ids.reshape(whole), answer, -1).reshape(-1, whole[answer])
    chosen = Lane(walk.space.union_all(table), lane.zero)
    if len(able) > 1:
        walk.judge(key, chosen)
    return [chosen if i == answer else beside for i in range(len(sizes))]


def _merged(walk: Walk, node: Node, shape: Sequence[Dim], factors: list[Factor], parts: list[Axis]) -> Axes:
    """The axes of the result from its factors."""
    made: list[Axis] = []
    for j, dim in enumerate(shape):
        own = [k for k, factor in enumerate(factors) if factor.result == j]
        sizes = [factors[k].size for k in own]
        whole = bool(own) and dim_eq(math.prod(sizes), dim) is True
        if dim == 1:
            made.append(SINGLE)
        elif not whole or (type(dim) is not int and len(own) > 1 and not _is_inferred(node, j)):
            why = walk.fixed(node, "mixes it with other axes")
            for k in own:
                walk.space.pin(parts[k], why.reason)
            made.append(why)
        elif len(own) == 1:
            made.append(parts[own[0]])
        elif type(dim) is not int:
            made.append(Bundle(tuple((factors[k].size, parts[k]) for k in own)))
        else:
            made.append(product_of(walk, node, ("to", node, j), sizes, [parts[k] for k in own]))  # type: ignore[arg-type]
    return tuple(made)


def _is_inferred(node: Node, axis: int) -> bool:
    """Whether the size of an axis of symbolic size can be left to a -1 when other axes are cut."""
    if node.name == "flatten":
        return True
    elems = node.operands[1].elems  # type: ignore[union-attr]
    symbolic = [j for j, dim in enumerate(node.result.shape or ()) if type(dim) is not int]
    return symbolic == [axis] or (elems is not None and elems[axis] == -1)


def product_of(walk: Walk, node: Node, key: tuple[Any, ...], sizes: Sequence[int], parts: list[Axis]) -> Axis:
    """The axis that parts make together: at most one of them stays free to be cut."""
    lanes = [i for i, part in enumerate(parts) if isinstance(part, Lane)]
    if not lanes:
        return next((part for part in parts if isinstance(part, Fixed)), SINGLE)
    answer: int | None = lanes[0]
    if len(lanes) > 1:
        answer = walk.answer(key, lanes)
        if answer is None:
            walk.ask(key, parts)
            return Lane(walk.space.fresh(math.prod(sizes)), all(parts[i].zero for i in lanes))  # type: ignore[union-attr]
    beside = walk.fixed(node, "cuts it in step with another part of its axis")
    for i in lanes:
        if i != answer:
            walk.space.pin(parts[i], beside.reason)
    chosen = parts[answer]
    if len(lanes) > 1:
        walk.judge(key, chosen)
    view = [1] * len(sizes)
    view[answer] = sizes[answer]
    ids = np.broadcast_to(chosen.ids.reshape(view), tuple(sizes)).reshape(-1)  # type: ignore[union-attr]
    return Lane(ids, chosen.zero)  # type: ignore[union-attr]


@rewriting("reshape")
def reshaped(cut: Cut, node: Node) -> None:
    """Entries of axes that were cut get their new size; -1 and 0 keep their meaning where they still say the same."""
    x, y = node.operands[0], node.result
    new = {j: cut.size(y, j) for j in range(len(cut.old_shape(y))) if cut.is_cut(y, j)}
    merged = next((j for j, size in new.items() if type(size) is not int), None)
    elems = node.operands[1].elems or (None,) * len(cut.old_shape(y))  # type: ignore[union-attr]
    copies = not node.attr("allowzero")
    for j, entry in enumerate(elems):
        source = cut.size(x, j) if copies and entry == 0 and j < len(cut.old_shape(x)) else None  # type: ignore[arg-type]
        if merged is not None and j != merged and entry == -1:
            new[j] = cut.size(y, j)
        elif j == merged:
            new[j] = -1
        elif entry == -1 or (source is not None and source == cut.size(y, j)):
            new.pop(j, None)
        elif source is not None:
            new[j] = cut.size(y, j)
    if new:
        cut.change_entries(node, 1, new)


@rewriting("flatten")
def flattened(cut: Cut, node: Node) -> None:
    """Nothing to do: a flatten has no sizes."""
