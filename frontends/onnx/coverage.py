"""What becomes of every ONNX operator in every opset, for `irc ops --from onnx` and docs/onnx.md.

Which operators exist comes from the installed `onnx` package's schemas, how they are read from the handler table, what they
are lowered to from `lowerings.json`: the IR ops that reading the conformance models gave. Lowers nothing itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...formats.onnx import schemas
from . import registry

FILE = Path(__file__).parent / "lowerings.json"


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator over a range of opsets that one handler reads. `last` None: to the newest. `how` is `handler`, `body`
    (by the function that its schema carries) or `-`; `forms` are the sets of IR ops that it was seen to become."""

    domain: str
    op_type: str
    first: int
    last: int | None
    how: str
    forms: tuple[tuple[str, ...], ...]

    @property
    def opsets(self) -> str:
        """The range as text: `1-6`, `13-`."""
        return str(self.first) if self.last == self.first else f"{self.first}-{self.last or ''}"


def operators() -> Iterator[Operator]:
    """All ranges of all operators, by domain and name."""
    from onnx import defs

    known: dict[tuple[str, str], list[int]] = {key: [] for key in registry.table()}
    for s in defs.get_all_schemas_with_history():
        known.setdefault((s.domain, s.name), []).append(s.since_version)
    for domain, op_type in sorted(known):
        yield from _ranges(domain, op_type, sorted(known[domain, op_type]))


def _ranges(domain: str, op_type: str, versions: list[int]) -> Iterator[Operator]:
    """The ranges of one operator; `versions` are those of its schemas, none for a domain without schemas."""
    first, last = versions[0] if versions else 1, None
    if versions:
        newest = schemas.schema(op_type, domain, versions[-1])
        if newest.deprecated:  # type: ignore[union-attr]
            last = versions.pop() - 1
    starts = [since for since, _ in registry.table().get((domain, op_type), [])]
    bounds = sorted({max(first, s) for s in starts} | ({first} if not starts or min(starts) > first else set()))
    if not starts:
        bounds = [
            first,
            *(v for v in versions[1:] if _has_body(domain, op_type, v) != _has_body(domain, op_type, first)),
        ]
    for start, following in zip(bounds, [*bounds[1:], None], strict=True):
        if last is not None and start > last:
            continue
        end = following - 1 if following is not None else last
        found = registry.handler(domain, op_type, start)
        how = "handler" if found is not None else "body" if _has_body(domain, op_type, start) else "-"
        yield Operator(
            domain,
            op_type,
            start,
            end,
            how,
            lowerings().get((domain, op_type, handler_start(domain, op_type, start)), ()),
        )


def _has_body(domain: str, op_type: str, opset: int) -> bool:
    found = schemas.schema(op_type, domain, opset)
    return found is not None and found.has_body


def handler_start(domain: str, op_type: str, opset: int) -> int:
    """Where the range starts of the handler that reads the operator at `opset`; 0 when none does."""
    return max((since for since, _ in registry.table().get((domain, op_type), []) if since <= opset), default=0)


@cache
def lowerings() -> dict[tuple[str, str, int], tuple[tuple[str, ...], ...]]:
    """(domain, operator, start of its handler's range) -> the sets of IR ops that it became, smallest first."""
    return {
        (domain, op_type, int(since)): tuple(tuple(form) for form in forms)
        for domain, of_domain in json.loads(FILE.read_text(encoding="utf-8")).items()
        for op_type, of_operator in of_domain.items()
        for since, forms in of_operator.items()
    }
