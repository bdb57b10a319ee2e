"""What the Python API and every verb do: load, optimise, save, run, compile. No argument parsing, no printing."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.errors import NumericsError, SystemFailure, UsageError
from ..ir.graph import Module
from . import formats
from .formats import Format
from .load import load, source_files

if TYPE_CHECKING:
    import numpy as np

    from ..passes.manager import Context, Instrument
    from .check import Check

Progress = Callable[[str, str], None]

__all__ = ["CheckFailed", "CompileOptions", "CompileReport", "compile", "load", "optimize", "run", "save"]


def silent(stage: str, text: str) -> None:
    """The progress of a library call: none."""


def optimize(
    module: Module,
    level: int = 2,
    passes: str | None = None,
    *,
    instruments: Sequence[Instrument] = (),
    ctx: Context | None = None,
) -> Module:
    """Run an -O level's pipeline, or `passes` instead, on `module` in place, and return it."""
    from ..passes.manager import Context, run_pipeline
    from ..passes.presets import preset

    run_pipeline(module, preset(level) if passes is None else passes, ctx or Context(level=level), instruments)
    return module


def save(module: Module, path: str | os.PathLike[str], *, format: str | None = None, **options: Any) -> list[str]:
    """Write `module` (left as it is) in the format that the suffix says. Returns the files written, the model last.

    Options go to the backend: `opset`, `external_data`; `protect` are files that must not be overwritten. Inputs with a
    default become constants where the format knows no defaults.
    """
    fmt = formats.by_name(format) if format else formats.of_path(path, "output")
    if module.defaults() and fmt.name not in formats.WITH_DEFAULTS:
        module = optimize(module.clone(), passes="fix-defaults")
    return fmt.writer().write(module, path, **options)


def run(module: Any, inputs: Any) -> dict[str, np.ndarray]:
    """Outputs by name on the reference kernels; `module` may be anything that `load` takes."""
    from ..kernels.run import run as run_kernels

    return run_kernels(load(module), inputs)


@dataclass
class CompileReport:
    """What a compile did. `verified` is True, False, or None when it was not checked, or an output gave only NaN to check (then
    `why_not` says why)."""

    source: str
    target: str = ""
    files: list[str] = field(default_factory=list)
    format: str = ""
    ops_before: Counter[str] = field(default_factory=Counter)
    ops_after: Counter[str] = field(default_factory=Counter)
    bytes_before: int = 0
    bytes_after: int = 0
    samples: str = ""
    checks: list[Check] = field(default_factory=list)
    why_not: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    stats: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    proofs: list[dict[str, Any]] = field(default_factory=list)
    peak_bytes: int = 0
    module: Module | None = None

    @property
    def verified(self) -> bool | None:
        if any(not check.passed for check in self.checks):
            return False
        return True if not self.why_not and any(check.report is not None for check in self.checks) else None

    def __str__(self) -> str:
        from .report import compile_block

        return compile_block(self)


class CheckFailed(NumericsError):
    """The written file gives other results than `than`, the model it was made from; `report` has every comparison."""

    def __init__(self, report: CompileReport, hint: str, than: str = "the source") -> None:
        from .report import checks_table

        text = f"the written file gives other results than {than}\n{checks_table(report.checks)}\n  {hint}"
        super().__init__(text, where=report.target)
        self.report = report


@dataclass
class CompileOptions:
    """Everything that `compile` takes besides source and output."""

    level: int = 2
    passes: str | None = None
    format: str | None = None
    source_format: str | None = None
    shapes: Mapping[str, Sequence[int | str]] | None = None
    bind: Mapping[str, Any] | None = None
    functions: str | None = None
    defaults: str | None = None
    verify: bool = True
    keep_unverified: bool = False
    inputs: Any = None
    seed: int = 0
    write: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    instruments: Sequence[Instrument] = ()


def compile(
    source: Any, output: str | os.PathLike[str] | None = None, *, progress: Progress = silent, **options: Any
) -> CompileReport:
    """Load, optimise, write and verify; the output appears only when the check passed (or with keep_unverified).

    Options are the fields of CompileOptions; others go to the backend (`opset=17`) or, for live models, to `load`
    (`inputs` are example inputs there and test data in the check). Without `output` nothing is written and
    `report.module` is the result. Raises CheckFailed (a NumericsError) when the check fails.
    """
    choice = options_for(source, options)
    from ..kernels.budget import Budget, spending

    target = None if output is None else check_request(source, Path(output), choice)
    report = CompileReport(name_of(source), "" if output is None else os.fspath(output))
    clock = Clock(report)
    with clock("read"):
        module = loaded(source, target, choice)
        original = module.clone()
    describe_source(report, original, source)
    progress("read", f"{report.source}: {report.ops_before.total()} ops")
    with spending(Budget.for_models(original)):
        with clock(f"O{choice.level}"):
            _optimise(module, choice, report)
        report.module, report.ops_after = module, count_ops(module)
        progress(f"O{choice.level}", f"{report.ops_before.total()} -> {report.ops_after.total()} ops")
        if output is not None and target is not None:
            Job(original, module, source, Path(output), target, choice, report).write_checked(clock, progress)
    report.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return report


def loaded(source: Any, target: Format | None, choice: CompileOptions) -> Module:
    """The source; inputs with a default are constants where the target knows no defaults."""
    fixed = target is not None and target.name not in formats.WITH_DEFAULTS
    kinds = {"functions": choice.functions, "defaults": choice.defaults or ("fix" if fixed else None)}
    module = load(source, shapes=choice.shapes, bind=choice.bind, format=choice.source_format, **kinds, **choice.load)
    if fixed and module.defaults():
        module = optimize(module if module is not source else module.clone(), passes="fix-defaults")
    return module


def name_of(source: Any) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__


def options_for(source: Any, given: dict[str, Any]) -> CompileOptions:
    """Own options, those of `load` for live models, and the backend's."""
    own = {key: value for key, value in given.items() if key in CompileOptions.__dataclass_fields__}
    for_load: dict[str, Any] = {key: given[key] for key in ("dynamic_shapes", "names") if key in given}
    if not isinstance(source, (str, os.PathLike, Module)) and given.get("inputs") is not None:
        for_load["inputs"] = given["inputs"]
    rest = {k: v for k, v in given.items() if k not in own and k not in for_load}
    made = CompileOptions(**own)
    made.load = {**made.load, **for_load}
    made.write = {**made.write, **rest}
    return made


def check_request(source: Any, output: Path, choice: CompileOptions) -> Format:
    """Find mistakes in the request before anything is read: format, its options, folder, pipeline. Raises UsageError,
    SystemFailure."""
    from ..passes.manager import check_pipeline

    fmt = formats.by_name(choice.format) if choice.format else formats.of_path(output, "output")
    check_options = getattr(fmt.writer(), "check_options", None)
    if check_options is not None:
        check_options(**choice.write)
    if choice.passes is not None:
        check_pipeline(choice.passes)
    if output.is_dir():
        raise UsageError("the output is a folder", where=str(output), hint="name a file")
    if not os.path.isdir(os.path.realpath(output.parent)):
        raise SystemFailure("there is no such folder", where=str(output.parent))
    if (
        isinstance(source, (str, os.PathLike))
        and output.exists()
        and os.path.exists(source)
        and output.samefile(source)
    ):
        raise UsageError("the output would overwrite the input", where=str(output), hint="choose another name")
    return fmt


class Clock:
    """Seconds per stage into the report."""

    def __init__(self, report: CompileReport) -> None:
        self.report = report

    def __call__(self, stage: str) -> Clock:
        self.stage = stage
        return self

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.report.seconds[self.stage] = time.perf_counter() - self.started


def count_ops(module: Module) -> Counter[str]:
    from ..ir.analysis import op_counts

    return op_counts(module)


def describe_source(report: CompileReport, module: Module, source: Any) -> None:
    from ..ir.analysis import weight_bytes

    report.ops_before = count_ops(module)
    report.notes += module.diagnostics
    inside = dict.fromkeys(map(os.path.realpath, source_files(source, module)))
    report.bytes_before = sum(os.path.getsize(path) for path in inside) if inside else weight_bytes(module)


def _optimise(module: Module, choice: CompileOptions, report: CompileReport) -> None:
    from ..passes.manager import Context
    from ..passes.presets import preset

    ctx = Context(level=choice.level)
    passes = choice.passes
    if passes is None and choice.functions == "keep":
        passes = preset(choice.level, without=("inline",))
    optimize(module, choice.level, passes, instruments=choice.instruments, ctx=ctx)
    report.stats, report.notes = ctx.stats, report.notes + ctx.notes
    report.proofs = [row for row in ctx.records if "proof" in row]


@dataclass
class Job:
    """The writing half of a compile: beside the output first, into place when the check has passed."""

    original: Module
    module: Module
    source: Any
    output: Path
    format: Format
    choice: CompileOptions
    report: CompileReport
    than: str = "the source"
    remedy: str = ", --check-numerics names the pass"

    def write_checked(self, clock: Clock, progress: Progress) -> None:
        from .staging import Staging

        report, choice = self.report, self.choice
        report.format = self.format.name
        protect = source_files(self.source, self.module)
        with Staging(self.output, protect) as staging:
            with clock("write"):
                written = self.format.writer().write(self.module, staging.path, protect=protect, **self.form())
            progress("write", str(self.output))
            report.bytes_after = sum(os.path.getsize(path) for path in written)
            if choice.verify:
                with clock("verify"):
                    self.verify(staging.path, progress)
            else:
                report.why_not = "--no-verify"
            if report.verified is False and not choice.keep_unverified:
                raise CheckFailed(report, f"nothing was written; --keep-unverified keeps it{self.remedy}", self.than)
            self.accept(written)
            report.files = staging.place(written)

    def form(self) -> dict[str, Any]:
        """The backend's options. -O3 writes ONNX in the opset at which the file is shortest, unless one is asked for."""
        raises = self.format.name == "onnx" and self.choice.level >= 3 and "opset" not in self.choice.write
        return {"raise_opset": True, **self.choice.write} if raises else self.choice.write

    def accept(self, written: Sequence[str]) -> None:
        """A last look at the files before they are put in place; what is raised here leaves nothing behind."""

    def verify(self, path: Path, progress: Progress) -> None:
        from ..kernels.budget import OverBudget
        from . import check

        opaque = dict.fromkeys(f"{n.attr('domain')}.{n.attr('op_type')}" for n in self.original.all_nodes("opaque"))
        if opaque:
            self.report.why_not = f"contains {', '.join(opaque)}"
            return
        given = self.choice.inputs if _is_data(self.choice.inputs) else None
        try:
            samples = check.sample_sets(self.original, given, self.choice.seed)
            kind = "given inputs" if given is not None else f"seeded samples (seed {self.choice.seed})"
            self.report.samples = f"{kind} {' and '.join(map(check.describe, samples))}"
            self.report.checks = check.check_file(
                self.original, path, self.format, samples, progress, given=given is not None
            )
            self.report.why_not = check.unproven(self.report.checks)
        except OverBudget as error:
            self.report.why_not = str(error)


def _is_data(inputs: Any) -> bool:
    """Test data for the check is a dict of arrays by input name, or a sequence of arrays."""
    items = inputs.values() if isinstance(inputs, Mapping) else inputs
    return bool(inputs is not None and len(inputs) and all(hasattr(item, "__array__") for item in items))
