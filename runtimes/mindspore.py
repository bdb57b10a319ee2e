"""Run `.mindir` files in MindSpore on CPU, always in a child process: a wrong argument count there is a segmentation fault.

Both sides live here: `run` and `run_many` in the parent, `work` in the child, which alone imports MindSpore (about 5 s, so
tests put many files into one child). MindSpore returns a tuple without names; names come from the file.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..formats import mindir
from ..ir.errors import AnyIRError, InvalidModel, MissingPackage, SystemFailure
from .child import Arrays, run_in_child

_PACKAGE = "mindspore"


@dataclass(frozen=True, slots=True)
class Job:
    """One run of one file, inputs by their names in the file."""

    path: str
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)


def available() -> str | None:
    """Version of the installed MindSpore, or None."""
    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def run(path: str | os.PathLike[str], inputs: Mapping[str, np.ndarray], *, timeout: float = 600.0) -> Arrays:
    """Outputs by name of one inference.

    Raises MissingPackage without MindSpore, InvalidModel when the inputs are not those of the file, and SystemFailure when
    MindSpore refuses the file, crashes, or does not come back within `timeout` seconds.
    """
    outcome = run_many([Job(os.fspath(path), inputs)], timeout=timeout)[0]
    if isinstance(outcome, AnyIRError):
        raise outcome
    return outcome


def run_many(jobs: Sequence[Job], *, timeout: float = 600.0) -> list[Arrays | AnyIRError]:
    """Run `jobs` one after the other in one child; a refused job yields its error in its place.

    A job that crashes the process fails alone: the rest goes on in a new child.
    """
    if available() is None:
        raise MissingPackage("MindSpore is not installed", code="D010", hint=f"pip install {_PACKAGE}")
    outcomes: list[Arrays | AnyIRError | None] = [None] * len(jobs)
    ready: dict[int, tuple[list[np.ndarray], list[str]]] = {}
    for number, job in enumerate(jobs):
        try:
            ready[number] = _arranged(job)
        except AnyIRError as error:
            outcomes[number] = error
    _run_ready(jobs, ready, outcomes, timeout)
    return [o if o is not None else SystemFailure("the job was not run", code="F120") for o in outcomes]


def _arranged(job: Job) -> tuple[list[np.ndarray], list[str]]:
    """The inputs in the file's order, and the names of its outputs."""
    graph = mindir.read(job.path).record.graph
    names = [mindir.short_name(slot.name) for slot in graph.input]
    if sorted(names) != sorted(job.inputs):
        raise InvalidModel(f"inputs {sorted(job.inputs)} given, {names} expected", where=job.path)
    return [np.asarray(job.inputs[name]) for name in names], [mindir.short_name(slot.name) for slot in graph.output]


def _run_ready(jobs: Sequence[Job], ready: dict[int, Any], outcomes: list[Any], timeout: float) -> None:
    """One child for all; a batch that takes its child down is halved until the guilty job stands alone."""
    batches = [list(ready)] if ready else []
    while batches:
        batch = batches.pop()
        arrays = {f"{n}/{i}": value for n in batch for i, value in enumerate(ready[n][0])}
        request = {"jobs": [[n, os.path.abspath(jobs[n].path), len(ready[n][0])] for n in batch]}
        try:
            found = run_in_child(__name__, request, arrays, timeout)
        except SystemFailure as error:
            if len(batch) > 1:
                half = len(batch) // 2
                batches += [batch[half:], batch[:half]]
            else:
                outcomes[batch[0]] = error.at(jobs[batch[0]].path)
            continue
        for n in batch:
            outcomes[n] = _outcome(jobs[n].path, n, found, ready[n][1])


def _outcome(path: str, number: int, found: Arrays, names: list[str]) -> Arrays | AnyIRError:
    refusal = found.get(str(number))
    if refusal is not None:
        return SystemFailure(str(refusal[()]), code="F130", where=path)
    values = [found[f"{number}/{i}"] for i in range(len(names)) if f"{number}/{i}" in found]
    if len(values) != len(names):
        return SystemFailure(
            f"{len(values)} results came back, the file has {len(names)} outputs", code="F130", where=path
        )
    return dict(zip(names, values, strict=True))


# ------------------------------------------------------------------------------------------------- the child's side


def work(request: dict[str, Any], arrays: Arrays) -> Arrays:
    """Run every job; output i of job n comes back as "n/i", what MindSpore said about a refused one as "n"."""
    import mindspore

    mindspore.set_context(mode=mindspore.GRAPH_MODE, device_target="CPU")
    found: Arrays = {}
    for number, path, count in request["jobs"]:
        try:
            outputs = _invoke(mindspore, path, [arrays[f"{number}/{i}"] for i in range(count)])
        except Exception as error:  # MindSpore raises every built-in kind; the parent names the file
            found[str(number)] = np.asarray(f"MindSpore refused the file: {type(error).__name__}: {error}"[:1500])
        else:
            found |= {f"{number}/{i}": value for i, value in enumerate(outputs)}
    return found


def _invoke(mindspore: Any, path: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
    if not Path(path).is_file():
        raise FileNotFoundError(path)
    cell = mindspore.nn.GraphCell(mindspore.load(path))
    pending, flat = [cell(*[_tensor(mindspore, value) for value in inputs])], []
    while pending:
        value = pending.pop(0)
        if isinstance(value, (tuple, list)):
            pending = [*value, *pending]
        else:
            flat.append(_array(mindspore, value))
    return flat


def _tensor(mindspore: Any, value: np.ndarray) -> Any:
    if value.dtype.name == "bfloat16":
        return mindspore.Tensor(value.astype(np.float32)).astype(mindspore.bfloat16)
    return mindspore.Tensor(value)


def _array(mindspore: Any, value: Any) -> np.ndarray:
    if not hasattr(value, "asnumpy"):
        return np.asarray(value)
    if value.dtype == mindspore.bfloat16:
        import ml_dtypes

        return value.astype(mindspore.float32).asnumpy().astype(ml_dtypes.bfloat16)
    return value.asnumpy()
