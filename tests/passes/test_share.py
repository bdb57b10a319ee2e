"""Equal weights are stored once and stay two: names, training, and what each writer makes of them."""

from __future__ import annotations

from pathlib import Path

import anyir
import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module
from anyir.ir.tensor import ArrayTensor
from anyir.ir.types import F32, TensorType
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support.text import assert_same_numbers

SIDE = 32


def twins(*, differ: bool = False, side: int = SIDE) -> Module:
    """matmul, relu, matmul with two weights of equal bytes, or with the last element another one."""
    module = Module("twins")
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(F32, (sym("N"), side)), "x")
    data = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    other = data.copy()
    other[-1, -1] += differ
    b = Builder(graph)
    for key, array in (("a", data), ("b", other)):
        x = b.relu(b.matmul(x, b.weight(module.add_weight(key, ArrayTensor(array), "param").weight)))
    graph.set_outputs([x])
    module.add_signature("serving_default", graph, ["x"], ["y"])
    return module


def shared(module: Module) -> Context:
    return run_pipeline(module, "share-weights")


def test_equal_bytes_are_one_tensor_under_two_names() -> None:
    module = twins()
    before = module.clone()
    assert shared(module).stats["share_weights"] == 1
    a, b = module.weights
    assert (a.key, b.key) == ("a", "b") and a.tensor is b.tensor
    assert before == module
    assert_same_numbers(before, module, exact=True)
    assert not shared(module).stats, "a second run finds nothing"


@pytest.mark.parametrize("module", [twins(differ=True), twins(side=8)], ids=["one element differs", "small"])
def test_what_stays_apart(module: Module) -> None:
    assert not shared(module).stats


def test_a_file_has_the_bytes_once(tmp_path: Path) -> None:
    module = twins()
    one = module.weights["a"].nbytes
    for name, external in (("inside", False), ("beside", True)):
        report = anyir.compile(module, tmp_path / f"{name}.onnx", external_data=external)
        size = sum(Path(f).stat().st_size for f in report.files)
        assert report.verified is not False
        assert one <= size < 1.9 * one if not external else size < one + 20_000


def test_they_train_apart() -> None:
    torch = pytest.importorskip("torch")
    module = twins()
    shared(module)
    net = anyir.to_torch(module)
    a, b = dict(net.named_parameters()).values()
    with torch.no_grad():
        a.add_(1.0)
    assert not torch.equal(a, b)
