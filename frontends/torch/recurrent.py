"""aten lstm, gru and rnn: a stack of layers, each one IR node. Must not import torch.

torch keeps gates as i, f, g, o (lstm) and r, z, n (gru), ONNX and the IR as i, o, f, g and z, r, n; biases stay two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.errors import InvalidModel, Unsupported
from ...ir.value import Value
from .context import Context
from .registry import Bool, Int, Number, Tensor, Tensors, handles

_ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


@dataclass
class _Stack:
    """The arguments that all the operators share."""

    kind: str
    params: tuple[Value, ...]
    has_biases: bool
    layers: int
    both: bool
    batch_first: bool
    activation: str = ""

    @property
    def directions(self) -> int:
        return 2 if self.both else 1

    def check(self, c: Context, x: Value, extra: int) -> None:
        per_cell = (4 if self.has_biases else 2) + extra
        if self.layers < 1 or len(self.params) != self.layers * self.directions * per_cell:
            raise InvalidModel(f"{len(self.params)} weights for {self.layers} layers")
        if c.rank(x) != 3:
            raise Unsupported(f"a recurrent layer on an input of rank {c.rank(x)} (packed sequences are not supported)")


def _run(c: Context, stack: _Stack, x: Value, states: Sequence[Value]) -> tuple[Value, list[list[Value]]]:
    """The output of the last layer and, per state, the last values of every layer (each [directions, B, H])."""
    stack.check(c, x, 0)
    x = c.b.transpose(x, perm=(1, 0, 2)) if stack.batch_first else x
    count = 4 if stack.has_biases else 2
    finals: list[list[Value]] = [[] for _ in states]
    for layer in range(stack.layers):
        first = layer * stack.directions
        cells = [stack.params[(first + d) * count : (first + d + 1) * count] for d in range(stack.directions)]
        initial = [_layer_state(c, state, first, stack) for state in states]
        results = _layer(c, stack, x, cells, initial)
        x = _merged(c, results[0], stack.directions)
        for kept, last in zip(finals, results[1:], strict=True):
            kept.append(last)
    return (c.b.transpose(x, perm=(1, 0, 2)) if stack.batch_first else x), finals


def _layer_state(c: Context, state: Value, first: int, stack: _Stack) -> Value:
    if stack.layers == 1:
        return state
    return c.b.slice(state, (first,), (first + stack.directions,), (0,))


def _layer(
    c: Context, stack: _Stack, x: Value, cells: list[tuple[Value, ...]], initial: list[Value]
) -> tuple[Value, ...]:
    order = _ORDER[stack.kind]
    hidden = c.fixed(cells[0][1], 1)
    w = _joined(c, cells, (0,), order, hidden)
    r = _joined(c, cells, (1,), order, hidden)
    bias = _joined(c, cells, (2, 3), order, hidden) if stack.has_biases else None
    attrs: dict[str, Any] = {"hidden_size": hidden, "direction": "bidirectional" if stack.both else "forward"}
    if stack.kind == "gru":
        attrs["linear_before_reset"] = True
    if stack.activation == "relu":
        attrs["activations"] = ("relu",) * stack.directions
    return c.b.call(stack.kind, (x, w, r, bias, None, *initial), attrs).results


def _joined(
    c: Context, cells: list[tuple[Value, ...]], which: tuple[int, ...], order: tuple[int, ...], hidden: int
) -> Value:
    """Weights of all directions with gates in the IR's order: [directions, gates * hidden * len(which), ...].

    Constants are reordered here, under the key of the first; computed weights by nodes.
    """
    parts = [[cell[i] for i in which] for cell in cells]
    flat = [value for row in parts for value in row]
    if all(value.is_const for value in flat):
        arrays = [np.concatenate([_reordered(v.array(), order, hidden) for v in row]) for row in parts]
        weight = flat[0].weight
        assert weight is not None
        keys = ", ".join(v.weight.key for v in flat if v.weight is not None)
        origin = f"{keys}: gates {','.join(map(str, order))}"
        made = c.b.const(np.stack(arrays), key=weight.key, role=weight.role, origin=origin)
        c.derived[made] = weight.key
        return made
    rows = [
        c.b.concat(*(_permuted(c, v, order, hidden) for v in row), axis=0)
        if len(row) > 1
        else _permuted(c, row[0], order, hidden)
        for row in parts
    ]
    grown = [c.b.unsqueeze(row, (0,)) for row in rows]
    return grown[0] if len(grown) == 1 else c.b.concat(*grown, axis=0)


def _reordered(array: np.ndarray, order: tuple[int, ...], hidden: int) -> np.ndarray:
    if array.shape[0] != len(order) * hidden:
        raise InvalidModel(f"a recurrent weight with {array.shape[0]} rows for {len(order)} gates of {hidden}")
    return np.concatenate([array[g * hidden : (g + 1) * hidden] for g in order])


def _permuted(c: Context, value: Value, order: tuple[int, ...], hidden: int) -> Value:
    if len(order) == 1:
        return value
    gates = c.b.split(value, (hidden,) * len(order), axis=0)
    return c.b.concat(*(gates[g] for g in order), axis=0)


def _merged(c: Context, y: Value, directions: int) -> Value:
    """[T, D, B, H] to [T, B, D * H]."""
    if directions == 1:
        return c.b.squeeze(y, (1,))
    steps, _, batch, hidden = y.shape or ()
    return c.reshape(c.b.transpose(y, perm=(0, 2, 1, 3)), (steps, batch, 2 * hidden))  # type: ignore[operator]


def _stacked(c: Context, finals: list[Value]) -> Value:
    return finals[0] if len(finals) == 1 else c.b.concat(*finals, axis=0)


def _refuse_training(train: bool, dropout: float) -> None:
    if train and dropout:
        raise Unsupported("a recurrent layer in training mode", hint="call .eval() on the module before it is exported")


@handles("aten.lstm.input")
def lstm(
    c: Context, input: Tensor, hx: Tensors, params: Tensors, has_biases: Bool, num_layers: Int, dropout: Number,
    train: Bool, bidirectional: Bool, batch_first: Bool,
) -> tuple[Value, ...]:  # fmt: skip
    _refuse_training(train, dropout)
    cells = num_layers * (2 if bidirectional else 1)
    if len(params) == cells * (5 if has_biases else 3):
        raise Unsupported("an lstm with projections (proj_size)")
    if len(hx) != 2:
        raise InvalidModel("an lstm needs two states")
    stack = _Stack("lstm", params, has_biases, num_layers, bidirectional, batch_first)
    y, (h, cell) = _run(c, stack, input, hx)
    return y, _stacked(c, h), _stacked(c, cell)


def _single_state(kind: str, activation: str = "") -> Callable[..., tuple[Value, ...]]:
    def handler(
        c: Context, input: Tensor, hx: Tensor, params: Tensors, has_biases: Bool, num_layers: Int, dropout: Number,
        train: Bool, bidirectional: Bool, batch_first: Bool,
    ) -> tuple[Value, ...]:  # fmt: skip
        _refuse_training(train, dropout)
        stack = _Stack(kind, params, has_biases, num_layers, bidirectional, batch_first, activation)
        y, (h,) = _run(c, stack, input, (hx,))
        return y, _stacked(c, h)

    return handler


handles("aten.gru.input")(_single_state("gru"))
handles("aten.rnn_tanh.input")(_single_state("rnn"))
handles("aten.rnn_relu.input")(_single_state("rnn", "relu"))


def _cell(kind: str, activation: str = "") -> Callable[..., tuple[Value, ...] | Value]:
    """One step: a sequence of length 1."""

    def handler(
        c: Context,
        input: Tensor,
        hx: Any,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> tuple[Value, ...] | Value:
        states = hx if isinstance(hx, tuple) else (hx,)
        if len(states) != (2 if kind == "lstm" else 1) or not all(isinstance(state, Value) for state in states):
            raise InvalidModel(f"states of a {kind} cell")
        biases = (b_ih, b_hh) if b_ih is not None and b_hh is not None else ()
        stack = _Stack(kind, (w_ih, w_hh, *biases), bool(biases), 1, False, False, activation)
        lead = [c.b.unsqueeze(value, (0,)) for value in (input, *states)]
        _, finals = _run(c, stack, lead[0], lead[1:])
        last = tuple(c.b.squeeze(kept[0], (0,)) for kept in finals)
        return last if kind == "lstm" else last[0]

    return handler


handles("aten.lstm_cell")(_cell("lstm"))
handles("aten.gru_cell")(_cell("gru"))
handles("aten.rnn_tanh_cell")(_cell("rnn"))
handles("aten.rnn_relu_cell")(_cell("rnn", "relu"))
