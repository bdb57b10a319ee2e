"""Channels that are a known number times another: the arithmetic of `labels.py`. Knows nothing of graphs.

Numbers are powers of two, with signs: multiplying by one rounds nothing, so that an op that is homogeneous in its operands
computes of a channel and its twin results that are twins again, to the last bit (but for overflow and denormal numbers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray
#: Elements of constants that are looked at at a time.
BLOCK = 1 << 18


class Twins(NamedTuple):
    """Channel i is factor[i] times what ids[i] names; a channel of factor 0 is zero, whatever its name."""

    ids: Array
    factor: Array

    @property
    def says(self) -> bool:
        """Whether there are any: else nothing is worth knowing."""
        return len(np.unique(self.ids)) < len(self.ids)

    def take(self, places: Array) -> Twins:
        return Twins(self.ids[places], self.factor[places])

    def blocks(self, count: int) -> Twins:
        """Of `count` blocks of channels of one length: a block times a number."""
        return proportional(self.ids.reshape(count, -1), self.factor.reshape(count, -1))

    def padded(self) -> Twins:
        """With something else at the end, at position -1."""
        return Twins(np.append(self.ids, -1), np.append(self.factor, 1.0))


def distinct(count: int) -> Twins:
    return Twins(np.arange(count), np.ones(count))


def one_for_all(count: int, *, zero: bool = False) -> Twins:
    """The same everywhere."""
    return Twins(np.zeros(count, np.intp), np.full(count, 0.0 if zero else 1.0))


def stacked(columns: Sequence[Twins]) -> tuple[Array, Array]:
    return np.stack([c.ids for c in columns], axis=1), np.stack([c.factor for c in columns], axis=1)


def equal(ids: Array, factors: Array) -> Twins:
    """Of a function of rows [channels, operands] that are equal."""
    return Twins(_numbers(_named(ids, factors), factors), np.ones(len(ids)))


def proportional(ids: Array, factors: Array, *, signed: bool = False) -> Twins:
    """Of a function f with f(c x, c y, ..) = c f(x, y, ..): for every c, or (`signed`) for c > 0."""
    first = np.take_along_axis(factors, (factors != 0).argmax(axis=1)[:, None], axis=1)
    lead = np.abs(first) if signed else first
    ratio = factors / np.where(lead == 0, 1.0, lead)
    return Twins(_numbers(_named(ids, factors), ratio), lead[:, 0])


def product(columns: Sequence[Twins]) -> Twins:
    """Of a product of all."""
    ids, factors = stacked(columns)
    return Twins(_numbers(_named(ids, factors)), factors.prod(axis=1))


def inverse(x: Twins) -> Twins | None:
    """Of 1 / x, where nothing is zero."""
    return Twins(x.ids, 1 / x.factor) if x.factor.all() else None


def of_rows(rows: Sequence[Array]) -> Twins:
    """Of constant arrays of one shape: equal where they are, and where a power of two makes them so."""
    if not len(rows) or not rows[0].size:
        return one_for_all(len(rows), zero=True)
    seen: dict[bytes, int] = {}
    ids, factors = [], []
    step = max(1, BLOCK // rows[0].size)
    for start in range(0, len(rows), step):
        wide = np.stack(rows[start : start + step]).astype(np.float64)
        wide = wide.reshape(len(wide), -1)
        lead = _leading(wide)
        scaled = wide / np.where(lead == 0, 1.0, lead)[:, None] + 0.0  # no -0.0
        ids += [seen.setdefault(row.tobytes(), len(seen)) for row in scaled]
        factors.append(lead)
    return Twins(np.array(ids, np.intp), np.concatenate(factors))


def _leading(rows: Array) -> Array:
    """Of each row the power of two, with its sign, of the first element that is not zero; 1 where a division by it would
    round."""
    places = np.arange(len(rows)), (rows != 0).argmax(axis=1)
    first, powers = rows[places], np.frexp(rows)[1]
    safe = (powers.min(axis=1) > -500) & (powers.max(axis=1) < 500)
    lead = np.copysign(np.ldexp(1.0, np.where(safe, powers[places], 0)), first)
    return np.where(first == 0, 0.0, np.where(safe, lead, 1.0))


def _named(ids: Array, factors: Array) -> Array:
    return np.where(factors == 0, -1, ids)


def _numbers(*tables: Array) -> Array:
    """A number for each row of the tables side by side."""
    whole = np.concatenate([table.astype(np.float64) for table in tables], axis=1)
    return np.unique(whole, axis=0, return_inverse=True)[1].reshape(-1)
