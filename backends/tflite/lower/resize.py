"""Resizes that TFLite's kernels compute exactly; the others are decomposed before layout assignment."""

from __future__ import annotations

import numpy as np

from ....ir.builder import Builder
from ....ir.types import F32
from ....ir.value import Node, Value
from ....passes.decompose.rules import Declined, Outcome
from . import lowers
from .common import numbers, static

# (mode, coordinate transformation, nearest mode or "") -> (op, align_corners, half_pixel_centers). Measured equal to
# ONNX; half-pixel nearest rounds halves up, asymmetric nearest rounds down.
_NATIVE = {
    ("linear", "half_pixel", ""): ("tfl.resize_bilinear", False, True),
    ("linear", "pytorch_half_pixel", ""): ("tfl.resize_bilinear", False, True),
    ("linear", "align_corners", ""): ("tfl.resize_bilinear", True, False),
    ("linear", "asymmetric", ""): ("tfl.resize_bilinear", False, False),
    ("nearest", "asymmetric", "floor"): ("tfl.resize_nearest_neighbor", False, False),
    ("nearest", "half_pixel", "round_prefer_ceil"): ("tfl.resize_nearest_neighbor", False, True),
}


def native(node: Node) -> tuple[str, bool, bool] | None:
    """The kernel that computes this resize, if one does: [N, C, H, W] of known size, H and W resized."""
    x = node.operands[0]
    last = node.attr("channels_last")
    if x.rank != 4 or x.dtype is not F32 or node.attr("antialias") or node.result.shape is None:
        return None
    height, width = (1, 2) if last else (2, 3)
    before, after = ((v.shape[height], v.shape[width]) for v in (x, node.result))
    rest = [axis for axis in range(4) if axis not in (height, width)]
    if any(x.shape[a] != node.result.shape[a] for a in rest):
        return None
    if static((*before, *after)):
        return _kernel(node, numbers(before), numbers(after))
    factors = whole_scales(node)
    return None if factors is None else _kernel(node, (1, 1), factors)


def whole_scales(node: Node) -> tuple[int, int] | None:
    """Constant scales of height and width that are whole numbers: then sizes need not be known."""
    scales = node.operand("scales")
    if scales is None or not scales.is_const or scales.shape == (0,):
        return None
    given = dict(zip((a % 4 for a in node.attr("axes") or range(4)), scales.array(), strict=True))
    made = [float(given.get(axis, 1.0)) for axis in (2, 3)]
    return (int(made[0]), int(made[1])) if all(s >= 1 and s == int(s) for s in made) else None


def _kernel(node: Node, before: tuple[int, ...], after: tuple[int, ...]) -> tuple[str, bool, bool] | None:
    mode, coordinates = node.attr("mode"), node.attr("coordinate_transformation_mode")
    if not _scales_agree(node, before, after):
        return None
    if mode == "nearest" and _whole_factors(before, after) and coordinates in ("half_pixel", "asymmetric"):
        floors = coordinates == "asymmetric" and node.attr("nearest_mode") == "floor"
        rounds = coordinates == "half_pixel" and node.attr("nearest_mode").startswith("round")
        return _NATIVE["nearest", "asymmetric", "floor"] if floors or rounds else None
    if coordinates == "pytorch_half_pixel" and (1 in after or 1 in before):
        return None
    return _NATIVE.get((mode, coordinates, node.attr("nearest_mode") if mode == "nearest" else ""))


def _whole_factors(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Every pixel is repeated a whole number of times: then rounding modes agree."""
    return all(b and a % b == 0 for b, a in zip(before, after, strict=True))


def _scales_agree(node: Node, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """TFLite scales by after / before; ONNX by the given scales, which may differ where sizes were rounded down."""
    scales = node.operand("scales")
    if scales is None or scales.shape == (0,) or node.attr("coordinate_transformation_mode") == "align_corners":
        return True
    if not scales.is_const:
        return False
    axes = node.attr("axes") or tuple(range(4))
    given = dict(zip((a % 4 for a in axes), scales.array(), strict=True))
    pairs = zip((2, 3), before, after, strict=True)
    return all(np.float32(given.get(axis, 1.0)) == np.float32(a / b) for axis, b, a in pairs)


@lowers("resize")
def resize(b: Builder, node: Node) -> Outcome:
    found = native(node)
    if found is None or not node.attr("channels_last"):
        return Declined("")
    name, corners, centres = found
    x, wanted = node.operands[0], node.result.shape[1:3]
    if static(wanted):
        size: Value = b.const(np.asarray(wanted, np.int32))
    else:
        own = b.slice(b.call("tfl.shape", (x,)).result, (1,), (3,), (0,))
        size = b.mul(own, b.const(np.asarray(whole_scales(node), np.int32)))
    return b.call(name, (x, size), {"align_corners": corners, "half_pixel_centers": centres}).result
