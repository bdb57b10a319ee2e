"""Resize in its five versions, Upsample in its three, and GridSample."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.graph import Value
from .importer import Call, Importer, rank_of
from .registry import handles

# Resize-10 and Upsample know one coordinate rule: y / scale, rounded down for nearest.
ASYMMETRIC: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
SAMPLE_MODES = {"bilinear": "linear", "bicubic": "cubic"}


def _present(value: Value | None) -> Value | None:
    """Opset 11 says "absent" by an empty tensor as well."""
    return None if value is not None and value.shape == (0,) else value


def _mode(n: Call) -> str:
    mode = n.attr("mode", "nearest")
    return SAMPLE_MODES.get(mode, mode)


@handles("Upsample")
def upsample_sides(c: Importer, n: Call) -> Any:
    scales = np.asarray((1, 1, n.attr("height_scale"), n.attr("width_scale")), np.float32)
    return c.b.resize(n.x, None, c.const(scales), mode=_mode(n), **ASYMMETRIC)


@handles("Upsample", since=7)
def upsample_attribute(c: Importer, n: Call) -> Any:
    scales = np.asarray(n.attr("scales"), np.float32)
    return c.b.resize(n.x, None, c.const(scales), mode=_mode(n), **ASYMMETRIC)


@handles("Upsample", since=9)
@handles("Resize")
def upsample(c: Importer, n: Call) -> Any:
    return c.b.resize(n.x, None, n.inputs[1], mode=_mode(n), **ASYMMETRIC)


@handles("Resize", since=11)
def resize(c: Importer, n: Call) -> Any:
    x, roi, scales, sizes = n.take(4)
    coordinates = n.attr("coordinate_transformation_mode", "half_pixel")
    roi, scales, sizes = _present(roi), _present(scales), _present(sizes)
    if (scales is None) == (sizes is None):
        raise n.invalid("exactly one of scales and sizes must be given")
    attrs = {
        "mode": n.attr("mode", "nearest"),
        "coordinate_transformation_mode": coordinates,
        "nearest_mode": n.attr("nearest_mode", "round_prefer_floor"),
        "cubic_coeff_a": n.attr("cubic_coeff_a", -0.75),
        "exclude_outside": bool(n.attr("exclude_outside", 0)),
        "extrapolation_value": n.attr("extrapolation_value", 0.0),
        "antialias": bool(n.attr("antialias", 0)),
        "axes": tuple(n.attr("axes", ())),
        "keep_aspect_ratio_policy": n.attr("keep_aspect_ratio_policy", "stretch"),
    }
    return c.b.resize(x, roi if coordinates == "tf_crop_and_resize" else None, scales, sizes, **attrs)


@handles("GridSample")
def grid_sample(c: Importer, n: Call) -> Any:
    """Opset 20 renamed bilinear and bicubic to linear and cubic and allowed any number of spatial axes."""
    rank_of(n.x, n)
    attrs = {"mode": SAMPLE_MODES.get(n.attr("mode"), n.attr("mode", "linear"))}
    attrs |= {"padding_mode": n.attr("padding_mode", "zeros"), "align_corners": bool(n.attr("align_corners", 0))}
    return c.b.grid_sample(*n.inputs, **attrs)


@handles("AffineGrid")
def affine_grid(c: Importer, n: Call) -> Any:
    """Along an axis of one point, corners aligned, ONNX puts it at -1, the IR (as torch) at 0."""
    sizes = n.inputs[1].ints()  # type: ignore[union-attr]
    if n.attr("align_corners", 0) and (sizes is None or 1 in sizes[2:]):
        return c.expand(n)
    return c.b.affine_grid(*n.inputs, align_corners=bool(n.attr("align_corners", 0)))
