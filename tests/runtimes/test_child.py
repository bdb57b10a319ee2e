"""Workers in a child process: arrays of every dtype come back as they are, and every way to fail is one clean error."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from anyir.ir.errors import MissingPackage, SystemFailure
from anyir.runtimes import litert
from anyir.runtimes.child import run_in_child

WORKER = "anyir.tests.support.child_worker"


def test_arrays_travel_both_ways():
    arrays = {
        "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "scalar": np.asarray(7, np.int64),
        "empty": np.zeros((0, 4), bool),
        "half": np.asarray([1.5, -2], ml_dtypes.bfloat16),
        "nibbles": np.asarray([[-8, 7]], ml_dtypes.int4),
        "text": np.asarray(["grün", ""], object),
        "complex": np.asarray([1 + 2j], np.complex64),
    }
    back = run_in_child(WORKER, {"do": "echo"}, arrays, 60)
    assert sorted(back) == sorted(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        assert (back[name] == array).all()


@pytest.mark.parametrize(
    ("do", "error", "text"),
    [
        ("abort", SystemFailure, "SIGABRT"),
        ("exit", SystemFailure, "exit code 3"),
        ("sleep", SystemFailure, "did not finish"),
        ("raise", SystemFailure, "unexpected"),
        ("missing", MissingPackage, "not here"),
    ],
)
def test_failures(do, error, text):
    with pytest.raises(error, match=text):
        run_in_child(WORKER, {"do": do}, {}, 3 if do == "sleep" else 60)


def test_a_file_that_litert_refuses_does_not_spoil_the_others(tmp_path):
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "bad.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    outcomes = litert.run_many([litert.Job(str(tmp_path / "bad.tflite")), litert.Job(str(tmp_path / "absent.tflite"))])
    assert [type(o) for o in outcomes] == [SystemFailure, SystemFailure]
