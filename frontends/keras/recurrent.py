"""Recurrent layers of Keras: LSTM, GRU, SimpleRNN, RNN over their cells, and Bidirectional.

The IR's recurrent ops are ONNX's: time-major, gates i o f c (LSTM) and z r h (GRU), weights [D, gates * H, I]. Keras
has gates i f c o and z r h, weights (I, gates * H), and data by batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...formats.keras_config import Layer, parse_layer
from ...formats.keras_h5 import Slots
from ...ir.graph import Value
from .registry import layer
from .scope import Scope


@dataclass(frozen=True)
class Kind:
    """One cell class: the IR op, Keras' gates in the order that the op wants, the number of states, activation keys."""

    op: str
    gates: tuple[int, ...]
    states: int
    activations: tuple[str, ...]


_LSTM = Kind("lstm", (0, 3, 1, 2), 2, ("recurrent_activation", "activation", "activation"))
_GRU = Kind("gru", (0, 1, 2), 1, ("recurrent_activation", "activation"))
_SIMPLE = Kind("rnn", (0,), 1, ("activation",))
KINDS = {
    "LSTM": _LSTM, "LSTMCell": _LSTM, "GRU": _GRU, "GRUCell": _GRU, "SimpleRNN": _SIMPLE, "SimpleRNNCell": _SIMPLE,
}  # fmt: skip
_DEFAULTS = {"activation": "tanh", "recurrent_activation": "sigmoid"}

#: Keras name -> (ONNX name, alpha, beta).
_ACTIVATIONS: dict[str, tuple[str, tuple[float, ...], tuple[float, ...]]] = {
    "sigmoid": ("Sigmoid", (), ()),
    "tanh": ("Tanh", (), ()),
    "relu": ("Relu", (), ()),
    "linear": ("Affine", (1.0,), (0.0,)),
    "hard_sigmoid": ("HardSigmoid", (1.0 / 6.0,), (0.5,)),
    "elu": ("Elu", (1.0,), ()),
    "leaky_relu": ("LeakyRelu", (0.2,), ()),
    "softsign": ("Softsign", (), ()),
    "softplus": ("Softplus", (), ()),
}


@dataclass(frozen=True)
class Direction:
    """A cell with its weights, as arrays in the op's order, ready to be stacked with another direction's."""

    kind: Kind
    units: int
    w: np.ndarray
    r: np.ndarray
    b: np.ndarray | None
    attrs: tuple[tuple[str, Any], ...]


def _cell_slots(entry: Layer, name: str) -> Slots:
    bias = [("bias", True)] if entry.config.get("use_bias", True) else []
    return Slots(name, [("kernel", True), ("recurrent_kernel", True), *bias])


def _layer_slots(entry: Layer) -> list[tuple[str, Slots]]:
    return [("cell", _cell_slots(entry, "cell"))]


def _cells_of(entry: Layer) -> list[Layer]:
    """The cells of an `RNN` layer, innermost first; an unknown cell class is refused when the layer is lowered."""
    cell = parse_layer(entry.config.get("cell"), f"{entry.name}.cell")
    if cell.class_name != "StackedRNNCells":
        return [cell]
    return [parse_layer(item, f"{entry.name}.cell") for item in cell.config.get("cells", [])]


def _rnn_slots(entry: Layer) -> list[tuple[str, Slots]]:
    from ...formats.keras_config import snake_case

    cells = _cells_of(entry)
    if (entry.config.get("cell") or {}).get("class_name") != "StackedRNNCells":
        return [("cell", _cell_slots(cells[0], "cell"))]
    used: dict[str, int] = {}
    found = []
    for i, cell in enumerate(cells):
        base = snake_case(cell.class_name)
        used[base] = used.get(base, -1) + 1
        group = f"cells/{base}_{used[base]}" if used[base] else f"cells/{base}"
        found.append((group, _cell_slots(cell, f"cell{i}")))
    return [("cell", Slots("cells", children=found))]


def _direction(s: Scope, entry: Layer, cell: Scope, features: Any) -> Direction:
    """Read a cell's config and weights. `cell` is the scope that holds the weights, `entry` the layer with the
    config.
    """
    kind = KINDS.get(entry.class_name)
    if kind is None:
        raise s.unsupported(f"the cell class {entry.class_name!r} is not LSTMCell, GRUCell or SimpleRNNCell")
    config = Scope(s.lowering, entry, cell.slots, s.path)
    units, gates = config.size("units"), len(kind.gates)
    kernel = cell.array("kernel", (features, gates * units))
    recurrent = cell.array("recurrent_kernel", (units, gates * units))
    attrs: dict[str, Any] = {"hidden_size": units, **_activation_attrs(s, entry, kind)}
    bias = None
    if cell.has("bias"):
        bias, reset_after = _biases(config, cell, kind, units)
        if kind is _GRU:
            attrs["linear_before_reset"] = reset_after
    elif kind is _GRU:
        attrs["linear_before_reset"] = config.flag("reset_after")
    w, r = (_by_gate(a, kind, units).T for a in (kernel, recurrent))
    return Direction(kind, units, w, r, bias, tuple(sorted(attrs.items())))


def _by_gate(a: np.ndarray, kind: Kind, units: int) -> np.ndarray:
    """Columns in the op's gate order."""
    blocks = [a[..., g * units : (g + 1) * units] for g in kind.gates]
    return np.concatenate(blocks, axis=-1)


def _biases(config: Scope, cell: Scope, kind: Kind, units: int) -> tuple[np.ndarray, bool]:
    """[input bias, recurrent bias]. Keras keeps one, except for a GRU that resets after the product: (2, 3 H)."""
    width = len(kind.gates) * units
    if kind is _GRU and config.flag("reset_after", len(cell.stored_shape("bias")) == 2):
        both = _by_gate(cell.array("bias", (2, width)), kind, units)
        return both.reshape(-1), True
    one = _by_gate(cell.array("bias", (width,)), kind, units)
    return np.concatenate([one, np.zeros_like(one)]), False


def _activation_attrs(s: Scope, entry: Layer, kind: Kind) -> dict[str, Any]:
    names: list[str] = []
    alphas: list[float] = []
    betas: list[float] = []
    for key in kind.activations:
        given = entry.config.get(key, _DEFAULTS[key]) or "linear"
        found = _ACTIVATIONS.get(given) if isinstance(given, str) else None
        if found is None:
            raise s.unsupported(f"{key} {given!r} inside a recurrent cell", f"supported: {', '.join(_ACTIVATIONS)}")
        name, alpha, beta = found
        if given == "hard_sigmoid" and s.lowering.major < 3:
            alpha = (0.2,)
        names.append(name)
        alphas += alpha
        betas += beta
    return {"activations": tuple(names), "activation_alpha": tuple(alphas), "activation_beta": tuple(betas)}


def _recur(
    s: Scope, tag: str, directions: Sequence[Direction], x: Value, states: Sequence[Value]
) -> tuple[Value, list[Value]]:
    """Run the op on time-major x [T, B, I]; y [T, D, B, H] and the last states [D, B, H]."""
    first = directions[0]
    how = f"gates of {first.kind.op}"
    stack = lambda name, arrays: s.derived(f"{tag}{name}", np.stack(arrays), how)  # noqa: E731
    w, r = stack("kernel", [d.w for d in directions]), stack("recurrent_kernel", [d.r for d in directions])
    b = None if first.b is None else stack("bias", [d.b for d in directions])
    attrs = {**dict(first.attrs), "direction": "bidirectional" if len(directions) == 2 else "forward"}
    for key in ("activations", "activation_alpha", "activation_beta"):
        attrs[key] = attrs[key] * len(directions)
    results = s.b.call(first.kind.op, (x, w, r, b, None, *states), attrs).results
    return results[0], list(results[1:])


def _initial(s: Scope, given: Sequence[Any], count: int) -> list[Value]:
    """Initial states [1, B, H] from call arguments [B, H]; none means zeros."""
    if not given:
        return []
    if len(given) != count:
        raise s.invalid(f"it has {count} states and is given {len(given)}")
    return [s.expand(state, 0) for state in given]


def _split_call(x: Any, initial_state: Any) -> tuple[Value, list[Value]]:
    """(sequence, states): Keras takes states as a keyword or behind the sequence in a list."""
    if isinstance(x, (list, tuple)):
        return x[0], list(x[1:])
    if initial_state is None:
        return x, []
    return x, list(initial_state) if isinstance(initial_state, (list, tuple)) else [initial_state]


def _time_major(s: Scope, entry: Layer, x: Value) -> Value:
    return x if entry.config.get("time_major") else s.transpose(x, (1, 0, 2))


def _checked(s: Scope, entry: Layer, x: Value) -> None:
    if s.rank(x) != 3:
        raise s.invalid(f"its input has rank {s.rank(x)}, expected 3 (batch, time, features)")
    if entry.config.get("stateful"):
        raise s.unsupported("stateful=True keeps state between calls", "pass states explicitly with initial_state")


def _one_way(s: Scope, entry: Layer, tag: str, direction: Direction, x: Value, states: Sequence[Value]) -> list[Value]:
    """[output, *last states] of one layer on [B, T, I]."""
    steps = _time_major(s, entry, x)
    if entry.config.get("go_backwards"):
        steps = s.b.reverse(steps, axes=(0,))
    y, last = _recur(s, tag, [direction], steps, _initial(s, states, direction.kind.states))
    last = [s.b.squeeze(state, (0,)) for state in last]
    if not entry.config.get("return_sequences"):
        return [last[0], *last]
    y = s.b.squeeze(y, (1,))
    return [y if entry.config.get("time_major") else s.transpose(y, (1, 0, 2)), *last]


@layer("LSTM", "GRU", "SimpleRNN", children=_layer_slots, mask="refuse")
def recurrent(s: Scope, x: Any, initial_state: Any = None) -> list[Value]:
    sequence, states = _split_call(x, initial_state)
    _checked(s, s.layer, sequence)
    direction = _direction(s, s.layer, s.sub("cell"), s.static(sequence, 2))
    results = _one_way(s, s.layer, "", direction, s.floating(sequence), states)
    return results if s.flag("return_state") else results[:1]


@layer("RNN", children=_rnn_slots, mask="refuse")
def rnn(s: Scope, x: Any, initial_state: Any = None) -> list[Value]:
    """A cell, or a stack of cells: layers on top of each other that pass whole sequences on."""
    sequence, given = _split_call(x, initial_state)
    _checked(s, s.layer, sequence)
    cells = _cells_of(s.layer)
    stacked = (s.config.get("cell") or {}).get("class_name") == "StackedRNNCells"
    flat = [state for item in given for state in (item if isinstance(item, (list, tuple)) else [item])]
    y, last = s.floating(sequence), []
    for i, cell in enumerate(cells):
        held = s.sub("cells").sub(f"cell{i}") if stacked else s.sub("cell")
        direction = _direction(s, cell, held, s.static(y, 2))
        own, flat = flat[: direction.kind.states], flat[direction.kind.states :]
        whole = i + 1 < len(cells)
        backwards = s.flag("go_backwards") and i == 0
        config = {**s.config, "return_sequences": whole or s.flag("return_sequences"), "go_backwards": backwards}
        entry = Layer(s.layer.name, "RNN", "", config, [])
        y, *states = _one_way(s, entry, f"cell{i}/" if stacked else "", direction, y, own)
        last += states
    return [y, *last] if s.flag("return_state") else [y]


# ------------------------------------------------------------------------------------------------------- bidirectional


def _both(entry: Layer) -> tuple[Layer, Layer]:
    """The forward and the backward layer; older files describe only the first, the other is its mirror image."""
    forward = parse_layer(entry.config.get("layer"), f"{entry.name}.layer")
    if entry.config.get("backward_layer") is not None:
        return forward, parse_layer(entry.config["backward_layer"], f"{entry.name}.backward_layer")
    mirrored = {**forward.config, "go_backwards": not forward.config.get("go_backwards", False)}
    return forward, Layer(f"backward_{forward.name}", forward.class_name, forward.module, mirrored, [])


def _both_slots(entry: Layer) -> list[tuple[str, Slots]]:
    found = []
    for attribute, one in zip(("forward_layer", "backward_layer"), _both(entry), strict=True):
        below = _rnn_slots(one) if one.class_name == "RNN" else _layer_slots(one)
        found.append((attribute, Slots(attribute, children=below)))
    return found


@layer("Bidirectional", children=_both_slots, mask="refuse")
def bidirectional(s: Scope, x: Any, initial_state: Any = None) -> list[Value]:
    """Both directions in one op; results in time order, merged as `merge_mode` says."""
    sequence, given = _split_call(x, initial_state)
    forward, backward = _both(s.layer)
    for one in (forward, backward):
        if one.class_name not in ("LSTM", "GRU", "SimpleRNN"):
            raise s.unsupported(f"it wraps a {one.class_name}", "wrap LSTM, GRU or SimpleRNN")
        _checked(s, one, sequence)
    sequence, features = s.floating(sequence), s.static(sequence, 2)
    ways = [
        _direction(s, one, s.sub(name).sub("cell"), features)
        for one, name in ((forward, "forward_layer"), (backward, "backward_layer"))
    ]
    half = len(given) // 2
    states = [_initial(s, part, ways[0].kind.states) for part in (given[:half], given[half:])]
    alike = (
        ways[0].attrs == ways[1].attrs and ways[0].kind is ways[1].kind and (ways[0].b is None) == (ways[1].b is None)
    )
    plain = not forward.config.get("go_backwards") and backward.config.get("go_backwards")
    if not alike or not plain:
        raise s.unsupported("its two directions differ in more than their weights", "use two layers and merge them")
    both = [s.b.concat(a, b, axis=0) for a, b in zip(*states, strict=True)] if given else []
    y, last = _recur(s, "", ways, _time_major(s, forward, sequence), both)
    return _merged(s, forward, y, last)


def _merged(s: Scope, forward: Layer, y: Value, last: list[Value]) -> list[Value]:
    """y [T, 2, B, H], states [2, B, H] -> the layer's results."""
    halves = [list(s.b.split(state, axis=0, num_outputs=2)) for state in last]
    states = [s.b.squeeze(half[way], (0,)) for way in (0, 1) for half in halves]
    if forward.config.get("return_sequences"):
        ways = [s.b.squeeze(part, (1,)) for part in s.b.split(y, axis=1, num_outputs=2)]
        if not forward.config.get("time_major"):
            ways = [s.transpose(way, (1, 0, 2)) for way in ways]
    else:
        ways = [states[0], states[len(halves)]]
    mode = s.config.get("merge_mode", "concat")
    if mode is None:
        made = ways
    elif mode == "concat":
        made = [s.b.concat(*ways, axis=-1)]
    elif mode in ("sum", "ave", "mul"):
        one = s.b.mul(*ways) if mode == "mul" else s.b.add(*ways)
        made = [s.b.mul(one, s.value(0.5, one.dtype)) if mode == "ave" else one]
    else:
        raise s.invalid(f"merge_mode is {mode!r}")
    return [*made, *states] if forward.config.get("return_state") else made
