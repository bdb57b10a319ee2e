"""Where a compressed model comes from: notes in its metadata that every format keeps, each under the key `anyir.<name>`.

In `Module.metadata` they stand as what a user put there, under `user.anyir.<name>`. Imports nothing but the IR.
"""

from __future__ import annotations

from collections.abc import Mapping

from .errors import clean
from .graph import Module

_USER = "user."
_OURS = "anyir."
#: Notes of files that are longer than this are left alone.
MOST_BYTES = 1 << 20


def note(module: Module, told: Mapping[str, str]) -> None:
    """Put notes, by name, into the module's metadata."""
    module.metadata.update({f"{_USER}{_OURS}{name}": text for name, text in told.items()})


def notes_of(module: Module) -> dict[str, str]:
    """What a backend writes: the notes by key."""
    found = {key.removeprefix(_USER): text for key, text in module.metadata.items() if key.startswith(_USER + _OURS)}
    return {key: text for key, text in found.items() if text}


def take(module: Module, held: Mapping[str, str]) -> None:
    """What a reader found, by key; other keys than ours are no notes."""
    for key, text in held.items():
        if key.startswith(_OURS) and len(text) < MOST_BYTES:
            module.metadata[f"{_USER}{clean(key)}"] = text
