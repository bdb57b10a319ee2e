"""Layers of Keras that move, cut, pad or repeat pixels and steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.graph import Value
from .conv import spatial
from .registry import layer
from .scope import Scope

#: keras interpolation -> attributes of resize; both use half-pixel centres in Keras 3 and TensorFlow 2.
INTERPOLATIONS: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"},
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
}


def _pairs(s: Scope, key: str, n: int) -> tuple[tuple[int, int], ...]:
    """((begin, end), ...) per spatial axis from a number, n numbers or n pairs; in one dim also from one pair."""
    value = s.config.get(key, 1)
    if n == 1 and isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(v, int) for v in value):
        value = [value]
    if isinstance(value, int):
        value = [value] * n
    if not isinstance(value, (list, tuple)) or len(value) != n:
        raise s.invalid(f"{key} is {value!r}, expected {n} pairs")
    rows = [(v, v) if isinstance(v, int) else tuple(v) for v in value]
    if any(len(row) != 2 for row in rows):
        raise s.invalid(f"{key} is {value!r}, expected {n} pairs")
    return tuple((s.as_size(a, key, 0), s.as_size(b, key, 0)) for a, b in rows)


def _first_spatial(s: Scope, x: Value) -> tuple[int, int]:
    """(first spatial axis, number of spatial axes) in the layer's data format; one-dimensional layers are (B, T, C)."""
    n = int(s.layer.class_name[-2])
    if s.rank(x) != n + 2:
        raise s.invalid(f"its input has rank {s.rank(x)}, expected {n + 2}")
    return (1 if s.channels_last() else 2), n


@layer("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def zero_padding(s: Scope, x: Value) -> Value:
    first, n = _first_spatial(s, x)
    rows = _pairs(s, "padding", n)
    pads = (*(a for a, _ in rows), *(b for _, b in rows))
    return s.b.pad(x, pads, s.value(0, x.dtype), tuple(range(first, first + n)), mode="constant")


@layer("Cropping1D", "Cropping2D", "Cropping3D")
def cropping(s: Scope, x: Value) -> Value:
    first, n = _first_spatial(s, x)
    rows = _pairs(s, "cropping", n)
    ends = tuple(-b if b else np.iinfo(np.int64).max for _, b in rows)
    return s.b.slice(x, tuple(a for a, _ in rows), ends, tuple(range(first, first + n)))


@layer("UpSampling1D", "UpSampling2D", "UpSampling3D")
def up_sampling(s: Scope, x: Value) -> Value:
    """Each pixel repeated, or bilinear with half-pixel centres."""
    x = s.floating(x)
    _, n = _first_spatial(s, x)
    factors = s.sizes("size", n)
    mode = s.text("interpolation", "nearest")
    if mode not in INTERPOLATIONS:
        raise s.unsupported(
            f"interpolation {mode!r}, whose definition differs between Keras' backends", "use nearest or bilinear"
        )
    if mode == "bilinear" and _before_half_pixel(s.lowering.version):
        raise s.unsupported("bilinear upsampling of Keras before 2.4, which had no half-pixel centres")
    attrs: dict[str, Any] = INTERPOLATIONS[mode] if mode == "bilinear" else {
        "mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"
    }  # fmt: skip
    scales = s.b.const(np.asarray(factors, np.float32))
    return spatial(s, x, lambda y: s.b.resize(y, None, scales, axes=tuple(range(2, n + 2)), **attrs))


def _before_half_pixel(version: str) -> bool:
    """Standalone Keras up to 2.3 resized with TensorFlow 1's corners; `tf.keras` calls its versions "2.2.4-tf"."""
    head = version.split(".")
    return len(head) > 1 and head[0] == "2" and head[1] in ("0", "1", "2", "3") and not version.endswith("-tf")


@layer("Resizing")
def resizing(s: Scope, x: Value) -> Value:
    """To a fixed height and width, in the compute dtype."""
    for key in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"):
        if s.flag(key):
            raise s.unsupported(f"{key}=True", "resize before the model, or without it")
    return resize_to(s, s.cast(x, s.dtype), (s.size("height"), s.size("width")), s.text("interpolation", "bilinear"))


def resize_to(s: Scope, x: Value, sizes: tuple[int, int], interpolation: str) -> Value:
    if s.rank(x) != 4:
        raise s.unsupported(f"resizing of rank {s.rank(x)}", "resize batches of images (rank 4)")
    attrs: dict[str, Any] | None = INTERPOLATIONS.get(interpolation.lower())
    if attrs is None:
        raise s.unsupported(
            f"interpolation {interpolation!r}, whose definition differs between Keras' backends", "use bilinear"
        )
    return spatial(s, x, lambda y: s.b.resize(y, None, None, sizes, axes=(2, 3), **attrs))


@layer("CenterCrop")
def center_crop(s: Scope, x: Value) -> Value:
    """The middle of a larger image; a smaller one would be resized by a rule of its own."""
    x = s.cast(x, s.dtype)
    if s.rank(x) != 4:
        raise s.unsupported(f"cropping of rank {s.rank(x)}", "crop batches of images (rank 4)")
    first = 1 if s.channels_last() else 2
    wanted = (s.size("height"), s.size("width"))
    held = (s.static(x, first), s.static(x, first + 1))
    if held[0] < wanted[0] or held[1] < wanted[1]:
        raise s.unsupported(f"a crop of {wanted} out of {held}", "give it images that are large enough")
    starts = tuple((h - w) // 2 for h, w in zip(held, wanted, strict=True))
    ends = tuple(a + w for a, w in zip(starts, wanted, strict=True))
    return s.b.slice(x, starts, ends, (first, first + 1))
