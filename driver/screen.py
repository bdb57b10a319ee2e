"""What reaches the terminal: answers on stdout, progress and errors on stderr, tables in colour only on a terminal."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from ..ir.errors import AnyIRError, clean

SCHEMA = 1
WIDTH = 80
#: A last column narrower than this is not wrapped.
NARROWEST = 20


def is_plain(out: TextIO) -> bool:
    """No colour, no moving text: not a terminal, or the environment asks for it."""
    asked = os.environ.get("NO_COLOR") or os.environ.get("CI") or os.environ.get("TERM") == "dumb"
    if os.environ.get("FORCE_COLOR") and not os.environ.get("NO_COLOR"):
        return False
    return bool(asked) or not out.isatty()


def width(out: TextIO) -> int:
    """Columns of the terminal, WIDTH when it is none."""
    return shutil.get_terminal_size((WIDTH, 24)).columns if out.isatty() else WIDTH


def plain_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], indent: str = "  ", columns: int = WIDTH) -> str:
    """Aligned columns of text, numbers to the right; the last column is wrapped where the line would be too long."""
    lines = [list(headers), *([_cell(c) for c in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    right = [len(lines) > 1 and all(_is_number(line[i]) for line in lines[1:]) for i in range(len(headers))]
    left = len(indent) + sum(w + 2 for w in widths[:-1])
    made = []
    for line in lines:
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        head, last = indent + "".join(cell + "  " for cell in cells[:-1]), cells[-1].rstrip()
        if columns - left >= NARROWEST and len(head) + len(last) > columns:
            first, *more = textwrap.wrap(last, columns - left, break_on_hyphens=False) or [""]
            made += [(head + first).rstrip(), *(" " * left + text for text in more)]
        else:
            made.append((head + last).rstrip())
    return "\n".join(made)


def _cell(item: Any) -> str:
    return "" if item is None else clean(item, 400)


def _is_number(text: str) -> bool:
    return not text or text[0].isdigit() or text == "-" or (text[0] in "+-." and text[1:2].isdigit())


@dataclass
class Screen:
    """Where a verb prints. `verbosity`: -1 only errors, 0 normal, 1 passes, 2 rewrites."""

    json: bool = False
    verbosity: int = 0
    answered: bool = False

    @property
    def speaks(self) -> bool:
        """Text is wanted on stdout."""
        return not self.json and self.verbosity >= 0

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[Any]], out: TextIO | None = None) -> None:
        """A table, drawn by rich on a terminal; on stdout, or on stderr where it is not the answer."""
        if not self.speaks:
            return
        out = out or sys.stdout
        made = [list(map(_cell, row)) for row in rows]
        if is_plain(out):
            out.write(plain_table(headers, made, columns=width(out)) + "\n")
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*headers, box=box.SIMPLE_HEAD)
        for row in made:
            table.add_row(*map(Text, row))
        Console(file=out).print(table)

    def line(self, text: str) -> None:
        """Lines of the answer on stdout."""
        if self.speaks:
            self.always(clean(text, sys.maxsize - 1, lines=True))

    def always(self, text: str) -> None:
        """What was asked for and is printed however quiet the run is (IR text, which escapes what it quotes)."""
        if not self.json:
            sys.stdout.write(text + "\n")

    def answer(self, verb: str, data: dict[str, Any]) -> None:
        """The one JSON object of a verb, when --json asks for it."""
        if self.json and not self.answered:
            self.answered = True
            object_ = _finite({"schema": SCHEMA, "verb": verb, **data})
            json.dump(object_, sys.stdout, indent=2, default=str, allow_nan=False)
            sys.stdout.write("\n")

    def failed(self, verb: str, error: AnyIRError) -> None:
        """An error is an answer too, unless the verb has given one."""
        told = {"code": error.code, "exit_code": error.exit_code, "message": error.message}
        self.answer(verb, {"error": {**told, "where": error.where, "hint": error.hint}})

    def progress(self, stage: str, text: str) -> None:
        """One line per finished stage on stderr."""
        if self.speaks:
            sys.stderr.write(f"  {stage:<9} {clean(text, 400)}\n")
            sys.stderr.flush()

    def note(self, text: str) -> None:
        if self.verbosity >= 0:
            sys.stderr.write(f"note: {clean(text, 400)}\n")


def _finite(item: Any) -> Any:
    """`item` with NaN and infinities, which JSON does not have, as text."""
    if isinstance(item, dict):
        return {str(key): _finite(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [_finite(value) for value in item]
    return str(item) if isinstance(item, float) and not math.isfinite(item) else item


def size(count: float) -> str:
    """Bytes for people, in powers of 1000 as file managers show them."""
    for unit, digits in (("B", 0), ("kB", 1), ("MB", 1)):
        if abs(count) < 1000:
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
