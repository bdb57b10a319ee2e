"""Rules of `move-data` on reshapes: they move through ops that do not care how axes are grouped, where that lets two of
them meet and vanish.

    %1 = reshape(%x, [1, -1, 512])                       %1 = relu(%x)
    %2 = relu(%1)                                 ->     %3 = reshape(%1, [-1, 1, 512])
    %3 = reshape(%2, [-1, 1, 512])

Exact; each rule fires only where fewer nodes are left (looking at no more than LOOK nodes), or where a reshape moves in
front of another one that stays for others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...ir.dims import Dim
from ...ir.graph import Node, Value
from ...ir.opdef import ELEMENTWISE
from ..rewrite import StagingBuilder, rule
from ..simplify.reductions import REDUCTIONS
from ..simplify.reshapes import REGROUPS, regrouping
from .axes import (
    Group,
    Shape,
    across,
    can_reshape,
    cuts_of,
    equal_shapes,
    grouped,
    inverse,
    moves_to,
    padded,
    pads_of,
    partner,
    relaid,
    reshaped,
    sliced,
)

#: So many nodes above a reshape are looked at.
LOOK = 8
#: Of a value with more users nobody asks whether they reshape it alike.
MOST_READERS = 8
#: Their operands are broadcast to the result: scale and zero point have the rank of the data, or none.
QUANTISED = ("quantize", "dequantize", "requantize")
#: Reshapes move behind these when all operands are reshaped alike.
SINKS = (
    *("concat", "add", "sub", "mul", "div", "min", "max", "pow", "where", "equal", "not_equal", "less", "less_equal"),
    *("greater", "greater_equal", "and", "or", "xor", "mod"),
)
#: Ops with one axis as attribute, whose result has the shape of the operand.
ONE_AXIS = ("softmax", "log_softmax", "hardmax", "lp_normalization")


@dataclass
class _Way:
    """How to get a value in another shape: how many nodes more that is, and the function that builds it. `above` tells that
    all it costs is a second reshape of what another reshape reads."""

    more: int
    build: Callable[[StagingBuilder], Value]
    above: bool = False


class _Raise:
    """Looks for the cheapest way to bring a reshape above the nodes that make its operand."""

    def __init__(self) -> None:
        self.seen = 0

    def way(self, value: Value, shape: Shape) -> _Way | None:
        """The way to `value` in `shape`; None where nothing can say it."""
        if equal_shapes(value.shape, shape):
            return _Way(0, lambda b: value)
        if value.is_const:
            return self._constant(value, shape)
        source = moves_to(value)
        if source is not None:
            return self._reshape(value, source, shape)
        plain = _Way(1, lambda b: _sure(reshaped(b, value, shape))) if can_reshape(value, shape) else None
        node = value.node
        if node is None or len(node.results) != 1 or self.seen >= LOOK or not _read_alike(value, shape):
            return plain
        self.seen += 1
        found = self.through(node, shape)
        if found is None or plain is None:
            return found or plain
        return found if found.more < plain.more or (found.more == plain.more and found.above) else plain

    def _constant(self, value: Value, shape: Shape) -> _Way | None:
        sizes = [d for d in shape if isinstance(d, int)]
        if len(sizes) != len(shape) or value.shape is None:
            return None
        return _Way(0, lambda b: relaid(b, value, tuple(sizes)))

    def _reshape(self, value: Value, source: Value, shape: Shape) -> _Way | None:
        alone = value.n_uses == 1
        if equal_shapes(source.shape, shape):
            return _Way(-1 if alone else 0, lambda b: source)
        if not can_reshape(source, shape):
            return None
        return _Way(0 if alone else 1, lambda b: _sure(reshaped(b, source, shape)), not alone)

    def through(self, node: Node, shape: Shape) -> _Way | None:
        """The way that asks the operands of `node` instead."""
        if node.name in REDUCTIONS:
            return _reduced(node, shape)
        groups = grouped(node.result.shape or (), shape) if node.result.shape is not None else None
        if groups is None or node.regions:
            return None
        if node.has(ELEMENTWISE) or node.name in QUANTISED:
            return self._elementwise(node, groups, shape)
        rule_of = _ALONG.get(node.name)
        return rule_of(self, node, groups, shape) if rule_of is not None else None

    def _elementwise(self, node: Node, groups: Sequence[Group], shape: Shape) -> _Way | None:
        if sinkable(node):
            return None
        ways: list[_Way | None] = []
        rank = 0
        for value in node.operands:
            wanted = None if value is None else broadcast_as(value, node, groups, shape)
            if value is not None and wanted is None:
                return None
            rank = max(rank, len(wanted or ()))
            if value is None or wanted is value.shape:
                ways.append(None)
                continue
            way = self.way(value, wanted)  # type: ignore[arg-type]
            if way is None:
                return None
            ways.append(way)
        if rank < len(shape):
            return None  # nothing would give the result its axes of size 1

        def build(b: StagingBuilder) -> Value:
            pairs = zip(node.operands, ways, strict=True)
            return b.call(node.name, [v if w is None else w.build(b) for v, w in pairs], dict(node.attrs)).result

        return _sum([w for w in ways if w is not None], build)

    def one(self, node: Node, shape: Shape, build: Callable[[StagingBuilder, Value], Value]) -> _Way | None:
        """The way through a node that moves with its first operand."""
        way = self.way(node.operands[0], shape)  # type: ignore[arg-type]
        return None if way is None else _sum([way], lambda b: build(b, way.build(b)))


def _read_alike(value: Value, shape: Shape) -> bool:
    """One node alone reads the value, or the others reshape it alike: what is built for one serves them, too."""
    if value.n_uses == 1:
        return True
    alike = sum(user.name in REGROUPS and equal_shapes(user.results[0].shape, shape) for user in value.users)
    return value.n_uses <= MOST_READERS and 0 < alike == value.n_uses - 1


def _sum(ways: Sequence[_Way], build: Callable[[StagingBuilder], Value]) -> _Way:
    return _Way(sum(w.more for w in ways), build, all(w.above for w in ways if w.more > 0))


def _sure(value: Value | None) -> Value:
    assert value is not None  # asked before
    return value


# ------------------------------------------------------------------------------------ what moves along single axes


def _along_axis(look: _Raise, node: Node, groups: Sequence[Group], shape: Shape) -> _Way | None:
    axis = partner(groups, node.attr("axis") % node.result.rank)
    if axis is None:
        return None
    return look.one(node, shape, lambda b, x: b.call(node.name, (x,), {**node.attrs, "axis": axis}).result)


def _along_concat(look: _Raise, node: Node, groups: Sequence[Group], shape: Shape) -> _Way | None:
    old = node.attr("axis") % node.result.rank
    axis = partner(groups, old)
    if axis is None or any(v.shape is None for v in node.operands) or sinkable(node):
        return None
    ways = []
    for value in node.operands:
        way = look.way(value, [value.shape[old] if i == axis else d for i, d in enumerate(shape)])
        if way is None:
            return None
        ways.append(way)
    return _sum(ways, lambda b: b.concat(*[w.build(b) for w in ways], axis=axis))


def _along_slice(look: _Raise, node: Node, groups: Sequence[Group], shape: Shape) -> _Way | None:
    cuts, source = cuts_of(node), node.operands[0]
    places = _partners(groups, cuts)
    if places is None or cuts is None:
        return None
    wanted = _with_dims(shape, {new: source.shape[old] for old, new in places.items()})
    moved = {places[axis]: cut for axis, cut in cuts.items()}
    return look.one(node, wanted, lambda b, x: sliced(b, x, moved))


def _along_pad(look: _Raise, node: Node, groups: Sequence[Group], shape: Shape) -> _Way | None:
    pads, source = pads_of(node), node.operands[0]
    places = _partners(groups, pads)
    if places is None or pads is None or source.shape is None:
        return None
    wanted = _with_dims(shape, {new: source.shape[old] for old, new in places.items()})
    moved = {places[axis]: pair for axis, pair in pads.items()}
    return look.one(node, wanted, lambda b, x: padded(b, node, x, moved))


def _along_transpose(look: _Raise, node: Node, groups: Sequence[Group], shape: Shape) -> _Way | None:
    before = across([(g.left, g.right) for g in groups], inverse(node.attr("perm")))
    if before is None:
        return None
    return look.one(node, [shape[a] for a in before], lambda b, x: b.transpose(x, perm=inverse(before)))


def _along_matmul(look: _Raise, node: Node, groups: Sequence[Group], shape: Shape) -> _Way | None:
    """Products of as many matrices on both sides: how these are numbered is open."""
    rank, batch = len(node.result.shape or ()), shape[:-2]
    ends = [partner(groups, axis) for axis in (rank - 2, rank - 1)]
    if ends != [len(shape) - 2, len(shape) - 1] or any(
        not equal_shapes((v.shape or ())[:-2], node.result.shape[:-2]) for v in node.operands
    ):
        return None
    ways = [look.way(v, [*batch, *v.shape[-2:]]) for v in node.operands]
    return None if None in ways else _sum(ways, lambda b: b.matmul(*[w.build(b) for w in ways]))


def _partners(groups: Sequence[Group], axes) -> dict[int, int] | None:
    made = {axis: partner(groups, axis) for axis in axes or ()}
    return made if axes and None not in made.values() else None  # type: ignore[return-value]


def _with_dims(shape: Shape, dims: dict) -> list:
    return [dims.get(axis, dim) for axis, dim in enumerate(shape)]


_ALONG = {
    **dict.fromkeys(ONE_AXIS, _along_axis),
    "concat": _along_concat,
    "slice": _along_slice,
    "pad": _along_pad,
    "transpose": _along_transpose,
    "matmul": _along_matmul,
}


def _reduced(node: Node, shape: Shape) -> _Way | None:
    """A reduction keeps or drops the axes that it reduces by itself."""
    x, axes = node.operands[0], node.operand("axes")
    given = None if axes is None else axes.ints()
    if x.shape is None or (axes is not None and given is None) or (not given and node.attr("noop_with_empty_axes")):
        return None
    gone = {a % len(x.shape) for a in given} if given else set(range(len(x.shape)))
    keep = not node.attr("keepdims")
    wanted = [1 if i in gone else d for i, d in enumerate(x.shape) if keep or i not in gone]
    if not equal_shapes(wanted, shape) or not gone:
        return None
    return _Way(0, lambda b: b.call(node.name, node.operands, {**node.attrs, "keepdims": keep}).result)


# ------------------------------------------------------------------------------------------------ broadcasting


def broadcast_as(value: Value, node: Node, groups: Sequence[Group], shape: Shape) -> Shape | None:
    """The shape that an operand of an elementwise node takes when the result takes `shape`; the operand's own one where it
    stays as it is; None where it is broadcast along a part of a group."""
    full, own = node.result.shape, value.shape
    if own is None or full is None:
        return None
    if len(own) == 0 or (all(d == 1 for d in own) and len(own) <= len(shape) and node.name not in QUANTISED):
        return own
    lead = len(full) - len(own)
    made: list[Dim] = [1] * len(shape)
    for left, right in groups:
        dims = [own[a - lead] if a >= lead else 1 for a in left]
        if all(d == 1 for d in dims):
            continue
        if not equal_shapes(dims, [full[a] for a in left]):
            return None
        for axis in right:
            made[axis] = shape[axis]
    while node.name not in QUANTISED and len(made) > len(own) and made[0] == 1:
        made.pop(0)
    return made


# ------------------------------------------------------------------------------------------------ the rules


@rule(*REGROUPS)
def raise_reshape(b: StagingBuilder, node: Node):
    """reshape behind ops that can run in its shape -> in front of them, where it meets other reshapes"""
    x, shape = node.operands[0], node.results[0].shape
    if x is None or x.shape is None or shape is None or x.node is None or x.n_uses != 1 or moves_to(x) is not None:
        return None
    way = _Raise().way(x, shape)
    if way is None or way.more > 1 or (way.more == 1 and not way.above):
        return b.decline("no reshape above that it could meet")
    return way.build(b)


@rule(*REGROUPS)
def raise_joined_heads(b: StagingBuilder, node: Node):
    """reshape(transpose(matmul(p, v))) of [batch * heads, n, size] to [n, batch, heads * size] -> the same of a product whose
    operands have batch and heads apart"""
    turned, shape = moves_to(node.results[0]), node.results[0].shape
    turn = turned.node if turned is not None and turned.n_uses == 1 else None
    if turn is None or turn.name != "transpose" or turn.attr("perm") != (1, 0, 2) or len(shape) not in (2, 3):
        return None
    x, (n, both, size), width = turn.operands[0], turned.shape, shape[-1]
    if x.node is None or x.node.name != "matmul" or not (isinstance(size, int) and isinstance(width, int) and size):
        return None
    heads = width // size
    batch = shape[1] if len(shape) == 3 else both // heads if heads and isinstance(both, int) else None
    if (
        batch is None
        or width % size
        or not equal_shapes((n, batch * heads), (shape[0] if len(shape) == 3 else n, both))
    ):
        return b.decline("it joins other axes")
    way = _Raise().way(x, (batch, heads, n, size))
    if way is None or way.more > 0:
        return b.decline("no reshape above that it could meet")
    return reshaped(b, b.transpose(way.build(b), perm=(2, 0, 1, 3)), shape)


class _Sunk(NamedTuple):
    """A node in front of its reshapes: its operands, constants with the shape that they take, and a concat's axis."""

    operands: list[tuple[Value | None, Any]]
    axis: int | None = None


def sinkable(node: Node) -> _Sunk | None:
    """How `node` runs on what the reshapes in front of it read, where one reshape behind it then does for all of them."""
    full = node.results[0].shape
    if full is None or node.name not in SINKS:
        return None
    data = [v for v in dict.fromkeys(node.operands) if v is not None and not v.is_const and v.rank]
    sources = {v: source for v in data if (source := moves_to(v)) is not None}
    if len(data) < 2 or len(sources) < len(data) or sum(_owned(v, node) for v in data) < 2:
        return None
    shape = sources[data[0]].shape or ()
    groups = grouped(data[0].shape or (), shape)
    if groups is None:
        return None
    if node.name == "concat":
        return _sunk_concat(node, sources, groups, shape)
    if not all(equal_shapes(v.shape, full) and equal_shapes(sources[v].shape, shape) for v in data):
        return None
    made: list[tuple[Value | None, Any]] = []
    for value in node.operands:
        if value is None or value in sources:
            made.append((None if value is None else sources[value], None))
            continue
        wanted = broadcast_as(value, node, groups, shape)
        if (
            wanted is None
            or not all(isinstance(d, int) for d in wanted)
            or not (value.is_const or wanted is value.shape)
        ):
            return None
        made.append((value, tuple(wanted)))
    return _Sunk(made) if regrouping(shape, full) is not None else None


def _owned(value: Value, node: Node) -> bool:
    """Nobody else uses the value."""
    return value.n_uses == 1 or value.single_user() is node


def _sunk_concat(node: Node, sources: dict[Value, Value], groups: Sequence[Group], shape: Shape) -> _Sunk | None:
    old = node.attr("axis") % len(node.result.shape or ())
    axis = partner(groups, old)
    if axis is None or any(v not in sources for v in node.operands):
        return None
    for value in node.operands:
        if not equal_shapes(sources[value].shape, _with_dims(shape, {axis: value.shape[old]})):
            return None
    joined = _with_dims(shape, {axis: node.result.shape[old]})
    if regrouping(joined, node.result.shape) is None:
        return None
    return _Sunk([(sources[v], None) for v in node.operands], axis)


@rule(*SINKS, benefit=2)
def sink_reshapes(b: StagingBuilder, node: Node):
    """add(reshape(x), reshape(y)) -> reshape(add(x, y)), and so for concat"""
    found = sinkable(node)
    if found is None:
        return None
    operands = [v if v is None or not v.is_const else relaid(b, v, shape) for v, shape in found.operands]
    attrs = dict(node.attrs) if found.axis is None else {**node.attrs, "axis": found.axis}
    return reshaped(b, b.call(node.name, operands, attrs).result, node.results[0].shape)


def _unsqueezed(shape: Shape | None, longer: Shape | None) -> bool:
    """`longer` has more axes, of size 1."""
    if shape is None or longer is None or len(longer) <= len(shape):
        return False
    return equal_shapes(*([d for d in dims if d != 1] for dims in (shape, longer)))


@rule(*REGROUPS)
def raise_beside_others(b: StagingBuilder, node: Node):
    """unsqueeze(f(reduce(x))) -> f(reduce(x)) that keeps its axes, squeezed for others that read it, where no node is added"""
    x, shape = node.operands[0], node.results[0].shape
    if x is None or x.node is None or x.n_uses == 1 or not _unsqueezed(x.shape, shape):
        return None
    way = _Raise().through(x.node, shape) if len(x.node.results) == 1 else None
    if way is None or way.more > 0:
        return b.decline("no reshape or reduction above that it could meet")
    raised = way.build(b)
    others = reshaped(b, raised, x.shape)
    if others is None:
        return b.decline("no constant says the shorter shape")
    return b.instead({x: others, node.results[0]: raised}, [x.node, node])


RULES = (raise_reshape, raise_joined_heads, sink_reshapes, raise_beside_others)
