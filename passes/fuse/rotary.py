"""Rotary position embedding that exporters wrote out becomes one op again, in both layouts (Su et al., 2021, "RoFormer").

    x cos + concat(-x[half:], x[:half]) sin               cos and sin of full width, their halves the same
    concat(a cos - b sin, a sin + b cos)                  a, b the halves of x; cos and sin of half the width
    the same, a and b neighbours in x, joined in pairs

The angles must be those of the sample and position, [batch, 1, length, width], or [length, width] for a batch of one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...ir.dims import dim_eq
from ...ir.graph import Node, Value
from ..optimize.common import SMALL, same_dims
from ..rewrite import StagingBuilder, rule
from .terms import is_float, own, stands_for

#: How far cos and sin are looked behind for what they were joined from.
DEEPEST = 8


class _Part(NamedTuple):
    """Every `step`-th feature of x from `start` on, `width` of them."""

    x: Value
    start: int
    step: int


def _part(value: Value | None) -> _Part | None:
    """The half of a value's features, or every other one, that this is."""
    node = None if value is None else value.node
    x = None if node is None else node.operands[0]
    if node is None or x is None or x.rank is None or x.rank < 1 or type(x.shape[-1]) is not int:  # type: ignore[index]
        return None
    width, last = x.shape[-1], x.rank - 1  # type: ignore[index]
    if node.name == "split":
        even = node.attr("axis") % x.rank == last and [v.shape[-1] for v in node.results] == [width // 2] * 2  # type: ignore[index]
        return _Part(x, value.index * (width // 2), 1) if even else None  # type: ignore[union-attr]
    if node.name == "gather":  # of pairs that a reshape made
        index, pairs = node.operands[1], x.node
        if (
            pairs is None
            or pairs.name != "reshape"
            or width != 2
            or node.attr("axis") % x.rank != last
            or index.rank != 0
        ):
            return None
        source = pairs.operands[0]
        number = index.scalar()
        fits = source.shape is not None and same_dims(source.shape, _merged(x))
        return _Part(source, number % 2, 2) if fits and number is not None else None
    return _slice_part(node, x, width, last) if node.name == "slice" else None


def _merged(pairs: Value) -> tuple | None:
    """The shape of a value with its last two dims as one."""
    *lead, a, b = pairs.shape  # type: ignore[misc]
    return (*lead, a * b)


def _slice_part(node: Node, x: Value, width: int, last: int) -> _Part | None:
    starts, ends, axes, steps = (node.operand(n) for n in ("starts", "ends", "axes", "steps"))
    bounds = [
        v.ints() if v is not None else default
        for v, default in ((starts, None), (ends, None), (axes, (0,)), (steps, (1,)))
    ]
    if any(b is None or len(b) != 1 for b in bounds) or bounds[2][0] % x.rank != last or width % 2:  # type: ignore[index,operator,arg-type]
        return None
    start, end, step = slice(bounds[0][0], bounds[1][0], bounds[3][0]).indices(width)  # type: ignore[index]
    if step == 1 and (start, end) in ((0, width // 2), (width // 2, width)):
        return _Part(x, start, 1)
    return _Part(x, start, 2) if step == 2 and start in (0, 1) and len(range(start, end, 2)) == width // 2 else None


def _halves_agree(value: Value) -> bool:
    """The first half of the last axis holds what the second does."""
    for _ in range(DEEPEST):
        if value.is_const:
            if value.weight.nbytes > SMALL or not value.rank or value.shape[-1] % 2:  # type: ignore[union-attr,index,operator]
                return False
            first, second = np.split(value.array(), 2, axis=-1)
            return first.tobytes() == second.tobytes()
        node = value.node
        if node is None:
            return False
        if node.name == "concat":
            joined = len(node.operands) == 2 and node.operands[0] is node.operands[1]
            return joined and node.attr("axis") % value.rank == value.rank - 1  # type: ignore[operator]
        if not _keeps_rows(node):
            return False
        value = node.operands[0]
    return False


def _keeps_rows(node: Node) -> bool:
    """What equal halves of the first operand's last axis are equal behind, too."""
    x, y = node.operands[0], node.results[0]
    if node.name in ("unsqueeze", "squeeze", "reshape"):
        return bool(x.rank and y.rank) and dim_eq(x.shape[-1], y.shape[-1]) is True  # type: ignore[index]
    if node.name == "gather":
        return node.attr("axis") == 0 and (x.rank or 0) > 1
    return node.name in ("cos", "sin", "neg", "cast") or (node.name == "mul" and node.operands[1].scalar() is not None)


def _cache(b: StagingBuilder, angles: Value, x: Value, width: int) -> Value | None:
    """Angles that broadcast to x [batch, heads, length, size] as [batch, length, width]."""
    if angles.rank is None or not 2 <= angles.rank <= 4 or angles.dtype is not x.dtype:
        return None
    batch, _, length, _ = x.shape  # type: ignore[misc]
    have = (*(1,) * (4 - angles.rank), *angles.shape)  # type: ignore[misc]
    if have[1] != 1 or dim_eq(have[0], batch) is not True or dim_eq(have[2], length) is not True:
        return None
    made = angles
    if have[3] == 2 * width:
        made = b.slice(made, (0,), (width,), (angles.rank - 1,))
    elif have[3] != width:
        return None
    if angles.rank == 4:
        return b.squeeze(made, (1,))
    return b.unsqueeze(made, (0,)) if angles.rank == 2 else made


def _turned(b: StagingBuilder, node: Node, x: Value, cos: Value, sin: Value, interleaved: bool):
    if x.rank != 4 or not stands_for(x, node) or type(x.shape[3]) is not int or x.shape[3] % 2:  # type: ignore[index,operator]
        return b.decline("the features of a head are open, or no pairs")
    caches = [_cache(b, v, x, x.shape[3] // 2) for v in (cos, sin)]  # type: ignore[index,operator]
    if caches[0] is None or caches[1] is None:
        return b.decline("the angles are not surely one for each sample and position")
    return b.rotary_embedding(x, *caches, interleaved=interleaved)


def _factors(value: Value | None) -> list[tuple[Value, Value]]:
    """Both ways to read a product that is used here alone."""
    node = own(value, "mul")
    return [] if node is None else [node.operands, node.operands[::-1]]  # type: ignore[list-item]


@rule("add", numerics="ulp")
def fuse_rotary_halves(b: StagingBuilder, node: Node):
    """x cos + concat(-x[half:], x[:half]) sin -> rotary_embedding(x, cos, sin)"""
    for straight, crossed in (node.operands, node.operands[::-1]):
        for joined, sin in _factors(crossed):
            concat = own(joined, "concat")
            minus = None if concat is None or len(concat.operands) != 2 else own(concat.operands[0], "neg")
            if minus is None or concat.attr("axis") % (joined.rank or 1) != (joined.rank or 1) - 1:  # type: ignore[union-attr]
                continue
            upper, lower = _part(minus.operands[0]), _part(concat.operands[1])  # type: ignore[union-attr]
            if (
                upper is None
                or lower is None
                or upper.x is not lower.x
                or upper.step != 1
                or lower[1:] != (0, 1)
                or not upper.start
            ):
                continue
            for x, cos in _factors(straight):
                if x is not upper.x:
                    continue
                if not _halves_agree(cos) or not _halves_agree(sin):
                    return b.decline("the halves of the angles are not surely the same")
                return _turned(b, node, x, cos, sin, interleaved=False)
    return None


def _rotated(low: Value, high: Value) -> tuple[_Part, Value, Value] | None:
    """(a, cos, sin) of a cos - b sin and a sin + b cos, b being what stands behind a in the same value."""
    less, more = own(low, "sub"), own(high, "add")
    if less is None or more is None:
        return None
    for a, cos in _factors(less.operands[0]):
        for c, sin in _factors(less.operands[1]):
            first, second = _part(a), _part(c)
            if first is None or second is None or first.x is not second.x or first.start != 0:
                continue
            if first.step != second.step or second.start != (1 if first.step == 2 else first.x.shape[-1] // 2):  # type: ignore[index,operator]
                continue
            for p, q in (more.operands, more.operands[::-1]):
                if (a, sin) in _factors(p) and (c, cos) in _factors(q):
                    return first, cos, sin
    return None


@rule("concat", numerics="ulp")
def fuse_rotary_of_parts(b: StagingBuilder, node: Node):
    """concat(a cos - b sin, a sin + b cos), a and b the halves of x -> rotary_embedding(x, cos, sin)"""
    if len(node.operands) != 2 or node.result.rank != 4 or node.attr("axis") % 4 != 3:
        return None
    found = _rotated(*node.operands)
    if found is None or found[0].step != 1 or not is_float(node.result):
        return None
    return _turned(b, node, found[0].x, found[1], found[2], interleaved=False)


@rule("reshape", numerics="ulp")
def fuse_rotary_of_pairs(b: StagingBuilder, node: Node):
    """reshape(concat of a cos - b sin and a sin + b cos as pairs), a and b neighbours in x -> rotary_embedding(x, cos, sin)"""
    concat = own(node.operands[0], "concat")
    if concat is None or len(concat.operands) != 2 or concat.result.rank != 5 or concat.attr("axis") % 5 != 4:
        return None
    raised = [own(v, "unsqueeze", "reshape") for v in concat.operands]
    if any(r is None or r.operands[0].rank != 4 or r.result.shape[4] != 1 for r in raised):  # type: ignore[union-attr,index]
        return None
    low, high = (r.operands[0] for r in raised)  # type: ignore[union-attr]
    if not all(same_dims(r.result.shape[:4], r.operands[0].shape) for r in raised):  # type: ignore[union-attr,index]
        return None
    found = _rotated(low, high)
    if found is None or found[0].step != 2:
        return None
    return _turned(b, node, found[0].x, found[1], found[2], interleaved=True)


ROTARY = (fuse_rotary_halves, fuse_rotary_of_parts, fuse_rotary_of_pairs)
