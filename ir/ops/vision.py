"""Images and detection: blocks to images, deformable convolution, regions of interest, box selection, decoding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Dim, Expr, dim_eq
from ..errors import TypeInferError
from ..opdef import Axis, AxisMap, DtypeVar, OpDef, Sample, attr, ints, op, operand, optional
from ..types import BOOL, F32, I64, INDEX, NUMERIC, U8, TensorType
from . import rules
from .conv import conv_shape
from .sampling import draw, i64
from .shapes import FLOATS, entries
from .signal import scalar_dim
from .window import output_sizes, window

if TYPE_CHECKING:
    from ..value import Value

T = DtypeVar("T", FLOATS)
SCALAR = frozenset({F32})
PIXEL_FORMATS = {"RGB": 3, "BGR": 3, "Grayscale": 1}


@op
class Col2im(OpDef):
    """Sum the columns of x [N, C * prod(block_shape), L], L sliding blocks, into images [N, C, *image_shape]
    (ONNX Col2Im-18, torch fold). Of bools the sum is `or`."""

    x = operand(DtypeVar("E", NUMERIC | {BOOL}))
    image_shape = operand(INDEX)
    block_shape = operand(INDEX)
    dilations = attr(ints, ())
    pads = attr(ints, ())
    strides = attr(ints, ())
    reads_elems = True

    def infer(self, x, image_shape, block_shape, **geometry):
        shape = rules.ranked(x, "x", 3)
        image, block = entries(image_shape), entries(block_shape)
        if shape is None or image is None:
            return TensorType(x.dtype, None)
        spatial = tuple(Expr.fresh() if d is None else d for d in image)
        taps = _ints(block)
        if taps is None:
            return TensorType(x.dtype, (shape[0], Expr.fresh(), *spatial))
        if len(taps) != len(spatial):
            raise TypeInferError(f"blocks of rank {len(taps)} for images of rank {len(spatial)}")
        counts = output_sizes(window(taps, **geometry), spatial)
        if isinstance(shape[1], int) and shape[1] % math.prod(taps):
            raise TypeInferError(f"{shape[1]} rows are no multiple of the {math.prod(taps)} elements of a block")
        if all(isinstance(c, int) for c in counts):
            if min(counts, default=0) < 1:  # type: ignore[type-var]
                raise TypeInferError(f"blocks of {list(taps)} do not fit images of {rules.show(spatial)}")
            rules.agree(shape[2], math.prod(counts), "number of blocks")  # type: ignore[arg-type]
        return TensorType(x.dtype, (shape[0], shape[1] // math.prod(taps), *spatial))

    def axes(self, x, image_shape, block_shape, **geometry):
        count = entries(image_shape)
        if x.rank is None or count is None:
            return None
        row = (Axis("n"), None, None)
        return AxisMap((row, (None,), (None,)), ((Axis("n"), *(None,) * (len(count) + 1)),))

    def samples(self, rng: np.random.Generator):
        shapes = ("image_shape", "block_shape")
        yield Sample((draw(rng, (2, 10, 5)), i64(5, 5), i64(1, 5)), {}, shapes)
        yield Sample((draw(rng, (1, 9, 4)), i64(5, 5), i64(3, 3)), {"strides": (2, 2)}, shapes)
        yield Sample((draw(rng, (1, 10, 15)), i64(5, 5), i64(1, 5)), {"pads": (0, 1, 0, 1)}, shapes)
        yield Sample((draw(rng, (1, 4, 10)), i64(6, 4), i64(2, 2)), {"dilations": (1, 2)}, shapes)
        yield Sample((draw(rng, (1, 10, 12)), i64(3, 4, 5), i64(1, 1, 5)), {}, shapes)


def _ints(elems: tuple[Any, ...] | None) -> tuple[int, ...] | None:
    return elems if elems is not None and all(isinstance(e, int) for e in elems) else None


def _expect(value: Value | None, wanted: tuple[Dim, ...], what: str) -> None:
    """Raises TypeInferError when an operand surely has another shape."""
    shape = rules.ranked(value, what, len(wanted))
    if shape is not None and any(dim_eq(a, e) is False for a, e in zip(shape, wanted, strict=True)):
        raise TypeInferError(f"{what} is {rules.show(shape)}, expected {rules.show(wanted)}")


@op
class DeformConv(OpDef):
    """Convolution whose taps are moved: x [N, C, *S], w [O, C/groups, *K], offset [N, G * prod(K) * rank, *S'], b [O],
    mask [N, G * prod(K), *S'], with G offset groups of C / G channels each (ONNX DeformConv-22).

    Between elements x is interpolated linearly, outside of it is zero. The mask weighs each tap.
    """

    x = operand(T)
    w = operand(T)
    offset = operand(T)
    b = optional(T)
    mask = optional(T)
    strides = attr(ints, ())
    pads = attr(ints, ())
    dilations = attr(ints, ())
    groups = attr(int, 1)
    offset_groups = attr(int, 1)

    def infer(self, x, w, offset, b, mask, *, groups, offset_groups, **geometry):
        shape = conv_shape(x, w, groups, False, **geometry)
        if shape is None:
            return TensorType(x.dtype, None)
        rules.expect_vector(b, shape[1], "b")
        if offset_groups < 1 or (isinstance(x.shape[1], int) and x.shape[1] % offset_groups):
            raise TypeInferError(f"{x.shape[1]} channels do not divide into {offset_groups} offset groups")
        kernel = w.shape[2:]
        if any(isinstance(k, Expr) for k in kernel):
            return TensorType(x.dtype, shape)
        taps = offset_groups * math.prod(kernel)
        _expect(offset, (shape[0], taps * len(kernel), *shape[2:]), "offset")
        _expect(mask, (shape[0], taps, *shape[2:]), "mask")
        return TensorType(x.dtype, shape)

    def axes(self, x, w, offset, b, mask, *, groups, **attrs):
        if any(v is not None and v.rank is None for v in (x, w, offset, b, mask)):
            return None
        out = Axis("o") if groups == 1 else None
        held = (None,) * (x.rank - 2)
        rows = ((Axis("n"), None, *held), (out, None, *held), (Axis("n"), None, *held))
        rest = (None if b is None else (out,), None if mask is None else (Axis("n"), None, *held))
        return AxisMap((*rows, *rest), ((Axis("n"), out, *held),))

    def samples(self, rng: np.random.Generator):
        for x, w, size, masked, attrs in DEFORM_SAMPLES:
            taps = attrs.get("offset_groups", 1) * math.prod(w[2:])
            offset = draw(rng, (x[0], taps * len(size), *size), F32, -1.5, 1.5)
            mask = draw(rng, (x[0], taps, *size), F32, 0, 1) if masked else None
            yield Sample((draw(rng, x), draw(rng, w), offset, draw(rng, w[:1]) if masked else None, mask), attrs)


DEFORM_SAMPLES: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool, dict[str, Any]], ...] = (
    ((1, 1, 3, 3), (1, 1, 2, 2), (2, 2), False, {}),
    ((2, 4, 5, 4), (3, 4, 2, 2), (6, 5), True, {"pads": (1, 1, 1, 1), "offset_groups": 2}),
    ((1, 4, 7, 6), (6, 2, 3, 2), (3, 2), True, {"groups": 2, "strides": (2, 2), "dilations": (1, 2)}),
)


@op
class RoiAlign(OpDef):
    """Pool bins of regions of images x [N, C, H, W] at sampled points: [R, C, output_height, output_width]
    (ONNX RoiAlign-22).

    rois [R, 4] are x1, y1, x2, y2, scaled by `spatial_scale`; batch_indices [R] name their images. half_pixel moves
    them by half a pixel; output_half_pixel does not, and makes a region at least 1 wide. A bin has sampling_ratio
    points along each axis (0: one per pixel, rounded up), each interpolated linearly. Mode max takes the largest
    weighted corner of all points, as ONNX defines it, not the largest point.
    """

    x = operand(T)
    rois = operand(T)
    batch_indices = operand(INDEX)
    mode = attr(str, "avg", choices=("avg", "max"))
    coordinate_transformation_mode = attr(str, "half_pixel", choices=("half_pixel", "output_half_pixel"))
    output_height = attr(int, 1)
    output_width = attr(int, 1)
    sampling_ratio = attr(int, 0)
    spatial_scale = attr(float, 1.0)

    def infer(self, x, rois, batch_indices, *, output_height, output_width, sampling_ratio, **attrs):
        if min(output_height, output_width) < 1 or sampling_ratio < 0:
            raise TypeInferError(f"{output_height} x {output_width} bins, sampling_ratio {sampling_ratio}")
        return _pooled_regions(x, rois, 4, (output_height, output_width), batch_indices)

    def axes(self, x, rois, batch_indices, **attrs):
        rows = ((None, Axis("c"), None, None), (Axis("r"), None), (Axis("r"),))
        return AxisMap(rows, ((Axis("r"), Axis("c"), None, None),))

    def samples(self, rng: np.random.Generator):
        x = draw(rng, (2, 3, 8, 10))
        rois = np.array([[0, 0, 9, 7], [2.5, 1.2, 6.1, 7.9], [-3, -2, 4, 4], [7, 5, 12, 11]], np.float32)
        which = i64(0, 1, 1, 0)
        base = {"output_height": 3, "output_width": 2}
        yield Sample((x, rois, which), base)
        yield Sample((x, rois, which), base | {"sampling_ratio": 2, "spatial_scale": 0.5})
        yield Sample((x, rois, which), base | {"coordinate_transformation_mode": "output_half_pixel"})
        yield Sample((x, rois, which), base | {"mode": "max", "sampling_ratio": 3})


def _pooled_regions(
    x: Value, rois: Value, columns: int, bins: tuple[int, int], batch_indices: Value | None = None
) -> TensorType:
    """[R, C, *bins] for x [N, C, H, W] and rois [R, columns]. Raises TypeInferError."""
    shape, regions = rules.ranked(x, "x", 4), rules.ranked(rois, "rois", 2)
    images = rules.ranked(batch_indices, "batch_indices", 1)
    count: Dim | None = None
    if regions is not None:
        rules.agree(regions[1], columns, f"columns of rois {rules.show(regions)}")
        count = regions[0]
    if images is not None:
        count = images[0] if count is None else rules.agree(count, images[0], "regions and their images")
    channels = Expr.fresh() if shape is None else shape[1]
    return TensorType(x.dtype, (Expr.fresh() if count is None else count, channels, *bins))


@op
class MaxRoiPool(OpDef):
    """The largest element in each bin of regions of x [N, C, H, W]: [R, C, *pooled_shape]; 0 for an empty bin
    (ONNX MaxRoiPool-22). rois [R, 5] are image number, x1, y1, x2, y2, scaled and rounded to whole pixels."""

    x = operand(T)
    rois = operand(T)
    pooled_shape = attr(ints)
    spatial_scale = attr(float, 1.0)

    def infer(self, x, rois, *, pooled_shape, spatial_scale):
        if len(pooled_shape) != 2 or min(pooled_shape) < 1:
            raise TypeInferError(f"pooled_shape is {list(pooled_shape)}: a height and a width are expected")
        return _pooled_regions(x, rois, 5, pooled_shape)

    def axes(self, x, rois, **attrs):
        return AxisMap(((None, Axis("c"), None, None), (Axis("r"), None)), ((Axis("r"), Axis("c"), None, None),))

    def samples(self, rng: np.random.Generator):
        rois = np.array([[0, 0, 0, 9, 7], [1, 2, 1, 6, 7], [1, 5, 5, 5, 5], [0, 8, 6, 20, 20]], np.float32)
        x = draw(rng, (2, 3, 8, 10))
        yield Sample((x, rois), {"pooled_shape": (2, 3)})
        yield Sample((x, rois * np.array([1, 2, 2, 2, 2], np.float32)), {"pooled_shape": (3, 3), "spatial_scale": 0.5})


@op
class NonMaxSuppression(OpDef):
    """i64[count, 3] of (batch, class, box): per class the best boxes that overlap no better one by more than
    `iou_threshold` (ONNX NonMaxSuppression-11).

    boxes [B, N, 4] are two opposite corners y, x, y, x, or with center_point_box x and y of the centre, width, height.
    scores [B, C, N]; at most max_output_boxes_per_class (0) boxes whose score is above score_threshold, if given.
    """

    boxes = operand(SCALAR)
    scores = operand(SCALAR)
    max_output_boxes_per_class = optional(INDEX)
    iou_threshold = optional(SCALAR)
    score_threshold = optional(SCALAR)
    center_point_box = attr(bool, False)
    results = ("selected_indices",)
    reads_elems = True

    def infer(self, boxes, scores, max_output_boxes_per_class, iou_threshold, score_threshold, *, center_point_box):
        corners, marks = rules.ranked(boxes, "boxes", 3), rules.ranked(scores, "scores", 3)
        if corners is not None:
            rules.agree(corners[2], 4, "coordinates of a box")
        if corners is not None and marks is not None:
            rules.agree(corners[0], marks[0], "batch of boxes and scores")
            rules.agree(corners[1], marks[2], "number of boxes and scores")
        most = scalar_dim(max_output_boxes_per_class, "max_output_boxes_per_class")
        for name, value in (("iou_threshold", iou_threshold), ("score_threshold", score_threshold)):
            scalar_dim(value, name)
        none = max_output_boxes_per_class is None or (isinstance(most, int) and most <= 0)
        return TensorType(I64, (0 if none else Expr.fresh(), 3))

    def samples(self, rng: np.random.Generator):
        low = rng.uniform(0, 8, (2, 9, 2))
        corners = np.concatenate([low, low + rng.uniform(1, 6, (2, 9, 2))], axis=2).astype(np.float32)
        scores = draw(rng, (2, 3, 9), F32, 0, 1)
        most, iou, least = np.asarray(4, np.int64), np.float32(0.3), np.float32(0.2)
        yield Sample((corners, scores, most, np.asarray(iou), np.asarray(least)))
        yield Sample((corners, scores, most, np.asarray(iou)), {"center_point_box": True})
        yield Sample((corners, np.zeros_like(scores), np.asarray(3, np.int64)))
        yield Sample((corners, scores))


@op
class ImageDecoder(OpDef):
    """u8 [H, W, C] of an encoded image, a vector of u8: BMP, JPEG, JPEG 2000, TIFF, PNG, WebP or PNM
    (ONNX ImageDecoder-20). What cannot be decoded gives an empty image."""

    encoded_stream = operand(frozenset({U8}))
    pixel_format = attr(str, "RGB", choices=tuple(PIXEL_FORMATS))
    results = ("image",)
    reads_elems = True

    def infer(self, encoded_stream, *, pixel_format):
        rules.ranked(encoded_stream, "encoded_stream", 1)
        return TensorType(U8, (Expr.fresh(), Expr.fresh(), PIXEL_FORMATS[pixel_format]))

    def samples(self, rng: np.random.Generator):
        pixels = rng.integers(0, 256, (2, 3, 3)).astype(np.uint8)
        portable = np.frombuffer(b"P6 3 2 255\n" + pixels.tobytes(), np.uint8)
        for pixel_format in PIXEL_FORMATS:
            yield Sample((portable,), {"pixel_format": pixel_format})
