"""`irc doctor`: what is installed, and what each missing package would add."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import Any

import click

from ..ir.errors import MissingPackage
from . import options as shared

#: (package, what it is for, the extra that brings it; "" = core).
PACKAGES = (
    ("numpy", "arrays", ""),
    ("ml_dtypes", "bfloat16, 8-bit and smaller floats and ints", ""),
    ("onnx", "reading and writing ONNX", ""),
    ("numba", "fast reference kernels", ""),
    ("networkx", "graph snapshots and exports", ""),
    ("flatbuffers", "writing TFLite", ""),
    ("click", "the irc command", ""),
    ("rich", "tables on a terminal", ""),
    ("torch", "live torch modules, .pt2 output, to_torch", "torch"),
    ("keras", "live Keras models", "keras"),
    ("onnxruntime", "checking .onnx in its runtime", "ort"),
    ("ai-edge-litert", "checking .tflite in its runtime", "tflite"),
    ("mindspore", "checking .mindir in its runtime", "mindspore"),
)


@click.command("doctor")
@shared.screen_options
def command(**given: Any) -> None:
    """Show versions of Python, anyir and every package that anyir can use; exit code 5 when a core package is
    missing."""
    from .. import __version__

    with shared.session("doctor", given) as screen:
        found = {name: _version(name) for name, _, _ in PACKAGES}
        rows = [("python", platform.python_version(), sys.executable), ("anyir", __version__, "")]
        rows += [
            (name, found[name] or "missing", _about(purpose, extra, found[name])) for name, purpose, extra in PACKAGES
        ]
        screen.table(("package", "version", "for"), rows)
        missing = [name for name, version in found.items() if version is None]
        own = {"python": platform.python_version(), "anyir": __version__}
        screen.answer("doctor", {"packages": {**own, **found}, "missing": missing})
        core = [name for name, _, extra in PACKAGES if not extra and name in missing]
        if core:
            raise MissingPackage(
                f"core packages are missing: {', '.join(core)}", hint="pip install --force-reinstall anyir"
            )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _about(purpose: str, extra: str, version: str | None) -> str:
    if version is not None:
        return purpose
    return f'{purpose}: pip install "anyir[{extra}]"' if extra else f"{purpose}: reinstall anyir"
