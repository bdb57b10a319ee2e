"""A small classifier with data, for tests of the compression flow: seeded, some kilobytes, right on every label."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from onnx import helper, numpy_helper

from .small_models import save

INPUTS, HIDDEN, CLASSES = 24, 96, 5


class Classifier(NamedTuple):
    """An ONNX file `x` [N, 24] -> `logits` [N, 5], and a .npz with `x` and the labels that it gives them."""

    path: Path
    data: Path
    x: np.ndarray
    labels: np.ndarray


def classifier(folder: Path, *, samples: int = 400, name: str = "net") -> Classifier:
    """Two gemm layers with relu between, half of whose hidden units hardly matter."""
    rng = np.random.default_rng(7)
    w1 = rng.standard_normal((HIDDEN, INPUTS)).astype(np.float32) / 5
    w2 = rng.standard_normal((CLASSES, HIDDEN)).astype(np.float32) / 10
    w2[:, ::2] *= 1e-3
    b1, b2 = rng.standard_normal(HIDDEN).astype(np.float32) / 10, np.zeros(CLASSES, np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "fc1.weight", "fc1.bias"], ["h"], "fc1", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "act"),
        helper.make_node("Gemm", ["r", "fc2.weight", "fc2.bias"], ["logits"], "fc2", transB=1),
    ]
    arrays = {"fc1.weight": w1, "fc1.bias": b1, "fc2.weight": w2, "fc2.bias": b2}
    weights = [numpy_helper.from_array(array, key) for key, array in arrays.items()]
    path = save(folder / f"{name}.onnx", nodes, weights, {"x": ["N", INPUTS]}, {"logits": ["N", CLASSES]})
    x = rng.standard_normal((samples, INPUTS)).astype(np.float32)
    labels = (np.maximum(x @ w1.T + b1, 0) @ w2.T + b2).argmax(1)
    data = folder / f"{name}.npz"
    np.savez(data, x=x, labels=labels)
    return Classifier(path, data, x, labels)
