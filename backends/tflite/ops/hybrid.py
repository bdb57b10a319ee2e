"""Products of float data with integer weights: LiteRT's hybrid kernels, which quantise the data as they come.

Data are quantised to i8 by their own range (per sample for convolutions, per row for FULLY_CONNECTED), with a zero
point; sums are exact, and scaled back in float32. `tfl.dynamic` marks data that a model wants treated so.
"""

from __future__ import annotations

import numpy as np

from ....ir.errors import TypeInferError
from ....ir.opdef import ELEMENTWISE, PURE, attr, op, operand, optional
from ....ir.ops.elementwise import Unary
from ....ir.ops.rules import agree
from ....ir.types import F32, I4, I8, TensorType
from ....kernels.registry import get_kernel, kernel
from .common import FLOATS, PADDINGS, Fused, activated, auto_pad, image, windows
from .fixedpoint import rounded

WEIGHT = frozenset({I8, I4})


@op(name="tfl.dynamic")
class Dynamic(Unary):
    """x: the products that read it may quantise it by its own range."""

    x = operand(FLOATS)
    traits = PURE | ELEMENTWISE
    dtypes = (F32,)


@kernel("tfl.dynamic")
def _dynamic(x):
    return x


class Hybrid(Fused):
    """Base of the products: symmetric weights with one scale per output in `w_scale`."""

    x = operand(FLOATS)
    w = operand(WEIGHT)
    b = optional(FLOATS)
    w_scale = operand(FLOATS)

    def check_scales(self, w_scale, outs) -> None:
        if w_scale.shape != (outs,):
            raise TypeInferError(f"{self.name}: w_scale of {w_scale.type} for {outs} outputs")


@op(name="tfl.hybrid_fully_connected")
class HybridFullyConnected(Hybrid):
    """x [..., K] times the transpose of w [O, K], plus b [O]."""

    keep_num_dims = attr(bool, False)
    asymmetric_quantize_inputs = attr(bool, True)

    def infer(self, x, w, b, w_scale, *, keep_num_dims, **_):
        if not x.shape or w.shape is None or len(w.shape) != 2 or (len(x.shape) != 2 and not keep_num_dims):
            raise TypeInferError(f"{self.name} takes x of known rank and w of rank 2, got {x.type} and {w.type}")
        agree(x.shape[-1], w.shape[1], "the contracted dims")
        self.check_scales(w_scale, w.shape[0])
        return TensorType(F32, (*x.shape[:-1], w.shape[0]))


class HybridConv(Hybrid):
    """Base of the convolutions."""

    padding = attr(str, "VALID", choices=PADDINGS)
    stride_w = attr(int, 1)
    stride_h = attr(int, 1)
    dilation_w_factor = attr(int, 1)
    dilation_h_factor = attr(int, 1)

    def _shape(self, x, w, outs, *, padding, stride_w, stride_h, dilation_w_factor, dilation_h_factor):
        n, h, width, _ = image(x, self.name)
        _, kh, kw, _ = image(w, self.name)
        rows = windows(h, kh, stride_h, dilation_h_factor, padding)
        return TensorType(F32, (n, rows, windows(width, kw, stride_w, dilation_w_factor, padding), outs))


@op(name="tfl.hybrid_conv_2d")
class HybridConv2D(HybridConv):
    """Convolution of x [N, H, W, C] with w [O, KH, KW, C]."""

    def infer(self, x, w, b, w_scale, *, fused_activation_function, **geometry):
        outs = image(w, self.name)[0]
        self.check_scales(w_scale, outs)
        return self._shape(x, w, outs, **geometry)


@op(name="tfl.hybrid_depthwise_conv_2d")
class HybridDepthwiseConv2D(HybridConv):
    """Each channel c of x with filters c * m to c * m + m - 1 of w [1, KH, KW, C * m]."""

    depth_multiplier = attr(int, 1)

    def infer(self, x, w, b, w_scale, *, fused_activation_function, depth_multiplier, **geometry):
        outs = image(w, self.name)[3]
        self.check_scales(w_scale, outs)
        return self._shape(x, w, outs, **geometry)


def _by_range(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows [M, K] as i8 values less their zero points, in float64, and the float32 step of each row."""
    one = np.float32
    low = np.minimum(rows.min(axis=1, initial=0), 0).astype(np.float64)
    high = np.maximum(rows.max(axis=1, initial=0), 0).astype(np.float64)
    flat = low == high
    scale = np.where(flat, 1.0, (high - low) / 255.0)
    from_low, from_high = -128 - low / scale, 127 - high / scale
    nearer = np.abs(-128.0) + np.abs(low / scale) < 127 + np.abs(high / scale)
    zero = np.clip(rounded(np.where(nearer, from_low, from_high)), -128, 127)
    zero, step = np.where(flat, 0.0, zero), scale.astype(one)
    inverse = one(1) / step
    levels = rounded((zero.astype(one)[:, None] + rows * inverse[:, None]).astype(one)).astype(np.float64)
    return np.where(flat[:, None], 0.0, np.clip(levels, -128, 127) - zero[:, None]), step


def _finished(total: np.ndarray, step: np.ndarray, w_scale: np.ndarray, b, activation: str) -> np.ndarray:
    """Exact sums [N, ..., O] times the step of each sample and the scale of each output, plus the bias."""
    factor = step.reshape(-1, *(1,) * (total.ndim - 1)) * w_scale
    y = total.astype(np.float32) * factor.astype(np.float32)
    return activated(y if b is None else y + b, activation)


@kernel("tfl.hybrid_fully_connected")
def _fully_connected(x, w, b, w_scale, *, keep_num_dims, asymmetric_quantize_inputs, fused_activation_function):
    rows, step = _by_range(x.reshape(-1, x.shape[-1]))
    y = _finished(rows @ w.astype(np.float64).T, step, w_scale, b, fused_activation_function)
    return y.reshape(*x.shape[:-1], w.shape[0])


@kernel("tfl.hybrid_conv_2d")
def _conv_2d(x, w, b, w_scale, *, fused_activation_function, **attrs):
    levels, step = _by_range(x.reshape(len(x), -1))
    total = get_kernel("conv")(
        levels.reshape(x.shape),
        np.ascontiguousarray(w.transpose(0, 3, 1, 2)).astype(np.float64),
        None,
        strides=(attrs["stride_h"], attrs["stride_w"]),
        pads=(),
        dilations=(attrs["dilation_h_factor"], attrs["dilation_w_factor"]),
        groups=x.shape[3] // w.shape[3],
        auto_pad=auto_pad(attrs["padding"]),
        channels_last=True,
    )
    return _finished(total, step, w_scale, b, fused_activation_function)


@kernel("tfl.hybrid_depthwise_conv_2d")
def _depthwise(x, w, b, w_scale, *, depth_multiplier, **attrs):
    return _conv_2d(x, np.ascontiguousarray(w.transpose(3, 1, 2, 0)), b, w_scale, **attrs)
