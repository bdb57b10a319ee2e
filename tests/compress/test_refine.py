"""All cut layers fitted together: what it wins on inputs that it has not seen, and when it leaves everything as it is."""

from __future__ import annotations

import anyir.compress.refine as refine
import numpy as np
import pytest
from anyir.compress import images
from anyir.compress.data import open_data
from anyir.ir.builder import Builder
from anyir.ir.graph import Module
from anyir.kernels.run import run
from anyir.passes.manager import Context, run_pipeline
from anyir.tests.support.text import module

SAMPLES = 512


def built(make, shape: str = "N, 8") -> Module:
    """A net of random weights that `make` builds of its input and weights by shape."""
    rng = np.random.default_rng(4)
    made = module(f"(%x: f32[{shape}]) {{\n return(%x)\n}}")
    b = Builder(made.main, before=made.main.return_node)

    def weight(*dims: int):
        array = rng.normal(size=dims).astype(np.float32) / np.float32(np.sqrt(np.prod(dims[1:])))
        return made.add_weight(f"w{len(made.weights)}", array, "param")

    made.main.set_outputs([make(b, made.main.inputs[0], weight)])
    made.signatures.clear()
    made.add_signature("serving_default", made.main, ["x"], ["y"])
    return made


def _dense(b, x, w):
    x = b.relu(b.gemm(x, w(24, 8), w(24), transB=True))
    x = b.relu(b.gemm(x, w(24, 24), w(24), transB=True))
    return b.gemm(x, w(3, 24), w(3), transB=True)


def _probabilities(b, x, w):
    return b.softmax(_dense(b, x, w), axis=-1)


def _without_derivative(b, x, w):
    return b.gemm(b.mod(b.gemm(x, w(24, 8), w(24), transB=True), 2.0, fmod=True), w(3, 24), transB=True)


def _product(b, x, w):
    x = b.relu(b.add(b.matmul(x, w(8, 24)), w(24)))
    return b.matmul(b.relu(b.add(b.matmul(x, w(24, 24)), w(24))), w(24, 3))


def _conv(b, x, w):
    x = b.relu6(b.conv(x, w(12, 1, 3, 3), w(12), pads=(1, 1, 1, 1)))
    x = b.relu(b.conv(x, w(12, 12, 3, 3), w(12), strides=(2, 2), pads=(1, 1, 1, 1)))
    return b.gemm(b.reduce_mean(x, (2, 3), keepdims=False), w(3, 12), w(3), transB=True)


def _mean(b, x, w):
    """One number for all samples."""
    return b.reduce_mean(_dense(b, x, w), (0, 1), keepdims=False)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine, "STEPS", 60)


NETS = {
    "dense": (_dense, "N, 8"),
    "probabilities": (_probabilities, "N, 8"),
    "product": (_product, "N, 8"),
    "conv": (_conv, "N, 1, 8, 8"),
}


def pruned(dense: Module, samples: int = SAMPLES) -> tuple[Module, Context]:
    made = dense.clone()
    size = tuple(int(d) for d in dense.main.inputs[0].shape[1:])
    x = np.random.default_rng(0).normal(size=(samples, *size)).astype(np.float32)
    ctx = Context(data=open_data({"x": x}, dense))
    run_pipeline(made, "prune{ratio=0.5,importance=obs}", ctx)
    return made, ctx


def rows(ctx: Context) -> list[dict]:
    return [row for row in ctx.records if row["pass"] == "refine"]


def error(dense: Module, made: Module) -> float:
    size = tuple(int(d) for d in dense.main.inputs[0].shape[1:])
    x = np.random.default_rng(9).normal(size=(400, *size)).astype(np.float32)
    want, have = (run(m, {"x": x})["y"].astype(np.float64) for m in (dense, made))
    return float(np.square(want - have).sum() / np.square(want - want.mean(axis=0)).sum())


@pytest.mark.parametrize("name", NETS)
def test_together_the_layers_lose_less_than_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = built(*NETS[name])
    together, ctx = pruned(dense)
    (row,) = rows(ctx)
    assert row["error_after"] < row["error_before"]
    assert any("fitted together" in note for note in ctx.notes)
    again, _ = pruned(dense)
    weights = [{w.key: w.tensor.numpy() for w in m.used_weights()} for m in (together, again)]
    assert all(np.array_equal(weights[0][key], weights[1][key]) for key in weights[0])
    monkeypatch.setattr(refine, "STEPS", 0)
    apart, ctx = pruned(dense)
    assert not rows(ctx)
    assert [w.tensor.shape for w in apart.used_weights()] == [w.tensor.shape for w in together.used_weights()]
    assert error(dense, together) < error(dense, apart)


def test_what_has_no_derivative_is_named_and_stays() -> None:
    made, ctx = pruned(built(_without_derivative))
    assert not rows(ctx)
    assert any("not fitted together" in note and "mod" in note for note in ctx.notes)


def test_an_output_without_a_row_for_each_sample_is_told_and_nothing_changes() -> None:
    made, ctx = pruned(built(_mean))
    assert not rows(ctx) and any("not fitted together" in note and "rows" in note for note in ctx.notes)


@pytest.mark.parametrize(("shape", "samples"), [("N, 8", 100), ("512, 8", 512)])
def test_few_samples_and_a_fixed_number_of_them_are_left_to_least_squares(shape: str, samples: int) -> None:
    _, ctx = pruned(built(_dense, shape), samples)
    assert not rows(ctx) and any(row["pass"] == "recover" for row in ctx.records)


def test_a_large_model_has_no_budget_for_it() -> None:
    assert refine._steps(1024, 7.5e6, 1.9e6) == refine.STEPS
    assert refine._steps(200, 0.39e9, 0.31e9) < refine.LEAST
    assert refine._steps(100, 1e3, 1e3) < refine.LEAST


def test_what_does_harm_on_samples_that_judge_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = built(_dense)
    with monkeypatch.context() as patch:
        patch.setattr(refine, "STEPS", 0)
        before, _ = pruned(dense)
    monkeypatch.setattr(refine, "RATE", 50.0)
    made, ctx = pruned(dense)
    (row,) = rows(ctx)
    assert row["error_after"] > row["error_before"]
    for weight in before.used_weights():
        np.testing.assert_array_equal(made.weights[weight.key].tensor.numpy(), weight.tensor.numpy())


@pytest.mark.parametrize("last", [False, True])
def test_images_are_shifted_and_their_edges_repeated(last: bool) -> None:
    image = np.arange(2 * 16 * 16, dtype=np.float32).reshape(2, 1, 16, 16)
    given = image.transpose(0, 2, 3, 1) if last else image
    axis = images.image_axis(given)
    moved = images.shifted(given, axis, np.array([[1, 0], [0, -1]]))
    moved = moved.transpose(0, 3, 1, 2) if last else moved
    np.testing.assert_array_equal(moved[0, 0, 1:], image[0, 0, :-1])
    np.testing.assert_array_equal(moved[0, 0, 0], image[0, 0, 0])
    np.testing.assert_array_equal(moved[1, 0, :, :-1], image[1, 0, :, 1:])
    assert len(refine._varied({"x": given}, np.random.default_rng(0))["x"]) == 2 * refine.VERSIONS


def test_what_is_no_image_is_not_shifted() -> None:
    for shape in ((4, 30), (4, 5, 20, 20), (4, 1, 8, 8)):
        array = np.random.default_rng(0).normal(size=shape)
        assert refine._varied({"x": array}, np.random.default_rng(0))["x"].shape == shape
