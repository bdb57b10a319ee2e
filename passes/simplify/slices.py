"""Slices, pads and concats: one spelling each. What moves or merges them stands in `move-data`.

A canonical slice names only the axes that it cuts, in order, with constants that count from the front where the size is
known, and no steps where all are 1.
"""

from __future__ import annotations

from typing import NamedTuple

from ...ir.dims import Dim, dim_le
from ...ir.graph import Node, Value
from ...ir.ops.shapes import UNBOUNDED, slice_positions
from ..optimize.common import small_const
from ..pattern import literal_equals
from ..rewrite import StagingBuilder, rule

TO_THE_END = 2**63 - 1


class Cut(NamedTuple):
    """What a slice takes of one axis."""

    start: int
    end: int
    step: int

    def everything(self, dim: Dim) -> bool:
        return self.step == 1 and self.start == 0 and (self.end >= UNBOUNDED or dim_le(dim, self.end) is True)


def cuts_of(node: Node) -> dict[int, Cut] | None:
    """What a slice with constant bounds takes of each axis that it names; None for a computed one."""
    x = node.operands[0]
    starts, ends = (node.operand(name).ints() for name in ("starts", "ends"))
    if x.rank is None or starts is None or ends is None:  # type: ignore[union-attr]
        return None
    axes, steps = (node.operand(name) for name in ("axes", "steps"))
    along = range(len(starts)) if axes is None else axes.ints()
    by = (1,) * len(starts) if steps is None else steps.ints()
    if along is None or by is None:
        return None
    rank: int = x.rank  # type: ignore[union-attr, assignment]
    return {a % rank: Cut(*cut) for a, cut in zip(along, zip(starts, ends, by, strict=True), strict=True)}


def canonical_cut(dim: Dim, cut: Cut) -> Cut:
    """The same elements, counted from the front where the size is known."""
    if not isinstance(dim, int):
        end = TO_THE_END if cut.end >= UNBOUNDED else cut.end
        return Cut(cut.start, end, cut.step)
    at = slice_positions(dim, *cut)
    if cut.step < 0 or not at:
        return cut if at else Cut(0, 0, 1)
    return Cut(at.start, at[-1] + 1, cut.step if len(at) > 1 else 1)


def build_slice(b: StagingBuilder, x: Value, cuts: dict[int, Cut]) -> Value:
    axes = tuple(sorted(cuts))
    starts, ends, steps = (tuple(cuts[a][i] for a in axes) for i in range(3))
    return b.slice(x, starts, ends, axes, None if all(s == 1 for s in steps) else steps)


@rule("slice")
def tidy_slice(b: StagingBuilder, node: Node):
    """slice that names axes it takes whole, negative or unordered ones, steps of 1 -> the canonical slice"""
    x, cuts = node.operands[0], cuts_of(node)
    if cuts is None or x.shape is None:
        return None
    made = {a: canonical_cut(x.shape[a], c) for a, c in cuts.items()}
    made = {a: c for a, c in made.items() if not c.everything(x.shape[a])}
    if not made:
        return x
    same = made == cuts and list(cuts) == sorted(cuts) and node.operand("axes") is not None
    needs_steps = any(c.step != 1 for c in made.values())
    given = (node.operand("axes"), node.operand("steps"))
    if same and (given[1] is not None) == needs_steps and given[0].ints() == tuple(made) and _constants(node):
        return None
    return build_slice(b, x, made)


def _constants(node: Node) -> bool:
    """All operands but the first are constants (not merely known)."""
    return all(v is None or v.is_const for v in node.operands[1:])


@rule("pad")
def tidy_pad(b: StagingBuilder, node: Node):
    """pad of named axes, or by an explicit 0 -> pad of all axes, by the default"""
    x, value, axes = node.operands[0], node.operand("value"), node.operand("axes")
    pads = node.operand("pads").ints()
    if x.rank is None or pads is None:
        return None
    drop = value is not None and node.attr("mode") == "constant" and x.dtype is not None and x.dtype.is_numeric
    drop = drop and literal_equals(value, 0.0 if x.dtype.is_float else 0)
    if axes is None and not drop:
        return None
    along = range(x.rank) if axes is None else axes.ints()
    if along is None:
        return None
    full = [0] * (2 * x.rank)
    for i, axis in enumerate(along):
        full[axis % x.rank], full[axis % x.rank + x.rank] = pads[i], pads[i + len(along)]
    return b.pad(x, tuple(full), None if drop else value, mode=node.attr("mode"))


@rule("concat")
def join_constants(b: StagingBuilder, node: Node):
    """concat(x, c, d, y) -> concat(x, concat(c, d), y) for constants, which are then folded"""
    axis, parts, run = node.attr("axis"), [], []
    if len(node.operands) < 3:
        return None
    for value in (*node.operands, None):
        if value is not None and small_const(value) and value.weight.role == "const":  # type: ignore[union-attr]
            run.append(value)
            continue
        if len(run) > 1:
            parts.append(b.concat(*run, axis=axis))
        else:
            parts += run
        run = []
        if value is not None:
            parts.append(value)
    return b.concat(*parts, axis=axis) if 1 < len(parts) < len(node.operands) else None


RULES = (tidy_slice, tidy_pad, join_constants)
