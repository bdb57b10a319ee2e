"""Integers that a model computes from shapes. Where inference knows them element by element as dims, they are read off the
nearest shape at hand with as few nodes as possible, however long the arithmetic was that led to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...ir.dims import Dim, Expr, dim_eq
from ...ir.graph import Node, Value
from ...ir.opdef import PURE
from ...ir.ops.shapes import slice_positions
from ...ir.types import I64
from ..optimize.common import same_dims
from ..rewrite import StagingBuilder, rule
from .reshapes import regrouping, rest_axis
from .slices import cuts_of

#: Ops whose integer results are tried; everything that shape arithmetic of exporters is made of.
ARITHMETIC = (
    "concat", "gather", "slice", "reshape", "squeeze", "unsqueeze", "cast", "where", "expand", "split", "size", "reduce_prod",
    "add", "sub", "mul", "div", "floor_div", "mod", "neg", "min", "max", "clip", "abs", "reduce_max", "reduce_min", "reduce_sum",
)  # fmt: skip
#: Vectors of more elements are no shapes.
LONGEST = 16
#: So many nodes behind one are looked at, so many inputs of a graph, and so many users of a value.
REACH, INPUTS, USERS = 48, 16, 16


class Piece(NamedTuple):
    """Consecutive elements of a vector: numbers, or the dims start:end of the shape of `source`."""

    numbers: tuple[int, ...] = ()
    source: Value | None = None
    start: int = 0
    end: int = 0


@rule("shape")
def shape_of_origin(b: StagingBuilder, node: Node):
    """shape(relu(x)) -> shape(x); of an input of the graph, where one has these dims"""
    x, dims = node.operands[0], node.result.elems
    if dims is None or all(isinstance(d, int) for d in dims):
        return None
    for value in (*_inputs(node), *_equal_shapes(x)):  # type: ignore[arg-type]
        if value is x:
            return None
        at = _find(dims, value.shape or ())
        if at is not None:
            return _shape(b, value, at, at + len(dims))
    return None


def _inputs(node: Node) -> Sequence[Value]:
    return node.graph.inputs[:INPUTS]  # type: ignore[union-attr]


def _equal_shapes(value: Value) -> Iterator[Value]:
    """The earliest value that `value` has its whole shape from, as far as a few steps back show; then `value` itself."""
    found = value
    for _ in range(8):
        node = found.node
        earlier = (
            next((v for v in node.inputs() if same_dims(v.shape, found.shape) and not v.is_const), None)
            if node
            else None
        )
        if earlier is None:
            break
        found = earlier
    yield found


def _find(dims: Sequence[Dim], shape: Sequence[Dim]) -> int | None:
    """Where `dims` stand one after another in `shape`; the first place."""
    for at in range(len(shape) - len(dims) + 1):
        if same_dims(dims, shape[at : at + len(dims)]):
            return at
    return None


def _shape(b: StagingBuilder, value: Value, start: int, end: int) -> Value:
    """The dims start:end of `value` as a vector."""
    return b.shape(value, start=start, end=None if end == value.rank else end)


@rule("gather", "slice")
def part_of_shape(b: StagingBuilder, node: Node):
    """gather(shape(x), [2, 3]), slice(shape(x), 2, 4) -> shape(x){start = 2, end = 4}"""
    inner = node.operands[0].node  # type: ignore[union-attr]
    if inner is None or inner.name != "shape" or node.result.rank != 1:
        return None
    x = inner.operands[0]
    if x.rank is None:  # type: ignore[union-attr]
        return None
    all_places = range(x.rank)[inner.attr("start") : inner.attr("end")]  # type: ignore[index]
    places = _places(node, len(all_places))
    if not places or any(n - m != 1 for m, n in zip(places, places[1:], strict=False)):
        return b.decline("the places are not consecutive")
    return _shape(b, x, all_places[places[0]], all_places[places[-1]] + 1)  # type: ignore[arg-type]


def _places(node: Node, count: int) -> list[int] | None:
    """Which of `count` elements of a vector a gather or slice takes."""
    if node.name == "gather":
        at = node.operands[1].ints()  # type: ignore[union-attr]
        return None if at is None or any(not -count <= i < count for i in at) else [i % count for i in at]
    cuts = cuts_of(node)
    return None if cuts is None else list(slice_positions(count, *cuts[0])) if list(cuts) == [0] else None


@rule(*ARITHMETIC, benefit=3)
def rebuild_from_shapes(b: StagingBuilder, node: Node):
    """integers computed from dims -> numbers and parts of shapes, joined, where these are fewer nodes"""
    if len(node.results) != 1:
        return None
    result = node.result
    elems = result.elems
    if elems is None or None in elems or len(elems) > LONGEST or all(isinstance(e, int) for e in elems):
        return None
    if result.dtype is None or not result.dtype.is_int or result.rank is None or result.rank > 1:
        return None
    dying, shaped = _behind(node)
    pieces = _pieces(elems, [*_inputs(node), *shaped])  # type: ignore[arg-type]
    if pieces is None:
        return b.decline("an element is no dim of a value at hand")
    if result.rank == 0:  # one dim: gathered from the whole shape, which other scalars can share
        pieces = [piece._replace(start=0, end=piece.source.rank) for piece in pieces]  # type: ignore[union-attr]
    known = _made_already(node, pieces, dying)
    if _cost(result, pieces, known) >= len(dying):
        return b.decline("it would take as many nodes")
    return _built(b, result, pieces, known)


def _behind(root: Node) -> tuple[set[Node], list[Value]]:
    """The nodes that die with `root`, itself among them, and the values whose shapes go into it, earliest first."""
    seen: dict[Node, None] = {root: None}
    stack = [root]
    while stack and len(seen) < REACH:
        node = stack.pop()
        for value in node.inputs():
            behind = value.node
            if (
                behind is not None
                and behind not in seen
                and (behind.name in ARITHMETIC or behind.name in ("shape", "size"))
            ):
                seen[behind] = None
                if behind.name not in ("shape", "size"):
                    stack.append(behind)
    ordered = sorted(seen, key=lambda n: n.order, reverse=True)
    dying: set[Node] = {root}
    for node in ordered[1:]:
        if node.has(PURE) and all(value.used_only_by(dying) for value in node.results):
            dying.add(node)
    shaped = [n.operands[0] for n in reversed(ordered) if n.name in ("shape", "size")]
    return dying, list(dict.fromkeys(v for v in shaped if v is not None))


def _pieces(elems: Sequence[Dim], values: Sequence[Value]) -> list[Piece] | None:
    """`elems` as the fewest pieces in a row, taken greedily; of equal ones the first value's."""
    pieces: list[Piece] = []
    at = 0
    while at < len(elems):
        found = max((_longest(elems, at, value) for value in values), key=lambda p: p.end - p.start, default=Piece())
        number = elems[at]
        if found.source is not None and not (isinstance(number, int) and found.end - found.start < 2):
            pieces.append(found)
            at += found.end - found.start
        elif isinstance(number, int):
            before = pieces.pop().numbers if pieces and pieces[-1].numbers else ()
            pieces.append(Piece((*before, number)))
            at += 1
        else:
            return None
    return pieces


def _longest(elems: Sequence[Dim], at: int, value: Value) -> Piece:
    """The longest run of dims of `value` that `elems` has from `at` on; one that is all numbers is none."""
    shape, best = value.shape or (), Piece()
    for start in range(len(shape)):
        count = 0
        while (
            at + count < len(elems) and start + count < len(shape) and _equal(elems[at + count], shape[start + count])
        ):
            count += 1
        while count and isinstance(elems[at + count - 1], int):  # numbers at the end are cheaper as such
            count -= 1
        if count > best.end - best.start and not isinstance(elems[at], int):
            best = Piece((), value, start, start + count)
    return best


def _equal(a: Dim, b: Dim) -> bool:
    return a is b or dim_eq(a, b) is True


def vector_of_dims(b: StagingBuilder, node: Node, dims: Sequence[Dim] | None, *near: Value) -> Value | None:
    """A vector of these dims in front of `node`, read off the inputs of its graph, or off values `near` it."""
    if dims is None:
        return None
    numbers = tuple(d for d in dims if isinstance(d, int))
    if len(numbers) == len(dims):
        return b.const(np.asarray(numbers, np.int64))
    pieces = _pieces(dims, [*_inputs(node), *near])
    if pieces is None:
        return None
    return _joined(b, pieces, _made_already(node, pieces, set()))


def _made_already(root: Node, pieces: Sequence[Piece], dying: set[Node]) -> dict[Piece, Value]:
    """Shapes that stand before `root` and stay."""
    found: dict[Piece, Value] = {}
    for piece in pieces:
        if piece.source is not None and piece not in found:
            attrs = {"start": piece.start, "end": None if piece.end == piece.source.rank else piece.end}
            for user in piece.source.first_users(USERS):
                if user.name == "shape" and user.attrs.plain == attrs and user.before(root) and user not in dying:
                    found[piece] = user.result
                    break
    return found


def _cost(result: Value, pieces: Sequence[Piece], known: Mapping[Piece, Value]) -> int:
    shapes = len({piece for piece in pieces if piece.source is not None})
    return shapes - len(known) + (len(pieces) > 1) + (result.rank == 0) + (result.dtype is not I64)


def _joined(b: StagingBuilder, pieces: Sequence[Piece], known: Mapping[Piece, Value]) -> Value:
    vectors = dict(known)
    for piece in pieces:
        if piece not in vectors:
            source = piece.source
            numbers = np.asarray(piece.numbers, np.int64)
            vectors[piece] = b.const(numbers) if source is None else _shape(b, source, piece.start, piece.end)
    parts = [vectors[piece] for piece in pieces]
    return b.concat(*parts, axis=0) if len(parts) > 1 else parts[0]


def _built(b: StagingBuilder, result: Value, pieces: Sequence[Piece], known: Mapping[Piece, Value]) -> Value:
    made = _joined(b, pieces, known)
    if result.rank == 0:
        place = _find(result.elems or (), pieces[0].source.shape)  # type: ignore[arg-type, union-attr]
        made = b.gather(made, b.const(np.asarray(place, np.int64)))
    return made if result.dtype is I64 else b.cast(made, to=result.dtype)


@rule("reshape")
def copy_dims_in_target(b: StagingBuilder, node: Node):
    """reshape to a computed shape -> the same with 0 (copy) for dims that stay in place, where that is fewer nodes"""
    x, target = node.operands
    root, elems = target.node, target.elems  # type: ignore[union-attr]
    if root is None or elems is None or None in elems or len(elems) > LONGEST or x.shape is None:  # type: ignore[union-attr]
        return None
    if node.attr("allowzero") or target.n_uses != 1 or target.dtype is not I64:  # type: ignore[union-attr]
        return b.decline("a 0 means 0, or the shape is also used elsewhere")
    if regrouping(x.shape, node.result.shape or (), b.module.facts, rest_axis(node)) is not None:  # type: ignore[union-attr]
        return b.decline("a constant says the whole shape")
    copied = [
        0 if isinstance(e, Expr) and i < len(x.shape) and _equal(e, x.shape[i]) else e  # type: ignore[union-attr]
        for i, e in enumerate(elems)
    ]
    dying, shaped = _behind(root)
    pieces = _pieces(copied, [*_inputs(node), *shaped])  # type: ignore[arg-type]
    if copied == list(elems) or pieces is None:
        return None
    known = _made_already(root, pieces, dying)
    if _cost(target, pieces, known) >= len(dying):  # type: ignore[arg-type]
        return b.decline("it would take as many nodes")
    return b.reshape(x, _joined(b, pieces, known))


RULES = (shape_of_origin, part_of_shape, rebuild_from_shapes, copy_dims_in_target)
