"""ONNX-style loops as WHILE over (iteration, condition, limit, carried, captures, stacks)."""

from __future__ import annotations

import numpy as np

from ....ir.builder import Builder
from ....ir.clone import copy_nodes
from ....ir.dims import Expr
from ....ir.graph import Graph
from ....ir.types import I32, TensorType, Type
from ....ir.value import Node, Value
from ....passes.decompose.control import runs_through
from ....passes.decompose.rules import Declined, Outcome
from ..table import I32_MAX
from . import lowers
from .common import dims_of, i32, knows_dims

_FOREVER = np.iinfo(np.int64).max


@lowers("loop")
def loop(b: Builder, node: Node) -> Outcome:
    """Per-iteration outputs fill a tensor of `trip` rows, cut to the iterations done; without a trip count they grow."""
    trip, cond = node.operand("trip"), node.operand("cond")
    values, carried = node.operand("values"), node.attr("carried")
    stacked = node.regions[0].outputs[1 + carried :]
    if any(y.rank is None or not knows_dims(y.shape, *values) for y in stacked):
        return Declined("per-iteration outputs whose size cannot be computed")
    trips = trip.ints() if trip is not None else None
    if stacked and trips is not None and trips[0] > I32_MAX:
        return Declined(f"per-iteration outputs of {trips[0]} iterations, more than 32 bits count")
    limit = None if trip is None else _scalar(b, trip)
    stacks = [_stack(b, y, limit, values) for y in stacked]
    state = [
        b.const(np.asarray(0, np.int64)),
        b.const(np.asarray(True)) if cond is None else _scalar(b, cond),
        b.const(np.asarray(_FOREVER)) if limit is None else limit,
        *values,
        *stacks,
    ]
    types = [v.type for v in state[: len(state) - len(stacks)]]
    types += [TensorType(y.dtype, (Expr.fresh(), *y.shape)) for y in stacked]
    regions = (_condition(b, types), _body(b, node, types, len(stacks), limit is not None))
    made = b.call("tfl.while", state, regions=regions).results
    rows = list(made[3 + len(values) :])
    if limit is None:
        rows = [b.slice(row, (1,), (_FOREVER,), (0,)) for row in rows]
    elif not runs_through(node):
        rows = [b.slice(row, (0,), b.reshape(made[0], (1,)), (0,)) for row in rows]
    return (*made[3 : 3 + carried], *rows)


def _scalar(b: Builder, value: Value) -> Value:
    return value if value.rank == 0 else b.reshape(value, ())


def _stack(b: Builder, y: Value, limit: Value | None, values: tuple[Value, ...]) -> Value:
    """Zeros for the rows to come; without a limit one row, dropped at the end (WHILE fails on tensors without elements)."""
    count = i32(b, 1) if limit is None else b.reshape(b.cast(limit, to=I32), (1,))
    dims = b.concat(count, dims_of(b, y.shape, *values), axis=0) if y.shape else count
    return b.call("tfl.fill", (dims, b.const(np.zeros((), y.dtype.numpy)))).result


def _condition(b: Builder, types: list[Type]) -> Graph:
    """The iteration is below the limit and the condition holds."""
    region = b.module.new_region("cond")
    inputs = [region.add_input(type_) for type_ in types]
    inner = Builder(region)
    region.set_outputs([inner.and_(inner.less(inputs[0], inputs[2]), inputs[1])])
    return region


def _body(b: Builder, node: Node, types: list[Type], count: int, filled: bool) -> Graph:
    source, carried = node.regions[0], node.attr("carried")
    region = b.module.new_region("body")
    inputs = [region.add_input(type_) for type_ in types]
    iteration, limit = inputs[0], inputs[2]
    values, stacks = inputs[3 : len(inputs) - count], inputs[len(inputs) - count :]
    mapping = dict(zip(source.inputs, [iteration, inputs[1], *values], strict=True))
    copy_nodes(source, region, mapping)
    outputs = [mapping.get(v, v) for v in source.outputs]
    inner = Builder(region)
    rows = [inner.unsqueeze(y, (0,)) for y in outputs[1 + carried :]]
    put = _put if filled else _append
    stacked = [put(inner, stack, row, iteration) for stack, row in zip(stacks, rows, strict=True)]
    following = inner.add(iteration, inner.const(np.asarray(1, np.int64)))
    go_on = _scalar(inner, outputs[0])
    region.set_outputs([following, go_on, limit, *outputs[1 : 1 + carried], *values[carried:], *stacked])
    return region


def _append(b: Builder, stack: Value, row: Value, iteration: Value) -> Value:
    return b.concat(stack, row, axis=0)


def _put(b: Builder, stack: Value, row: Value, iteration: Value) -> Value:
    at = b.reshape(b.cast(iteration, to=I32), (1,))
    start = b.concat(at, i32(b, *[0] * (row.rank - 1)), axis=0) if row.rank > 1 else at
    return b.call("tfl.dynamic_update_slice", (stack, row, start)).result
