"""What the Python API and every verb do: load, optimise, save, run, compile. No argument parsing, no printing."""

from __future__ import annotations

import importlib
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
from ..ir.outputs import OutputSet, scratch_folder
from . import formats
from .formats import Format

if TYPE_CHECKING:
    import numpy as np

    from ..passes.manager import Context, Instrument
    from .check import Check

Progress = Callable[[str, str], None]


def _silent(stage: str, text: str) -> None:
    """The progress of a library call: none."""


def load(
    source: Any,
    *,
    inputs: Any = None,
    dynamic_shapes: Any = None,
    names: Any = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    format: str | None = None,
) -> Module:
    """Lower a model into a Module.

    `source`: a path, an onnx.ModelProto, a Keras model, a torch.export.ExportedProgram, or a torch.nn.Module with example
    `inputs` (its batch dim is dynamic unless `dynamic_shapes` says otherwise). `names` renames inputs; `shapes` fixes or
    names dims of inputs; `format` overrides the suffix. Raises an AnyIRError.
    """
    if isinstance(source, Module):
        return source
    if isinstance(source, (str, os.PathLike)):
        module = _load_path(source, format, names)
    else:
        module = _load_live(source, inputs, dynamic_shapes, names)
    if shapes:
        from .shapes import set_shapes

        set_shapes(module, shapes)
    return module


def _load_path(path: str | os.PathLike[str], format: str | None, names: Any) -> Module:
    if _is_factory(path):
        return load(_call_factory(os.fspath(path)), names=names)
    fmt = formats.by_name(format) if format else formats.of_path(path, "input")
    formats.check_content(path, fmt)
    extra = {"names": names} if names is not None and fmt.name in ("pt2", "keras") else {}
    module: Module = fmt.reader()(path, **extra)
    module.metadata.setdefault("source.format", fmt.name)
    return module


def _is_factory(path: str | os.PathLike[str]) -> bool:
    """`pkg.module:factory`, the user's own code, named on the command line."""
    text = os.fspath(path)
    head, colon, tail = text.rpartition(":")
    return (
        bool(colon)
        and tail.isidentifier()
        and all(p.isidentifier() for p in head.split("."))
        and not os.path.exists(text)
    )


def _call_factory(text: str) -> Any:
    head, _, tail = text.rpartition(":")
    try:
        return getattr(importlib.import_module(head), tail)()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot call {text}: {error}", hint="is its folder on PYTHONPATH?") from None


def _load_live(source: Any, inputs: Any, dynamic_shapes: Any, names: Any) -> Module:
    """Tell a live object by the modules of its classes, so that no framework is imported to find out."""
    if isinstance(source, tuple) and len(source) == 2:
        return _load_live(source[0], source[1], dynamic_shapes, names)
    origins = {cls.__module__.partition(".")[0] for cls in type(source).__mro__}
    if "keras" in origins:
        from ..frontends import keras

        return keras.read(source)
    if "torch" in origins:
        from ..frontends import torch

        return torch.read(source, inputs=inputs, dynamic_shapes=dynamic_shapes, names=names)
    if type(source).__name__ == "ModelProto":
        from ..frontends import onnx

        return onnx.read(source)
    raise UsageError(
        f"cannot load a {type(source).__module__}.{type(source).__name__}",
        hint="give a path, a ModelProto, a Keras model, an ExportedProgram, or an nn.Module with inputs=",
    )


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
    """Write `module` (left as it is) in the format that the suffix says. Returns the files written, the model last."""
    fmt = formats.by_name(format) if format else formats.of_path(path, "output")
    return fmt.writer().write(module, path, **options)


def run(module: Any, inputs: Any) -> dict[str, np.ndarray]:
    """Outputs by name on the reference kernels; `module` may be anything that `load` takes."""
    from ..kernels.run import run as run_kernels

    return run_kernels(load(module), inputs)


@dataclass
class CompileReport:
    """What a compile did. `verified` is True, False, or None when it was not checked (then `why_not` says why)."""

    source: str
    files: list[str] = field(default_factory=list)
    format: str = ""
    ops_before: Counter[str] = field(default_factory=Counter)
    ops_after: Counter[str] = field(default_factory=Counter)
    bytes_before: int = 0
    bytes_after: int = 0
    checks: list[Check] = field(default_factory=list)
    why_not: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    stats: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    module: Module | None = None

    @property
    def verified(self) -> bool | None:
        done = [check for check in self.checks if check.report is not None]
        if any(not check.passed for check in done):
            return False
        return True if done else None

    def __str__(self) -> str:
        from .report import compile_block

        return compile_block(self)


@dataclass
class CompileOptions:
    """Everything that `compile` takes besides source and output."""

    level: int = 2
    passes: str | None = None
    format: str | None = None
    source_format: str | None = None
    shapes: Mapping[str, Sequence[int | str]] | None = None
    verify: bool = True
    keep_unverified: bool = False
    inputs: Any = None
    seed: int = 0
    write: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    instruments: Sequence[Instrument] = ()


def compile(
    source: Any, output: str | os.PathLike[str] | None = None, *, progress: Progress = _silent, **options: Any
) -> CompileReport:
    """Load, optimise, write and verify; the output appears only when the check passed (or with keep_unverified).

    Options are the fields of CompileOptions; others go to the backend (`opset=17`) or, for live models, to `load`
    (`inputs` are example inputs there and test data in the check). Without `output` nothing is written and
    `report.module` is the result. Raises NumericsError when the check fails.
    """
    choice = _options(options)
    target = None if output is None else _check_request(source, Path(output), choice)
    report = CompileReport(str(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__)
    clock = _Clock(report)
    with clock("read"):
        module = load(source, shapes=choice.shapes, format=choice.source_format, **choice.load)
        original = module.clone()
    _describe_source(report, original, source)
    progress("read", f"{report.source}: {report.ops_before.total()} ops")
    with clock(f"O{choice.level}"):
        _optimise(module, choice, report)
    progress(f"O{choice.level}", f"{report.ops_before.total()} -> {_count(module).total()} ops")
    report.module = module
    if output is not None and target is not None:
        _write_checked(original, module, source, Path(output), target, choice, report, clock, progress)
    report.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return report


def _options(given: dict[str, Any]) -> CompileOptions:
    known = set(CompileOptions.__dataclass_fields__)
    own = {key: value for key, value in given.items() if key in known}
    for key in ("dynamic_shapes", "names"):
        if key in given:
            own.setdefault("load", {})[key] = given[key]
    rest = {k: v for k, v in given.items() if k not in known and k not in ("dynamic_shapes", "names")}
    return CompileOptions(**{**own, "write": {**own.get("write", {}), **rest}})


def _check_request(source: Any, output: Path, choice: CompileOptions) -> Format:
    """Find mistakes in the request before anything is read: format, folder, pipeline. Raises UsageError, SystemFailure."""
    from ..passes.manager import check_pipeline

    fmt = formats.by_name(choice.format) if choice.format else formats.of_path(output, "output")
    fmt.writer()
    if choice.passes is not None:
        check_pipeline(choice.passes)
    if not output.resolve().parent.is_dir():
        raise SystemFailure("there is no such folder", where=str(output.parent))
    if isinstance(source, (str, os.PathLike)) and output.exists() and os.path.exists(source) and output.samefile(source):
        raise UsageError("the output would overwrite the input", where=str(output), hint="choose another name")
    return fmt


class _Clock:
    """Seconds per stage into the report."""

    def __init__(self, report: CompileReport) -> None:
        self.report = report

    def __call__(self, stage: str) -> _Clock:
        self.stage = stage
        return self

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.report.seconds[self.stage] = time.perf_counter() - self.started


def _count(module: Module) -> Counter[str]:
    from ..ir.analysis import op_counts

    return op_counts(module)


def _describe_source(report: CompileReport, module: Module, source: Any) -> None:
    from ..ir.analysis import weight_bytes

    report.ops_before = _count(module)
    report.notes += module.diagnostics
    if isinstance(source, (str, os.PathLike)) and os.path.isfile(source):
        inside = {os.path.realpath(source), *(os.path.realpath(f.path) for f in module.files)}
        report.bytes_before = sum(os.path.getsize(path) for path in inside)
    else:
        report.bytes_before = weight_bytes(module)


def _optimise(module: Module, choice: CompileOptions, report: CompileReport) -> None:
    from ..passes.manager import Context

    ctx = Context(level=choice.level)
    optimize(module, choice.level, choice.passes, instruments=choice.instruments, ctx=ctx)
    report.stats, report.notes = ctx.stats, report.notes + ctx.notes


def source_files(source: Any, module: Module) -> list[str]:
    """Every file that the input consists of: none of them may be overwritten."""
    own = [os.fspath(source)] if isinstance(source, (str, os.PathLike)) and os.path.exists(source) else []
    return own + [file.path for file in module.files]


def _write_checked(
    original: Module,
    module: Module,
    source: Any,
    output: Path,
    fmt: Format,
    choice: CompileOptions,
    report: CompileReport,
    clock: _Clock,
    progress: Progress,
) -> None:
    """Write beside the output, check there, and move into place."""
    report.format = fmt.name
    protect = source_files(source, module)
    with Staging(output, protect) as staging:
        with clock("write"):
            written = fmt.writer().write(module, staging.path, protect=protect, **choice.write)
        progress("write", str(output))
        report.ops_after = _count(module)
        report.bytes_after = sum(os.path.getsize(path) for path in written)
        if choice.verify:
            with clock("verify"):
                _verify(original, staging.path, fmt, choice, report, progress)
        else:
            report.why_not = "--no-verify"
        if report.verified is False and not choice.keep_unverified:
            raise NumericsError(
                f"the written file gives other results than the source\n{report_checks(report)}",
                code="N001",
                where=str(output),
                hint="nothing was written; --keep-unverified keeps it, --check-numerics names the pass",
            )
        report.files = staging.place(written)


def _verify(
    original: Module, path: Path, fmt: Format, choice: CompileOptions, report: CompileReport, progress: Progress
) -> None:
    from .check import check_file

    impure = sorted({node.name for node in original.all_nodes("opaque")})
    if impure:
        names = sorted({f"{n.attr('domain')}.{n.attr('op_type')}" for n in original.all_nodes("opaque")})
        report.why_not = f"contains {', '.join(names)}"
        return
    report.checks = check_file(
        original, path, fmt, choice.inputs if _is_data(choice.inputs) else None, choice.seed, progress
    )


def _is_data(inputs: Any) -> bool:
    """Test data for the check is a dict of arrays by input name, or a sequence of arrays."""
    items = inputs.values() if isinstance(inputs, Mapping) else inputs
    return bool(inputs is not None and len(inputs) and all(hasattr(item, "__array__") for item in items))


def report_checks(report: CompileReport) -> str:
    from .report import checks_table

    return checks_table(report.checks)


class Staging:
    """A hidden folder beside the output in which files are written and checked before they move into place."""

    def __init__(self, output: Path, protect: Sequence[str]) -> None:
        self.output = output
        self.protect = list(protect)
        self._scratch = scratch_folder(beside=output)

    def __enter__(self) -> Staging:
        self.folder = Path(self._scratch.__enter__())
        self.path = self.folder / self.output.name
        return self

    def __exit__(self, *error: Any) -> None:
        self._scratch.__exit__(*error)

    def place(self, written: Sequence[str]) -> list[str]:
        """Move the files into the output's folder, the model last; all of them or none."""
        placed = []
        with OutputSet(protect=self.protect) as outputs:
            for path in written:
                target = self.output.parent / Path(path).relative_to(self.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                outputs.adopt(path, target, main=path == written[-1])
                placed.append(str(target))
        return placed
