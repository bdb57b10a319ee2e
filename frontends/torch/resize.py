"""aten upsampling and grid sampling. Must not import torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.errors import InvalidModel, Unsupported
from ...ir.types import F32, I64
from ...ir.value import Value
from .context import Context
from .registry import Bool, Floats, Int, Number, Sizes, Tensor, handles

_NEAREST = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
_EXACT = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}


def _resize(
    c: Context, x: Value, sizes: Sizes | None, scales: tuple[float | None, ...] | None, attrs: dict[str, Any]
) -> Value:
    """By the factors where torch was given factors (they then place the samples), else to the sizes."""
    n = c.rank(x) - 2
    axes = tuple(range(2, n + 2))
    if n < 1:
        raise InvalidModel(f"an image is expected, not {x.type}")
    if scales and all(scale is not None for scale in scales):
        if len(scales) != n or any(not scale or scale <= 0 for scale in scales):
            raise InvalidModel(f"scale factors {scales} for {n} axes")
        factors = c.b.const(np.asarray(scales, np.float32), F32)
        return c.b.resize(x, None, factors, None, axes=axes, **attrs)
    if sizes is None or len(sizes) != n:
        raise InvalidModel(f"output size {sizes} for {n} axes")
    return c.b.resize(x, None, None, c.sizes(sizes), axes=axes, **attrs)


def _factors(*scales: float | None) -> tuple[float | None, ...] | None:
    return tuple(scales) if any(scale is not None for scale in scales) else None


_NEAREST_NAMES = [f"aten.{kind}{n}d" for kind in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)]


@handles(*_NEAREST_NAMES)
def nearest(
    c: Context, self: Tensor | None = None, output_size: Sizes | None = None, input: Tensor | None = None,
    scale_factors: Floats | None = None, scales: Number | None = None, scales_d: Number | None = None,
    scales_h: Number | None = None, scales_w: Number | None = None,
) -> Value:  # fmt: skip
    x = _image(self, input)
    given = _given(c, x, scale_factors, scales, scales_d, scales_h, scales_w)
    attrs = _EXACT if "exact" in c.node.target else _NEAREST
    return _resize(c, x, output_size, given, {"mode": "nearest", **attrs})


def _image(*items: Value | None) -> Value:
    found = next((item for item in items if item is not None), None)
    if found is None:
        raise InvalidModel("an image is missing")
    return found


def _given(
    c: Context, x: Value, factors: Floats | None, one: Any, d: Any, h: Any, w: Any
) -> tuple[float | None, ...] | None:
    """The scale factors of whichever overload was called."""
    if factors is not None:
        return factors
    return _factors(*{1: (one,), 2: (h, w), 3: (d, h, w)}.get(c.rank(x) - 2, ()))


@handles(
    "aten.upsample_linear1d", "aten.upsample_bilinear2d", "aten.upsample_trilinear3d", "aten.upsample_bicubic2d",
    "aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa",
)  # fmt: skip
def linear(
    c: Context, align_corners: Bool, self: Tensor | None = None, output_size: Sizes | None = None, input: Tensor | None = None,
    scale_factors: Floats | None = None, scales: Number | None = None, scales_d: Number | None = None,
    scales_h: Number | None = None, scales_w: Number | None = None,
) -> Value:  # fmt: skip
    x = _image(self, input)
    given = _given(c, x, scale_factors, scales, scales_d, scales_h, scales_w)
    smooth = c.node.target.split(".")[1].endswith("_aa")
    mode = "cubic" if "bicubic" in c.node.target else "linear"
    attrs: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": "align_corners" if align_corners else "half_pixel",
        "antialias": smooth,
        "exclude_outside": smooth,
        "cubic_coeff_a": -0.5 if smooth else -0.75,
    }
    return _resize(c, x, output_size, given, attrs)


_SAMPLING = {0: "linear", 1: "nearest", 2: "cubic"}
_BORDERS = {0: "zeros", 1: "border", 2: "reflection"}


@handles("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d")
def grid_sampler(
    c: Context, input: Tensor, grid: Tensor, interpolation_mode: Int, padding_mode: Int, align_corners: Bool
) -> Value:
    if interpolation_mode not in _SAMPLING or padding_mode not in _BORDERS:
        raise InvalidModel(f"grid_sample with modes {interpolation_mode}, {padding_mode}")
    mode, border = _SAMPLING[interpolation_mode], _BORDERS[padding_mode]
    return c.b.grid_sample(input, grid, mode=mode, padding_mode=border, align_corners=align_corners)


@handles("aten.affine_grid_generator")
def affine_grid(c: Context, theta: Tensor, size: Sizes, align_corners: Bool) -> Value:
    if theta.dtype not in (F32,):
        raise Unsupported(f"an affine grid in {theta.dtype}")
    return c.b.affine_grid(theta, c.cast(c.sizes(size), I64), align_corners=align_corners)
