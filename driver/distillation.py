"""`anyir.distill`: read teacher and student, train, write and verify the student. No argument parsing, no printing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.errors import UsageError
from ..ir.graph import Module
from . import flow
from .flow import CompileOptions, Progress, silent
from .load import load

if TYPE_CHECKING:
    from ..compress.distill import DistillReport


def distill(
    teacher: Any,
    student: Any,
    data: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    progress: Progress = silent,
    level: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    write: dict[str, Any] | None = None,
    **options: Any,
) -> DistillReport:
    """Train `student` to say what `teacher` says, and write it; `report.module` is the result, `report.written` what became
    of the file.

    `teacher` and `student` are whatever `load` takes; a live torch module comes with example inputs, as (module, inputs).
    Other arguments and `options` are those of `compress.distill.distill`. The file is optimised at -O `level` (2; an .anyir
    file keeps the student's own form), checked as a compile is, and `write` goes to its backend. The checkpoint is removed
    when all is done. Raises what those functions raise, UsageError for an output that would replace an input.
    """
    from ..compress.distill import distill as run

    level = level if level is not None else 0 if _keeps_form(output) else 2
    if output is not None:
        _check_output(output, (teacher, student), CompileOptions(level=level), checkpoint)
    with_names = _loaded("teacher", teacher, progress), _loaded("student", student, progress)
    report = run(*with_names, data, checkpoint=checkpoint, progress=progress, **options)
    if output is not None and report.module is not None:
        made = report.module.clone()
        report.written = flow.compile(made, output, level=level, progress=progress, write=write or {})
        report.written.source = report.student
        report.files = report.written.files
    if checkpoint is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(checkpoint)
    return report


def _keeps_form(output: str | os.PathLike[str] | None) -> bool:
    return output is not None and os.fspath(output).lower().endswith(".anyir")


def _check_output(
    output: str | os.PathLike[str],
    sources: tuple[Any, Any],
    choice: CompileOptions,
    checkpoint: str | os.PathLike[str] | None,
) -> None:
    """Before hours of training: the format, the folder, and that nothing needed is replaced."""
    for source in sources:
        flow.check_request(source, Path(output), choice)
    if checkpoint is not None and os.path.realpath(checkpoint) == os.path.realpath(output):
        raise UsageError("the checkpoint and the output are the same file", where=os.fspath(output))


def _loaded(who: str, source: Any, progress: Progress) -> Module:
    module = load(source)
    if isinstance(source, (str, os.PathLike)):
        module.name = os.path.basename(os.fspath(source))
    progress(who, f"{module.name}: {flow.count_ops(module).total()} ops")
    return module
