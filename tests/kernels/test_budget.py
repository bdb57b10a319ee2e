"""What a run may cost: memory and work are refused before they are spent, and given back."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import LimitExceeded
from anyir.ir.graph import Module
from anyir.ir.storage import limits
from anyir.ir.types import F32, I64, TensorType
from anyir.kernels import jit
from anyir.kernels.budget import Budget, OverBudget, spending
from anyir.kernels.inputs import sample_inputs
from anyir.kernels.run import run


def module(type_: TensorType, build) -> Module:
    made = Module("m")
    graph = made.add_graph("main")
    x = graph.add_input(type_, "x")
    graph.set_outputs([build(Builder(graph), x)])
    made.add_signature("serving_default", graph, inputs=["x"], outputs=["y"])
    return made


FLOATS = TensorType(F32, (4, 8))
HUGE = {
    "constant_of_shape": (
        TensorType(I64, (2,)),
        lambda b, x: b.constant_of_shape(x, value=1.0, to=F32),
        [1 << 20, 1 << 20],
    ),
    "expand": (TensorType(I64, (1,)), lambda b, x: b.expand(1.0, x), [1 << 40]),
    "tile": (TensorType(I64, (1,)), lambda b, x: b.tile(np.ones(3, np.float32), x), [1 << 40]),
    "range": (TensorType(I64, ()), lambda b, x: b.range(0, x, 1), 1 << 40),
    "range of floats": (TensorType(F32, ()), lambda b, x: b.range(0.0, x, 1.0), 1e12),
    "pad": (TensorType(I64, (2,)), lambda b, x: b.pad(np.ones(3, np.float32), x), [1 << 40, 0]),
}


@pytest.mark.parametrize("name", HUGE)
def test_sizes_are_checked_before_memory_is_taken(name: str) -> None:
    type_, build, value = HUGE[name]
    made = module(type_, build)
    with spending(Budget(10**15, 1 << 20)) as budget, pytest.raises(OverBudget, match="bytes at a time"):
        run(made, [np.array(value, type_.dtype.numpy)])
    assert budget.live == 0


def test_an_outer_product_is_refused() -> None:
    n = 1 << 21
    made = module(TensorType(F32, (n, 1)), lambda b, x: b.add(x, b.reshape(x, (1, n))))
    with spending(Budget.for_models(made)), pytest.raises(OverBudget, match="--limit run-bytes"):
        run(made, [np.zeros((n, 1), np.float32)])


def test_a_loop_without_end() -> None:
    from anyir.frontends.onnx import read
    from anyir.tests.security.corpus_onnx import _loops

    endless = read(_loops(1 << 40, 1))
    with (
        limits(run_work=10**9),
        spending(Budget.for_models(endless)),
        pytest.raises(OverBudget, match="--limit run-work"),
    ):
        run(endless, sample_inputs(endless))


def test_memory_is_given_back() -> None:
    made = module(FLOATS, lambda b, x: b.neg(b.neg(b.neg(b.neg(x)))))
    x = np.ones((4, 8), np.float32)
    with spending(Budget(10**12, 2 * x.nbytes)) as budget:
        for _ in range(5):
            run(made, [x])
    assert budget.live == 0
    assert budget.done > 0
    with spending(Budget(10**12, 2 * x.nbytes - 1)), pytest.raises(OverBudget):
        run(made, [x])


def test_a_larger_model_may_cost_more() -> None:
    made = module(TensorType(F32, (2, 256)), lambda b, x: b.matmul(x, np.ones((256, 256), np.float32)))
    small = module(FLOATS, lambda b, x: b.neg(x))
    assert Budget.for_models(made).work > Budget.for_models(small).work
    assert Budget.for_models(made, small).nbytes > Budget.for_models(small).nbytes


def test_samples_are_checked_too() -> None:
    made = module(TensorType(F32, (1 << 20, 1 << 10)), lambda b, x: b.neg(x))
    with spending(Budget.for_models(made)), pytest.raises(LimitExceeded):
        sample_inputs(made)


def test_without_a_budget_nothing_is_counted() -> None:
    made = module(TensorType(F32, (sym("N"), 8)), lambda b, x: b.neg(x))
    assert run(made, [np.ones((3, 8), np.float32)])["y"].shape == (3, 8)


def test_small_work_is_done_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "UNCOMPILED_STEPS", 10)
    calls = []

    @jit.jit(lambda x: x.size)
    def double(x):
        for i in range(x.size):
            x[i] *= 2

    monkeypatch.setattr(double, "compiled", lambda: calls.append(1) or double.py_func)
    x = np.ones(4)
    for _ in range(4):
        double(x)
    assert (len(calls), x[0]) == (2, 16)
