"""Atoms: one identity for every index of every axis that may be cut, and the equalities between them.

A `Lane` is an axis whose indices carry atoms; a `Fixed` axis looks at positions and says why. Rules hand lanes through,
join them and pin them; all equalities are solved at once, so that a walk over the graph costs no more than a few array
slices per node. Knows nothing of ops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

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


Axis = Lane | Fixed
Axes = tuple[Axis, ...]

SINGLE = Fixed("an axis of size 1")
UNKNOWN = Fixed("its size is not known")
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
        if isinstance(axis, Lane):
            self.pins.append((axis.ids, reason))

    def mark(self, axis: Axis, bits: int) -> None:
        if isinstance(axis, Lane):
            self.marks.append((axis.ids, bits))

    def join(self, axes: Iterable[Axis]) -> Axis:
        """All run in step: their lanes united, or all of them held by one that is fixed. The first lane stands for them."""
        made = list(axes)
        lanes = [axis for axis in made if isinstance(axis, Lane)]
        held = next((axis for axis in made if isinstance(axis, Fixed)), None)
        if held is not None:
            for lane in lanes:
                self.pin(lane, held.reason)
            return held
        for lane in lanes[1:]:
            self.union(lanes[0].ids, lane.ids)
        return lanes[0]

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
