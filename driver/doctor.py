"""`irc doctor`: what is installed, and what each missing package would add."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import Any

import click

from . import options as shared

#: (package, what it is for, the extra that brings it; "" = core).
PACKAGES = (
    ("numpy", "arrays", ""),
    ("ml_dtypes", "bfloat16, 8-bit and smaller floats and ints", ""),
    ("onnx", "reading and writing ONNX", ""),
    ("numba", "fast reference kernels", ""),
    ("networkx", "graph snapshots and exports", ""),
    ("flatbuffers", "writing TFLite", ""),
    ("h5py", "reading Keras files", ""),
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
    """Show versions of Python, anyir and every package that anyir can use."""
    from .. import __version__

    screen = shared.screen_of(given["as_json"], given["quiet"], given["verbose"])
    rows = [("python", platform.python_version(), sys.executable), ("anyir", __version__, "")]
    missing = []
    for name, purpose, extra in PACKAGES:
        try:
            rows.append((name, importlib.metadata.version(name), purpose))
        except importlib.metadata.PackageNotFoundError:
            rows.append(
                (
                    name,
                    "missing",
                    f'{purpose}: pip install "anyir[{extra}]"' if extra else f"{purpose}: reinstall anyir",
                )
            )
            missing.append(name)
    screen.table(("package", "version", "for"), rows)
    core = [name for name, _, extra in PACKAGES if not extra and name in missing]
    screen.answer("doctor", {"packages": {name: version for name, version, _ in rows}, "missing": missing})
    if core:
        from ..ir.errors import MissingPackage

        raise MissingPackage(
            f"core packages are missing: {', '.join(core)}", hint="pip install --force-reinstall anyir"
        )
