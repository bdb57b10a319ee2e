"""Torch expressions of lstm, gru and rnn, by helpers that bring the gates into torch's order."""

from __future__ import annotations

from ...ir.value import Node
from .calls import Call, Refusal, row

_DEFAULT = {"lstm": (("sigmoid", "tanh", "tanh"),), "gru": (("sigmoid", "tanh"),), "rnn": (("tanh",), ("relu",))}


@row("lstm", "gru", "rnn")
def recurrent(node: Node) -> Call:
    activations = tuple(name.lower() for name in node.attr("activations"))
    count = 2 if node.attr("direction") == "bidirectional" else 1
    choices = _DEFAULT[node.name]
    used = next((one for one in choices if activations in ((), one * count)), None)
    if used is None:
        raise Refusal(f"the gate functions {activations}")
    for name in ("activation_alpha", "activation_beta"):
        if node.attr(name):
            raise Refusal(name)
    if node.attr("clip") is not None or node.operand("seq_lens") is not None:
        raise Refusal("clipping, or sequences of different lengths")
    if node.name == "lstm" and (node.operand("p") is not None or node.attr("input_forget")):
        raise Refusal("peepholes, or coupled gates")
    if node.name == "gru" and not node.attr("linear_before_reset"):
        raise Refusal("torch's gru multiplies by the reset gate after the recurrent product")
    states = [node.operand(name) for name in ("h0", "c0") if name in node.op.positions]
    extra = {"activations": ("relu",) * count} if used == ("relu",) and activations else {}
    operands = [node.operand(name) for name in ("x", "w", "r", "b")]
    return Call(f"helpers.{node.name}", *operands, *states, direction=node.attr("direction"), **extra)
