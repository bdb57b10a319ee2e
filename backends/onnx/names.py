"""Value and node names in the written file: unique, deterministic, as close to the hints as the format allows."""

from __future__ import annotations


class Names:
    """Hands out names that no other value of the model has (ONNX subgraphs see outer names, so there is one space)."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def reserve(self, name: str) -> str:
        """`name` as it is; it must be free."""
        self._taken.setdefault(name, 0)
        return name

    def __contains__(self, name: str) -> bool:
        return name in self._taken

    def unique(self, wanted: str, fallback: str = "value") -> str:
        """`wanted`, or `wanted_1`, `wanted_2` ...: the first that is free; amortised O(1)."""
        base = sanitise(wanted) or fallback
        if base not in self._taken:
            self._taken[base] = 0
            return base
        count = self._taken[base]
        while True:
            count += 1
            name = f"{base}_{count}"
            if name not in self._taken:
                self._taken[base] = count
                self._taken[name] = 0
                return name


def sanitise(text: str) -> str:
    """Characters that cannot be printed, and lone surrogates that protobuf cannot hold, become underscores."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "_" for c in text)
