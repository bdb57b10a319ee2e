"""`irc` on trained models: each compiles, verified, to ONNX and to TFLite (or is refused in one line), is shown, and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from anyir.tests.support.model_cases import CASES, source

pytest.importorskip("onnxruntime")

#: These cover control flow, recurrence, quantisation, ai.onnx.ml and open dims in a second or two each; the others are slow.
QUICK = {
    "mtcnn-pnet",
    "silero-vad",
    "eeg-lstm",
    "surfaces-gbr",
    "tashkeel-bilstm",
    "romanizer-decoder",
    "made-control-flow",
}
NAMES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in CASES]
every_model = pytest.mark.parametrize("name", NAMES)

#: What TFLite cannot say, by a part of the refusal that names it.
REFUSED = {"made-detector": "non_max_suppression"}


@pytest.mark.parametrize("level", [0, 2])
@every_model
def test_onnx_to_onnx(irc: Any, name: str, level: int, tmp_path: Path) -> None:
    done = irc("compile", source(name, tmp_path), "-o", "out.onnx", f"-O{level}")
    assert done.code == 0, done.err
    assert "verified by reference kernels and onnxruntime" in done.out
    assert "Traceback" not in done.err


@every_model
def test_onnx_to_tflite(irc: Any, name: str, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    done = irc("compile", source(name, tmp_path), "-o", "out.tflite")
    if name in REFUSED:
        assert done.code == 3 and REFUSED[name] in done.err
        assert not (tmp_path / "out.tflite").exists()
        return
    assert done.code == 0, done.err
    assert "verified by reference kernels and litert" in done.out


@every_model
def test_shown_and_run(irc: Any, name: str, tmp_path: Path) -> None:
    path = source(name, tmp_path)
    shown = irc("inspect", path)
    assert shown.code == 0, shown.err
    done = irc("run", path)
    assert done.code == 0, done.err
    for text in (shown, done):
        assert "Traceback" not in text.err and "Warning" not in text.err
