"""Runs Keras files in Keras itself, on its torch backend, in a child process.

A child, because Keras fixes its backend at its first import and the user's process may have chosen another one.
Keras' own safe mode stays on: a file with code in it is refused there too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ir.errors import SystemFailure, UsageError, clean
from .child import run_in_child


def available() -> str | None:
    """The installed version; None without Keras or without torch, its backend here."""
    import importlib.metadata

    try:
        importlib.metadata.version("torch")
        return importlib.metadata.version("keras")
    except importlib.metadata.PackageNotFoundError:
        return None


def run(path: str | os.PathLike, inputs: Mapping[str, np.ndarray], *, timeout: float = 300.0) -> dict[str, np.ndarray]:
    """Outputs by name, under the names that the Keras frontend gives them.

    Raises MissingPackage, SystemFailure (Keras cannot load the file, or failed), UsageError (an input is missing).
    """
    if available() is None:
        from ..ir.errors import MissingPackage

        raise MissingPackage("keras with torch is not installed", hint="pip install 'anyir[keras]'")
    return run_in_child(__name__, {"path": os.path.abspath(os.fspath(path))}, dict(inputs), timeout)


def work(request: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The child's part: load, call once with `training=False`, name the results."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    from ..formats.keras_config import input_names, output_names
    from ..formats.keras_h5 import open_keras

    config = open_keras(request["path"]).model
    names = input_names(config)
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UsageError(f"input {clean(missing[0])!r} is missing", hint=f"inputs: {', '.join(names)}")
    try:
        model = keras.saving.load_model(request["path"], compile=False)
        xs = keras.tree.pack_sequence_as(model._inputs_struct, [arrays[name] for name in names])
        made = keras.tree.flatten(model(keras.tree.map_structure(keras.ops.convert_to_tensor, xs), training=False))
    except Exception as error:
        raise SystemFailure(f"keras failed: {clean(error, 600)}") from None
    return {name: np.asarray(keras.ops.convert_to_numpy(y)) for name, y in zip(output_names(config), made, strict=True)}
