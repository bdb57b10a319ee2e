"""Which inputs of a layer can go one after another at the least cost, the rest making good for each (ZipLM, 2302.04089).

    damping = best_damping(consumers, units)
    losses = removal_losses(consumers, count, damping)

For a layer Y = W X with second moments C = X X^T / n, taking the columns S away and fitting the others anew costs
tr(W_S ([C^-1]_SS)^-1 W_S^T); then W and C^-1 are what they are without S, and the next is chosen: twins do not go
together. C is damped by as much as makes what is fitted to one half of the samples best on the other (cross-validation):
few samples, or many that are alike, do not let units look dispensable. Knows arrays only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

#: Dampings of C that are tried, relative to the mean of its diagonal.
DAMPINGS = tuple(float(v) for v in 10.0 ** np.arange(-3, 1.1, 0.5))
#: Where there are more columns than this, several units go at a time: one in so many.
AT_ONCE = 256
#: Work arrays are made smaller when this share of their units has gone.
COMPACT = 0.125


@dataclass
class Quadratic:
    """One consumer: C [D, D], W [O, D], and which columns [units, k] each unit is there. `weight` scales its losses, `halves`
    are C of the first and of the second half of the samples."""

    moment: np.ndarray
    matrix: np.ndarray
    columns: np.ndarray
    weight: float = 1.0
    halves: tuple[np.ndarray, np.ndarray] | None = None


class _State:
    """W and C^-1, the columns of each unit side by side."""

    def __init__(self, given: Quadratic, damping: float) -> None:
        self.k = given.columns.shape[1]
        order = given.columns.reshape(-1)
        moment = given.moment[np.ix_(order, order)].astype(np.float64)
        moment[np.diag_indices(len(moment))] += max(damping * float(np.trace(moment)) / len(moment), 1e-30)
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

    def compact(self, keep: np.ndarray) -> None:
        columns = np.repeat(keep, self.k)
        self.inverse = np.ascontiguousarray(self.inverse[np.ix_(columns, columns)])
        self.matrix = np.ascontiguousarray(self.matrix[:, columns])


def removal_losses(consumers: Sequence[Quadratic], count: int, damping: float) -> np.ndarray:
    """What removing each unit costs when it is its turn, [units]; inf for those that stay when `count` have gone.

    Losses grow along the order of removal: sorting by them gives that order back.
    """
    states = [_State(each, damping) for each in consumers]
    made = np.full(len(consumers[0].columns), np.inf)
    names, alive = np.arange(len(made)), np.ones(len(made), bool)
    left, highest = min(count, len(made)), 0.0
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
        if alive.any() and np.count_nonzero(~alive) > COMPACT * len(alive):
            for state in states:
                state.compact(alive)
            names, alive = names[alive], np.ones(int(alive.sum()), bool)
    return made


def best_damping(consumers: Sequence[Quadratic], rng: np.random.Generator) -> float:
    """The damping with which the consumers, half of their units gone by lot, fitted to one half of the samples do best on
    the other. The least one where the samples have no halves."""
    units = len(consumers[0].columns)
    lot = rng.permutation(units)[: max(units // 2, 1)]
    errors = np.zeros(len(DAMPINGS))
    for each in consumers:
        gone = each.columns[lot].reshape(-1)
        for fitted, seen in _crosswise(each):
            path = refitted(each.matrix, fitted, gone, DAMPINGS)
            errors += [each.weight * error_of(each.matrix - made, seen) for made in path]
    return DAMPINGS[int(np.argmin(errors))] if np.isfinite(errors).all() else DAMPINGS[-1]


def _crosswise(given: Quadratic) -> list[tuple[np.ndarray, np.ndarray]]:
    return [] if given.halves is None else [given.halves, given.halves[::-1]]


def error_of(gap: np.ndarray, moment: np.ndarray) -> float:
    """The mean squared error of outputs where the weights are off by `gap` [O, D]: tr(gap C gap^T)."""
    return float(np.vdot(gap @ moment, gap))


def refitted(
    matrix: np.ndarray, moment: np.ndarray, gone: np.ndarray, dampings: Sequence[float]
) -> Iterator[np.ndarray]:
    """For each damping the matrix with the columns `gone` zero and the others fitted anew."""
    left = np.setdiff1d(np.arange(len(moment)), gone)
    scale = max(float(np.trace(moment)) / len(moment), 1e-30)
    across = matrix[:, gone] @ moment[np.ix_(gone, left)]
    system = moment[np.ix_(left, left)]
    if len(dampings) == 1:
        made = np.zeros(matrix.shape)
        system[np.diag_indices(len(left))] += dampings[0] * scale
        made[:, left] = matrix[:, left] + np.linalg.solve(system, across.T).T
        yield made
        return
    values, vectors = np.linalg.eigh(system)
    turned = across @ vectors
    for damping in dampings:
        made = np.zeros(matrix.shape)
        made[:, left] = matrix[:, left] + turned / (np.maximum(values, 0.0) + damping * scale) @ vectors.T
        yield made
