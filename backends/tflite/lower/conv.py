"""Convolutions, plain and transposed, as CONV_2D, DEPTHWISE_CONV_2D, CONV_3D and TRANSPOSE_CONV.

One spatial dim runs as an image of height 1. Explicit pads become SAME where they are what SAME computes for every size
that the input can have, else a PAD in front. Weights are turned to TFLite's orders at compile time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.builder import Builder
from ....ir.dims import Dim
from ....ir.ops.window import Window, split_padding, transposed, window
from ....ir.value import Node, Value
from ....passes.decompose.rules import Declined
from . import lowers
from .common import derived, dims_of, knows_dims, numbers, padded, reshaped, static, turned, zeros


def placed(w: Window, sizes: tuple[Dim, ...]) -> tuple[str, tuple[int, ...], tuple[int, ...]] | None:
    """(padding, begins, ends): SAME or VALID, and what must be padded before. None: pads depend on unknown sizes."""
    if w.auto_pad == "explicit" and not any(w.begins) and not any(w.ends):
        return "VALID", (0,) * len(sizes), (0,) * len(sizes)
    same = _same_pads(w, sizes)
    if w.auto_pad == "same_upper" or (w.auto_pad == "explicit" and same == (w.begins, w.ends)):
        return "SAME", (0,) * len(sizes), (0,) * len(sizes)
    if w.auto_pad == "explicit":
        return "VALID", w.begins, w.ends
    lower = _same_pads(w, sizes, upper=False)
    return None if lower is None else ("VALID", *lower)


def _same_pads(w: Window, sizes: tuple[Dim, ...], upper: bool = True) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The pads of SAME; for unknown sizes only where they don't depend on them (stride 1)."""
    pairs = []
    for axis, size in enumerate(sizes):
        if type(size) is int:
            total = max((-(-size // w.strides[axis]) - 1) * w.strides[axis] + w.extents[axis] - size, 0)
        elif w.strides[axis] == 1:
            total = w.extents[axis] - 1
        else:
            return None
        pairs.append(split_padding(total, upper))
    begins, ends = zip(*pairs, strict=True)
    return begins, ends


def window_of(node: Node) -> Window:
    """The window of a convolution whose filter has a known size."""
    names = ("strides", "pads", "dilations", "auto_pad")
    return window(numbers(node.operands[1].shape[2:]), *(node.attr(name) for name in names))


def as_image(b: Builder, x: Value) -> Value:
    """[N, L, C] as [N, 1, L, C]."""
    return reshaped(b, x, (x.shape[0], 1, *x.shape[1:]))


@lowers("conv")
def conv(b: Builder, node: Node) -> Value | Declined:
    x, w, bias = (*node.operands, None)[:3]
    if x.rank is None or w.shape is None or not static(w.shape):
        return Declined("the rank or the filter's size is not known")
    if not node.attr("channels_last"):
        return Declined("layout assignment has not run")
    if x.rank == 3:
        return _one_dim(b, node, x, w, bias)
    spatial = tuple(x.shape[1:-1])
    shape = window_of(node)
    where = placed(shape, spatial)
    if where is None:
        return Declined("same_lower padding of sizes that are not known")
    padding, begins, ends = where
    x = padded(b, x, begins, ends)
    bias = zeros(b, w.shape[0]) if bias is None else bias
    return _build(b, x, w, bias, shape, padding, node.attr("groups"))


def _one_dim(b: Builder, node: Node, x: Value, w: Value, bias: Value | None) -> Value:
    wide = _flat_filter(b, w)
    pads = node.attr("pads")
    y = b.conv(
        as_image(b, x),
        wide,
        bias,
        strides=(1, *(node.attr("strides") or (1,))),
        dilations=(1, *(node.attr("dilations") or (1,))),
        pads=(0, pads[0], 0, pads[1]) if pads else (),
        groups=node.attr("groups"),
        auto_pad=node.attr("auto_pad"),
        channels_last=True,
    )
    return reshaped(b, y, node.result.shape)


def _flat_filter(b: Builder, w: Value) -> Value:
    """A filter [O, I, K] as [O, I, 1, K]."""
    outs, ins, size = numbers(w.shape)
    shape = (outs, ins, 1, size)
    if not w.is_const:
        return b.reshape(w, shape)
    return b.const(w.array().reshape(shape), key=w.weight.key, role=w.weight.role, origin=f"reshape {list(shape)}")


def _build(b: Builder, x: Value, w: Value, bias: Value, shape: Window, padding: str, groups: int) -> Value | Declined:
    channels = x.shape[-1]
    if len(shape.kernel) == 3:
        if groups != 1:
            return Declined("grouped convolution in three dims")
        volume: dict[str, Any] = {f"stride_{a}": s for a, s in zip("dhw", shape.strides, strict=True)}
        volume |= {f"dilation_{a}_factor": d for a, d in zip("dhw", shape.dilations, strict=True)}
        return b.call("tfl.conv_3d", (x, turned(b, w, (2, 3, 4, 1, 0)), bias), {"padding": padding, **volume}).result
    attrs: dict[str, Any] = {"padding": padding, "stride_h": shape.strides[0], "stride_w": shape.strides[1]}
    attrs |= {"dilation_h_factor": shape.dilations[0], "dilation_w_factor": shape.dilations[1]}
    if groups > 1 and w.shape[1] == 1 and type(channels) is int and w.shape[0] % channels == 0:
        attrs["depth_multiplier"] = w.shape[0] // channels
        return b.call("tfl.depthwise_conv_2d", (x, turned(b, w, (1, 2, 3, 0)), bias), attrs).result
    return b.call("tfl.conv_2d", (x, turned(b, w, (0, 2, 3, 1)), bias), attrs).result


# ------------------------------------------------------------------------------------------------------- transposed


@lowers("conv_transpose")
def conv_transpose(b: Builder, node: Node) -> Value | Declined:
    x, w, bias = (*node.operands, None)[:3]
    if x.rank is None or w.shape is None or not static(w.shape):
        return Declined(f"transposed convolution of {x.type} with {w.type}")
    if not node.attr("channels_last"):
        return Declined("layout assignment has not run")
    if node.attr("groups") > 1:
        return _transposed_groups(b, node, x, w, bias)
    if x.rank == 3:
        return _transposed_one_dim(b, node, x, w, bias)
    if x.rank == 5:
        return _transposed_volume(b, node, x, w, bias)
    return _transposed(b, node, x, w, zeros(b, w.shape[1]) if bias is None else bias)


def _transposed(b: Builder, node: Node, x: Value, w: Value, bias: Value) -> Value | Declined:
    """VALID makes (size - 1) * stride + extent; the pads are sliced off it."""
    shape = window_of(node)
    made, sizes = transposed(shape, tuple(x.shape[1:3]), node.attr("output_padding"), node.attr("output_shape"))
    natural = [(s - 1) * st + e for s, st, e in zip(x.shape[1:3], shape.strides, shape.extents, strict=True)]
    lacks = [begin + size - n for n, begin, size in zip(natural, made.begins, sizes, strict=True)]
    if not static(lacks) or not static(made.begins):
        return Declined("pads that depend on sizes that are not known")
    full = [n + max(lack, 0) for n, lack in zip(natural, lacks, strict=True)]
    if any(lack >= s for lack, s in zip(lacks, shape.strides, strict=True)):
        return Declined("an output that reaches beyond one stride")
    if any(d != 1 for d in shape.dilations):
        if not w.is_const:
            return Declined("a computed filter with dilation")
        w = _dilated(b, w, shape.dilations)
    result = (x.shape[0], *full, w.shape[1])
    if not knows_dims(result, x):
        return Declined("an output size that cannot be computed")
    output_shape = b.const(np.asarray(result, np.int32)) if static(result) else dims_of(b, result, x)
    attrs = {"stride_h": shape.strides[0], "stride_w": shape.strides[1]}
    y = b.call("tfl.transpose_conv", (output_shape, turned(b, w, (1, 2, 3, 0)), x, bias), attrs).result
    begins = [-begin for begin in made.begins]
    return padded(b, y, begins, [min(lack, 0) for lack in lacks])


def _dilated(b: Builder, w: Value, dilations: tuple[int, ...]) -> Value:
    """The filter with zeros between its taps."""
    outs, ins, *kernel = numbers(w.shape)
    sizes = ((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    filled = np.zeros((outs, ins, *sizes), np.float32)
    filled[:, :, :: dilations[0], :: dilations[1]] = w.array()
    return b.const(filled, key=w.weight.key, role=w.weight.role, origin=f"dilate {list(dilations)}")


def _transposed_groups(b: Builder, node: Node, x: Value, w: Value, bias: Value | None) -> Value:
    """One transposed convolution per group, joined."""
    groups, attrs = node.attr("groups"), {**node.attrs, "groups": 1}
    ins, outs_each, *_ = numbers(w.shape)
    step = ins // groups
    parts = []
    for g in range(groups):
        piece = b.slice(x, (g * step,), ((g + 1) * step,), (x.rank - 1,))
        rows = _rows(b, w, g * step, (g + 1) * step)
        outs = None if bias is None else _rows(b, bias, g * outs_each, (g + 1) * outs_each)
        parts.append(b.conv_transpose(piece, rows, outs, **attrs))
    return b.concat(*parts, axis=x.rank - 1)


def _transposed_volume(b: Builder, node: Node, x: Value, w: Value, bias: Value | None) -> Value | Declined:
    """Zeros between the input's elements, then a plain convolution with the filter turned round."""
    if not static(x.shape[1:4]) or not w.is_const:
        return Declined("a transposed convolution over a volume of unknown size")
    shape = window_of(node)
    made, sizes = transposed(shape, tuple(x.shape[1:4]), node.attr("output_padding"), node.attr("output_shape"))
    for axis, stride in enumerate(shape.strides):
        x = _stretched(b, x, axis + 1, stride)
    begins = [e - 1 - begin for e, begin in zip(shape.extents, made.begins, strict=True)]
    ends = [s + e - 1 - p - n for s, e, p, n in zip(sizes, shape.extents, begins, x.shape[1:4], strict=True)]
    turned_round = np.flip(w.array(), (2, 3, 4)).swapaxes(0, 1)
    filters = derived(b, w, turned_round, "turned round")
    return b.conv(padded(b, x, begins, ends), filters, bias, dilations=shape.dilations, channels_last=True)


def _stretched(b: Builder, x: Value, axis: int, stride: int) -> Value:
    """stride - 1 zeros between the elements along one axis."""
    if stride == 1:
        return x
    size, *inner = numbers(x.shape[axis:])
    rest = int(np.prod(inner))
    rows = b.reshape(x, (-1, size, 1, rest))
    wide = b.pad(rows, (0, 0, 0, 0, 0, 0, stride - 1, 0))
    lead = [d if type(d) is int else -1 for d in x.shape[:axis]]
    joined = b.reshape(wide, (*lead, size * stride, *inner))
    return b.slice(joined, (0,), (size * stride - stride + 1,), (axis,))


def _rows(b: Builder, value: Value, start: int, stop: int) -> Value:
    if not value.is_const:
        return b.slice(value, (start,), (stop,), (0,))
    return b.const(
        value.array()[start:stop], key=value.weight.key, role=value.weight.role, origin=f"rows {start}:{stop}"
    )


def _transposed_one_dim(b: Builder, node: Node, x: Value, w: Value, bias: Value | None) -> Value:
    def wide(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return (default[0], *node.attr(name)) if node.attr(name) else ()

    pads = node.attr("pads")
    y = b.conv_transpose(
        as_image(b, x),
        _flat_filter(b, w),
        bias,
        strides=wide("strides", (1,)),
        dilations=wide("dilations", (1,)),
        output_padding=wide("output_padding", (0,)),
        output_shape=wide("output_shape", (1,)),
        pads=(0, pads[0], 0, pads[1]) if pads else (),
        groups=node.attr("groups"),
        auto_pad=node.attr("auto_pad"),
        channels_last=True,
    )
    return reshaped(b, y, node.result.shape)
