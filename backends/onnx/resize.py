"""resize, grid_sample and affine_grid."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Node
from .emitter import Emitter
from .registry import emits
from .shape import as_i64, operands

#: tf_half_pixel_for_nn was withdrawn in opset 13. It lies half a pixel above half_pixel, which rounding can say.
ROUNDED_HALF_UP = {"floor": "round_prefer_ceil", "round_prefer_floor": "ceil"}


def _coordinates(e: Emitter, n: Node) -> tuple[str, str]:
    """coordinate_transformation_mode and nearest_mode."""
    coordinates, rounding = n.attr("coordinate_transformation_mode"), n.attr("nearest_mode")
    if coordinates == "half_pixel_symmetric":
        e.needs(19, "half_pixel_symmetric")
    if coordinates != "tf_half_pixel_for_nn":
        return coordinates, rounding
    if n.attr("mode") != "nearest" or rounding not in ROUNDED_HALF_UP:
        raise e.refuse("tf_half_pixel_for_nn was withdrawn in opset 13")
    return "half_pixel", ROUNDED_HALF_UP[rounding]


@emits("resize")
def resize(e: Emitter, n: Node) -> None:
    """`axes`, antialias and aspect ratio policies came with opset 18, half_pixel_symmetric with 19."""
    x, roi, scales, sizes = operands(n, 4)
    if n.attr("channels_last"):
        raise e.refuse("ONNX has channels first only")
    coordinates, rounding = _coordinates(e, n)
    attrs: dict[str, Any] = {
        "mode": n.attr("mode"),
        "coordinate_transformation_mode": coordinates,
        "exclude_outside": int(n.attr("exclude_outside")) or None,
        "antialias": int(n.attr("antialias")) or None,
        "axes": n.attr("axes") or None,
    }
    if n.attr("mode") == "nearest":
        attrs["nearest_mode"] = rounding
    if n.attr("mode") == "cubic":
        attrs["cubic_coeff_a"] = n.attr("cubic_coeff_a")
    if coordinates == "tf_crop_and_resize":
        attrs["extrapolation_value"] = n.attr("extrapolation_value")
    if n.attr("keep_aspect_ratio_policy") != "stretch":
        attrs["keep_aspect_ratio_policy"] = n.attr("keep_aspect_ratio_policy")
    for name in ("antialias", "axes", "keep_aspect_ratio_policy"):
        if attrs.get(name) is not None:
            e.needs(18, f"resize with {name}")
    e.node("Resize", [x, roi, scales, as_i64(e, sizes)], **attrs)


@emits("grid_sample", since=16)
def grid_sample(e: Emitter, n: Node) -> None:
    """Opset 16 spells the modes bilinear and bicubic and takes images only."""
    mode = n.attr("mode")
    if e.opset < 20:
        mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
        if n.operands[0].rank != 4:  # type: ignore[union-attr]
            e.needs(20, "grid_sample of other than images")
    corners = int(n.attr("align_corners")) or None
    e.node("GridSample", n.operands, mode=mode, padding_mode=n.attr("padding_mode"), align_corners=corners)


@emits("affine_grid", since=20)
def affine_grid(e: Emitter, n: Node) -> None:
    """Along an axis of one point, corners aligned, ONNX puts it at -1, the IR (as torch) at 0."""
    sizes = n.operands[1].ints()  # type: ignore[union-attr]
    if n.attr("align_corners") and (sizes is None or 1 in sizes[2:]):
        raise e.refuse("ONNX places the only point of an axis elsewhere")
    e.node("AffineGrid", n.operands, align_corners=int(n.attr("align_corners")) or None)
