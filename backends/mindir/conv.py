"""Convolutions: two dims directly, one dim as a row, three dims without groups. Must not import MindSpore."""

from __future__ import annotations

from typing import Any

from ...ir.builder import Builder
from ...ir.ops.window import transposed as transposed_window
from ...ir.ops.window import window
from ...ir.value import Node, Value
from ...passes.decompose.pool import conv_window
from ...passes.decompose.rules import Declined, Outcome, Size, shape_of, static
from .registry import FLOAT_2, NUMBERS, Call, Shape, emits, lowers


def paired(pads: tuple[int, ...]) -> tuple[int, ...]:
    """All begins, then all ends, as begin and end of each axis in turn."""
    half = len(pads) // 2
    return tuple(p for pair in zip(pads[:half], pads[half:], strict=True) for p in pair)


@emits("ms.bias_add", NUMBERS)
def bias_add(node: Node) -> Call:
    return Call("BiasAdd", (*node.operands, 0))


def _plain(node: Node) -> str | None:
    x, w, bias = (*node.operands, None)[:3]
    if bias is not None:
        return "Conv has no bias"
    if node.attr("auto_pad") != "explicit":
        return "padding is explicit"
    if x.rank not in (4, 5):
        return "Conv has two or three spatial dims"
    if x.rank == 5 and node.attr("groups") != 1:
        return "Conv3D has no groups"
    if not static(*w.shape):
        return "the size of the kernel is not known"
    return None


@emits("conv", FLOAT_2, check=_plain)
def conv(node: Node) -> Call:
    w = node.operands[1]
    made, groups = conv_window(node), node.attr("groups")
    pads = paired(made.begins + made.ends)
    common = {"out_channel": w.shape[0], "kernel_size": tuple(w.shape[2:]), "mode": 1, "pad_mode": "pad"}
    common |= {"pad": pads, "pad_list": pads, "group": groups, "groups": groups}
    if node.operands[0].rank == 4:
        attrs: dict[str, Any] = {"stride": (1, 1, *made.strides), "dilation": (1, 1, *made.dilations), "format": "NCHW"}
        return Call("Conv2D", node.operands, common | attrs)
    attrs = {"strides": (1, 1, *made.strides), "dilations": (1, 1, *made.dilations), "offset_x": 0, "format": "NCDHW"}
    return Call("Conv3D", node.operands, common | attrs)


@lowers("conv")
def lower_conv(b: Builder, node: Node) -> Outcome:
    """A bias as ms.bias_add, one dim as a row of two, groups of three dims one by one."""
    x, w, bias = (*node.operands, None)[:3]
    attrs = dict(node.attrs)
    if x.dtype not in FLOAT_2:
        return Declined("")
    if bias is not None:
        return b.call("ms.bias_add", (b.conv(x, w, **attrs), bias)).results[0] if x.rank == 4 else Declined("")
    if x.rank == 3:
        return _as_row(b, x, w, conv_window(node), attrs)
    if x.rank == 5 and attrs["groups"] != 1:
        return _group_by_group(b, x, w, attrs)
    return Declined("")


def _as_row(b: Builder, x: Value, w: Value, made, attrs: dict) -> Outcome:
    if made is None:
        return Declined("automatic padding of sizes that are not known")
    flat = {
        "strides": (1, *made.strides),
        "dilations": (1, *made.dilations),
        "pads": (0, made.begins[0], 0, made.ends[0]),
        "groups": attrs["groups"],
    }
    y = b.conv(b.unsqueeze(x, (2,)), widen_kernel(b, w), **flat)
    return b.squeeze(y, (2,))


def widen_kernel(b: Builder, w: Value) -> Value:
    """[O, I, k] as [O, I, 1, k]; a constant stays one, under its name."""
    if not w.is_const:
        return b.unsqueeze(w, (2,))
    weight = w.weight
    return b.const(w.array()[:, :, None], key=weight.key, role=weight.role, origin=weight.origin or "reshaped")


def _group_by_group(b: Builder, x: Value, w: Value, attrs: dict) -> Outcome:
    groups = attrs.pop("groups")
    if type(x.shape[1]) is not int:
        return Declined("the number of channels is not known")
    images = b.split(x, axis=1, num_outputs=groups)
    kernels = b.split(w, axis=0, num_outputs=groups)
    return b.concat(*(b.conv(i, k, groups=1, **attrs) for i, k in zip(images, kernels, strict=True)), axis=1)


# ---------------------------------------------------------------------------------------------- transposed


@emits("ms.conv_transpose", FLOAT_2)
def conv_transpose(node: Node) -> Call:
    x, w, shape = node.operands
    groups, pads = node.attr("groups"), paired(node.attr("pads"))
    attrs = {
        "out_channel": w.shape[0],
        "kernel_size": tuple(w.shape[2:]),
        "mode": 1,
        "pad_mode": "PAD",
        "pad": pads,
        "pad_list": pads,
        "stride": (1, 1, *node.attr("strides")),
        "dilation": (1, 1, *node.attr("dilations")),
        "group": groups,
        "groups": groups,
        "format": "NCHW",
    }
    return Call("Conv2DTranspose", (x, w, Shape(shape)), attrs)


def _plain_volume(node: Node) -> str | None:
    x, w, bias = (*node.operands, None)[:3]
    if x.rank != 5 or bias is not None or node.attr("groups") != 1 or node.attr("auto_pad") != "explicit":
        return "Conv3DTranspose takes three spatial dims, no bias and no groups"
    if not static(*x.shape, *w.shape) or node.attr("output_shape"):
        return "Conv3DTranspose takes sizes that are known"
    return None


@emits("conv_transpose", FLOAT_2, check=_plain_volume)
def conv_transpose_3d(node: Node) -> Call:
    x, w = node.operands
    kernel: Any = w.shape[2:]
    made = window(tuple(kernel), node.attr("strides"), node.attr("pads"), node.attr("dilations"))
    pads, rest = paired(made.begins + made.ends), node.attr("output_padding") or (0, 0, 0)
    attrs = {
        "in_channel": w.shape[0],
        "out_channel": w.shape[1],
        "kernel_size": tuple(w.shape[2:]),
        "mode": 1,
        "pad_mode": "pad",
        "pad": pads,
        "pad_list": pads,
        "strides": (1, 1, *made.strides),
        "dilations": (1, 1, *made.dilations),
        "group": 1,
        "groups": 1,
        "output_padding": (0, 0, *rest),
        "input_size": tuple(node.result.shape),
        "format": "NCDHW",
    }
    return Call("Conv3DTranspose", (x, w), attrs)


@lowers("conv_transpose")
def lower_conv_transpose(b: Builder, node: Node) -> Outcome:
    """Two dims with explicit pads and the output shape as a tuple; one dim as a row; three dims group by group."""
    x, w, bias = (*node.operands, None)[:3]
    if x.dtype not in FLOAT_2 or not static(*w.shape):
        return Declined("")
    if bias is not None:
        y = b.conv_transpose(x, w, **dict(node.attrs)) if x.rank == 4 else None
        return Declined("") if y is None else b.call("ms.bias_add", (y, bias)).results[0]
    kernel: Any = w.shape[2:]
    made = window(tuple(kernel), node.attr("strides"), node.attr("pads"), node.attr("dilations"), node.attr("auto_pad"))
    spatial = tuple(x.shape[2:])
    explicit, out = transposed_window(made, spatial, node.attr("output_padding"), node.attr("output_shape"))
    if not static(*explicit.begins, *explicit.ends):
        return Declined("padding depends on sizes that are not known")
    if x.rank == 3:
        return _row_transposed(b, node, x, w, explicit)
    if x.rank != 4:
        return _volume_transposed(b, node, x, w, explicit, out)
    if not static(*out):
        return _dynamic_transposed(b, node, x, w, explicit)
    shape = shape_of(b, [Size(x, 0), w.shape[1] * node.attr("groups"), *out])
    return _two_dims(b, node, x, w, explicit, shape)


def _two_dims(b: Builder, node: Node, x: Value, w: Value, explicit, shape) -> Value:
    attrs = {
        "strides": explicit.strides,
        "pads": explicit.begins + explicit.ends,
        "dilations": explicit.dilations,
        "groups": node.attr("groups"),
    }
    return b.call("ms.conv_transpose", (x, w, shape), attrs).results[0]


def _dynamic_transposed(b: Builder, node: Node, x: Value, w: Value, explicit) -> Value:
    """Spatial sizes that are not known: (size - 1) * stride + extent + output padding - pads, computed."""
    rest = node.attr("output_padding") or (0, 0)
    parts = [Size(x, 0), w.shape[1] * node.attr("groups")]
    for axis in range(2):
        constant = (
            explicit.extents[axis] + rest[axis] - explicit.begins[axis] - explicit.ends[axis] - explicit.strides[axis]
        )
        size = b.shape(x, start=2 + axis, end=3 + axis)
        parts.append(b.add(b.mul(size, b.const([explicit.strides[axis]])), b.const([constant])))
    head = shape_of(b, parts[:2])
    head = b.const(list(head)) if isinstance(head, tuple) else head
    return _two_dims(b, node, x, w, explicit, b.concat(head, *parts[2:], axis=0))


def _row_transposed(b: Builder, node: Node, x: Value, w: Value, made) -> Value:
    attrs = {
        "strides": (1, *made.strides),
        "dilations": (1, *made.dilations),
        "pads": (0, made.begins[0], 0, made.ends[0]),
        "output_padding": (0, *(node.attr("output_padding") or (0,))),
        "groups": node.attr("groups"),
    }
    y = b.conv_transpose(b.unsqueeze(x, (2,)), widen_kernel(b, w), **attrs)
    return b.squeeze(y, (2,))


def _volume_transposed(b: Builder, node: Node, x: Value, w: Value, made, out: tuple) -> Outcome:
    groups = node.attr("groups")
    spatial = tuple(x.shape[2:])
    if not static(*x.shape, *out):
        return Declined("Conv3DTranspose takes sizes that are known")
    full = [(s - 1) * t + e for s, t, e in zip(spatial, made.strides, made.extents, strict=True)]
    rest = tuple(o - (f - p - q) for o, f, p, q in zip(out, full, made.begins, made.ends, strict=True))
    attrs = {
        "strides": made.strides,
        "dilations": made.dilations,
        "pads": made.begins + made.ends,
        "output_padding": rest,
    }
    if groups == 1:
        explicit = node.attr("auto_pad") == "explicit" and not node.attr("output_shape")
        return Declined("") if explicit else b.conv_transpose(x, w, **attrs)
    images, kernels = b.split(x, axis=1, num_outputs=groups), b.split(w, axis=0, num_outputs=groups)
    return b.concat(*(b.conv_transpose(i, k, **attrs) for i, k in zip(images, kernels, strict=True)), axis=1)
