"""Pooling."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Node
from .conv import window
from .emitter import Emitter
from .registry import emits

GLOBAL = {"global_average_pool": "GlobalAveragePool", "global_max_pool": "GlobalMaxPool"}


def _window(e: Emitter, n: Node) -> dict[str, Any]:
    """`kernel_shape` and the rest; dilations of 1 are left out, which older opsets do not know."""
    made = window(e, n)
    if n.attr("ceil_mode"):
        _check_ceil(e, n)
    if all(d == 1 for d in made["dilations"] or ()):
        made["dilations"] = None
    return {"kernel_shape": n.attr("kernel_shape"), "ceil_mode": int(n.attr("ceil_mode")) or None, **made}


def _check_ceil(e: Emitter, n: Node) -> None:
    """Before opset 22 ONNX rounded up without looking where the last window starts: windows that lie in the padding
    altogether were counted. Where that can happen the older operator means something else."""
    kernel, (x, y) = n.attr("kernel_shape"), (n.operands[0], n.results[0])
    rank = len(kernel)
    strides, dilations = n.attr("strides") or (1,) * rank, n.attr("dilations") or (1,) * rank
    pads = n.attr("pads") or (0,) * (2 * rank)
    for i in range(rank):
        extent = (kernel[i] - 1) * dilations[i] + 1
        if n.attr("auto_pad") != "explicit" or pads[rank + i] + strides[i] <= extent:
            continue
        size, made = (v.shape[2 + i] if v.shape else None for v in (x, y))  # type: ignore[union-attr]
        if type(size) is int and made == -(-(size + pads[i] + pads[rank + i] - extent) // strides[i]) + 1:
            continue
        e.needs(22, "ceil_mode where the last window may start in the padding")


@emits("max_pool")
def max_pool(e: Emitter, n: Node) -> None:
    e.node("MaxPool", n.operands, **_window(e, n))


@emits("max_pool_with_indices")
def max_pool_with_indices(e: Emitter, n: Node) -> None:
    e.node("MaxPool", n.operands, storage_order=n.attr("storage_order"), **_window(e, n))


@emits("average_pool")
def average_pool(e: Emitter, n: Node) -> None:
    e.node("AveragePool", n.operands, count_include_pad=int(n.attr("count_include_pad")) or None, **_window(e, n))


@emits("lp_pool")
def lp_pool(e: Emitter, n: Node) -> None:
    e.node("LpPool", n.operands, p=n.attr("p"), **_window(e, n))


@emits(*GLOBAL)
def global_pool(e: Emitter, n: Node) -> None:
    if n.attr("channels_last"):
        raise e.refuse("ONNX has channels first only")
    e.node(GLOBAL[n.name], n.operands)


@emits("global_lp_pool")
def global_lp_pool(e: Emitter, n: Node) -> None:
    if n.attr("channels_last"):
        raise e.refuse("ONNX has channels first only")
    e.node("GlobalLpPool", n.operands, p=n.attr("p"))


@emits("max_unpool")
def max_unpool(e: Emitter, n: Node) -> None:
    attrs = window(e, n, dilations=False)
    e.node("MaxUnpool", n.operands, kernel_shape=n.attr("kernel_shape"), **attrs)
