"""`irc distill`: the command, its screens and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyir
import numpy as np
import pytest
from anyir.kernels.run import run
from anyir.tests.support.distillation import accuracy, mlp, points


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Teacher and student as IR text, data as .npz, in the current folder."""
    anyir.save(mlp((4, 24, 3), 1), tmp_path / "teacher.anyir")
    anyir.save(mlp((4, 8, 3), 2), tmp_path / "student.anyir")
    for name, count, seed in (("train", 320, 0), ("test", 100, 1)):
        x, y = points(count, seed)
        np.savez(tmp_path / f"{name}.npz", x=x, labels=y)
    return tmp_path


BASE = ("distill", "--teacher", "teacher.anyir", "--student", "student.anyir", "--data", "train.npz")
QUICK = (*BASE, "--eval-data", "test.npz", "--epochs", "2", "--rate", "0.02", "--batch", "16")


def test_one_command(irc: Any, files: Path) -> None:
    done = irc(*QUICK, "-o", "out.onnx", "--report", "report.json")
    assert done.code == 0, done.err
    told = done.out.splitlines()
    assert told[0].split() == ["epoch", "loss", "kd", "labels", "eval", "loss", "eval", "accuracy"]
    assert [line.split()[0] for line in told[1:4]] == ["0", "1", "2"] and sum("best" in line for line in told[1:4]) == 1
    assert "student.anyir taught by teacher.anyir: 67 weights, 320 samples, 40 steps on cpu" in done.out
    assert "forward   equals torch" in done.out and "verified by reference kernels" in done.out
    assert "  epoch 2   loss" in done.err
    report = json.loads((files / "report.json").read_text())
    assert report["verb"] == "distill" and len(report["curve"]) == 40 and report["files"] == ["out.onnx"]
    assert report["epochs"][-1]["loss"] < report["epochs"][0]["loss"] and report["options"]["rate"] == 0.02
    x, y = points(100, 1)
    assert accuracy(anyir.load(str(files / "out.onnx")), x, y) == pytest.approx(report["after"])
    assert not (files / "out.onnx.checkpoint").exists()


def test_json_is_one_object(irc: Any, files: Path) -> None:
    done = irc(*QUICK, "-o", "out.anyir", "--json", "--loss", "kd{temperature=2}")
    assert done.code == 0 and not done.err
    assert done.json["verb"] == "distill" and done.json["losses"] == ["kd{temperature=2.0}"]
    assert done.json["file"]["verified"] is True and done.json["metric"] == "accuracy"


def test_interrupted_and_resumed(irc: Any, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run does not wipe out the first one's state; --resume goes on, and the file is the same."""
    from anyir.compress.distill.loop import Trainer
    from anyir.driver import cli

    assert irc(*QUICK, "-o", "whole.anyir").code == 0
    learn, steps = Trainer._learn, []

    def interrupted(self: Trainer, batch: Any) -> None:
        steps.append(1)
        if len(steps) == 28:
            raise KeyboardInterrupt
        learn(self, batch)

    monkeypatch.setattr(Trainer, "_learn", interrupted)
    monkeypatch.setattr(cli, "_die_of", lambda number: 128 + number)
    assert irc(*QUICK, "-o", "out.anyir", "--checkpoint-seconds", "0").code is None
    monkeypatch.undo()
    monkeypatch.chdir(files)
    assert not (files / "out.anyir").exists() and (files / "out.anyir.checkpoint").exists()
    again = irc(*QUICK, "-o", "out.anyir")
    assert again.code == 2 and "checkpoint of an earlier run" in again.err and "resume it" in again.err
    other = irc(*QUICK, "-o", "out.anyir", "--resume", "--seed", "5")
    assert other.code == 2 and "seed was 0, is 5" in other.err
    done = irc(*QUICK, "-o", "out.anyir", "--resume")
    assert done.code == 0 and "epoch 2, step 7 of it" in done.err
    found, wanted = (anyir.load(str(files / name)) for name in ("out.anyir", "whole.anyir"))
    x = points(50, 3)[0]
    assert np.array_equal(run(found, [x])["y"], run(wanted, [x])["y"])
    assert not (files / "out.anyir.checkpoint").exists()


def test_training_that_goes_out_of_bounds(irc: Any, files: Path) -> None:
    """The best weights, here the student's own, are written all the same."""
    wild = ("--loss", "mse", "--optimizer", "sgd", "--rate", "1e30", "--schedule", "constant")
    done = irc(*BASE, "--eval-data", "test.npz", *wild, "-o", "out.anyir")
    assert done.code == 1 and "error[N020]" in done.err and "epoch 1, step" in done.err and "--clip-norm" in done.err
    x = points(50, 3)[0]
    kept = [run(anyir.load(str(files / name)), [x])["y"] for name in ("out.anyir", "student.anyir")]
    np.testing.assert_array_equal(*kept)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("-o", "out.xyz"), 2, "out.xyz"),
        (("-o", "nowhere/out.onnx"), 4, "no such folder"),
        (("-o", "student.anyir"), 2, "overwrite the input"),
        (("-o", "teacher.anyir"), 2, "overwrite the input"),
        (("-o", "out.onnx", "--checkpoint", "out.onnx"), 2, "same file"),
        (("-o", "out.onnx", "--optimizer", "adamm"), 2, "did you mean adam"),
        (("-o", "out.onnx", "--loss", "kdd"), 2, "did you mean kd"),
        (("-o", "out.onnx", "--epochs", "0"), 2, "at least 1"),
        (("-o", "out.onnx", "--eval-data", "none.npz"), 2, "no file or folder"),
        (("-o", "out.onnx", "--eval-data", "1000"), 2, "different samples"),
        (("-o", "out.onnx", "--eval-data", "train.npz"), 2, "in common"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(
    options: tuple[str, ...], code: int, message: str, irc: Any, files: Path
) -> None:
    before = sorted(path.name for path in files.iterdir())
    done = irc(*BASE, *options)
    assert done.code == code and message in done.err, done.err
    assert sorted(path.name for path in files.iterdir()) == before


def test_another_interface_is_shown(irc: Any, files: Path) -> None:
    anyir.save(mlp((4, 8, 5), 2), files / "other.anyir")
    command = [word if word != "student.anyir" else "other.anyir" for word in BASE]
    done = irc(*command, "-o", "out.onnx")
    assert done.code == 2 and "error[N003]" in done.err and "student outputs y f32[N, 5]" in done.err
    assert "teacher outputs y f32[N, 3]" in done.err
