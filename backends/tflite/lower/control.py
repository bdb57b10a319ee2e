"""ONNX-style loops as WHILE."""

from __future__ import annotations

import numpy as np

from ....ir.builder import Builder
from ....ir.clone import copy_nodes
from ....ir.dims import Expr
from ....ir.graph import Graph
from ....ir.types import TensorType, Type
from ....ir.value import Node, Value
from ....passes.decompose.rules import Declined, Outcome
from . import lowers

_FOREVER = np.iinfo(np.int64).max


@lowers("loop")
def loop(b: Builder, node: Node) -> Outcome:
    """WHILE over (iteration, condition, limit, carried, captures). Per-iteration outputs grow by concatenation."""
    trip, cond = node.operand("trip"), node.operand("cond")
    values, carried = node.operand("values"), node.attr("carried")
    body = node.regions[0]
    stacked = body.outputs[1 + carried :]
    if any(y.rank is None for y in stacked):
        return Declined("per-iteration outputs of unknown rank")
    starts = [_empty(b, y) for y in stacked]
    if None in starts:
        return Declined("per-iteration outputs of unknown size")
    state = [
        b.const(np.asarray(0, np.int64)),
        b.const(np.asarray(True)) if cond is None else _scalar(b, cond),
        b.const(np.asarray(_FOREVER)) if trip is None else _scalar(b, trip),
        *values,
        *starts,
    ]
    types = [v.type for v in state[: 3 + carried]] + [v.type for v in values[carried:]]
    types += [_growing(y) for y in stacked]
    made = b.call("tfl.while", state, regions=(_condition(b, types), _body(b, node, types, len(stacked)))).results
    return (*made[3 : 3 + carried], *made[3 + len(values) :])


def _scalar(b: Builder, value: Value) -> Value:
    return value if value.rank == 0 else b.reshape(value, ())


def _growing(y: Value) -> TensorType:
    return TensorType(y.dtype, (Expr.fresh(), *y.shape))


def _empty(b: Builder, y: Value) -> Value | None:
    """No iterations yet: a tensor with 0 rows."""
    if not all(type(d) is int for d in y.shape):
        return None
    return b.const(np.zeros((0, *y.shape), y.dtype.numpy))


def _condition(b: Builder, types: list[Type]) -> Graph:
    """The iteration is below the limit and the condition holds."""
    region = b.module.new_region("cond")
    inputs = [region.add_input(type_) for type_ in types]
    inner = Builder(region)
    region.set_outputs([inner.and_(inner.less(inputs[0], inputs[2]), inputs[1])])
    return region


def _body(b: Builder, node: Node, types: list[Type], grown: int) -> Graph:
    source, carried = node.regions[0], node.attr("carried")
    region = b.module.new_region("body")
    inputs = [region.add_input(type_) for type_ in types]
    count, limit = inputs[0], inputs[2]
    values, stacks = inputs[3 : len(inputs) - grown], inputs[len(inputs) - grown :]
    mapping = dict(zip(source.inputs, [count, inputs[1], *values], strict=True))
    copy_nodes(source, region, mapping)
    outputs = [mapping.get(v, v) for v in source.outputs]
    inner = Builder(region)
    rows = [inner.unsqueeze(y, (0,)) for y in outputs[1 + carried :]]
    stacked = [inner.concat(stack, row, axis=0) for stack, row in zip(stacks, rows, strict=True)]
    following = inner.add(count, inner.const(np.asarray(1, np.int64)))
    go_on = _scalar(inner, outputs[0])
    region.set_outputs([following, go_on, limit, *outputs[1 : 1 + carried], *values[carried:], *stacked])
    return region
