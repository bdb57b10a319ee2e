"""Activations: what has no kernel of its own, and softmax along other axes than the last."""

from __future__ import annotations

from ....ir.builder import Builder
from ....ir.types import F32
from ....ir.value import Node, Value
from ....passes.decompose.rules import Declined, Outcome, moved_last
from . import lowers
from .common import f32, reshaped


@lowers("elu")
def elu(b: Builder, node: Node) -> Outcome:
    """ELU has alpha 1: relu(x) + alpha * elu(min(x, 0))."""
    (x,), alpha = node.operands, node.attr("alpha")
    if x.dtype is not F32:
        return Declined("")
    return b.add(b.relu(x), b.mul(b.elu(b.min(x, f32(b, 0.0)), alpha=1.0), f32(b, alpha)))


@lowers("selu")
def selu(b: Builder, node: Node) -> Outcome:
    (x,) = node.operands
    if x.dtype is not F32:
        return Declined("")
    return b.mul(b.elu(x, alpha=node.attr("alpha")), f32(b, node.attr("gamma")))


@lowers("hard_sigmoid")
def hard_sigmoid(b: Builder, node: Node) -> Outcome:
    (x,) = node.operands
    if x.dtype is not F32:
        return Declined("")
    line = b.add(b.mul(x, f32(b, node.attr("alpha"))), f32(b, node.attr("beta")))
    return b.call("tfl.relu_0_to_1", (line,)).result


@lowers("softmax", "log_softmax")
def softmax(b: Builder, node: Node) -> Outcome:
    """Along the last axis, in at most four dims."""
    (x,) = node.operands
    if x.dtype is not F32 or not x.rank:
        return Declined("")
    axis = node.attr("axis") % x.rank
    if axis != x.rank - 1:
        perm, back = moved_last(x.rank, axis)
        turned = b.call(node.name, (b.transpose(x, perm=perm),), {"axis": x.rank - 1}).result
        return b.transpose(turned, perm=back)
    return _flat(b, node, x)


def _flat(b: Builder, node: Node, x: Value) -> Outcome:
    if type(x.shape[-1]) is not int or not x.shape[-1]:
        return Declined("a softmax of unknown length")
    rows = b.reshape(x, (-1, x.shape[-1]))
    return reshaped(b, b.call(node.name, (rows,), {"axis": 1}).result, x.shape)
