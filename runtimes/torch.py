"""Run `.pt2` programs, and the `.py` modules that anyir writes, in torch: in a child process, on the user's request only.

A `.pt2` is loaded by torch, a `.py` is executed: both are the user's own outputs. Both sides live here: `run` in the
parent, `work` in the child, which alone imports torch.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir.errors import AnyIRError, MissingPackage, SystemFailure
from .child import Arrays, run_in_child

_PACKAGE = "torch"


def available() -> str | None:
    """Version of the installed torch, or None."""
    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class Job:
    """One run of one file: inputs by name."""

    path: str
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)


def run(path: str | os.PathLike[str], inputs: Mapping[str, np.ndarray], *, timeout: float = 300.0) -> Arrays:
    """Outputs by name of one inference on the CPU: dict keys, `output_0` ... for positions, deeper levels joined by dots.

    Raises MissingPackage without torch, SystemFailure when torch refuses the file or does not come back in time.
    """
    outcome = run_many([Job(os.fspath(path), inputs)], timeout=timeout)[0]
    if isinstance(outcome, AnyIRError):
        raise outcome
    return outcome


def run_many(jobs: Sequence[Job], *, timeout: float = 300.0) -> list[Arrays | AnyIRError]:
    """Run `jobs` one after the other in one child; a refused job yields its error in its place."""
    if available() is None:
        raise MissingPackage("torch is not installed", code="D010", hint="pip install anyir[torch]")
    paths = [os.path.abspath(job.path) for job in jobs]
    arrays = {f"{i}/{name}": np.asarray(value) for i, job in enumerate(jobs) for name, value in job.inputs.items()}
    outcomes: list[Arrays | AnyIRError] = [{} for _ in jobs]
    for key, value in run_in_child(__name__, {"paths": paths}, arrays, timeout).items():
        number, _, name = key.partition("/")
        place = outcomes[int(number)]
        if not name:
            outcomes[int(number)] = SystemFailure(str(value[()]), code="F130", where=jobs[int(number)].path)
        elif isinstance(place, dict):
            place[name] = value
    return outcomes


# ------------------------------------------------------------------------------------------------- the child's side


def work(request: dict[str, Any], arrays: Arrays) -> Arrays:
    """Load and call each file; outputs of job i come back as "i/name", what torch said about a refused one as "i"."""
    import torch
    import torch.ao.quantization.fx._decomposed  # registers the operators of quantised programs

    torch.set_num_threads(1)
    found: Arrays = {}
    for number, path in enumerate(request["paths"]):
        mark = f"{number}/"
        inputs = {k[len(mark) :]: _tensor(torch, value) for k, value in arrays.items() if k.startswith(mark)}
        try:
            with torch.no_grad():
                outputs = (_from_source if path.endswith(".py") else _from_program)(torch, path, inputs)
        except Exception as error:  # torch raises many types, and the file's own code any
            found[str(number)] = np.asarray(f"torch refused the file: {type(error).__name__}: {error}"[:1000])
        else:
            found |= {mark + name: _array(torch, value) for name, value in outputs.items()}
    return found


def _from_program(torch: Any, path: str, inputs: dict[str, Any]) -> dict[str, Any]:
    return named(torch.export.load(path).module()(**inputs))


def _from_source(torch: Any, path: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Execute our own output: INPUTS and OUTPUTS are its tables, `load` makes the module."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("anyir_net", path)
    if spec is None or spec.loader is None:
        raise ValueError("not a Python file")
    source = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    found = named(source.load(path)(*(inputs[name] for name in source.INPUTS)))
    return dict(zip(source.OUTPUTS, found.values(), strict=True))


def named(outputs: Any) -> dict[str, Any]:
    """Nested outputs by the names that the frontend gives them."""
    found: dict[str, Any] = {}
    stack: list[tuple[tuple[Any, ...], Any]] = [((), outputs)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, Mapping):
            stack.extend(reversed([((*path, key), item) for key, item in value.items()]))
        elif isinstance(value, list | tuple):
            stack.extend(reversed([((*path, index), item) for index, item in enumerate(value)]))
        else:
            head = path[0] if path else 0
            name = f"output_{head}" if isinstance(head, int) else str(head)
            found[".".join(map(str, (name, *path[1:])))] = value
    return found


def _tensor(torch: Any, array: np.ndarray) -> Any:
    if array.dtype.name == "bfloat16" or "float8" in array.dtype.name:
        kind = np.int16 if array.dtype.itemsize == 2 else np.uint8
        return torch.from_numpy(np.ascontiguousarray(array).view(kind)).view(getattr(torch, array.dtype.name))
    return torch.from_numpy(np.array(array))


def _array(torch: Any, value: Any) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    plain = value.detach().cpu().contiguous()
    name = str(plain.dtype).removeprefix("torch.")
    if name == "bfloat16" or "float8" in name:
        import ml_dtypes

        raw = plain.view(torch.int16 if name == "bfloat16" else torch.uint8).numpy()
        return raw.view(getattr(ml_dtypes, name))
    return plain.numpy()
