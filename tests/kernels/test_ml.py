"""Lookups, maps and support vector machines against Python's dictionaries and formulas in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anyir.ir.errors import InvalidModel
from anyir.ir.types import F32, I64, STRING
from anyir.kernels import budget, ml

Call = Callable[..., Any]
RNG = np.random.default_rng(31)
NAN = np.nan


def texts(*items: str) -> np.ndarray:
    made = np.empty(len(items), object)
    made[:] = items
    return made


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.float32, np.float64, object])
def test_label_encoder_as_a_dictionary(dtype: Any, call: Call) -> None:
    """Of equal keys the last one counts; so it does in a dictionary."""
    keys, x = RNG.integers(-9, 10, 12), RNG.integers(-12, 13, (5, 7))
    if dtype is object:
        keys, x = np.vectorize(str, otypes=[object])(keys), np.vectorize(str, otypes=[object])(x)
    keys, x, values = keys.astype(dtype), x.astype(dtype), RNG.standard_normal(12)
    table = dict(zip(keys.tolist(), values.tolist(), strict=True))
    wanted = [[table.get(item, -7.0) for item in row] for row in x.tolist()]
    made = call("label_encoder", x, keys, values, np.array(-7.0))
    np.testing.assert_array_equal(made, wanted)


def test_labels_that_are_missing(call: Call) -> None:
    x = np.array([NAN, 0.0, -0.0, np.inf], np.float32)
    keys, values = np.array([NAN, 0.0, NAN], np.float32), texts("a", "b", "c")
    made = call("label_encoder", x, keys, values, np.array("?", object))
    assert made.tolist() == ["c", "b", "b", "?"]
    none = call("label_encoder", x, keys[:0], values[:0], np.array("?", object))
    assert none.tolist() == ["?"] * 4 and none.dtype == object
    assert call("label_encoder", np.array(NAN), keys.astype(np.float64), values, np.array("?", object)) == "c"


def test_one_hot_encoder(call: Call) -> None:
    made = call("one_hot_encoder", np.array([[7, 3]]), np.array([3, 5, 7]))
    np.testing.assert_array_equal(made, np.array([[[0, 0, 1], [1, 0, 0]]], np.float32))
    with pytest.raises(InvalidModel, match="4 is no category"):
        call("one_hot_encoder", np.array([4]), np.array([3, 5, 7]))


def test_maps(call: Call) -> None:
    x = np.array([[1.5, 2.5], [NAN, -0.0]], np.float32)
    first, second = call("zip_map", x, texts("b", "a"))
    assert first == {"b": 1.5, "a": 2.5} and list(second) == ["b", "a"] and np.isnan(second["b"])
    assert call("zip_map", x[0], np.array([4, 2])) == [{4: 1.5, 2: 2.5}]
    made = call("cast_map", {3: 0.1, 1: 2.0}, to=F32)
    np.testing.assert_array_equal(made, np.array([[2.0, 0.1]], np.float32))
    assert call("cast_map", {3: 0.1}, to=STRING)[0, 0] == "0.100000"
    assert call("cast_map", {3: -1.9}, to=I64, size=4).tolist() == [[0, 0, 0, -1]]
    assert call("cast_map", {}, to=I64).shape == (1, 0)
    for number in (NAN, np.inf, 1e30):
        with pytest.raises(InvalidModel, match="is no 64-bit integer"):
            call("cast_map", {0: number}, to=I64)
    with pytest.raises(InvalidModel, match="'c' is not in the vocabulary"):
        call("dict_vectorizer", {"a": 1.0, "c": 2.0}, texts("a", "b"), to=F32)


@pytest.mark.parametrize("kind", ["LINEAR", "POLY", "RBF", "SIGMOID"])
def test_kernels_of_support_vectors(
    kind: str, call: Call, rounded_once: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RBF goes through the rows in blocks, of one row here."""
    monkeypatch.setattr(ml, "_BLOCK", 1)
    x, vectors = (RNG.uniform(-1, 1, s).astype(np.float32) for s in ((6, 3), (4, 3)))
    weights, rho = RNG.standard_normal(4).astype(np.float32), np.array([0.25], np.float32)
    a, v = x.astype(np.float64), vectors.astype(np.float64)
    inner = np.array([[sum(p * q for p, q in zip(row, vector, strict=True)) for vector in v] for row in a])
    gaps = np.array([[sum((p - q) ** 2 for p, q in zip(row, vector, strict=True)) for vector in v] for row in a])
    made = {
        "LINEAR": inner, "POLY": (0.5 * inner + 0.25) ** 3, "RBF": np.exp(-0.5 * gaps), "SIGMOID": np.tanh(0.5 * inner + 0.25)
    }[kind]  # fmt: skip
    attrs = {"kernel_type": kind, "gamma": 0.5, "coef0": 0.25, "degree": 3.0}
    wanted = (made @ weights.astype(np.float64) + 0.25)[:, None]
    rounded_once(call("svm_regressor", x, vectors, weights, rho, **attrs), wanted)
    signs = call("svm_regressor", x, vectors, weights, rho, **attrs, one_class=True)
    np.testing.assert_array_equal(signs, np.where(wanted > 0, 1, -1).astype(np.float32))


def test_probabilities_agree_with_the_duels(call: Call) -> None:
    """They add up to 1 and solve the system of Wu, Lin and Weng to the accuracy of libsvm's stopping rule."""
    wins = RNG.uniform(0.05, 0.95, (8, 6))
    p = ml._probabilities(wins, 4)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    upper = np.triu_indices(4, 1)
    for row, won in zip(p, wins, strict=True):
        r = np.zeros((4, 4))
        r[upper], r.T[upper] = won, 1 - won
        q = -r.T * r
        np.fill_diagonal(q, (r**2).sum(axis=0))
        assert np.abs(q @ row - row @ q @ row).max() < 0.005 / 4


def test_work_is_paid_for(call: Call) -> None:
    x, vectors = np.zeros((1000, 100), np.float32), np.zeros((1000, 100), np.float32)
    with budget.spending(budget.Budget(10**8, 10**12)), pytest.raises(budget.OverBudget):
        call("svm_regressor", x, vectors, np.zeros(1000, np.float32), np.zeros(1, np.float32), kernel_type="RBF")
