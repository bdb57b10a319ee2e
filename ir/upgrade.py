"""Older versions of IR text are rewritten to the current one before parsing. There is one version so far."""

from __future__ import annotations

import re
from collections.abc import Callable

from .errors import InvalidModel
from .printer import FORMAT

#: From a version to the next: text in, text out.
STEPS: dict[int, Callable[[str], str]] = {}


def upgrade(text: str, name: str) -> str:
    """`text` in the current format. Raises InvalidModel for text that is newer, or is no IR text at all."""
    head = re.match(r"\s*(?:#[^\n]*\n\s*)*anyir (\d{1,9})\b", text)
    if head is None:
        raise InvalidModel("IR text begins with `anyir 1`", where=f"{name}:1:1")
    version = int(head[1])
    if version > FORMAT or version < 1:
        raise InvalidModel(
            f"IR text of format {version}, this version of anyir reads up to {FORMAT}",
            where=f"{name}:1:1",
            hint="update anyir",
        )
    while version < FORMAT:
        text = STEPS[version](text)
        version += 1
    return text
