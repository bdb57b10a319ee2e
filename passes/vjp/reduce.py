"""Derivatives of reductions, softmax and pools."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...ir.builder import Builder
from ...ir.errors import Unsupported
from ...ir.graph import Node, Value
from ...ir.ops.window import window
from ...ir.storage import check_limit
from .table import Handed, adjoint, like_operand, number, rank_of, source, vjp, zeros_like


def _reduced_axes(node: Node) -> tuple[int, ...]:
    x, axes = (*node.operands, None)[:2]
    rank = rank_of(x, node)  # type: ignore[arg-type]
    known = axes.ints() if axes is not None else ()
    if known is None:
        raise Unsupported(f"the derivative of {node.name} needs known axes")
    if not known:
        return () if node.attr("noop_with_empty_axes") else tuple(range(rank))
    return tuple(sorted(a % rank for a in known))


def _spread(b: Builder, node: Node, g: Value) -> Value:
    """An adjoint of the reduced value, in the shape of the operand but for axes of 1."""
    axes = _reduced_axes(node)
    return g if node.attr("keepdims") or not axes else b.unsqueeze(g, axes)


def _expanded(b: Builder, g: Value, x: Value) -> Value:
    static = x.shape is not None and all(isinstance(d, int) for d in x.shape)
    return b.expand(g, x.shape if static else b.shape(x))


@vjp("reduce_sum")
def _reduce_sum(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [_expanded(b, _spread(b, node, adjoint(g)), source(node))]


@vjp("reduce_mean")
def _reduce_mean(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [_shared(b, node, _spread(b, node, adjoint(g)))]


@vjp("global_average_pool")
def _global_average_pool(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [_shared(b, node, adjoint(g))]


def _shared(b: Builder, node: Node, g: Value) -> Value:
    """The adjoint of a mean, in equal parts."""
    x = source(node)
    total = b.div(b.size(x), b.size(node.result))
    return _expanded(b, b.div(g, b.cast(total, to=x.dtype)), x)


@vjp("reduce_sum_square")
def _reduce_sum_square(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    x = source(node)
    return [b.mul(_spread(b, node, adjoint(g)), b.mul(number(b, 2, x), x))]


@vjp("reduce_l1")
def _reduce_l1(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [b.mul(_spread(b, node, adjoint(g)), b.sign(source(node)))]


@vjp("reduce_l2")
def _reduce_l2(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """x / y, and 0 where all elements are."""
    x, norm = source(node), _spread(b, node, node.result)
    divisor = b.where(b.equal(norm, number(b, 0, x)), number(b, 1, x), norm)
    return [b.mul(x, b.div(_spread(b, node, adjoint(g)), divisor))]


@vjp("softmax")
def _softmax(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """y (g - sum(g y))"""
    y = node.result
    total = b.reduce_sum(b.mul(adjoint(g), y), (node.attr("axis"),), keepdims=True)
    return [b.mul(y, b.sub(adjoint(g), total))]


@vjp("log_softmax")
def _log_softmax(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """g - softmax(x) sum(g)"""
    total = b.reduce_sum(adjoint(g), (node.attr("axis"),), keepdims=True)
    return [b.sub(adjoint(g), b.mul(b.exp(node.result), total))]


@vjp("reduce_max", "reduce_min")
def _reduce_extreme(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """Equals share, as in torch.amax."""
    x = source(node)
    found = b.cast(b.equal(x, _spread(b, node, node.result)), to=x.dtype)
    axes = _reduced_axes(node)
    count = b.reduce_sum(found, axes, keepdims=True) if axes else found
    return [b.mul(found, b.div(_spread(b, node, adjoint(g)), count))]


@vjp("average_pool")
def _average_pool(b: Builder, node: Node, g: Handed) -> Sequence[Value | None] | None:
    """Each window's part at all of its places: the transposed convolution with ones, of one channel each. Pads, overhangs
    and their counts are ops of their own before."""
    attrs = {name: node.attr(name) for name in ("strides", "pads", "dilations", "auto_pad")}
    x, given, full = source(node), adjoint(g), window(node.attr("kernel_shape"), **attrs)
    if any((*full.begins, *full.ends)) or full.auto_pad != "explicit" or node.attr("ceil_mode"):
        return None
    dims = [*(x.shape or (None,))[1:], *(given.shape or (None,))[2:]]
    if node.attr("channels_last") or not all(isinstance(d, int) for d in dims):
        raise Unsupported("the derivative of average_pool needs channels in front and known sizes")
    channels, *sizes = map(int, x.shape[1:])  # type: ignore[index, arg-type]
    check_limit("fold_bytes", 8 * channels * math.prod(full.kernel), "bytes of a table in a derivative")
    made = zip(sizes, given.shape[2:], full.strides, full.extents, strict=True)  # type: ignore[index]
    spare = tuple(size - ((count - 1) * stride + extent) for size, count, stride, extent in made)
    ones = b.const(np.full((channels, 1, *full.kernel), 1 / math.prod(full.kernel), x.dtype.numpy))  # type: ignore[union-attr]
    dx = b.conv_transpose(
        given, ones, strides=full.strides, dilations=full.dilations, groups=channels, output_padding=spare
    )
    return [dx]


@vjp("max_pool")
def _max_pool(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """At the place of each window's maximum, the first among equals; a window of padding alone has none."""
    if node.attr("channels_last"):
        raise Unsupported("the derivative of max_pool needs channels in front")
    x = source(node)
    _, places = b.max_pool_with_indices(x, **dict(node.attrs) | {"storage_order": 0})
    parts = b.where(b.greater(node.result, number(b, -math.inf, x)), adjoint(g), number(b, 0, x))
    flat = b.reshape(zeros_like(b, x), (-1,))
    made = b.scatter_elements(flat, *(b.reshape(v, (-1,)) for v in (places, parts)), axis=0, reduction="add")
    return [like_operand(b, made, x)]
