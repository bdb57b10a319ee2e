"""What runs keep between them: plans follow edits, constants follow their weights, nothing outlives the module."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.graph import Module
from anyir.ir.tensor import ArrayTensor
from anyir.ir.types import F32, TensorType
from anyir.kernels import constants
from anyir.kernels.constants import Shelf, kept, shelf_of
from anyir.kernels.run import run

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def scaled(factor: float) -> tuple[Module, Builder]:
    """y = x * factor, the factor in a weight of three elements."""
    module = Module("scaled")
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(F32, (2, 3)), "x")
    b = Builder(graph)
    graph.set_outputs([b.mul(x, np.full(3, factor, np.float32))])
    module.add_signature("serving_default", graph, ["x"], ["y"])
    return module, b


def test_an_edited_graph_is_planned_anew():
    module, b = scaled(2.0)
    graph = module.main
    np.testing.assert_array_equal(run(module, [X])["y"], 2 * X)
    graph.set_outputs([b.neg(graph.outputs[0])])
    np.testing.assert_array_equal(run(module, [X])["y"], -2 * X)


def test_a_replaced_weight_is_read_anew():
    module, _ = scaled(2.0)
    np.testing.assert_array_equal(run(module, [X])["y"], 2 * X)
    (weight,) = module.weights
    weight.tensor = ArrayTensor(np.full(3, 5.0, np.float32))
    np.testing.assert_array_equal(run(module, [X])["y"], 5 * X)


def test_only_constants_are_remembered():
    module, _ = scaled(2.0)
    calls = []

    def double(x: np.ndarray, times: float) -> np.ndarray:
        calls.append(times)
        return x * times

    (weight,) = module.weights
    with shelf_of(module) as shelf:
        constant = shelf.array(weight.tensor)
        assert kept(double, constant, parameters=(2.0,)) is kept(double, constant, parameters=(2.0,))
        np.testing.assert_array_equal(kept(double, constant, parameters=(3.0,)), constant * 3)
        assert calls == [2.0, 3.0]
        kept(double, X, parameters=(2.0,))
        kept(double, X, parameters=(2.0,))
        assert calls == [2.0, 3.0, 2.0, 2.0]
    assert kept(double, constant, parameters=(2.0,)) is not kept(double, constant, parameters=(2.0,))


def test_a_shelf_has_bounds(monkeypatch: pytest.MonkeyPatch):
    """A full shelf is emptied, and what was made of arrays that it no longer keeps is gone with them."""
    monkeypatch.setattr(constants, "ROOM", 100)
    monkeypatch.setattr(constants, "LARGEST", 48)
    shelf = Shelf()
    tensors = [ArrayTensor(np.full(5, i, np.float64)) for i in range(3)]
    first, second = (shelf.array(tensor) for tensor in tensors[:2])
    np.testing.assert_array_equal(shelf.made(np.negative, (second,), ()), -second)
    shelf.array(tensors[2])
    assert shelf.made(np.negative, (first,), ()) is None
    assert shelf._left == 60
    large = ArrayTensor(np.zeros(7, np.float64))
    shelf.array(large)
    assert shelf._left == 60


def test_a_shelf_goes_with_its_module():
    module, _ = scaled(2.0)
    run(module, [X])
    shelf = weakref.ref(constants._shelves[id(module)])
    del module, _
    gc.collect()
    assert shelf() is None
