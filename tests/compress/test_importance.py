"""Scores of units: each importance beside its formula, and the data-driven ones beside what removing really costs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from anyir.compress.data import open_data
from anyir.compress.importance import score_units
from anyir.compress.obs import DAMPINGS, Quadratic, best_damping, error_of, refitted, removal_losses
from anyir.ir.builder import Builder
from anyir.ir.errors import UsageError
from anyir.ir.graph import Module
from anyir.passes.manager import Context
from anyir.passes.prune.groups import find_groups
from anyir.tests.support.text import module

RNG = np.random.default_rng(1)
DAMPING = 1e-2
X = RNG.normal(size=(400, 5)).astype(np.float32)


def net(hidden: int = 6) -> Module:
    """[N, 5] -> hidden, relu -> 3."""
    made = module("(%x: f32[N, 5]) {\n return(%x)\n}")
    b = Builder(made.main, before=made.main.return_node)
    arrays = {"w1": (hidden, 5), "b1": (hidden,), "w2": (3, hidden), "b2": (3,)}
    w1, b1, w2, b2 = (made.add_weight(k, RNG.normal(size=s).astype(np.float32), "param") for k, s in arrays.items())
    made.main.set_outputs([b.gemm(b.relu(b.gemm(made.main.inputs[0], w1, b1, transB=True)), w2, b2, transB=True)])
    made.signatures.clear()
    made.add_signature("serving_default", made.main, ["x"], ["y"])
    return made


def scores(made: Module, importance: str, data: bool = False) -> np.ndarray:
    groups = find_groups(made)
    assert [g.name for g in groups] == ["w1"]
    ctx = Context(data=open_data({"x": X}, made) if data else None, seed=5)
    return score_units(made, groups, importance, ctx)[0]


def arrays(made: Module) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(made.weights[key].tensor.numpy().astype(np.float64) for key in ("w1", "b1", "w2"))  # type: ignore[return-value]


def test_magnitudes_are_norms_of_the_weights_that_make_a_unit() -> None:
    made = net()
    w1, _, w2 = arrays(made)
    np.testing.assert_allclose(scores(made, "l1"), np.abs(w1).sum(axis=1))
    np.testing.assert_allclose(scores(made, "l2"), np.linalg.norm(w1, axis=1))
    pair = np.linalg.norm(w1, axis=1) * np.linalg.norm(w2, axis=0)
    np.testing.assert_allclose(scores(made, "pair"), pair)


def test_wanda_is_the_deviation_of_a_unit_times_the_weights_that_read_it() -> None:
    made = net()
    w1, b1, w2 = arrays(made)
    hidden = np.maximum(X @ w1.T + b1, 0)
    expected = hidden.std(axis=0) * np.linalg.norm(w2, axis=0)
    np.testing.assert_allclose(scores(made, "wanda", data=True), expected, rtol=1e-5)


def test_random_is_the_seeds() -> None:
    made = net()
    np.testing.assert_array_equal(scores(made, "random"), scores(made, "random"))
    assert len(set(scores(made, "random"))) == 6


def test_batch_norms_scale_ranks_its_channels() -> None:
    made = module("(%x: f32[N, 3, 8, 8]) {\n return(%x)\n}")
    b = Builder(made.main, before=made.main.return_node)
    gamma = np.array([0.5, -2, 0.1, 1], np.float32)
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    parts = {
        "w": RNG.normal(size=(4, 3, 3, 3)),
        "g": gamma,
        "b": zeros,
        "m": zeros,
        "v": ones,
        "w2": RNG.normal(size=(2, 4, 1, 1)),
    }
    w, g, shift, mean, var, w2 = (made.add_weight(k, a.astype(np.float32), "param") for k, a in parts.items())
    y = b.relu(b.batch_norm(b.conv(made.main.inputs[0], w), g, shift, mean, var, epsilon=1e-5))
    made.main.set_outputs([b.conv(y, w2)])
    np.testing.assert_allclose(score_units(made, find_groups(made), "bn", Context())[0], np.abs(gamma))


def test_without_a_batch_norm_bn_says_what_it_does() -> None:
    made, ctx = net(), Context()
    found = score_units(made, find_groups(made), "bn", ctx)[0]
    np.testing.assert_array_equal(found, scores(made, "l2"))
    assert "has no batch norm" in ctx.notes[0]


@pytest.mark.parametrize("importance", ["wanda", "obs"])
def test_what_looks_at_data_wants_data(importance: str) -> None:
    with pytest.raises(UsageError, match="there are no data"):
        scores(net(), importance)


def test_unknown_importance() -> None:
    with pytest.raises(UsageError, match="no importance 'l3'"):
        scores(net(), "l3")


# ----------------------------------------------------------------------------------------------------- removal by OBS


def refit_loss(moment: np.ndarray, matrix: np.ndarray, gone: list[int]) -> float:
    """min over W' without the columns `gone` of tr((W - W') C (W - W')^T), by solving the normal equations."""
    left = [i for i in range(len(moment)) if i not in gone]
    best = np.zeros_like(matrix)
    best[:, left] = np.linalg.solve(moment[np.ix_(left, left)], moment[left] @ matrix.T).T
    gap = matrix - best
    return float(np.vdot(gap @ moment, gap))


def damped(moment: np.ndarray) -> np.ndarray:
    return moment + DAMPING * np.trace(moment) / len(moment) * np.eye(len(moment))


@pytest.mark.parametrize("k", [1, 3])
def test_losses_are_what_fitting_anew_leaves(k: int) -> None:
    units, outputs = 6, 4
    x = RNG.normal(size=(200, units * k)) @ RNG.normal(size=(units * k, units * k))
    moment, matrix = x.T @ x / len(x), RNG.normal(size=(outputs, units * k))
    columns = RNG.permutation(units * k).reshape(units, k)
    losses = removal_losses([Quadratic(moment, matrix, columns)], units - 1, DAMPING)
    order = np.argsort(losses)[: units - 1]
    total = 0.0
    for count, unit in enumerate(order, 1):
        total += losses[unit]
        gone = [int(c) for u in order[:count] for c in columns[u]]
        np.testing.assert_allclose(total, refit_loss(damped(moment), matrix, gone), rtol=1e-6)


def test_each_step_takes_the_cheapest_unit() -> None:
    x = RNG.normal(size=(300, 7)) @ RNG.normal(size=(7, 7))
    moment, matrix = x.T @ x / len(x), RNG.normal(size=(3, 7))
    losses = removal_losses([Quadratic(moment, matrix, np.arange(7)[:, None])], 3, DAMPING)
    assert np.isfinite(losses).sum() == 3
    gone: list[int] = []
    for unit in np.argsort(losses)[:3]:
        costs = {u: refit_loss(damped(moment), matrix, [*gone, u]) for u in range(7) if u not in gone}
        assert min(costs, key=costs.__getitem__) == unit
        gone.append(int(unit))


def test_twins_do_not_go_together() -> None:
    x = RNG.normal(size=(500, 4))
    x = np.concatenate([x, x[:, :1]], axis=1)  # column 4 is column 0
    matrix = np.array([[1.0, 0.5, 0.6, 0.7, 1.0]])
    losses = removal_losses([Quadratic(x.T @ x / len(x), matrix, np.arange(5)[:, None])], 4, DAMPING)
    order = np.argsort(losses).tolist()
    assert order[0] in (0, 4) and (4 if order[0] == 0 else 0) == order[-1]
    (made,) = refitted(matrix, x.T @ x / len(x), np.array(order[:1]), [DAMPING])
    assert made[0, order[-1]] == pytest.approx(2.0, rel=0.1)  # the twin that is left does the work of both


def test_fitting_anew_is_ridge_regression_towards_the_weights() -> None:
    """Beside least squares on stacked rows, for each of several dampings in one go."""
    x = RNG.normal(size=(200, 6)) @ RNG.normal(size=(6, 6))
    matrix, gone, left = RNG.normal(size=(3, 6)), np.array([4, 1]), [0, 2, 3, 5]
    moment = x.T @ x / len(x)
    for damping, found in zip(DAMPINGS, refitted(matrix, moment, gone, DAMPINGS), strict=True):
        root = np.sqrt(len(x) * damping * np.trace(moment) / 6) * np.eye(4)
        rows = np.concatenate([x[:, left], root])
        wanted = np.concatenate([x[:, gone] @ matrix[:, gone].T, np.zeros((4, 3))])
        change = np.linalg.lstsq(rows, wanted, rcond=None)[0].T
        np.testing.assert_allclose(found[:, left], matrix[:, left] + change, rtol=1e-6, atol=1e-9)
        assert not found[:, gone].any()
        gap = matrix - found
        assert error_of(gap, moment) == pytest.approx(np.square(x @ gap.T).sum() / len(x))


def halved(x: np.ndarray, matrix: np.ndarray) -> Quadratic:
    halves = np.split(x, 2)
    first, second = (h.T @ h / len(h) for h in halves)
    return Quadratic(x.T @ x / len(x), matrix, np.arange(len(matrix[0]))[:, None], 1.0, (first, second))


def test_few_samples_are_damped_more_than_many() -> None:
    """30 columns of 3 factors and noise: with 20 rows what is fitted to one half does harm on the other unless damped."""
    factors, matrix = RNG.normal(size=(3, 30)), RNG.normal(size=(4, 30))

    def damping(rows: int) -> float:
        x = RNG.normal(size=(rows, 3)) @ factors + 0.5 * RNG.normal(size=(rows, 30))
        return best_damping([halved(x, matrix)], np.random.default_rng(0))

    assert damping(20000) < damping(40)
    assert damping(20000) <= 0.01


def test_samples_that_are_alike_within_a_half_say_nothing_of_the_other() -> None:
    """Each half repeats its own ten samples a thousand times: many rows, and damped as much as the ten alone."""
    matrix = RNG.normal(size=(4, 30))
    few = RNG.normal(size=(20, 5)) @ RNG.normal(size=(5, 30)) + 0.5 * RNG.normal(size=(20, 30))
    many = np.concatenate([np.repeat(half, 1000, axis=0) for half in np.split(few, 2)])
    rng = np.random.default_rng
    assert best_damping([halved(many, matrix)], rng(0)) == best_damping([halved(few, matrix)], rng(0)) > DAMPINGS[0]


def test_two_readers_add_up() -> None:
    x = RNG.normal(size=(300, 5))
    moment = x.T @ x / len(x)
    first, second = RNG.normal(size=(2, 5)), RNG.normal(size=(3, 5))
    columns = np.arange(5)[:, None]
    losses = removal_losses([Quadratic(moment, first, columns), Quadratic(moment, second, columns, 2.0)], 1, DAMPING)
    costs = [refit_loss(damped(moment), first, [u]) + 2 * refit_loss(damped(moment), second, [u]) for u in range(5)]
    unit = int(np.argmin(costs))
    np.testing.assert_allclose(losses[unit], costs[unit], rtol=1e-6)
    assert np.isinf(losses[[u for u in range(5) if u != unit]]).all()


def test_obs_beats_what_ignores_how_units_go_together() -> None:
    """Of all pairs of units, the pair that obs removes costs within a tenth of the best; a wrong sign would not."""
    made = net(7)
    w1, b1, w2 = arrays(made)
    hidden = np.maximum(X @ w1.T + b1, 0)
    moment = np.cov(hidden.T, bias=True)
    order = np.argsort(scores(made, "obs", data=True))[:2]
    costs = {pair: refit_loss(moment, w2, list(pair)) for pair in itertools.combinations(range(7), 2)}
    assert costs[tuple(sorted(map(int, order)))] <= 1.1 * min(costs.values())  # type: ignore[index]
