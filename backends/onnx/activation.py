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


@emits("hard_swish", since=14)
def hard_swish(e: Emitter, n: Node) -> None:
    e.node("HardSwish", n.operands)


@emits("gelu", since=20)
def gelu(e: Emitter, n: Node) -> None:
    e.node("Gelu", n.operands, **n.attrs)


def _silu_in_two(e: Emitter, n: Node) -> None:
    e.node("Mul", [n.operands[0], e.temp("Sigmoid", n.operands, n.result.dtype)])


@emits("silu")
def silu(e: Emitter, n: Node) -> None:
    _silu_in_two(e, n)


@emits("silu", since=24)
def silu_as_swish(e: Emitter, n: Node) -> None:
    e.node("Swish", n.operands)


@emits("silu", since=25)
def silu_again(e: Emitter, n: Node) -> None:
    """onnxruntime 1.32 runs Swish in models of opset 24, where it takes it apart, and in none newer."""
    _silu_in_two(e, n)


@emits("swish", since=24)
def swish(e: Emitter, n: Node) -> None:
    e.node("Swish", n.operands, alpha=n.attr("alpha"))
