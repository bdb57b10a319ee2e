"""Which inputs of a layer can go one after another at the least cost, the rest making good for each (ZipLM, 2302.04089).

    losses, probe = removal_losses([Quadratic(second_moment, weights, columns)], count)

For a layer Y = W X with second moments C = X X^T / n, taking the columns S away and fitting the others anew costs
tr(W_S ([C^-1]_SS)^-1 W_S^T); then W and C^-1 are what they are without S, and the next is chosen: twins do not go
together. Knows arrays only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Damping of C, relative to the mean of its diagonal.
DAMPING = 1e-2
#: Where there are more columns than this, several units go at a time: one in so many.
AT_ONCE = 256
#: Work arrays are made smaller when this share of their units has gone.
COMPACT = 0.125
#: The matrices are looked at when this share of what goes has gone.
PROBED = 0.5


@dataclass
class Probe:
    """The matrices of all consumers, full size, when units with this sum of losses have gone and the rest is fitted anew."""

    loss: float
    matrices: list[np.ndarray]


@dataclass
class Quadratic:
    """One consumer: C [D, D], W [O, D], and which columns [units, k] each unit is there. `weight` scales its losses."""

    moment: np.ndarray
    matrix: np.ndarray
    columns: np.ndarray
    weight: float = 1.0


class _State:
    """W and C^-1, the columns of each unit side by side."""

    def __init__(self, given: Quadratic) -> None:
        self.k = given.columns.shape[1]
        order = given.columns.reshape(-1)
        moment = given.moment[np.ix_(order, order)].astype(np.float64)
        moment[np.diag_indices(len(moment))] += max(DAMPING * float(np.trace(moment)) / len(moment), 1e-30)
        self.inverse = np.linalg.inv(moment)
        self.matrix = given.matrix[:, order].astype(np.float64)
        self.weight = given.weight

    def losses(self) -> np.ndarray:
        """What each unit costs now."""
        if self.k == 1:
            squares = np.einsum("od,od->d", self.matrix, self.matrix)
            return self.weight * squares / np.maximum(np.diagonal(self.inverse), 1e-300)
        units = np.arange(self.matrix.shape[1] // self.k)
        blocks = self.inverse.reshape(len(units), self.k, len(units), self.k)[units, :, units, :]
        rows = self.matrix.reshape(len(self.matrix), len(units), self.k)
        grams = np.matmul(rows.transpose(1, 2, 0), rows.transpose(1, 0, 2))
        return self.weight * np.einsum("uij,uji->u", np.linalg.inv(blocks), grams)

    def remove(self, units: np.ndarray) -> None:
        gone = (units[:, None] * self.k + np.arange(self.k)).reshape(-1)
        rows = self.inverse[gone]
        scaled = np.linalg.solve(rows[:, gone], rows)
        self.matrix -= self.matrix[:, gone] @ scaled
        self.inverse -= rows.T @ scaled
        self.inverse[gone, gone] = 1.0  # blocks of what has gone can still be inverted

    def full(self, given: Quadratic, units: np.ndarray, alive: np.ndarray) -> np.ndarray:
        """The matrix as it was given, zero where units have gone, columns of others as they were."""
        made = given.matrix.astype(np.float64)
        made[:, given.columns.reshape(-1)] = 0.0
        made[:, given.columns[units].reshape(-1)] = self.matrix[:, np.repeat(alive, self.k)]
        return made

    def compact(self, keep: np.ndarray) -> None:
        columns = np.repeat(keep, self.k)
        self.inverse = np.ascontiguousarray(self.inverse[np.ix_(columns, columns)])
        self.matrix = np.ascontiguousarray(self.matrix[:, columns])


def removal_losses(consumers: Sequence[Quadratic], count: int) -> tuple[np.ndarray, Probe]:
    """What removing each unit costs when it is its turn, [units]; inf for those that stay when `count` have gone. And a look
    at the matrices halfway.

    Losses grow along the order of removal: sorting by them gives that order back.
    """
    states = [_State(each) for each in consumers]
    made = np.full(len(consumers[0].columns), np.inf)
    names, alive = np.arange(len(made)), np.ones(len(made), bool)
    left, highest, probe = min(count, len(made)), 0.0, None
    halfway = left - int(np.ceil(left * PROBED))
    while left > 0:
        costs = np.where(alive, np.sum([state.losses() for state in states], axis=0), np.inf)
        at_once = max(int(alive.sum()) * max(state.k for state in states) // AT_ONCE, 1)
        chosen = np.argsort(costs, kind="stable")[: min(at_once, left)]
        for unit in chosen:
            highest = made[names[unit]] = max(np.nextafter(highest, np.inf), float(costs[unit]))
        left -= len(chosen)
        alive[chosen] = False
        for state in states:
            state.remove(chosen)
        if probe is None and left <= halfway:
            sizes = zip(consumers, states, strict=True)
            matrices = [state.full(given, names[alive], alive) for given, state in sizes]
            probe = Probe(float(made[np.isfinite(made)].sum()), matrices)
        if alive.any() and np.count_nonzero(~alive) > COMPACT * len(alive):
            for state in states:
                state.compact(alive)
            names, alive = names[alive], np.ones(int(alive.sum()), bool)
    return made, probe or Probe(0.0, [each.matrix for each in consumers])
