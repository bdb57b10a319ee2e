"""Pools over two and three dims; one dim goes as a row. Must not import MindSpore."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.value import Node
from ...passes.decompose.pool import geometry
from ...passes.decompose.rules import Declined, Outcome, static
from .registry import FLOAT_2, FLOAT_3, INTS, Call, emits, lowers

_PLANAR = FLOAT_3 | INTS


def _symmetric(node: Node) -> str | None:
    """What one of the maximum pools takes: known pads, equal on both sides for two dims."""
    x = node.operands[0]
    if x.rank not in (4, 5):
        return "pools have two or three spatial dims"
    if node.attr("ceil_mode") or node.attr("auto_pad") != "explicit":
        return "windows are explicit"
    made = geometry(node)[0]
    if made.begins != made.ends:
        return "padding is equal on both sides"
    if x.rank == 5 and (any(made.begins) or max(made.dilations) > 1 or x.dtype not in FLOAT_3):
        return "MaxPool3D has neither padding nor dilation nor integers"
    if any(p > k // 2 for p, k in zip(made.begins, made.kernel, strict=True)):
        return "padding is at most half the window"
    return None


@emits("max_pool", _PLANAR, check=_symmetric)
def max_pool(node: Node) -> Call:
    x, (made, _) = node.operands[0], geometry(node)
    if x.rank == 5:
        attrs: dict[str, Any] = {
            "kernel_size": (1, 1, *made.kernel),
            "strides": (1, 1, *made.strides),
            "pad_mode": "PAD",
        }
        attrs |= {"pad_list": (0,) * 6, "ceil_mode": 0, "format": "NCDHW"}
        return Call("MaxPool3D", (x,), attrs)
    if x.dtype in FLOAT_3 and not any(made.begins) and max(made.dilations) == 1:
        attrs = {"kernel_size": (1, 1, *made.kernel), "strides": (1, 1, *made.strides)}
        return Call("MaxPool", (x,), attrs | {"pad_mode": "VALID", "format": "NCHW"})
    return Call(
        "MaxPoolWithArgmaxV2", (x,), _argmax_attrs(made.kernel, made.strides, made.begins, made.dilations), (0,)
    )


def _argmax_attrs(kernel: tuple, strides: tuple, pads: tuple, dilations: tuple) -> dict:
    return {
        "kernel_size": (1, 1, *kernel),
        "strides": (1, 1, *strides),
        "pads": (1, 1, *pads),
        "dilation": (1, 1, *dilations),
        "ceil_mode": False,
        "argmax_type": 4,  # i64
    }


@emits("ms.max_pool_with_argmax", _PLANAR)
def max_pool_with_argmax(node: Node) -> Call:
    pads = node.attr("pads")[: len(node.attr("pads")) // 2]
    attrs = _argmax_attrs(node.attr("kernel_shape"), node.attr("strides"), pads, node.attr("dilations"))
    return Call("MaxPoolWithArgmaxV2", node.operands, attrs, (0, 1))


@lowers("max_pool_with_indices")
def max_pool_with_indices(b: Builder, node: Node) -> Outcome:
    """MindSpore's indices count inside each plane: the planes before are added."""
    x = node.operands[0]
    if not node.results[1].n_uses or x.rank != 4 or node.attr("storage_order") or node.attr("channels_last"):
        return Declined("")
    found = geometry(node)
    if found is None or node.attr("ceil_mode") or _symmetric(node) or not static(*x.shape[1:]):
        return Declined("indices of maxima under asymmetric padding")
    made = found[0]
    attrs = {"kernel_shape": made.kernel, "strides": made.strides, "pads": made.begins + made.ends}
    attrs |= {"dilations": made.dilations}
    y, places = b.call("ms.max_pool_with_argmax", (x,), attrs).results
    dims: Any = x.shape
    count, channels, plane = dims[0], dims[1], dims[2] * dims[3]
    if type(count) is int:
        before = b.const((np.arange(count * channels) * plane).reshape(count, channels, 1, 1))
    else:
        count = b.squeeze(b.shape(x, start=0, end=1), (0,))
        line = b.reshape(b.mul(b.range(0, count, 1), b.const(np.asarray(channels * plane))), (-1, 1, 1, 1))
        before = b.add(line, b.const((np.arange(channels) * plane).reshape(1, channels, 1, 1)))
    return y, b.add(places, before)


def _no_padding(node: Node) -> str | None:
    x = node.operands[0]
    if x.rank not in (4, 5):
        return "pools have two or three spatial dims"
    if node.attr("ceil_mode") or node.attr("auto_pad") != "explicit" or any(node.attr("pads")):
        return "padding is done before"
    return None if all(d == 1 for d in node.attr("dilations")) else "average pools have no dilation"


@emits("average_pool", FLOAT_2, check=_no_padding)
def average_pool(node: Node) -> Call:
    x, (made, _) = node.operands[0], geometry(node)
    if x.rank == 4:
        return Call("AvgPool", (x, made.kernel, made.strides, 2, 0))
    attrs: dict[str, Any] = {"kernel_size": (1, 1, *made.kernel), "strides": (1, 1, *made.strides), "pad_mode": "PAD"}
    attrs |= {"pad_list": (0,) * 6, "ceil_mode": False, "count_include_pad": True, "divisor_override": 0}
    return Call("AvgPool3D", (x,), attrs | {"format": "NCDHW"})


@lowers("average_pool", "max_pool")
def pool_one_dim(b: Builder, node: Node) -> Outcome:
    """One dim as a row of two."""
    x = node.operands[0]
    if x.rank != 3:
        return Declined("")
    found = geometry(node)
    if found is None:
        return Declined("padding depends on sizes that are not known")
    made, attrs = found[0], dict(node.attrs)
    attrs |= {
        "kernel_shape": (1, *made.kernel),
        "strides": (1, *made.strides),
        "dilations": (1, *made.dilations),
        "pads": (0, made.begins[0], 0, made.ends[0]),
        "auto_pad": "explicit",
    }
    y = b.call(node.name, (b.unsqueeze(x, (2,)),), attrs).results[0]
    return b.squeeze(y, (2,))
