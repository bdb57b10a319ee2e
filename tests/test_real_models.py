"""Trained models that nobody here made: read, run on the reference kernels, written back, optimised, run by onnxruntime."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.ir.graph import Module
from anyir.ir.parser import parse_module
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.inputs import sample_inputs
from anyir.kernels.run import run
from anyir.passes.manager import run_pipeline
from anyir.passes.presets import preset
from anyir.runtimes import onnxruntime as ort
from anyir.tests.support.models import model_path

#: Two sizes of every dynamic dim. All of ppocr-cls's reshapes assume its own image size but the batch.
SIZES = {
    "mtcnn-pnet": ({"N": 1, "M1": 24, "M2": 31}, {"N": 2, "M1": 40, "M2": 25}),
    "mtcnn-onet": ({"N": 1}, {"N": 3}),
    "ppocr-cls": ({"x_0": 1, "x_2": 48, "x_3": 192}, {"x_0": 2, "x_2": 48, "x_3": 128}),
    "magika": ({"unk__214": 1}, {"unk__214": 3}),
    "basic-pitch": ({"unk__749": 1}, {"unk__749": 2}),
    "open-nsfw": ({"unk__653": 1}, {"unk__653": 2}),
}


@cache
def module_of(name: str) -> Module:
    return frontend.read(model_path(name))


def agree(expected: dict, found: dict, limits: dict) -> None:
    report = compare(expected, found, limits)
    assert report.passed, str(report)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", SIZES)
def test_kernels_and_runtimes_agree(name: str, which: int, tmp_path: Path) -> None:
    """kernels(ours) = onnxruntime(original) = onnxruntime(ours at -O0 and -O2)."""
    path, module = model_path(name), module_of(name)
    feeds = sample_inputs(module, seed=which, sizes=SIZES[name][which])
    truth = run(module, feeds)
    limits = limits_for(module, feeds, exact=truth)
    agree(truth, ort.run(path, feeds), limits)

    backend.write(module, tmp_path / "o0.onnx")
    agree(truth, ort.run(tmp_path / "o0.onnx", feeds), limits)

    optimised = module.clone()
    run_pipeline(optimised, preset(2))
    assert len(optimised.main) <= len(module.main)
    agree(truth, run(optimised, feeds), limits)
    backend.write(optimised, tmp_path / "o2.onnx")
    agree(truth, ort.run(tmp_path / "o2.onnx", feeds), limits)


@pytest.mark.parametrize("opset", [13, 17, 21, 24])
@pytest.mark.parametrize("name", SIZES)
def test_other_opsets(name: str, opset: int, tmp_path: Path) -> None:
    import onnx

    path, module = model_path(name), module_of(name)
    feeds = sample_inputs(module, sizes=SIZES[name][0])
    backend.write(module, tmp_path / "m.onnx", opset=opset)
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    original, ours = ort.run(path, feeds), ort.run(tmp_path / "m.onnx", feeds)
    assert list(original) == list(ours)
    for key in original:
        assert np.allclose(original[key], ours[key], rtol=1e-5, atol=1e-6), key


@pytest.mark.parametrize("name", SIZES)
def test_write_read_write_is_byte_identical(name: str, tmp_path: Path) -> None:
    backend.write(module_of(name), tmp_path / "a.onnx")
    backend.write(frontend.read(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("name", SIZES)
def test_text_round_trip(name: str) -> None:
    module = module_of(name)
    assert parse_module(str(module), weights={w.tensor.digest(): w.tensor for w in module.weights}) == module


@pytest.mark.parametrize("batch", [1, 3])
def test_fer(batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Keras 2 HDF5 file: our reader, without Keras, against Keras itself, and against what we write."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    from anyir.frontends import keras as reader

    path = model_path("fer")
    module = reader.read(path)
    feeds = sample_inputs(module, seed=batch, sizes={"N": batch})
    truth = run(module, feeds)
    limits = limits_for(module, feeds, exact=truth)
    (name,), (array,) = truth, feeds.values()
    live = keras.saving.load_model(path, compile=False)
    agree(truth, {name: np.asarray(live.predict(array, verbose=0))}, limits)
    optimised = module.clone()
    run_pipeline(optimised, preset(2))
    for level, made in enumerate((module, optimised)):
        agree(truth, run(made, feeds), limits)
        backend.write(made, tmp_path / f"o{level}.onnx")
        agree(truth, ort.run(tmp_path / f"o{level}.onnx", feeds), limits)
