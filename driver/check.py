"""Verification: two models, the same inputs, and a verdict per output with its worst error against a computed limit.

The source module on our reference kernels is the reference. A written file is read back by our own reader and run on
the kernels, and run in its real runtime where that is installed, at the sample sizes and, where dims are open, at a
second one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..ir.errors import (
    AnyIRError,
    InternalError,
    InvalidModel,
    LimitExceeded,
    MissingPackage,
    NumericsError,
    SystemFailure,
    Unsupported,
    UsageError,
)
from ..ir.graph import Module
from . import formats
from .formats import Format
from .options import near

if TYPE_CHECKING:
    import numpy as np

    from ..kernels.compare import Limit, Report

Arrays = dict[str, "np.ndarray"]

KERNELS = "reference kernels"

#: The code of a runtime that did not finish: nothing is known then.
LATE = "F121"

#: Simulations of rounding behind a limit; one is enough where every output has MANY elements to measure a spread on.
RUNS = 3
MANY = 1000

#: Outputs named in one line.
_NAMED = 5


@dataclass
class Check:
    """One comparison: who judged, at which input shapes, and the report; or why there was none: `skipped` when the
    judge could not be asked, `failed` when it could not run the file."""

    judge: str
    shapes: str = ""
    report: Report | None = None
    skipped: str = ""
    failed: str = ""

    @property
    def passed(self) -> bool:
        return not self.failed and (self.report is None or self.report.passed)


@dataclass
class VerifyReport:
    """What `verify` found: one check per set of inputs."""

    checks: list[Check]

    @property
    def passed(self) -> bool:
        """No output differs, and of each there was something to compare."""
        return all(check.passed for check in self.checks) and not unproven(self.checks)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        from .report import checks_table

        return checks_table(self.checks)


def unproven(checks: Sequence[Check]) -> str:
    """In words, the outputs of which every comparison saw nothing but NaN; empty where there are none."""
    blank: dict[str, bool] = {}
    for check in checks:
        for row in check.report.rows if check.report is not None else ():
            blank[row.name] = blank.get(row.name, True) and row.blank
    names = [name for name, always in blank.items() if always]
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    listed = ", ".join(names[:_NAMED]) + more
    return f"output{'s' * (len(names) > 1)} {listed} {'are' if len(names) > 1 else 'is'} all NaN on every input tried"


def check_file(
    original: Module,
    path: Path,
    fmt: Format,
    samples: Sequence[Arrays],
    progress: Callable[[str, str], None] = lambda stage, text: None,
    *,
    given: bool = False,
) -> list[Check]:
    """Compare the file at `path` with the module it came from on each of `samples`: by the kernels, then by the
    runtime. Samples that are not `given` by the user give way to calmer ones where all they yield is NaN."""
    from ..kernels.budget import OverBudget
    from ..kernels.run import run

    readback = _read_back(path, fmt)
    _same_interface(original, readback, fmt)
    by_kernels: list[Check] = []
    references: list[tuple[Arrays, Arrays, Any]] = []
    for sample in samples:
        try:
            arrays, reference = _telling(lambda inputs: run(original, inputs), sample, given)
            limits = _limits(original, arrays, reference)
            actual = _renamed(run(readback, list(arrays.values())), reference)
        except OverBudget:
            if not references:
                raise
            break  # one size was checked
        references.append((arrays, reference, limits))
        by_kernels.append(_judged(KERNELS, arrays, reference, actual, limits))
    return by_kernels + _by_runtime(fmt, path, references, progress)


def _telling(run: Callable[[Arrays], Arrays], arrays: Arrays, given: bool) -> tuple[Arrays, Arrays]:
    """Inputs and what `run` makes of them: `arrays`, or where outputs are all NaN and the inputs not `given`, of the calmer
    ones those that leave the fewest such outputs."""
    from ..kernels.budget import OverBudget
    from ..kernels.compare import all_nan
    from ..kernels.inputs import calmer

    best = arrays, run(arrays)
    least = sum(map(all_nan, best[1].values()))
    for other in () if given else calmer(arrays):
        if not least:
            break
        try:
            made = run(other)
        except (InvalidModel, OverBudget):
            continue
        count = sum(map(all_nan, made.values()))
        if count < least:
            best, least = (other, made), count
    return best


def _limits(original: Module, arrays: Arrays, reference: Arrays) -> Any:
    """How far a correct file may be from the source's outputs."""
    from ..kernels.compare import limits_for

    fewest = min((getattr(array, "size", 0) for array in reference.values()), default=0)
    return limits_for(original, arrays, runs=1 if fewest >= MANY else RUNS, exact=reference)


def _by_runtime(
    fmt: Format,
    path: Path,
    references: Sequence[tuple[Arrays, Arrays, Any]],
    progress: Callable[[str, str], None],
) -> list[Check]:
    """`references`: inputs, the source's outputs for them, and their limits."""
    runner = fmt.runner()
    if runner is None:
        return []
    name = runner.__name__.rpartition(".")[2]
    version = runner.available()
    if version is None:
        return [Check(name, skipped=f'not installed (pip install "anyir[{fmt.extra}]")')]
    progress("verify", f"{name} {version}")
    checks = []
    found = _run_all(runner, path, [arrays for arrays, _, _ in references])
    for (arrays, reference, limits), outcome in zip(references, found, strict=True):
        judge = f"{name} {version}"
        if isinstance(outcome, AnyIRError) and (
            isinstance(outcome, (MissingPackage, Unsupported)) or outcome.code == LATE
        ):
            checks.append(Check(judge, describe(arrays), skipped=f"cannot run it: {outcome.message}"))
        elif isinstance(outcome, AnyIRError):
            checks.append(Check(judge, describe(arrays), failed=str(outcome)))
        else:
            checks.append(_judged(judge, arrays, reference, _renamed(outcome, reference), limits))
    return checks


def _run_all(runner: ModuleType, path: Path, samples: Sequence[Arrays]) -> list[Arrays | AnyIRError]:
    """Outputs for each set of inputs, or what went wrong; in one child process where the runtime needs one."""
    if hasattr(runner, "run_many"):
        try:
            return runner.run_many([runner.Job(os.fspath(path), arrays) for arrays in samples])
        except SystemFailure as error:
            return [error] * len(samples)
    made: list[Arrays | AnyIRError] = []
    for arrays in samples:
        try:
            made.append(runner.run(path, arrays))
        except (MissingPackage, Unsupported, SystemFailure, InvalidModel) as error:
            made.append(error)
    return made


def _read_back(path: Path, fmt: Format) -> Module:
    """Our own file by our own reader. Raises InternalError when that refuses it."""
    try:
        module: Module = fmt.reader()(path)
    except (InvalidModel, Unsupported, LimitExceeded) as error:
        raise InternalError(f"the {fmt.name} file that was written cannot be read back: {error}") from error
    return module


def _judged(judge: str, arrays: Arrays, reference: Arrays, actual: Arrays, limits: Any) -> Check:
    from ..kernels.compare import compare

    return Check(judge, describe(arrays), compare(reference, actual, limits))


def _same_interface(original: Module, readback: Module, fmt: Format) -> None:
    """The user's names in the user's order are in the file. Raises NumericsError."""
    for kind in ("input_names", "output_names"):
        wanted, found = getattr(original.signature, kind)(), getattr(readback.signature, kind)()
        if wanted != found:
            raise NumericsError(
                f"the {fmt.name} file has the {kind.replace('_', ' ')} {found}, the source has {wanted}", code="N003"
            )


def _renamed(actual: Mapping[str, Any], reference: Mapping[str, Any]) -> Arrays:
    """Outputs under the reference's names: by name where they agree, else by position."""
    if set(actual) == set(reference):
        return {name: actual[name] for name in reference}
    if len(actual) != len(reference):
        raise NumericsError(
            f"{len(actual)} outputs instead of {len(reference)}: {list(actual)} and {list(reference)}", code="N003"
        )
    return dict(zip(reference, actual.values(), strict=True))


def sample_sets(module: Module, inputs: Any = None, seed: int = 0) -> list[Arrays]:
    """The inputs to check with: the given ones, else seeded samples at one size and, for open dims, at a second.

    Sizes of open dims are tried until the model runs with them: its own arithmetic may want multiples of 32, or a window
    no shorter than its filters. Raises the last failure where none fits.
    """
    from ..kernels.budget import Budget, OverBudget, spending
    from ..kernels.inputs import candidate_sizes, sample_inputs
    from ..kernels.run import bind_inputs
    from .npz import gathered

    if inputs is not None:
        inputs = gathered(module.signature, inputs) if isinstance(inputs, Mapping) else inputs
        return [dict(zip(module.signature.input_names(), bind_inputs(module.signature, inputs), strict=True))]
    candidates = list(candidate_sizes(module))
    movable = [name for name in candidates[0] if len({sizes[name] for sizes in candidates}) > 1]
    if not movable:
        return [sample_inputs(module, seed=seed)]
    made: list[tuple[dict[str, int], Arrays]] = []
    failure: AnyIRError | None = None
    with spending(Budget.for_models(module)):  # of their own: the check itself has all of its budget left
        for sizes in candidates:
            if len(made) == 2 or isinstance(failure, OverBudget):
                break
            if made and any(sizes[name] == made[0][0][name] for name in movable):
                continue
            try:
                arrays = sample_inputs(module, seed=seed + len(made), sizes=sizes)
                refused = _refusal(module, arrays)
            except OverBudget as error:
                refused = error
            if refused is None:
                made.append((sizes, arrays))
            failure = refused or failure
    if failure is not None and not made:
        raise failure
    return [arrays for _, arrays in made]


def _refusal(module: Module, arrays: Arrays) -> AnyIRError | None:
    """Why the kernels cannot run `module` on these inputs; None where they can, or where they lack one of its ops. Raises
    OverBudget."""
    from ..kernels.run import run

    try:
        run(module, list(arrays.values()))
    except InvalidModel as error:
        return error
    except Unsupported:
        return None
    return None


def describe(arrays: Arrays) -> str:
    """Input shapes in short, `1x3x8x8` or `a 1x3, b 2`."""
    shown = {name: _shape(item) for name, item in arrays.items()}
    return next(iter(shown.values())) if len(shown) == 1 else ", ".join(f"{n} {s}" for n, s in shown.items())


def _shape(item: Any) -> str:
    """Of an array; how many there are of a sequence, with the shape of the first."""
    if isinstance(item, list):
        return f"{len(item)} of {_shape(item[0])}" if item else "empty"
    return "absent" if item is None else "x".join(map(str, getattr(item, "shape", ()))) or "scalar"


@dataclass
class Side:
    """One of two models to compare: its module and how it is run."""

    name: str
    module: Module
    run: Callable[[Arrays], Arrays]
    judge: str


def side(source: Any, with_runtime: str | None = None, **options: Any) -> Side:
    """A model made ready to run, on the kernels or in a named runtime (files only); `options` go to `load`. Raises
    UsageError, MissingPackage."""
    from ..kernels.run import run
    from .load import load

    runner = None if with_runtime in (None, "kernels") else _runtime_for(source, str(with_runtime))
    module = load(source, **options)
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else module.name
    if runner is None:
        return Side(name, module, lambda arrays: run(module, list(arrays.values())), KERNELS)
    return Side(name, module, lambda arrays: runner.run(source, arrays), f"{with_runtime} {runner.available()}")


def _runtime_for(source: Any, name: str) -> ModuleType:
    """The installed runtime `name`, if it runs files such as `source`. Raises UsageError, MissingPackage."""
    if name not in formats.RUNTIMES:
        raise UsageError(f"there is no runtime {name!r}", hint=near(name, ["kernels", *formats.RUNTIMES]))
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError("only files run in a runtime", hint="save the model first")
    fmt = formats.of_path(source)
    if fmt.runtime != formats.by_name(formats.RUNTIMES[name]).runtime:
        raise UsageError(f"{name} does not run {fmt.name} files", where=os.fspath(source))
    return formats.need_runtime(fmt)


def verify(
    a: Any,
    b: Any,
    *,
    inputs: Any = None,
    with_a: str | None = None,
    with_b: str | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    cosine: float | None = None,
    seed: int = 0,
) -> VerifyReport:
    """Compare two models on the same inputs, `a` being the reference. Limits are computed from `a` unless some are given, all
    of which must then hold: |a - b| <= `atol` + `rtol` |a| for each element, and for each output at least this `cosine`.

    `with_a` and `with_b` name an installed runtime for that side. Inputs and outputs are matched by name, else by
    position.
    """
    from ..kernels.budget import Budget, spending

    left, right = side(a, with_a), side(b, with_b)
    with spending(Budget.for_models(left.module, right.module)):
        return VerifyReport(_compared(left, right, inputs, _given_limit(atol, rtol, cosine), seed))


def _given_limit(atol: float | None, rtol: float | None, cosine: float | None) -> Limit | None:
    """A limit of the user's own; None without any. Where only the cosine is given, elements may differ by any amount."""
    from ..kernels.compare import Limit

    if atol is None and rtol is None and cosine is None:
        return None
    most = atol if atol is not None else 0.0 if rtol is not None else float("inf")
    return Limit(most, "given", rtol=rtol or 0.0, cosine=-1.0 if cosine is None else cosine)


def _compared(left: Side, right: Side, inputs: Any, given_limit: Limit | None, seed: int) -> list[Check]:
    """One check per set of inputs."""
    from ..kernels.compare import limits_for

    names = right.module.signature.input_names()
    checks = []
    for sample in sample_sets(left.module, inputs, seed):
        if len(names) != len(sample):
            raise UsageError(f"{right.name} has {len(names)} inputs, {left.name} has {len(sample)}")
        arrays, made = _telling(left.run, sample, inputs is not None)
        by_name = set(names) == set(arrays)
        given = {n: arrays[n] for n in names} if by_name else dict(zip(names, arrays.values(), strict=True))
        reference = _renamed(made, dict.fromkeys(left.module.signature.output_names()))
        actual = _renamed(right.run(given), reference)
        limits = limits_for(left.module, arrays) if given_limit is None else given_limit
        judge = left.judge if left.judge == right.judge else f"{left.judge} / {right.judge}"
        checks.append(_judged(judge, arrays, reference, actual, limits))
    return checks
