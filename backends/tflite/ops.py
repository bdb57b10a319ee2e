"""Operators that TFLite has and the core IR has not: channels-last, SAME/VALID padding, fused activations, its own weights.

Attributes carry the names of the schema's option slots, so writing one is copying them. What TFLite shares with the core
(exp, concat, transpose ...) stays a core op until it is written. Every op has a kernel below, in terms of core kernels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir.dims import Dim, ceildiv
from ...ir.errors import TypeInferError
from ...ir.opdef import OpDef, attr, op, operand, optional
from ...ir.ops.rules import broadcast_shapes, same_dim
from ...ir.types import F32, I32, TensorType
from ...ir.value import Value
from ...kernels.registry import get_kernel, kernel

ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH")
PADDINGS = ("SAME", "VALID")
_F32 = frozenset({F32})
_I32 = frozenset({I32})


class Fused(OpDef):
    """Base of ops that apply an activation to their result."""

    fused_activation_function = attr(str, "NONE", choices=ACTIVATIONS)


def _activated(y: np.ndarray, name: str) -> np.ndarray:
    clips = {"RELU": (0, None), "RELU_N1_TO_1": (-1, 1), "RELU6": (0, 6)}
    if name in clips:
        low, high = clips[name]
        return get_kernel("clip")(y, y.dtype.type(low), None if high is None else y.dtype.type(high))
    return get_kernel("tanh")(y) if name == "TANH" else y


def _windows(size: Dim, kernel_size: int, stride: int, dilation: int, padding: str) -> Dim:
    if padding == "SAME":
        return ceildiv(size, stride)
    extent = (kernel_size - 1) * dilation + 1
    made = (size - extent) // stride + 1
    return max(made, 0) if isinstance(made, int) else made


def _image(x: Value, name: str, rank: int = 4) -> tuple[Dim, ...]:
    if x.shape is None or len(x.shape) != rank:
        raise TypeInferError(f"{name} takes a tensor of rank {rank}, got {x.type}")
    return x.shape


def _auto_pad(padding: str) -> str:
    return "same_upper" if padding == "SAME" else "explicit"


# ------------------------------------------------------------------------------------------------------ convolutions


@op(name="tfl.conv_2d")
class Conv2D(Fused):
    """Convolution of x [N, H, W, C] with w [O, KH, KW, C / groups] and bias b [O]; SAME puts the odd pad at the end."""

    x = operand(_F32)
    w = operand(_F32)
    b = operand(_F32)
    padding = attr(str, "VALID", choices=PADDINGS)
    stride_w = attr(int, 1)
    stride_h = attr(int, 1)
    dilation_w_factor = attr(int, 1)
    dilation_h_factor = attr(int, 1)

    def infer(self, x, w, b, *, padding, stride_w, stride_h, dilation_w_factor, dilation_h_factor, **_):
        n, h, width, c = _image(x, self.name)
        o, kh, kw, per_group = _image(w, self.name)
        if isinstance(c, int) and (c % per_group or o % (c // per_group)):
            raise TypeInferError(f"{c} channels do not fit filters {w.type}")
        rows = _windows(h, kh, stride_h, dilation_h_factor, padding)
        return TensorType(x.dtype, (n, rows, _windows(width, kw, stride_w, dilation_w_factor, padding), o))


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
        auto_pad=_auto_pad(padding),
        channels_last=True,
    )
    return _activated(y, fused_activation_function)


@op(name="tfl.depthwise_conv_2d")
class DepthwiseConv2D(Fused):
    """Each channel c of x [N, H, W, C] with its own filters w [1, KH, KW, C * multiplier]: output c * multiplier + m."""

    x = operand(_F32)
    w = operand(_F32)
    b = operand(_F32)
    padding = attr(str, "VALID", choices=PADDINGS)
    stride_w = attr(int, 1)
    stride_h = attr(int, 1)
    depth_multiplier = attr(int, 1)
    dilation_w_factor = attr(int, 1)
    dilation_h_factor = attr(int, 1)

    def infer(
        self, x, w, b, *, padding, stride_w, stride_h, depth_multiplier, dilation_w_factor, dilation_h_factor, **_
    ):
        n, h, width, c = _image(x, self.name)
        _, kh, kw, o = _image(w, self.name)
        same_dim(c * depth_multiplier, o, "channels")
        rows = _windows(h, kh, stride_h, dilation_h_factor, padding)
        return TensorType(x.dtype, (n, rows, _windows(width, kw, stride_w, dilation_w_factor, padding), o))


@kernel("tfl.depthwise_conv_2d")
def _depthwise(x, w, b, *, depth_multiplier, **attrs):
    filters = np.ascontiguousarray(w.transpose(3, 1, 2, 0))  # [O, KH, KW, 1]: one input channel per group
    return _conv_2d(x, filters, b, **attrs)


@op(name="tfl.conv_3d")
class Conv3D(Fused):
    """Convolution of x [N, D, H, W, C] with w [KD, KH, KW, C, O] and bias b [O]."""

    x = operand(_F32)
    w = operand(_F32)
    b = operand(_F32)
    padding = attr(str, "VALID", choices=PADDINGS)
    stride_d = attr(int, 1)
    stride_w = attr(int, 1)
    stride_h = attr(int, 1)
    dilation_d_factor = attr(int, 1)
    dilation_w_factor = attr(int, 1)
    dilation_h_factor = attr(int, 1)

    def infer(self, x, w, b, *, padding, **attrs):
        shape, filters = _image(x, self.name, 5), _image(w, self.name, 5)
        sizes = [
            _windows(shape[1 + i], filters[i], attrs[f"stride_{a}"], attrs[f"dilation_{a}_factor"], padding)
            for i, a in enumerate("dhw")
        ]
        same_dim(shape[4], filters[3], "channels")
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
        auto_pad=_auto_pad(padding),
        channels_last=True,
    )
    return _activated(y, fused_activation_function)


@op(name="tfl.transpose_conv")
class TransposeConv(Fused):
    """Transposed convolution of x [N, H, W, C] with w [O, KH, KW, C], VALID: output (size - 1) * stride + kernel.

    `output_shape` [4] may add up to stride - 1 rows and columns of zeros (plus bias) at the end.
    """

    output_shape = operand(_I32)
    w = operand(_F32)
    x = operand(_F32)
    b = operand(_F32)
    padding = attr(str, "VALID", choices=("VALID",))
    stride_w = attr(int, 1)
    stride_h = attr(int, 1)
    reads_elems = True

    def infer(self, output_shape, w, x, b, *, stride_w, stride_h, **_):
        n, h, width, _ = _image(x, self.name)
        o, kh, kw, _ = _image(w, self.name)
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
    return _activated(y, fused_activation_function)


# ------------------------------------------------------------------------------------------------------------- pools


class Pool2D(Fused):
    """Base of the pools over x [N, H, W, C]; padding never takes part."""

    x = operand(_F32)
    padding = attr(str, "VALID", choices=PADDINGS)
    stride_w = attr(int, 1)
    stride_h = attr(int, 1)
    filter_width = attr(int)
    filter_height = attr(int)

    def infer(self, x, *, padding, stride_w, stride_h, filter_width, filter_height, **_):
        n, h, w, c = _image(x, self.name)
        rows = _windows(h, filter_height, stride_h, 1, padding)
        return TensorType(x.dtype, (n, rows, _windows(w, filter_width, stride_w, 1, padding), c))


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
        auto_pad=_auto_pad(attrs["padding"]),
        channels_last=True,
        **more,
    )
    return _activated(y, attrs["fused_activation_function"])


@kernel("tfl.max_pool_2d")
def _max_pool(x, **attrs):
    return _pool("max_pool", x, attrs, storage_order=0)


@kernel("tfl.average_pool_2d")
def _average_pool(x, **attrs):
    return _pool("average_pool", x, attrs, count_include_pad=False)


# ---------------------------------------------------------------------------------------------------------- products


@op(name="tfl.fully_connected")
class FullyConnected(Fused):
    """x [..., K] times the transpose of w [O, K], plus b [O]: [..., O] with `keep_num_dims`, else [M, O]."""

    x = operand(_F32)
    w = operand(_F32)
    b = optional(_F32)
    keep_num_dims = attr(bool, False)

    def infer(self, x, w, b, *, keep_num_dims, **_):
        if x.shape is None or w.shape is None or len(w.shape) != 2 or not x.shape:
            raise TypeInferError(f"fully_connected takes x of known rank and w of rank 2, got {x.type} and {w.type}")
        same_dim(x.shape[-1], w.shape[1], "the contracted dims")
        if len(x.shape) != 2 and not keep_num_dims:
            raise TypeInferError("x of another rank than 2 needs keep_num_dims")
        return TensorType(x.dtype, (*x.shape[:-1], w.shape[0]))


@kernel("tfl.fully_connected")
def _fully_connected(x, w, b=None, *, keep_num_dims, fused_activation_function):
    y = x.astype(np.float64) @ w.astype(np.float64).T
    y = y if b is None else y + b
    return _activated(y.astype(np.float32), fused_activation_function)


@op(name="tfl.batch_matmul")
class BatchMatmul(OpDef):
    """numpy's matmul of operands of rank 2 or more, either with its last two axes swapped first."""

    x = operand(_F32)
    y_ = operand(_F32)
    adj_x = attr(bool, False)
    adj_y = attr(bool, False)

    def infer(self, x, y, *, adj_x, adj_y):
        a, b = x.shape, y.shape
        if a is None or b is None or len(a) < 2 or len(b) < 2:
            raise TypeInferError(f"batch_matmul takes ranks of 2 or more, got {x.type} and {y.type}")
        (m, k), (k2, n) = (a[-2:][::-1] if adj_x else a[-2:]), (b[-2:][::-1] if adj_y else b[-2:])
        same_dim(k, k2, "the contracted dims")
        return TensorType(x.dtype, (*broadcast_shapes(a[:-2], b[:-2]), m, n))


@kernel("tfl.batch_matmul")
def _batch_matmul(x, y, *, adj_x, adj_y):
    a, b = (np.swapaxes(v, -1, -2) if swap else v for v, swap in ((x, adj_x), (y, adj_y)))
    return np.asarray(a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)


# ------------------------------------------------------------------------------------------------------- elementwise


class Arithmetic(Fused):
    """Base of the float arithmetic with a fused activation; without one the core op stands."""

    x = operand(_F32)
    y_ = operand(_F32)

    def infer(self, x, y, **_):
        if x.shape is None or y.shape is None:
            return TensorType(x.dtype, None)
        return TensorType(x.dtype, broadcast_shapes(x.shape, y.shape))


def _arithmetic(name: str) -> None:
    doc = f"{name} of broadcast floats, and an activation."
    op(name=f"tfl.{name}")(type(name.capitalize(), (Arithmetic,), {"__doc__": doc, "__module__": __name__}))

    @kernel(f"tfl.{name}")
    def run(x, y, *, fused_activation_function):
        return _activated(get_kernel(name)(x, y), fused_activation_function)


for _name in ("add", "sub", "mul", "div"):
    _arithmetic(_name)


@op(name="tfl.squared_difference")
class SquaredDifference(OpDef):
    """(x - y) ** 2, broadcast."""

    x = operand(_F32)
    y_ = operand(_F32)

    def infer(self, x, y):
        return TensorType(x.dtype, None if x.shape is None or y.shape is None else broadcast_shapes(x.shape, y.shape))


@kernel("tfl.squared_difference")
def _squared_difference(x, y):
    return np.asarray((x.astype(np.float64) - y) ** 2).astype(np.float32)


def _clamp(name: str, low: float, high: float) -> None:
    def infer(self, x):
        return x.type

    body = {
        "__doc__": f"x kept within {low:g} and {high:g}.",
        "__module__": __name__,
        "x": operand(_F32),
        "infer": infer,
    }
    op(name=f"tfl.{name}")(type(name.title().replace("_", ""), (OpDef,), body))

    @kernel(f"tfl.{name}")
    def run(x):
        return get_kernel("clip")(x, np.float32(low), np.float32(high))


_clamp("relu_n1_to_1", -1.0, 1.0)
_clamp("relu_0_to_1", 0.0, 1.0)


# --------------------------------------------------------------------------------------------- shapes, resize, scatter


@op(name="tfl.broadcast_to")
class BroadcastTo(OpDef):
    """x broadcast to exactly `shape`."""

    x = operand()
    shape = operand(_I32)
    reads_elems = True

    def infer(self, x, shape):
        if shape.elems is not None:
            known = tuple(shape.elems)
            lifted = (1,) * (len(known) - (x.rank or 0)) + (x.shape or ())
            return TensorType(x.dtype, tuple(d if k is None else k for k, d in zip(known, lifted, strict=True)))
        return TensorType(x.dtype, None)


@kernel("tfl.broadcast_to")
def _broadcast_to(x, shape):
    return np.ascontiguousarray(np.broadcast_to(x, tuple(int(d) for d in shape)))


class Resize(OpDef):
    """Base of the resizes of x [N, H, W, C] to `size` [2]. Both flags off: asymmetric coordinates."""

    x = operand(_F32)
    size = operand(_I32)
    align_corners = attr(bool, False)
    half_pixel_centers = attr(bool, False)
    reads_elems = True

    def infer(self, x, size, **_):
        n, h, w, c = _image(x, self.name)
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


kernel("tfl.resize_bilinear")(_resize("linear"))
kernel("tfl.resize_nearest_neighbor")(_resize("nearest"))


@op(name="tfl.scatter_nd")
class ScatterNd(OpDef):
    """Zeros of `shape` with `updates` added at `indices`; repeated indices add up."""

    indices = operand(_I32)
    updates = operand()
    shape = operand(_I32)
    reads_elems = True

    def infer(self, indices, updates, shape):
        elems = shape.elems
        known = elems is not None and None not in elems
        return TensorType(updates.dtype, tuple(elems) if known else None)


@kernel("tfl.scatter_nd")
def _scatter_nd(indices, updates, shape):
    y = np.zeros(tuple(int(d) for d in shape), updates.dtype)
    np.add.at(y, tuple(np.moveaxis(indices, -1, 0)), updates)
    return y


# --------------------------------------------------------------------------------------------------------- recurrence


@op(name="tfl.unidirectional_sequence_lstm")
class UnidirectionalSequenceLstm(Fused):
    """LSTM over x [T, N, I] from a zero state, all outputs [T, N, H]. Gates i, f, c, o; w_* [H, I], r_* [H, H], b_* [H]."""

    x = operand(_F32)
    w_i = operand(_F32)
    w_f = operand(_F32)
    w_c = operand(_F32)
    w_o = operand(_F32)
    r_i = operand(_F32)
    r_f = operand(_F32)
    r_c = operand(_F32)
    r_o = operand(_F32)
    b_i = operand(_F32)
    b_f = operand(_F32)
    b_c = operand(_F32)
    b_o = operand(_F32)
    fused_activation_function = attr(str, "TANH", choices=("TANH",))
    time_major = attr(bool, True)

    def infer(self, x, w_i, *_, **__):
        t, n, _ = _image(x, self.name, 3)
        return TensorType(x.dtype, (t, n, w_i.shape[0]))


@kernel("tfl.unidirectional_sequence_lstm")
def _lstm(x, *weights, fused_activation_function, time_major):
    def gates(four: tuple) -> np.ndarray:  # i, f, c, o here; i, o, f, c in the core op
        return np.concatenate([four[0], four[3], four[1], four[2]])[None]

    w, r, b = (gates(weights[i : i + 4]) for i in (0, 4, 8))
    y, _, _ = get_kernel("lstm")(
        x,
        w,
        r,
        np.concatenate([b, np.zeros_like(b)], axis=1),
        hidden_size=r.shape[2],
        direction="forward",
        activations=(),
        activation_alpha=(),
        activation_beta=(),
        clip=0.0,
        input_forget=False,
    )
    return y[:, 0]
