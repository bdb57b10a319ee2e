"""Run `.tflite` files in LiteRT, always in a child process: a kernel that dislikes a file can end the process.

Both sides live here: `run` and `run_many` in the parent, `work` in the child, which alone imports `ai_edge_litert`.
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

_PACKAGE = "ai-edge-litert"


@dataclass(frozen=True, slots=True)
class Job:
    """One run of one file: inputs by signature name (by tensor name in a file without signatures).

    `reference` takes the kernels that define what integer operators mean, in place of those that are fast.
    """

    path: str
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    signature: str | None = None
    xnnpack: bool = True
    reference: bool = False


def available() -> str | None:
    """Version of the installed LiteRT, or None."""
    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def run(
    path: str | os.PathLike[str],
    inputs: Mapping[str, np.ndarray],
    *,
    signature: str | None = None,
    xnnpack: bool = True,
    timeout: float = 300.0,
) -> Arrays:
    """Outputs by signature name of one inference.

    Dynamic dims take the size of the given arrays. `xnnpack=False` runs the plain builtin kernels. Raises MissingPackage
    without LiteRT, and SystemFailure when LiteRT refuses the file, aborts, or does not come back within `timeout` s.
    """
    outcome = run_many([Job(os.fspath(path), inputs, signature, xnnpack)], timeout=timeout)[0]
    if isinstance(outcome, AnyIRError):
        raise outcome
    return outcome


def run_many(jobs: Sequence[Job], *, timeout: float = 300.0) -> list[Arrays | AnyIRError]:
    """Run `jobs` one after the other in one child; a refused job yields its error in its place.

    A job that aborts the process fails alone: the others run again without it.
    """
    if available() is None:
        raise MissingPackage("LiteRT is not installed", code="D010", hint=f"pip install {_PACKAGE}")
    return _one_child(list(jobs), timeout)


def _one_child(jobs: Sequence[Job], timeout: float) -> list[Arrays | AnyIRError]:
    wanted = [(os.path.abspath(j.path), j.signature, j.xnnpack, j.reference) for j in jobs]
    request = {"jobs": [dict(zip(("path", "signature", "xnnpack", "reference"), row, strict=True)) for row in wanted]}
    arrays = {f"{i}/{name}": np.asarray(value) for i, job in enumerate(jobs) for name, value in job.inputs.items()}
    try:
        flat = run_in_child(__name__, request, arrays, timeout)
    except SystemFailure as error:
        if len(jobs) <= 1:
            return [error] * len(jobs)
        half = len(jobs) // 2
        return _one_child(jobs[:half], timeout) + _one_child(jobs[half:], timeout)
    made: list[Arrays] = [{} for _ in jobs]
    refused: dict[int, AnyIRError] = {}
    for key, value in flat.items():
        number, _, name = key.partition("/")
        if name:
            made[int(number)][name] = value
        else:
            refused[int(number)] = SystemFailure(str(value[()]), code="F130", where=jobs[int(number)].path)
    return [refused.get(i, arrays) for i, arrays in enumerate(made)]


# ------------------------------------------------------------------------------------------------- the child's side


def work(request: dict[str, Any], arrays: Arrays) -> Arrays:
    """Run every job; the outputs of job i come back as "i/name", what LiteRT said about a refused one as "i"."""
    found: Arrays = {}
    for number, job in enumerate(request["jobs"]):
        mark = f"{number}/"
        inputs = {key[len(mark) :]: value for key, value in arrays.items() if key.startswith(mark)}
        try:
            outputs = _invoke(job, inputs)
        except (ValueError, RuntimeError, TypeError, KeyError) as error:
            found[str(number)] = np.asarray(f"LiteRT refused the file: {error}"[:1000])
        else:
            found |= {mark + name: value for name, value in outputs.items()}
    return found


def _invoke(job: dict[str, Any], inputs: Arrays) -> Arrays:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = OpResolverType.AUTO if job["xnnpack"] else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    kind = OpResolverType.BUILTIN_REF if job["reference"] else kind
    interpreter = Interpreter(job["path"], experimental_op_resolver_type=kind, num_threads=1)
    signatures = interpreter.get_signature_list()
    if not signatures:
        return _invoke_plain(interpreter, inputs)
    key = job["signature"] or next(iter(signatures))
    if key not in signatures:
        raise ValueError(f"no signature {key!r}, there are {sorted(signatures)}")
    expected = signatures[key]["inputs"]
    if sorted(expected) != sorted(inputs):
        raise ValueError(f"inputs {sorted(inputs)} given, {sorted(expected)} expected")
    return dict(interpreter.get_signature_runner(key)(**inputs))


def _invoke_plain(interpreter: Any, inputs: Arrays) -> Arrays:
    details = {detail["name"]: detail for detail in interpreter.get_input_details()}
    for name, value in inputs.items():
        if list(details[name]["shape"]) != list(value.shape):
            interpreter.resize_tensor_input(details[name]["index"], value.shape)
    interpreter.allocate_tensors()
    for name, value in inputs.items():
        interpreter.set_tensor(details[name]["index"], value)
    interpreter.invoke()
    return {detail["name"]: interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()}
