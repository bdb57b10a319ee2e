"""lstm, gru, rnn with ONNX's gate orders: a scan in float64 with BLAS products, gates on whole arrays.

Input products of all time steps are one BLAS call; each step adds the recurrent product and applies the gates. A
reverse direction runs forward over data turned round inside each sample's own length. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..ir.errors import InvalidModel
from .constants import kept
from .precision import narrow, wide
from .product import product
from .registry import kernel

Array = np.ndarray


def _sigmoid(x: Array) -> Array:
    return 0.5 * (np.tanh(0.5 * x) + 1.0)


class Activation(NamedTuple):
    """A gate function of (x, alpha, beta) and its default alpha and beta; None: it takes none."""

    function: Callable[[Array, float, float], Array]
    alpha: float | None = None
    beta: float | None = None


ACTIVATIONS = {
    "relu": Activation(lambda x, a, b: np.maximum(x, 0.0)),
    "tanh": Activation(lambda x, a, b: np.tanh(x)),
    "sigmoid": Activation(lambda x, a, b: _sigmoid(x)),
    "affine": Activation(lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": Activation(lambda x, a, b: np.where(x >= 0, x, a * x), 0.01),
    "thresholdedrelu": Activation(lambda x, a, b: np.where(x >= a, x, 0.0), 1.0),
    "scaledtanh": Activation(lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "hardsigmoid": Activation(lambda x, a, b: np.clip(a * x + b, 0.0, 1.0), 0.2, 0.5),
    "elu": Activation(lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0.0))), 1.0),
    "softsign": Activation(lambda x, a, b: x / (1.0 + np.abs(x))),
    "softplus": Activation(lambda x, a, b: np.logaddexp(0.0, x)),
}


def gate_functions(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float], clips: Sequence) -> list:
    """One function per name. Alphas and betas go, in order, to the functions that take one. Raises InvalidModel."""
    alpha_left, beta_left = list(alphas), list(betas)
    made = []
    for name, clip in zip(names, clips, strict=True):
        found = ACTIVATIONS.get(name.lower())
        if found is None:
            raise InvalidModel(f"unknown gate activation {name!r}", hint=f"known: {', '.join(ACTIVATIONS)}")
        alpha = _next(alpha_left, found.alpha)
        beta = _next(beta_left, found.beta)
        made.append(_bound(found.function, alpha, beta, clip))
    return made


def _next(given: list[float], default: float | None) -> float:
    if default is None:
        return 0.0
    return given.pop(0) if given else default


def _bound(function: Callable, alpha: float, beta: float, clip: float | None) -> Callable[[Array], Array]:
    if clip:
        return lambda x: function(np.clip(x, -clip, clip), alpha, beta)
    return lambda x: function(x, alpha, beta)


def directions(direction: str) -> tuple[bool, ...]:
    """Whether each direction, in ONNX's order, is reversed."""
    return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]


def _lengths(x: Array, seq_lens: Array | None) -> Array:
    steps, batch = x.shape[:2]
    return np.full(batch, steps) if seq_lens is None else np.asarray(seq_lens).astype(np.int64)


def _turned(x: Array, lengths: Array) -> Array:
    """x [T, B, ...] with the first `lengths[b]` steps of sample b in reverse order. Its own inverse."""
    steps = np.arange(x.shape[0])[:, None]
    source = np.where(steps < lengths, lengths - 1 - steps, steps)
    return x[source, np.arange(x.shape[1])]


def _scan(
    cell: Callable, inputs: Array, states: tuple[Array, ...], lengths: Array, reverse: bool
) -> tuple[Array, tuple]:
    """Run `cell(input [B, G], *states) -> states`; y [T, B, H] is the first state, 0 after a sample's end."""
    if reverse:
        inputs = _turned(inputs, lengths)
    y = np.zeros((inputs.shape[0], *states[0].shape))
    shortest = lengths.min(initial=len(inputs))
    for step, entry in enumerate(inputs):
        made = cell(entry, *states)
        if step < shortest:
            states, y[step] = made, made[0]
            continue
        running = (step < lengths)[:, None]
        states = tuple(np.where(running, new, old) for new, old in zip(made, states, strict=True))
        y[step] = np.where(running, states[0], 0.0)
    return (_turned(y, lengths) if reverse else y), states


class Layer(NamedTuple):
    """What all three ops share: data, weights per direction, lengths."""

    x: Array
    w: Array
    r: Array
    b: Array
    lengths: Array
    reversed: tuple[bool, ...]

    def projected(self, direction: int) -> Array:
        """x times the input weights of one direction, all time steps at once: float64 [T, B, gates * H]."""
        return product(self.x, self.w[direction].T, np.dtype(np.float64))

    def initial(self, state: Array | None) -> Array:
        if state is not None:
            return wide(state)
        return np.zeros((len(self.reversed), self.x.shape[1], self.r.shape[2]))


def _layer(x, w, r, b, seq_lens, direction) -> Layer:
    bias = np.zeros((w.shape[0], 2 * w.shape[1])) if b is None else kept(wide, b)
    return Layer(x, w, kept(wide, r), bias, _lengths(x, seq_lens), directions(direction))


def _run(
    layer: Layer, cells: list[Callable], inputs: list[Array], states: list[Array], dtype: np.dtype
) -> tuple[Array, ...]:
    """Scan each direction; y [T, D, B, H] and each last state [D, B, H]."""
    outputs, finals = [], []
    for index, reverse in enumerate(layer.reversed):
        y, last = _scan(cells[index], inputs[index], tuple(s[index] for s in states), layer.lengths, reverse)
        outputs.append(y)
        finals.append(last)
    y = narrow(np.stack(outputs, axis=1), dtype)
    return y, *(narrow(np.stack(last), dtype) for last in zip(*finals, strict=True))


def _functions(given, default, alphas, betas, clip, count, unclipped=()):
    """Gate functions per direction; `unclipped` are positions whose input `clip` leaves alone."""
    names = tuple(given) or default * count
    each = len(default)
    clips = [None if i % each in unclipped else clip for i in range(len(names))]
    made = gate_functions(names, alphas, betas, clips)
    return [made[i * each : (i + 1) * each] for i in range(count)]


@kernel("lstm")
def lstm(
    x,
    w,
    r,
    b=None,
    seq_lens=None,
    h0=None,
    c0=None,
    p=None,
    *,
    hidden_size,
    direction="forward",
    activations=(),
    activation_alpha=(),
    activation_beta=(),
    clip=None,
    input_forget=False,
):
    """x [T, B, I], w [D, 4H, I], r [D, 4H, H] in gate order iofc, b [D, 8H], p [D, 3H] to y [T, D, B, H], y_h, y_c."""
    layer = _layer(x, w, r, b, seq_lens, direction)
    count, size = len(layer.reversed), hidden_size
    default = ("Sigmoid", "Tanh", "Tanh")
    # ONNX Runtime clips what enters the gates, not the cell state on its way to the output.
    gates = _functions(activations, default, activation_alpha, activation_beta, clip, count, unclipped=(2,))
    peepholes = [None] * count if p is None else wide(p)
    inputs, cells = [], []
    for d in range(count):
        inputs.append(layer.projected(d) + (layer.b[d, : 4 * size] + layer.b[d, 4 * size :]))
        cells.append(_lstm_cell(layer.r[d].T, peepholes[d], gates[d], size, input_forget))
    return _run(layer, cells, inputs, [layer.initial(h0), layer.initial(c0)], x.dtype)


def _lstm_cell(recurrent, peephole, gates, size, input_forget):
    f, g, h = gates
    parts = [slice(k * size, (k + 1) * size) for k in range(4)]

    def seen(line, state, part):
        """A gate's line with what it sees of the state; without peepholes not even an infinite one."""
        return line if peephole is None else line + peephole[parts[part]] * state

    def cell(entry, hidden, state):
        total = entry + hidden @ recurrent
        i, o, fgt, c = (total[:, part] for part in parts)
        i = f(seen(i, state, 0))
        fgt = 1.0 - i if input_forget else f(seen(fgt, state, 2))
        made = fgt * state + i * g(c)
        return f(seen(o, made, 1)) * h(made), made

    return cell


@kernel("gru")
def gru(
    x,
    w,
    r,
    b=None,
    seq_lens=None,
    h0=None,
    *,
    hidden_size,
    direction="forward",
    activations=(),
    activation_alpha=(),
    activation_beta=(),
    clip=None,
    linear_before_reset=False,
):
    """x [T, B, I], w [D, 3H, I] and r [D, 3H, H] in gate order zrh, b [D, 6H] to y [T, D, B, H], y_h [D, B, H]."""
    layer = _layer(x, w, r, b, seq_lens, direction)
    count, size = len(layer.reversed), hidden_size
    gates = _functions(activations, ("Sigmoid", "Tanh"), activation_alpha, activation_beta, clip, count)
    inputs, cells = [], []
    for d in range(count):
        inputs.append(layer.projected(d) + layer.b[d, : 3 * size])
        cells.append(_gru_cell(layer.r[d].T, layer.b[d, 3 * size :], gates[d], size, linear_before_reset))
    return _run(layer, cells, inputs, [layer.initial(h0)], x.dtype)


def _gru_cell(recurrent, bias, gates, size, linear_before_reset):
    f, g = gates
    gate_weights = np.ascontiguousarray(recurrent[:, : 2 * size])
    new_weights = np.ascontiguousarray(recurrent[:, 2 * size :])
    gate_bias, new_bias = bias[: 2 * size], bias[2 * size :]

    def cell(entry, hidden):
        zr = f(entry[:, : 2 * size] + hidden @ gate_weights + gate_bias)
        z, r = zr[:, :size], zr[:, size:]
        if linear_before_reset:
            recalled = r * (hidden @ new_weights + new_bias)
        else:
            recalled = (r * hidden) @ new_weights + new_bias
        new = g(entry[:, 2 * size :] + recalled)
        return ((1.0 - z) * new + z * hidden,)

    return cell


@kernel("rnn")
def rnn(
    x,
    w,
    r,
    b=None,
    seq_lens=None,
    h0=None,
    *,
    hidden_size,
    direction="forward",
    activations=(),
    activation_alpha=(),
    activation_beta=(),
    clip=None,
):
    """x [T, B, I], w [D, H, I], r [D, H, H], b [D, 2H] to y [T, D, B, H], y_h [D, B, H]: h = f(x w' + h r' + b)."""
    layer = _layer(x, w, r, b, seq_lens, direction)
    count, size = len(layer.reversed), hidden_size
    gates = _functions(activations, ("Tanh",), activation_alpha, activation_beta, clip, count)
    inputs, cells = [], []
    for d in range(count):
        inputs.append(layer.projected(d) + (layer.b[d, :size] + layer.b[d, size:]))
        cells.append(_rnn_cell(layer.r[d].T, gates[d][0]))
    return _run(layer, cells, inputs, [layer.initial(h0)], x.dtype)


def _rnn_cell(recurrent, f):
    return lambda entry, hidden: (f(entry + hidden @ recurrent),)
