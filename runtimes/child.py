"""Run a worker in a child process: runtimes that can abort the process, or disturb it, never run in ours.

The parent starts `python -m anyir.runtimes.child WORKER DIR`. DIR is a private temporary folder: `request.json` and
`in.npz` go in, `out.npz` or `error.json` comes back. WORKER is a module of this package with a function
`work(request: dict, arrays: dict[str, ndarray]) -> dict[str, ndarray]`. Must not import a framework: workers do.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..ir.errors import AnyIRError, InternalError, MissingPackage, SystemFailure, Unsupported

_TAIL = 2000
_ERRORS = {"MissingPackage": MissingPackage, "Unsupported": Unsupported, "SystemFailure": SystemFailure}
Arrays = dict[str, np.ndarray]


def run_in_child(worker_module: str, request: dict[str, Any], arrays: Arrays, timeout: float = 300.0) -> Arrays:
    """The arrays that `work(request, arrays)` of `worker_module` returns, computed in a child process.

    `request` must be JSON; `arrays` may have any numpy or ml_dtypes dtype, names are free. A worker that raises an
    `AnyIRError`, dies by a signal, or runs longer than `timeout` seconds turns into a `SystemFailure` (or into
    `MissingPackage`/`Unsupported` where the worker said so); the child is always gone when this returns.
    """
    with tempfile.TemporaryDirectory(prefix="anyir-child-") as folder:
        base = Path(folder)
        (base / "request.json").write_text(json.dumps(request), encoding="utf-8")
        _store(base, "in", arrays)
        command = [sys.executable, "-m", __name__, worker_module, folder]
        code, log = _spawn(command, base, timeout)
        if (base / "error.json").exists():
            raise _rebuilt(json.loads((base / "error.json").read_text(encoding="utf-8")))
        if code is None:
            raise SystemFailure(
                f"{worker_module} did not finish within {timeout:g} s", code="F121", hint="raise timeout"
            )
        if code != 0 or not (base / "out.npz").exists():
            raise SystemFailure(f"the runtime process {_death(code)}: {log}", code="F120", where=worker_module)
        return _load(base, "out")


def _spawn(command: list[str], base: Path, timeout: float) -> tuple[int | None, str]:
    """Exit code (None after a timeout) and the end of what the child wrote to stderr."""
    root = str(Path(__file__).resolve().parents[1])
    with open(base / "log", "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(root), start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    text = (base / "log").read_bytes()[-_TAIL:].decode("utf-8", "replace").strip()
    return code, text or "no message"


def _environment(root: str) -> dict[str, str]:
    """The parent's environment, with the search path that found this package (it may be there by a path hook only)."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "GLOG_v": "3", "PYTHONUNBUFFERED": "1"}
    paths = [path for path in sys.path if path and path != root]
    return {**os.environ, **{k: os.environ.get(k, v) for k, v in quiet.items()}, "PYTHONPATH": os.pathsep.join(paths)}


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _rebuilt(told: dict[str, str]) -> AnyIRError:
    kind = _ERRORS.get(told["kind"], InternalError)
    return kind(told["message"], code=told["code"] or None, where=told["where"], hint=told["hint"])


def _store(base: Path, stem: str, arrays: Arrays) -> None:
    """One .npz plus a list of names, dtypes and shapes: names and exotic dtypes are not the archive's to keep."""
    index: list[dict[str, Any]] = []
    members: dict[str, Any] = {}
    for number, (name, value) in enumerate(arrays.items()):
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        text = array.dtype.kind in "OSU"
        index.append({"name": name, "dtype": "str" if text else array.dtype.name, "shape": list(array.shape)})
        members[f"a{number}"] = array.astype(np.str_) if text else array.reshape(-1).view(np.uint8)
    np.savez(base / f"{stem}.partial.npz", **members)
    (base / f"{stem}.json").write_text(json.dumps(index), encoding="utf-8")
    os.replace(base / f"{stem}.partial.npz", base / f"{stem}.npz")


def _load(base: Path, stem: str) -> Arrays:
    index = json.loads((base / f"{stem}.json").read_text(encoding="utf-8"))
    with np.load(base / f"{stem}.npz", allow_pickle=False) as archive:
        return {entry["name"]: _array(archive[f"a{number}"], entry) for number, entry in enumerate(index)}


def _array(raw: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    if entry["dtype"] == "str":
        return raw.astype(object).reshape(entry["shape"])
    exotic = getattr(ml_dtypes, entry["dtype"], None)
    return raw.view(np.dtype(exotic or entry["dtype"])).reshape(entry["shape"])


def main(worker_module: str, folder: str) -> int:
    """The child's side: exit code 0 with `out.npz`, or 1 with `error.json`."""
    base = Path(folder)
    try:
        request = json.loads((base / "request.json").read_text(encoding="utf-8"))
        worker = importlib.import_module(worker_module)
        _store(base, "out", worker.work(request, _load(base, "in")))
        return 0
    except AnyIRError as error:
        kind = next((c.__name__ for c in type(error).__mro__ if c.__name__ in _ERRORS), "SystemFailure")
        told = {"kind": kind, "message": error.message, "code": error.code, "where": error.where, "hint": error.hint}
        (base / "error.json").write_text(json.dumps(told), encoding="utf-8")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
