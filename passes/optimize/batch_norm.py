"""Per-channel scale and shift behind a convolution or dense layer go into its weights and bias.

y = f * (W x + b) + s  =  (f W) x + (f b + s), with f and s per output channel. For batch norm f = scale / sqrt(var + eps)
and s = bias - f * mean (Ioffe and Szegedy, 2015, section 3.1). Factors are computed in float64 and rounded once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...ir.graph import Node, Value
from ...ir.tensor import ArrayTensor, LazyTensor, Tensor
from ...ir.weights import Weight
from ..manager import pattern_pass
from ..rewrite import StagingBuilder, rule

#: Weights above this many bytes are scaled lazily, when they are written.
LAZY_BYTES = 1 << 20

CONVOLUTIONS = ("conv", "conv_transpose")


class Affine(NamedTuple):
    """y = factor * x + shift per channel, float64 vectors."""

    factor: np.ndarray
    shift: np.ndarray
    sources: tuple[str, ...]


def batch_norm_affine(node: Node) -> Affine | None:
    """The scale and shift of a batch norm with constant parameters."""
    params = node.operands[1:5]
    if not all(v is not None and v.is_const for v in params):
        return None
    scale, bias, mean, var = (v.array().astype(np.float64) for v in params)  # type: ignore[union-attr]
    factor = scale / np.sqrt(var + node.attr("epsilon"))
    return Affine(factor, bias - factor * mean, tuple(v.weight.key for v in params))  # type: ignore[union-attr]


def channel_constant(value: Value, rank: int, channels: int) -> np.ndarray | None:
    """A constant that broadcasts along nothing but the channel axis 1 of rank-`rank` data, as a vector; else None."""
    if not value.is_const or value.shape is None or value.dtype is None or not value.dtype.is_float:
        return None
    shape = (1,) * (rank - len(value.shape)) + tuple(value.shape)
    if len(shape) != rank or any(d != 1 for i, d in enumerate(shape) if i != 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(value.array().astype(np.float64).reshape(-1), (channels,))


def _elementwise_affine(node: Node, x: Value) -> Affine | None:
    """The scale or shift of a mul or add with a per-channel constant."""
    other = node.operands[1]
    if x.shape is None or len(x.shape) < 2 or not isinstance(x.shape[1], int) or other is None:
        return None
    vector = channel_constant(other, len(x.shape), x.shape[1])
    if vector is None or node.result.type is not x.type:
        return None
    ones, zeros = np.ones_like(vector), np.zeros_like(vector)
    source = (other.weight.key,)  # type: ignore[union-attr]
    return Affine(vector, zeros, source) if node.name == "mul" else Affine(ones, vector, source)


def scaled(weight: Value, factor: np.ndarray) -> Tensor:
    """weight * factor (broadcast), in the weight's dtype; lazy when large."""
    tensor, dtype = weight.weight.tensor, weight.dtype  # type: ignore[union-attr]
    if tensor.nbytes > LAZY_BYTES:
        return LazyTensor("mul", (tensor, ArrayTensor(factor.astype(dtype.numpy))))  # type: ignore[union-attr]
    return ArrayTensor((tensor.numpy().astype(np.float64) * factor).astype(dtype.numpy))  # type: ignore[union-attr]


def _along(vector: np.ndarray, rank: int, axis: int) -> np.ndarray:
    return vector.reshape([-1 if i == axis else 1 for i in range(rank)])


def _weight_factor(node: Node, factor: np.ndarray) -> np.ndarray | None:
    """`factor` per output channel, shaped to multiply the weight operand of `node`."""
    weight = node.operands[1]
    if node.name == "conv":
        return _along(factor, weight.rank, 0)  # type: ignore[union-attr, arg-type]
    if node.name == "gemm":
        return _along(factor, 2, 0 if node.attr("transB") else 1)
    if node.name == "matmul":
        return _along(factor, 2, 1)
    groups = node.attr("groups")
    rows, per_group = weight.weight.tensor.shape[:2]  # type: ignore[union-attr]
    by_group = np.repeat(factor.reshape(groups, per_group), rows // groups, axis=0)
    return by_group.reshape(rows, per_group, *[1] * (weight.rank - 2))  # type: ignore[union-attr, operator]


def _fits(node: Node) -> str | None:
    """Why the producer cannot take a scale and shift; None when it can."""
    weight = node.operands[1]
    bias = node.operands[2] if len(node.operands) > 2 else None
    if weight is None or not weight.is_const or (bias is not None and not bias.is_const):
        return "weights and bias must be constants"
    if node.result.n_uses != 1:
        return "the result is also used elsewhere"
    if node.name == "matmul" and (weight.rank != 2 or node.result.rank != 2):
        return "the channel axis of a matmul with this rank is not axis 1"
    if node.name == "gemm" and (node.attr("alpha") != 1.0 or (bias is not None and bias.rank != 1)):
        return "alpha must be 1 and the bias a vector"
    return None


def absorb(b: StagingBuilder, producer: Node, affine: Affine) -> Value:
    """The producer with f W and f b + s in place of W and b."""
    weight = producer.operands[1]
    bias = producer.operands[2] if len(producer.operands) > 2 else None
    shaped = _weight_factor(producer, affine.factor)
    beta = producer.attrs.get("beta", 1.0)
    old = 0.0 if bias is None else beta * bias.array().astype(np.float64)
    new_bias = np.broadcast_to(affine.factor * old + affine.shift, affine.factor.shape)
    dtype = weight.dtype  # type: ignore[union-attr]
    source = weight.weight  # type: ignore[union-attr]
    origin = "; ".join(filter(None, (source.origin, f"scaled by {', '.join(affine.sources)}")))
    unscaled = bool(np.all(affine.factor == 1.0))
    w = weight if unscaled else b.const(scaled(weight, shaped), key=source.wanted, role=source.role, origin=origin)  # type: ignore
    c = _bias_vector(b, bias, new_bias.astype(dtype.numpy), affine, unscaled, source, origin)  # type: ignore[union-attr]
    if producer.name in CONVOLUTIONS:
        return b.call(producer.name, (producer.operands[0], w, c), dict(producer.attrs)).result
    attrs = {**producer.attrs, "beta": 1.0} if producer.name == "gemm" else {}
    return b.call("gemm", (producer.operands[0], w, c), attrs).result


def _bias_vector(
    b: StagingBuilder, bias: Value | None, data: np.ndarray, affine: Affine, unscaled: bool, source: Weight, origin: str
) -> Value:
    """The new bias; a vector that is only moved here from behind the layer stays the weight that it was."""
    if bias is None and unscaled:
        moved = b.module.weights[affine.sources[0]]
        if moved.type.shape == data.shape and moved.tensor.numpy().tobytes() == data.tobytes():
            return b.weight(moved)
        return b.const(data, key=moved.wanted, role=moved.role, origin=f"vector of {moved.key}")
    key = bias.weight.wanted if bias is not None and bias.weight else f"{source.wanted}.bias"
    return b.const(data, key=key, role=source.role, origin=origin)


@rule("batch_norm", "mul", "add", numerics="ulp")
def absorb_affine(b: StagingBuilder, node: Node):
    """batch_norm(conv(x, w)), mul(conv(x, w), c), add(conv(x, w), c) -> conv(x, w', b')"""
    x = node.operands[0]
    producer = x.node if x is not None else None
    if producer is None or producer.name not in (*CONVOLUTIONS, "gemm", "matmul"):
        return None
    if producer.graph is not node.graph or not x.dtype.is_float:
        return None
    why = _fits(producer)
    if why is not None:
        return b.decline(why)
    if node.name != "batch_norm" and producer.attrs.get("channels_last"):
        return b.decline("the channel axis is the last one")
    affine = batch_norm_affine(node) if node.name == "batch_norm" else _elementwise_affine(node, x)
    if affine is None:
        return b.decline("scale and shift must be constants per channel")
    if not (np.isfinite(affine.factor).all() and np.isfinite(affine.shift).all()):
        return b.decline("scale or shift is not finite")
    return absorb(b, producer, affine)


fold_batch_norm = pattern_pass(
    "fold-batch-norm",
    [absorb_affine],
    doc="Per-channel scale and shift behind conv, conv_transpose, gemm and matmul go into their weights and bias.",
)
