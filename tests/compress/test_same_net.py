"""The same weights through three doors (Keras, PyTorch, ONNX) and the same recipe: the same compressed accuracy."""

from __future__ import annotations

from typing import Any

import anyir
import numpy as np
import pytest
from anyir.tests.support.datasets import mnist5k
from anyir.tests.support.trained import mnist, mnist_images

DOORS = ("keras", "torch", "onnx")
RECIPES: dict[str, dict[str, Any]] = {
    "dynamic": {"quantize": "dynamic"},
    "int4": {"quantize": "int4"},
    "sparse": {"prune": {"ratio": 0.5, "structure": "none", "importance": "l1"}},
    "clip": {"clip": {"percentile": 50}},
    "int8": {"quantize": "int8"},
    "prune": {"prune": 0.5},
    "prune-int8": {"prune": 0.25, "quantize": "int8"},
}


def compressed(name: str, door: str, recipe: str, held_out: int) -> Any:
    digits = mnist5k()
    calibration = {"image": mnist_images(name, digits.x[:256], door)}
    evaluation = {"image": mnist_images(name, digits.x_test[:held_out], door), "labels": digits.y_test[:held_out]}
    return anyir.compress(
        mnist(name, door), data=calibration, eval_data=evaluation, layers=False, **RECIPES[recipe]
    ).result


def check(name: str, recipe: str, held_out: int) -> None:
    """Answers are counted, so that one sample of difference shows; sums in another order may turn one that is on the edge."""
    found = {door: compressed(name, door, recipe, held_out) for door in DOORS}
    before = [made.loss.judged.right[0].hits for made in found.values()]
    after = [made.loss.judged.right[1].hits for made in found.values()]
    sizes = [made.weight_bytes[1] for made in found.values()]
    assert max(before) == min(before) >= 0.9 * held_out
    assert max(after) - min(after) <= 1, dict(zip(DOORS, after, strict=True))
    assert np.ptp(sizes) <= 0.01 * sizes[0]
    assert [made.macs for made in found.values()] == [found["onnx"].macs] * 3


@pytest.mark.parametrize("recipe", ["dynamic", "int4", "sparse", "clip"])
def test_without_data_the_doors_are_alike(recipe: str) -> None:
    check("mlp", recipe, 500)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8", "prune", "prune-int8"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_with_data_the_doors_are_alike(name: str, recipe: str) -> None:
    check(name, recipe, 500)
