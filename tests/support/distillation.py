"""Small teachers, students and data for the tests of distillation: three classes of points in the plane."""

from __future__ import annotations

import numpy as np
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module
from anyir.ir.types import F32, TensorType


def points(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [count, 4] in -1..1 and the class of each: which of three curved regions of the first two axes it lies in."""
    x = np.random.default_rng(seed).uniform(-1, 1, (count, 4)).astype(np.float32)
    radius = np.hypot(x[:, 0], x[:, 1])
    return x, np.where(radius < 0.5, 0, np.where(x[:, 0] * x[:, 1] > 0, 1, 2)).astype(np.int64)


def mlp(widths: tuple[int, ...], seed: int, *, name: str = "net", softmax: bool = False) -> Module:
    """A module of dense layers with relu between: input "x" [N, widths[0]], output "y". Weights are named fc0.weight ..."""
    rng = np.random.default_rng(seed)
    module = Module(name)
    graph = module.add_graph("main")
    b = Builder(graph)
    y = graph.add_input(TensorType(F32, (sym("N"), widths[0])), "x")
    for i, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        w = (rng.standard_normal((outputs, inputs)) * np.sqrt(2 / inputs)).astype(np.float32)
        weight = b.const(w, key=f"fc{i}.weight", role="param")
        bias = b.const(np.zeros(outputs, np.float32), key=f"fc{i}.bias", role="param")
        y = b.gemm(y, weight, bias, transB=True)
        if i + 2 < len(widths):
            y = b.relu(y)
            y.hint = f"hidden{i}"
    graph.set_outputs([b.softmax(y, axis=-1) if softmax else y])
    module.add_signature("serving_default", graph, ["x"], ["y"])
    return module


def accuracy(module: Module, x: np.ndarray, labels: np.ndarray) -> float:
    """On the reference kernels."""
    from anyir.kernels.run import run

    return float((run(module, [x])["y"].argmax(-1) == labels).mean())
