"""Checkpoints: killed at any moment and resumed, a run ends with the same bits; foreign and damaged files are refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anyir.compress.distill import distill
from anyir.compress.distill.checkpoint import FORMAT, State, load, save
from anyir.formats import safetensors
from anyir.ir.errors import AnyIRError, InvalidModel, UsageError
from anyir.ir.tensor import as_tensor
from anyir.tests.support.distillation import mlp, points

X, Y = points(256, 0)
RUN: dict[str, Any] = {
    "eval_data": {"x": points(64, 1)[0], "labels": points(64, 1)[1]},
    "losses": "kd,labels{weight=0.2},hint{teacher=hidden0,student=hidden0}",
    "epochs": 4,
    "batch": 16,
    "rate": 0.01,
    "schedule": "one-cycle",
}

CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import test_resume
test_resume.run(sys.argv[2], slow=0.01, every=0)
"""


def run(checkpoint: str | Path | None, slow: float = 0.0, every: float = 60, **options: Any) -> Any:
    """The run of these tests; `slow` waits at each step, so that there is time to kill it."""

    def noisy(feeds: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        time.sleep(slow)
        return {"x": feeds["x"] + rng.normal(0, 0.01, feeds["x"].shape).astype(np.float32)}

    teacher, student = mlp((4, 24, 3), 1), mlp((4, 8, 3), 2)
    return distill(
        teacher,
        student,
        {"x": X, "labels": Y},
        augment=noisy,
        checkpoint=checkpoint,
        checkpoint_seconds=every,
        **{**RUN, **options},
    )


def weights_of(report: Any) -> dict[str, bytes]:
    return {w.key: w.tensor.numpy().tobytes() for w in report.module.weights}


def kill_when(path: Path, steps: int) -> None:
    """Start the run in a child and kill it once its checkpoint has gone so far."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(path)]
    child = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if path.exists() and facts_of(path)["done"] >= steps:
                break
            assert child.poll() is None, child.stderr.read().decode()[-2000:]  # type: ignore[union-attr]
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert child.returncode == -signal.SIGKILL


def facts_of(path: Path) -> dict[str, Any]:
    return json.loads(safetensors.read(path)[1][FORMAT])["facts"]


def test_killed_and_resumed_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Killed in the second epoch: weights, curves and the choice of the best are those of a run that nothing disturbed."""
    path = tmp_path / "state"
    kill_when(path, 21)
    left = facts_of(path)
    assert 21 <= left["done"] < 64 and left["epoch"] >= 1
    resumed, whole = run(path, resume=True), run(None)
    assert weights_of(resumed) == weights_of(whole)
    assert resumed.curve == whole.curve and resumed.epochs == whole.epochs and resumed.best == whole.best
    assert resumed.resumed == left["done"] and resumed.steps == whole.steps == 64
    assert list(tmp_path.iterdir()) == [path], "nothing half-written is left"
    again = run(path, resume=True)
    assert weights_of(again) == weights_of(whole), "a finished run is not run again"
    assert again.resumed == 64


@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adamw", marks=pytest.mark.slow)])
def test_every_optimiser_goes_on(optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted from within, in the middle of an epoch."""
    from anyir.compress.distill.loop import Trainer

    whole = run(None, optimizer=optimizer, epochs=2)
    learn, steps = Trainer._learn, []

    def interrupted(self: Trainer, batch: Any) -> None:
        steps.append(1)
        if len(steps) == 23:
            raise KeyboardInterrupt
        learn(self, batch)

    monkeypatch.setattr(Trainer, "_learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "state", every=0, optimizer=optimizer, epochs=2)
    monkeypatch.undo()
    resumed = run(tmp_path / "state", resume=True, optimizer=optimizer, epochs=2)
    assert resumed.resumed == 22 and weights_of(resumed) == weights_of(whole)


def test_a_checkpoint_is_not_overwritten_by_a_new_run(tmp_path: Path) -> None:
    run(tmp_path / "state", epochs=1)
    with pytest.raises(UsageError, match="checkpoint of an earlier run"):
        run(tmp_path / "state", epochs=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 2}, "epochs was 1, is 2"),
        ({"rate": 0.02}, "rate was 0.01, is 0.02"),
        ({"losses": "kd"}, "losses was"),
        ({"eval_data": None}, "eval_data was"),
        ({"seed": 4}, "seed was 0, is 4"),
    ],
)
def test_another_run_does_not_go_on_from_it(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    run(tmp_path / "state", epochs=1)
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "state", resume=True, **{"epochs": 1, **change})


def test_other_files_are_refused(tmp_path: Path) -> None:
    tensors = {"net/a": np.zeros(2, np.float32)}
    path = tmp_path / "state"
    save(path, {"seed": 1}, State(tensors, {"step": 3}))
    found = load(path, {"seed": 1})
    assert found.facts == {"step": 3} and (found.tensors["net/a"] == 0).all()
    data = path.read_bytes()
    for size in (0, 7, 40, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(AnyIRError):
            load(path, {"seed": 1})
    safetensors.write(path, {"a": as_tensor(np.zeros(1))}, {})
    with pytest.raises(InvalidModel, match="not a checkpoint"):
        load(path, {})
    for header in ("[]", "{}", '{"identity": {}, "facts": {}, "version": 99}'):
        safetensors.write(path, {"a": as_tensor(np.zeros(1))}, {FORMAT: header})
        with pytest.raises(InvalidModel):
            load(path, {})
