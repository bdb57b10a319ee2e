"""Operators of onnxruntime's domain com.microsoft that fuse float layers, named `ort.*`, each with a kernel made of others.

Written only where `ort=True` asks for them. Operands stand in the operator's order, attributes carry its names. Formulas:
onnxruntime's docs/ContribOperators.md. Imports no framework.
"""

from __future__ import annotations

import numpy as np

from ...ir.opdef import OpDef, attr, floats, op, operand, optional
from ...ir.ops import get_op, rules
from ...ir.ops.conv import Sliding
from ...ir.ops.matmul import Scaled
from ...ir.ops.shapes import broadcast_shapes
from ...ir.types import F32, I32, I64, TensorType
from ...ir.value import Value
from ...kernels.registry import get_kernel, kernel

REAL = frozenset({F32})

#: Activations inside FusedConv and FusedGemm: our op, and the attributes that are their parameters, in order.
ACTIVATIONS = {
    "Relu": ("relu", ()),
    "Sigmoid": ("sigmoid", ()),
    "Tanh": ("tanh", ()),
    "LeakyRelu": ("leaky_relu", ("alpha",)),
    "HardSigmoid": ("hard_sigmoid", ("alpha", "beta")),
    "Clip": ("clip", ()),
}


def _activated(y: np.ndarray, activation: str, parameters: tuple[float, ...]) -> np.ndarray:
    name, keys = ACTIVATIONS[activation]
    if activation == "Clip":
        return get_kernel(name)(y, *(np.asarray(p, y.dtype) for p in parameters))
    return get_kernel(name)(y, **dict(zip(keys, parameters, strict=True)))


@op(name="ort.fused_conv")
class FusedConv(Sliding):
    """activation(conv(x, w, b) + z)"""

    x = operand(REAL)
    w = operand(REAL)
    b = optional(REAL)
    z = optional(REAL)
    activation = attr(str, "Relu", choices=tuple(ACTIVATIONS))
    activation_params = attr(floats, ())

    def infer(self, x, w, b, z, *, activation, activation_params, **window):
        return get_op("conv").infer(x, w, b, **window, channels_last=False)


@kernel("ort.fused_conv")
def _fused_conv(x, w, b=None, z=None, *, activation="Relu", activation_params=(), **window):
    y = get_kernel("conv")(x, w, b, **window, channels_last=False)
    return _activated(y if z is None else y + z, activation, activation_params)


@op(name="ort.fused_gemm")
class FusedGemm(Scaled):
    """activation(gemm(a, b, c))"""

    a = operand(REAL)
    b = operand(REAL)
    c = optional(REAL)
    activation = attr(str, "Relu", choices=("Relu", "Sigmoid", "Tanh", "LeakyRelu"))
    activation_params = attr(floats, ())

    def infer(self, a, b, c, *, activation, activation_params, **attrs):
        return get_op("gemm").infer(a, b, c, **attrs)


@kernel("ort.fused_gemm")
def _fused_gemm(a, b, c=None, *, activation="Relu", activation_params=(), **attrs):
    return _activated(get_kernel("gemm")(a, b, c, **attrs), activation, activation_params)


def _turned(shape: tuple, transposed: bool) -> tuple:
    return (*shape[:-2], shape[-1], shape[-2]) if transposed else shape


@op(name="ort.fused_matmul")
class FusedMatmul(OpDef):
    """alpha (a or its transpose) @ (b or its transpose): the last two axes, both operands of rank 2 at least"""

    a = operand(REAL)
    b = operand(REAL)
    alpha = attr(float, 1.0)
    transA = attr(bool, False)
    transB = attr(bool, False)

    def infer(self, a, b, *, alpha, transA, transB):
        if a.shape is None or b.shape is None:
            return TensorType(F32, None)
        first, second = _turned(a.shape, transA), _turned(b.shape, transB)
        rules.agree(first[-1], second[-2], "the contracted dims")
        return TensorType(F32, (*broadcast_shapes(first[:-2], second[:-2]), first[-2], second[-1]))


@kernel("ort.fused_matmul")
def _fused_matmul(a, b, *, alpha=1.0, transA=False, transB=False):
    a, b = (np.swapaxes(v, -1, -2) if t else v for v, t in ((a, transA), (b, transB)))
    return (get_kernel("matmul")(a, b) * np.float32(alpha)).astype(np.float32)


class _Elementwise(OpDef):
    x = operand(REAL)

    def infer(self, x: Value, **_):
        return x.type


@op(name="ort.quick_gelu")
class QuickGelu(_Elementwise):
    """x sigmoid(alpha x)"""

    alpha = attr(float, 1.702)


@kernel("ort.quick_gelu")
def _quick_gelu(x, *, alpha=1.702):
    return get_kernel("swish")(x, alpha=alpha)


@op(name="ort.gelu")
class Gelu(_Elementwise):
    """The exact gelu, for opsets that have none."""


@kernel("ort.gelu")
def _gelu(x):
    return get_kernel("gelu")(x, approximate="none")


@op(name="ort.bias_gelu")
class BiasGelu(OpDef):
    """gelu(x + bias), exact; bias is a vector along the last axis"""

    x = operand(REAL)
    bias = operand(REAL)

    def infer(self, x, bias):
        return x.type


@kernel("ort.bias_gelu")
def _bias_gelu(x, bias):
    return get_kernel("gelu")(x + bias, approximate="none")


@op(name="ort.fast_gelu")
class FastGelu(OpDef):
    """gelu(x + bias) by tanh; bias is a vector along the last axis"""

    x = operand(REAL)
    bias = optional(REAL)

    def infer(self, x, bias):
        return x.type


@kernel("ort.fast_gelu")
def _fast_gelu(x, bias=None):
    return get_kernel("gelu")(x if bias is None else x + bias, approximate="tanh")


class _Skip(OpDef):
    """A norm over the last axis of a sum, and the sum: data of rank 2 or 3, both parts of one shape."""

    x = operand(REAL)
    skip = operand(REAL)
    scale = operand(REAL)
    results = ("y", "total")

    def infer(self, x, skip, scale, bias=None, shift=None, *, epsilon):
        return [x.type, x.type]


@op(name="ort.skip_layer_norm")
class SkipLayerNorm(_Skip):
    """layer_norm(x + skip + shift) and x + skip + shift; `shift` is a vector along the last axis"""

    bias = optional(REAL)
    shift = optional(REAL)
    epsilon = attr(float, 1e-12)


@op(name="ort.skip_rms_norm")
class SkipRmsNorm(_Skip):
    """rms_norm(x + skip) and x + skip"""

    epsilon = attr(float, 1e-5)


@kernel("ort.skip_layer_norm")
def _skip_layer_norm(x, skip, scale, bias=None, shift=None, *, epsilon=1e-12):
    total = x + skip if shift is None else x + shift + skip
    return get_kernel("layer_norm")(total, scale, bias, axis=total.ndim - 1, epsilon=epsilon), total


@kernel("ort.skip_rms_norm")
def _skip_rms_norm(x, skip, scale, *, epsilon=1e-5):
    total = x + skip
    return get_kernel("rms_norm")(total, scale, axis=total.ndim - 1, epsilon=epsilon), total


class _Attends(OpDef):
    """Attention with q [B, S, heads * E], k and v [B, T, shared heads * E]: the result, all keys and all values."""

    results = ("y", "present_k", "present_v")

    def attention(self, *operands, **attrs):
        """Inferred types of the operator that says the same."""
        return get_op("attention").infer(*(*operands, *[None] * 7)[:7], **_as_attention(**attrs))[:3]


@op(name="ort.multi_head_attention")
class MultiHeadAttention(_Attends):
    """softmax(q k' scale + bias) v with one head of keys for each of queries; scale is 1 / sqrt(E) unless given"""

    q = operand(REAL)
    k = operand(REAL)
    v = operand(REAL)
    projection = optional(REAL)
    padding = optional()
    bias = optional(REAL)
    past_k = optional(REAL)
    past_v = optional(REAL)
    num_heads = attr(int)
    scale = attr(float, None)
    unidirectional = attr(bool, False)

    def infer(self, q, k, v, projection, padding, bias, past_k, past_v, **attrs):
        return self.attention(q, k, v, bias, past_k, past_v, **attrs)


@op(name="ort.group_query_attention")
class GroupQueryAttention(_Attends):
    """Causal, with heads of keys that queries share; `last` is the index of each sample's last key [B], `total` their number"""

    q = operand(REAL)
    k = operand(REAL)
    v = operand(REAL)
    past_k = optional(REAL)
    past_v = optional(REAL)
    last = operand(frozenset({I32}))
    total = operand(frozenset({I32}))
    num_heads = attr(int)
    kv_num_heads = attr(int)
    scale = attr(float, None)
    softcap = attr(float, 0.0)

    def infer(self, q, k, v, past_k, past_v, last, total, **attrs):
        return self.attention(q, k, v, None, past_k, past_v, **attrs)


def _as_attention(*, num_heads: int, kv_num_heads: int = 0, unidirectional: bool = True, **attrs) -> dict:
    heads = {"q_num_heads": num_heads, "kv_num_heads": kv_num_heads or num_heads, "is_causal": unidirectional}
    return dict(get_op("attention").defaults) | heads | attrs


@kernel("ort.multi_head_attention")
def _multi_head_attention(q, k, v, projection=None, padding=None, bias=None, past_k=None, past_v=None, **attrs):
    return get_kernel("attention")(q, k, v, bias, past_k, past_v, **_as_attention(**attrs))[:3]


@kernel("ort.group_query_attention")
def _group_query_attention(q, k, v, past_k=None, past_v=None, last=None, total=None, **attrs):
    return get_kernel("attention")(q, k, v, None, past_k, past_v, **_as_attention(**attrs))[:3]


@op(name="ort.rotary_embedding")
class RotaryEmbedding(OpDef):
    """rotary_embedding by tables [positions, width / 2], read at `positions` [B, S], or from positions[0] on"""

    x = operand(REAL)
    positions = operand(frozenset({I64}))
    cos = operand(REAL)
    sin = operand(REAL)
    interleaved = attr(bool, False)
    num_heads = attr(int, 0)
    rotary_embedding_dim = attr(int, 0)

    def infer(self, x, positions, cos, sin, **_):
        return x.type


@kernel("ort.rotary_embedding")
def _rotary_embedding(x, positions, cos, sin, **attrs):
    length = x.shape[-2]
    ids = positions if positions.ndim == 2 else np.broadcast_to(positions[0] + np.arange(length), (len(x), length))
    return get_kernel("rotary_embedding")(x, cos, sin, ids, **attrs)
