"""Tokens of IR text with line and column, and errors that show the line with a caret."""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

from .errors import InvalidModel, clean

_QUOTED = r'"(?:[^"\\\n]|\\(?:["\\/bfnrt]|u\{[0-9a-f]{1,6}\}|u[0-9a-fA-F]{4}))*"'
_TOKEN = re.compile(
    rf"""(?:[ \t\r\n]+|\#[^\n]*)*+(?:
       (?P<value>%[A-Za-z0-9_.]+)
      |(?P<word>[A-Za-z_$?][A-Za-z0-9_.$?]*)
      |(?P<punct>->|//|[(){{}}\[\]<>,:=+*%^/]|-(?![0-9]))
      |(?P<string>{_QUOTED})
      |(?P<bits>0x[0-9a-f]+)
      |(?P<number>-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)
      |(?P<at>@(?:[A-Za-z_][A-Za-z0-9_.]*|{_QUOTED}))
      |(?P<end>\Z))""",
    re.VERBOSE,
)

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*+")
_ESCAPE = re.compile(r'\\(?:(["\\/bfnrt])|u\{([0-9a-f]{1,6})\}|u([0-9a-fA-F]{4}))')
_PLAIN_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "/": "/"}

#: Longest line and farthest column that an error shows.
SHOWN = 120


class Token(NamedTuple):
    kind: str
    text: str
    offset: int


class Lexer:
    """The tokens of `text`, one ahead; positions become line and column only when an error needs them."""

    def __init__(self, text: str, name: str = "<text>") -> None:
        self.text = text
        self.name = name
        self._next = 0
        self.token = Token("start", "", 0)
        self.advance()

    def advance(self) -> Token:
        """Consume the current token and return it."""
        done = self.token
        found = _TOKEN.match(self.text, self._next)
        if found is None:
            at = _BLANK.match(self.text, self._next).end()  # type: ignore[union-attr]
            self.fail(f"unexpected character {self.text[at]!r}", at)
        kind: str = found.lastgroup  # type: ignore[assignment]
        start, self._next = found.span(kind)
        self.token = Token(kind, found[kind], start)
        return done

    def seek(self, offset: int) -> None:
        """Go on at `offset`, forwards or back."""
        self._next = offset
        self.advance()

    def fail(self, message: str, offset: int | None = None, hint: str = "") -> NoReturn:
        """Raise InvalidModel with line, column and a caret under the place."""
        at = self.token.offset if offset is None else offset
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        shown = clean(self.text[start : end if end >= 0 else len(self.text)], SHOWN)
        column = at - start + 1
        indent = len(clean(self.text[start:at], SHOWN + 1))
        caret = f"\n  {shown}\n  {' ' * indent}^" if indent <= SHOWN else ""
        raise InvalidModel(message + caret, where=f"{self.name}:{line}:{column}", hint=hint)

    def found(self) -> str:
        """The current token, for messages."""
        return "the end" if self.token.kind == "end" else repr(clean(self.token.text, 60))

    def at(self, text: str) -> bool:
        return self.token.text == text and self.token.kind != "string"

    def take(self, text: str) -> bool:
        """Consume the token if it is `text`."""
        if self.token.text == text and self.token.kind != "string":
            self.advance()
            return True
        return False

    def expect(self, text: str) -> Token:
        if self.token.text != text or self.token.kind == "string":
            self.fail(f"expected {text!r}, found {self.found()}")
        return self.advance()

    def kind(self, kind: str, what: str) -> str:
        """Consume a token of this kind and return its text."""
        if self.token.kind != kind:
            self.fail(f"expected {what}, found {self.found()}")
        return self.advance().text

    def string(self) -> str:
        return self._unquoted(self.kind("string", "a string"))

    def graph_name(self) -> str:
        """What stands behind an @, in quotes or not."""
        name = self.kind("at", "a graph name")[1:]
        return self._unquoted(name) if name.startswith('"') else name

    def _unquoted(self, token: str) -> str:
        raw = token[1:-1]
        return _ESCAPE.sub(self._char, raw) if "\\" in raw else raw

    def _char(self, escape: re.Match[str]) -> str:
        if escape[1]:
            return _PLAIN_ESCAPES[escape[1]]
        code = int(escape[2] or escape[3], 16)
        if code > 0x10FFFF:
            self.fail(f"\\u{{{escape[2]}}} is no character")
        return chr(code)

    def integer(self) -> int:
        at, text = self.token.offset, self.kind("number", "an integer")
        if not text.lstrip("-").isdigit() or len(text) > 40:
            self.fail(f"expected an integer, found {clean(text, 60)!r}", at)
        return int(text)
