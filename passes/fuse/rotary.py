"""Rotary position embedding that exporters wrote out becomes one op again, in both layouts (Su et al., 2021, "RoFormer").

    x cos + concat(-x[half:], x[:half]) sin               cos and sin of full width, their halves the same
    concat(a cos - b sin, a sin + b cos)                  a, b the halves of x; cos and sin of half the width
    the same, a and b neighbours in x, joined in pairs

    x cos + (-b, a as pairs) sin                          cos and sin of full width, each number twice

x is [batch, heads, length, size], or heads and length change places; the angles are those of the sample and position, or of
the position alone, for which they are repeated over the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...ir.dims import dim_eq
from ...ir.graph import Node, Value
from ..optimize.common import SMALL, same_dims
from ..rewrite import Declined, StagingBuilder, rule
from .terms import is_float, own, stands_for

#: How far cos and sin are looked behind for what they were joined from.
DEEPEST = 8


class _Part(NamedTuple):
    """Every `step`-th feature of x from `start` on, `width` of them; x may hold pairs along an axis of their own."""

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
        return _Part(source if fits else x, number % 2, 2) if number is not None else None
    return _slice_part(node, x, width, last) if node.name == "slice" else None


def _merged(pairs: Value) -> tuple:
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


#: Whether the two halves of the last axis are to agree, or the members of each pair of neighbours.
_HALVES, _PAIRS = "halves", "pairs"


def _half(b: StagingBuilder, value: Value, axis: int, kind: str, depth: int = DEEPEST) -> Value | None:
    """Half of the numbers along an axis, when the other half is the same: computed from what was joined."""
    if value.is_const:
        return _half_const(b, value, axis, kind)
    node = value.node
    if node is None or not depth or value.rank is None:
        return None
    if node.name == "concat":
        joined = len(node.operands) == 2 and node.operands[0] is node.operands[1] and kind == _HALVES
        return node.operands[0] if joined and node.attr("axis") % value.rank == axis else None
    if kind == _PAIRS and node.name == "reshape" and (found := _each_twice(node, axis)) is not None:
        once = b.squeeze(found, (found.rank - 1,))  # type: ignore[operator]
        return b.unsqueeze(once, tuple(range(value.rank - once.rank))) if value.rank > once.rank else once  # type: ignore[operator]
    before = _axis_before(node, axis)
    half = None if before is None else _half(b, node.operands[0], before, kind, depth - 1)  # type: ignore[arg-type]
    if half is None:
        return None
    if node.name == "reshape":
        units = [tuple(i for i, d in enumerate(v.shape) if d == 1) for v in (half, value)]  # type: ignore[arg-type]
        return b.unsqueeze(b.squeeze(half, units[0]), units[1])
    return b.call(node.name, (half, *node.operands[1:]), dict(node.attrs)).result


def _half_const(b: StagingBuilder, value: Value, axis: int, kind: str) -> Value | None:
    if value.weight.nbytes > SMALL or type(value.shape[axis]) is not int or value.shape[axis] % 2:  # type: ignore[union-attr,index,operator]
        return None
    rows = np.moveaxis(value.array(), axis, -1)
    first, second = np.split(rows, 2, axis=-1) if kind == _HALVES else (rows[..., ::2], rows[..., 1::2])
    if first.tobytes() != second.tobytes():
        return None
    width, step = value.shape[axis], 1 if kind == _HALVES else 2  # type: ignore[index]
    return b.slice(value, (0,), (width // 2 if step == 1 else width,), (axis,), (step,))  # type: ignore[operator]


def _each_twice(node: Node, axis: int) -> Value | None:
    """The x [..., n, 1] of a value [..., 2 n], or with more dims of 1, in which every number of x stands twice in a row."""
    spread = node.operands[0].node
    if spread is None or spread.name not in ("expand", "tile", "concat") or spread.result.shape[-1:] != (2,):  # type: ignore[index]
        return None
    raised, shape = spread.operands[0], node.result.shape
    merged = _merged(spread.result)
    lead = len(shape) - len(merged)  # type: ignore[arg-type]
    twice = lead >= 0 and same_dims((*(1,) * lead, *merged), shape) and axis == len(shape) - 1  # type: ignore[arg-type]
    alone = all(v is raised for v in spread.operands if v.dtype is raised.dtype)  # type: ignore[union-attr]
    return raised if twice and alone and same_dims(raised.shape, (*spread.result.shape[:-1], 1)) else None  # type: ignore[index]


def _axis_before(node: Node, axis: int) -> int | None:
    """Where the numbers along an axis of the result of a node stand in its first operand, which it treats alike."""
    x, y = node.operands[0], node.results[0]
    if node.name == "transpose":
        return node.attr("perm")[axis]
    if node.name in ("unsqueeze", "squeeze", "reshape"):
        own_dims, dims = ([(d, i) for i, d in enumerate(v.shape or ()) if d != 1] for v in (x, y))  # type: ignore[union-attr]
        alike = same_dims([d for d, _ in own_dims], [d for d, _ in dims])
        place = [i for _, i in dims].index(axis) if alike and y.shape[axis] != 1 else None  # type: ignore[index]
        return None if place is None else own_dims[place][1]
    if node.name == "gather":
        return (
            axis - y.rank + x.rank
            if node.attr("axis") == 0 and (x.rank or 0) > 1 and axis >= node.operands[1].rank
            else None
        )  # type: ignore[operator,union-attr]
    plain = node.name in ("cos", "sin", "neg", "cast") or (node.name == "mul" and node.operands[1].scalar() is not None)
    return axis if plain and x.rank == y.rank else None


class _Turn(NamedTuple):
    """What is turned: x [batch, heads, length, size], or [batch, length, heads, size], by angles that broadcast to it."""

    x: Value
    heads: int

    @property
    def length(self) -> int:
        return 3 - self.heads


def _angles(b: StagingBuilder, value: Value, turn: _Turn, kind: str | None) -> Value | None:
    """Angles as [batch, length, size / 2]; `kind` says which of their halves agree (None: they are half as wide)."""
    x = turn.x
    if value.rank is None or not 2 <= value.rank <= 4 or value.dtype is not x.dtype:
        return None
    half = value if kind is None else _half(b, value, value.rank - 1, kind)
    if half is None or half.shape is None or half.shape[-1] != x.shape[3] // 2:  # type: ignore[index,operator]
        return None
    missing = 4 - half.rank  # type: ignore[operator]
    have = (*(1,) * missing, *half.shape)
    if have[turn.heads] != 1 or dim_eq(have[turn.length], x.shape[turn.length]) is not True:  # type: ignore[index]
        return None
    if turn.heads >= missing:
        half = b.squeeze(half, (turn.heads - missing,))
        missing += 1
    if missing > 1:
        half = b.unsqueeze(half, tuple(range(missing - 1)))
    if dim_eq(have[0], x.shape[0]) is True:  # type: ignore[index]
        return half
    return b.expand(half, _per_sample(b, x)) if have[0] == 1 else None


def _per_sample(b: StagingBuilder, x: Value):
    batch = x.shape[0]  # type: ignore[index]
    return (batch, 1, 1) if type(batch) is int else b.concat(b.shape(x, start=0, end=1), (1, 1), axis=0)


def _turned(
    b: StagingBuilder, node: Node, x: Value, cos: Value, sin: Value, interleaved: bool, kind: str | None = None
):
    if x.rank != 4 or not stands_for(x, node) or type(x.shape[3]) is not int or x.shape[3] % 2:  # type: ignore[index,operator]
        return b.decline("the features of a head are open, or no pairs")
    for heads in (1, 2):
        turn = _Turn(x, heads)
        caches = [_angles(b, v, turn, kind) for v in (cos, sin)]
        if caches[0] is not None and caches[1] is not None:
            return _rotary(b, turn, caches[0], caches[1], interleaved)
    return b.decline("the angles are not surely one for each sample and position, or their halves not the same")


def _rotary(b: StagingBuilder, turn: _Turn, cos: Value, sin: Value, interleaved: bool) -> Value | Declined:
    x, count = turn.x, turn.x.shape[turn.heads]  # type: ignore[index]
    if turn.heads == 1:
        return b.rotary_embedding(x, cos, sin, interleaved=interleaved)
    if type(count) is not int:
        return b.decline("the number of heads is open")
    size: int = x.shape[3]  # type: ignore[index,assignment]
    flat = _side_by_side(x)
    flat = b.reshape(x, (0, 0, count * size)) if flat is None else flat
    made = b.rotary_embedding(flat, cos, sin, interleaved=interleaved, num_heads=count)
    return b.reshape(made, (0, 0, count, size))


@rule("rotary_embedding", numerics="exact")
def rotary_of_joined_heads(b: StagingBuilder, node: Node):
    """rotary_embedding(heads(x)) -> heads(rotary_embedding(x))"""
    x = node.operands[0]
    cut = _before_swap(x) if x.rank == 4 else None
    flat = None if cut is None else _side_by_side(cut)
    if flat is None or type(cut.shape[2]) is not int:  # type: ignore[union-attr,index]
        return None
    attrs = {**node.attrs, "num_heads": cut.shape[2]}  # type: ignore[union-attr,index]
    made = b.call("rotary_embedding", (flat, *node.operands[1:]), attrs).result
    return b.transpose(b.reshape(made, (0, 0, *cut.shape[2:])), perm=(0, 2, 1, 3))  # type: ignore[union-attr,index]


def _before_swap(x: Value) -> Value | None:
    """What a transpose of heads and positions was applied to."""
    node = x.node
    return (
        node.operands[0]
        if node is not None and node.name == "transpose" and node.attr("perm") == (0, 2, 1, 3)
        else None
    )


def _side_by_side(x: Value) -> Value | None:
    """The [batch, length, heads * size] that x [batch, length, heads, size] was taken out of."""
    node = x.node
    flat = node.operands[0] if node is not None and node.name == "reshape" else None
    return flat if flat is not None and flat.rank == 3 and same_dims(flat.shape[:2], x.shape[:2]) else None  # type: ignore[index]


def _factors(value: Value | None) -> list[tuple[Value, Value]]:
    """Both ways to read a product that is used here alone."""
    node = own(value, "mul")
    return [] if node is None else [node.operands, node.operands[::-1]]  # type: ignore[list-item]


@rule("add", numerics="ulp")
def fuse_rotary_halves(b: StagingBuilder, node: Node):
    """x cos + concat(-x[half:], x[:half]) sin -> rotary_embedding(x, cos, sin)"""
    for straight, crossed in (node.operands, node.operands[::-1]):
        for joined, sin in _factors(crossed):
            x, negated = _swapped(own(joined, "concat"))
            turning = sin if negated or x is None else _negated_first(b, sin)
            if x is None or turning is None:
                continue
            for same, cos in _factors(straight):
                if same is x:
                    return _turned(b, node, x, cos, turning, interleaved=False, kind=_HALVES)
    return None


def _swapped(concat: Node | None) -> tuple[Value | None, bool]:
    """(x, whether the first part is negated) of the halves of x in turned order."""
    if (
        concat is None
        or len(concat.operands) != 2
        or concat.attr("axis") % (concat.result.rank or 1) != (concat.result.rank or 1) - 1
    ):
        return None, False
    minus = own(concat.operands[0], "neg")
    upper, lower = _part(concat.operands[0] if minus is None else minus.operands[0]), _part(concat.operands[1])
    if (
        upper is None
        or lower is None
        or upper.x is not lower.x
        or upper.step != 1
        or lower[1:] != (0, 1)
        or not upper.start
    ):
        return None, False
    return upper.x, minus is not None


def _negated_first(b: StagingBuilder, sin: Value) -> Value | None:
    """Angles of which the first half was negated, as they were."""
    if not sin.is_const or sin.weight.nbytes > SMALL or type(sin.shape[-1]) is not int or sin.shape[-1] % 2:  # type: ignore[union-attr,index,operator]
        return None
    first, second = np.split(sin.array(), 2, axis=-1)
    return b.const(np.concatenate([second, second], axis=-1)) if np.array_equal(-first, second) else None


@rule("add", numerics="ulp")
def fuse_rotary_pairs(b: StagingBuilder, node: Node):
    """x cos + reshape(concat of -x[1::2] and x[::2] as pairs) sin -> rotary_embedding(x, cos, sin)"""
    for straight, crossed in (node.operands, node.operands[::-1]):
        for joined, sin in _factors(crossed):
            parts = _paired(own(joined, "reshape"))
            minus = None if parts is None else own(parts[0], "neg")
            if minus is None:
                continue
            odd, even = _part(minus.operands[0]), _part(parts[1])  # type: ignore[index]
            if odd is None or even is None or odd.x is not even.x or (odd[1:], even[1:]) != ((1, 2), (0, 2)):
                continue
            for x, cos in _factors(straight):
                if x is odd.x:
                    return _turned(b, node, x, cos, sin, interleaved=True, kind=_PAIRS)
    return None


def _paired(node: Node | None) -> tuple[Value, Value] | None:
    """(low, high) of a reshape that joins [..., n, 2], made of both, to [..., 2 n]."""
    concat = None if node is None else own(node.operands[0], "concat")
    if concat is None or len(concat.operands) != 2 or concat.result.rank != 5 or concat.attr("axis") % 5 != 4:
        return None
    raised = [own(v, "unsqueeze", "reshape") for v in concat.operands]
    if any(r is None or r.operands[0].rank != 4 or r.result.shape[4] != 1 for r in raised):  # type: ignore[union-attr,index]
        return None
    if not all(same_dims(r.result.shape[:4], r.operands[0].shape) for r in raised):  # type: ignore[union-attr,index]
        return None
    low, high = (r.operands[0] for r in raised)  # type: ignore[union-attr]
    return low, high  # type: ignore[return-value]


def _has(product: Value, part: Value, angles: Value) -> bool:
    """The product of a part and these angles."""
    return any(x is part and _equal(y, angles) for x, y in _factors(product))


def _equal(a: Value, b: Value) -> bool:
    """One value, or constants of the same numbers."""
    if a is b or not (a.is_const and b.is_const) or a.type is not b.type or a.weight.nbytes > SMALL:  # type: ignore[union-attr]
        return a is b
    return a.array().tobytes() == b.array().tobytes()


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
                if _has(p, a, sin) and _has(q, c, cos):
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
    parts = _paired(node)
    if parts is None:
        return None
    found = _rotated(*parts)
    if found is None or found[0].step != 2:
        return None
    x = found[0].x
    if x.rank == 5:
        x = b.reshape(x, (*(d if type(d) is int else 0 for d in x.shape[:3]), -1))  # type: ignore[index]
    return _turned(b, node, x, found[1], found[2], interleaved=True)


@rule("concat", numerics="ulp")
def partial_rotary(b: StagingBuilder, node: Node):
    """concat(rotary_embedding(x[:n]), x[n:]) along the features -> rotary_embedding(x) of the first n"""
    if len(node.operands) != 2 or node.result.rank != 4 or node.attr("axis") % 4 != 3:
        return None
    turned, rest = node.operands
    made = own(turned, "rotary_embedding")
    cuts = [None if made is None else _cut(made.operands[0]), _cut(rest)]  # type: ignore[arg-type]
    if cuts[0] is None or cuts[1] is None or cuts[0][0] is not cuts[1][0]:
        return None
    (x, first, middle), (_, start, last) = cuts  # type: ignore[misc]
    if first or start != middle or last != x.shape[3] or made.attr("rotary_embedding_dim"):  # type: ignore[index,union-attr]
        return b.decline("the parts are not the first features and all others")
    attrs = {**made.attrs, "rotary_embedding_dim": middle}  # type: ignore[union-attr]
    return b.call("rotary_embedding", (x, *made.operands[1:]), attrs).result  # type: ignore[union-attr]


def _cut(value: Value | None) -> tuple[Value, int, int] | None:
    """(x, start, end) of x[..., start:end]."""
    node = None if value is None else value.node
    if node is None or node.name not in ("slice", "split") or value.rank != 4:  # type: ignore[union-attr]
        return None
    x = node.operands[0]
    width = x.shape[3]  # type: ignore[index]
    if type(width) is not int:
        return None
    if node.name == "split":
        sizes = [v.shape[3] for v in node.results]  # type: ignore[index]
        start = sum(sizes[: value.index])  # type: ignore[union-attr,arg-type]
        return (x, start, start + sizes[value.index]) if node.attr("axis") % 4 == 3 else None  # type: ignore[union-attr,operator,return-value]
    bounds = [v.ints() if v is not None else None for v in (node.operand(n) for n in ("starts", "ends", "axes"))]
    steps = node.operand("steps")
    if any(n is None or len(n) != 1 for n in bounds) or (steps is not None and steps.ints() != (1,)):
        return None
    start, end, _ = slice(bounds[0][0], bounds[1][0]).indices(width)  # type: ignore[index]
    return (x, start, end) if bounds[2][0] % 4 == 3 else None  # type: ignore[index]


ROTARY = (
    fuse_rotary_halves,
    fuse_rotary_pairs,
    fuse_rotary_of_parts,
    fuse_rotary_of_pairs,
    partial_rotary,
    rotary_of_joined_heads,
)
