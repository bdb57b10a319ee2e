"""LSTMs that are plain enough run as one UNIDIRECTIONAL_SEQUENCE_LSTM; the others are unrolled by the shared rule."""

from __future__ import annotations

import numpy as np

from ....ir.builder import Builder
from ....ir.types import F32
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
        return Declined(reason)
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
    if x.rank != 3 or sum(type(d) is not int for d in x.shape) > 1:
        return "more than one unknown dim"
    return "the cell state is asked for" if node.results[2].n_uses else None


def _is_zero(value: Value) -> bool:
    return value.is_const and not value.array().any()


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
