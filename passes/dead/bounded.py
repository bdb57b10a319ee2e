"""What may go under a stated bound: inputs of a layer that are near a constant, or near a number times another input.

An input x of which the readers' weights W are moved elsewhere leaves an error of at most max|W| times its distance from what
takes its place. The least errors go first, and all of a layer, over all rounds, stay within the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...ir.graph import Node
from .gains import Gain, Gains, bias_of
from .liveness import Exit
from .near_twins import Near, NearTwins
from .plan import NEAR, NEAR_TWIN, Options, bias_place
from .products import Product
from .spans import BLOCK

Array = np.ndarray


@dataclass
class Spent:
    """Of one layer, over all rounds: what it could reach at first, and what has been dropped of that."""

    reach: float
    gained: float
    error: float = 0.0
    relative: float = 0.0

    def share(self, error: Array, relative: Array) -> Array:
        """What part of the reach each would take."""
        return np.maximum(_share(error, self.reach), _share(relative, self.gained))

    def affordable(self, error: Array, relative: Array, able: Array, bound: float) -> Array:
        """The smallest shares that together stay within the bound, absolutely and relatively."""
        order = np.lexsort((np.arange(len(able)), self.share(error, relative)))
        order = order[able[order]]
        fits = self.error + np.cumsum(error[order]) <= bound * self.reach
        fits &= self.relative + np.cumsum(relative[order]) <= bound * self.gained
        fine = np.zeros(len(able), bool)
        fine[order[np.logical_and.accumulate(fits)]] = True
        return fine


def _share(error: Array, reach: float) -> Array:
    return error / reach if reach > 0 else np.where(error > 0, np.inf, 0.0)


class Way(NamedTuple):
    """By input: how it may go, and what error that leaves, in numbers and in the size of a value upstream (or infinite)."""

    number: Array
    target: Array
    error: Array
    relative: Array

    def only(self, able: Array) -> Way:
        return self._replace(error=np.where(able, self.error, np.inf), relative=np.where(able, self.relative, np.inf))

    def or_else(self, other: Way, where: Array) -> Way:
        return Way(*(np.where(where, b, a) for a, b in zip(self, other, strict=True)))


@dataclass
class Bounded:
    """The bound, what is known of distances, and what of the bound each layer has had."""

    bound: float
    gains: Gains
    twins: NearTwins
    spent: dict[Node, Spent]

    def choose(self, exit_: Exit, options: Options, alive: Array) -> None:
        """Mark the inputs whose errors are together within the bound."""
        p = exit_.product
        found = [self.gains.at(p.x, p.data_axis, p.channels, bounded=b) for b in (True, False)]
        bias = bias_of(p, self.gains.spans)
        if found[0] is None or found[1] is None or bias is None:
            return
        views = [_finite(x, p.partial) for x in found if x is not None]
        largest, spent = self._sizes(p, views[0], bias)
        free = (options.kind == "") & exit_.reads
        free[options.target[options.target >= 0]] = False  # these take others' weights
        way, twin = _dropped(p, views, largest, spent).only(free), None
        near = self.twins.at(p.x, p.data_axis)
        closer = np.zeros(p.channels, bool)
        if near is not None and near.source is views[0].source:
            twin = _joined(exit_, near, largest, free & alive[exit_.roots_in])
            closer = spent.share(twin.error, twin.relative) < spent.share(way.error, way.relative)
            way = way.or_else(twin, closer)
        able = free & np.isfinite(way.error + way.relative)
        able[way.target[closer]] = False
        error, relative = (np.where(able, part, 0.0) for part in (way.error, way.relative))
        fine = spent.affordable(error, relative, able, self.bound)
        options.kind[fine] = np.where(closer, NEAR_TWIN, NEAR)[fine]
        options.number[fine], options.target[fine] = way.number[fine], way.target[fine]
        unit = views[0].source.hint or str(views[0].source.type)
        options.errors = [(error, spent.reach, ""), (relative, spent.gained, unit)]

    def _sizes(self, p: Product, x: Gain, bias: Array) -> tuple[Array, Spent]:
        """The largest weight of each input, and what the layer could reach at first."""
        mid, radius, gain = (np.where(np.isfinite(part), part, 0.0) for part in x.numbers)
        largest, reach, gained = np.zeros(p.channels), 0.0, 0.0
        for rows, cube in p.blocks(BLOCK):
            weights = abs(p.alpha) * np.abs(cube[0]).sum(-1)
            largest = np.maximum(largest, weights.max(axis=0))
            reach = max(reach, float((weights @ (np.abs(mid) + radius) + np.abs(bias[rows])).max()))
            gained = max(gained, float((weights @ gain).max()))
        return largest, self.spent.setdefault(p.node, Spent(reach, gained))


def _finite(x: Gain, partial: bool) -> Gain:
    """Both numbers infinite where one is; zeros beside the image are no further from 0 than the middle is."""
    lost = ~np.isfinite(x.radius + x.gain)
    mid, radius, gain = (
        np.where(lost, rest, part) for part, rest in zip(x.numbers, (0.0, np.inf, np.inf), strict=True)
    )
    return (
        Gain(np.zeros_like(mid), radius + np.abs(mid), gain, x.source) if partial else Gain(mid, radius, gain, x.source)
    )


def _dropped(p: Product, views: list[Gain], largest: Array, spent: Spent) -> Way:
    """A constant in place of the input: of the two things that are known of it the one that costs less."""
    nowhere = np.full(p.channels, -1)
    with np.errstate(invalid="ignore"):  # 0 times what is not known
        absolute, relative = (Way(x.mid, nowhere, largest * x.radius, largest * x.gain) for x in views)
        made = absolute.or_else(
            relative, spent.share(relative.error, relative.relative) < spent.share(absolute.error, absolute.relative)
        )
    return made.only((made.number == 0) | (bias_place(p) is not None))


def _joined(exit_: Exit, near: Near, largest: Array, able: Array) -> Way:
    """A number times another input in its place: of those of one base the one with the least root takes the others' weights."""
    number, target, distance = np.zeros(len(able)), np.full(len(able), -1), np.full((2, len(able)), np.inf)
    keeper: dict[int, int] = {}
    for i in np.lexsort((exit_.roots_in, near.ids)).tolist():
        if able[i] and near.factor[i]:
            first = keeper.setdefault(int(near.ids[i]), i)
            if exit_.roots_in[first] != exit_.roots_in[i]:
                number[i], target[i] = near.factor[i] / near.factor[first], first
                for part, known in zip(distance, (near.radius, near.gain), strict=True):
                    part[i] = largest[i] * (known[i] + abs(number[i]) * known[first])
    return Way(number, target, *distance)
