"""`anyir.compress`: read a model, run a recipe on it, write and verify it. No argument parsing, no printing.

The written file is checked against the compressed module, as a compile is checked against its source; what compression
itself loses is measured on data and told apart.
"""

from __future__ import annotations

import hashlib
import os
import resource
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.errors import SystemFailure, Unsupported, UsageError
from ..ir.graph import Module
from .flow import (
    Clock,
    CompileOptions,
    CompileReport,
    Job,
    Progress,
    check_request,
    count_ops,
    describe_source,
    loaded,
    name_of,
    options_for,
    silent,
)

if TYPE_CHECKING:
    from ..compress.data import Dataset
    from ..compress.flow import Compression
    from ..compress.recipe import Recipe

#: What the file check is fed with, of the evaluation samples.
CHECKED = 2


@dataclass
class CompressReport(CompileReport):
    """What a compression did: the file and its check as in a compile, and `result` with everything that was measured."""

    result: Compression | None = None
    zipped: tuple[int, int] | None = None
    fused: str = ""

    def __str__(self) -> str:
        from ..compress import report as tables
        from .report import compress_block
        from .screen import plain_table

        if self.result is None:
            return super().__str__()
        made = [plain_table(*tables.layer_table(self.result.layers))]
        if self.result.loss is not None and self.result.loss.outputs:
            made.append(plain_table(tables.OUTPUT_COLUMNS, tables.output_rows(self.result.loss.outputs)))
        return "\n\n".join([*made, compress_block(self)])


@dataclass
class Request:
    """Everything that `compress` takes besides source and output and what `compile` takes too."""

    recipe: Any = None
    quantize: str | None = None
    prune: float | Mapping[str, Any] | None = None
    clip: float | Mapping[str, Any] | None = None
    data: Any = None
    eval_data: Any = None
    preprocess: Any = None
    samples: int | None = None
    where: str = ""
    keep: int | None = None
    seed: int | None = None
    level: int | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)
    layers: bool = True


def compress(
    source: Any, output: str | os.PathLike[str] | None = None, *, progress: Progress = silent, **options: Any
) -> CompressReport:
    """Make a model smaller or faster by a recipe: `report.result.loss` says what that cost, `report.module` is the result.

    `recipe` is a built-in name, a file or a Recipe; `quantize`, `prune` (a ratio or options), `clip` (a threshold or options)
    stand for one or add to it. `data` are calibration samples: a path, arrays, or a function; a part of them, or `eval_data`,
    is what the loss is measured on. `limits` such as {"drop": 0.5} must hold. Other options are those of `compile`.
    Raises UsageError, LimitsExceeded (a limit does not hold) and CheckFailed (the file is not what was compressed); then
    nothing is written.
    """
    from ..kernels.budget import Budget, spending

    asked, choice = _request(source, options)
    recipe = recipe_of(asked)
    target = None if output is None else check_request(source, Path(output), choice)
    recipe = recipe.for_target(target.name if target is not None else "")
    report = CompressReport(name_of(source), "" if output is None else os.fspath(output))
    clock = Clock(report)
    with clock("read"):
        module = _own(loaded(source, target, choice), source)
    describe_source(report, module, source)
    progress("read", f"{report.source}: {report.ops_before.total()} ops")
    with clock("data"):
        data, evaluation = _data(module, recipe, asked, progress)
    with clock("compress"):
        told = {"progress": progress, "instruments": choice.instruments, "layers": asked.layers}
        origin = digest_of(files_of(source, module))
        report.result = _compressed(module, recipe, data, evaluation, origin=origin, **told)
    report.module, report.ops_after, report.stats = module, count_ops(module), report.result.stats
    report.notes += report.result.notes
    if output is not None and target is not None:
        inputs = _checked_with(evaluation) if choice.inputs is None else choice.inputs
        written = replace(choice, inputs=inputs, seed=recipe.data.seed)
        job = CompressJob(module.clone(), module, source, Path(output), target, written, report)
        with spending(Budget.for_models(module)):
            job.write_checked(clock, progress)
    report.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return report


def _own(module: Module, source: Any) -> Module:
    """A module that may be changed: the caller's own stays as it is."""
    return module.clone() if module is source else module


def _request(source: Any, options: dict[str, Any]) -> tuple[Request, CompileOptions]:
    own = {key: value for key, value in options.items() if key in Request.__dataclass_fields__}
    choice = options_for(source, {key: value for key, value in options.items() if key not in own})
    if choice.passes is not None:
        raise UsageError("compress takes a recipe, not passes", hint="the steps of a recipe are passes")
    return Request(**own), choice


def recipe_of(asked: Request) -> Recipe:
    """The recipe that a request stands for, checked whole. Flags beat the recipe's own values. Raises UsageError."""
    from ..compress.recipe import Recipe, find_recipe, from_flags

    base = asked.recipe
    if base is not None and not isinstance(base, Recipe):
        base = find_recipe(base)
    made = from_flags(
        base,
        quantize=asked.quantize,
        prune=_as_options(asked.prune, "ratio"),
        clip=_as_options(asked.clip, "threshold"),
        where=asked.where,
        keep=asked.keep,
    )
    given = {"preprocess": asked.preprocess, "count": asked.samples, "seed": asked.seed}
    data = replace(made.data, **{key: value for key, value in given.items() if value is not None})
    limits = replace(made.verify, **{key: value for key, value in asked.limits.items() if value is not None})
    return replace(made, data=data, verify=limits, level=made.level if asked.level is None else asked.level)


def _as_options(given: float | Mapping[str, Any] | None, name: str) -> Mapping[str, Any] | None:
    return given if given is None or isinstance(given, Mapping) else {name: given}


def _data(module: Module, recipe: Recipe, asked: Request, progress: Progress) -> tuple[Dataset | None, Dataset | None]:
    from ..compress.flow import open_sets

    data, evaluation = open_sets(module, recipe, asked.data, asked.eval_data)
    used = f"{data.count} samples to calibrate" if data is not None else "none to calibrate"
    if data is not None or evaluation is not None:
        progress("data", f"{used}, {evaluation.count if evaluation is not None else 0} to measure on")
    if evaluation is None and any(limit is not None for limit in vars(recipe.verify).values()):
        raise UsageError(
            "limits of the loss need samples to measure it on", code="R024", hint="give --data or --eval-data"
        )
    return data, evaluation


def _compressed(
    module: Module, recipe: Recipe, data: Dataset | None, evaluation: Dataset | None, **options: Any
) -> Compression:
    """The recipe's result. Raises LimitsExceeded where a limit does not hold."""
    from ..compress import flow

    result = flow.compress(module, recipe, data=data, evaluation=evaluation, **options)
    result.verdicts = flow.judge(result)
    if result.failed:
        raise flow.LimitsExceeded(result)
    return result


def _checked_with(evaluation: Dataset | None) -> Any:
    """Real inputs for the check of the file; None leaves it to seeded ones."""
    return None if evaluation is None else next(iter(evaluation.batches(CHECKED)), None)


@dataclass
class CompressJob(Job):
    """Writing as a compile does it; the file must be what the compressed module is, and within the recipe's budget."""

    than: str = "the compressed model"
    remedy: str = ""

    def accept(self, written: Sequence[str]) -> None:
        from ..compress import flow

        report = self.report
        assert isinstance(report, CompressReport) and report.result is not None
        before = files_of(self.source, report.result.source)
        report.zipped = (zipped(before), zipped(written)) if before else None
        report.fused = self.fused(written[-1], report.result)
        report.result.verdicts = flow.judge(report.result, (report.bytes_before, report.bytes_after))
        if report.result.failed:
            raise flow.LimitsExceeded(report.result, report.target)

    def fused(self, path: str, result: Compression) -> str:
        """How many layers the runtime itself computes in integers, where it can tell and any should."""
        from ..compress.report import coverage

        runner = self.format.runner()
        if runner is None or not hasattr(runner, "integer_layers") or coverage(result.layers) is None:
            return ""
        version = runner.available()
        if version is None:
            return ""
        try:
            integer, of = runner.integer_layers(path)
        except (Unsupported, SystemFailure) as error:
            return f"unknown: {error.message}"
        return f"{runner.__name__.rpartition('.')[2]} {version} fuses {integer} of {of} layers to integers"


def files_of(source: Any, module: Module) -> list[str]:
    """The files that a source consists of, each once; none for a live model."""
    from .load import source_files

    return list(dict.fromkeys(map(os.path.realpath, source_files(source, module))))


def digest_of(paths: Sequence[str]) -> str:
    """SHA-256 of files, one after the other; nothing for none."""
    state = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                state.update(block)
    return state.hexdigest() if paths else ""


def zipped(paths: Sequence[str]) -> int:
    """Bytes of files as a zip archive would hold them (deflate, the usual level)."""
    total = 0
    for path in paths:
        pack = zlib.compressobj(6)
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                total += len(pack.compress(block))
        total += len(pack.flush())
    return total


@dataclass
class Plan:
    """What a recipe would do: rows (layer, op, bytes, MACs, the steps that take it), and the groups that pruning ties
    together, rows (group, units, kind, layers, why it cannot be cut)."""

    recipe: Recipe
    layers: list[tuple[Any, ...]]
    groups: list[tuple[Any, ...]]

    def as_json(self) -> dict[str, Any]:
        return {"recipe": self.recipe.text, "steps": self.recipe.pipeline, "layers": self.layers, "groups": self.groups}


def plan(source: Any, **options: Any) -> Plan:
    """The steps, layers and groups of `compress(source, **options)`, found without data; nothing is compressed. Raises
    UsageError (R022) for layers that are not there."""
    from ..compress import flow

    asked, choice = _request(source, options)
    recipe = recipe_of(asked)
    module = flow.prepared(_own(loaded(source, None, choice), source), recipe)
    return Plan(recipe, flow.planned_layers(module, recipe), flow.planned_groups(module, recipe))
