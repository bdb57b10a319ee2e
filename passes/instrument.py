"""What can be watched while passes run. Each instrument hooks into the manager and costs nothing when absent."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from ..ir.errors import AnyIRError, NumericsError, UsageError
from ..ir.graph import Module
from ..ir.printer import Printer
from ..ir.verify import verify
from .manager import Context, Instrument, StopPipeline
from .pipeline import Step

if TYPE_CHECKING:
    from ..kernels.compare import Limit


def _text(module: Module, elide: int) -> str:
    return Printer(elide=elide).module(module)


@dataclass
class PrintIR(Instrument):
    """Print the IR before or after the named passes ("all" for every one, "changed" after those that changed it)."""

    before_names: frozenset[str] = frozenset()
    after_names: frozenset[str] = frozenset()
    elide: int = 16
    scope: str = ""
    out: TextIO = field(default_factory=lambda: sys.stderr)

    def before(self, step: Step, module: Module, ctx: Context) -> None:
        if step.name in self.before_names or "all" in self.before_names:
            self.show(f"before {step}", module)

    def after(self, step: Step, module: Module, ctx: Context, changed: bool) -> None:
        wanted = (
            step.name in self.after_names or "all" in self.after_names or ("changed" in self.after_names and changed)
        )
        if wanted:
            self.show(f"after {step}", module)

    def show(self, when: str, module: Module) -> None:
        lines = _text(module, self.elide).splitlines()
        if self.scope:
            pattern = re.compile(self.scope)
            lines = [line for line in lines if pattern.search(line)]
        self.out.write(f"# ---- IR {when}\n" + "\n".join(lines) + "\n")


@dataclass
class DumpDir(Instrument):
    """Write one numbered file of IR text per pass into a folder."""

    folder: Path
    elide: int = 16
    count: int = 0

    def after(self, step: Step, module: Module, ctx: Context, changed: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = "" if changed else "-unchanged"
        (self.folder / f"{self.count:03d}-{step.name}{mark}.anyir").write_text(
            _text(module, self.elide), encoding="utf-8"
        )
        self.count += 1


@dataclass
class TimePasses(Instrument):
    """CPU seconds, runs and changes per pass."""

    seconds: dict[str, float] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)
    _started: float = 0.0

    def before(self, step: Step, module: Module, ctx: Context) -> None:
        self._started = time.process_time()

    def after(self, step: Step, module: Module, ctx: Context, changed: bool) -> None:
        name = step.name
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - self._started
        self.runs[name] = self.runs.get(name, 0) + 1
        self.changes[name] = self.changes.get(name, 0) + changed


class VerifyEach(Instrument):
    """Check every invariant of the IR after each pass that changed it."""

    def after(self, step: Step, module: Module, ctx: Context, changed: bool) -> None:
        if changed:
            verify(module, allow_channels_last=True)


@dataclass
class CheckNumerics(Instrument):
    """Run the module on the reference kernels before the first pass and after each one that changed it; the first pass
    whose results leave the computed tolerance is named. `inputs` default to seeded samples."""

    inputs: dict[str, np.ndarray] | None = None
    reference: dict[str, np.ndarray] | None = None
    limits: dict[str, Limit] | None = None

    def before(self, step: Step, module: Module, ctx: Context) -> None:
        from ..kernels.compare import limits_for
        from ..kernels.inputs import sample_inputs
        from ..kernels.run import run

        if self.reference is None:
            self.inputs = self.inputs or sample_inputs(module)
            self.reference = run(module, self.inputs)
            self.limits = limits_for(module, self.inputs)

    def after(self, step: Step, module: Module, ctx: Context, changed: bool) -> None:
        from ..kernels.compare import compare
        from ..kernels.run import run

        if not changed:
            return
        report = compare(self.reference, run(module, self.inputs), self.limits)  # type: ignore[arg-type]
        if not report.passed:
            raise NumericsError(
                f"changed the results\n{report}", code="N010", hint=f"leave {step.name} out and report it"
            )


@dataclass
class StopAfter(Instrument):
    """End the pipeline after the named pass has run for the first time."""

    name: str

    def after(self, step: Step, module: Module, ctx: Context, changed: bool) -> None:
        if step.name == self.name:
            raise StopPipeline


@dataclass
class BisectLimit(Instrument):
    """Run only the first `limit` passes; with `names` the ones that ran are recorded."""

    limit: int
    names: list[str] = field(default_factory=list)

    def should_run(self, step: Step, module: Module) -> bool:
        if len(self.names) >= self.limit:
            return False
        self.names.append(str(step))
        return True


@dataclass
class Reproducer(Instrument):
    """When a pass fails, write the IR before it, its weights and the pipeline that runs it into a folder."""

    folder: Path
    _before: Module | None = None

    def before(self, step: Step, module: Module, ctx: Context) -> None:
        self._before = module.clone()

    def failed(self, step: Step, module: Module, ctx: Context, error: AnyIRError) -> None:
        from ..ir.textfile import write_text

        self.folder.mkdir(parents=True, exist_ok=True)
        if self._before is not None:
            write_text(self._before, self.folder / "case.anyir")
        (self.folder / "pipeline.txt").write_text(f"{step}\n", encoding="utf-8")
        (self.folder / "error.txt").write_text(f"{error.code}: {error}\n", encoding="utf-8")


def bisect(module: Module, pipeline: str, good: Callable[[Module], bool], ctx_level: int = 2) -> str | None:
    """The first pass of `pipeline` after which `good(module)` is false, found by halving; None when all is well.

    Each probe runs a prefix of the passes on a clone, so `module` stays as it was. Raises UsageError when it is not good
    to begin with.
    """
    from .manager import run_pipeline

    def probe(limit: int) -> tuple[bool, list[str]]:
        copy, counter = module.clone(), BisectLimit(limit)
        run_pipeline(copy, pipeline, Context(level=ctx_level), [counter])
        return good(copy), counter.names

    fine, names = probe(1 << 30)
    if fine:
        return None
    if not good(module.clone()):
        raise UsageError("the module is bad before the first pass")
    low, high = 0, len(names)
    while high - low > 1:
        middle = (low + high) // 2
        fine, _ = probe(middle)
        low, high = (middle, high) if fine else (low, middle)
    return names[high - 1]
