"""Checkpoints of a training run: one .safetensors file, the run's state as JSON in its header. Never a pickle.

The file is replaced as a whole, so a kill at any moment leaves the last complete one. What a run was made from stands in
it, and a run goes on only from its own checkpoint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ...formats import safetensors
from ...ir.archive import parse_json
from ...ir.errors import InvalidModel, UsageError, clean
from ...ir.tensor import as_tensor

FORMAT = "anyir-distill"
VERSION = 1


class State(NamedTuple):
    """Tensors by name, and everything else as JSON values."""

    tensors: dict[str, np.ndarray]
    facts: dict[str, Any]


def save(path: str | os.PathLike[str], identity: Mapping[str, Any], state: State) -> None:
    """Put a checkpoint in place of the one before. Raises SystemFailure."""
    header = {"version": VERSION, "identity": dict(identity), "facts": state.facts}
    tensors = {name: as_tensor(array) for name, array in state.tensors.items()}
    safetensors.write(path, tensors, {FORMAT: json.dumps(header, allow_nan=False)})


def load(path: str | os.PathLike[str], identity: Mapping[str, Any]) -> State:
    """The state in a checkpoint of the same run. Raises UsageError naming what differs, InvalidModel for another file."""
    where = clean(os.fspath(path))
    tensors, metadata = safetensors.read(path)
    if FORMAT not in metadata:
        raise InvalidModel("not a checkpoint of a distillation", where=where)
    header = parse_json(metadata[FORMAT].encode(), "checkpoint", where=where, limit_name="header_bytes")
    parts = ("identity", "facts")
    if not isinstance(header, dict) or not all(isinstance(header.get(part), dict) for part in parts):
        raise InvalidModel("a damaged checkpoint", where=where)
    if header.get("version") != VERSION:
        raise InvalidModel(f"a checkpoint of version {clean(header.get('version'))}, expected {VERSION}", where=where)
    kept = header["identity"]
    differ = [name for name in {**kept, **identity} if kept.get(name) != identity.get(name)]
    if differ:
        shown = "; ".join(
            f"{name} was {clean(kept.get(name), 60)}, is {clean(identity.get(name), 60)}" for name in differ
        )
        raise UsageError(
            f"the checkpoint is of another run: {shown}", where=where, hint="give the same options, or remove the file"
        )
    return State({name: tensor.numpy() for name, tensor in tensors.items()}, header["facts"])
