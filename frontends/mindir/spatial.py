"""Convolutions, pools and resizing. Must not import MindSpore."""

from __future__ import annotations

from typing import Any

from ...ir.builder import Builder
from ...ir.value import Value
from .registry import Call, handles


def _unpaired(pads: tuple[int, ...]) -> tuple[int, ...]:
    """Begin and end of each axis in turn as all begins, then all ends."""
    return pads[0::2] + pads[1::2]


def _strides(n: Call, name: str, rank: int) -> tuple[int, ...]:
    """The spatial entries of a tuple that begins with (1, 1)."""
    made = n.attr_ints(name, rank + 2)
    if made[:2] != (1, 1):
        raise n.wrong(f"{name} moves over samples or channels")
    return made[2:]


def _layout(n: Call, wanted: str) -> None:
    if n.attrs.get("format") != wanted:
        raise n.wrong(f"only the layout {wanted} is read")


def _convolution(b: Builder, n: Call, rank: int, stride: str, dilation: str, layout: str) -> Value:
    _layout(n, layout)
    if n.attr("pad_mode", str).lower() != "pad":
        raise n.wrong("only explicit padding is read")
    attrs = {
        "strides": _strides(n, stride, rank),
        "dilations": _strides(n, dilation, rank),
        "pads": _unpaired(n.attr_ints("pad_list", 2 * rank)),
        "groups": n.attr("groups", int),
    }
    return b.conv(n.tensor(0), n.tensor(1), **attrs)


@handles("Conv2D", 2)
def conv_2d(b: Builder, n: Call) -> Value:
    return _convolution(b, n, 2, "stride", "dilation", "NCHW")


@handles("Conv3D", 2)
def conv_3d(b: Builder, n: Call) -> Value:
    return _convolution(b, n, 3, "strides", "dilations", "NCDHW")


@handles("Conv2DTranspose", 3)
def conv_transpose_2d(b: Builder, n: Call) -> Value:
    _layout(n, "NCHW")
    attrs = {
        "strides": _strides(n, "stride", 2),
        "dilations": _strides(n, "dilation", 2),
        "pads": _unpaired(n.attr_ints("pad_list", 4)),
        "groups": n.attr("groups", int),
    }
    return b.call("ms.conv_transpose", (n.tensor(0), n.tensor(1), n.shape(2)), attrs).results[0]


@handles("Conv3DTranspose", 2)
def conv_transpose_3d(b: Builder, n: Call) -> Value:
    _layout(n, "NCDHW")
    attrs: dict[str, Any] = {
        "strides": _strides(n, "strides", 3),
        "dilations": _strides(n, "dilations", 3),
        "pads": _unpaired(n.attr_ints("pad_list", 6)),
        "output_padding": _tail(n.attr_ints("output_padding", 5)),
    }
    return b.conv_transpose(n.tensor(0), n.tensor(1), **attrs)


def _tail(values: tuple[int, ...]) -> tuple[int, ...]:
    return values[2:]


@handles("MaxPool", 1)
def max_pool(b: Builder, n: Call) -> Value:
    _layout(n, "NCHW")
    if n.attr("pad_mode", str) != "VALID":
        raise n.wrong("only pools without padding are read")
    return b.max_pool(n.tensor(0), kernel_shape=_strides(n, "kernel_size", 2), strides=_strides(n, "strides", 2))


def _volume(n: Call) -> dict:
    _layout(n, "NCDHW")
    if n.attr("pad_mode", str) != "PAD" or any(n.attr_ints("pad_list", 6)):
        raise n.wrong("only pools without padding are read")
    return {"kernel_shape": _strides(n, "kernel_size", 3), "strides": _strides(n, "strides", 3)}


@handles("MaxPool3D", 1)
def max_pool_3d(b: Builder, n: Call) -> Value:
    return b.max_pool(n.tensor(0), **_volume(n))


@handles("AvgPool3D", 1)
def average_pool_3d(b: Builder, n: Call) -> Value:
    return b.average_pool(n.tensor(0), **_volume(n))


@handles("MaxPoolWithArgmaxV2", 1)
def max_pool_with_argmax(b: Builder, n: Call) -> tuple[Value, ...]:
    x = n.tensor(0)
    if n.attr("ceil_mode", bool) or n.rank(x) != 4:
        raise n.wrong("only whole windows over two dims are read")
    kernel, strides = _strides(n, "kernel_size", 2), _strides(n, "strides", 2)
    pads, dilations = _tail(n.attr_ints("pads", 4)), _strides(n, "dilation", 2)
    attrs = {"kernel_shape": kernel, "strides": strides, "pads": pads + pads, "dilations": dilations}
    return b.call("ms.max_pool_with_argmax", (x,), attrs).results


@handles("AvgPool", 5)
def average_pool(b: Builder, n: Call) -> Value:
    if n.int(3) != 2 or n.int(4) != 0:
        raise n.wrong("only pools without padding in the layout NCHW are read")
    return b.average_pool(n.tensor(0), kernel_shape=n.ints(1), strides=n.ints(2))


def _resize(b: Builder, n: Call) -> Value:
    mode = "nearest" if n.primitive == "ResizeNearestNeighborV2" else "linear"
    attrs = {"mode": mode, "align_corners": n.bool(2), "half_pixel": n.bool(3)}
    if mode == "nearest" and (attrs["align_corners"] or attrs["half_pixel"]):
        raise n.wrong("only the plain grid of nearest neighbours is read")
    return b.call("ms.resize", (n.tensor(0), n.shape(1)), attrs).results[0]


handles("ResizeNearestNeighborV2", 4)(_resize)
handles("ResizeBilinearV2", 4)(_resize)
