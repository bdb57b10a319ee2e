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
    "ort.fast_gelu": "FastGelu",
    "ort.rotary_embedding": "RotaryEmbedding",
}
_SKIP = {"ort.skip_layer_norm": "SkipLayerNormalization", "ort.skip_rms_norm": "SkipSimplifiedLayerNormalization"}


_PRESENT = {"ort.multi_head_attention": "MultiHeadAttention", "ort.group_query_attention": "GroupQueryAttention"}


@emits(*_PLAIN)
def plain(e: Emitter, n: Node) -> None:
    e.node(_PLAIN[n.name], n.operands, domain=DOMAIN, **_plain(n))


def _plain(n: Node) -> dict:
    """Attributes as ONNX has them: truths are integers."""
    return {name: int(value) if isinstance(value, bool) else value for name, value in n.attrs.plain.items()}


@emits(*_PRESENT)
def attention(e: Emitter, n: Node) -> None:
    """Joined keys and values are yielded where there is a cache, and always by the operator of shared heads."""
    whole = n.name == "ort.group_query_attention" or n.operand("past_k") is not None
    outputs = [v if v.n_uses or v is n.results[0] else Temp(v.dtype, v.hint) for v in n.results]
    e.node(_PRESENT[n.name], n.operands, outputs=outputs if whole else outputs[:1], domain=DOMAIN, **_plain(n))


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
