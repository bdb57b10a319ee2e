"""Dead weights within a stated bound: certificates hold for what was dropped, and the bound is given out once."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.ir.graph import Module
from anyir.ir.verify import verify
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support.layers import Net, shapes
from anyir.tests.support.text import assert_same_numbers, optimised

RNG = np.random.default_rng(5)


def test_a_bound_takes_what_is_almost_zero_and_says_so() -> None:
    net = Net(4)
    w1 = net.weight("w1", 4, 6).array().copy()
    w1[:, 2] = 1e-7
    h = net.b.relu(net.b.matmul(net.x, net.b.const(w1, key="near", role="param")))
    module = net.done(net.b.matmul(h, net.weight("w2", 6, 2)))
    assert shapes(optimised(module, "dead-weights"))["near"] == (4, 6)
    ctx, made = Context(level=3), module.clone()
    run_pipeline(made, "dead-weights{bound=1e-5}", ctx)
    verify(made)
    assert shapes(made)["near"] == (4, 5) and "(bound 1e-05): 1 near-dead-channel" in ctx.notes[0]


def test_a_certificate_holds_for_what_was_dropped() -> None:
    """A bounded input: the certificate is an absolute number, and no output moves by more."""
    net = Net(8)
    b = net.b
    w1 = net.weight("w1", 8, 6).array().copy()
    w1[:, [2, 5]] *= 1e-7
    h = b.tanh(b.matmul(b.sigmoid(net.x), b.const(w1, key="w", role="param")))
    module = net.done(b.gemm(h, net.weight("w2", 6, 3), net.weight("b2", 3)))
    made, ctx = module.clone(), Context(level=3)
    run_pipeline(made, "dead-weights{bound=1e-5}", ctx)
    (row,) = [r for r in ctx.records if r["kind"] == "certificate"]
    assert shapes(made)["w"] == (8, 4) and 0 < row["error"] <= 1e-5 * row["reach"] and row["unit"] == ""
    x = RNG.standard_normal((500, 8)) * 10
    exact = [_in_float64(m, x) for m in (module, made)]
    moved = np.abs(exact[0] - exact[1]).max()
    rounding = 6 * np.finfo(np.float32).eps * np.abs(exact[0]).max()  # of the bias, where six channels go, to float32
    assert 0 < moved <= row["error"] + rounding


def _in_float64(module: Module, x: np.ndarray) -> np.ndarray:
    w, w2, b2 = (module.weights[key].tensor.numpy().astype(np.float64) for key in _keys(module, "w", "w2", "b2"))
    return np.tanh((1 / (1 + np.exp(-x))) @ w) @ w2 + b2


def _keys(module: Module, *wanted: str) -> list[str]:
    return [next(w.key for w in module.weights if w.wanted == name) for name in wanted]


def almost(number: float, noise: float) -> Module:
    """A neuron that is, but for the noise, a number times another."""
    net = Net(4)
    w1, b1 = net.weight("w1", 4, 6).array().copy(), net.weight("b1", 6).array().copy()
    w1[:, 2], b1[2] = np.float32(number) * w1[:, 4], np.float32(number) * b1[4]
    w1[1, 2] += noise
    h = net.b.relu(net.b.gemm(net.x, net.b.const(w1, key="w", role="param"), net.b.const(b1, key="b", role="param")))
    return net.done(net.b.gemm(h, net.weight("w2", 6, 3), net.weight("b2", 3)))


@pytest.mark.parametrize(("number", "noise", "width"), [(3.3, 0.0, 5), (0.7, 1e-6, 5), (3.3, 1e-2, 6), (-3.3, 0.0, 6)])
def test_a_number_times_another_neuron_goes_within_the_bound(number: float, noise: float, width: int) -> None:
    """Rounding alone keeps it from being a twin; relu makes none of a negative number."""
    module, ctx = almost(number, noise), Context(level=3)
    assert shapes(optimised(module, "dead-weights"))["w"] == (4, 6)
    made = module.clone()
    run_pipeline(made, "dead-weights{bound=1e-5}", ctx)
    verify(made)
    assert shapes(made)["w"] == (4, width)
    told = [row for row in ctx.records if row["kind"] == "certificate"]
    assert bool(told) == (width == 5) and all(row["error"] <= 1e-5 * row["reach"] for row in told)
    x = RNG.standard_normal((400, 4)).astype(np.float32) * 10
    wanted, found = (_through_relu(m, x) for m in (module, made))
    size = {"": 1.0, "x": float(np.abs(x).max())}
    assert (
        np.abs(wanted - found).max()
        <= sum(row["error"] * size[row["unit"]] for row in told) + 6 * np.finfo(np.float32).eps * np.abs(wanted).max()
    )


def _through_relu(module: Module, x: np.ndarray) -> np.ndarray:
    w, b, w2, b2 = (
        module.weights[key].tensor.numpy().astype(np.float64) for key in _keys(module, "w", "b", "w2", "b2")
    )
    return np.maximum(x @ w + b, 0) @ w2 + b2


@pytest.mark.parametrize(("spread", "width"), [(1e-6, 5), (1e-2, 6)])
def test_a_constant_times_a_gate_goes_where_the_gate_hardly_moves(spread: float, width: int) -> None:
    """What the data can make of a squeeze-excite gate, by two layers, in the size of what it gates."""
    net = Net(3, 4, 4)
    b = net.b
    h = b.relu(
        b.conv(
            net.x, net.weight("c1", 6, 3, 1, 1, zero={0: [2]}), b.const(np.ones(6, np.float32), key="b1", role="param")
        )
    )
    gate = net.weight("up", 6, 4, 1, 1).array().copy()
    gate[2] *= spread
    y = b.relu(b.conv(b.global_average_pool(h), net.weight("down", 4, 6, 1, 1)))
    y = b.hard_sigmoid(b.conv(y, b.const(gate, key="gate", role="param"), net.weight("b2", 6)), alpha=1 / 6, beta=0.5)
    module = net.done(b.conv(b.mul(h, y), net.weight("c2", 2, 6, 1, 1), net.weight("b3", 2)))
    made, ctx = module.clone(), Context(level=3)
    run_pipeline(made, "dead-weights{bound=1e-5}", ctx)
    verify(made)
    assert shapes(made)["c1"][0] == shapes(made)["gate"][0] == width
    assert all(row["error"] <= 1e-5 * row["reach"] for row in ctx.records if row["kind"] == "certificate")
    if width == 5:
        assert_same_numbers(module, made, inputs={"x": RNG.standard_normal((2, 3, 4, 4)).astype(np.float32)})


def test_the_bound_is_spent_once_over_all_rounds() -> None:
    """Many channels, each below the bound, are not dropped one round after the other."""
    net = Net(4)
    b = net.b
    w1 = net.weight("w1", 4, 40).array().copy()
    w1[:, 1:] *= 3e-6
    h = b.relu(b.matmul(net.x, b.const(w1, key="w", role="param")))
    module = net.done(b.matmul(h, b.const(np.ones((40, 1), np.float32), key="ones", role="param")))
    made, ctx = module.clone(), Context(level=3)
    run_pipeline(made, "dead-weights{bound=1e-5}", ctx)
    rows = [r for r in ctx.records if r["kind"] == "certificate" and r["unit"]]
    assert 1 < shapes(made)["w"][1] < 40 and sum(r["error"] for r in rows) <= 1e-5 * rows[0]["reach"]
    second, kept = Context(level=3), shapes(made)
    run_pipeline(made, "dead-weights{bound=1e-5}", second)
    assert shapes(made) == kept and not second.records, "a second run has nothing left to give out"
    run_pipeline(made, "dead-weights{bound=3e-5}", Context(level=3))
    assert shapes(made)["w"][1] < kept["w"][1] and made.metadata["dead-weights.bound"] == "3e-05"
