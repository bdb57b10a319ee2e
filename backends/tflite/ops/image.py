"""TFLite's ops over images [N, H, W, C]: convolutions, pools and resizes, each with its kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....ir.errors import TypeInferError
from ....ir.opdef import PURE, SAME_QUANT, OpDef, attr, op, operand
from ....ir.ops.rules import agree
from ....ir.types import F32, I8, I16, TensorType
from ....kernels.registry import get_kernel, kernel
from .common import FLOATS, INDICES, PADDINGS, Fused, activated, auto_pad, image, windows

STORED = FLOATS | {I8, I16}


@op(name="tfl.conv_2d")
class Conv2D(Fused):
    """Convolution of x [N, H, W, C] with w [O, KH, KW, C / groups] and bias b [O]; SAME puts the odd pad at the end."""

    x = operand(FLOATS)
    w = operand(FLOATS)
    b = operand(FLOATS)
    padding = attr(str, "VALID", choices=PADDINGS)
    stride_w = attr(int, 1)
    stride_h = attr(int, 1)
    dilation_w_factor = attr(int, 1)
    dilation_h_factor = attr(int, 1)

    def infer(self, x, w, b, *, padding, stride_w, stride_h, dilation_w_factor, dilation_h_factor, **_):
        n, h, width, c = image(x, self.name)
        o, kh, kw, per_group = image(w, self.name)
        if isinstance(c, int) and (c % per_group or o % (c // per_group)):
            raise TypeInferError(f"{c} channels do not fit filters {w.type}")
        rows = windows(h, kh, stride_h, dilation_h_factor, padding)
        return TensorType(x.dtype, (n, rows, windows(width, kw, stride_w, dilation_w_factor, padding), o))


@kernel("tfl.conv_2d")
def _conv_2d(x, w, b, *, padding, stride_w, stride_h, dilation_w_factor, dilation_h_factor, fused_activation_function):
    y = get_kernel("conv")(
        x,
        np.ascontiguousarray(w.transpose(0, 3, 1, 2)),
        b,
        strides=(stride_h, stride_w),
        pads=(),
        dilations=(dilation_h_factor, dilation_w_factor),
        groups=x.shape[3] // w.shape[3],
        auto_pad=auto_pad(padding),
        channels_last=True,
    )
    return activated(y, fused_activation_function)


@op(name="tfl.depthwise_conv_2d")
class DepthwiseConv2D(Fused):
    """Each channel c of x [N, H, W, C] with its own filters in w [1, KH, KW, C * m]: outputs c * m to c * m + m - 1."""

    x = operand(FLOATS)
    w = operand(FLOATS)
    b = operand(FLOATS)
    padding = attr(str, "VALID", choices=PADDINGS)
    stride_w = attr(int, 1)
    stride_h = attr(int, 1)
    depth_multiplier = attr(int, 1)
    dilation_w_factor = attr(int, 1)
    dilation_h_factor = attr(int, 1)

    def infer(
        self, x, w, b, *, padding, stride_w, stride_h, depth_multiplier, dilation_w_factor, dilation_h_factor, **_
    ):
        n, h, width, c = image(x, self.name)
        _, kh, kw, o = image(w, self.name)
        agree(c * depth_multiplier, o, "channels")
        rows = windows(h, kh, stride_h, dilation_h_factor, padding)
        return TensorType(x.dtype, (n, rows, windows(width, kw, stride_w, dilation_w_factor, padding), o))


@kernel("tfl.depthwise_conv_2d")
def _depthwise(x, w, b, *, depth_multiplier, **attrs):
    filters = np.ascontiguousarray(w.transpose(3, 1, 2, 0))  # [O, KH, KW, 1]: one input channel per group
    return _conv_2d(x, filters, b, **attrs)


@op(name="tfl.conv_3d")
class Conv3D(Fused):
    """Convolution of x [N, D, H, W, C] with w [KD, KH, KW, C, O] and bias b [O]."""

    x = operand(FLOATS)
    w = operand(FLOATS)
    b = operand(FLOATS)
    padding = attr(str, "VALID", choices=PADDINGS)
    stride_d = attr(int, 1)
    stride_w = attr(int, 1)
    stride_h = attr(int, 1)
    dilation_d_factor = attr(int, 1)
    dilation_w_factor = attr(int, 1)
    dilation_h_factor = attr(int, 1)

    def infer(self, x, w, b, *, padding, **attrs):
        shape, filters = image(x, self.name, 5), image(w, self.name, 5)
        sizes = [
            windows(shape[1 + i], filters[i], attrs[f"stride_{a}"], attrs[f"dilation_{a}_factor"], padding)
            for i, a in enumerate("dhw")
        ]
        agree(shape[4], filters[3], "channels")
        return TensorType(x.dtype, (shape[0], *sizes, filters[4]))


@kernel("tfl.conv_3d")
def _conv_3d(x, w, b, *, padding, fused_activation_function, **attrs):
    y = get_kernel("conv")(
        x,
        np.ascontiguousarray(w.transpose(4, 3, 0, 1, 2)),
        b,
        strides=tuple(attrs[f"stride_{a}"] for a in "dhw"),
        pads=(),
        dilations=tuple(attrs[f"dilation_{a}_factor"] for a in "dhw"),
        groups=1,
        auto_pad=auto_pad(padding),
        channels_last=True,
    )
    return activated(y, fused_activation_function)


@op(name="tfl.transpose_conv")
class TransposeConv(Fused):
    """Transposed convolution of x [N, H, W, C] with w [O, KH, KW, C], VALID: output (size - 1) * stride + kernel.

    `output_shape` [4] may add up to stride - 1 rows and columns of zeros (plus bias) at the end.
    """

    output_shape = operand(INDICES)
    w = operand(FLOATS)
    x = operand(FLOATS)
    b = operand(FLOATS)
    padding = attr(str, "VALID", choices=("VALID",))
    stride_w = attr(int, 1)
    stride_h = attr(int, 1)
    reads_elems = True

    def infer(self, output_shape, w, x, b, *, stride_w, stride_h, **_):
        n, h, width, _ = image(x, self.name)
        o, kh, kw, _ = image(w, self.name)
        known = output_shape.elems or (None,) * 4
        made = (n, (h - 1) * stride_h + kh, (width - 1) * stride_w + kw, o)
        return TensorType(x.dtype, tuple(m if k is None else k for m, k in zip(made, known, strict=True)))


@kernel("tfl.transpose_conv")
def _transpose_conv(output_shape, w, x, b, *, padding, stride_w, stride_h, fused_activation_function):
    extra = tuple(
        int(output_shape[i]) - ((x.shape[i] - 1) * stride + w.shape[i]) for i, stride in ((1, stride_h), (2, stride_w))
    )
    y = get_kernel("conv_transpose")(
        x,
        np.ascontiguousarray(w.transpose(3, 0, 1, 2)),
        b,
        strides=(stride_h, stride_w),
        pads=(),
        output_padding=extra,
        dilations=(),
        groups=1,
        auto_pad="explicit",
        output_shape=(),
        channels_last=True,
    )
    return activated(y, fused_activation_function)


class Pool2D(Fused):
    """Base of the pools over x [N, H, W, C]; padding never takes part. Integers keep their scale and take no activation."""

    x = operand(STORED)
    padding = attr(str, "VALID", choices=PADDINGS)
    stride_w = attr(int, 1)
    stride_h = attr(int, 1)
    filter_width = attr(int)
    filter_height = attr(int)
    traits = PURE | SAME_QUANT

    def infer(self, x, *, padding, stride_w, stride_h, filter_width, filter_height, fused_activation_function):
        n, h, w, c = image(x, self.name)
        if fused_activation_function != "NONE" and x.dtype is not F32:
            raise TypeInferError(f"{self.name} of {x.dtype} with an activation")
        rows = windows(h, filter_height, stride_h, 1, padding)
        return TensorType(x.dtype, (n, rows, windows(w, filter_width, stride_w, 1, padding), c))


@op(name="tfl.max_pool_2d")
class MaxPool2D(Pool2D):
    """Largest value of each window."""


@op(name="tfl.average_pool_2d")
class AveragePool2D(Pool2D):
    """Mean of the elements of each window that lie inside the input."""


def _pool(name: str, x: np.ndarray, attrs: dict, **more: object) -> np.ndarray:
    y = get_kernel(name)(
        x,
        kernel_shape=(attrs["filter_height"], attrs["filter_width"]),
        strides=(attrs["stride_h"], attrs["stride_w"]),
        pads=(),
        dilations=(),
        ceil_mode=False,
        auto_pad=auto_pad(attrs["padding"]),
        channels_last=True,
        **more,
    )
    return activated(y, attrs["fused_activation_function"])


@kernel("tfl.max_pool_2d")
def _max_pool(x, **attrs):
    return _pool("max_pool", x, attrs, storage_order=0)


@kernel("tfl.average_pool_2d")
def _average_pool(x, **attrs):
    if x.dtype == np.float32:
        return _pool("average_pool", x, attrs, count_include_pad=False)
    return _integer_average(x, attrs)


def _integer_average(x: np.ndarray, attrs: dict) -> np.ndarray:
    """Exact sums over counts, halves away from zero."""
    area = attrs["filter_height"] * attrs["filter_width"]
    inside = np.ones((1, *x.shape[1:3], 1))
    total, count = (
        np.rint(_pool("average_pool", v, attrs, count_include_pad=True) * area).astype(np.int64)
        for v in (x.astype(np.float64), inside)
    )
    half = count // 2
    return np.where(total > 0, (total + half) // count, -((half - total) // count)).astype(x.dtype)


class Resize(OpDef):
    """Base of the resizes of x [N, H, W, C] to `size` [2]. Both flags off: asymmetric coordinates."""

    x = operand(STORED)
    size = operand(INDICES)
    align_corners = attr(bool, False)
    half_pixel_centers = attr(bool, False)
    reads_elems = True
    traits = PURE | SAME_QUANT

    def infer(self, x, size, **_):
        n, _, _, c = image(x, self.name)
        if size.elems is None or None in size.elems:
            raise TypeInferError(f"{self.name} needs a known size")
        return TensorType(x.dtype, (n, *size.elems, c))


@op(name="tfl.resize_bilinear")
class ResizeBilinear(Resize):
    """Linear interpolation of the four neighbours."""


@op(name="tfl.resize_nearest_neighbor")
class ResizeNearestNeighbor(Resize):
    """The nearest pixel: asymmetric rounds down, half pixels and aligned corners round halves up."""


def _coordinates(align_corners: bool, half_pixel_centers: bool) -> str:
    return "align_corners" if align_corners else "half_pixel" if half_pixel_centers else "asymmetric"


def _resize(mode: str) -> Callable:
    def run(x, size, *, align_corners, half_pixel_centers):
        coordinates = _coordinates(align_corners, half_pixel_centers)
        return get_kernel("resize")(
            x,
            None,
            None,
            np.asarray([x.shape[0], *map(int, size), x.shape[3]], np.int64),
            mode=mode,
            coordinate_transformation_mode=coordinates,
            nearest_mode="floor" if coordinates == "asymmetric" else "round_prefer_ceil",
            cubic_coeff_a=-0.75,
            exclude_outside=False,
            extrapolation_value=0.0,
            antialias=False,
            axes=(),
            keep_aspect_ratio_policy="stretch",
            channels_last=False,
        )

    return run


_interpolate = _resize("linear")


@kernel("tfl.resize_bilinear")
def _resize_bilinear(x, size, **flags):
    return _interpolate(x, size, **flags) if x.dtype == np.float32 else _integer_bilinear(x, size, **flags)


def _integer_bilinear(x, size, *, align_corners, half_pixel_centers) -> np.ndarray:
    """Places and weights in steps of 1 / 1024, the sum rounded with halves away from zero."""
    (y0, y1, down), (x0, x1, right) = (
        _places(x.shape[1 + i], int(size[i]), align_corners, half_pixel_centers) for i in (0, 1)
    )
    wide, down, right = x.astype(np.int64), down[:, None, None], right[:, None]
    top, bottom = wide[:, y0], wide[:, y1]
    left_part = top[:, :, x0] * (1024 - down) + bottom[:, :, x0] * down
    right_part = top[:, :, x1] * (1024 - down) + bottom[:, :, x1] * down
    total = left_part * (1024 - right) + right_part * right
    half = 1 << 19
    return np.where(total > 0, (total + half) >> 20, -((half - total) >> 20)).astype(x.dtype)


def _places(old: int, new: int, align_corners: bool, half_pixel_centers: bool) -> tuple[np.ndarray, ...]:
    """Per result: the two neighbours, and the weight of the second."""
    step = (1024 * old + new // 2) // new
    if align_corners and new > 1:
        step = (1024 * (old - 1) + (new - 1) // 2) // (new - 1)
    at = np.arange(new, dtype=np.int64) * step
    if half_pixel_centers:
        at = at + step // 2 - 512
    lower = np.maximum(_truncated(at), 0)
    return lower, np.minimum(_truncated(at + 1023), old - 1), at - 1024 * lower


def _truncated(x: np.ndarray) -> np.ndarray:
    """x / 1024 towards zero."""
    return np.where(x >= 0, x >> 10, -(-x >> 10))


kernel("tfl.resize_nearest_neighbor")(_resize("nearest"))
