"""What docs/distill.md and the example show is what happens."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyir
import numpy as np
import pytest
from anyir.driver.cli import VERBS, cli, run
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run as run_kernels
from anyir.tests.support.distillation import accuracy, mlp, points

ROOT = Path(anyir.__file__).parent
TEXT = (ROOT / "docs/distill.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    anyir.save(mlp((4, 24, 3), 1), "teacher.onnx")
    anyir.save(mlp((4, 8, 3), 2), "student.anyir")
    for name, count, seed in (("train", 320, 0), ("test", 100, 1)):
        x, y = points(count, seed)
        np.savez(f"{name}.npz", x=x, labels=y)
    return tmp_path


def test_the_command(folder: Path) -> None:
    (body,) = re.findall(r"```sh\nirc (.*?)\n```", TEXT)
    assert run(body.split()) == 0 and Path("tuned.onnx").exists()


def test_the_function(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(SNIPPETS[0], {})
    assert "accuracy" in capsys.readouterr().out
    x = points(20, 3)[0]
    one, two = (anyir.load(name) for name in ("tuned.onnx", "tuned.tflite"))
    report = compare(run_kernels(one, [x]), run_kernels(two, [x]), limits_for(one, [x]))
    assert report.passed, str(report)


def test_ones_own_loop(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(SNIPPETS[1], names)
    assert capsys.readouterr().out == "4 taken, 0 missing, 0 unexpected\n"
    x, y = points(100, 1)
    assert accuracy(anyir.load("own.onnx"), x, y) > accuracy(anyir.load("student.anyir"), x, y) + 0.1
    before = {w.key: w.tensor.digest() for w in names["module"].weights}
    exec(SNIPPETS[2], names)
    assert {w.key: w.tensor.digest() for w in names["module"].weights} == before, "nothing was trained in between"


def test_losses_and_options_are_documented() -> None:
    from anyir.compress.distill.options import LOSSES, OPTIMIZERS, SCHEDULES

    for name in (*LOSSES, *OPTIMIZERS, *SCHEDULES):
        assert f"`{name}" in TEXT, name
    assert "distill" in VERBS
    known = {o for p in cli.get_command(None, "distill").params for o in p.opts}  # type: ignore[arg-type, union-attr]
    assert {word for word in re.findall(r"--[a-z][a-z-]+", TEXT) if word not in ("--preprocess", "--quantize")} <= known


def example(name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made.main


@pytest.mark.parametrize(
    "size",
    [
        {"samples": 100, "epochs": 1, "width": 8},
        pytest.param({"samples": 160, "epochs": 1, "width": 64}, marks=pytest.mark.slow),
    ],
)
def test_resnet18_teaches_a_smaller_one(size: dict[str, int], tmp_path: Path) -> None:
    """The example, on random images: it learns from the loader, and the file is a network of half the width."""
    report = example("distill_resnet18")(os.fspath(tmp_path / "student.onnx"), **size)
    assert report.steps == -(-report.samples // 64) and report.written.verified
    assert report.epochs[-1]["loss"] != report.epochs[0]["loss"]
    student = anyir.load(os.fspath(tmp_path / "student.onnx"))
    shapes = [w.tensor.shape for w in student.weights if len(w.tensor.shape) == 4]
    assert max(shape[0] for shape in shapes) == size["width"] * 4
