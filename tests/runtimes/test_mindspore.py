"""The MindSpore runner: clean errors for what it refuses, and a crash that takes down only its own job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anyir.backends import mindir as backend
from anyir.backends.mindir import registry
from anyir.backends.mindir.arity import ARITY
from anyir.ir.builder import Builder
from anyir.ir.errors import AnyIRError, InvalidModel, SystemFailure
from anyir.ir.graph import Module
from anyir.ir.types import F32, TensorType
from anyir.runtimes import mindspore as runtime

pytestmark = pytest.mark.skipif(runtime.available() is None, reason="MindSpore is not installed")

X = np.float32([[-1, 2]])


def relu(path: Path) -> Path:
    module = Module()
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(F32, (1, 2)), "x")
    graph.set_outputs([Builder(graph).relu(x)])
    module.add_signature("serving_default", graph, ["x"], ["y"])
    backend.write(module, path)
    return path


def test_a_crash_stays_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = relu(tmp_path / "good.mindir")
    row = registry.ROWS["relu"]
    monkeypatch.setitem(registry.ROWS, "relu", row._replace(emit=lambda n: registry.Call("Softmax", n.operands)))
    monkeypatch.setitem(ARITY, "Softmax", 1)
    bad = relu(tmp_path / "bad.mindir")
    jobs = [runtime.Job(str(path), {"x": X}) for path in (good, bad, good)]
    first, crashed, last = runtime.run_many(jobs)
    assert isinstance(crashed, SystemFailure) and "bad.mindir" in str(crashed)
    for found in (first, last):
        assert not isinstance(found, AnyIRError) and (found["y"] == [[0, 2]]).all()


def test_inputs_must_be_the_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"inputs \['z'\] given, \['x'\] expected"):
        runtime.run(relu(tmp_path / "m.mindir"), {"z": X})


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.mindir").write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(AnyIRError):
        runtime.run(tmp_path / "m.mindir", {"x": X})
