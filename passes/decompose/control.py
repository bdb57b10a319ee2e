"""Scans as loops, and loops that collect an output of every iteration as loops that only carry values. Knows no target."""

from __future__ import annotations

import numpy as np

from ...ir.builder import Builder
from ...ir.clone import copy_nodes
from ...ir.graph import Graph
from ...ir.ops.control import goes_on
from ...ir.types import BOOL, I64, TensorType
from ...ir.value import Node, Value
from .rules import Declined, Outcome, decomposes, room, static


@decomposes("loop")
def loop(b: Builder, node: Node) -> Outcome:
    """Each collected output fills its row of a carried tensor of `trip` rows; what an early end leaves is cut off."""
    trip, cond, *values = node.operands
    carried, body = node.attr("carried"), node.regions[0]
    collected = body.outputs[1 + carried :]
    if not collected:
        return Declined("")
    if trip is None or any(v.shape is None or v.dtype is None or not static(*v.shape) for v in collected):
        return Declined("the size of what the iterations collect is not known")
    limit = b.reshape(trip, (1,))
    stacks = [_rows(b, limit, v) for v in collected]
    count = b.const(np.asarray(0, np.int64))
    state = [*values[:carried], count, *stacks, *values[carried:]]
    region = _filling(b, node, [v.type for v in state], len(stacks))
    made = b.call("loop", [trip, cond, *state], {"carried": carried + 1 + len(stacks)}, [region]).results
    rows = list(made[carried + 1 :])
    if not runs_through(node):
        rows = [b.slice(row, (0,), b.reshape(made[carried], (1,)), (0,)) for row in rows]
    return (*made[:carried], *rows)


@decomposes("scan", needs=("loop",))
def scan(b: Builder, node: Node) -> Outcome:
    """A loop: iteration i takes slice i of each scanned value; stacked outputs are put in order afterwards."""
    carried, count = node.attr("carried"), node.attr("num_scan_inputs")
    axes = node.attr("scan_input_axes") or (0,) * count
    backwards = node.attr("scan_input_directions") or (0,) * count
    stacked = node.results[carried:]
    if any(y.rank is None for y in stacked) and any(node.attr("scan_output_axes")):
        return Declined("the rank of a stacked output is not known")
    region = b.module.new_region("body")
    index, going = region.add_input(TensorType(I64, ()), "i"), region.add_input(TensorType(BOOL, ()), "going")
    body = node.regions[0]
    states = [region.add_input(v.type, v.hint) for v in body.inputs[:carried]]
    others = [region.add_input(v.type, v.hint) for v in node.operands[carried:]]  # type: ignore[union-attr]
    inner = Builder(region)
    slices = [_slice(inner, *row, index) for row in zip(others[:count], axes, backwards, strict=True)]
    mapping: dict[Value, Value] = dict(zip(body.inputs, [*states, *slices, *others[count:]], strict=True))
    copy_nodes(body, region, mapping)
    region.set_outputs([going, *(mapping.get(v, v) for v in body.outputs)])
    trip = _length(b, node.operands[carried], axes[0])  # type: ignore[arg-type]
    made = b.call("loop", [trip, b.const(np.array(True)), *node.operands], {"carried": carried}, [region]).results
    places = node.attr("scan_output_axes") or (0,) * len(stacked)
    reverse = node.attr("scan_output_directions") or (0,) * len(stacked)
    return (*made[:carried], *(_put(b, *row) for row in zip(made[carried:], places, reverse, strict=True)))


def _length(b: Builder, x: Value, axis: int) -> Value:
    """The length of an axis, as a scalar."""
    end = {} if axis == -1 else {"end": axis + 1}
    return b.squeeze(b.shape(x, start=axis, **end), (0,))


def _slice(b: Builder, x: Value, axis: int, backwards: int, index: Value) -> Value:
    at = b.sub(b.sub(_length(b, x, axis), 1), index) if backwards else index
    return b.gather(x, at, axis=axis)


def _put(b: Builder, y: Value, axis: int, backwards: int) -> Value:
    """A stack with its first axis at `axis`, reversed if `backwards`."""
    made = b.reverse(y, axes=(0,)) if backwards else y
    if not axis:
        return made
    rest = list(range(1, y.rank))
    rest.insert(axis % y.rank, 0)
    return b.transpose(made, perm=tuple(rest))


def runs_through(node: Node) -> bool:
    """Nothing but the trip count ends the loop."""
    cond = node.operands[1]
    return goes_on(node.regions[0]) and (cond is None or cond.ints() == (1,))


def _rows(b: Builder, limit: Value, row: Value) -> Value:
    known = limit.ints()
    if known is not None:
        sizes = (max(known[0], 0), *row.shape)
        room(*sizes)  # type: ignore[arg-type]  # the loop's rule has seen that they are static
        return b.const(np.zeros(sizes, row.dtype.numpy))
    shape = b.concat(limit, b.const(list(row.shape)), axis=0) if row.shape else limit
    return b.constant_of_shape(shape, value=False if row.dtype.kind == "bool" else 0, to=row.dtype)


def _filling(b: Builder, node: Node, types: list, count: int) -> Graph:
    """The body with the iterations done and the filled rows among the carried values."""
    source, carried = node.regions[0], node.attr("carried")
    region = b.module.new_region("body")
    index = region.add_input(TensorType(I64, ()), "i")
    going = region.add_input(source.inputs[1].type, "going")
    inputs = [region.add_input(type_) for type_ in types]
    stacks = inputs[carried + 1 : carried + 1 + count]
    kept = [*inputs[:carried], *inputs[carried + 1 + count :]]
    mapping: dict[Value, Value] = dict(zip(source.inputs, [index, going, *kept], strict=True))
    copy_nodes(source, region, mapping)
    outputs = [mapping.get(v, v) for v in source.outputs]
    inner = Builder(region)
    place = inner.reshape(index, (1, 1))
    filled = [
        inner.scatter_nd(stack, place, inner.unsqueeze(row, (0,)))
        for stack, row in zip(stacks, outputs[1 + carried :], strict=True)
    ]
    done = inner.add(inputs[carried], inner.const(np.asarray(1, np.int64)))
    region.set_outputs([outputs[0], *outputs[1 : 1 + carried], done, *filled])
    return region
