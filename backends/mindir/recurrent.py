"""lstm as MindSpore's own where it has the same cell, one direction at a time; gru and rnn are unrolled."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.value import Node, Value
from ...passes.decompose.recurrent import part
from ...passes.decompose.rules import Declined, Outcome, Size, shape_of, static
from .registry import FLOAT_2, Call, emits, lowers


@emits("ms.lstm", FLOAT_2)
def ms_lstm(node: Node) -> Call:
    x, size = node.operands[0], node.attr("hidden_size")
    attrs = {
        "input_size": x.shape[2],
        "hidden_size": size,
        "num_layers": 1,
        "has_bias": True,
        "bidirectional": False,
        "dropout": 0.0,
        "proj_size": 0,
    }
    return Call("LSTM", node.operands, attrs, (0, 1, 2))


_USUAL = ("sigmoid", "tanh", "tanh")


def _plain(node: Node) -> bool:
    """MindSpore's cell: the usual gates, no clipping, no peepholes, full length, weights that are known."""
    names = tuple(name.lower() for name in node.attr("activations"))
    count = 2 if node.attr("direction") == "bidirectional" else 1
    usual = names in ((), _USUAL * count)
    _, w, r, bias, lens, _, _, peep = (*node.operands, *[None] * 8)[:8]
    known = w.is_const and r.is_const and (bias is None or bias.is_const)
    return usual and known and not node.attr("clip") and not node.attr("input_forget") and lens is None and peep is None


@lowers("lstm")
def lstm(b: Builder, node: Node) -> Outcome:
    x, w, r, bias, _, h0, c0, _ = (*node.operands, *[None] * 8)[:8]
    if x.dtype not in FLOAT_2 or not _plain(node) or not static(x.shape[2]):
        return Declined("")
    turned = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[node.attr("direction")]
    ys: list[Value] = []
    finals: tuple[list[Value], list[Value]] = ([], [])
    for d, backwards in enumerate(turned):
        data = b.reverse(x, axes=(0,)) if backwards else x
        states = [_state(b, x, s, d, node.attr("hidden_size")) for s in (h0, c0)]
        weights = b.const(_flat_weights(w, r, bias, d), key=f"{w.weight.key}.{d}", role="param", origin="packed")
        y, *last = b.call("ms.lstm", (data, *states, weights), {"hidden_size": node.attr("hidden_size")}).results
        ys.append(b.unsqueeze(b.reverse(y, axes=(0,)) if backwards else y, (1,)))
        for rows, state in zip(finals, last, strict=True):
            rows.append(state)
    join = (lambda rows, axis: b.concat(*rows, axis=axis)) if len(turned) > 1 else (lambda rows, axis: rows[0])
    return join(ys, 1), join(finals[0], 0), join(finals[1], 0)


def _state(b: Builder, x: Value, given: Value | None, direction: int, size: int) -> Value:
    """The initial state of one direction as [1, B, H]."""
    if given is not None:
        return b.unsqueeze(part(b, given, direction), (0,))
    batch: Any = x.shape[1]
    if static(batch):
        return b.const(np.zeros((1, batch, size), x.dtype.numpy))
    zero = b.const(np.zeros((1, 1, size), x.dtype.numpy))
    return b.expand(zero, shape_of(b, [1, Size(x, 1), size]))


def _flat_weights(w: Value, r: Value, bias: Value | None, direction: int) -> np.ndarray:
    """Input and recurrent weights and the sum of both biases, gates in the order i, f, g, o, as [n, 1, 1]."""
    size: Any = r.shape[2]
    order = [0, 2, 3, 1]  # from ONNX's i, o, f, c
    rows = [v.array()[direction].reshape(4, size, -1)[order].reshape(-1) for v in (w, r)]
    both = np.zeros((2, 4, size)) if bias is None else bias.array()[direction].astype(np.float64).reshape(2, 4, size)
    rows.append(both.sum(axis=0)[order].reshape(-1).astype(w.dtype.numpy))
    return np.concatenate(rows).reshape(-1, 1, 1)
