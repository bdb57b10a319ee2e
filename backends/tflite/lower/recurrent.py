"""lstm, gru and rnn: short sequences are unrolled by the shared rule, others run as a loop over one step.

UNIDIRECTIONAL_SEQUENCE_LSTM is not used: its state is a variable of the interpreter that the next inference starts
from, so the second run of a file would give other numbers than the first.
"""

from __future__ import annotations

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Graph
from ....ir.types import BOOL, F32, I64, TensorType
from ....ir.value import Node, Value
from ....passes.decompose.rules import Declined, Outcome
from . import lowers
from .common import reshaped

#: Steps that are unrolled; a loop is slower to run and smaller to store.
_UNROLLED = 32


@lowers("lstm", "gru", "rnn")
def recurrent(b: Builder, node: Node) -> Outcome:
    steps = node.operands[0].shape[0]
    if node.operands[0].dtype is not F32:
        return Declined(f"a recurrence over {node.operands[0].dtype}")
    return Declined("") if type(steps) is int and steps <= _UNROLLED else looped(b, node)


def looped(b: Builder, node: Node) -> Outcome:
    """One direction of any length: a loop whose body is the same op over one step, which the shared rule unrolls."""
    if node.attr("direction") == "bidirectional":
        return _both_ways(b, node)
    padded = _with_states(b, node)
    x, w, r, bias, lens = padded[:5]
    states = 2 if node.name == "lstm" else 1
    initial = padded[5 : 5 + states]
    steps = b.gather(b.shape(x), b.const(np.asarray(0)), axis=0)
    outer = (x, w, r, steps, bias, lens, padded[7])
    captures = [v for v in outer if v is not None and not v.is_const]
    body = _step_region(b, node, states, outer, captures)
    made = b.call("loop", (steps, None, *initial, *captures), {"carried": states}, (body,)).results
    y = reshaped(b, made[-1], node.results[0].shape) if made[-1].rank != 4 else made[-1]
    if node.attr("direction") == "reverse":
        y = b.reverse(y, axes=(0,))
    return (y, *made[:states])


def _with_states(b: Builder, node: Node) -> list[Value | None]:
    """The operands with the initial states of one direction: where the node has none, the same zeros for all."""
    padded = [*node.operands, *[None] * 8][:8]
    states = range(5, 7 if node.name == "lstm" else 6)
    if any(padded[i] is None for i in states):
        zeros = _zeros(b, node)
        for i in states:
            padded[i] = zeros if padded[i] is None else padded[i]
    return padded


def _zeros(b: Builder, node: Node) -> Value:
    """[1, batch, hidden]"""
    batch = b.slice(b.shape(node.operands[0]), (1,), (2,), (0,))
    size = b.const(np.asarray([node.attr("hidden_size")], np.int64))
    one = b.const(np.asarray([1], np.int64))
    return b.constant_of_shape(b.concat(one, batch, size, axis=0), value=0.0, to=node.operands[0].dtype)


def _step_region(b: Builder, node: Node, states: int, outer: tuple[Value | None, ...], captures: list[Value]) -> Graph:
    """(iteration, condition, states, captures) -> (condition, states, y of this step); constants need no capture."""
    size = node.attr("hidden_size")
    region = b.module.new_region("step")
    count, go_on = region.add_input(TensorType(I64, ())), region.add_input(TensorType(BOOL, ()))
    old = [region.add_input(TensorType(F32, (1, node.operands[0].shape[1], size))) for _ in range(states)]
    inner = {v: region.add_input(v.type) for v in captures}
    x, w, r, steps, bias, lens, peepholes = (None if v is None else inner.get(v, v) for v in outer)
    c = Builder(region, loc=node.loc)
    one = c.const(np.asarray(1))
    at = c.sub(c.sub(steps, one), count) if node.attr("direction") == "reverse" else count
    step = c.gather(x, c.reshape(at, (1,)), axis=0)
    extra = {"lstm": (old[-1], peepholes)}.get(node.name, ())
    attrs = {**node.attrs, "direction": "forward"}
    made = c.call(node.name, (step, w, r, bias, None, old[0], *extra), attrs).results
    new, y = list(made[1:]), made[0]
    if lens is not None:
        runs = c.reshape(c.less(at, c.cast(lens, to=I64)), (-1, 1))
        new = [c.where(runs, n, o) for n, o in zip(new, old, strict=True)]
        y = c.where(runs, y, c.const(np.zeros((), np.float32)))
    y = c.reshape(y, (1, -1, size))
    region.set_outputs([go_on, *new, y])
    return region


def _both_ways(b: Builder, node: Node) -> tuple[Value, ...]:
    """Each direction on its own, side by side."""
    parts, given = [], [*node.operands, *[None] * 8][:8]
    states = _with_states(b, node)
    for index, direction in enumerate(("forward", "reverse")):
        operands = [
            v if i in (0, 4) or given[i] is None else _one_of(b, v, index)  # type: ignore[arg-type]
            for i, v in enumerate(states[: len(node.op.operands)])
        ]
        each = len(node.attr("activations")) // 2
        attrs = dict(node.attrs) | {"direction": direction}
        attrs["activations"] = node.attr("activations")[index * each : (index + 1) * each]
        parts.append(b.call(node.name, operands, attrs).results)
    return tuple(b.concat(*pair, axis=1 if i == 0 else 0) for i, pair in enumerate(zip(*parts, strict=True)))


def _one_of(b: Builder, value: Value, index: int) -> Value:
    if value.is_const:
        return b.const(value.array()[index : index + 1])
    return b.slice(value, (index,), (index + 1,), (0,))
