"""What reaches the terminal: answers on stdout, progress and errors on stderr, tables in colour only on a terminal."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from ..ir.errors import clean

SCHEMA = 1


def is_plain(out: TextIO) -> bool:
    """No colour, no moving text: not a terminal, or the environment asks for it."""
    if os.environ.get("FORCE_COLOR"):
        return False
    asked = os.environ.get("NO_COLOR") is not None or os.environ.get("CI") or os.environ.get("TERM") == "dumb"
    return bool(asked) or not out.isatty()


def plain_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], indent: str = "  ") -> str:
    """Aligned columns of text; numbers to the right."""
    lines = [list(headers), *([_cell(c) for c in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    right = [len(lines) > 1 and all(_is_number(line[i]) for line in lines[1:]) for i in range(len(headers))]
    made = []
    for line in lines:
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        made.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(made)


def _cell(item: Any) -> str:
    return "" if item is None else clean(item, 160)


def _is_number(text: str) -> bool:
    return not text or text[0].isdigit() or text[0] in "+-." or text in ("-",)


@dataclass
class Screen:
    """Where a verb prints. `verbosity`: -1 only errors, 0 normal, 1 passes, 2 rewrites."""

    json: bool = False
    verbosity: int = 0

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
        """A table on stdout, drawn by rich on a terminal."""
        if self.json:
            return
        made = [list(map(_cell, row)) for row in rows]
        if is_plain(sys.stdout):
            self.line((f"{title}\n" if title else "") + plain_table(headers, made))
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*headers, title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
        for row in made:
            table.add_row(*map(Text, row))
        Console().print(table)

    def line(self, text: str) -> None:
        """A line of the answer on stdout."""
        if not self.json:
            sys.stdout.write(text + "\n")

    def answer(self, verb: str, data: dict[str, Any]) -> None:
        """The one JSON object of a verb, when --json asks for it."""
        if self.json:
            json.dump(
                _finite({"schema": SCHEMA, "verb": verb, **data}), sys.stdout, indent=2, default=str, allow_nan=False
            )
            sys.stdout.write("\n")

    def progress(self, stage: str, text: str) -> None:
        """One line per finished stage on stderr."""
        if self.verbosity >= 0 and not self.json:
            sys.stderr.write(f"  {stage:<9} {clean(text, 160)}\n")
            sys.stderr.flush()

    def note(self, text: str) -> None:
        if self.verbosity >= 0:
            sys.stderr.write(f"note: {clean(text, 400)}\n")


def _finite(item: Any) -> Any:
    """`item` with NaN and infinities, which JSON does not have, as text."""
    if isinstance(item, dict):
        return {key: _finite(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [_finite(value) for value in item]
    return str(item) if isinstance(item, float) and not math.isfinite(item) else item


def size(count: float) -> str:
    """Bytes for people, in powers of 1000 as file managers show them."""
    for unit, digits in (("B", 0), ("kB", 1), ("MB", 1), ("GB", 2)):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    return ""
