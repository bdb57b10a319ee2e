"""Writes a module as IR text with its weight file beside it, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from . import weightfile
from .graph import Module
from .outputs import OutputSet
from .printer import INLINE, Printer, is_literal
from .types import STRING
from .weights import Weight


def write_text(module: Module, path: str | os.PathLike[str], *, protect: Iterable[str | os.PathLike[str]] = ()) -> None:
    """`path` and, when there are large tensors, `<stem>.weights` beside it; never over `protect` or a mapped file.
    Raises SystemFailure, UsageError."""
    target = Path(path)
    placed, length = weightfile.place(_stored(module))
    side = target.with_suffix(".weights")
    with OutputSet(protect=[*protect, *(file.path for file in module.files)]) as outputs:
        if placed:
            weightfile.write(outputs.open(side), placed, length)
        text = Printer(placed.get).module(module, side.name if placed else "")
        outputs.open(target, main=True).write(text.encode("utf-8"))


def _stored(module: Module) -> list[Weight]:
    """The weights that do not stand in the text."""
    used = module.used_weights()
    big = [w for w in used if w.type.numel > INLINE and w.tensor.dtype is not STRING]  # type: ignore[operator]
    return [w for w in big if not is_literal(w, INLINE)]
