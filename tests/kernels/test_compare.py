"""The judge is judged: honest float32 arithmetic passes the computed limits, planted faults do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.errors import UsageError
from anyir.ir.graph import Module
from anyir.ir.types import F16, F32, I64, DType, TensorType
from anyir.kernels import registry
from anyir.kernels.compare import Limit, compare, limit_for, limits_for, ulp_distance, widest
from anyir.kernels.run import run

Array = np.ndarray


def module_of(shape: tuple[int, ...], body: Callable[[Builder, Any], Any], dtype: DType = F32) -> Module:
    """A module with one input x and one output y."""
    module = Module()
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(dtype, shape), "x")
    graph.set_outputs([body(Builder(graph), x)])
    module.add_signature("main", graph, ["x"], ["y"])
    return module


RNG = np.random.default_rng(3)
W1 = (RNG.standard_normal((48, 96)) / 7).astype(np.float32)
B1 = RNG.standard_normal(96).astype(np.float32)
W2 = (RNG.standard_normal((96, 10)) / 10).astype(np.float32)
X = RNG.standard_normal((16, 48)).astype(np.float32)


def mlp() -> Module:
    def body(b: Builder, x: Any) -> Any:
        hidden = b.gelu(b.add(b.matmul(x, b.const(W1, key="w1")), b.const(B1, key="b1")))
        normed = b.layer_norm(hidden, b.const(np.ones(96, np.float32), key="s"), axis=-1)
        return b.softmax(b.matmul(normed, b.const(W2, key="w2")), axis=-1)

    return module_of((16, 48), body)


def mlp_in_float32(order: Array | None = None, wrong: str = "") -> Array:
    """The same network in float32 by a torch-free formula, summing in another order; `wrong` plants a fault."""
    from math import erf

    order = np.arange(48) if order is None else order
    h = np.zeros((16, 96), np.float32)
    for k in order:  # one rounding per product and per sum
        h += X[:, k, None] * W1[None, k]
    h = h if wrong == "bias" else h + B1
    if wrong == "tanh":
        g = np.float32(0.5) * h * (1 + np.tanh(np.float32(0.7978845608) * (h + np.float32(0.044715) * h**3)))
    else:
        g = np.float32(0.5) * h * (1 + np.vectorize(erf)(h / np.float32(2**0.5)).astype(np.float32))
    mean = g.mean(axis=-1, keepdims=True, dtype=np.float32)
    ddof = 1 if wrong == "variance" else 0
    var = g.var(axis=-1, keepdims=True, dtype=np.float32, ddof=ddof)
    n = (g - mean) / np.sqrt(var + np.float32(1e-3 if wrong == "epsilon" else 1e-5))
    y = (n.astype(np.float16).astype(np.float32) if wrong == "half" else n) @ W2
    y = np.exp(y - y.max(axis=-1, keepdims=True))
    return (y / y.sum(axis=0 if wrong == "axis" else -1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def judged() -> tuple[dict[str, Array], dict[str, Limit]]:
    return run(mlp(), {"x": X}), limits_for(mlp(), {"x": X})


@pytest.mark.parametrize("seed", range(4))
def test_another_order_of_summation_passes(judged: Any, seed: int) -> None:
    reference, limits = judged
    report = compare(reference, {"y": mlp_in_float32(np.random.default_rng(seed).permutation(48))}, limits)
    assert report.passed, str(report)
    assert not limits["y"].ill_conditioned


@pytest.mark.parametrize("wrong", ["bias", "tanh", "variance", "epsilon", "half", "axis"])
def test_planted_faults_fail(judged: Any, wrong: str) -> None:
    reference, limits = judged
    report = compare(reference, {"y": mlp_in_float32(wrong=wrong)}, limits)
    assert not report.passed, str(report)


PLANTED: dict[str, Callable[[Callable], Callable]] = {
    "gelu": lambda good: lambda x, *, approximate: good(x, approximate="tanh"),
    "matmul": lambda good: lambda a, b: good(a, b) * np.float32(1.0001),
    "add": lambda good: lambda a, b: a + np.float32(0.999) * b,
    "layer_norm": lambda good: lambda x, *rest, **attrs: good(x, *rest, **{**attrs, "epsilon": 1e-4}),
    "softmax": lambda good: lambda x, *, axis: good(x, axis=0),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_wrong_kernels_turn_red(judged: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, limits = judged
    good = registry.get_kernel(name)
    monkeypatch.setitem(registry._KERNELS, name, PLANTED[name](good))
    report = compare(reference, run(mlp(), {"x": X}), limits)
    assert not report.passed, str(report)


def test_movement_is_exact() -> None:
    module = module_of((4, 6), lambda b, x: b.relu(b.transpose(x, perm=(1, 0))))
    assert limit_for(module, "y").atol == 0.0


def test_an_ill_conditioned_graph_gets_a_wide_limit_and_says_so() -> None:
    module = module_of((64,), lambda b, x: b.sub(b.add(b.exp(x), np.float32(1e6)), np.float32(1e6)))
    x = RNG.standard_normal(64).astype(np.float32)
    limit = limits_for(module, {"x": x})["y"]
    assert limit.ill_conditioned and 0.05 < limit.atol < 10
    well = module_of((64,), lambda b, x: b.add(b.exp(x), np.float32(1.0)))
    assert not limits_for(well, {"x": x})["y"].ill_conditioned


def test_whole_numbers_stay_exact() -> None:
    """1 - mask is exactly 0 where the mask is 1: times the lowest float it must not become a huge bias that rounding moved."""
    mask = np.array([1, 1, 1, 0], np.float32)

    def body(b: Builder, x: Any) -> Any:
        bias = b.mul(b.sub(np.float32(1.0), b.const(mask, key="mask")), np.finfo(np.float32).min)
        return b.softmax(b.add(x, bias), axis=-1)

    x = RNG.standard_normal((3, 4)).astype(np.float32)
    limit = limits_for(module_of((3, 4), body), {"x": x})["y"]
    assert not limit.ill_conditioned and limit.atol < 1e-4


def test_a_sigmoid_by_way_of_tanh_passes() -> None:
    """Common libraries are off by units of 1/2 where the result is all but zero."""
    module = module_of((64,), lambda b, x: b.sigmoid(x))
    x = np.linspace(-20, -14, 64, dtype=np.float32)
    by_tanh = (np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))).astype(np.float32)
    reference, limits = run(module, {"x": x}), limits_for(module, {"x": x})
    assert compare(reference, {"y": by_tanh}, limits).passed
    assert not compare(reference, {"y": by_tanh + np.float32(1e-5)}, limits).passed


def test_a_long_sum_of_one_sign_in_float32_passes() -> None:
    """Small terms lose digits in a running sum that is large already; in 16 lanes, as vector units sum."""
    module = module_of((1, 20000), lambda b, x: b.softmax(x, axis=-1))
    x = RNG.standard_normal((1, 20000)).astype(np.float32)
    x[0, 0] = 17.0
    e = np.exp(x - x.max())
    lanes = np.zeros(16, np.float32)
    for row in e.reshape(-1, 16):
        lanes += row
    total = lanes.sum(dtype=np.float32)
    reference, limits = run(module, {"x": x}), limits_for(module, {"x": x})
    assert compare(reference, {"y": e / total}, limits).passed
    assert not compare(reference, {"y": e / (total + e[0, 1:].sum())}, limits).passed


def test_the_limit_grows_with_the_reduction_and_with_the_dtype() -> None:
    def product(k: int, dtype: DType) -> float:
        w = np.random.default_rng(0).standard_normal((k, 8)).astype(dtype.numpy)
        module = module_of((8, k), lambda b, x: b.matmul(x, b.const(w, key="w")), dtype)
        x = np.random.default_rng(1).standard_normal((8, k)).astype(dtype.numpy)
        return limits_for(module, {"x": x})["y"].atol

    assert product(16, F32) < product(1024, F32) < 1e-2
    assert product(16, F16) > 1000 * product(16, F32)


def test_limits_are_deterministic() -> None:
    assert limits_for(mlp(), {"x": X}) == limits_for(mlp(), {"x": X})


def test_integer_outputs_have_no_tolerance() -> None:
    module = module_of((4, 9), lambda b, x: b.arg_max(b.mul(x, x), axis=1))
    x = RNG.standard_normal((4, 9)).astype(np.float32)
    limits, reference = limits_for(module, {"x": x}), run(module, {"x": x})
    assert limits["y"].atol == 0.0
    assert compare(reference, reference, limits).passed
    off = {"y": reference["y"] + np.array([0, 0, 1, 0]).reshape(reference["y"].shape)}
    (row,) = compare(reference, off, limits).rows
    assert (row.verdict, row.index, row.max_abs) == ("FAIL", (2, 0), 1.0)


def test_regions_count() -> None:
    module = Module()
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(F32, (32,)), "x")
    body = module.new_region("body")
    _, going, state = (
        body.add_input(t) for t in (TensorType(I64, ()), TensorType(DType.of(bool), ()), TensorType(F32, (32,)))
    )
    inner = Builder(body)
    body.set_outputs([going, inner.mul(inner.sin(state), np.float32(1.7))])
    (y,) = Builder(graph).call("loop", [5, None, x], {"carried": 1}, [body]).results
    graph.set_outputs([y])
    module.add_signature("main", graph, ["x"], ["y"])
    values = RNG.standard_normal(32).astype(np.float32)
    wanted = values
    for _ in range(5):
        wanted = np.sin(wanted) * np.float32(1.7)
    limits = limits_for(module, {"x": values})
    assert limits["y"].atol > 0
    assert compare(run(module, {"x": values}), {"y": wanted}, limits).passed


def test_special_values_must_meet_their_kind() -> None:
    a = np.array([1.0, np.nan, np.inf, -np.inf], np.float32)
    assert compare({"y": a}, {"y": a.copy()}, 1e-3).passed
    for i, other in ((0, np.nan), (1, 0.0), (2, np.nan), (3, np.inf)):
        b = a.copy()
        b[i] = other
        (row,) = compare({"y": a}, {"y": b}, 1e9).rows
        assert not row.passed and row.index == (i,) and np.isinf(row.needed)


def test_a_row_says_where_and_how_much() -> None:
    a = np.zeros((2, 3), np.float32)
    b = a.copy()
    b[1, 2] = 0.25
    (row,) = compare({"y": a}, {"y": b}, {"y": 0.1}).rows
    assert (row.index, row.max_abs, row.needed, row.limit) == ((1, 2), 0.25, 0.25, 0.1)
    assert row.mean_abs == pytest.approx(0.25 / 6)
    assert row.argmax == (1, 2)
    assert "FAIL at [1, 2]" in str(row) and "would pass with 2.5e-01" in str(row)
    assert compare({"y": a}, {"y": b}, {"y": row.needed}).passed


def test_mismatched_outputs_are_refused() -> None:
    a = np.zeros((2, 3), np.float32)
    assert not compare({"y": a}, {}, 1.0).passed
    assert not compare({"y": a}, {"y": a, "z": a}, 1.0).passed
    assert not compare({"y": a}, {"y": a.T.copy()}, 1.0).passed
    assert not compare({"y": a}, {"y": a.astype(np.float64)}, 1.0).passed
    assert not compare({"y": a}, {"y": a + np.float32(1e-7)}).passed
    assert compare({"s": np.array(["a"], object)}, {"s": np.array(["a"], object)}).passed


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_ulps(dtype: Any) -> None:
    eps = float(ml_dtypes.finfo(dtype).eps)
    a = np.array([1.0, 1.5, 0.0, -2.0], dtype)
    b = np.array([1.0 + eps, 1.5 - 3 * eps, 0.0, -2.0], dtype)
    assert ulp_distance(a, b).tolist() == [1.0, 3.0, 0.0, 0.0]


def test_widest_and_unknown_outputs() -> None:
    assert widest({"y": Limit(1.0)}, {"y": Limit(2.0)}) == {"y": Limit(2.0)}
    with pytest.raises(UsageError, match="no output"):
        limit_for(mlp(), "z", {"x": X})


def test_reports_are_plain_data() -> None:
    import json

    report = compare({"y": X, "i": np.arange(3)}, {"y": X, "i": np.arange(3)}, 1e-6)
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["passed"] is True
    broken = compare({"y": X}, {"y": np.full_like(X, np.nan)}, 1e-6)
    assert json.loads(json.dumps(broken.as_dict(), allow_nan=False))["outputs"][0]["needed"] is None
    assert "max|d|" in str(report)
