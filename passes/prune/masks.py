"""Masks: which elements of a matrix become zero, alone, n of m in a row, or in blocks. Counts are exact.

    pattern = parse_pattern("2:4")                              # or "none", "block:4x1"
    keep = keep_mask(np.abs(matrix), pattern, ratio=0.5)        # True where an element stays

Of equal scores the earlier one goes first: the same matrix gives the same mask everywhere. Knows arrays only.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...ir.errors import UsageError


class Pattern(NamedTuple):
    """What goes together. "element": one alone; "n:m": of `b` neighbours in a row at most `a` stay; "block": `a` rows by
    `b` columns."""

    kind: str
    a: int = 1
    b: int = 1

    def __str__(self) -> str:
        return {"element": "none", "n:m": f"{self.a}:{self.b}", "block": f"block:{self.a}x{self.b}"}[self.kind]


def parse_pattern(text: str) -> Pattern:
    """The pattern that `text` names. Raises UsageError."""
    if text == "none":
        return Pattern("element")
    if made := re.fullmatch(r"(\d{1,3}):(\d{1,3})", text):
        kept, of = map(int, made.groups())
        if 0 < kept < of:
            return Pattern("n:m", kept, of)
    if made := re.fullmatch(r"block:(\d{1,4})x(\d{1,4})", text):
        rows, columns = map(int, made.groups())
        if rows and columns:
            return Pattern("block", rows, columns)
    raise UsageError(
        f"unknown structure {text!r}",
        hint="channel (smaller layers), none (single weights), N:M such as 2:4 (N of M stay), block:RxC such as block:4x1",
    )


def keep_mask(scores: np.ndarray, pattern: Pattern, ratio: float, *, per_row: bool = False) -> np.ndarray:
    """Scores [R, C] to bool [R, C], False for `ratio` of the units with the lowest scores.

    n:m has its ratio by itself. `per_row` takes the same share of every row, to within one element, the total still exact.
    """
    if pattern.kind == "n:m":
        return _n_of_m(scores, pattern.a, pattern.b)
    units = block_scores(scores, pattern)
    if per_row:
        edges = _share(np.arange(len(units) + 1) * units.shape[1], ratio)
        keep = np.stack([~_lowest(row, int(count)) for row, count in zip(units, np.diff(edges), strict=True)])
    else:
        keep = ~_lowest(units.reshape(-1), int(_share(units.size, ratio))).reshape(units.shape)
    return spread(keep, pattern, scores.shape)


def keep_masks(scores: Sequence[np.ndarray], pattern: Pattern, ratio: float) -> list[np.ndarray]:
    """The same over several matrices that are ranked together; every matrix keeps at least one unit."""
    if pattern.kind == "n:m":
        return [_n_of_m(each, pattern.a, pattern.b) for each in scores]
    units = [block_scores(each, pattern) for each in scores]
    flat = np.concatenate([each.reshape(-1) for each in units])
    starts = np.cumsum([0, *(each.size for each in units)])
    ranked = flat.copy()
    for start, end in zip(starts, starts[1:], strict=False):
        ranked[start + int(np.argmax(flat[start:end]))] = np.inf
    gone = _lowest(ranked, min(int(_share(flat.size, ratio)), flat.size - len(units)))
    parts = [~gone[s:e].reshape(u.shape) for s, e, u in zip(starts, starts[1:], units, strict=False)]
    return [spread(keep, pattern, each.shape) for keep, each in zip(parts, scores, strict=True)]


def block_scores(scores: np.ndarray, pattern: Pattern) -> np.ndarray:
    """[R, C] to the mean score of every block; a block at the edge is as small as what is left."""
    if pattern.kind == "element":
        return scores
    rows = np.arange(0, scores.shape[0], pattern.a)
    columns = np.arange(0, scores.shape[1], pattern.b)
    total = np.add.reduceat(np.add.reduceat(scores.astype(np.float64), rows, axis=0), columns, axis=1)
    heights = np.diff([*rows, scores.shape[0]])
    widths = np.diff([*columns, scores.shape[1]])
    return total / np.outer(heights, widths)


def spread(keep: np.ndarray, pattern: Pattern, shape: tuple[int, ...]) -> np.ndarray:
    """A mask over units as one over elements [R, C]."""
    if pattern.kind == "element":
        return keep
    return np.repeat(np.repeat(keep, pattern.a, axis=0), pattern.b, axis=1)[: shape[0], : shape[1]]


def _share(count: int | np.ndarray, ratio: float) -> np.ndarray:
    """How many of `count` the ratio takes: rounded, halves up."""
    return np.floor(np.asarray(count) * ratio + 0.5).astype(np.int64)


def _lowest(scores: np.ndarray, count: int) -> np.ndarray:
    """bool [N]: the `count` lowest scores, the earlier of equal ones."""
    gone = np.zeros(scores.size, bool)
    if count <= 0:
        return gone
    if count >= scores.size:
        return ~gone
    limit = np.partition(scores, count - 1)[count - 1]
    gone[scores < limit] = True
    gone[np.flatnonzero(scores == limit)[: count - int(gone.sum())]] = True
    return gone


def _n_of_m(scores: np.ndarray, kept: int, of: int) -> np.ndarray:
    """At most `kept` of each run of `of` columns stay; a shorter run at the end keeps at most `kept` as well."""
    rows, columns = scores.shape
    runs = -(-columns // of)
    padded = np.full((rows, runs * of), -np.inf)
    padded[:, :columns] = scores
    order = np.argsort(padded.reshape(rows, runs, of), axis=2, kind="stable")
    keep = np.zeros((rows, runs, of), bool)
    np.put_along_axis(keep, order[:, :, of - kept :], True, axis=2)
    return keep.reshape(rows, -1)[:, :columns]


def stored_sizes(array: np.ndarray) -> dict[str, int]:
    """Bytes of an array as it is, zipped (zlib, level 6), and as a bitmap with the values that are not zero."""
    data = np.ascontiguousarray(array)
    engine = zlib.compressobj(6)
    zipped = 0
    view = data.reshape(-1).view(np.uint8).data
    for start in range(0, len(view), 1 << 20):
        zipped += len(engine.compress(view[start : start + (1 << 20)]))
    zipped += len(engine.flush())
    sparse = -(-data.size // 8) + int(np.count_nonzero(data)) * data.itemsize
    return {"bytes": data.nbytes, "zipped": zipped, "sparse": sparse}
