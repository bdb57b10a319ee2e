"""lstm, gru and rnn unrolled over time. Gate orders and formulas are ONNX's. Knows no target.

The input products of all steps are one matmul; each step adds the recurrent product and applies the gates. With lengths
per sample a step keeps the old state where it lies beyond the end, so the reverse direction starts at each end too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ...ir.builder import Builder
from ...ir.types import I64
from ...ir.value import Node, Value
from .rules import Declined, decomposes, scalar

#: Unrolling more steps than this costs compile time and file size without end.
MAX_STEPS = 512

Function = Callable[[Value], Value]
State = list[Value | None]  # None: all zeros


def _activation(b: Builder, name: str, alpha: float | None, beta: float | None) -> Function | None:
    """A gate function by ONNX's name."""
    plain = {"relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "softsign": "softsign", "softplus": "softplus"}
    if name in plain:
        return lambda x: b.call(plain[name], (x,)).results[0]
    table: dict[str, Function] = {
        "affine": lambda x: b.add(b.mul(x, scalar(b, alpha, x)), scalar(b, beta, x)),
        "leakyrelu": lambda x: b.leaky_relu(x, alpha=alpha),
        "thresholdedrelu": lambda x: b.where(b.less(x, scalar(b, alpha, x)), scalar(b, 0, x), x),
        "scaledtanh": lambda x: b.mul(b.tanh(b.mul(x, scalar(b, beta, x))), scalar(b, alpha, x)),
        "hardsigmoid": lambda x: b.hard_sigmoid(x, alpha=alpha, beta=beta),
        "elu": lambda x: b.elu(x, alpha=alpha),
    }
    return table.get(name)


#: Default alpha and beta of the functions that take one (ONNX, RNN operators).
_DEFAULTS: dict[str, tuple[float | None, float | None]] = {
    "affine": (1.0, 0.0),
    "leakyrelu": (0.01, None),
    "thresholdedrelu": (1.0, None),
    "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0, None),
}


def gate_functions(
    b: Builder, node: Node, default: tuple[str, ...], directions: int, unclipped: int | None = None
) -> list[list[Function]] | None:
    """The gate functions of each direction, clipped first where the op says so (but the one at `unclipped`).

    None for an unknown name.
    """
    names = node.attr("activations") or default * directions
    alphas, betas = list(node.attr("activation_alpha")), list(node.attr("activation_beta"))
    clip, made = node.attr("clip"), []
    for place, name in enumerate(n.lower() for n in names):
        alpha, beta = _DEFAULTS.get(name, (None, None))
        alpha = alphas.pop(0) if alpha is not None and alphas else alpha
        beta = betas.pop(0) if beta is not None and betas else beta
        function = _activation(b, name, alpha, beta)
        if function is None:
            return None
        clips = clip and place % len(default) != unclipped
        made.append(_clipped(b, function, clip) if clips else function)
    each = len(default)
    return [made[i * each : (i + 1) * each] for i in range(directions)]


def _clipped(b: Builder, function: Function, clip: float) -> Function:
    return lambda x: function(b.clip(x, scalar(b, -clip, x), scalar(b, clip, x)))


def _plus(b: Builder, x: Value, y: Value | None) -> Value:
    return x if y is None else b.add(x, y)


# ------------------------------------------------------------------------------------------------------ weights


def part(b: Builder, value: Value | None, direction: int, start: int = 0, stop: int | None = None) -> Value | None:
    """`value[direction, start:stop]`; of a constant, a new constant."""
    if value is None:
        return None
    if value.is_const:
        return b.const(np.ascontiguousarray(value.array()[direction, start:stop]))
    own = value if value.shape[0] == 1 else b.slice(value, (direction,), (direction + 1,), (0,))
    first = b.squeeze(own, (0,))
    return (
        first
        if start == 0 and stop is None
        else b.slice(first, (start,), (value.shape[1] if stop is None else stop,), (0,))
    )


def flipped(b: Builder, value: Value) -> Value:
    """The transpose of a matrix; of a constant, a new constant."""
    return b.const(np.ascontiguousarray(value.array().T)) if value.is_const else b.transpose(value, perm=(1, 0))


class Layer(NamedTuple):
    """What all three ops share. `steps[t]` is [B, I]; `running[t]` [B, 1] says which samples still run, or is empty."""

    b: Builder
    node: Node
    operands: list[Value | None]
    size: int
    directions: tuple[bool, ...]
    steps: int
    running: list[Value]


def _layer(b: Builder, node: Node) -> Layer | Declined:
    x = node.operands[0]
    if type(x.shape[0]) is not int:
        return Declined("the number of steps is not known")
    if not 0 < x.shape[0] <= MAX_STEPS:
        return Declined(f"{x.shape[0]} steps are not unrolled (at most {MAX_STEPS})")
    lens = node.operand("seq_lens")
    running = []
    if lens is not None:
        column = b.unsqueeze(lens if lens.dtype is I64 else b.cast(lens, to=I64), (1,))
        running = [b.less(b.const(np.asarray(t)), column) for t in range(x.shape[0])]
    turned = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[node.attr("direction")]
    padded = [*node.operands, *[None] * 8]
    return Layer(b, node, padded, node.attr("hidden_size"), turned, x.shape[0], running)


def _inputs(layer: Layer, direction: int, gates: int, bias: Value | None) -> list[Value]:
    """x w' + bias of every step as [B, gates * H]."""
    b = layer.b
    weight = flipped(b, part(b, layer.operands[1], direction))
    if layer.steps == 1:
        return [_plus(b, b.matmul(b.squeeze(layer.operands[0], (0,)), weight), bias)]
    product = _plus(b, b.matmul(layer.operands[0], weight), bias)
    return [b.squeeze(step, (0,)) for step in b.split(product, axis=0, num_outputs=layer.steps)]


def _joined_bias(layer: Layer, direction: int, gates: int, joined: int | None = None) -> Value | None:
    """Input bias plus recurrent bias; of the latter only the first `joined` gates, where that is given."""
    b, both = layer.b, layer.operands[3]
    if both is None:
        return None
    width, joined = gates * layer.size, gates if joined is None else joined
    if both.is_const:
        halves = both.array()[direction].astype(np.float64)
        halves[: joined * layer.size] += halves[width:][: joined * layer.size]
        return b.const(halves[:width].astype(both.dtype.numpy))
    added = part(b, both, direction, width, width + joined * layer.size)
    if joined < gates:
        added = b.pad(added, (0, (gates - joined) * layer.size))
    return b.add(part(b, both, direction, 0, width), added)


def _scan(
    layer: Layer, direction: int, inputs: list[Value], states: State, cell: Callable[[Value, State], list[Value]]
) -> tuple:
    """All steps of one direction: y [T, 1, B, H] and the last states."""
    b, order = layer.b, range(layer.steps)
    outputs: list[Value | None] = [None] * layer.steps
    for t in reversed(order) if layer.directions[direction] else order:
        made = cell(inputs[t], states)
        outputs[t] = made[0]
        if layer.running:
            zero = scalar(b, 0, made[0])
            outputs[t] = b.where(layer.running[t], made[0], zero)
            made = [b.where(layer.running[t], n, zero if o is None else o) for n, o in zip(made, states, strict=True)]
        states = list(made)
    rows = [b.unsqueeze(y, (0, 1)) for y in outputs]
    return b.concat(*rows, axis=0) if len(rows) > 1 else rows[0], states


def _finish(layer: Layer, per_direction: list[tuple], results: int) -> tuple[Value, ...]:
    """Directions side by side: y [T, D, B, H] and each last state [D, B, H]."""
    b = layer.b
    ys = [y for y, _ in per_direction]
    made = [b.concat(*ys, axis=1) if len(ys) > 1 else ys[0]]
    for index in range(results - 1):
        rows = [b.unsqueeze(states[index], (0,)) for _, states in per_direction]
        made.append(b.concat(*rows, axis=0) if len(rows) > 1 else rows[0])
    return tuple(made)


# -------------------------------------------------------------------------------------------------------- cells


@decomposes("lstm", rounds=True)
def lstm(b: Builder, node: Node) -> tuple[Value, ...] | Declined:
    layer = _layer(b, node)
    if isinstance(layer, Declined):
        return layer
    functions = gate_functions(b, node, ("Sigmoid", "Tanh", "Tanh"), len(layer.directions), unclipped=2)
    if functions is None:
        return Declined("an unknown gate activation")
    made = []
    for d in range(len(layer.directions)):
        recurrent = flipped(b, part(b, layer.operands[2], d))
        peep = [part(b, layer.operands[7], d, i * layer.size, (i + 1) * layer.size) for i in range(3)]
        cell = _lstm_cell(b, node, functions[d], recurrent, peep)
        inputs = _inputs(layer, d, 4, _joined_bias(layer, d, 4))
        states: State = [part(b, layer.operands[5], d), part(b, layer.operands[6], d)]
        made.append(_scan(layer, d, inputs, states, cell))
    return _finish(layer, made, 3)


def _lstm_cell(
    b: Builder, node: Node, functions: list[Function], recurrent: Value, peep: list[Value | None]
) -> Callable:
    """Gates in the order i, o, f, c."""
    f, g, h = functions

    def looked(gate: Value, weight: Value | None, state: Value | None) -> Value:
        return gate if weight is None or state is None else b.add(gate, b.mul(weight, state))

    def cell(entry: Value, states: State) -> list[Value]:
        hidden, state = states
        total = entry if hidden is None else b.add(entry, b.matmul(hidden, recurrent))
        i, o, forget, c = b.split(total, axis=1, num_outputs=4)
        i = f(looked(i, peep[0], state))
        new = b.mul(i, g(c))
        if state is not None:
            keep = b.sub(scalar(b, 1, i), i) if node.attr("input_forget") else f(looked(forget, peep[2], state))
            new = b.add(b.mul(keep, state), new)
        return [b.mul(f(looked(o, peep[1], new)), h(new)), new]

    return cell


@decomposes("gru", rounds=True)
def gru(b: Builder, node: Node) -> tuple[Value, ...] | Declined:
    layer = _layer(b, node)
    if isinstance(layer, Declined):
        return layer
    functions = gate_functions(b, node, ("Sigmoid", "Tanh"), len(layer.directions))
    if functions is None:
        return Declined("an unknown gate activation")
    made, size = [], layer.size
    for d in range(len(layer.directions)):
        after = bool(node.attr("linear_before_reset"))
        inputs = _inputs(layer, d, 3, _joined_bias(layer, d, 3, joined=2 if after else 3))
        recurrent = layer.operands[2]
        weights = [
            flipped(b, part(b, recurrent, d, 0, 2 * size)),
            flipped(b, part(b, recurrent, d, 2 * size, 3 * size)),
        ]
        inner = part(b, layer.operands[3], d, 5 * size, 6 * size) if after else None
        cell = _gru_cell(b, functions[d], weights, inner, size, after)
        made.append(_scan(layer, d, inputs, [part(b, layer.operands[5], d)], cell))
    return _finish(layer, made, 2)


def _gru_cell(
    b: Builder, functions: list[Function], weights: list[Value], inner: Value | None, size: int, after: bool
) -> Callable:
    """Gates in the order z, r, h. `after`: the reset gate scales the candidate's recurrent product and its bias, `inner`."""
    f, g = functions

    def cell(entry: Value, states: State) -> list[Value]:
        (hidden,) = states
        gates = b.slice(entry, (0,), (2 * size,), (1,))
        z, r = b.split(
            f(gates if hidden is None else b.add(gates, b.matmul(hidden, weights[0]))), axis=1, num_outputs=2
        )
        candidate = b.slice(entry, (2 * size,), (3 * size,), (1,))
        recalled = None if after else hidden and b.mul(r, hidden)
        if after:
            product = None if hidden is None else _plus(b, b.matmul(hidden, weights[1]), inner)
            recalled = product or inner
            recalled = recalled and b.mul(r, recalled)
        elif recalled is not None:
            recalled = b.matmul(recalled, weights[1])
        new = g(_plus(b, candidate, recalled))
        made = b.mul(b.sub(scalar(b, 1, z), z), new)
        return [made if hidden is None else b.add(made, b.mul(z, hidden))]

    return cell


@decomposes("rnn", rounds=True)
def rnn(b: Builder, node: Node) -> tuple[Value, ...] | Declined:
    layer = _layer(b, node)
    if isinstance(layer, Declined):
        return layer
    functions = gate_functions(b, node, ("Tanh",), len(layer.directions))
    if functions is None:
        return Declined("an unknown gate activation")
    made = []
    for d in range(len(layer.directions)):
        recurrent, f = flipped(b, part(b, layer.operands[2], d)), functions[d][0]
        inputs = _inputs(layer, d, 1, _joined_bias(layer, d, 1))
        cell = _rnn_cell(b, f, recurrent)
        made.append(_scan(layer, d, inputs, [part(b, layer.operands[5], d)], cell))
    return _finish(layer, made, 2)


def _rnn_cell(b: Builder, f: Function, recurrent: Value) -> Callable:
    def cell(entry: Value, states: State) -> list[Value]:
        (hidden,) = states
        return [f(entry if hidden is None else b.add(entry, b.matmul(hidden, recurrent)))]

    return cell
