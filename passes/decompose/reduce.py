"""Reductions and arg-reductions through sums, maxima and slices. Knows no target."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.types import I32
from ...ir.value import Node, Value
from .rules import Declined, Size, decomposes, flat_size, moved_last, scalar, shape_of, slice_axis, static, transposed


def _again(b: Builder, name: str, node: Node, x: Value) -> Value:
    """The same reduction over other data with another op."""
    return b.call(name, (x, *node.operands[1:]), dict(node.attrs)).results[0]


def reduced_axes(node: Node) -> tuple[int, ...] | None:
    """The axes that a reduction removes, normalised; None when they are not constants."""
    x = node.operands[0]
    axes = node.operand("axes")
    if x.rank is None:
        return None
    given = () if axes is None else axes.ints()
    if given is None:
        return None
    if not given:
        return () if node.attr("noop_with_empty_axes") else tuple(range(x.rank))
    return tuple(sorted(a % x.rank for a in given))


@decomposes("reduce_sum_square", rounds=True)
def sum_square(b: Builder, node: Node) -> Value:
    x = node.operands[0]
    return _again(b, "reduce_sum", node, b.mul(x, x))


@decomposes("reduce_l1", rounds=True)
def l1(b: Builder, node: Node) -> Value:
    return _again(b, "reduce_sum", node, b.abs(node.operands[0]))


@decomposes("reduce_l2", rounds=True)
def l2(b: Builder, node: Node) -> Value | Declined:
    x = node.operands[0]
    if not x.dtype.is_float:
        return Declined("the root of an integer sum is not decomposed")
    return b.sqrt(_again(b, "reduce_sum", node, b.mul(x, x)))


@decomposes("reduce_log_sum", rounds=True)
def log_sum(b: Builder, node: Node) -> Value | Declined:
    x = node.operands[0]
    if not x.dtype.is_float:
        return Declined("the logarithm of an integer sum is not decomposed")
    return b.log(_again(b, "reduce_sum", node, x))


@decomposes("reduce_log_sum_exp", rounds=True)
def log_sum_exp(b: Builder, node: Node) -> Value | Declined:
    """m + log(sum(exp(x - m))) with m the maximum (0 where that is infinite)."""
    x = node.operands[0]
    axes = reduced_axes(node)
    if not x.dtype.is_float or axes is None:
        return Declined("integers and computed axes are not decomposed")
    peak = b.reduce_max(x, axes, keepdims=True) if axes else x
    peak = b.where(b.less(b.abs(peak), scalar(b, math.inf, x)), peak, scalar(b, 0, x))
    power = b.exp(b.sub(x, peak))
    total = b.add(b.log(b.reduce_sum(power, axes, keepdims=True) if axes else power), peak)
    if axes and not node.attr("keepdims"):
        total = b.squeeze(total, axes)
    return total


@decomposes("reduce_mean", rounds=True)
def mean(b: Builder, node: Node) -> Value | Declined:
    x = node.operands[0]
    axes = reduced_axes(node)
    if axes is None or not x.dtype.is_float:
        return Declined("means of integers or over computed axes are not decomposed")
    count = flat_size(b, [Size(x, a) for a in axes])
    number = b.cast(b.reshape(count, ()), to=x.dtype)
    return b.div(_again(b, "reduce_sum", node, x), number)


@decomposes("reduce_all")
def all_(b: Builder, node: Node) -> Value:
    """The minimum of zeros and ones is above 0, as that of nothing is."""
    return b.greater(_again(b, "reduce_min", node, b.cast(node.operands[0], to=I32)), b.const(np.asarray(0, np.int32)))


@decomposes("reduce_any")
def any_(b: Builder, node: Node) -> Value:
    return b.greater(_again(b, "reduce_max", node, b.cast(node.operands[0], to=I32)), b.const(np.asarray(0, np.int32)))


@decomposes("reduce_prod", rounds=True)
def prod(b: Builder, node: Node) -> Value | Declined:
    """A chain of products, one axis after the other, for lengths that are known and small."""
    x = node.operands[0]
    axes = reduced_axes(node)
    lengths: list[Any] = [x.shape[a] for a in axes or ()]
    if axes is None or not static(*lengths) or sum(lengths) > 256:
        return Declined("products over unknown or more than 256 elements are not unrolled")
    y = x
    for axis, length in zip(axes, lengths, strict=True):
        if length == 0:
            return Declined("an empty product is not decomposed")
        parts = [slice_axis(b, y, axis, i, i + 1) for i in range(length)]
        y = parts[0]
        for part in parts[1:]:
            y = b.mul(y, part)
    if axes and not node.attr("keepdims"):
        y = b.squeeze(y, axes)
    return y


@decomposes("arg_max", "arg_min")
def arg(b: Builder, node: Node) -> Value | Declined:
    """keepdims: unsqueeze after; the last of equals: count from the end of the reversed axis."""
    x = node.operands[0]
    axis = node.attr("axis") % max(x.rank, 1)
    if node.attr("select_last_index"):
        found = b.call(
            node.name, (b.reverse(x, axes=(axis,)),), {"axis": axis, "keepdims": node.attr("keepdims")}
        ).results[0]
        last = shape_of(b, [Size(x, axis)])
        length = b.const(np.asarray(last[0])) if isinstance(last, tuple) else b.reshape(last, ())
        return b.sub(b.sub(length, b.const(np.asarray(1))), found)
    if node.attr("keepdims"):
        found = b.call(node.name, (x,), {"axis": axis, "keepdims": False}).results[0]
        return b.unsqueeze(found, (axis,))
    return Declined("")


@decomposes("topk")
def topk(b: Builder, node: Node) -> tuple[Value | None, ...] | Declined:
    """The largest of the last axis: other axes are transposed, the smallest are the largest of what is mirrored."""
    x, k = node.operands
    axis = node.attr("axis") % x.rank
    if axis != x.rank - 1:
        perm, back = moved_last(x.rank, axis)
        values, indices = b.topk(
            transposed(b, x, perm), k, axis=-1, largest=node.attr("largest"), sorted=node.attr("sorted")
        )
        return transposed(b, values, back), transposed(b, indices, back)
    if node.attr("largest"):
        return Declined("")
    mirror = b.neg if x.dtype.is_float else b.bitwise_not  # of integers, the negative of the least would overflow
    values, indices = b.topk(mirror(x), k, axis=-1, largest=True, sorted=node.attr("sorted"))
    return mirror(values), indices


@decomposes("cumsum", "cumprod", rounds=True)
def cumulate(b: Builder, node: Node) -> Value | Declined:
    """reverse: between two reversals; exclusive: shifted by one neutral element."""
    x, axis_value = node.operands
    axes = axis_value.ints()
    if axes is None or x.rank is None or x.rank == 0:
        return Declined("the axis is computed")
    axis = axes[0] % x.rank
    plain = {"exclusive": False, "reverse": False}
    if node.attr("reverse"):
        turned = b.call(
            node.name, (b.reverse(x, axes=(axis,)), axis_value), plain | {"exclusive": node.attr("exclusive")}
        )
        return b.reverse(turned.results[0], axes=(axis,))
    if node.attr("exclusive"):
        neutral = scalar(b, 0 if node.name == "cumsum" else 1, x)
        pads = [0] * (2 * x.rank)
        pads[axis] = 1
        head = slice_axis(b, b.pad(x, tuple(pads), neutral), axis, 0, -1)
        return b.call(node.name, (head, axis_value), plain).results[0]
    length = x.shape[axis]
    if node.name == "cumsum" and x.dtype.is_float and type(length) is int and length <= 4096:
        perm, back = moved_last(x.rank, axis)
        triangle = b.const(np.triu(np.ones((length, length))).astype(x.dtype.numpy))
        return transposed(b, b.matmul(transposed(b, x, perm), triangle), back)
    return Declined("")


@decomposes("size")
def size(b: Builder, node: Node) -> Value:
    return b.reduce_prod(b.shape(node.operands[0]), (0,), keepdims=False)
