"""Where a node comes from in the user's model: interned, immutable, fused when nodes are merged."""

from __future__ import annotations

from typing import ClassVar

FUSED_LIMIT = 8


class Loc:
    """An origin. `frontend` is "onnx", "keras", "torch" ...; `scope` the layer or module path; `file` and `line` the
    user's source where the framework recorded it; `fused` up to 8 origins of a merged node; `tag` the pass that made it.
    `notes` is what the source says beside the node (documentation, properties), as pairs of key and text."""

    __slots__ = ("file", "frontend", "fused", "line", "notes", "scope", "tag")
    frontend: str
    scope: str
    file: str
    line: int
    fused: tuple[Loc, ...]
    tag: str
    notes: tuple[tuple[str, str], ...]
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
        notes: tuple[tuple[str, str], ...] = (),
    ) -> Loc:
        key = (frontend, scope, file, line, fused, tag, notes)
        found = cls._interned.get(key)
        if found is None:
            found = object.__new__(cls)
            found.frontend, found.scope, found.file, found.line, found.fused, found.tag, found.notes = key
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
        return one.tagged(tag)

    def tagged(self, tag: str) -> Loc:
        """This origin, the node made by another pass."""
        if tag == self.tag:
            return self
        return Loc(
            self.frontend, self.scope, file=self.file, line=self.line, fused=self.fused, tag=tag, notes=self.notes
        )

    def under(self, scope: str) -> Loc:
        """This origin with its scope inside another one: what a called function's nodes have where they are inlined."""
        if not scope:
            return self
        path = f"{scope}/{self.scope}" if self.scope else scope
        fused = tuple(leaf.under(scope) for leaf in self.fused)
        frontend = self.frontend if fused or self.frontend else "call"
        return Loc(
            frontend, "" if fused else path, file=self.file, line=self.line, fused=fused, tag=self.tag, notes=self.notes
        )

    def _bare(self) -> Loc:
        """This origin without the pass that made the node."""
        return self.tagged("")

    def __str__(self) -> str:
        if self.fused:
            text = " + ".join(map(str, self.fused))
        else:
            source = f" {self.file}:{self.line}" if self.file else ""
            text = f"{self.frontend}:{self.scope}{source}" if self.frontend else f"{self.scope}{source}".strip()
        return f"{text} ({self.tag})" if self.tag else text

    __repr__ = __str__

    def __reduce__(self) -> tuple:
        return _remake, (self.frontend, self.scope, self.file, self.line, self.fused, self.tag, self.notes)


def _remake(
    frontend: str,
    scope: str,
    file: str,
    line: int,
    fused: tuple[Loc, ...],
    tag: str,
    notes: tuple[tuple[str, str], ...],
) -> Loc:
    return Loc(frontend, scope, file=file, line=line, fused=fused, tag=tag, notes=notes)


UNKNOWN_LOC = Loc()
