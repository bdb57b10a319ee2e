"""com.microsoft: fused products, GELU variants, normalisation, embeddings. onnxruntime's optimisers write these.

Source of the semantics: onnxruntime's docs/ContribOperators.md and its CPU kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...formats.onnx.microsoft import DOMAIN
from ...ir.errors import InvalidModel
from ...ir.graph import Value
from ...ir.types import F32, I32
from .conv import check_kernel, spatial_rank, window
from .importer import Call, Importer, known_dtype, rank_of
from .registry import handles

Apply = Callable[..., Value]

#: Activation -> the op and the names of its parameters, in the order of `activation_params`.
ACTIVATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Relu": ("relu", ()),
    "Sigmoid": ("sigmoid", ()),
    "Tanh": ("tanh", ()),
    "Softplus": ("softplus", ()),
    "Softsign": ("softsign", ()),
    "LeakyRelu": ("leaky_relu", ("alpha",)),
    "Elu": ("elu", ("alpha",)),
    "Celu": ("celu", ("alpha",)),
    "Selu": ("selu", ("alpha", "gamma")),
    "ThresholdedRelu": ("thresholded_relu", ("alpha",)),
    "HardSigmoid": ("hard_sigmoid", ("alpha", "beta")),
}

#: How many activation_params FusedConv takes.
CONV_PARAMETERS = {"Clip": 2, "LeakyRelu": 1, "HardSigmoid": 2}


def activated(c: Importer, n: Call, y: Value, params: dict[str, float]) -> Value:
    """The activation that a fused operator ends with."""
    name = n.attr("activation", "")
    if name == "Clip":
        return c.b.clip(y, c.scalar(params["alpha"], y), c.scalar(params["beta"], y))
    if name not in ACTIVATIONS:
        raise n.refuse(f"activation {name!r} is not known (known: {', '.join(ACTIVATIONS)})")
    op, wanted = ACTIVATIONS[name]
    missing = [key for key in wanted if key not in params]
    if missing:
        raise n.invalid(f"activation {name} has no parameter {missing[0]}")
    return c.b.call(op, (y,), {key: params[key] for key in wanted}).result


@handles("FusedConv", domain=DOMAIN)
def fused_conv(c: Importer, n: Call) -> Any:
    """activation(conv(x, w, b) + z)"""
    x, w, b, z = n.take(4)
    check_kernel(n, w)
    y = c.b.conv(x, w, b, groups=n.attr("group", 1), **window(n, spatial_rank(n, w, x)))
    if z is not None:
        y = c.b.add(y, z)
    name, params = n.attr("activation", ""), tuple(n.attr("activation_params") or ())
    if len(params) != CONV_PARAMETERS.get(name, 0):
        raise n.invalid(f"activation {name!r} with {len(params)} activation_params")
    return activated(c, n, y, dict(zip(("alpha", "beta"), params, strict=False))) if name else y


@handles("FusedGemm", domain=DOMAIN)
def fused_gemm(c: Importer, n: Call) -> Any:
    """activation(alpha a' b' + beta c)"""
    attrs = {"alpha": n.attr("alpha", 1.0), "beta": n.attr("beta", 1.0)}
    attrs |= {"transA": bool(n.attr("transA", 0)), "transB": bool(n.attr("transB", 0))}
    given = {key: n.attrs[f"activation_{key}"] for key in ("alpha", "beta", "gamma") if f"activation_{key}" in n.attrs}
    if n.attr("activation", "") == "Clip":
        raise n.refuse("activation 'Clip' has no defined bounds here")
    return activated(c, n, c.b.gemm(*n.take(3), **attrs), given)


@handles("FusedMatMul", domain=DOMAIN)
def fused_matmul(c: Importer, n: Call) -> Any:
    """alpha * a' b'. transBatch moves the first axis behind the batch axes, then trans swaps the last two."""
    operands = []
    for value, letter in zip(n.take(2), "AB", strict=True):
        rank = rank_of(value, n)
        order = list(range(rank))
        if n.attr(f"transBatch{letter}", 0) and rank > 2:
            order = [*range(1, rank - 1), 0, rank - 1]
        if n.attr(f"trans{letter}", 0) and rank > 1:
            order[-2:] = order[:-3:-1]
        operands.append(value if order == list(range(rank)) else c.b.transpose(value, perm=tuple(order)))
    y = c.b.matmul(*operands)
    alpha = n.attr("alpha", 1.0)
    return y if alpha == 1.0 else c.b.mul(y, c.scalar(alpha, y))


@handles("Gelu", "BiasGelu", domain=DOMAIN)
def gelu(c: Importer, n: Call) -> Any:
    x, bias = n.take(2)
    return c.b.gelu(x if bias is None else c.b.add(x, bias), approximate="none")


@handles("FastGelu", domain=DOMAIN)
def fast_gelu(c: Importer, n: Call) -> Any:
    x, bias = n.take(2)
    return c.b.gelu(x if bias is None else c.b.add(x, bias), approximate="tanh")


@handles("QuickGelu", domain=DOMAIN)
def quick_gelu(c: Importer, n: Call) -> Any:
    """x * sigmoid(alpha x)"""
    return c.b.swish(n.x, alpha=n.attr("alpha", 1.702))


def _summed(c: Importer, n: Call, bias: Value | None) -> Value:
    """input + skip + bias; skip may lack the batch axis or have size 1 there."""
    x, skip = n.take(2)
    total = c.b.add(x, skip)
    return total if bias is None else c.b.add(total, bias)


def _normalised(n: Call, y: Value, total: Value) -> list[Value | None]:
    """Outputs of the skip operators. Mean and inverse deviation are for training; onnxruntime's CPU kernel has none."""
    for index in (1, 2):
        if n.wants(index):
            raise n.refuse(f"output {index} ({('mean', 'inv_std_var')[index - 1]}) is not computed for inference")
    return [y, None, None, total]


@handles("SkipLayerNormalization", domain=DOMAIN)
def skip_layer_norm(c: Importer, n: Call) -> Any:
    gamma, beta, bias = n.take(5)[2:]
    total = _summed(c, n, bias)
    return _normalised(n, c.b.layer_norm(total, gamma, beta, axis=-1, epsilon=n.attr("epsilon", 1e-12)), total)


@handles("SkipSimplifiedLayerNormalization", domain=DOMAIN)
def skip_rms_norm(c: Importer, n: Call) -> Any:
    gamma, bias = n.take(4)[2:]
    total = _summed(c, n, bias)
    return _normalised(n, c.b.rms_norm(total, gamma, axis=-1, epsilon=n.attr("epsilon", 1e-12)), total)


@handles("SimplifiedLayerNormalization")
@handles("SimplifiedLayerNormalization", domain=DOMAIN)
def simplified_layer_norm(c: Importer, n: Call) -> Any:
    """rms_norm in the scale's dtype. onnxruntime writes this operator into the default domain."""
    x, scale = n.take(2)
    axis, epsilon = n.attr("axis", -1), n.attr("epsilon", 1e-5)
    wide = x if x.dtype is scale.dtype else c.b.cast(x, to=F32)
    y = c.b.rms_norm(wide, scale if scale.dtype is wide.dtype else c.b.cast(scale, to=F32), axis=axis, epsilon=epsilon)
    y = y if y.dtype is scale.dtype else c.b.cast(y, to=known_dtype(scale))
    if not n.wants(1):
        return y
    rank = rank_of(x, n)
    full = x if known_dtype(x).bits >= 32 else c.b.cast(x, to=F32)
    axes = tuple(range(axis % rank, rank))
    mean = c.b.reduce_mean(c.b.mul(full, full), axes, keepdims=True)
    return y, c.b.reciprocal(c.b.sqrt(c.b.add(mean, c.scalar(epsilon, mean))))


@handles("EmbedLayerNormalization", domain=DOMAIN)
def embed_layer_norm(c: Importer, n: Call) -> Any:
    """Word, position and segment embeddings, added and normalised; mask_index counts each sample's ones in `mask`."""
    ids, segments, words, positions, segment_table, gamma, beta, mask, places = n.take(9)
    b = c.b
    if (segments is None) != (segment_table is None):
        raise n.invalid("segment_ids and segment_embedding come together")
    if places is None:
        places = line(c, length(c, ids, 1))  # [S]: broadcasts over the batch
    total = b.add(b.gather(words, ids, axis=0), b.gather(positions, places, axis=0))
    if segments is not None:
        total = b.add(total, b.gather(segment_table, segments, axis=0))
    y = b.layer_norm(total, gamma, beta, axis=-1, epsilon=n.attr("epsilon", 1e-12))
    if n.wants(1):
        index = _mask_index(c, n, ids, mask)
    return y, index if n.wants(1) else None, total


def _mask_index(c: Importer, n: Call, ids: Value, mask: Value | None) -> Value:
    if mask is None:
        shape = c.b.shape(ids, start=0, end=1)
        return c.b.constant_of_shape(shape, value=0, to=I32)
    return c.b.reduce_sum(c.b.cast(c.b.equal(mask, c.scalar(1, mask)), to=I32), (1,), keepdims=False)


def line(c: Importer, count: Value) -> Value:
    """0, 1, ... below `count`, an i64 scalar."""
    known = count.ints()
    return c.b.range(0, count, 1) if known is None else c.const(np.arange(known[0]))


def of_rank(n: Call, value: Value, rank: int, what: str) -> tuple[Any, ...]:
    """The dims of an operand that must have this rank; where nothing is known of them it is refused."""
    if rank_of(value, n) != rank:
        raise n.invalid(f"{what} has rank {value.rank}, expected {rank}")
    return value.shape  # type: ignore[return-value]


def length(c: Importer, x: Value, axis: int) -> Value:
    """One dim as an i64 scalar. Raises InvalidModel where there is no such axis."""
    if x.shape is not None and len(x.shape) <= axis:
        raise InvalidModel(f"a value of type {x.type} has no axis {axis}")
    dim = x.shape[axis] if x.shape is not None else None
    return c.const(dim) if type(dim) is int else c.b.squeeze(c.b.shape(x, start=axis, end=axis + 1), (0,))


@handles("RotaryEmbedding", domain=DOMAIN)
def rotary_embedding(c: Importer, n: Call) -> Any:
    """One position id is the place of the first token; caches are always tables."""
    x, places, cos, sin = n.take(4)
    if n.attr("is_packed_batching", 0):
        raise n.refuse("is_packed_batching = 1 (sequences of several samples in one row)")
    if n.attr("scale", 1.0) != 1.0:
        raise n.refuse(f"scale = {n.attr('scale')} (only 1.0 is defined)")
    heads, size = n.attr("num_heads", 0), n.attr("rotary_embedding_dim", 0)
    rank = rank_of(x, n)
    if size and not heads:
        raise n.invalid("rotary_embedding_dim needs num_heads")
    if rank == 3 and not heads:
        width, half = x.shape[2], of_rank(n, cos, 2, "cos_cache")[1]  # type: ignore[index]
        if type(width) is not int or type(half) is not int or half == 0 or width % (2 * half):
            raise n.refuse("the number of heads is neither given nor known from the caches")
        heads = width // (2 * half)
    attrs: dict[str, Any] = {"interleaved": bool(n.attr("interleaved", 0)), "num_heads": heads if rank == 3 else 0}
    ids = rotary_positions(c, n, x, places, 2 if rank == 4 else 1)
    return c.b.rotary_embedding(x, cos, sin, ids, rotary_embedding_dim=size, **attrs)


def rotary_positions(c: Importer, n: Call, x: Value, places: Value, time: int) -> Value:
    """Position ids [B, S] from themselves, or from the first token's."""
    if places.rank == 2:
        return places
    if places.rank != 1:
        raise n.refuse("the rank of position_ids is not known")
    row = c.b.unsqueeze(c.b.add(line(c, length(c, x, time)), places), (0,))
    batch = c.b.concat(c.b.shape(x, start=0, end=1), c.const([1]), axis=0)
    return c.b.expand(row, batch)
