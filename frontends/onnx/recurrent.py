"""LSTM, GRU and RNN. The IR is time-major: files with layout 1 (batch first) get transposes around the op."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Value
from .importer import Call, Importer
from .registry import handles

DEFAULT_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def attributes(n: Call, kind: str, hidden_axis: int = -1) -> dict[str, Any]:
    """What the operators share; R's axis `hidden_axis` has the size of the state, where no attribute says it."""
    direction = n.attr("direction", "forward")
    direction = "forward" if direction == "foward" else direction  # so the default of GRU-1 is spelled
    if direction not in ("forward", "reverse", "bidirectional"):
        raise n.invalid(f"direction is {direction!r}")
    count = 2 if direction == "bidirectional" else 1
    hidden = n.attr("hidden_size")
    recurrence = n.inputs[2]
    if hidden is None:
        hidden = recurrence.shape[hidden_axis] if recurrence is not None and recurrence.rank == 3 else None
        if type(hidden) is not int:
            raise n.refuse("hidden_size is neither given nor known from R")
    made: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    given: Any = n.node.attrs.get("activations")
    made["activations"] = tuple(given) if given else DEFAULT_ACTIVATIONS[kind] * count
    for name in ("activation_alpha", "activation_beta"):
        if n.attrs.get(name):
            made[name] = tuple(n.attrs[name])
    if n.attr("clip") is not None:
        made["clip"] = n.attr("clip")
    return made


def _swapped(c: Importer, value: Value | None) -> Value | None:
    return None if value is None else c.b.transpose(value, perm=(1, 0, 2))


def _lower(
    c: Importer, n: Call, name: str, operands: tuple, states: tuple[int, ...], attrs: dict[str, Any]
) -> list[Value]:
    """`states` are the positions of x and the initial states: what layout 1 holds batch first."""
    batch_first = n.attr("layout", 0) == 1
    if batch_first:
        operands = tuple(_swapped(c, v) if i in states else v for i, v in enumerate(operands))
    results: list[Any] = list(c.b.call(name, operands, attrs).results)
    if batch_first:  # Y is [T, D, B, H] in the IR, [B, T, D, H] in the file
        y = c.b.transpose(results[0], perm=(2, 0, 1, 3)) if n.wants(0) else results[0]
        results = [y, *(_swapped(c, v) if n.wants(i) else v for i, v in enumerate(results[1:], 1))]
    return results


@handles("LSTM")
def lstm(c: Importer, n: Call) -> Any:
    attrs = attributes(n, "LSTM") | {"input_forget": bool(n.attr("input_forget", 0))}
    return _lower(c, n, "lstm", n.take(8), (0, 5, 6), attrs)


@handles("GRU")
def gru(c: Importer, n: Call) -> Any:
    attrs = attributes(n, "GRU") | {"linear_before_reset": bool(n.attr("linear_before_reset", 0))}
    return _lower(c, n, "gru", n.take(6), (0, 5), attrs)


@handles("RNN")
def rnn(c: Importer, n: Call) -> Any:
    return _lower(c, n, "rnn", n.take(6), (0, 5), attributes(n, "RNN"))
