"""The table of hostile files: one small builder per class of broken or malicious input, grouped by format.

A builder writes its files into an empty folder and returns the path to compile. `expect` is what must happen: "error"
(refused), "ok" (compiled), "either" (one of the two, but safely).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Builder = Callable[[Path], Path]


@dataclass(frozen=True)
class Case:
    group: str
    name: str
    expect: str
    build: Builder
    codes: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.group}: {self.name}"


CASES: list[Case] = []
_CODES = {"error": (3,), "ok": (0,), "either": (0, 3)}


def case(
    group: str, name: str, expect: str = "error", codes: tuple[int, ...] | None = None
) -> Callable[[Builder], Builder]:
    """Register a builder."""

    def register(build: Builder) -> Builder:
        assert (group, name) not in {(c.group, c.name) for c in CASES}, name
        CASES.append(Case(group, name, expect, build, codes or _CODES[expect]))
        return build

    return register


def bytes_case(group: str, name: str, suffix: str, make: Callable[[], bytes], expect: str = "error") -> None:
    """A case of one file with these bytes."""

    @case(group, name, expect)
    def build(folder: Path) -> Path:
        path = folder / f"bad{suffix}"
        path.write_bytes(make())
        return path
