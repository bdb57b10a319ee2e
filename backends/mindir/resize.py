"""resize of the two spatial axes where MindSpore's grids are the asked ones; else matrices and gathers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.types import U8
from ...ir.value import Node, Value
from ...passes.decompose.resize import axis_targets
from ...passes.decompose.rules import Declined, Outcome, static
from .registry import FLOAT_3, Call, Shape, emits, lowers
from .tuples import tuple_of

_NEAREST = FLOAT_3 | {U8}


def _kernel_dtype(node: Node) -> str | None:
    exact = node.operands[0].dtype in FLOAT_3 or node.attr("mode") == "nearest"
    return None if exact else "ResizeBilinear has no integers"


@emits("ms.resize", _NEAREST, check=_kernel_dtype)
def ms_resize(node: Node) -> Call:
    x, size = node.operands
    primitive = "ResizeNearestNeighborV2" if node.attr("mode") == "nearest" else "ResizeBilinearV2"
    return Call(primitive, (x, Shape(size), node.attr("align_corners"), node.attr("half_pixel")))


@lowers("resize")
def resize(b: Builder, node: Node) -> Outcome:
    x, mode = node.operands[0], node.attr("mode")
    wide_enough = x.dtype in FLOAT_3 or (x.dtype is U8 and mode == "nearest")
    if node.attr("channels_last") or not wide_enough or x.rank != 4 or mode == "cubic" or node.attr("antialias"):
        return Declined("")
    targets = axis_targets(node)
    if isinstance(targets, Declined):
        return _unknown_target(b, node, x)
    moving = [(axis, target) for axis, target, _ in targets if not _still(x, node, axis)]
    if any(axis not in (2, 3) for axis, _ in moving):
        return Declined("")
    grid = _grid(node)
    if grid is None or not all(_same_grid(node, x, axis, target) for axis, target in moving):
        return Declined("")
    return _resized(b, node, x, grid)


def _still(x: Value, node: Node, axis: int) -> bool:
    return x.shape[axis] == node.result.shape[axis]


def _grid(node: Node) -> dict | None:
    """The attributes of ms.resize for the coordinates asked for, if it has them."""
    mode, how = node.attr("mode"), node.attr("coordinate_transformation_mode")
    if node.attr("exclude_outside"):
        return None
    if mode == "nearest":
        return {"mode": mode} if how == "asymmetric" and node.attr("nearest_mode") == "floor" else None
    return {
        "half_pixel": {"mode": mode, "half_pixel": True},
        "pytorch_half_pixel": {"mode": mode, "half_pixel": True},
        "align_corners": {"mode": mode, "align_corners": True},
    }.get(how)


def _same_grid(node: Node, x: Value, axis: int, target: dict) -> bool:
    """MindSpore scales by in / out in f32: that must give the places asked for, whatever the scale was said to be."""
    size: Any = x.shape[axis]
    out: Any = node.result.shape[axis]
    scale = float(target["scales"][0]) if "scales" in target else None
    if not static(size, out):
        return scale is not None and scale == round(scale) and scale >= 1
    if node.attr("mode") == "nearest":
        ratio = np.float32(size) / np.float32(out)
        theirs = np.minimum(np.floor(np.arange(out, dtype=np.float32) * ratio), size - 1)
        exact = size / out if scale is None else 1 / scale
        return bool((theirs == np.minimum(np.floor(np.arange(out) * exact), size - 1)).all())
    if node.attr("coordinate_transformation_mode") != "half_pixel" and out == 1:
        return False
    return scale is None or size * scale == out


def _resized(b: Builder, node: Node, x: Value, grid: dict) -> Value:
    tail = node.result.shape[2:]
    if static(*tail):
        size = b.const(np.asarray(tail, np.int64))
    else:
        size = tuple_of(b, node, tail, _scaled_sizes(b, node, x))
    return b.call("ms.resize", (x, size), grid).results[0]


def _scaled_sizes(b: Builder, node: Node, x: Value) -> Value:
    """The spatial sizes times whole scales, computed."""
    targets: Any = axis_targets(node)
    factors = {axis: int(target["scales"][0]) for axis, target, _ in targets if "scales" in target}
    return b.mul(b.shape(x, start=2, end=4), b.const([factors.get(2, 1), factors.get(3, 1)]))


def _unknown_target(b: Builder, node: Node, x: Value) -> Outcome:
    """Sizes that are computed, on grids that only depend on them."""
    sizes, axes = node.operand("sizes"), node.attr("axes")
    whole = sizes is not None and (axes in ((), (0, 1, 2, 3)) or axes == (2, 3))
    if not whole or node.attr("keep_aspect_ratio_policy") != "stretch" or _grid(node) is None:
        return Declined("")
    if node.attr("coordinate_transformation_mode") == "pytorch_half_pixel":
        return Declined("an axis that shrinks to one element has a grid of its own")
    if not axes or len(axes) == 4:
        sizes = b.slice(sizes, (2,), (4,), (0,))
    return b.call("ms.resize", (x, tuple_of(b, node, node.result.shape[2:], sizes)), _grid(node)).results[0]
