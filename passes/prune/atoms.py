"""Atoms: one identity for every index of every axis that may be cut, and the equalities between them.

A `Lane` is an axis whose indices carry atoms; a `Fixed` axis looks at positions and says why. Rules hand lanes through,
join them and pin them; all equalities are solved at once, so that a walk over the graph costs no more than a few array
slices per node. Knows nothing of ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ...ir.dims import Dim, dim_eq

Ids = np.ndarray


class Slot(NamedTuple):
    """One axis of a constant: of all its uses, or of one use where every use may be cut on its own."""

    number: int
    axis: int


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """An axis whose index i is atom ids[i].

    `zero`: a removed index holds nothing but zeros once the weights that make it are zeroed. `slot`: the axis of a constant
    that this one is, position for position.
    """

    ids: Ids
    zero: bool = False
    slot: Slot | None = None

    def but(self, *, zero: bool) -> Lane:
        return self if self.zero is zero else replace(self, zero=zero)

    def computed(self, *, zero: bool) -> Lane:
        """The same atoms in a value that is no longer the constant."""
        return Lane(self.ids, zero)


@dataclass(frozen=True, slots=True)
class Fixed:
    """An axis that keeps all its positions, and why."""

    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """An axis of symbolic size that whole axes were merged into, outermost first: heads folded into the batch, say. It is
    carried to where it is taken apart again; only ops that pass axes untouched may see one."""

    parts: tuple[tuple[Dim, Axis], ...]

    @property
    def dims(self) -> tuple[Dim, ...]:
        return tuple(dim for dim, _ in self.parts)

    def lanes(self) -> list[Lane]:
        return [axis for _, axis in self.parts if isinstance(axis, Lane)]

    def mapped(self, function: Callable[[Axis], Axis]) -> Bundle:
        """The same bundle of other axes."""
        return Bundle(tuple((dim, function(axis)) for dim, axis in self.parts))


Axis = Lane | Fixed | Bundle
Axes = tuple[Axis, ...]


def lanes_of(axis: Axis) -> list[Lane]:
    return [axis] if isinstance(axis, Lane) else axis.lanes() if isinstance(axis, Bundle) else []


def passed(axis: Axis, *, zero: bool = True) -> Axis:
    """The axis of a value computed from one that has it; zeros stay zeros only where `zero` says so."""
    if isinstance(axis, Lane):
        return axis.computed(zero=zero and axis.zero)
    return axis.mapped(lambda part: passed(part, zero=zero)) if isinstance(axis, Bundle) else axis


SINGLE = Fixed("an axis of size 1")
UNKNOWN = Fixed("its size is not known")
MIXED = Fixed("several axes merged into one of unknown size")
EMPTY = Fixed("an axis without elements")
INDICES = Fixed("a constant of indices or flags")

#: Marks that rules put on atoms.
HEAD, REPEAT, HIDDEN = 1, 2, 4


class Space:
    """Hands out atoms and collects what rules say of them."""

    def __init__(self) -> None:
        self.count = 0
        self.edges: list[tuple[Ids, Ids]] = []
        self.pins: list[tuple[Ids, str]] = []
        self.marks: list[tuple[Ids, int]] = []

    def fresh(self, count: int) -> Ids:
        made = np.arange(self.count, self.count + count)
        self.count += count
        return made

    def union(self, a: Ids, b: Ids) -> None:
        """a[i] and b[i] go or stay together."""
        if a is not b:
            self.edges.append((a, b))

    def union_all(self, table: Ids) -> Ids:
        """Union the rows of a table [rows, n]; returns the first row, which stands for all."""
        first = table[0]
        if len(table) > 1:
            self.edges.append((np.broadcast_to(first, table[1:].shape).reshape(-1), table[1:].reshape(-1)))
        return first

    def pin(self, axis: Axis, reason: str) -> None:
        self.pins.extend((lane.ids, reason) for lane in lanes_of(axis))

    def mark(self, axis: Axis, bits: int) -> None:
        self.marks.extend((lane.ids, bits) for lane in lanes_of(axis))

    def join(self, axes: Iterable[Axis]) -> Axis:
        """All run in step: their lanes united, or all of them held by one that is fixed. The first lane stands for them."""
        made = list(axes)
        if any(isinstance(axis, Bundle) for axis in made):
            return self._join_bundles(made)
        lanes = [axis for axis in made if isinstance(axis, Lane)]
        held = next((axis for axis in made if isinstance(axis, Fixed)), None)
        if held is not None:
            for lane in lanes:
                self.pin(lane, held.reason)
            return held
        for lane in lanes[1:]:
            self.union(lanes[0].ids, lane.ids)
        return lanes[0]

    def _join_bundles(self, axes: list[Axis]) -> Axis:
        """Bundles of the same dims run in step part by part."""
        first = axes[0]
        if isinstance(first, Bundle) and all(isinstance(a, Bundle) and _same_dims(a.dims, first.dims) for a in axes):
            columns = zip(*(axis.parts for axis in axes), strict=True)  # type: ignore[union-attr]
            return Bundle(tuple((column[0][0], self.join([axis for _, axis in column])) for column in columns))
        held = next((axis for axis in axes if isinstance(axis, Fixed)), MIXED)
        for axis in axes:
            self.pin(axis, held.reason)
        return held

    def solve(self) -> Classes:
        left = np.concatenate([a for a, _ in self.edges]) if self.edges else np.zeros(0, np.intp)
        right = np.concatenate([b for _, b in self.edges]) if self.edges else np.zeros(0, np.intp)
        roots = components(self.count, left, right)
        bits = np.zeros(self.count, np.uint8)
        for ids, mark in self.marks:
            bits[roots[ids]] |= mark
        reasons: list[str] = []
        pinned = np.full(self.count, -1)
        for ids, reason in self.pins:  # the first reason stays
            found = roots[ids]
            found = found[pinned[found] < 0]
            pinned[found] = len(reasons)
            reasons.append(reason)
        return Classes(roots, bits, pinned, reasons)


def _same_dims(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    return len(a) == len(b) and all(dim_eq(x, y) is True for x, y in zip(a, b, strict=True))


class Classes:
    """The solved equalities: atoms with one root go together. Marks and pins are kept at roots."""

    def __init__(self, roots: Ids, bits: np.ndarray, pinned: np.ndarray, reasons: Sequence[str]) -> None:
        self.roots = roots
        self.bits = bits
        self.pinned = pinned
        self.reasons = reasons

    def alive(self, ids: Ids) -> int:
        """How many classes among these atoms may be cut."""
        found = np.unique(self.roots[ids])
        return int((self.pinned[found] < 0).sum())

    def marked(self, ids: Ids, mark: int) -> bool:
        return bool((self.bits[self.roots[ids]] & mark).any())

    def reason(self, root: int) -> str:
        number = int(self.pinned[root])
        return "" if number < 0 else self.reasons[number]


def components(count: int, left: Ids, right: Ids) -> Ids:
    """The least atom of each atom's component under left[i] = right[i].

    Roots hook onto smaller neighbouring roots, then every path is halved until it is flat; the number of roots that have
    a neighbour falls geometrically, so the whole costs O((count + edges) log count).
    """
    label = np.arange(count)
    while len(left):
        a, b = label[left], label[right]
        open_ = a != b
        if not open_.any():
            return label
        left, right, a, b = left[open_], right[open_], a[open_], b[open_]
        np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
        while True:
            above = label[label]
            if np.array_equal(above, label):
                break
            label = above
    return label
