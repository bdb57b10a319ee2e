"""Tokens of IR text with line and column, and errors that show the line with a caret."""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

from .errors import InvalidModel, clean

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)|(?P<newline>\n)
      |(?P<string>"(?:[^"\\\n]|\\(?:["\\ntr]|u\{[0-9a-f]{1,6}\}))*")
      |(?P<bits>0x[0-9a-f]+)
      |(?P<number>-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)
      |(?P<value>%[A-Za-z0-9_.]+)|(?P<at>@[A-Za-z_][A-Za-z0-9_.]*)
      |(?P<word>[A-Za-z_$?][A-Za-z0-9_.$?]*)
      |(?P<punct>->|//|[(){}\[\]<>,:=+*%/-])""",
    re.VERBOSE,
)

_ESCAPE = re.compile(r'\\(?:(["\\ntr])|u\{([0-9a-f]{1,6})\})')
_PLAIN_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}


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
        at, match = self._next, _TOKEN.match
        text = self.text
        while True:
            found = match(text, at)
            if found is None:
                if at >= len(text):
                    self.token, self._next = Token("end", "", at), at
                    return done
                self.fail(f"unexpected character {text[at]!r}", at)
            kind = found.lastgroup
            if kind == "space" or kind == "newline":
                at = found.end()
                continue
            self.token, self._next = Token(kind, found.group(), at), found.end()  # type: ignore[arg-type]
            return done

    def fail(self, message: str, offset: int | None = None, hint: str = "") -> NoReturn:
        """Raise InvalidModel with line, column and a caret under the place."""
        at = self.token.offset if offset is None else offset
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        shown = clean(self.text[start : end if end >= 0 else len(self.text)], 120)
        column = at - start + 1
        caret = f"\n  {shown}\n  {' ' * (column - 1)}^" if column <= 120 else ""
        raise InvalidModel(message + caret, where=f"{self.name}:{line}:{column}", hint=hint)

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
            self.fail(f"expected {text!r}, found {self.token.text or 'the end'!r}")
        return self.advance()

    def kind(self, kind: str, what: str) -> str:
        """Consume a token of this kind and return its text."""
        if self.token.kind != kind:
            self.fail(f"expected {what}, found {self.token.text or 'the end'!r}")
        return self.advance().text

    def string(self) -> str:
        raw = self.kind("string", "a string")[1:-1]
        if "\\" not in raw:
            return raw
        return _ESCAPE.sub(lambda m: _PLAIN_ESCAPES[m[1]] if m[1] else self._char(m[2]), raw)

    def _char(self, digits: str) -> str:
        code = int(digits, 16)
        if code > 0x10FFFF:
            self.fail(f"\\u{{{digits}}} is no character")
        return chr(code)

    def integer(self) -> int:
        text = self.kind("number", "an integer")
        if not text.lstrip("-").isdigit() or len(text) > 40:
            self.fail(f"expected an integer, found {clean(text, 60)!r}")
        return int(text)
