"""LSTMs that are plain enough run as one UNIDIRECTIONAL_SEQUENCE_LSTM; the others are unrolled by the shared rule."""

from __future__ import annotations

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Graph
from ....ir.types import BOOL, F32, I64, TensorType
from ....ir.value import Node, Value
from ....passes.decompose.rules import Declined, Outcome
from . import lowers
from .common import reshaped

_PLAIN = ("sigmoid", "tanh", "tanh")


@lowers("lstm")
def lstm(b: Builder, node: Node) -> Outcome:
    """Zero initial state, no lengths, no peepholes, default gates, and the cell state not asked for."""
    reason = _refused(node)
    if reason is not None:
        return looped(b, node) if type(node.operands[0].shape[0]) is not int else Declined(reason)
    x = node.operands[0]
    directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[node.attr("direction")]
    sequences = [_direction(b, node, x, index, turned) for index, turned in enumerate(directions)]
    lasts = [_last(b, y, turned) for y, turned in zip(sequences, directions, strict=True)]
    steps, batch, size = sequences[0].shape
    spread = [reshaped(b, y, (steps, 1, batch, size)) for y in sequences]
    kept = [reshaped(b, h, (1, batch, size)) for h in lasts]
    joined = spread[0] if len(spread) == 1 else b.concat(*spread, axis=1)
    final = kept[0] if len(kept) == 1 else b.concat(*kept, axis=0)
    return joined, final, None


def _refused(node: Node) -> str | None:
    x, w, r = node.operands[:3]
    others = [node.operand(name) for name in ("seq_lens", "h0", "c0", "p")]
    names = tuple(name.lower() for name in node.attr("activations"))
    if (
        x.dtype is not F32
        or not w.is_const
        or not r.is_const
        or (node.operand("b") is not None and not node.operand("b").is_const)
    ):
        return "computed weights"
    if any(v is not None and not _is_zero(v) for v in others[1:]) or others[0] is not None:
        return "an initial state, lengths or peepholes"
    if names not in ((), _PLAIN, _PLAIN * 2) or node.attr("clip") or node.attr("input_forget"):
        return "other gates than sigmoid and tanh"
    if x.rank != 3:
        return "an input of unknown rank"
    return "the cell state is asked for" if node.results[2].n_uses else None


# Ops that give zeros for zeros.
_ZERO_KEEPERS = ("expand", "reshape", "tile", "transpose", "slice", "tfl.broadcast_to", "squeeze", "unsqueeze", "cast")


def _is_zero(value: Value) -> bool:
    """Zeros, perhaps brought to a computed shape."""
    while not value.is_const:
        node = value.node
        if node is not None and node.name == "tfl.fill":
            value = node.operands[1]
        elif node is not None and node.name in _ZERO_KEEPERS:
            value = node.operands[0]
        else:
            return False
    return not value.array().any()


def _direction(b: Builder, node: Node, x: Value, index: int, turned: bool) -> Value:
    """One direction's outputs [T, N, H] in the order of time. ONNX keeps gates i, o, f, c; TFLite takes i, f, c, o."""
    size = node.attr("hidden_size")
    gates = {gate: slice(i * size, (i + 1) * size) for i, gate in enumerate("iofc")}
    w, r = (node.operands[i].array()[index] for i in (1, 2))
    bias = node.operand("b")
    both = np.zeros(8 * size, np.float32) if bias is None else bias.array()[index]
    total = both[: 4 * size] + both[4 * size :]
    key = node.operands[1].weight.key
    weights = [
        b.const(np.ascontiguousarray(m[gates[g]]), key=f"{key}.{g}", role="param") for m in (w, r) for g in "ifco"
    ]
    offsets = [b.const(np.ascontiguousarray(total[gates[g]])) for g in "ifco"]
    source = b.reverse(x, axes=(0,)) if turned else x
    y = b.call("tfl.unidirectional_sequence_lstm", (source, *weights, *offsets)).result
    return b.reverse(y, axes=(0,)) if turned else y


def _last(b: Builder, y: Value, turned: bool) -> Value:
    """The state after the last step: the first in time where the sequence ran backwards."""
    return b.slice(y, (0,), (1,), (0,)) if turned else b.slice(y, (-1,), (np.iinfo(np.int64).max,), (0,))


# ---------------------------------------------------------------------------------------------- sequences of any length


@lowers("gru", "rnn")
def gru_or_rnn(b: Builder, node: Node) -> Outcome:
    return looped(b, node) if type(node.operands[0].shape[0]) is not int else Declined("")


def looped(b: Builder, node: Node) -> Outcome:
    """One direction of any length: a loop whose body is the same op over one step, which the shared rule takes apart."""
    if node.attr("direction") == "bidirectional":
        return _both_ways(b, node)
    padded = [*node.operands, *[None] * 8][:8]
    x, w, r, bias, lens = padded[:5]
    states = 2 if node.name == "lstm" else 1
    initial = [padded[5 + i] if padded[5 + i] is not None else _zeros(b, node) for i in range(states)]
    steps = b.gather(b.shape(x), b.const(np.asarray(0)), axis=0)
    captures = [x, w, r, steps, *(v for v in (bias, lens, padded[7]) if v is not None)]
    body = _step_region(b, node, states, captures, (bias, lens, padded[7]))
    made = b.call("loop", (steps, None, *initial, *captures), {"carried": states}, (body,)).results
    y = reshaped(b, made[-1], node.results[0].shape) if made[-1].rank != 4 else made[-1]
    if node.attr("direction") == "reverse":
        y = b.reverse(y, axes=(0,))
    return (y, *made[:states])


def _zeros(b: Builder, node: Node) -> Value:
    """[1, batch, hidden]"""
    batch = b.slice(b.shape(node.operands[0]), (1,), (2,), (0,))
    size = b.const(np.asarray([node.attr("hidden_size")], np.int64))
    one = b.const(np.asarray([1], np.int64))
    return b.constant_of_shape(b.concat(one, batch, size, axis=0), value=0.0, to=node.operands[0].dtype)


def _step_region(
    b: Builder, node: Node, states: int, captures: list[Value], optional: tuple[Value | None, ...]
) -> Graph:
    """(iteration, condition, states, x, w, r, steps, the optional ones) -> (condition, states, y of this step)."""
    batch, size = node.operands[0].shape[1], node.attr("hidden_size")
    state = TensorType(F32, (1, batch, size))
    region = b.module.new_region("step")
    count, go_on = region.add_input(TensorType(I64, ())), region.add_input(TensorType(BOOL, ()))
    old = [region.add_input(state) for _ in range(states)]
    inner = [region.add_input(v.type) for v in captures]
    x, w, r, steps = inner[:4]
    rest = iter(inner[4:])
    bias, lens, peepholes = (None if v is None else next(rest) for v in optional)
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
    parts = []
    for index, direction in enumerate(("forward", "reverse")):
        operands = [v if v is None or i in (0, 4) else _one_of(b, v, index) for i, v in enumerate(node.operands)]
        each = len(node.attr("activations")) // 2
        attrs = dict(node.attrs) | {"direction": direction}
        attrs["activations"] = node.attr("activations")[index * each : (index + 1) * each]
        parts.append(b.call(node.name, operands, attrs).results)
    return tuple(b.concat(*pair, axis=1 if i == 0 else 0) for i, pair in enumerate(zip(*parts, strict=True)))


def _one_of(b: Builder, value: Value, index: int) -> Value:
    if value.is_const:
        return b.const(value.array()[index : index + 1])
    return b.slice(value, (index,), (index + 1,), (0,))
