"""Kernels of the vision family. Coordinates decide which pixels count, so they are computed in the dtype that runtimes
compute them in (float32 for what is narrower); values are computed in float64 and rounded once.

Pillow is imported when an image is decoded, and only then.
"""

from __future__ import annotations

import io
import itertools
import math
import warnings
from typing import Any

import numpy as np

from ..ir.errors import AnyIRError, InvalidModel, MissingPackage
from ..ir.ops.vision import PIXEL_FORMATS
from ..ir.ops.window import output_sizes, window
from .budget import OverBudget, hold, spend
from .index import checked
from .numeric import narrow, wide
from .registry import kernel
from .shape import as_ints

Array = np.ndarray


@kernel("col2im")
def col2im(x: Array, image_shape: Array, block_shape: Array, *, dilations, pads, strides) -> Array:
    """The adjoint of cutting images into sliding blocks: each block is added where it was cut out."""
    image, block = tuple(as_ints(image_shape)), tuple(as_ints(block_shape))
    if len(image) != len(block) or min((*image, *block), default=0) < 1:
        raise InvalidModel(f"col2im: blocks {list(block)} of images {list(image)}", code="F020")
    geometry = window(block, strides, pads, dilations)
    counts: Any = output_sizes(geometry, image)
    if min(counts) < 1 or math.prod(counts) != x.shape[2] or x.shape[1] % math.prod(block):
        raise InvalidModel(f"col2im: {list(x.shape)} is no set of blocks {list(block)} of {list(image)}", code="F020")
    channels = x.shape[1] // math.prod(block)
    padded = [b + i + e for b, i, e in zip(geometry.begins, image, geometry.ends, strict=True)]
    hold(16 * x.shape[0] * channels * math.prod(padded))
    columns = wide(x).reshape(x.shape[0], channels, *block, *counts)
    made = np.zeros((x.shape[0], channels, *padded), columns.dtype)
    for tap in np.ndindex(*block):
        spans = (
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, geometry.dilations, counts, geometry.strides, strict=True)
        )
        made[(slice(None), slice(None), *spans)] += columns[(slice(None), slice(None), *tap)]
    inner = (slice(b, b + i) for b, i in zip(geometry.begins, image, strict=True))
    return narrow(np.ascontiguousarray(made[(slice(None), slice(None), *inner)]), x.dtype)


@kernel("deform_conv")
def deform_conv(x, w, offset, b=None, mask=None, *, strides, pads, dilations, groups, offset_groups) -> Array:
    """Per image: columns [C, taps, places] of interpolated elements, then one product with the weights per group."""
    geometry = window(w.shape[2:], strides, pads, dilations)
    sizes: Any = output_sizes(geometry, x.shape[2:])
    taps, places, rank = math.prod(geometry.kernel), math.prod(sizes), len(sizes)
    hold(8 * x.shape[1] * taps * places * 2)
    moves = wide(offset).reshape(x.shape[0], offset_groups, taps, rank, places)
    shares = None if mask is None else wide(mask).reshape(x.shape[0], offset_groups, taps, places)
    at = _regular_places(geometry, sizes)
    weights = wide(w).reshape(groups, w.shape[0] // groups, -1)
    y = np.empty((x.shape[0], w.shape[0], places))
    for n, image in enumerate(wide(x)):
        parts = image.reshape(offset_groups, x.shape[1] // offset_groups, -1)
        columns = np.stack([_sampled(part, at + move, x.shape[2:]) for part, move in zip(parts, moves[n], strict=True)])
        if shares is not None:
            columns *= shares[n][:, None]
        np.matmul(weights, columns.reshape(groups, -1, places), out=y[n].reshape(groups, -1, places))
    if b is not None:
        y += wide(b)[:, None]
    return narrow(y.reshape(*y.shape[:2], *sizes), x.dtype)


def _regular_places(geometry, sizes: tuple[int, ...]) -> Array:
    """[taps, rank, places]: where an ordinary convolution reads."""
    starts = np.indices(sizes).reshape(len(sizes), -1)
    steps = np.indices(geometry.kernel).reshape(len(sizes), -1)
    strides, dilations, begins = (np.asarray(v) for v in (geometry.strides, geometry.dilations, geometry.begins))
    return (starts * strides[:, None] - begins[:, None])[None] + (steps * dilations[:, None]).T[:, :, None]


def _sampled(images: Array, at: Array, sizes: tuple[int, ...]) -> Array:
    """images [C, prod(sizes)] interpolated linearly at places [taps, rank, P]: [C, taps, P]; zero beyond the edge."""
    first = np.floor(at)
    made: Array = np.zeros((images.shape[0], at.shape[0], at.shape[2]))
    for corner in itertools.product((0, 1), repeat=len(sizes)):
        index: Any = 0
        weight: Any = 1.0
        for axis, (step, size) in enumerate(zip(corner, sizes, strict=True)):
            place = first[:, axis] + step
            inside = (place >= 0) & (place < size)
            weight = weight * np.where(inside, 1.0 - np.abs(at[:, axis] - place), 0.0)
            index = index * size + np.where(inside, place, 0.0).astype(np.int64)
        made += np.where(weight == 0.0, 0.0, images[:, index] * weight)
    return made


# Regions of interest.


@kernel("roi_align")
def roi_align(
    x, rois, batch_indices, *, mode, coordinate_transformation_mode, output_height, output_width, sampling_ratio, spatial_scale
) -> Array:  # fmt: skip
    """Bilinear sampling is separable: two matrices per region take its image to averages of points, or to points."""
    data = wide(x)
    images = checked(batch_indices, x.shape[0], "roi_align")
    half = coordinate_transformation_mode == "half_pixel"
    kind = np.float64 if rois.dtype == np.float64 else np.float32
    scaled = rois.astype(kind) * kind(spatial_scale) - kind(0.5 if half else 0.0)
    spend(len(rois) * x.shape[1] * output_height * (x.shape[2] + output_width) * x.shape[3])
    y = np.zeros((len(rois), x.shape[1], output_height, output_width))
    for n, (image, (left, top, right, bottom)) in enumerate(zip(images, scaled, strict=True)):
        rows = _points(top, bottom, output_height, sampling_ratio, half, x.shape[2])
        columns = _points(left, right, output_width, sampling_ratio, half, x.shape[3])
        y[n] = (_mean_of_points if mode == "avg" else _largest_corner)(data[image], rows, columns)
    return narrow(y, x.dtype)


def _points(first: Any, last: Any, bins: int, ratio: int, half: bool, size: int) -> tuple[Array, Array]:
    """Positions and weights [2, bins, points] of the neighbours of each sampled point along one axis of `size`."""
    extent = last - first if half else max(last - first, type(first)(1))
    if not np.isfinite(extent):
        raise InvalidModel(f"roi_align: a region from {first} to {last}", code="F020")
    width = extent / type(first)(bins)
    count = ratio if ratio > 0 else max(math.ceil(width), 0)
    hold(64 * bins * count + 8 * bins * size)
    spend(40 * bins * count)
    at = float(first) + float(width) * (np.arange(bins)[:, None] + (np.arange(count) + 0.5) / max(count, 1))
    inside = (at >= -1.0) & (at <= size)
    at = np.clip(at, 0.0, size - 1.0)
    low = np.floor(at)
    weights = np.stack([1.0 - (at - low), at - low]) * inside
    return np.stack([low, np.minimum(low + 1, size - 1)]).astype(np.int64), weights


def _mean_of_points(image: Array, rows: tuple[Array, Array], columns: tuple[Array, Array]) -> Array:
    """image [C, H, W] to [C, bins, bins]."""
    down, across = (_averaging(*points, size) for points, size in zip((rows, columns), image.shape[1:], strict=True))
    return down @ image @ across.T


def _averaging(places: Array, weights: Array, size: int) -> Array:
    """[bins, size]: the weights of one axis, summed over the points of a bin and divided by their number."""
    made = np.zeros((places.shape[1], size))
    np.add.at(made, (np.broadcast_to(np.arange(len(made))[None, :, None], places.shape), places), weights)
    return made / max(places.shape[2], 1)


def _largest_corner(image: Array, rows: tuple[Array, Array], columns: tuple[Array, Array]) -> Array:
    """image [C, H, W] to [C, bins, bins]: the largest of all corners times their weights."""
    (down, height, points), (_, width, others) = rows[0].shape, columns[0].shape
    if not points or not others:
        return np.zeros((image.shape[0], height, width))
    hold(32 * image.shape[0] * rows[0].size * columns[0].size)
    spend(20 * image.shape[0] * rows[0].size * columns[0].size)
    corners = image[:, rows[0].reshape(-1)][:, :, columns[0].reshape(-1)]
    corners = corners * (rows[1].reshape(-1)[:, None] * columns[1].reshape(-1))
    return corners.reshape(-1, down, height, points, down, width, others).max(axis=(1, 3, 4, 6))


@kernel("max_roi_pool")
def max_roi_pool(x: Array, rois: Array, *, pooled_shape: tuple[int, int], spatial_scale: float) -> Array:
    """Fast R-CNN's pooling: bounds round half away from zero, a region holds its last pixel, bins may overlap."""
    kind: Any = np.float64 if rois.dtype == np.float64 else np.float32
    scaled = rois[:, 1:].astype(kind) * kind(spatial_scale)
    if not np.isfinite(wide(rois)).all():
        raise InvalidModel("max_roi_pool: a region is not finite", code="F020")
    bounds = np.sign(scaled) * np.floor(np.abs(scaled) + kind(0.5))
    images = checked(wide(rois[:, 0]), x.shape[0], "max_roi_pool")
    spend(x.shape[1] * len(rois) * math.prod(x.shape[2:]))
    y = np.zeros((len(rois), x.shape[1], *pooled_shape), x.dtype)
    for n, (left, top, right, bottom) in enumerate(bounds.tolist()):
        rows = _bins(int(top), int(bottom), pooled_shape[0], x.shape[2])
        columns = _bins(int(left), int(right), pooled_shape[1], x.shape[3])
        for (i, down), (j, across) in itertools.product(enumerate(rows), enumerate(columns)):
            if down and across:
                part = x[images[n], :, down.start : down.stop, across.start : across.stop]
                y[n, :, i, j] = narrow(wide(part).max(axis=(1, 2)), x.dtype)
    return y


def _bins(first: int, last: int, count: int, size: int) -> list[range]:
    """The pixels of each of `count` bins of the region first..last, cut to the image."""
    extent = max(last - first + 1, 1)
    ends = ((first + i * extent // count, first - (-(i + 1) * extent // count)) for i in range(count))
    return [range(min(max(a, 0), size), min(max(b, 0), size)) for a, b in ends]


# Detection.


@kernel("non_max_suppression")
def non_max_suppression(
    boxes: Array,
    scores: Array,
    max_output_boxes_per_class: Array | None = None,
    iou_threshold: Array | None = None,
    score_threshold: Array | None = None,
    *,
    center_point_box: bool,
) -> Array:
    """Greedy selection in float32, the boxes' own dtype: whether an overlap is above the threshold must not depend on a
    wider one. Of equal scores the first box wins. A score at the threshold is not above it, as in all runtimes."""
    most = 0 if max_output_boxes_per_class is None else as_ints(max_output_boxes_per_class)[0]
    overlap = np.float32(0.0) if iou_threshold is None else iou_threshold.reshape(-1)[0]
    least = None if score_threshold is None else score_threshold.reshape(-1)[0]
    selected = [np.zeros((0, 3), np.int64)]
    for batch, corners in enumerate(_corners(boxes, center_point_box)):
        for label, marks in enumerate(scores[batch]):
            kept = _suppressed(corners, marks, most, overlap, least)
            selected.append(np.stack([np.full_like(kept, batch), np.full_like(kept, label), kept], axis=1))
    return np.concatenate(selected)


def _corners(boxes: Array, center_point_box: bool) -> Array:
    """[B, N, 4]: two lower and two upper coordinates, in float32."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if center_point_box:
        half = second / np.float32(2)
        return np.concatenate([first - half, first + half], axis=-1)
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=-1)


#: Multiply-adds that take as long as the overlap of two boxes: a dozen passes over arrays.
MEETING = 1000


def _suppressed(corners: Array, scores: Array, most: int, overlap: Any, least: Any) -> Array:
    """The boxes that are kept, best first."""
    order = np.argsort(-scores, kind="stable")
    if least is not None:
        order = order[scores[order] > least]
    areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    kept: list[int] = []
    while order.size and len(kept) < most:
        spend(MEETING * order.size)
        best, order = order[0], order[1:]
        kept.append(int(best))
        shared = np.minimum(corners[best, 2:], corners[order, 2:]) - np.maximum(corners[best, :2], corners[order, :2])
        meeting = (shared > 0).all(axis=1) & (areas[best] > 0) & (areas[order] > 0)
        common = np.prod(shared, axis=1)
        union = areas[best] + areas[order] - common
        order = order[~(meeting & (common > 0) & (union > 0) & (common / union > overlap))]
    return np.asarray(kept, np.int64)


# Decoding.

#: The formats that ONNX names, as Pillow calls them. No other is tried: some start programs.
FORMATS = ("BMP", "JPEG", "JPEG2000", "TIFF", "PNG", "WEBP", "PPM")


@kernel("image_decoder")
def image_decoder(encoded_stream: Array, *, pixel_format: str) -> Array:
    """u8 [H, W, C] in row-major order; [0, 0, C] for what Pillow cannot decode. The size that the header declares is
    held against the budget before any pixel is decoded."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingPackage("decoding images needs Pillow", hint='pip install "anyir[image]"') from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded_stream.tobytes()), formats=FORMATS) as image:
                hold(16 * image.width * image.height)
                return _pixels(image, pixel_format)
    except (AnyIRError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise OverBudget(f"an encoded image is too large: {error}") from None
    except Exception as error:  # whatever a decoder meets in a broken file: ONNX wants an empty image then
        if isinstance(error, OSError) and "not available" in str(error):
            raise MissingPackage(f"this Pillow lacks a decoder: {error}") from None
        return np.zeros((0, 0, PIXEL_FORMATS[pixel_format]), np.uint8)


def _pixels(image: Any, pixel_format: str) -> Array:
    """The pixels of an opened image; of 16 bits the upper 8 (Pillow's own conversion cuts them off at 255)."""
    if image.mode.startswith("I"):
        from PIL import Image

        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    pixels = np.asarray(image.convert("L" if pixel_format == "Grayscale" else "RGB"))
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return np.ascontiguousarray(pixels[..., ::-1] if pixel_format == "BGR" else pixels)
