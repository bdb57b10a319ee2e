"""Torch expressions of activations and softmax."""

from __future__ import annotations

import numpy as np

from ...ir.types import F64
from ...ir.value import Node
from .calls import Call, Refusal, rank_of, row, simple

_SIMPLE = {
    "relu": "F.relu", "relu6": "F.relu6", "sigmoid": "torch.sigmoid", "tanh": "torch.tanh", "silu": "F.silu",
    "mish": "F.mish", "softsign": "F.softsign", "hard_swish": "F.hardswish",
}  # fmt: skip
for _name, _fn in _SIMPLE.items():
    row(_name)(simple(_fn))

_SELU = {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}


def _is(node: Node, name: str, wanted: float) -> bool:
    """The attribute is torch's number, in the precision that torch computes with."""
    given = node.attr(name)
    return given == wanted if node.result.dtype is F64 else np.float32(given) == np.float32(wanted)


@row("leaky_relu")
def leaky_relu(node: Node) -> Call:
    return Call("F.leaky_relu", *node.operands, negative_slope=node.attr("alpha"))


@row("prelu")
def prelu(node: Node) -> Call:
    """torch has one slope, or one per channel as a vector; other shapes are taken apart."""
    x, slope = node.operands
    assert x is not None and slope is not None
    if slope.shape != (1,) and not (rank_of(x) == 2 and rank_of(slope) == 1):
        raise Refusal("torch wants its slopes in a vector")
    return Call("F.prelu", x, slope)


@row("elu", "celu")
def elu(node: Node) -> Call:
    return Call(f"F.{node.name}", *node.operands, alpha=node.attr("alpha"))


@row("selu")
def selu(node: Node) -> Call:
    if not all(_is(node, name, value) for name, value in _SELU.items()):
        raise Refusal("torch's selu has fixed numbers")
    return Call("F.selu", *node.operands)


@row("thresholded_relu")
def thresholded_relu(node: Node) -> Call:
    return Call("F.threshold", *node.operands, node.attr("alpha"), 0.0)


@row("hard_sigmoid")
def hard_sigmoid(node: Node) -> Call:
    if not _is(node, "alpha", 1 / 6) or node.attr("beta") != 0.5:
        raise Refusal("torch's hardsigmoid is relu6(x + 3) / 6")
    return Call("F.hardsigmoid", *node.operands)


@row("softplus")
def softplus(node: Node) -> Call:
    """torch returns x above a threshold; in f64 its own, 20, would show."""
    (x,) = node.operands
    assert x is not None
    return Call("F.softplus", x, beta=1.0, threshold=40.0) if x.dtype is F64 else Call("F.softplus", x)


@row("gelu")
def gelu(node: Node) -> Call:
    return Call("F.gelu", *node.operands, approximate=node.attr("approximate"))


@row("shrink")
def shrink(node: Node) -> Call:
    bias, lambd = node.attr("bias"), node.attr("lambd")
    x = node.operand("x")
    if x.dtype is None or not x.dtype.is_float or lambd < 0 or bias not in (0.0, lambd):
        raise Refusal("torch has a hard and a soft shrink only")
    return Call("F.softshrink" if bias == lambd and bias else "F.hardshrink", x, lambd=lambd)


@row("softmax", "log_softmax")
def softmax(node: Node) -> Call:
    x = node.operand("x")
    return Call(f"F.{node.name}", x, dim=node.attr("axis"))
