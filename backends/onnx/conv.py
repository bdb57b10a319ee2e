"""Convolutions."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Node
from .emitter import Emitter
from .registry import emits

AUTO_PAD = {"same_upper": "SAME_UPPER", "same_lower": "SAME_LOWER"}


def window(e: Emitter, n: Node, *, dilations: bool = True) -> dict[str, Any]:
    """strides, pads or auto_pad, and dilations, as ONNX spells them."""
    if n.attrs.get("channels_last"):
        raise e.refuse("ONNX has channels first only")
    auto_pad = n.attrs.get("auto_pad", "explicit")
    made: dict[str, Any] = {"strides": n.attr("strides") or None}
    if auto_pad == "explicit":
        made["pads"] = n.attr("pads") or None
    elif (pads := _spelled_out(n, auto_pad)) is not None:
        made["pads"] = pads
    else:
        made["auto_pad"] = AUTO_PAD[auto_pad]
    if dilations:
        made["dilations"] = n.attr("dilations") or None
    return made


def _spelled_out(n: Node, auto_pad: str) -> tuple[int, ...] | None:
    """The pads that `auto_pad` means, for a dilated conv of known size: onnxruntime takes the two not together."""
    x, dilations, kernel = (
        n.operands[0],
        n.attrs.get("dilations") or (),
        kernel_shape(n) if "conv" in n.name else None,
    )
    if n.name == "conv_transpose" or kernel is None or all(d == 1 for d in dilations) or x.shape is None:  # type: ignore[union-attr]
        return None
    if not all(type(d) is int for d in x.shape[2:]):  # type: ignore[index, union-attr]
        return None
    strides = n.attr("strides") or (1,) * len(kernel)
    begins, ends = [], []
    for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):  # type: ignore[index, union-attr]
        total = max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)  # type: ignore[operator]
        begins.append(total // 2 if auto_pad == "same_upper" else total - total // 2)
        ends.append(total - begins[-1])
    return (*begins, *ends)


def kernel_shape(n: Node) -> tuple[int, ...] | None:
    """The weight's spatial dims, stated for readers that want them; None where they are not known."""
    shape = n.operand("w").shape  # type: ignore[union-attr]
    return tuple(shape[2:]) if shape and all(type(d) is int for d in shape[2:]) else None  # type: ignore[arg-type]


@emits("conv")
def conv(e: Emitter, n: Node) -> None:
    e.node("Conv", n.operands, group=n.attr("groups"), kernel_shape=kernel_shape(n), **window(e, n))


@emits("conv_transpose")
def conv_transpose(e: Emitter, n: Node) -> None:
    e.node(
        "ConvTranspose",
        n.operands,
        group=n.attr("groups"),
        kernel_shape=kernel_shape(n),
        output_padding=n.attr("output_padding") or None,
        output_shape=n.attr("output_shape") or None,
        **window(e, n),
    )


@emits("conv_integer")
def conv_integer(e: Emitter, n: Node) -> None:
    e.node("ConvInteger", n.operands, group=n.attr("groups"), kernel_shape=kernel_shape(n), **window(e, n))


@emits("qlinear_conv")
def qlinear_conv(e: Emitter, n: Node) -> None:
    e.node("QLinearConv", n.operands, group=n.attr("groups"), kernel_shape=kernel_shape(n), **window(e, n))
