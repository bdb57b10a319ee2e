"""What is lost, by other means: scipy's intervals, numpy's sums, hand-made errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from anyir.compress.evaluate import Labelled, Loss, OutputLoss, Share, measure, wilson
from anyir.ir.builder import Builder
from anyir.ir.expr import sym
from anyir.ir.graph import Module
from anyir.ir.types import F32, TensorType


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (5, 10), (97, 100), (873, 1000), (1, 1)])
def test_wilson_is_the_interval_that_scipy_has(hits: int, count: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson(0, 0) == (0.0, 1.0)


def test_figures_of_an_output_are_those_of_all_samples_together() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 60, 7)).astype(np.float32)
    loss = OutputLoss("y")
    for part in (slice(0, 1), slice(1, 40), slice(40, 60)):
        loss.add(a[part], b[part])
        loss.judge(np.arange(60)[part] % 7, a[part], b[part])
    x, y = a.astype(np.float64), b.astype(np.float64)
    assert loss.sqnr == pytest.approx(10 * math.log10((x**2).sum() / ((x - y) ** 2).sum()))
    assert loss.cosine == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
    assert loss.max_abs == np.abs(x - y).max()
    assert (loss.agreement.hits, loss.agreement.count) == ((a.argmax(1) == b.argmax(1)).sum(), 60)
    assert [share.hits for share in loss.right] == [(m.argmax(1) == np.arange(60) % 7).sum() for m in (a, b)]


def test_an_equal_output_loses_nothing_and_a_dead_one_everything() -> None:
    same, dead, nothing = OutputLoss("y"), OutputLoss("y"), OutputLoss("y")
    ones = np.ones((3, 4), np.float32)
    same.add(ones, ones)
    dead.add(ones, np.zeros_like(ones))
    nothing.add(ones * 0, ones * 0)
    assert same.sqnr == math.inf and same.cosine == pytest.approx(1)
    assert dead.sqnr == 0 and dead.cosine == 0
    assert nothing.cosine == 1


def test_nan_on_one_side_is_counted_and_does_not_hide_the_rest() -> None:
    loss = OutputLoss("y")
    loss.add(np.array([[1.0, 2.0]], np.float32), np.array([[np.nan, 2.5]], np.float32))
    assert loss.broken == 1 and loss.max_abs == 0.5


def test_integers_agree_or_not() -> None:
    loss = OutputLoss("y")
    loss.add(np.array([1, 2, 3]), np.array([1, 2, 4]))
    assert (loss.agreement.hits, loss.agreement.count) == (2, 3) and loss.sqnr is None


def test_drop_is_of_accuracy_with_labels_and_of_agreement_without() -> None:
    plain = Loss("x", outputs=[OutputLoss("y", agreement=Share(97, 100))])
    assert plain.drop == pytest.approx(3)
    judged = OutputLoss("z", agreement=Share(90, 100), right=(Share(95, 100), Share(94, 100)))
    assert Loss("x", outputs=[plain.outputs[0], judged]).drop == pytest.approx(1)
    assert Loss("x", outputs=[OutputLoss("y")]).drop is None


def scaled(factor: float) -> Module:
    module = Module()
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(F32, (sym("N"), 3)), "x")
    weight = module.add_weight("w", np.diag([factor, 1, 1]).astype(np.float32))
    graph.set_outputs([Builder(graph).matmul(x, weight)])
    module.add_signature("main", graph, ["x"], ["y"])
    return module


def test_measuring_runs_both_on_every_batch_and_tells_how_far_it_is() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((10, 3)).astype(np.float32)
    labels = x.argmax(1)
    batches = [Labelled({"x": x[i : i + 4]}, labels[i : i + 4], len(x[i : i + 4])) for i in (0, 4, 8)]
    told: list[int] = []
    loss = measure(scaled(1), scaled(-1), batches, "ten", told.append)
    assert (loss.samples, told) == (10, [4, 8, 10])
    changed = x * np.float32([-1, 1, 1])
    right = loss.outputs[0].right
    assert right[0].hits == 10 and right[1].hits == (changed.argmax(1) == labels).sum() < 10
    assert loss.labelled and loss.drop == pytest.approx(100 * (1 - right[1].hits / 10))


@pytest.mark.parametrize("labels", [np.array([[0.5, 1, 2]] * 4), np.array([0, 1, 2, 3]), np.array([0, 1]), None])
def test_labels_that_are_no_classes_of_the_output_are_left_alone(labels: np.ndarray | None) -> None:
    x = np.eye(4, 3, dtype=np.float32)
    assert measure(scaled(1), scaled(1), [Labelled({"x": x}, labels, 4)], "").labelled is False
