"""Normalisations as means, products and roots. Half floats compute in f32, as the rich ops accumulate. Knows no target."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.value import Node, Value
from .rules import (
    Declined,
    Size,
    axes_from,
    back_to_last,
    channels_first,
    decomposes,
    narrowed,
    per_channel,
    reshape_to,
    scalar,
    sizes,
    spatial_axes,
    widened,
)


def _standardised(b: Builder, x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    """(x - mean) * rsqrt(variance + epsilon) over `axes`."""
    centred = b.sub(x, b.reduce_mean(x, axes, keepdims=True))
    variance = b.reduce_mean(b.mul(centred, centred), axes, keepdims=True)
    return b.mul(centred, b.rsqrt(b.add(variance, scalar(b, epsilon, x))))


def _affine(b: Builder, y: Value, scale: Value | None, bias: Value | None) -> Value:
    y = y if scale is None else b.mul(y, scale)
    return y if bias is None else b.add(y, bias)


@decomposes("batch_norm")
def batch_norm(b: Builder, node: Node) -> Value:
    """(x - mean) * (scale * rsqrt(var + epsilon)) + bias"""
    last, rank = node.attr("channels_last"), node.operands[0].rank
    (x, *vectors), narrow = widened(b, *node.operands)
    scale, bias, mean, var = (per_channel(b, v, rank, last) for v in vectors)
    factor = b.mul(scale, b.rsqrt(b.add(var, scalar(b, node.attr("epsilon"), var))))
    return narrowed(b, b.add(b.mul(b.sub(x, mean), factor), bias), narrow)


@decomposes("layer_norm")
def layer_norm(b: Builder, node: Node) -> Value:
    (x, scale, bias), narrow = widened(b, *(*node.operands, None, None)[:3])
    axes = axes_from(node.attr("axis"), x.rank)
    return narrowed(b, _affine(b, _standardised(b, x, axes, node.attr("epsilon")), scale, bias), narrow)


@decomposes("instance_norm")
def instance_norm(b: Builder, node: Node) -> Value:
    last = node.attr("channels_last")
    (x, scale, bias), narrow = widened(b, *node.operands)
    y = _standardised(b, x, spatial_axes(x.rank, last), node.attr("epsilon"))
    return narrowed(b, _affine(b, y, per_channel(b, scale, x.rank, last), per_channel(b, bias, x.rank, last)), narrow)


@decomposes("group_norm")
def group_norm(b: Builder, node: Node) -> Value:
    """Groups get an axis of their own: [N, groups, everything else]."""
    last = node.attr("channels_last")
    (x, scale, bias), narrow = widened(b, *node.operands)
    x = channels_first(b, x) if last else x
    grouped = b.reshape(x, (0, node.attr("num_groups"), -1))
    y = reshape_to(b, _standardised(b, grouped, (2,), node.attr("epsilon")), sizes(x))
    y = _affine(b, y, per_channel(b, scale, x.rank), per_channel(b, bias, x.rank))
    return narrowed(b, back_to_last(b, y) if last else y, narrow)


@decomposes("rms_norm")
def rms_norm(b: Builder, node: Node) -> Value:
    (x, scale), narrow = widened(b, *(*node.operands, None)[:2])
    axes = axes_from(node.attr("axis"), x.rank)
    mean = b.reduce_mean(b.mul(x, x), axes, keepdims=True)
    y = b.mul(x, b.rsqrt(b.add(mean, scalar(b, node.attr("epsilon"), x))))
    return narrowed(b, _affine(b, y, scale, None), narrow)


@decomposes("lrn")
def lrn(b: Builder, node: Node) -> Value | Declined:
    """The window sum over channels as a sum of shifted slices of the padded squares."""
    (x,), narrow = widened(b, node.operands[0])
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
    return narrowed(b, b.div(x, b.pow(base, scalar(b, node.attr("beta"), x))), narrow)


@decomposes("lp_normalization")
def lp_normalization(b: Builder, node: Node) -> Value:
    """x over its norm; where the norm is 0, so is x, and any divisor but 0 gives 0."""
    (x,), narrow = widened(b, node.operands[0])
    axis, p = (node.attr("axis") % x.rank,), node.attr("p")
    if p == 1:
        norm = b.reduce_sum(b.abs(x), axis, keepdims=True)
    elif p == 2:
        norm = b.sqrt(b.reduce_sum(b.mul(x, x), axis, keepdims=True))
    else:
        power = b.reduce_sum(b.pow(b.abs(x), scalar(b, p, x)), axis, keepdims=True)
        norm = b.pow(power, scalar(b, 1 / p, x))
    safe = b.where(b.equal(norm, scalar(b, 0, x)), scalar(b, 1, x), norm)
    return narrowed(b, b.div(x, safe), narrow)


@decomposes("mean_variance_normalization")
def mean_variance_normalization(b: Builder, node: Node) -> Value:
    (x,), narrow = widened(b, node.operands[0])
    axes = tuple(a % x.rank for a in node.attr("axes"))
    centred = b.sub(x, b.reduce_mean(x, axes, keepdims=True))
    deviation = b.sqrt(b.reduce_mean(b.mul(centred, centred), axes, keepdims=True))
    return narrowed(b, b.div(centred, b.add(deviation, scalar(b, 1e-9, x))), narrow)


__all__ = ["Size"]
