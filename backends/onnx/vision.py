"""Image and detection ops."""

from __future__ import annotations

from ...ir.graph import Node
from .conv import kernel_shape, window
from .emitter import Emitter
from .registry import emits
from .shape import as_i64, operands


@emits("col2im", since=18)
def col2im(e: Emitter, n: Node) -> None:
    x, image, block = n.operands
    attrs = {name: n.attr(name) or None for name in ("dilations", "pads", "strides")}
    e.node("Col2Im", [x, as_i64(e, image), as_i64(e, block)], **attrs)


@emits("deform_conv", since=19)
def deform_conv(e: Emitter, n: Node) -> None:
    attrs = window(e, n) | {"group": n.attr("groups"), "offset_group": n.attr("offset_groups")}
    e.node("DeformConv", n.operands, kernel_shape=kernel_shape(n), **attrs)


@emits("roi_align", since=10)
def roi_align(e: Emitter, n: Node) -> None:
    """Opset 16 added the shift by half a pixel, and made it the default."""
    x, rois, images = n.operands
    coordinates = n.attr("coordinate_transformation_mode")
    if coordinates == "half_pixel":
        e.needs(16, "roi_align with half_pixel")
    attrs = {
        name: n.attr(name) for name in ("mode", "output_height", "output_width", "sampling_ratio", "spatial_scale")
    }
    if e.opset >= 16:
        attrs["coordinate_transformation_mode"] = coordinates
    e.node("RoiAlign", [x, rois, as_i64(e, images)], **attrs)


@emits("max_roi_pool")
def max_roi_pool(e: Emitter, n: Node) -> None:
    e.node("MaxRoiPool", n.operands, pooled_shape=n.attr("pooled_shape"), spatial_scale=n.attr("spatial_scale"))


@emits("non_max_suppression", since=10)
def non_max_suppression(e: Emitter, n: Node) -> None:
    boxes, scores, most, overlap, least = operands(n, 5)
    centred = int(n.attr("center_point_box")) or None
    e.node("NonMaxSuppression", [boxes, scores, as_i64(e, most), overlap, least], center_point_box=centred)


@emits("image_decoder", since=20)
def image_decoder(e: Emitter, n: Node) -> None:
    e.node("ImageDecoder", n.operands, pixel_format=n.attr("pixel_format"))
