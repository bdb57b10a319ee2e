"""IR text as an output format, with the interface of a backend."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..ir.graph import Module
from ..ir.textfile import write_text

FORMAT = "anyir"


def write(
    module: Module, path: str | os.PathLike[str], *, protect: Iterable[str | os.PathLike[str]] = (), **_: Any
) -> list[str]:
    """Write `path` and its weight file; returns what exists now, the text last."""
    write_text(module, path, protect=protect)
    side = Path(path).with_suffix(".weights")
    return [*([str(side)] if side.exists() else []), os.fspath(path)]


def legalize(module: Module, **_: Any) -> Module:
    return module.clone()


def offenders(module: Module, **_: Any) -> list[str]:
    return []
