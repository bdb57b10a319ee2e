"""Loops that collect an output of every iteration as loops that only carry values. Knows no target."""

from __future__ import annotations

import numpy as np

from ...ir.builder import Builder
from ...ir.clone import copy_nodes
from ...ir.graph import Graph
from ...ir.types import I64, TensorType
from ...ir.value import Node, Value
from .rules import Declined, Outcome, decomposes, static


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


def runs_through(node: Node) -> bool:
    """Nothing but the trip count ends the loop."""
    cond, again = node.operands[1], node.regions[0].outputs[0]
    goes_on = again is node.regions[0].inputs[1] or again.ints() == (1,)
    return goes_on and (cond is None or cond.ints() == (1,))


def _rows(b: Builder, limit: Value, row: Value) -> Value:
    known = limit.ints()
    if known is not None:
        return b.const(np.zeros((max(known[0], 0), *row.shape), row.dtype.numpy))
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
