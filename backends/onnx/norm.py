"""Normalisation layers."""

from __future__ import annotations

from ...ir.graph import Node
from .emitter import Emitter
from .registry import emits
from .spelled import scale_or_ones


def _channels_first(e: Emitter, n: Node) -> None:
    if n.attr("channels_last"):
        raise e.refuse("ONNX has channels first only")


@emits("batch_norm")
def batch_norm(e: Emitter, n: Node) -> None:
    _channels_first(e, n)
    e.node("BatchNormalization", n.operands, epsilon=n.attr("epsilon"))


@emits("instance_norm")
def instance_norm(e: Emitter, n: Node) -> None:
    _channels_first(e, n)
    e.node("InstanceNormalization", n.operands, epsilon=n.attr("epsilon"))


@emits("group_norm", since=21)
def group_norm(e: Emitter, n: Node) -> None:
    _channels_first(e, n)
    e.node("GroupNormalization", n.operands, num_groups=n.attr("num_groups"), epsilon=n.attr("epsilon"))


@emits("layer_norm", since=17)
def layer_norm(e: Emitter, n: Node) -> None:
    inputs = [n.operands[0], scale_or_ones(e, n), n.operand("bias")]
    e.node("LayerNormalization", inputs, axis=n.attr("axis"), epsilon=n.attr("epsilon"))


@emits("rms_norm", since=23)
def rms_norm(e: Emitter, n: Node) -> None:
    inputs = [n.operands[0], scale_or_ones(e, n)]
    e.node("RMSNormalization", inputs, axis=n.attr("axis"), epsilon=n.attr("epsilon"))


@emits("lrn")
def lrn(e: Emitter, n: Node) -> None:
    _channels_first(e, n)
    e.node("LRN", n.operands, alpha=n.attr("alpha"), beta=n.attr("beta"), bias=n.attr("bias"), size=n.attr("size"))


@emits("lp_normalization")
def lp_normalization(e: Emitter, n: Node) -> None:
    e.node("LpNormalization", n.operands, axis=n.attr("axis"), p=n.attr("p"))


@emits("mean_variance_normalization")
def mean_variance_normalization(e: Emitter, n: Node) -> None:
    e.node("MeanVarianceNormalization", n.operands, axes=n.attr("axes"))
