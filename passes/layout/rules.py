"""The iteration spaces of the core ops that can run under any axis order. One rule per kind of op, see `spaces`.

Where an op's `axes()` says how axes pass through (elementwise ops), the space is read from it; ops with parameters that
name axes (concat's axis, slice's axes ...) also say how to rewrite them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import Dim
from ...ir.opdef import ELEMENTWISE
from ...ir.ops.shapes import vector_length
from ...ir.value import Node, Value
from ..simplify.reshapes import Regrouping, regrouping, rest_axis
from .spaces import SPACES, Order, Port, Space, again, identity, inverse, moved, moves, port_perm, singles

_COPIED = 1024  # bytes of a constant that may stand in the file twice


def space_of(node: Node) -> Space | None:
    """The space of `node`; None pins all its axes."""
    if any(v.rank is None for v in (*node.inputs(), *node.results)) or node.regions:
        return None
    rule = SPACES.get(node.name, _elementwise if node.has(ELEMENTWISE) else None)
    space = rule(node) if rule is not None else None
    return None if space is None or any(_kept(node.operands[i]) for i in space.ports if i >= 0) else space


def _kept(value: Value | None) -> bool:
    """A constant of more than `_COPIED` bytes that others read too: another order of it would be a second copy."""
    weight = value.weight if value is not None and len(value.users) > 1 else None
    return weight is not None and weight.tensor.nbytes > _COPIED


# ------------------------------------------------------------------------------------------------------ elementwise


def _elementwise(node: Node) -> Space | None:
    """Space axes are the result's: the label `d<i>` of `axes()` is space axis i, size-1 axes included."""
    axis_map = node.op.axis_map(node)
    if axis_map is None:
        return None
    rank = node.results[0].rank or 0
    ports: dict[int, Port] = {-1 - j: singles(range(rank)) for j in range(len(node.results))}
    for index, row in enumerate(axis_map.operands):
        if row:
            if any(axis is None for axis in row):
                return None
            ports[index] = singles([int(axis.label[1:]) for axis in row])
    return Space(rank, ports, _rebuild_elementwise)


def _rebuild_elementwise(b: Builder, node: Node, operands: list[Value | None], order: Order) -> Sequence[Value]:
    """Operands of lower rank get their axes to where the order wants them."""
    place = inverse(order)
    aligned = list(operands)
    for index, port in _elementwise(node).ports.items():
        if index >= 0 and len(port) < len(order):
            at = sorted(place[axis] for (axis,) in port)
            aligned[index] = spread_to(b, operands[index], at, len(order))
    return again(b, node, aligned)


def spread_to(b: Builder, value: Value, places: list[int], rank: int) -> Value:
    """`value` with its dims at `places` (ascending) of a tensor of this rank and 1 elsewhere; leading ones left out."""
    first = min(places, default=rank)
    shape: list[Dim] = [1] * (rank - first)
    for place, dim in zip(places, value.shape, strict=True):
        shape[place - first] = dim
    if tuple(shape) == tuple(value.shape):
        return value
    weight = value.weight
    if weight is None:
        return b.reshape(value, target(shape), allowzero=0 in shape)
    array = value.array().reshape(target(shape))
    if weight.role == "const":
        return b.const(array)
    return b.const(array, key=weight.wanted, role=weight.role, origin=f"reshaped {weight.origin or weight.wanted}")


def target(shape: Sequence[Dim]) -> tuple[int, ...]:
    """A reshape target; at most one dim may be symbolic (it becomes -1)."""
    return tuple(d if type(d) is int else -1 for d in shape)


# ------------------------------------------------------------------------------------- ops with one axis as attribute


def _same_rank(node: Node, operands: Sequence[int], rebuild: Callable, prefers: int | None = None) -> Space | None:
    rank = node.results[0].rank
    if rank is None or any(node.operands[i].rank != rank for i in operands):
        return None
    ports: dict[int, Port] = {i: singles(range(rank)) for i in operands}
    ports |= {-1 - j: singles(range(rank)) for j in range(len(node.results))}
    return Space(rank, ports, rebuild, prefers)


def _axis_attr(b: Builder, node: Node, operands: list[Value | None], order: Order) -> Sequence[Value]:
    return again(b, node, operands, axis=inverse(order)[_axis(node)])


def _axis(node: Node) -> int:
    return node.attr("axis") % node.results[0].rank


@moves("concat")
def _concat(node: Node) -> Space | None:
    return _same_rank(node, range(len(node.operands)), _axis_attr)


@moves("softmax", "log_softmax", "hardmax", "topk", "lp_normalization")
def _last_axis_liked(node: Node) -> Space | None:
    return _same_rank(node, (0,), _axis_attr, _axis(node))


@moves("split")
def _split(node: Node) -> Space | None:
    return _same_rank(node, (0,), _axis_attr)


@moves("matmul")
def _matmul(node: Node) -> Space | None:
    """Rows times one matrix: they may stand in any order, their elements stay last."""
    x, w = node.operands
    if x.rank < 3 or w.rank != 2:
        return None
    port = (*singles(range(x.rank - 1)), ())
    return Space(x.rank - 1, {0: port, -1: port}, lambda b, node, operands, order: again(b, node, operands))


@moves("quantize", "dequantize", "requantize")
def _quantised(node: Node) -> Space | None:
    """Scale and zero point are scalars or lie along the data. Integers below 4 bits stay: onnxruntime's fusion of their
    dequantisation with a product knows one order only."""
    if any(v.dtype is None or v.dtype.bits < 4 for v in (node.operands[0], node.results[0])):  # type: ignore[union-attr]
        return None
    rank = node.results[0].rank
    aligned = [i for i, v in enumerate(node.operands) if v is not None and v.rank == rank]
    return _same_rank(node, aligned, lambda b, node, operands, order: again(b, node, operands))


@moves("cumsum", "cumprod")
def _cumsum(node: Node) -> Space | None:
    axis = node.operands[1].ints()
    return None if axis is None else _same_rank(node, (0,), _rebuild_cumsum)


def _rebuild_cumsum(b: Builder, node: Node, operands: list[Value | None], order: Order) -> Sequence[Value]:
    (axis,) = node.operands[1].ints()
    operands[1] = b.const(np.asarray(inverse(order)[axis % len(order)], np.int64).reshape(node.operands[1].shape))
    return again(b, node, operands)


# ------------------------------------------------------------------------------------------- ops with axes as operand


@moves("slice")
def _slice(node: Node) -> Space | None:
    axes = node.operand("axes")
    unknown = vector_length(node.operands[1]) is None if axes is None else axes.ints() is None
    return None if unknown else _same_rank(node, (0,), _rebuild_slice)


def _rebuild_slice(b: Builder, node: Node, operands: list[Value | None], order: Order) -> Sequence[Value]:
    axes = node.operand("axes")
    wanted = axes.ints() if axes is not None else tuple(range(vector_length(operands[1]) or 0))
    return again(b, node, [*operands[:3], _moved_axes(b, wanted, order), *operands[4:]])


@moves("pad")
def _pad(node: Node) -> Space | None:
    axes = node.operand("axes")
    return None if axes is not None and axes.ints() is None else _same_rank(node, (0,), _rebuild_pad)


def _rebuild_pad(b: Builder, node: Node, operands: list[Value | None], order: Order) -> Sequence[Value]:
    axes = node.operand("axes")
    wanted = axes.ints() if axes is not None else tuple(range(len(order)))
    value = operands[2] if len(operands) > 2 else None
    return again(b, node, [operands[0], operands[1], value, _moved_axes(b, wanted, order)])


def _moved_axes(b: Builder, axes: Sequence[int], order: Order) -> Value:
    place = inverse(order)
    return b.const(np.asarray([place[a % len(order)] for a in axes], np.int64))


_REDUCTIONS = ("sum", "mean", "max", "min", "prod", "l1", "l2", "log_sum", "log_sum_exp", "sum_square", "all", "any")


@moves(*(f"reduce_{kind}" for kind in _REDUCTIONS))
def _reduce(node: Node) -> Space | None:
    axes = _reduced_axes(node)
    if axes is None:
        return None
    rank = node.operands[0].rank
    kept = range(rank) if node.attr("keepdims") else [a for a in range(rank) if a not in axes]
    return Space(rank, {0: singles(range(rank)), -1: singles(kept)}, _rebuild_reduce)


def _reduced_axes(node: Node) -> tuple[int, ...] | None:
    operand, rank = node.operand("axes"), node.operands[0].rank
    axes = () if operand is None else operand.ints()
    if axes is None:
        return None
    if not axes:
        return () if node.attr("noop_with_empty_axes") else tuple(range(rank))
    return tuple(a % rank for a in axes)


def _rebuild_reduce(b: Builder, node: Node, operands: list[Value | None], order: Order) -> Sequence[Value]:
    place = inverse(order)
    axes = sorted(place[a] for a in _reduced_axes(node))
    return again(b, node, [operands[0], b.const(np.asarray(axes, np.int64))]) if axes else again(b, node, operands)


@moves("arg_max", "arg_min")
def _arg_reduce(node: Node) -> Space | None:
    rank = node.operands[0].rank
    axis = node.attr("axis") % rank
    kept = range(rank) if node.attr("keepdims") else [a for a in range(rank) if a != axis]

    def rebuild(b: Builder, node: Node, operands: list[Value | None], order: Order) -> Sequence[Value]:
        return again(b, node, operands, axis=inverse(order)[axis])

    return Space(rank, {0: singles(range(rank)), -1: singles(kept)}, rebuild)


@moves("reverse")
def _reverse(node: Node) -> Space | None:
    def rebuild(b: Builder, node: Node, operands: list[Value | None], order: Order) -> Sequence[Value]:
        place = inverse(order)
        return again(b, node, operands, axes=tuple(place[a % len(order)] for a in node.attr("axes")))

    return _same_rank(node, (0,), rebuild)


@moves("tile", "expand")
def _per_axis_operand(node: Node) -> Space | None:
    """The second operand has one entry per axis and must be known numbers."""
    entries = node.operands[1].ints()
    if entries is None or len(entries) != node.operands[0].rank:
        return None
    return _same_rank(node, (0,), _rebuild_per_axis)


def _rebuild_per_axis(b: Builder, node: Node, operands: list[Value | None], order: Order) -> Sequence[Value]:
    entries = moved(node.operands[1].ints(), order)
    return again(b, node, [operands[0], b.const(np.asarray(entries, np.int64))])


@moves("gather")
def _gather(node: Node) -> Space | None:
    """An index of rank 1 keeps the axis, one of rank 0 drops it; higher ranks pin."""
    x, indices = node.operands
    axis = node.attr("axis") % x.rank
    if indices.rank > 1:
        return None
    kept = [a for a in range(x.rank) if indices.rank == 1 or a != axis]

    def rebuild(b: Builder, node: Node, operands: list[Value | None], order: Order) -> Sequence[Value]:
        return again(b, node, operands, axis=inverse(order)[axis])

    return Space(x.rank, {0: singles(range(x.rank)), -1: singles(kept)}, rebuild)


# ------------------------------------------------------------------------------------------------ views and reshapes


@moves("transpose")
def _transpose(node: Node) -> Space | None:
    """Always free: the result is the operand under another name."""
    rank = node.operands[0].rank
    perm = node.attr("perm")

    def rebuild(b: Builder, node: Node, operands: list[Value | None], order: Order) -> Sequence[Value]:
        return (operands[0],)

    return Space(rank, {0: singles(range(rank)), -1: singles(perm)}, rebuild)


@moves("reshape", "flatten", "squeeze", "unsqueeze")
def _reshape(node: Node) -> Space | None:
    """The space is the common refinement of both shapes; None where their factors don't nest."""
    old, new = node.operands[0].shape, node.results[0].shape
    factored = None if 0 in (*old, *new) else common_factors(old, new)
    if factored is None:
        return None
    rank, source, result = factored
    space = Space(rank, {0: source, -1: result}, _rebuild_reshape)
    symbolic = sum(type(d) is not int for d in new) > 1
    return replace(space, allows=lambda order: _regrouped(node, space, order) is not None) if symbolic else space


def common_factors(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> tuple[int, Port, Port] | None:
    """Number of space axes, and for each axis of both shapes the space axes that it is made of. Dims of size 1 cover
    nothing. None unless one dim at a time is split or merged."""
    left, right = [d for d in a if d != 1], [d for d in b if d != 1]
    blocks: tuple[list[tuple[int, ...]], list[tuple[int, ...]]] = ([], [])
    count = i = j = 0
    while i < len(left) and j < len(right):
        span_left, span_right = _next_group(left[i:], right[j:])
        if not span_left or (span_left > 1 and span_right > 1):
            return None
        group = tuple(range(count, count + max(span_left, span_right)))
        blocks[0].extend([group] if span_left == 1 else singles(group))
        blocks[1].extend([group] if span_right == 1 else singles(group))
        count, i, j = group[-1] + 1, i + span_left, j + span_right
    if i < len(left) or j < len(right):
        return None
    return count, _with_units(a, blocks[0]), _with_units(b, blocks[1])


def _next_group(left: Sequence[Dim], right: Sequence[Dim]) -> tuple[int, int]:
    """How many leading dims of both have the same product; (0, 0) when none do."""
    i = j = 1
    product_left, product_right = left[0], right[0]
    while product_left != product_right:
        if i < len(left) and (j == len(right) or _smaller(product_left, product_right)):
            product_left, i = product_left * left[i], i + 1
        elif j < len(right):
            product_right, j = product_right * right[j], j + 1
        else:
            return 0, 0
    return i, j


def _smaller(a: Dim, b: Dim) -> bool:
    if type(a) is int and type(b) is int:
        return a < b
    return type(a) is int or len(str(a)) < len(str(b))


def _with_units(shape: tuple[Dim, ...], blocks: list[tuple[int, ...]]) -> Port:
    remaining = iter(blocks)
    return tuple(() if d == 1 else next(remaining) for d in shape)


def _rebuild_reshape(b: Builder, node: Node, operands: list[Value | None], order: Order) -> Sequence[Value]:
    x, space = operands[0], _reshape(node)
    if order == identity(space.rank):
        return (b.call(node.name, (x, *node.operands[1:]), dict(node.attrs)).result,)
    shape = moved(node.results[0].shape, port_perm(space.ports[-1], order))
    return (x if shape == x.shape else _regrouped(node, space, order).build(b, x),)


def _regrouped(node: Node, space: Space, order: Order) -> Regrouping | None:
    """How the node regroups its operand in this order; None where no constant says it, as of an empty batch none does where
    sizes are both copied and inferred."""
    before, after = (port_perm(space.ports[port], order) for port in (0, -1))
    rest = rest_axis(node)
    shapes = moved(node.operands[0].shape, before), moved(node.results[0].shape, after)
    return regrouping(*shapes, node.graph.module.facts, None if rest is None else after.index(rest))
