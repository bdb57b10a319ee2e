"""Pools with explicit padding, global and adaptive pools, and convolutions by other convolutions. Knows no target."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.ops.window import Window, output_sizes, resolve_pads, window
from ...ir.value import Node, Value
from .rules import (
    Declined,
    along_axis,
    decomposes,
    flat_size,
    room,
    scalar,
    shape_of,
    sizes,
    slice_axis,
    spatial_axes,
    static,
)


def geometry(node: Node) -> tuple[Window, tuple] | None:
    """The window of a pool with explicit pads, and the spatial sizes; None when auto padding meets unknown sizes."""
    x = node.operands[0]
    spatial = tuple(x.shape[a] for a in spatial_axes(x.rank, node.attr("channels_last")))
    made = window(
        node.attr("kernel_shape"),
        node.attr("strides"),
        node.attr("pads"),
        node.attr("dilations"),
        node.attr("auto_pad"),
    )
    if made.auto_pad != "explicit" and not static(*spatial):
        return None
    return resolve_pads(made, spatial), spatial


def overhang(made: Window, spatial: tuple, ceil_mode: bool) -> tuple[int, ...]:
    """How far the last window of each axis reaches beyond the padded input (only with ceil_mode)."""
    if not ceil_mode:
        return (0,) * len(spatial)
    counts = output_sizes(made, spatial, True)
    return tuple(
        max(0, (count - 1) * stride + extent - (size + begin + end))
        for count, stride, extent, size, begin, end in zip(
            counts, made.strides, made.extents, spatial, made.begins, made.ends, strict=True
        )
    )


def padded(
    b: Builder, x: Value, begins: tuple[int, ...], ends: tuple[int, ...], value: float, channels_last: bool
) -> Value:
    """`x` with constant borders on its spatial axes."""
    if not any(begins) and not any(ends):
        return x
    pads = [0] * (2 * x.rank)
    for axis, begin, end in zip(spatial_axes(x.rank, channels_last), begins, ends, strict=True):
        pads[axis], pads[x.rank + axis] = begin, end
    return b.pad(x, tuple(pads), scalar(b, value, x))


def lowest(dtype) -> float:
    """What never wins a maximum."""
    return -math.inf if dtype.is_float else int(np.iinfo(dtype.numpy).min)


def _plain_attrs(node: Node, made: Window) -> dict:
    return {
        "kernel_shape": made.kernel,
        "strides": made.strides,
        "dilations": made.dilations,
        "channels_last": node.attr("channels_last"),
    }


@decomposes("max_pool")
def max_pool(b: Builder, node: Node) -> Value | Declined:
    """Padding, automatic padding and ceil_mode become a border of the lowest value around a plain pool."""
    x, found = node.operands[0], geometry(node)
    if found is None or (node.attr("ceil_mode") and not static(*found[1])):
        return Declined("padding depends on sizes that are not known")
    made, spatial = found
    over = overhang(made, spatial, node.attr("ceil_mode"))
    if (
        not any((*made.begins, *made.ends, *over))
        and node.attr("auto_pad") == "explicit"
        and not node.attr("ceil_mode")
    ):
        return Declined("")
    ends = tuple(e + o for e, o in zip(made.ends, over, strict=True))
    bordered = padded(b, x, made.begins, ends, lowest(x.dtype), node.attr("channels_last"))
    return b.max_pool(bordered, **_plain_attrs(node, made))


@decomposes("max_pool_with_indices")
def max_pool_with_indices(b: Builder, node: Node) -> tuple[Value | None, ...] | Declined:
    """Without a use of the indices it is max_pool."""
    if node.results[1].n_uses:
        return Declined("the indices of the maxima are used")
    return b.max_pool(*node.operands, **dict(node.attrs)), None


def _counts(made: Window, spatial: tuple[int, ...], ends: tuple[int, ...], include_pad: bool) -> np.ndarray:
    """By how many elements each window of the padded input is to be divided: [*output sizes]."""
    lines = []
    room(*(begin + size + end for begin, size, end in zip(made.begins, spatial, ends, strict=True)))
    for axis, size in enumerate(spatial):
        begin, end = made.begins[axis], made.ends[axis]
        valid = np.zeros(begin + size + ends[axis])
        if include_pad:
            valid[: begin + size + end] = 1
        else:
            valid[begin : begin + size] = 1
        taps = np.arange(made.kernel[axis]) * made.dilations[axis]
        starts = np.arange(0, len(valid) - made.extents[axis] + 1, made.strides[axis])
        lines.append(valid[starts[:, None] + taps].sum(axis=1))
    total = np.ones(())
    for line in lines:
        total = total[..., None] * line
    return total


@decomposes("average_pool", rounds=True)
def average_pool(b: Builder, node: Node) -> Value | Declined:
    """A border of zeros, a plain pool, and each window's own count where that differs from the kernel's."""
    x = node.operands[0]
    found = geometry(node)
    if found is None:
        return Declined("padding depends on sizes that are not known")
    made, spatial = found
    last, include = node.attr("channels_last"), node.attr("count_include_pad")
    if not any((*made.begins, *made.ends)) and node.attr("auto_pad") == "explicit" and not node.attr("ceil_mode"):
        return Declined("") if max(made.dilations) == 1 else _dilated_mean(b, node, x, made)
    even = include and not node.attr("ceil_mode")
    if not even and not static(*spatial):
        return (
            Declined("the divisors depend on sizes that are not known") if include else _mean_of_present(b, node, made)
        )
    over = overhang(made, spatial, node.attr("ceil_mode"))
    ends = tuple(e + o for e, o in zip(made.ends, over, strict=True))
    y = b.average_pool(padded(b, x, made.begins, ends, 0, last), **_plain_attrs(node, made))
    if not even:
        ratio = math.prod(made.kernel) / _counts(made, spatial, ends, include)
        if not (ratio == 1).all():
            shaped = ratio[..., None] if last else ratio
            y = b.mul(y, b.const(shaped.astype(x.dtype.numpy)))
    return y


def _mean_of_present(b: Builder, node: Node, made: Window) -> Value | Declined:
    """Sizes that are not known: the pooled image over the pooled indicator of what is no padding."""
    x, last = node.operands[0], node.attr("channels_last")
    if node.attr("ceil_mode"):
        return Declined("the last windows depend on sizes that are not known")
    spatial = sizes(x, spatial_axes(x.rank, last))
    ones = b.constant_of_shape(shape_of(b, [1, *spatial, 1] if last else [1, 1, *spatial]), value=1.0, to=x.dtype)
    pools = [
        b.average_pool(padded(b, v, made.begins, made.ends, 0, last), **_plain_attrs(node, made)) for v in (x, ones)
    ]
    return b.div(*pools)


def _dilated_mean(b: Builder, node: Node, x: Value, made: Window) -> Value | Declined:
    """A depthwise convolution with equal weights."""
    channels = x.shape[-1 if node.attr("channels_last") else 1]
    if type(channels) is not int:
        return Declined("the number of channels is not known")
    count = math.prod(made.kernel)
    weight = b.const(np.full((channels, 1, *made.kernel), 1 / count, x.dtype.numpy))
    last = node.attr("channels_last")
    return b.conv(x, weight, strides=made.strides, dilations=made.dilations, groups=channels, channels_last=last)


@decomposes("lp_pool", rounds=True)
def lp_pool(b: Builder, node: Node) -> Value | Declined:
    """(sum of |x|^p)^(1/p): the mean over each window times the window's size, padding counted as the zeros it is."""
    x = node.operands[0]
    found = geometry(node)
    if found is None or (node.attr("ceil_mode") and not static(*found[1])):
        return Declined("padding depends on sizes that are not known")
    made, spatial = found
    over = overhang(made, spatial, node.attr("ceil_mode"))
    ends = tuple(e + o for e, o in zip(made.ends, over, strict=True))
    power = padded(b, _power(b, x, node.attr("p")), made.begins, ends, 0, node.attr("channels_last"))
    total = b.mul(b.average_pool(power, **_plain_attrs(node, made)), scalar(b, math.prod(made.kernel), x))
    return _root(b, total, node.attr("p"))


def _power(b: Builder, x: Value, p: int) -> Value:
    """|x|^p"""
    if p == 1:
        return b.abs(x)
    return b.mul(x, x) if p == 2 else b.pow(b.abs(x), scalar(b, p, x))


def _root(b: Builder, x: Value, p: int) -> Value:
    if p == 1:
        return x
    return b.sqrt(x) if p == 2 else b.pow(x, scalar(b, 1 / p, x))


@decomposes("global_average_pool")
def global_average_pool(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.reduce_mean(x, spatial_axes(x.rank, node.attr("channels_last")), keepdims=True)


@decomposes("global_max_pool")
def global_max_pool(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    return b.reduce_max(x, spatial_axes(x.rank, node.attr("channels_last")), keepdims=True)


@decomposes("global_lp_pool", rounds=True)
def global_lp_pool(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    p = node.attr("p")
    total = b.reduce_sum(_power(b, x, p), spatial_axes(x.rank, node.attr("channels_last")), keepdims=True)
    return _root(b, total, p)


def _even_window(node: Node) -> dict | None:
    """The attributes of a plain pool that is equal to an adaptive one: every output divides its input size."""
    x, wanted = node.operands[0], node.attr("output_size")
    spatial = [x.shape[a] for a in spatial_axes(x.rank, node.attr("channels_last"))]
    if not static(*spatial) or any(size % out for size, out in zip(spatial, wanted, strict=True)):
        return None
    kernel = tuple(size // out for size, out in zip(spatial, wanted, strict=True))
    return {"kernel_shape": kernel, "strides": kernel, "channels_last": node.attr("channels_last")}


def _bounds(size: int, out: int) -> list[tuple[int, int]]:
    """Start and end of each adaptive window."""
    return [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


@decomposes("adaptive_average_pool", rounds=True)
def adaptive_average_pool(b: Builder, node: Node) -> Value | Declined:
    """A plain pool where sizes divide; else one averaging matrix per axis. To one element: a mean, of any size."""
    x, wanted = node.operands[0], node.attr("output_size")
    last = node.attr("channels_last")
    if max(wanted) == 1:
        return b.reduce_mean(x, spatial_axes(x.rank, last), keepdims=True)
    even = _even_window(node)
    if even is not None:
        return b.average_pool(x, **even)
    y = x
    for axis, out in zip(spatial_axes(x.rank, last), wanted, strict=True):
        size = x.shape[axis]
        if type(size) is not int:
            return Declined("adaptive windows of unknown sizes")
        room(out, size)
        matrix = np.zeros((out, size))
        for row, (start, end) in enumerate(_bounds(size, out)):
            matrix[row, start:end] = 1 / (end - start)
        y = along_axis(b, y, axis, matrix)
    return y


@decomposes("adaptive_max_pool")
def adaptive_max_pool(b: Builder, node: Node) -> Value | Declined:
    x, wanted = node.operands[0], node.attr("output_size")
    last = node.attr("channels_last")
    if max(wanted) == 1:
        return b.reduce_max(x, spatial_axes(x.rank, last), keepdims=True)
    even = _even_window(node)
    if even is not None:
        return b.max_pool(x, **even)
    y = x
    for axis, out in zip(spatial_axes(x.rank, last), wanted, strict=True):
        size = x.shape[axis]
        if type(size) is not int:
            return Declined("adaptive windows of unknown sizes")
        parts = [b.reduce_max(slice_axis(b, y, axis, *span), (axis,), keepdims=True) for span in _bounds(size, out)]
        y = b.concat(*parts, axis=axis) if len(parts) > 1 else parts[0]
    return y


@decomposes("max_unpool")
def max_unpool(b: Builder, node: Node) -> Value | Declined:
    """Scattered into flat zeros of the size that the window implies; a larger output holds that at its origin."""
    x, indices, target = (*node.operands, None)[:3]
    made = window(node.attr("kernel_shape"), node.attr("strides"), node.attr("pads"))
    if not static(*x.shape[2:]) or (target is not None and target.ints() is None):
        return Declined("the output size is not known")
    implied = tuple(
        (size - 1) * made.strides[i] + made.kernel[i] - made.begins[i] - made.ends[i]
        for i, size in enumerate(x.shape[2:])
    )
    parts = [*sizes(x, (0, 1)), *implied]
    zeros = b.constant_of_shape(flat_size(b, parts), value=0.0, to=x.dtype)
    flat = b.scatter_elements(zeros, b.reshape(indices, (-1,)), b.reshape(x, (-1,)), axis=0)
    y = b.reshape(flat, shape_of(b, parts))
    if target is None:
        return y
    more = tuple(want - have for want, have in zip(target.ints()[2:], implied, strict=True))
    return padded(b, y, (0,) * len(more), more, 0, False)


# ------------------------------------------------------------------------------------------------- convolutions


@decomposes("conv")
def conv(b: Builder, node: Node) -> Value | Declined:
    """A bias is added after; explicit pads for automatic ones."""
    x, w, bias = (*node.operands, None)[:3]
    attrs = dict(node.attrs)
    if attrs["auto_pad"] != "explicit":
        made = conv_window(node)
        if made is None:
            return Declined("automatic padding of sizes that are not known")
        attrs |= {"auto_pad": "explicit", "pads": made.begins + made.ends}
        return b.conv(x, w, bias, **attrs)
    if bias is not None:
        column = bias if attrs["channels_last"] else b.reshape(bias, (-1, *[1] * (x.rank - 2)))
        return b.add(b.conv(x, w, **attrs), column)
    return Declined("")


def conv_window(node: Node) -> Window | None:
    """The window of a conv with explicit pads; None when automatic padding meets unknown sizes."""
    x, w = node.operands[:2]
    kernel: Any = w.shape[2:]
    spatial = tuple(x.shape[a] for a in spatial_axes(x.rank, node.attr("channels_last")))
    if not static(*kernel):
        return None
    made = window(tuple(kernel), node.attr("strides"), node.attr("pads"), node.attr("dilations"), node.attr("auto_pad"))
    if made.auto_pad != "explicit" and not static(*spatial):
        return None
    return resolve_pads(made, spatial)


@decomposes("conv_transpose")
def conv_transpose(b: Builder, node: Node) -> Value | Declined:
    x, w, bias = (*node.operands, None)[:3]
    if bias is None:
        return Declined("")
    column = bias if node.attr("channels_last") else b.reshape(bias, (-1, *[1] * (x.rank - 2)))
    return b.add(b.conv_transpose(x, w, **dict(node.attrs)), column)
