"""Bias correction: means of layers are those of the float model again."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.compress.correct import Few, Mean, float_means
from anyir.compress.data import open_data
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import UsageError
from anyir.ir.graph import Module, Value
from anyir.ir.types import F32, TensorType
from anyir.ir.verify import verify
from anyir.kernels.run import run
from anyir.passes.manager import Context, run_pipeline
from anyir.passes.pipeline import Step


def net(bias: bool = True, dense: str = "gemm") -> Module:
    """Convolutions, one of them depthwise, and a dense layer, on data whose mean is not zero."""
    rng = np.random.default_rng(2)
    module = Module()
    graph = module.add_graph("main")
    b = Builder(graph)
    x = graph.add_input(TensorType(F32, (sym("N"), 3, 10, 10)), "x")

    def weight(key: str, *shape: int) -> Value:
        return b.const((rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32), key=key, role="param")

    y = b.relu(b.conv(x, weight("a", 8, 3, 3, 3), _bias(b, rng, "a.b", bias)))
    y = b.relu(b.conv(y, weight("d", 8, 1, 3, 3), _bias(b, rng, "d.b", bias), groups=8))
    y = b.reshape(b.reduce_mean(y, (2, 3)), (-1, 8))
    if dense == "gemm":
        y = b.gemm(y, weight("w", 8, 5), _bias(b, rng, "w.b", bias, 5))
    else:
        y = b.add(b.matmul(y, weight("w", 8, 5)), _bias(b, rng, "w.b", True, 5))
    graph.set_outputs((y,))
    module.add_signature("s", graph, ["x"], ["y"])
    verify(module)
    return module


def _bias(b: Builder, rng: np.random.Generator, key: str, wanted: bool, size: int = 8) -> Value | None:
    return b.const(rng.standard_normal(size).astype(np.float32), key=key, role="param") if wanted else None


def images(count: int = 16) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (count, 3, 10, 10)).astype(np.float32)


def coarse(module: Module, correct: bool) -> Module:
    """Quantised with one scale per tensor: a shift worth correcting."""
    made = module.clone()
    ctx = Context(data=open_data({"x": images()}, made))
    run_pipeline(made, [Step("quantize", {"per": "tensor", "correct": correct, "observer": "minmax"})], ctx)
    verify(made)
    return made


def shifts(module: Module, made: Module) -> np.ndarray:
    wanted, found = (run(m, {"x": images()})["y"].mean(axis=0, dtype=np.float64) for m in (module, made))
    return np.abs(wanted - found)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dense", ["gemm", "matmul"])
def test_the_outputs_mean_comes_back(bias: bool, dense: str) -> None:
    module = net(bias, dense)
    plain, corrected = coarse(module, False), coarse(module, True)
    step = next(n for n in corrected.main.reversed() if n.name == "quantize").operands[1].scalar()
    assert shifts(module, corrected).max() < step / 2
    assert shifts(module, corrected).sum() < shifts(module, plain).sum()


def test_integer_biases_stay_at_the_product_of_the_scales() -> None:
    made = coarse(net(bias=False), True)
    for node in made.main.nodes("conv", "gemm"):
        data, weight, bias = (v.node for v in node.operands)
        assert bias.operands[0].dtype.name == "i32"
        product = np.broadcast_to(data.operands[1].array() * weight.operands[1].array(), bias.operands[1].shape or ())
        np.testing.assert_array_equal(product, bias.operands[1].array())


def test_alone_the_pass_finds_the_layers_of_the_float_model() -> None:
    module = net()
    made = coarse(module, False)
    ctx = Context(data=open_data({"x": images()}, made), reference=module)
    run_pipeline(made, "correct-bias", ctx)
    verify(made)
    assert ctx.stats["correct-bias"] == 3
    assert not ctx.notes
    expected = coarse(module, True)
    assert shifts(module, made).max() == pytest.approx(shifts(module, expected).max(), abs=1e-3)


def test_alone_without_the_float_model_it_says_so() -> None:
    made = coarse(net(), False)
    with pytest.raises(UsageError, match="as it was in floats") as caught:
        run_pipeline(made, "correct-bias", Context(data=open_data({"x": images()}, made)))
    assert caught.value.code == "R025"
    with pytest.raises(UsageError, match="needs calibration data"):
        run_pipeline(made, "correct-bias", Context(reference=net()))


def test_a_bias_that_is_added_in_floats_is_not_mistaken_for_the_layers() -> None:
    module = net(dense="matmul")
    made = module.clone()
    ctx = Context(data=open_data({"x": images()}, made), reference=module)
    run_pipeline(
        made, [Step("quantize", {"overrides": {"op=add": "float"}, "correct": False}), Step("correct-bias")], ctx
    )
    verify(made)
    inside = module.clone()
    run_pipeline(inside, [Step("quantize", {"overrides": {"op=add": "float"}})], Context(data=ctx.data))
    for corrected in (made, inside):
        assert shifts(module, corrected).max() < 0.1


def test_layers_without_a_counterpart_are_counted() -> None:
    made = coarse(net(), False)
    other = net()
    other.weights["a"].key = other.weights["a"].wanted = "renamed"
    ctx = Context(data=open_data({"x": images()}, made), reference=other)
    run_pipeline(made, "correct-bias", ctx)
    assert ctx.notes == ["correct-bias: 1 layers have no counterpart in the float module and stay as they are"]


def test_means_do_not_depend_on_the_batches() -> None:
    array = np.random.default_rng(1).standard_normal((12, 5, 4))
    whole, parts = Mean(1), Mean(1)
    whole.update(array)
    for part in np.split(array, 4):
        parts.update(part)
    np.testing.assert_allclose(whole.mean, array.mean(axis=(0, 2)), rtol=1e-12)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)


def test_few_takes_the_first_samples() -> None:
    module = net()
    data = open_data({"x": images(16)}, module)
    taken = [batch["x"] for batch in Few(data, 5).batches()]
    np.testing.assert_array_equal(np.concatenate(taken), images(16)[:5])
    node = next(iter(module.main.nodes("conv")))
    (mean,) = float_means(module, {node: node.result}, Few(data, 5)).values()
    seen: list[np.ndarray] = []
    run(module, {"x": images(16)[:5]}, taps={node.result: seen.append})
    np.testing.assert_allclose(mean, seen[0].mean(axis=(0, 2, 3)), rtol=1e-5)
