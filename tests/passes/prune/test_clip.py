"""`clip`: which weights become zero, and that matrices become smaller for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anyir.api import load, save
from anyir.ir.errors import AnyIRError, UsageError
from anyir.ir.graph import Module
from anyir.kernels.run import run
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support.judge import assert_agrees
from anyir.tests.support.text import module

RNG = np.random.default_rng(3)


def mlp(scale: np.ndarray | None = None) -> Module:
    """[N, 6] -> 10 -> 4, the weights as literals that are params; `scale` [10] makes hidden neurons weak."""
    made = module("(%x: f32[N, 6]) {\n return(%x)\n}")
    from anyir.ir.builder import Builder

    graph = made.main
    b = Builder(graph, before=graph.return_node)
    size = np.ones(10) if scale is None else scale
    w1 = (np.sign(RNG.normal(size=(10, 6))) * RNG.uniform(0.2, 1, (10, 6)) * size[:, None]).astype(np.float32)
    w2 = (np.sign(RNG.normal(size=(4, 10))) * RNG.uniform(0.2, 1, (4, 10)) * size).astype(np.float32)
    values = {"w1": w1, "b1": np.full(10, 1e-6), "w2": w2, "b2": np.full(4, 1e-6)}
    first, bias, second, last = (
        made.add_weight(key, array.astype(np.float32), "param") for key, array in values.items()
    )
    hidden = b.relu(b.gemm(graph.inputs[0], first, bias, transB=True))
    graph.set_outputs([b.gemm(hidden, second, last, transB=True)])
    made.signatures.clear()
    made.add_signature("serving_default", graph, ["x"], ["y"])
    return made


def weights(of: Module) -> dict[str, np.ndarray]:
    return {weight.key: weight.tensor.numpy() for weight in of.used_weights()}


def clipped(of: Module, text: str) -> Context:
    return run_pipeline(of, text)


def test_what_is_small_becomes_zero_and_biases_stay() -> None:
    made = mlp()
    before = weights(made)
    ctx = clipped(made, "clip{threshold=0.5}")
    after = weights(made)
    for key in ("w1", "w2"):
        np.testing.assert_array_equal(after[key], np.where(np.abs(before[key]) < 0.5, 0, before[key]))
    np.testing.assert_array_equal(after["b1"], before["b1"])
    rows = {row["layer"]: row for row in ctx.records}
    assert rows["w1"]["zeros"] == int((after["w1"] == 0).sum()) and rows["w1"]["of"] == 60


def test_without_options_a_thousandth_is_the_limit() -> None:
    made = mlp(np.array([1e-4, *[1.0] * 9]))
    clipped(made, "clip")
    assert (weights(made)["w1"][0] == 0).all() and (weights(made)["w1"][1:] != 0).all()


def test_everything_takes_biases_too() -> None:
    made = mlp()
    clipped(made, "clip{everything=true}")
    assert not weights(made)["b1"].any() and weights(made)["w1"].all()


def test_percentile_by_tensor_and_by_channel() -> None:
    made = mlp(np.linspace(0.1, 3, 10))
    before = weights(made)["w1"]
    clipped(made, "clip{percentile=50}")
    gone = weights(made)["w1"] == 0
    assert gone.sum() == 30 and np.abs(before[gone]).max() < np.abs(before[~gone]).min()
    made = mlp(np.linspace(0.1, 3, 10))
    clipped(made, "clip{percentile=50,per=channel}")
    assert (weights(made)["w1"] == 0).sum(axis=1).tolist() == [3] * 10


def test_relative_to_the_largest_of_its_channel() -> None:
    made = mlp(np.linspace(0.1, 3, 10))
    before = weights(made)["w1"]
    clipped(made, "clip{threshold=0.5,relative=true,per=channel}")
    limit = 0.5 * np.abs(before).max(axis=1, keepdims=True)
    np.testing.assert_array_equal(weights(made)["w1"] == 0, np.abs(before) < limit)


def test_where_selects_layers() -> None:
    made = mlp()
    clipped(made, "clip{threshold=0.5,where='weight=w2'}")
    assert weights(made)["w1"].all() and not weights(made)["w2"].all()
    with pytest.raises(UsageError, match="fits no layer"):
        clipped(made, "clip{where='weight=w9'}")


@pytest.mark.parametrize(
    "options",
    [
        "threshold=0.1,percentile=5",
        "percentile=101",
        "percentile=-1",
        "threshold=-1",
        "per=row",
        "threshold=0.1,per=channel",
    ],
)
def test_options_that_make_no_sense_are_refused(options: str) -> None:
    made = mlp()
    with pytest.raises(UsageError, match="clip"):
        clipped(made, f"clip{{{options}}}")


def test_weights_that_are_no_numbers_are_refused() -> None:
    made = mlp()
    weight = made.weights["w1"]
    array = weight.tensor.numpy().copy()
    array[3, 3] = np.nan
    made.set_weight(weight, array)
    with pytest.raises(UsageError, match="'w1' have NaN"):
        clipped(made, "clip")


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_matrices_shrink_on_disk(tmp_path: Path, suffix: str) -> None:
    """Three of ten neurons are weak; their biases are not zero, and what is constant must not be lost."""
    made = mlp(np.array([1, 1e-5, 1, 1, 1e-5, 1, 1, 1e-5, 1, 1]))
    bias = made.weights["b1"]
    made.set_weight(bias, RNG.uniform(0.5, 1, 10).astype(np.float32))
    reference = made.clone()
    clipped(reference, "clip{threshold=0.01}")
    clipped(made, "clip{threshold=0.01},dead-weights")
    assert sorted(w.tensor.shape for w in made.used_weights()) == [(4,), (4, 7), (7,), (7, 6)]
    save(made, tmp_path / f"net{suffix}")
    again = load(str(tmp_path / f"net{suffix}"))
    shapes = {tuple(w.tensor.shape) for w in again.used_weights()}
    assert (7, 6) in shapes and (4, 7) in shapes and not any(10 in shape for shape in shapes)
    x = RNG.normal(size=(5, 6)).astype(np.float32)
    found = next(iter(run(again, [x]).values()))
    assert_agrees(reference, {"x": x}, {"y": found})


def test_a_model_without_weights_is_left_alone() -> None:
    made = module("(%x: f32[4]) {\n %0 = relu(%x) : f32[4]\n return(%0)\n}")
    clipped(made, "clip")
    assert AnyIRError is not None and len(list(made.main.nodes())) == 1
