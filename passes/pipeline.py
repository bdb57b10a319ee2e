"""Pipelines as text: `canonicalize,fold{max_bytes=1000000},fix(cse,dce)`. Parsing and printing round-trip."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..ir.errors import UsageError

FIX_LIMIT = 8
DEPTH_LIMIT = 8


@dataclass(frozen=True)
class Step:
    """One pass with its options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = ",".join(f"{k}={_show(v)}" for k, v in self.options.items())
        return f"{self.name}{{{shown}}}" if shown else self.name


@dataclass(frozen=True)
class Fix:
    """Steps repeated until nothing changes, at most `limit` rounds."""

    steps: tuple[Step | Fix, ...]
    limit: int = FIX_LIMIT

    def __str__(self) -> str:
        return f"fix({','.join(map(str, self.steps))})"


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and not (_PAIR.fullmatch(value) or _is_word(value)):
        return f"'{value}'"
    return value if isinstance(value, str) else repr(value)


def _is_word(value: str) -> bool:
    return _PLAIN.fullmatch(value) is not None and value not in ("true", "false")


def print_pipeline(steps: Sequence[Step | Fix]) -> str:
    return ",".join(map(str, steps))


_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
#: What stands for itself as a value besides: block:32, block:4x1, 2:4.
_PAIR = re.compile(r"[A-Za-z0-9_]+:[A-Za-z0-9_]+")
_TOKEN = re.compile(
    rf"\s*({_PAIR.pattern}|{_PLAIN.pattern}|[-+]?[0-9]+(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?|'[^'\n]*'|[{{}}(),=])"
)


def parse_pipeline(text: str) -> list[Step | Fix]:
    """The steps of a pipeline. Raises UsageError with the place of a mistake."""
    reader = _Reader(text)
    steps = reader.steps(0)
    if reader.token:
        reader.fail(f"unexpected {reader.token!r}")
    return steps


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.end = 0
        self.token = ""
        self.advance()

    def advance(self) -> str:
        done = self.token
        found = _TOKEN.match(self.text, self.end)
        if found is None:
            if self.text[self.end :].strip():
                self.at = self.end
                self.fail(f"unexpected {self.text[self.end :].strip()[0]!r}")
            self.at, self.token = len(self.text), ""
        else:
            self.at, self.end, self.token = found.start(1), found.end(), found[1]
        return done

    def fail(self, what: str) -> None:
        raise UsageError(
            f"{what} at column {self.at + 1} of the pipeline\n  {self.text}\n  {' ' * self.at}^", code="R011"
        )

    def expect(self, token: str) -> None:
        if self.token != token:
            self.fail(f"expected {token!r}, found {self.token or 'the end'!r}")
        self.advance()

    def steps(self, depth: int) -> list[Step | Fix]:
        if depth > DEPTH_LIMIT:
            self.fail("nested too deeply")
        made: list[Step | Fix] = []
        while self.token and self.token not in ("}", ")"):
            made.append(self.step(depth))
            if self.token != ",":
                break
            self.advance()
            if not self.token or self.token in ("}", ")"):
                self.fail("a pass is missing behind the comma")
        return made

    def step(self, depth: int) -> Step | Fix:
        if not re.match(r"[A-Za-z_]", self.token):
            self.fail(f"expected a pass, found {self.token!r}")
        name = self.advance()
        if self.token == "(":
            if name != "fix":
                self.fail(f"only fix(...) groups passes, options of {name} stand in braces")
            self.advance()
            inner = self.steps(depth + 1)
            self.expect(")")
            return Fix(tuple(inner))
        return Step(name, self.options() if self.token == "{" else {})

    def options(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        self.expect("{")
        while self.token != "}":
            name = self.advance()
            if name in made:
                self.fail(f"option {name} is given twice")
            self.expect("=")
            made[name] = self.value()
            if self.token != ",":
                break
            self.advance()
        self.expect("}")
        return made

    def value(self) -> Any:
        if self.token and self.token in "{}(),=":
            self.fail("expected a value")
        word = self.advance()
        if word in ("true", "false"):
            return word == "true"
        if word.startswith("'"):
            return word[1:-1]
        if _PAIR.fullmatch(word):
            return word
        if re.fullmatch(r"[-+]?[0-9]+", word):
            return int(word)
        if re.match(r"[-+]?[0-9]", word):
            return float(word)
        if not word:
            self.fail("expected a value")
        return word
