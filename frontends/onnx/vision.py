"""Image and detection operators."""

from __future__ import annotations

from typing import Any

from .conv import check_kernel, spatial_rank, window
from .importer import Call, Importer
from .registry import handles


@handles("Col2Im", since=18)
def col2im(c: Importer, n: Call) -> Any:
    attrs = {name: tuple(n.attr(name) or ()) for name in ("dilations", "pads", "strides")}
    return c.b.col2im(*n.inputs, **attrs)


@handles("DeformConv", since=19)
def deform_conv(c: Importer, n: Call) -> Any:
    x, w, offset, b, mask = n.take(5)
    check_kernel(n, w)
    attrs = window(n, spatial_rank(n, w, x))
    del attrs["auto_pad"]
    attrs |= {"groups": n.attr("group", 1), "offset_groups": n.attr("offset_group", 1)}
    return c.b.deform_conv(x, w, offset, b, mask, **attrs)


@handles("RoiAlign", since=10)
def roi_align(c: Importer, n: Call) -> Any:
    """Opset 16 added the shift by half a pixel, and made it the default."""
    attrs: dict[str, Any] = {
        "mode": n.attr("mode", "avg"),
        "coordinate_transformation_mode": n.attr("coordinate_transformation_mode", "output_half_pixel"),
        "spatial_scale": n.attr("spatial_scale", 1.0),
    }
    for name, default in (("output_height", 1), ("output_width", 1), ("sampling_ratio", 0)):
        attrs[name] = n.attr(name, default)
    return c.b.roi_align(*n.inputs, **attrs)


@handles("MaxRoiPool")
def max_roi_pool(c: Importer, n: Call) -> Any:
    shape = tuple(n.attr("pooled_shape"))
    return c.b.max_roi_pool(*n.inputs, pooled_shape=shape, spatial_scale=n.attr("spatial_scale", 1.0))


@handles("NonMaxSuppression", since=10)
def non_max_suppression(c: Importer, n: Call) -> Any:
    return c.b.non_max_suppression(*n.take(5), center_point_box=bool(n.attr("center_point_box", 0)))


@handles("ImageDecoder", since=20)
def image_decoder(c: Importer, n: Call) -> Any:
    return c.b.image_decoder(n.x, pixel_format=n.attr("pixel_format", "RGB"))
