"""The kernel of tree ensembles against a walk in Python, and on forests that are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anyir.ir.errors import InvalidModel
from anyir.ir.ops.trees import MEMBER
from anyir.kernels import budget
from anyir.kernels.jit import interpreted
from anyir.kernels.trees import check_forest

Call = Callable[..., Any]
NAN = np.nan
NAMES = (
    "nodes_featureids", "nodes_modes", "nodes_splits", "nodes_missing_value_tracks_true", "nodes_truenodeids",
    "nodes_falsenodeids", "tree_roots", "leaf_begins", "leaf_targetids", "leaf_weights", "membership_values",
)  # fmt: skip


def forest(rng: np.random.Generator, size: int = 60, trees: int = 4) -> dict[str, Any]:
    """Random nodes that point at later ones or at leaves; every tree starts at a node of its own, one is a leaf."""
    leaves = size
    child = [
        np.where(rng.random(size) < 0.6, np.minimum(np.arange(size) + rng.integers(1, 6, size), size - 1), -1)
        for _ in range(2)
    ]
    child = [np.where((c > np.arange(size)), c, ~rng.integers(0, leaves, size)) for c in child]
    modes = rng.integers(0, 7, size).astype(np.uint8)
    sets = [[*rng.integers(-3, 4, int(rng.integers(0, 4))), NAN] for _ in range(int((modes == MEMBER).sum()))]
    counts = rng.integers(0, 3, leaves)
    begins = np.concatenate([[0], np.cumsum(counts)])
    return {
        "nodes_featureids": rng.integers(0, 3, size),
        "nodes_modes": modes,
        "nodes_splits": rng.integers(-3, 4, size).astype(np.float32),
        "nodes_missing_value_tracks_true": rng.random(size) < 0.5,
        "nodes_truenodeids": child[0],
        "nodes_falsenodeids": child[1],
        "tree_roots": np.array([*range(trees - 1), ~5]),
        "leaf_begins": begins,
        "leaf_targetids": rng.integers(0, 3, begins[-1]),
        "leaf_weights": rng.standard_normal(begins[-1]).astype(np.float32),
        "membership_values": np.concatenate(sets).astype(np.float32),
    }


def points(rng: np.random.Generator) -> np.ndarray:
    x = rng.integers(-3, 4, (50, 3)).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = NAN
    return x


def walked(f: dict[str, Any], x: np.ndarray, aggregate: str) -> np.ndarray:
    compare = [np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal]
    parts = np.split(f["membership_values"], np.flatnonzero(np.isnan(f["membership_values"])) + 1)
    sets = dict(zip(np.flatnonzero(f["nodes_modes"] == MEMBER).tolist(), parts, strict=False))
    out = np.zeros((len(x), 3))
    for row, features in enumerate(x):
        votes: dict[int, list[float]] = {}
        for node in f["tree_roots"].tolist():
            while node >= 0:
                value, mode = features[f["nodes_featureids"][node]], f["nodes_modes"][node]
                if np.isnan(value):
                    taken = f["nodes_missing_value_tracks_true"][node]
                else:
                    taken = value in sets[node] if mode == MEMBER else compare[mode](value, f["nodes_splits"][node])
                node = int(f[f"nodes_{'true' if taken else 'false'}nodeids"][node])
            for i in range(f["leaf_begins"][~node], f["leaf_begins"][~node + 1]):
                votes.setdefault(int(f["leaf_targetids"][i]), []).append(float(f["leaf_weights"][i]))
        for target, given in votes.items():
            total = {
                "SUM": sum(given),
                "AVERAGE": sum(given) / len(f["tree_roots"]),
                "MIN": min(given),
                "MAX": max(given),
            }
            out[row, target] = total[aggregate]
    return out.astype(np.float32)


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("seed", range(3))
def test_as_walked_in_python(aggregate: str, seed: int, call: Call) -> None:
    rng = np.random.default_rng(seed)
    f, x = forest(rng), points(rng)
    operands = [f[name] for name in NAMES]
    made = call("tree_ensemble", x, *operands, n_targets=3, aggregate_function=aggregate)
    np.testing.assert_array_equal(made, walked(f, x, aggregate))
    with interpreted():
        again = call("tree_ensemble", x, *operands, n_targets=3, aggregate_function=aggregate)
    np.testing.assert_array_equal(made, again)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("nodes_featureids", lambda a: a + 1, "a feature id of a tree ensemble is 3"),
        ("nodes_featureids", lambda a: a - 1, "a feature id of a tree ensemble is -1"),
        ("nodes_modes", lambda a: np.full_like(a, 9), "a node mode of a tree ensemble is 9"),
        ("nodes_truenodeids", lambda a: a + 100, "a true branch of a tree ensemble"),
        ("nodes_falsenodeids", lambda a: np.full_like(a, -(2**62)), "a false branch of a tree ensemble"),
        ("nodes_falsenodeids", lambda a: np.zeros_like(a), "form a cycle"),
        ("tree_roots", lambda a: np.array([60]), "a root of a tree ensemble is 60"),
        ("tree_roots", lambda a: np.array([~60]), "a root of a tree ensemble is -61"),
        ("leaf_begins", lambda a: a[::-1].copy(), "do not divide the votes"),
        ("leaf_begins", lambda a: a + 1, "do not divide the votes"),
        ("leaf_targetids", lambda a: a + 1, "a target id of a tree ensemble is 3"),
        ("membership_values", lambda a: a[:-1], "sets of members"),
        ("membership_values", lambda a: None, "0 sets of members"),
    ],
)
def test_no_forest(name: str, change: Callable, message: str, call: Call) -> None:
    rng = np.random.default_rng(0)
    f, x = forest(rng), points(rng)
    f[name] = change(f[name])
    with pytest.raises(InvalidModel, match=message):
        call("tree_ensemble", x, *(f[key] for key in NAMES), n_targets=3)


def test_a_long_chain_is_walked_on_a_stack_of_its_own() -> None:
    """And its length is known before it is walked, so that work can be refused."""
    size = 200_000
    false = np.append(np.arange(1, size), ~0)
    arrays = (np.zeros(size, np.int64), np.zeros(size, np.uint8), np.full(size, ~0), false, np.array([0]))
    assert check_forest(*arrays, np.array([0, 1]), np.array([0]), features=1, targets=1) == (size, 1)
    closed = (*arrays[:3], np.append(np.arange(1, size), 0), arrays[4])
    with pytest.raises(InvalidModel, match="form a cycle"):
        check_forest(*closed, np.array([0, 1]), np.array([0]), features=1, targets=1)


def test_work_is_paid_for_before_it_is_done(call: Call) -> None:
    """Many roots of one long chain: quadratic in the size of the file."""
    size = 20_000
    false = np.append(np.arange(1, size), ~0)
    operands = (
        np.zeros(size, np.int64), np.zeros(size, np.uint8), np.full(size, -1.0, np.float32), np.zeros(size, bool),
        np.full(size, ~0), false, np.arange(size), np.array([0, 1]), np.array([0]), np.ones(1, np.float32),
    )  # fmt: skip
    with budget.spending(budget.Budget(10**9, 10**9)), pytest.raises(budget.OverBudget):
        call("tree_ensemble", np.zeros((1, 1), np.float32), *operands, n_targets=1)
