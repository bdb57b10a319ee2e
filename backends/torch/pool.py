"""Torch expressions of pooling. Padding is symmetric and at most half the window, as torch wants it."""

from __future__ import annotations

from typing import Any

from ...ir.types import I8, I16, U8
from ...ir.value import Node
from .calls import Call, Refusal, only, row
from .conv import each, spatial_rank, symmetric

#: Too short for torch's max_pool to number the elements of a picture in (RuntimeError in ATen's MaxPoolKernel).
SHORT = frozenset((I8, U8, I16))


def _window(node: Node, n: int) -> dict[str, Any]:
    kernel = node.attr("kernel_shape")
    padding = symmetric(node.attr("pads"), n)
    if len(kernel) != n or any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise Refusal(f"padding {padding} is more than half of the window {kernel}")
    return {"kernel_size": kernel, "stride": each(node, "strides", n), "padding": padding}


@row("max_pool")
def max_pool(node: Node) -> Call:
    only(node, "kernel_shape", "strides", "pads", "dilations", "ceil_mode", "storage_order")
    (x,) = node.operands
    assert x is not None
    if x.dtype in SHORT:
        raise Refusal(f"torch counts the places of a picture in {x.dtype} when it pools one")
    n = spatial_rank(x)
    window = _window(node, n)
    return Call(f"F.max_pool{n}d", x, **window, dilation=each(node, "dilations", n), ceil_mode=node.attr("ceil_mode"))


@row("max_pool_with_indices")
def max_pool_with_indices(node: Node) -> Call:
    only(node, "kernel_shape", "strides", "pads", "dilations", "ceil_mode")
    made = max_pool(node)
    return Call("helpers.max_pool_with_indices", *made.args, **made.kwargs)


@row("average_pool")
def average_pool(node: Node) -> Call:
    only(node, "kernel_shape", "strides", "pads", "ceil_mode", "count_include_pad", "dilations")
    (x,) = node.operands
    assert x is not None
    n = spatial_rank(x)
    if any(d != 1 for d in node.attr("dilations")):
        raise Refusal("torch has no dilated average pooling")
    return Call(
        f"F.avg_pool{n}d",
        x,
        **_window(node, n),
        ceil_mode=node.attr("ceil_mode"),
        count_include_pad=node.attr("count_include_pad"),
    )


@row("adaptive_average_pool", "adaptive_max_pool", "global_average_pool")
def adaptive(node: Node) -> Call:
    only(node, "output_size")
    (x,) = node.operands
    assert x is not None
    n = spatial_rank(x)
    kind = "max" if node.name == "adaptive_max_pool" else "avg"
    return Call(
        f"F.adaptive_{kind}_pool{n}d", x, (1,) * n if node.name == "global_average_pool" else node.attr("output_size")
    )
