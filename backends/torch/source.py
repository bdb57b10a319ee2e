"""Writes `net.py` and `net.safetensors`: both whole or not at all, the module last. Must not import torch."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ...formats import safetensors
from ...ir.graph import Module
from ...ir.provenance import notes_of
from ...ir.storage import OutputSet
from ...ir.tensor import Tensor
from .legalization import legalize
from .names import registered_names
from .plan import plan
from .text import text_of


def write_py(module: Module, path: str | os.PathLike[str], protect: Iterable[str | os.PathLike[str]]) -> list[str]:
    """The files written, the module last. Raises Unsupported, UsageError, SystemFailure."""
    made = plan(legalize(module))
    names = registered_names(made.weights)
    stem = os.path.splitext(os.fspath(path))[0]
    text = text_of(made, names, os.path.basename(stem))
    tensors: dict[str, Tensor] = {names[v]: v.weight.tensor for v in made.weights if v.weight is not None}
    mapped = [file.path for file in module.files]
    for file in module.files:
        file.recheck()
    data_path = f"{stem}.safetensors"
    with OutputSet(protect=[*protect, *mapped]) as out:
        data = out.open(data_path)
        code = out.open(path, main=True)
        safetensors.write_to(data, tensors, {"format": "pt", **notes_of(module)})
        code.write(text.encode("ascii"))
    return [data_path, os.fspath(path)]
