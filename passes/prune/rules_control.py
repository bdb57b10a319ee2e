"""What ops with regions say of axes: atoms go through the inputs and outputs of bodies."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.graph import Graph, Node, Value
from .atoms import SINGLE, UNKNOWN, Axes, Axis, Fixed, Lane
from .walk import Walk, rule


def _enter(walk: Walk, region: Graph, rows: Sequence[Axes]) -> list[Axes]:
    """Walk a region whose inputs have these axes; the axes of its outputs."""
    for value, axes in zip(region.inputs, rows, strict=True):
        walk.settle(value, _fitted(walk, value, axes))
    walk.graph(region)
    return [walk.axes(region.return_node, i) for i in range(len(region.outputs))]


def _fitted(walk: Walk, value: Value, axes: Axes) -> Axes:
    """The axes, for a region input that may know less of its type than what is given."""
    rank = value.rank or 0
    if len(axes) == rank:
        return axes
    walk.pin(axes, "a body does not know its rank")
    return (Fixed("a body does not know its rank"),) * rank


def _together(walk: Walk, a: Axes, b: Axes) -> Axes:
    """One value that comes from two places."""
    if len(a) != len(b):
        walk.pin((*a, *b), "its rank depends on a condition")
        return (Fixed("its rank depends on a condition"),) * max(len(a), len(b))
    return tuple(_same(walk, x, y) for x, y in zip(a, b, strict=True))


def _same(walk: Walk, x: Axis, y: Axis) -> Axis:
    joined = walk.space.join([x, y])
    if isinstance(joined, Lane):
        return joined.computed(zero=x.zero and y.zero)  # type: ignore[union-attr]
    return joined


@rule("call")
def call(walk: Walk, node: Node) -> list[Axes]:
    return _enter(walk, node.regions[0], [walk.axes(node, i) for i in range(len(node.operands))])


@rule("if")
def branches(walk: Walk, node: Node) -> list[Axes]:
    walk.pin(walk.axes(node, 0), "a condition")
    given = [walk.axes(node, i) for i in range(1, len(node.operands))]
    then, other = (_enter(walk, region, given) for region in node.regions)
    return [_ranked(walk, v, _together(walk, a, b)) for v, a, b in zip(node.results, then, other, strict=True)]


def _ranked(walk: Walk, value: Value, axes: Axes) -> Axes:
    if len(axes) == (value.rank or 0):
        return axes
    walk.pin(axes, UNKNOWN.reason)
    return (UNKNOWN,) * (value.rank or 0)


@rule("loop")
def loop(walk: Walk, node: Node) -> list[Axes]:
    """A carried value has the same atoms before, in and after the loop."""
    carried, body = node.attr("carried"), node.regions[0]
    for index in (0, 1):
        walk.pin(walk.axes(node, index), "a condition")
    given = [walk.axes(node, i) for i in range(2, len(node.operands))]
    start = [tuple(_carried(axis) for axis in axes) for axes in given[:carried]]
    flags: list[Axes] = [(SINGLE,) * (v.rank or 0) for v in body.inputs[:2]]
    made = _enter(walk, body, [*flags, *start, *given[carried:]])
    walk.pin(made[0], "a condition")
    kept = [_together(walk, a, b) for a, b in zip(start, made[1 : 1 + carried], strict=True)]
    held = walk.fixed(node, "stacks iterations")
    stacked = [(held, *axes) for axes in made[1 + carried :]]
    return [_ranked(walk, v, axes) for v, axes in zip(node.results, [*kept, *stacked], strict=True)]


def _carried(axis: Axis) -> Axis:
    """Zero at first says nothing of zero later."""
    return axis.computed(zero=False) if isinstance(axis, Lane) else axis


@rule("scan")
def scan(walk: Walk, node: Node) -> list[Axes]:
    """As loop; the axis that is walked along is held."""
    carried, count, body = node.attr("carried"), node.attr("num_scan_inputs"), node.regions[0]
    given = [walk.axes(node, i) for i in range(len(node.operands))]
    start = [tuple(_carried(axis) for axis in axes) for axes in given[:carried]]
    scanned = given[carried : carried + count]
    along = node.attr("scan_input_axes") or (0,) * count
    for axes, axis in zip(scanned, along, strict=True):
        walk.pin(axes[axis % len(axes) :][:1] if axes else (), "scan walks along it")
    slices = [
        (*axes[: axis % len(axes)], *axes[axis % len(axes) + 1 :]) if axes else ()
        for axes, axis in zip(scanned, along, strict=True)
    ]
    made = _enter(walk, body, [*start, *slices, *given[carried + count :]])
    kept = [_together(walk, a, b) for a, b in zip(start, made[:carried], strict=True)]
    held = walk.fixed(node, "stacks iterations")
    places = node.attr("scan_output_axes") or (0,) * (len(made) - carried)
    stacked = []
    for axes, place in zip(made[carried:], places, strict=True):
        at = place % (len(axes) + 1)
        stacked.append((*axes[:at], held, *axes[at:]))
    return [_ranked(walk, v, axes) for v, axes in zip(node.results, [*kept, *stacked], strict=True)]
