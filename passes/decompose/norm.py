"""Normalisations as means, products and roots. Knows no target."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.value import Node, Value
from .rules import (
    Declined,
    axes_from,
    back_to_last,
    channels_first,
    decomposes,
    per_channel,
    reshape_to,
    scalar,
    sizes,
    spatial_axes,
)


def _standardised(b: Builder, x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    """(x - mean) * rsqrt(variance + epsilon) over `axes`."""
    centred = b.sub(x, b.reduce_mean(x, axes, keepdims=True))
    variance = b.reduce_mean(b.mul(centred, centred), axes, keepdims=True)
    return b.mul(centred, b.rsqrt(b.add(variance, scalar(b, epsilon, x))))


def _affine(b: Builder, y: Value, scale: Value | None, bias: Value | None) -> Value:
    y = y if scale is None else b.mul(y, scale)
    return y if bias is None else b.add(y, bias)


@decomposes("batch_norm", rounds=True)
def batch_norm(b: Builder, node: Node) -> Value:
    """(x - mean) * (scale * rsqrt(var + epsilon)) + bias"""
    last, rank = node.attr("channels_last"), node.operands[0].rank
    x, *vectors = node.operands
    scale, bias, mean, var = (per_channel(b, v, rank, last) for v in vectors)
    factor = b.mul(scale, b.rsqrt(b.add(var, scalar(b, node.attr("epsilon"), var))))
    return b.add(b.mul(b.sub(x, mean), factor), bias)


@decomposes("layer_norm", rounds=True)
def layer_norm(b: Builder, node: Node) -> Value:
    x, scale, bias = (*node.operands, None, None)[:3]
    axes = axes_from(node.attr("axis"), x.rank)
    return _affine(b, _standardised(b, x, axes, node.attr("epsilon")), scale, bias)


@decomposes("instance_norm", rounds=True)
def instance_norm(b: Builder, node: Node) -> Value:
    last = node.attr("channels_last")
    x, scale, bias = node.operands
    y = _standardised(b, x, spatial_axes(x.rank, last), node.attr("epsilon"))
    return _affine(b, y, per_channel(b, scale, x.rank, last), per_channel(b, bias, x.rank, last))


@decomposes("group_norm", rounds=True)
def group_norm(b: Builder, node: Node) -> Value:
    """Groups get an axis of their own: [N, groups, everything else]."""
    last = node.attr("channels_last")
    x, scale, bias = node.operands
    x = channels_first(b, x) if last else x
    grouped = b.reshape(x, (0, node.attr("num_groups"), -1))
    y = reshape_to(b, _standardised(b, grouped, (2,), node.attr("epsilon")), sizes(x))
    y = _affine(b, y, per_channel(b, scale, x.rank), per_channel(b, bias, x.rank))
    return back_to_last(b, y) if last else y


@decomposes("rms_norm", rounds=True)
def rms_norm(b: Builder, node: Node) -> Value:
    x, scale = (*node.operands, None)[:2]
    axes = axes_from(node.attr("axis"), x.rank)
    mean = b.reduce_mean(b.mul(x, x), axes, keepdims=True)
    y = b.mul(x, b.rsqrt(b.add(mean, scalar(b, node.attr("epsilon"), x))))
    return _affine(b, y, scale, None)


@decomposes("lrn", rounds=True)
def lrn(b: Builder, node: Node) -> Value | Declined:
    """The window sum over channels as a sum of shifted slices of the padded squares."""
    x = node.operands[0]
    axis = x.rank - 1 if node.attr("channels_last") else 1
    channels, size = x.shape[axis], node.attr("size")
    if type(channels) is not int:
        return Declined("the number of channels is not known")
    pads = [0] * (2 * x.rank)
    pads[axis], pads[x.rank + axis] = (size - 1) // 2, size // 2
    padded = b.pad(b.mul(x, x), tuple(pads), scalar(b, 0, x))
    total = None
    for shift in range(size):
        part = b.slice(padded, (shift,), (shift + channels,), (axis,))
        total = part if total is None else b.add(total, part)
    base = b.add(b.mul(total, scalar(b, node.attr("alpha") / size, x)), scalar(b, node.attr("bias"), x))
    return b.div(x, b.pow(base, scalar(b, node.attr("beta"), x)))


@decomposes("lp_normalization", rounds=True)
def lp_normalization(b: Builder, node: Node) -> Value:
    """x over its norm; where the norm is 0, so is x, and any divisor but 0 gives 0."""
    x = node.operands[0]
    axis, p = (node.attr("axis") % x.rank,), node.attr("p")
    if p == 1:
        norm = b.reduce_sum(b.abs(x), axis, keepdims=True)
    elif p == 2:
        norm = b.sqrt(b.reduce_sum(b.mul(x, x), axis, keepdims=True))
    else:
        power = b.reduce_sum(b.pow(b.abs(x), scalar(b, p, x)), axis, keepdims=True)
        norm = b.pow(power, scalar(b, 1 / p, x))
    safe = b.where(b.equal(norm, scalar(b, 0, x)), scalar(b, 1, x), norm)
    return b.div(x, safe)


@decomposes("mean_variance_normalization", rounds=True)
def mean_variance_normalization(b: Builder, node: Node) -> Value:
    x = node.operands[0]
    axes = tuple(a % x.rank for a in node.attr("axes"))
    centred = b.sub(x, b.reduce_mean(x, axes, keepdims=True))
    deviation = b.sqrt(b.reduce_mean(b.mul(centred, centred), axes, keepdims=True))
    return b.div(centred, b.add(deviation, scalar(b, 1e-9, x)))
