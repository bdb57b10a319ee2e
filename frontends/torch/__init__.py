"""The PyTorch frontend: `.pt2` files (torch need not be installed), ExportedPrograms and live modules into IR.

All doors give the same plain data (`formats/exported.py`) to one lowering (`lower.py`); handlers are by operator family in
the files named like those of the IR. Importing this package imports no torch.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import PurePath
from typing import Any

from ...ir.errors import Unsupported, UsageError, clean
from ...ir.graph import Module


def read(source: Any, *, inputs: Any = None, dynamic_shapes: Any = None, names: Any = None) -> Module:
    """A module from a `.pt2` path, a torch.export.ExportedProgram, or a live torch.nn.Module with example inputs; also from
    a `.py` file that anyir wrote, which is read and never run.

    `inputs`: example inputs of a live module (a tensor, a sequence, or a dict of keyword arguments). `dynamic_shapes`: as
    torch.export takes it, where a str names a dimension; None makes the batch dimension dynamic, {} none. `names`: input
    names in order, or a mapping from the names of forward's arguments and outputs to better ones.

    Raises Unsupported (naming every operator that cannot be read), InvalidModel, LimitExceeded, UsageError, MissingPackage.
    """
    if isinstance(source, str | os.PathLike):
        return _read_file(source, names)
    from . import live
    from .lower import lower, unknown_operators

    torch = live.torch_module()
    symbol_names: dict[str, str] = {}
    name = "program"
    if isinstance(source, torch.nn.Module):
        name = type(source).__name__
        source, symbol_names = live.export(source, inputs, dynamic_shapes)
    elif not isinstance(source, torch.export.ExportedProgram):
        raise UsageError(f"a {clean(type(source).__name__)} is no torch module, ExportedProgram or .pt2 file")
    program = live.from_program(source, symbol_names)
    if unknown_operators(program):
        with contextlib.suppress(Unsupported):  # the undecomposed program then says what it lacks
            program = live.from_program(live.decompose(source), symbol_names)
    return lower(program, name, names)


def _read_file(path: str | os.PathLike[str], names: Any) -> Module:
    from .lower import lower

    name = PurePath(os.fspath(path)).stem or "program"
    if os.fspath(path).lower().endswith(".py"):
        from .source import read_source

        return read_source(path, name, names)
    from ...formats.pt2 import read_pt2

    return lower(read_pt2(path), name, names)
