"""Judges TFLite files by LiteRT: many files are written first, then all run in one child process per kernel set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from anyir.backends import tflite
from anyir.backends.tflite.writer import write_legal
from anyir.frontends.tflite import read
from anyir.ir.errors import AnyIRError
from anyir.ir.graph import Module
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.runtimes import litert

Arrays = Mapping[str, np.ndarray]
#: float64 is computed in float32 by TFLite: judged by this instead of the limits of float64 arithmetic.
DOUBLE_LIMIT = 2e-6


@dataclass
class Outcome:
    """One run of one file: what the reference kernels say of the model, and what became of the file."""

    module: Module
    inputs: Arrays
    path: Path
    legal: Module
    expected: Arrays
    found: dict[str, Arrays | AnyIRError] = field(default_factory=dict)

    def check(self) -> None:
        """LiteRT with both kernel sets, and our own reader on our own kernels, give the expected numbers."""
        limits: Any = limits_for(self.module, self.inputs)
        for where, made in self.found.items():
            assert not isinstance(made, AnyIRError), f"{where}: {made}\n{self.legal}"
            self._compare(where, made, limits)
        self._compare("read back", run(read(self.path), self.inputs), limits)

    def _compare(self, where: str, made: Arrays, limits: Any) -> None:
        assert list(made) and set(made) == set(self.expected)
        double = any(v.dtype == np.float64 for v in (*self.inputs.values(), *self.expected.values()))
        if double:
            largest = max((np.abs(v).max(initial=1.0) for v in self.expected.values()), default=1.0)
            limits = DOUBLE_LIMIT * float(largest)
        wanted, found = ({k: _single(arrays[k]) for k in self.expected} for arrays in (self.expected, made))
        report = compare(wanted, found, limits)
        assert report.passed, f"{where}:\n{report}\n{self.legal}"


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float64 else array


class Bench:
    """Collects files, then runs them all. A model that is refused is kept under `refused`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outcomes: dict[str, Outcome] = {}
        self.refused: dict[str, AnyIRError] = {}

    def add(self, name: str, module: Module, inputs: Arrays) -> None:
        path = self.folder / f"{len(self.outcomes)}.tflite"
        try:
            legal = tflite.legalize(module)
            write_legal(legal, path)
        except AnyIRError as error:
            self.refused[name] = error
            return
        self.outcomes[name] = Outcome(module, inputs, path, legal, run(module, inputs))

    def run(self) -> Bench:
        for xnnpack in (False, True):
            jobs = [litert.Job(str(o.path), o.inputs, xnnpack=xnnpack) for o in self.outcomes.values()]
            for outcome, made in zip(self.outcomes.values(), litert.run_many(jobs), strict=True):
                outcome.found["XNNPACK" if xnnpack else "plain kernels"] = made
        return self
