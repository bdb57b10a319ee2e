"""Where a node comes from in the user's model: interned, immutable, fused when nodes are merged."""

from __future__ import annotations

from typing import ClassVar

FUSED_LIMIT = 8


class Loc:
    """An origin. `frontend` is "onnx", "keras", "torch" ...; `scope` the layer or module path; `file` and `line` the
    user's source where the framework recorded it; `fused` up to 8 origins of a merged node; `tag` the pass that made it."""

    __slots__ = ("file", "frontend", "fused", "line", "scope", "tag")
    frontend: str
    scope: str
    file: str
    line: int
    fused: tuple[Loc, ...]
    tag: str
    _interned: ClassVar[dict[tuple, Loc]] = {}

    def __new__(
        cls,
        frontend: str = "",
        scope: str = "",
        *,
        file: str = "",
        line: int = 0,
        fused: tuple[Loc, ...] = (),
        tag: str = "",
    ) -> Loc:
        key = (frontend, scope, file, line, fused, tag)
        found = cls._interned.get(key)
        if found is None:
            found = object.__new__(cls)
            found.frontend, found.scope, found.file, found.line, found.fused, found.tag = key
            cls._interned[key] = found
        return found

    @staticmethod
    def fuse(locs: list[Loc], tag: str = "") -> Loc:
        """One origin for a node that replaces several: distinct leaves in order, at most FUSED_LIMIT. The tag is the
        given one, else the last that any of them has."""
        tag = tag or next((loc.tag for loc in reversed(locs) if loc.tag), "")
        leaves = list(dict.fromkeys(leaf._bare() for loc in locs for leaf in (loc.fused or (loc,))))
        leaves = [leaf for leaf in leaves if leaf is not UNKNOWN_LOC]
        if len(leaves) > 1:
            return Loc(fused=tuple(leaves[:FUSED_LIMIT]), tag=tag)
        one = leaves[0] if leaves else UNKNOWN_LOC
        return Loc(one.frontend, one.scope, file=one.file, line=one.line, tag=tag)

    def _bare(self) -> Loc:
        """This origin without the pass that made the node."""
        return Loc(self.frontend, self.scope, file=self.file, line=self.line) if self.tag else self

    def __str__(self) -> str:
        if self.fused:
            text = " + ".join(map(str, self.fused))
        else:
            source = f" {self.file}:{self.line}" if self.file else ""
            text = f"{self.frontend}:{self.scope}{source}" if self.frontend else f"{self.scope}{source}".strip()
        return f"{text} ({self.tag})" if self.tag else text

    __repr__ = __str__

    def __reduce__(self) -> tuple:
        return _remake, (self.frontend, self.scope, self.file, self.line, self.fused, self.tag)


def _remake(frontend: str, scope: str, file: str, line: int, fused: tuple[Loc, ...], tag: str) -> Loc:
    return Loc(frontend, scope, file=file, line=line, fused=fused, tag=tag)


UNKNOWN_LOC = Loc()
