"""Outputs are written and checked in a hidden folder beside their place, and moved there together or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..ir.outputs import OutputSet, scratch_folder


class Staging:
    """A hidden folder beside the output. `path` is where the model is written first; `protect` are files that are never
    overwritten."""

    def __init__(self, output: Path, protect: Sequence[str]) -> None:
        self.output = output
        self.protect = list(protect)
        self._scratch = scratch_folder(beside=output)

    def __enter__(self) -> Staging:
        self.folder = Path(self._scratch.__enter__())
        self.path = self.folder / self.output.name
        return self

    def __exit__(self, *error: Any) -> None:
        self._scratch.__exit__(*error)

    def place(self, written: Sequence[str]) -> list[str]:
        """Move the files into the output's folder, the model last; all of them or none."""
        placed = []
        with OutputSet(protect=self.protect) as outputs:
            for path in written:
                target = self.output.parent / Path(path).relative_to(self.folder)
                outputs.adopt(path, target, main=path == written[-1])
                placed.append(str(target))
        return placed
