"""Batch norm and per-channel scale and shift go into the weights before them; numbers stay within the limits."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module, Value
from anyir.ir.tensor import LazyTensor
from anyir.ir.types import F16, F32, F64, DType, TensorType
from anyir.ir.verify import verify
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support.text import assert_same_numbers, ops, optimised

RNG = np.random.default_rng(2)


def start(*shape: int, dtype: DType = F32) -> tuple[Builder, Value]:
    module = Module()
    graph = module.add_graph("main")
    return Builder(graph), graph.add_input(TensorType(dtype, (sym("N"), *shape)), "x")


def weight(b: Builder, key: str, *shape: int, dtype: DType = F32, positive: bool = False) -> Value:
    data = RNG.standard_normal(shape)
    return b.const((np.abs(data) + 0.1 if positive else data).astype(dtype.numpy), key=key, role="param")


def batch_norm(b: Builder, x: Value, channels: int, dtype: DType = F32, epsilon: float = 1e-3) -> Value:
    named = [weight(b, f"bn.{k}", channels, dtype=dtype, positive=k == "var") for k in ("scale", "bias", "mean", "var")]
    return b.batch_norm(x, *named, epsilon=epsilon)


def finish(b: Builder, *outputs: Value) -> Module:
    b.graph.set_outputs(outputs)
    b.module.add_signature("s", b.graph, ["x"], [f"y{i}" for i in range(len(outputs))])
    verify(b.module)
    return b.module


def folded(module: Module, expected: list[str]) -> Module:
    made = optimised(module, "fold-batch-norm,dce")
    assert ops(made) == expected
    assert_same_numbers(module, made)
    return made


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [F16, F32, F64])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv(bias: bool, dtype: DType, groups: int) -> None:
    b, x = start(4, 5, 5, dtype=dtype)
    w = weight(b, "w", 8, 4 // groups, 3, 3, dtype=dtype)
    y = b.conv(x, w, weight(b, "b", 8, dtype=dtype) if bias else None, groups=groups, strides=(2, 1), pads=(1, 0, 1, 2))
    made = folded(finish(b, batch_norm(b, y, 8, dtype)), ["conv"])
    assert {w.wanted for w in made.weights} == {"w", "b" if bias else "w.bias"}
    assert {w.role for w in made.weights} == {"param"}


@pytest.mark.parametrize("shape", [(3, 9), (3, 4, 4, 4)])
def test_conv_in_one_and_three_dimensions(shape: tuple[int, ...]) -> None:
    b, x = start(*shape)
    y = b.conv(x, weight(b, "w", 5, 3, *[2] * (len(shape) - 1)))
    folded(finish(b, batch_norm(b, y, 5)), ["conv"])


@pytest.mark.parametrize("groups", [1, 2])
def test_conv_transpose(groups: int) -> None:
    b, x = start(4, 5, 5)
    y = b.conv_transpose(x, weight(b, "w", 4, 3, 3, 3), groups=groups, strides=(2, 2))
    folded(finish(b, batch_norm(b, y, 3 * groups)), ["conv_transpose"])


@pytest.mark.parametrize("transposed", [True, False])
def test_gemm_and_matmul(transposed: bool) -> None:
    b, x = start(4)
    w = weight(b, "w", *((6, 4) if transposed else (4, 6)))
    y = b.gemm(x, w, weight(b, "b", 6), transB=transposed, beta=0.5)
    folded(finish(b, batch_norm(b, y, 6)), ["gemm"])
    b, x = start(4)
    folded(finish(b, batch_norm(b, b.matmul(x, weight(b, "w", 4, 6)), 6)), ["gemm"])


def test_a_chain_of_norm_scale_and_shift() -> None:
    b, x = start(3, 5, 5)
    y = batch_norm(b, b.conv(x, weight(b, "w", 4, 3, 1, 1)), 4)
    y = b.add(b.mul(y, weight(b, "s", 4, 1, 1)), weight(b, "t", 1, 4, 1, 1))
    folded(finish(b, b.relu(b.mul(y, 2.0))), ["conv", "relu"])


def test_a_factor_of_exactly_one_does_not_bring_the_wrong_vector() -> None:
    """scale = var = 1, epsilon = 0: the factor is one, and the shift is the bias minus the mean, not the scale."""
    b, x = start(1, 2, 2)
    values = {"scale": [1, 1], "bias": [3, 4], "mean": [0.5, 0.25], "var": [1, 1]}
    named = [b.const(np.array(v, np.float32), key=k, role="param") for k, v in values.items()]
    y = b.batch_norm(b.conv(x, weight(b, "w", 2, 1, 1, 1)), *named, epsilon=0.0)
    folded(finish(b, y), ["conv"])


def test_a_bias_that_only_moves_stays_the_same_weight() -> None:
    b, x = start(4)
    bias = weight(b, "dense.bias", 6)
    module = finish(b, b.add(b.matmul(x, weight(b, "dense.weight", 4, 6)), bias))
    made = folded(module, ["gemm"])
    assert sorted(w.key for w in made.weights) == ["dense.bias", "dense.weight"]
    assert made.weights["dense.bias"].tensor is bias.weight.tensor


def test_shared_weights_are_not_scaled_for_the_other_user() -> None:
    b, x = start(3, 4, 4)
    w = weight(b, "w", 3, 3, 1, 1)
    module = finish(b, batch_norm(b, b.conv(x, w), 3), b.conv(x, w))
    made = folded(module, ["conv", "conv"])
    assert len({n.operands[1] for n in made.main.nodes()}) == 2


def test_what_is_used_elsewhere_stays() -> None:
    b, x = start(3, 4, 4)
    y = b.conv(x, weight(b, "w", 3, 3, 1, 1))
    folded(finish(b, batch_norm(b, y, 3), y), ["conv", "batch_norm"])


@pytest.mark.parametrize(
    "case", ["computed bias", "computed weight", "spatial scale", "rank 3", "infinite", "integers"]
)
def test_what_does_not_fit_stays(case: str) -> None:
    b, x = start(3, 4, 4)
    w = weight(b, "w", 3, 3, 1, 1)
    if case == "computed bias":
        y = batch_norm(b, b.conv(x, w, b.reduce_sum(x, (0, 2, 3), keepdims=False)), 3)
    elif case == "computed weight":
        y = b.mul(b.conv(x, b.mul(w, b.reduce_max(x, (0, 1, 2, 3), keepdims=False))), 2.0)
    elif case == "spatial scale":
        y = b.mul(b.conv(x, w), weight(b, "s", 4, 4))
    elif case == "rank 3":
        y = b.add(b.matmul(b.reshape(x, (-1, 3, 16)), weight(b, "v", 16, 2)), weight(b, "c", 2))
    elif case == "infinite":
        y = b.mul(b.conv(x, w), b.const(np.array([1, np.inf, 2], np.float32).reshape(1, 3, 1, 1)))
    else:
        y = b.mul(b.matmul(b.cast(b.flatten(x, axis=1), to=b.const(1).dtype), b.const(np.ones((48, 2), np.int64))), 2)
    module = finish(b, y)
    assert ops(optimised(module, "fold-batch-norm")) == ops(module)


def test_large_weights_are_scaled_when_they_are_written() -> None:
    b, x = start(600)
    y = b.mul(b.matmul(x, weight(b, "w", 600, 600)), weight(b, "s", 600))
    made = folded(finish(b, y), ["matmul"])
    assert isinstance(made.weights["w"].tensor, LazyTensor)


def test_exact_levels_do_not_fold() -> None:
    b, x = start(3, 4, 4)
    module = finish(b, batch_norm(b, b.conv(x, weight(b, "w", 3, 3, 1, 1)), 3))
    run_pipeline(module, "fold-batch-norm", Context(level=1))
    assert ops(module) == ["conv", "batch_norm"]
