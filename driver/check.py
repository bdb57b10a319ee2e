"""Verification: two models, the same inputs, and a verdict per output with its worst error against a computed limit.

The source module on our reference kernels is the reference. A written file is read back by our own reader and run on the
kernels, and run in its real runtime where that is installed, at the sample sizes and, where dims are open, at a second one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.errors import AnyIRError, NumericsError, UsageError
from ..ir.graph import Module
from . import formats
from .formats import Format

if TYPE_CHECKING:
    import numpy as np

    from ..kernels.compare import Report

Arrays = dict[str, "np.ndarray"]

KERNELS = "reference kernels"

#: Simulations of rounding behind a limit; one is enough for a large model, whose outputs have many elements.
RUNS = 3
SLOW_SECONDS = 1.0


@dataclass
class Check:
    """One comparison: who judged, at which input shapes, and the report; or why there was none."""

    judge: str
    shapes: str = ""
    report: Report | None = None
    skipped: str = ""

    @property
    def passed(self) -> bool:
        return self.report is None or self.report.passed


def check_file(
    original: Module,
    path: Path,
    fmt: Format,
    inputs: Any = None,
    seed: int = 0,
    progress: Callable[[str, str], None] = lambda stage, text: None,
) -> list[Check]:
    """Compare the file at `path` with the module it came from. Raises what reader, kernels and runtimes raise."""
    from ..kernels.compare import limits_for
    from ..kernels.run import run

    readback: Module = fmt.reader()(path)
    _same_interface(original, readback, fmt)
    runner = fmt.runner()
    version = runner.available() if runner is not None else None
    checks = []
    for arrays in sample_sets(original, inputs, seed):
        started = time.perf_counter()
        reference = run(original, arrays)
        slow = time.perf_counter() - started > SLOW_SECONDS
        limits = limits_for(original, arrays, runs=1 if slow else RUNS)
        shapes = describe(arrays)
        actual = _renamed(run(readback, list(arrays.values())), reference)
        checks.append(_judge(KERNELS, shapes, reference, actual, limits))
        if runner is not None and version is not None:
            name = f"{runner.__name__.rpartition('.')[2]} {version}"
            progress("verify", name)
            found = _renamed(runner.run(path, arrays), reference)
            checks.append(_judge(name, shapes, reference, found, limits))
    if runner is not None and version is None:
        name = runner.__name__.rpartition(".")[2]
        checks.append(Check(name, skipped=f'not installed (pip install "anyir[{fmt.extra}]")'))
    return checks


def _judge(name: str, shapes: str, reference: Arrays, actual: Arrays, limits: Any) -> Check:
    from ..kernels.compare import compare

    return Check(name, shapes, compare(reference, actual, limits))


def _same_interface(original: Module, readback: Module, fmt: Format) -> None:
    """The user's names in the user's order are in the file. Raises NumericsError."""
    for kind in ("input_names", "output_names"):
        wanted, found = getattr(original.signature, kind)(), getattr(readback.signature, kind)()
        if wanted != found:
            raise NumericsError(
                f"the {fmt.name} file has the {kind.replace('_', ' ')} {found}, the source has {wanted}"
            )


def _renamed(actual: Mapping[str, Any], reference: Arrays) -> Arrays:
    """Outputs under the reference's names: by name where they agree, else by position."""
    if set(actual) == set(reference):
        return {name: actual[name] for name in reference}
    if len(actual) != len(reference):
        raise NumericsError(f"{len(actual)} outputs instead of {len(reference)}: {list(actual)} and {list(reference)}")
    return dict(zip(reference, actual.values(), strict=True))


def sample_sets(module: Module, inputs: Any = None, seed: int = 0) -> list[Arrays]:
    """The inputs to check with: the given ones, else seeded samples at one size and, for open dims, at a second."""
    from ..kernels.inputs import resized, sample_inputs
    from ..kernels.run import bind_inputs

    if inputs is not None:
        names = module.signature.input_names()
        return [dict(zip(names, bind_inputs(module.signature.graph, names, inputs), strict=True))]
    first = sample_inputs(module, seed=seed)
    larger = resized(module)
    return [first, sample_inputs(module, seed=seed + 1, sizes=larger)] if larger else [first]


def describe(arrays: Arrays) -> str:
    """Input shapes in short, `1x3x8x8` or `a 1x3, b 2`."""
    shown = {name: "x".join(map(str, a.shape)) or "scalar" for name, a in arrays.items()}
    return next(iter(shown.values())) if len(shown) == 1 else ", ".join(f"{n} {s}" for n, s in shown.items())


def read_inputs(path: str | os.PathLike[str]) -> Arrays:
    """The arrays of an .npz file by name; pickled members are refused. Raises InvalidModel, SystemFailure."""
    import numpy as np

    from ..ir.errors import InvalidModel, SystemFailure

    try:
        with np.load(path, allow_pickle=False) as stored:
            if not hasattr(stored, "files"):
                raise InvalidModel("not an .npz file", where=str(path), hint="numpy.savez(path, name=array)")
            return {name: stored[name] for name in stored.files}
    except OSError as error:
        raise SystemFailure(f"cannot read: {error.strerror or error}", where=str(path)) from None
    except (ValueError, KeyError, EOFError, AttributeError) as error:
        raise InvalidModel(f"not a readable .npz file: {error}", where=str(path)) from None
    except Exception as error:  # zipfile and zlib have errors of their own
        raise InvalidModel(f"not a readable .npz file: {type(error).__name__}", where=str(path)) from None


@dataclass
class Side:
    """One of two models to compare: its module and how it is run."""

    name: str
    module: Module
    run: Callable[[Arrays], Arrays]
    judge: str


def side(source: Any, with_runtime: str | None = None) -> Side:
    """A model made ready to run, on the kernels or in a named runtime (files only). Raises UsageError, MissingPackage."""
    from ..kernels.run import run
    from .flow import load

    module = load(source)
    name = str(source) if isinstance(source, (str, os.PathLike)) else module.name
    if with_runtime in (None, "kernels"):
        return Side(name, module, lambda arrays: run(module, list(arrays.values())), KERNELS)
    if with_runtime not in formats.RUNTIMES:
        raise UsageError(f"there is no runtime {with_runtime!r}", hint=f"known: kernels, {', '.join(formats.RUNTIMES)}")
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError("only files run in a runtime", hint="save the model first")
    fmt = formats.of_path(source)
    if fmt.runtime != formats.by_name(formats.RUNTIMES[with_runtime]).runtime:
        raise UsageError(f"{with_runtime} does not run {fmt.name} files", where=str(source))
    runner = formats.need_runtime(fmt)
    return Side(name, module, lambda arrays: runner.run(source, arrays), f"{with_runtime} {runner.available()}")


def verify(
    a: Any,
    b: Any,
    *,
    inputs: Any = None,
    with_a: str | None = None,
    with_b: str | None = None,
    atol: float | None = None,
    seed: int = 0,
) -> list[Check]:
    """Compare two models on the same inputs, `a` being the reference. Limits are computed from `a` unless `atol` is given.

    `with_a` and `with_b` name an installed runtime for that side. Inputs and outputs are matched by name, else by position.
    """
    from ..kernels.compare import limits_for

    left, right = side(a, with_a), side(b, with_b)
    checks = []
    for arrays in sample_sets(left.module, inputs, seed):
        reference = left.run(arrays)
        reference = _renamed(reference, dict.fromkeys(left.module.signature.output_names()))
        names = right.module.signature.input_names()
        given = arrays if set(names) == set(arrays) else dict(zip(names, arrays.values(), strict=False))
        given = {name: given[name] for name in names if name in given}
        if len(given) != len(names):
            raise UsageError(f"{right.name} has {len(names)} inputs, {left.name} has {len(arrays)}")
        actual = _renamed(right.run(given), reference)
        limits = limits_for(left.module, arrays) if atol is None else atol
        checks.append(_judge(f"{left.judge} / {right.judge}", describe(arrays), reference, actual, limits))
    return checks


def all_passed(checks: Sequence[Check]) -> bool:
    return all(check.passed for check in checks)
