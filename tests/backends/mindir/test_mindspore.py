"""The files judged by MindSpore itself, many in one child process."""

from __future__ import annotations

from pathlib import Path

import pytest
from anyir.backends import mindir as backend
from anyir.ir.errors import AnyIRError, Unsupported
from anyir.kernels.compare import compare, limits_for, widest
from anyir.kernels.run import run
from anyir.runtimes import mindspore as runtime

from tests.support.mindir_models import MODELS
from tests.support.op_modules import core_ops, runnable
from tests.support.ops import samples_of

pytestmark = pytest.mark.skipif(runtime.available() is None, reason="MindSpore is not installed")


class Batch:
    """Files that wait for one run, with what must come out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[runtime.Job] = []
        self.wanted: list[tuple] = []

    def add(self, name: str, module, inputs: list[dict], legal=None) -> None:
        legal = legal or backend.legalize(module)
        path = self.folder / f"{len(self.jobs)}.mindir"
        backend.write(module, path)
        for given in inputs:
            self.jobs.append(runtime.Job(str(path), given))
            limits = widest(limits_for(module, given), limits_for(legal, given))
            self.wanted.append((name, run(module, given), limits))

    def judge(self) -> None:
        failures = []
        for (name, wanted, limits), found in zip(self.wanted, runtime.run_many(self.jobs), strict=True):
            if isinstance(found, AnyIRError):
                failures.append(f"{name}: {found}")
            elif not (report := compare(wanted, found, limits)).passed:
                failures.append(f"{name}\n{report}")
        assert not failures, "\n".join(failures)


def add_samples(batch: Batch, name: str, most: int, symbolic: bool = False) -> None:
    """Up to `most` samples of an op that can be written."""
    taken = 0
    for number in range(len(samples_of(name))):
        case = runnable(name, number, symbolic=symbolic)
        if case is None or taken == most:
            continue
        try:
            batch.add(f"{name} sample {number}", case[0], [case[1]])
            taken += 1
        except Unsupported:
            continue


def test_models_at_two_sizes(tmp_path: Path) -> None:
    batch = Batch(tmp_path)
    for name, make in MODELS.items():
        module, inputs = make()
        batch.add(name, module, inputs)
    batch.judge()


def test_one_sample_of_every_op(tmp_path: Path) -> None:
    batch = Batch(tmp_path)
    for name in core_ops():
        add_samples(batch, name, 1)
    batch.judge()


@pytest.mark.slow
@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_every_sample_of_every_op(tmp_path: Path, symbolic: bool) -> None:
    batch = Batch(tmp_path)
    for name in core_ops():
        add_samples(batch, name, 1000, symbolic)
    batch.judge()


def test_weights_outside_and_named(tmp_path: Path) -> None:
    module, inputs = MODELS["cnn"]()
    backend.write(module, tmp_path / "net.mindir", external_data=True)
    found = runtime.run(tmp_path / "net.mindir", inputs[1])
    assert list(found) == ["out:0"]
    assert compare(run(module, inputs[1]), found, limits_for(module, inputs[1])).passed
