"""What distilling wins back of what pruning lost, on MNIST-5k: from ONNX here, from the other doors in the slow tests."""

from __future__ import annotations

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

#: Shares of the MLP's 256 and 128 hidden neurons to remove, the least first; recovery on 1,024 rows makes up for what it can.
RATIOS = (0.9, 0.93, 0.95, 0.97)
#: Points that pruning with recovery loses where distilling is worth its while.
LOST = 4


def points(module: Module) -> float:
    """Accuracy on the 1,000 test images, in percent."""
    found = next(iter(run(module, [mnist5k().x_test]).values()))
    return 100 * float((found.argmax(-1) == mnist5k().y_test).mean())


def pruned(teacher: Module, ratio: float) -> Module:
    student = anyir.optimize(teacher.clone())
    ctx = Context(data=open_data({"image": mnist5k().x[:1024]}, student))
    run_pipeline(student, f"prune{{ratio={ratio}}}", ctx)
    return student


def too_narrow(teacher: Module) -> Module:
    """The widest of the pruned networks that has lost at least LOST points."""
    whole = points(teacher)
    students = (pruned(teacher, ratio) for ratio in RATIOS)
    return next(student for student in students if whole - points(student) >= LOST)


def shifted(feeds: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Each image moved by up to one pixel either way: the teacher has the training images by heart, not these."""
    ((name, images),) = feeds.items()
    x = images.reshape(-1, 28, 28)
    moves = rng.integers(-1, 2, (len(x), 2))
    moved = [np.roll(image, tuple(move), (0, 1)) for image, move in zip(x, moves, strict=True)]
    return {name: np.stack(moved).reshape(images.shape)}


@pytest.mark.parametrize(
    "source", ["onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("torch", "keras"))]
)
def test_distilling_wins_back_half_of_what_pruning_lost(source: str) -> None:
    """The test images take no part: the best weights are chosen on 400 of the training images."""
    data = mnist5k()
    teacher = anyir.load(str(trained.mnist("mlp", source)))
    student = too_narrow(teacher)
    whole, left = points(teacher), points(student)
    images = {"image": data.x, "labels": data.y}
    report = distill(teacher, student, images, eval_data=400, augment=shifted, epochs=10, rate=5e-3)
    won = points(report.module) - left
    assert won >= (whole - left) / 2, f"{whole:.1f} -> {left:.1f} -> {left + won:.1f}"
    assert report.metric == "accuracy" and report.check["passed"]
    shapes = [tuple(w.tensor.shape) for w in report.module.used_weights() if w.role == "param"]
    assert sorted(shapes) == sorted(tuple(w.tensor.shape) for w in student.used_weights() if w.role == "param")
    assert max(np.prod(shape) for shape in shapes) <= 26 * 784 and whole - left >= LOST
