"""Calibration: what observers see is what a run makes, whole batches or single samples, inputs and constants too."""

from __future__ import annotations

import weakref
from typing import Any

import anyir
import numpy as np
import pytest
from anyir.compress.calibrate import observe
from anyir.compress.data import open_data
from anyir.compress.observers import OBSERVERS, MinMax, Percentile
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import InvalidData, UsageError
from anyir.ir.graph import Module
from anyir.ir.types import F32, TensorType
from anyir.tests.support import datasets, trained

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 6)).astype(np.float32)
W = RNG.standard_normal((6, 5)).astype(np.float32)


def network() -> tuple[Module, dict[str, Any]]:
    """relu(x W), its log: values by name."""
    made = Module("net")
    graph = made.add_graph("main")
    x = graph.add_input(TensorType(F32, (sym("N"), 6)), "x")
    b = Builder(graph)
    w = made.add_weight("w", W)
    hidden = b.matmul(x, w)
    relu = b.relu(hidden)
    graph.set_outputs([relu, b.log(relu)])
    made.add_signature("serving_default", graph, ["x"], ["y", "log"])
    return made, {"x": x, "w": w, "hidden": hidden, "relu": relu, "log": graph.outputs[1]}


class Sized:
    """X in batches of a size."""

    count, digest = 20, ""

    def __init__(self, module: Module, size: int) -> None:
        self.module, self.size = module, size

    def batches(self) -> Any:
        return open_data(X, self.module).batches(self.size)


class Everything:
    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []

    def update(self, array: np.ndarray) -> None:
        self.arrays.append(array.copy())


@pytest.mark.parametrize("size", [1, 7, 20])
def test_observers_see_what_the_formula_says(size: int) -> None:
    module, at = network()
    calls: list[tuple[int, int]] = []
    values = [at["x"], at["hidden"], at["relu"], at["w"], at["x"]]
    seen = observe(
        module, values, Sized(module, size), lambda value: Everything(), progress=lambda *now: calls.append(now)
    )
    assert list(seen) == [at["x"], at["hidden"], at["relu"], at["w"]]
    hidden = X.astype(np.float64) @ W
    limit = 4 * 6 * np.finfo(np.float32).eps * (np.abs(X) @ np.abs(W)).max()
    np.testing.assert_array_equal(np.concatenate(seen[at["x"]].arrays), X)
    np.testing.assert_allclose(np.concatenate(seen[at["hidden"]].arrays), hidden, rtol=0, atol=limit)
    np.testing.assert_allclose(np.concatenate(seen[at["relu"]].arrays), np.maximum(hidden, 0), rtol=0, atol=limit)
    np.testing.assert_array_equal(seen[at["w"]].arrays, [W])
    assert calls == [(int(done), 20) for done in np.cumsum([len(a) for a in seen[at["x"]].arrays])]


@pytest.mark.parametrize("kind", ["minmax", "percentile", "entropy", "mse"])
def test_batches_do_not_show(kind: str) -> None:
    module, at = network()
    whole = observe(module, [at["hidden"]], open_data(X, module), lambda value: OBSERVERS[kind]())
    single = observe(module, [at["hidden"]], Sized(module, 1), lambda value: OBSERVERS[kind]())
    assert whole[at["hidden"]].range(-128, 127) == single[at["hidden"]].range(-128, 127)


def test_values_that_are_not_finite_are_a_named_problem() -> None:
    """log(0) is -inf: the observer says so, the others are not touched."""
    module, at = network()
    seen = observe(module, [at["log"], at["relu"]], open_data(X, module), lambda value: Percentile())
    assert "are NaN or infinite" in seen[at["log"]].problem
    with pytest.raises(InvalidData, match="no range can be found"):
        seen[at["log"]].range(-128, 127)
    assert seen[at["relu"]].problem == ""


def test_nan_samples_stop_the_pass() -> None:
    module, at = network()
    bad = X.copy()
    bad[13, 0] = np.inf
    with pytest.raises(InvalidData, match="sample 13: input 'x' has NaN or infinity"):
        observe(module, [at["relu"]], open_data(bad, module), lambda value: MinMax())


def test_foreign_values_are_refused() -> None:
    module, _ = network()
    _, other = network()
    with pytest.raises(UsageError, match="is not a value of @main"):
        observe(module, [other["relu"]], open_data(X, module), lambda value: MinMax())


def test_errors_of_observers_name_the_value() -> None:
    module, at = network()
    with pytest.raises(UsageError, match="axis 3 was shown an array"):
        observe(module, [at["relu"]], open_data(X, module), lambda value: MinMax(axis=3))


def test_nothing_of_a_batch_is_kept() -> None:
    module, at = network()
    alive: list[weakref.ref] = []

    class Watch:
        def update(self, array: np.ndarray) -> None:
            assert all(ref() is None for ref in alive)
            alive.append(weakref.ref(array))

    observe(module, [at["relu"]], Sized(module, 1), lambda value: Watch())
    assert len(alive) == 20 and all(ref() is None for ref in alive)


def test_trained_network_against_its_framework() -> None:
    """Ranges of the hidden layers of the MNIST network are those of torch's own activations."""
    torch = pytest.importorskip("torch")
    module = anyir.load(trained.mnist("mlp", "onnx"))
    graph = module.signature.graph
    hidden = [node.result for node in graph.nodes("relu")]
    x = datasets.mnist5k().x[:256]
    seen = observe(module, hidden, open_data(x, module), lambda value: MinMax())
    live, expected = trained.mnist_module("mlp"), []
    hooks = [
        layer.register_forward_hook(lambda _, __, y: expected.append(y.detach().numpy()))
        for layer in live.modules()
        if isinstance(layer, torch.nn.ReLU)
    ]
    with torch.no_grad():
        live(torch.tensor(x))
    for hook in hooks:
        hook.remove()
    assert len(hidden) == len(expected) == 2
    for value, array in zip(hidden, expected, strict=True):
        assert seen[value].range(0, 255) == pytest.approx((0.0, float(array.max())), rel=1e-5)
