"""Vision kernels against torch, onnxruntime and loops that follow the operators' documents pixel by pixel."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from anyir.ir.errors import InvalidModel, LimitExceeded, MissingPackage
from anyir.kernels.budget import Budget, spending

Call = Callable[..., Any]
rng = np.random.default_rng(11)

# Columns to images.


@pytest.mark.parametrize(
    ("image", "block", "attrs"),
    [
        ((5, 6), (2, 3), {}),
        ((7, 6), (3, 2), {"strides": (2, 1), "pads": (1, 0, 1, 0)}),
        ((6, 8), (2, 2), {"dilations": (2, 3), "strides": (2, 2), "pads": (0, 1, 0, 1)}),
    ],
)
def test_col2im_is_torchs_fold(call: Call, image: tuple, block: tuple, attrs: dict) -> None:
    torch = pytest.importorskip("torch")
    strides, dilations = attrs.get("strides", (1, 1)), attrs.get("dilations", (1, 1))
    pads = attrs.get("pads", (0, 0, 0, 0))[:2]
    images = torch.from_numpy(rng.standard_normal((2, 3, *image)))
    geometry = {"kernel_size": block, "stride": strides, "dilation": dilations, "padding": pads}
    columns = torch.nn.functional.unfold(images, **geometry)
    wanted = torch.nn.functional.fold(columns, image, **geometry)
    np.testing.assert_allclose(
        call("col2im", columns.numpy(), np.array(image), np.array(block), **attrs), wanted, atol=1e-12
    )


def test_col2im_with_uneven_pads_other_ranks_and_dtypes(call: Call) -> None:
    """Counting: each pixel is covered by as many blocks as reach it."""
    made = call("col2im", np.ones((1, 3, 5), np.int16), np.array([4]), np.array([3]), pads=(1, 2))
    assert made.dtype == np.int16 and made.tolist() == [[[2, 3, 3, 3]]]
    volume = call("col2im", np.ones((1, 8, 8), np.uint8), np.array([3, 3, 3]), np.array([2, 2, 2]))
    assert volume.shape == (1, 1, 3, 3, 3) and volume[0, 0, 1, 1, 1] == 8 and volume[0, 0, 0, 0, 0] == 1
    z = call("col2im", np.full((1, 2, 2), 1 + 2j, np.complex64), np.array([3]), np.array([2]))
    assert z.tolist() == [[[1 + 2j, 2 + 4j, 1 + 2j]]]
    with pytest.raises(InvalidModel):
        call("col2im", np.ones((1, 3, 4)), np.array([4]), np.array([3]))


# Deformable convolution.


def deformed(
    x: np.ndarray, w: np.ndarray, offset: np.ndarray, mask: np.ndarray, strides, pads, dilations, offset_groups
):
    """Tap by tap, in any number of dims; one group of weights."""
    rank, kernel, sizes = x.ndim - 2, w.shape[2:], offset.shape[2:]
    taps = list(np.ndindex(*kernel))
    moves = offset.reshape(len(x), offset_groups, len(taps), rank, *sizes)
    shares = mask.reshape(len(x), offset_groups, len(taps), *sizes)
    y = np.zeros((len(x), len(w), *sizes))
    for n, c, (t, tap), place in itertools.product(
        range(len(x)), range(x.shape[1]), enumerate(taps), np.ndindex(*sizes)
    ):
        g = c // (x.shape[1] // offset_groups)
        at = [
            place[i] * strides[i] - pads[i] + tap[i] * dilations[i] + moves[(n, g, t, i, *place)] for i in range(rank)
        ]
        y[(n, slice(None), *place)] += w[(slice(None), c, *tap)] * between(x[n, c], at) * shares[(n, g, t, *place)]
    return y


def between(image: np.ndarray, at: list[float]) -> float:
    """Linear interpolation with zeros beyond the edge."""
    total = 0.0
    for corner in itertools.product((0, 1), repeat=image.ndim):
        place = [int(np.floor(a)) + c for a, c in zip(at, corner, strict=True)]
        if all(0 <= p < s for p, s in zip(place, image.shape, strict=True)):
            total += image[tuple(place)] * np.prod([1 - abs(a - p) for a, p in zip(at, place, strict=True)])
    return total


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_deform_conv(call: Call, rank: int) -> None:
    size, kernel = (5, 6, 4)[:rank], (2, 3, 2)[:rank]
    strides, dilations, pads = (2, 1, 1)[:rank], (1, 2, 1)[:rank], (1, 1, 0)[:rank]
    spans = zip(size, kernel, strides, dilations, pads, strict=True)
    sizes = tuple((s + 2 * p - (k - 1) * d - 1) // st + 1 for s, k, st, d, p in spans)
    taps = int(np.prod(kernel))
    x, w, b = rng.standard_normal((2, 4, *size)), rng.standard_normal((3, 4, *kernel)), rng.standard_normal(3)
    offset, mask = rng.uniform(-2, 2, (2, 2 * taps * rank, *sizes)), rng.uniform(0, 1, (2, 2 * taps, *sizes))
    attrs = {"strides": strides, "pads": (*pads, *pads), "dilations": dilations, "offset_groups": 2}
    made = call("deform_conv", x, w, offset, b, mask, **attrs)
    wanted = deformed(x, w, offset, mask, strides, pads, dilations, 2) + b.reshape(-1, *(1,) * rank)
    np.testing.assert_allclose(made, wanted, atol=1e-12)


def test_deform_conv_that_moves_nothing_is_a_convolution(call: Call) -> None:
    x, w = rng.standard_normal((2, 6, 7, 5)).astype(np.float32), rng.standard_normal((4, 3, 3, 2)).astype(np.float32)
    geometry = {"strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 2), "groups": 2}
    plain = call("conv", x, w, **geometry)
    still = np.zeros((2, 2 * 6, *plain.shape[2:]), np.float32)
    np.testing.assert_allclose(call("deform_conv", x, w, still, **geometry), plain, atol=1e-6)


# Regions of interest.

ROIS = np.array([[0, 0, 9, 7], [2.5, 1.2, 6.1, 7.9], [-3, -2, 4, 4], [7, 5, 30, 31], [5, 5, 4, 4]], np.float32)
WHICH = np.array([0, 1, 1, 0, 1])


def regions(x, rois, which, mode, half, bins, ratio, scale):
    """The document's algorithm, point by point."""
    y = np.zeros((len(rois), x.shape[1], *bins))
    for n, roi in enumerate(rois.astype(np.float64) * scale - (0.5 if half else 0.0)):
        left, top, right, bottom = roi
        extent = [bottom - top, right - left] if half else [max(bottom - top, 1.0), max(right - left, 1.0)]
        step = [e / b for e, b in zip(extent, bins, strict=True)]
        count = [ratio or max(int(np.ceil(s)), 0) for s in step]
        for i, j in np.ndindex(*bins):
            found = []
            for a, b in np.ndindex(*count):
                at = top + step[0] * (i + (a + 0.5) / count[0]), left + step[1] * (j + (b + 0.5) / count[1])
                found.append(corners(x[which[n]], *at))
            if found:
                points = np.array(found)
                y[n, :, i, j] = points.sum(axis=1).mean(axis=0) if mode == "avg" else points.max(axis=(0, 1))
    return y


def corners(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """[4, C]: the neighbours of a point times their weights."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros((4, image.shape[0]))
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    r, c = int(y), int(x)
    below, beside = min(r + 1, height - 1), min(c + 1, width - 1)
    v, u = y - r, x - c
    return np.stack([
        image[:, r, c] * (1 - v) * (1 - u), image[:, r, beside] * (1 - v) * u,
        image[:, below, c] * v * (1 - u), image[:, below, beside] * v * u,
    ])  # fmt: skip


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize(("ratio", "scale"), [(0, 1.0), (2, 1.0), (3, 0.5), (0, 0.25)])
def test_roi_align(call: Call, mode: str, half: bool, ratio: int, scale: float) -> None:
    x = rng.standard_normal((2, 3, 8, 10))
    attrs = {"mode": mode, "output_height": 3, "output_width": 2, "sampling_ratio": ratio, "spatial_scale": scale}
    attrs["coordinate_transformation_mode"] = "half_pixel" if half else "output_half_pixel"
    made = call("roi_align", x, ROIS.astype(np.float64), WHICH, **attrs)
    np.testing.assert_allclose(made, regions(x, ROIS, WHICH, mode, half, (3, 2), ratio, scale), atol=1e-12)


def test_roi_align_is_torchvisions(call: Call) -> None:
    torchvision = pytest.importorskip("torchvision")
    import torch

    x = rng.standard_normal((2, 3, 8, 10))
    boxes = torch.from_numpy(np.concatenate([WHICH[:, None], ROIS], axis=1)[:4].astype(np.float64))
    for aligned in (True, False):
        wanted = torchvision.ops.roi_align(torch.from_numpy(x), boxes, (3, 2), 0.5, 2, aligned)
        mode = "half_pixel" if aligned else "output_half_pixel"
        attrs = {"output_height": 3, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 0.5}
        made = call(
            "roi_align", x, ROIS[:4].astype(np.float64), WHICH[:4], coordinate_transformation_mode=mode, **attrs
        )
        np.testing.assert_allclose(made, wanted.numpy(), atol=1e-12)


def test_regions_of_no_image_and_of_no_size(call: Call) -> None:
    x = np.ones((1, 1, 4, 4), np.float32)
    for box, which in (([0, 0, 2, 2], 1), ([0, 0, np.nan, 2], 0), ([0, 0, np.inf, 2], 0)):
        with pytest.raises(InvalidModel):
            call("roi_align", x, np.array([box], np.float32), np.array([which]))
    with pytest.raises(LimitExceeded), spending(Budget(10**9, 10**7)):
        call("roi_align", x, np.array([[0, 0, 1e9, 2]], np.float32), np.array([0]))
    assert call("roi_align", x, np.zeros((0, 4), np.float32), np.zeros(0, np.int64)).shape == (0, 1, 1, 1)


def test_max_roi_pool_in_narrow_floats(call: Call) -> None:
    x = rng.standard_normal((1, 2, 6, 6)).astype(ml_dtypes.bfloat16)
    made = call("max_roi_pool", x, np.array([[0, 1, 1, 4, 3]]).astype(x.dtype), pooled_shape=(1, 2))
    assert made.dtype == x.dtype
    wanted = [x[0, :, 1:4, 1:3].astype(float).max((1, 2)), x[0, :, 1:4, 3:5].astype(float).max((1, 2))]
    np.testing.assert_array_equal(made[0, :, 0].astype(float), np.stack(wanted, axis=1))


# Box selection.


def selected(boxes, scores, most, overlap, least, centred):
    """Greedy selection with Python loops."""
    found = []
    for b, c in np.ndindex(scores.shape[:2]):
        kept: list[int] = []
        for i in sorted(range(scores.shape[2]), key=lambda i, b=b, c=c: (-scores[b, c, i], i)):
            clear = all(jaccard(boxes[b, i], boxes[b, k], centred) <= overlap for k in kept)
            if len(kept) < most and scores[b, c, i] > least and clear:
                kept.append(i)
        found += [(b, c, i) for i in kept]
    return np.array(found, np.int64).reshape(-1, 3)


def jaccard(a, b, centred):
    spans = []
    for p, q in ((0, 2), (1, 3)):
        ends = [(v[p] - v[q] / 2, v[p] + v[q] / 2) if centred else sorted((v[p], v[q])) for v in (a, b)]
        spans.append((ends[0], ends[1], max(0.0, min(ends[0][1], ends[1][1]) - max(ends[0][0], ends[1][0]))))
    common = spans[0][2] * spans[1][2]
    areas = [(spans[0][i][1] - spans[0][i][0]) * (spans[1][i][1] - spans[1][i][0]) for i in (0, 1)]
    return common / (sum(areas) - common) if common > 0 else 0.0


@pytest.mark.parametrize("centred", [False, True])
def test_non_max_suppression(call: Call, centred: bool) -> None:
    boxes = rng.uniform(0, 10, (3, 40, 4)).astype(np.float32)
    scores = np.round(rng.uniform(0, 1, (3, 2, 40)), 1).astype(np.float32)  # with equal ones among them
    for most, overlap, least in ((40, 0.3, 0.0), (5, 0.5, 0.35), (1, 0.0, 0.0), (0, 0.5, 0.0), (40, 1.0, -1.0)):
        given = np.array(most), np.array(overlap, np.float32), np.array(least, np.float32)
        made = call("non_max_suppression", boxes, scores, *given, center_point_box=centred)
        np.testing.assert_array_equal(made, selected(boxes, scores, most, overlap, least, centred))
    assert call("non_max_suppression", boxes, scores).shape == (0, 3)


# Decoding.


def encoded(kind: str, mode: str = "RGB", **options: Any) -> tuple[np.ndarray, np.ndarray]:
    image = pytest.importorskip("PIL.Image")
    pixels = rng.integers(0, 256, (5, 7) if mode == "L" else (5, 7, len(mode))).astype(np.uint8)
    buffer = io.BytesIO()
    image.fromarray(pixels, mode if mode == "RGBA" else None).save(buffer, kind, **options)
    return np.frombuffer(buffer.getvalue(), np.uint8), pixels


@pytest.mark.parametrize("kind", ["BMP", "PNG", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_lossless_formats_give_the_pixels_back(call: Call, kind: str) -> None:
    data, pixels = encoded(kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(call("image_decoder", data), pixels)
    np.testing.assert_array_equal(call("image_decoder", data, pixel_format="BGR"), pixels[..., ::-1])
    grey = call("image_decoder", data, pixel_format="Grayscale")
    luma = pixels.astype(np.float64) @ (0.299, 0.587, 0.114)  # ITU-R BT.601
    assert grey.shape == (5, 7, 1) and np.abs(grey[..., 0] - luma).max() <= 1


def test_grey_and_transparent_images(call: Call) -> None:
    data, pixels = encoded("PNG", "L")
    np.testing.assert_array_equal(call("image_decoder", data), np.repeat(pixels[..., None], 3, axis=2))
    np.testing.assert_array_equal(call("image_decoder", data, pixel_format="Grayscale")[..., 0], pixels)
    data, pixels = encoded("PNG", "RGBA")
    np.testing.assert_array_equal(call("image_decoder", data), pixels[..., :3])


def test_sixteen_bits_keep_the_upper_eight(call: Call) -> None:
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    wide = rng.integers(0, 1 << 16, (4, 3)).astype(np.uint16)
    image.fromarray(wide).save(buffer, "PNG")
    made = call("image_decoder", np.frombuffer(buffer.getvalue(), np.uint8), pixel_format="Grayscale")
    np.testing.assert_array_equal(made[..., 0], wide >> 8)


def test_what_cannot_be_decoded_is_empty(call: Call) -> None:
    data, _ = encoded("PNG")
    gif, _ = encoded("GIF", "L")
    for broken in (data[:40], data[:0], np.zeros(100, np.uint8), gif):
        assert call("image_decoder", broken).shape == (0, 0, 3)
    assert call("image_decoder", data[:9], pixel_format="Grayscale").shape == (0, 0, 1)


def test_the_declared_size_is_held_against_the_budget(call: Call) -> None:
    pytest.importorskip("PIL")
    bomb = np.frombuffer(b"P6 12000 12000 255\n", np.uint8)
    with pytest.raises(LimitExceeded), spending(Budget(10**12, 10**8)):
        call("image_decoder", bomb)


def test_without_pillow(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingPackage, match=r"anyir\[image\]"):
        call("image_decoder", np.zeros(4, np.uint8))
