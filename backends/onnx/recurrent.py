"""LSTM, GRU and RNN: gate order and layout are ONNX's already."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats.onnx.microsoft import DOMAIN
from ...ir.graph import Node
from ...ir.types import I32
from .emitter import Emitter, Literal
from .registry import emits

#: (domain, operator); the one of onnxruntime is made where the QOperator form is asked for.
OPERATORS = {
    "lstm": ("", "LSTM"),
    "gru": ("", "GRU"),
    "rnn": ("", "RNN"),
    "ort.dynamic_quantize_lstm": (DOMAIN, "DynamicQuantizeLSTM"),
}
_LSTM = ("Sigmoid", "Tanh", "Tanh")
DEFAULTS = {"lstm": _LSTM, "ort.dynamic_quantize_lstm": _LSTM, "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}

#: Gate activations as the specification spells them: a runtime may insist.
SPELLED = {
    name.lower(): name
    for name in (
        "Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu",
        "Softsign", "Softplus",
    )
}  # fmt: skip


@emits(*OPERATORS)
def recurrent(e: Emitter, n: Node) -> None:
    inputs: list[Any] = list(n.operands)
    lens = n.operand("seq_lens")
    if lens is not None and lens.dtype is not I32:
        known = lens.ints()
        inputs[4] = (
            Literal(np.asarray(known, np.int32), I32) if known is not None else e.temp("Cast", [lens], I32, to=6)
        )
    attrs: dict[str, Any] = {"hidden_size": n.attr("hidden_size")}
    if n.attr("direction") != "forward":
        attrs["direction"] = n.attr("direction")
    count = 2 if n.attr("direction") == "bidirectional" else 1
    activations = tuple(SPELLED.get(name.lower(), name) for name in n.attr("activations"))
    if activations not in ((), DEFAULTS[n.name] * count):
        attrs["activations"] = activations
    for name in ("activation_alpha", "activation_beta"):
        attrs[name] = n.attr(name) or None
    if n.attr("clip") is not None:
        attrs["clip"] = n.attr("clip")
    for name in ("input_forget", "linear_before_reset"):
        if n.attrs.get(name):
            attrs[name] = 1
    domain, operator = OPERATORS[n.name]
    e.node(operator, inputs, domain=domain, **attrs)
