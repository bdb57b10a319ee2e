"""What distilling wins back of what pruning lost, on MNIST-5k: a quick run here, the whole one in the slow tests."""

from __future__ import annotations

from typing import Any

import anyir
import numpy as np
import pytest
from anyir.compress.data import open_data
from anyir.compress.distill import distill
from anyir.ir.graph import Module
from anyir.kernels.run import run
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support import trained
from anyir.tests.support.datasets import mnist5k

#: At this width the MLP of 256 and 128 hidden neurons keeps 26 and 13; least squares on 1,024 rows recovers what it can.
RATIO = 0.9


def points(module: Module) -> float:
    """Accuracy on the 1,000 test images, in percent."""
    found = next(iter(run(module, [mnist5k().x_test]).values()))
    return 100 * float((found.argmax(-1) == mnist5k().y_test).mean())


def pruned(teacher: Module) -> Module:
    student = anyir.optimize(teacher.clone())
    ctx = Context(data=open_data({"image": mnist5k().x[:1024]}, student))
    run_pipeline(student, f"prune{{ratio={RATIO}}}", ctx)
    return student


@pytest.mark.parametrize(
    ("source", "options"),
    [
        pytest.param("onnx", {"epochs": 2, "rate": 5e-3, "batch": 128}, id="quick"),
        pytest.param("onnx", {"epochs": 10, "rate": 5e-3}, id="whole", marks=pytest.mark.slow),
        pytest.param("torch", {"epochs": 10, "rate": 5e-3}, id="torch", marks=pytest.mark.slow),
        pytest.param("keras", {"epochs": 10, "rate": 5e-3}, id="keras", marks=pytest.mark.slow),
    ],
)
def test_distilling_wins_back_half_of_what_pruning_lost(source: str, options: dict[str, Any]) -> None:
    """The test images take no part: the best weights are chosen on 400 of the training images."""
    data = mnist5k()
    teacher = anyir.load(str(trained.mnist("mlp", source)))
    student = pruned(teacher)
    whole, left = points(teacher), points(student)
    assert whole - left >= 4, "pruning with recovery alone loses this much"
    report = distill(teacher, student, {"image": data.x, "labels": data.y}, eval_data=400, **options)
    won = points(report.module) - left
    assert won >= (whole - left) / 2, f"{whole:.1f} -> {left:.1f} -> {left + won:.1f}"
    assert report.metric == "accuracy" and report.check["passed"]
    shapes = [tuple(w.tensor.shape) for w in report.module.used_weights() if w.role == "param"]
    assert sorted(shapes) == sorted(tuple(w.tensor.shape) for w in student.used_weights() if w.role == "param")
    assert max(np.prod(shape) for shape in shapes) <= 26 * 784
