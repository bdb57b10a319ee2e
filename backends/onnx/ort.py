"""Fused operators of onnxruntime, where they are asked for (`ort_forms.py`)."""

from __future__ import annotations

from ...formats.onnx.microsoft import DOMAIN
from ...ir.graph import Node
from .conv import kernel_shape, window
from .emitter import Emitter, Temp
from .registry import emits

_PLAIN = {
    "ort.quick_gelu": "QuickGelu",
    "ort.gelu": "Gelu",
    "ort.bias_gelu": "BiasGelu",
    "ort.multi_head_attention": "MultiHeadAttention",
}
_SKIP = {"ort.skip_layer_norm": "SkipLayerNormalization", "ort.skip_rms_norm": "SkipSimplifiedLayerNormalization"}


@emits(*_PLAIN)
def plain(e: Emitter, n: Node) -> None:
    e.node(_PLAIN[n.name], n.operands, domain=DOMAIN, **n.attrs.plain)


@emits("ort.fused_conv")
def fused_conv(e: Emitter, n: Node) -> None:
    e.node(
        "FusedConv",
        n.operands,
        domain=DOMAIN,
        group=n.attr("groups"),
        kernel_shape=kernel_shape(n),
        activation=n.attr("activation"),
        activation_params=n.attr("activation_params") or None,
        **window(e, n),
    )


@emits("ort.fused_gemm")
def fused_gemm(e: Emitter, n: Node) -> None:
    """Parameters of an activation have names of their own here."""
    parameters = dict(zip(("activation_alpha", "activation_beta"), n.attr("activation_params"), strict=False))
    e.node(
        "FusedGemm",
        n.operands,
        domain=DOMAIN,
        activation=n.attr("activation"),
        alpha=n.attr("alpha"),
        beta=n.attr("beta"),
        transA=int(n.attr("transA")) or None,
        transB=int(n.attr("transB")) or None,
        **parameters,
    )


@emits("ort.fused_matmul")
def fused_matmul(e: Emitter, n: Node) -> None:
    turned = [int(n.attr(name)) or None for name in ("transA", "transB")]
    e.node("FusedMatMul", n.operands, domain=DOMAIN, alpha=n.attr("alpha"), transA=turned[0], transB=turned[1])


@emits(*_SKIP)
def skip_norm(e: Emitter, n: Node) -> None:
    """The sum is the fourth result; what stands between serves training."""
    y, total = n.results
    outputs: list = [y if y.n_uses else Temp(y.dtype, "y")]
    outputs += [None, None, total] if total.n_uses else []
    e.node(_SKIP[n.name], n.operands, outputs=outputs, domain=DOMAIN, epsilon=n.attr("epsilon"))
