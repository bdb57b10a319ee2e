"""Activations and the softmax family."""

from __future__ import annotations

from ...ir.graph import Node
from .emitter import Emitter
from .registry import emits

PLAIN = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "hard_swish": "HardSwish",
    "mish": "Mish",
    "prelu": "PRelu",
}
WITH_ATTRIBUTES = {
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
    "selu": "Selu",
    "celu": "Celu",
    "thresholded_relu": "ThresholdedRelu",
    "hard_sigmoid": "HardSigmoid",
    "gelu": "Gelu",
    "shrink": "Shrink",
    "softmax": "Softmax",
    "log_softmax": "LogSoftmax",
    "hardmax": "Hardmax",
}


@emits(*PLAIN)
def plain(e: Emitter, n: Node) -> None:
    e.node(PLAIN[n.name], n.operands)


@emits(*WITH_ATTRIBUTES)
def with_attributes(e: Emitter, n: Node) -> None:
    e.node(WITH_ATTRIBUTES[n.name], n.operands, **n.attrs)


@emits("silu")
def silu(e: Emitter, n: Node) -> None:
    """Not as Swish, which exists since opset 24 but which runtimes lack: two nodes run everywhere."""
    e.node("Mul", [n.operands[0], e.temp("Sigmoid", n.operands, n.result.dtype)])


@emits("swish", since=24)
def swish(e: Emitter, n: Node) -> None:
    e.node("Swish", n.operands, alpha=n.attr("alpha"))
