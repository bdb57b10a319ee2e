"""TFLite's quantised products and sums: `tfl.q_*` ops on i8 and i16 tensors, equal to LiteRT's reference kernels.

Real values are scale * (q - zero). `scales` and `zeros` belong to the quantised operands in order, then to the result;
weights of convolutions and FULLY_CONNECTED are symmetric, with one scale or one per output channel in `w_scale`. What
moves values or compares values of one scale needs no op of its own: it runs on the integers.
"""

from __future__ import annotations

import math

import numpy as np

from ....ir.errors import TypeInferError
from ....ir.opdef import OpDef, attr, floats, ints, op, operand
from ....ir.ops.rules import agree
from ....ir.ops.shapes import broadcast_shapes
from ....ir.types import F32, I4, I8, I16, I32, I64, U8, DType, TensorType
from ....kernels.quant import quantized_multiplier
from ....kernels.registry import get_kernel, kernel
from .common import ACTIVATIONS, INDICES, PADDINGS, auto_pad, image, windows
from .fixedpoint import rescaled, rounded, scaled, wrapped

STORED = frozenset({I8, I16})
WEIGHT = frozenset({I8, I4})
SUM = frozenset({I32, I64})


class Quantised(OpDef):
    """Base of ops on quantised tensors: `scales` and `zeros` of the operands that have them, then of the result."""

    scales = attr(floats)
    zeros = attr(ints)
    #: Which operands scales and zeros belong to.
    quantised: tuple[int, ...] = (0,)

    def check(self, scales: tuple[float, ...], zeros: tuple[int, ...], *operands) -> None:
        """Raise TypeInferError unless there is a positive scale and a zero point for each."""
        wanted = len(self.quantised) + 1
        if len(scales) != wanted or len(zeros) != wanted:
            raise TypeInferError(f"{self.name} takes {wanted} scales and zeros, got {len(scales)} and {len(zeros)}")
        if not all(s > 0 and math.isfinite(s) for s in scales):
            raise TypeInferError(f"{self.name}: a scale is not positive")
        if operands and operands[0].dtype is I16 and any(zeros):
            raise TypeInferError(f"{self.name}: 16-bit values have zero point 0")


class QuantisedFused(Quantised):
    """Base of those that clamp their result as an activation would."""

    fused_activation_function = attr(str, "NONE", choices=ACTIVATIONS[:4])


def bounds(dtype: np.dtype, name: str, scale: float, zero: int) -> tuple[int, int]:
    """The clamp of a fused activation in the quantised domain."""
    info = np.iinfo(dtype)
    low, high = {"NONE": (None, None), "RELU": (0, None), "RELU_N1_TO_1": (-1, 1), "RELU6": (0, 6)}[name]

    def at(value: int) -> int:
        return zero + int(rounded(np.asarray(np.float32(value) / np.float32(scale))))

    return (
        info.min if low is None else max(info.min, at(low)),
        info.max if high is None else min(info.max, at(high)),
    )


def finished(y: np.ndarray, dtype: np.dtype, name: str, scale: float, zero: int) -> np.ndarray:
    """Scaled sums with the zero point added, clamped and stored."""
    return np.clip(y + zero, *bounds(dtype, name, scale, zero)).astype(dtype)


def ratio(x_scale: float, w_scale: np.ndarray, y_scale: float) -> np.ndarray:
    """x_scale * w_scale / y_scale in float64, as for kernels with a multiplier per channel."""
    return np.float64(np.float32(x_scale)) * w_scale.astype(np.float64) / np.float64(np.float32(y_scale))


def ratio_of_one(x_scale: float, w_scale: float, y_scale: float) -> np.float64:
    """The product rounded to float32 first, as for kernels with one multiplier."""
    return np.float64(np.float32(x_scale) * np.float32(w_scale)) / np.float64(np.float32(y_scale))


def _summed(acc: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Exact float64 sums as integers, with the bias; in 32 bits where the kernel's are."""
    total = acc.astype(np.int64) + (0 if bias is None else bias.astype(np.int64))
    return total if bias is not None and bias.dtype == np.int64 else wrapped(total)


def _wide(bias: np.ndarray | None) -> bool:
    return bias is not None and bias.dtype == np.int64


class QConv(QuantisedFused):
    """Base of the quantised convolutions; infers through the float op of the same geometry."""

    x = operand(STORED)
    w = operand(WEIGHT)
    b = operand(SUM)
    w_scale = operand(frozenset({F32}))
    padding = attr(str, "VALID", choices=PADDINGS)
    stride_w = attr(int, 1)
    stride_h = attr(int, 1)
    dilation_w_factor = attr(int, 1)
    dilation_h_factor = attr(int, 1)

    def _shape(self, x, w, outs, *, padding, stride_w, stride_h, dilation_w_factor, dilation_h_factor):
        n, h, width, _ = image(x, self.name)
        _, kh, kw, _ = image(w, self.name)
        rows = windows(h, kh, stride_h, dilation_h_factor, padding)
        return TensorType(x.dtype, (n, rows, windows(width, kw, stride_w, dilation_w_factor, padding), outs))


@op(name="tfl.q_conv_2d")
class QConv2D(QConv):
    """Convolution of x [N, H, W, C] with symmetric w [O, KH, KW, C / groups] and bias b [O] at the product of scales."""

    def infer(self, x, w, b, w_scale, *, scales, zeros, fused_activation_function, **geometry):
        self.check(scales, zeros, x)
        outs = image(w, self.name)[0]
        if w_scale.shape not in ((1,), (outs,)):
            raise TypeInferError(f"{self.name}: w_scale of {w_scale.type} for {outs} channels")
        return self._shape(x, w, outs, **geometry)


@op(name="tfl.q_depthwise_conv_2d")
class QDepthwiseConv2D(QConv):
    """Each channel c of x with filters c * m to c * m + m - 1 of w [1, KH, KW, C * m]."""

    depth_multiplier = attr(int, 1)

    def infer(self, x, w, b, w_scale, *, scales, zeros, fused_activation_function, depth_multiplier, **geometry):
        self.check(scales, zeros, x)
        outs = image(w, self.name)[3]
        agree(image(x, self.name)[3] * depth_multiplier, outs, "channels")
        if w_scale.shape not in ((1,), (outs,)):
            raise TypeInferError(f"{self.name}: w_scale of {w_scale.type} for {outs} channels")
        return self._shape(x, w, outs, **geometry)


def _convolved(x, filters, zero, attrs) -> np.ndarray:
    """Exact sums in float64; what lies outside the image counts as the real zero."""
    return get_kernel("conv")(
        x.astype(np.float64) - zero,
        np.ascontiguousarray(filters.transpose(0, 3, 1, 2)).astype(np.float64),
        None,
        strides=(attrs["stride_h"], attrs["stride_w"]),
        pads=(),
        dilations=(attrs["dilation_h_factor"], attrs["dilation_w_factor"]),
        groups=x.shape[3] // filters.shape[3],
        auto_pad=auto_pad(attrs["padding"]),
        channels_last=True,
    )


@kernel("tfl.q_conv_2d")
def _q_conv_2d(x, w, b, w_scale, *, scales, zeros, fused_activation_function, **attrs):
    total = _summed(_convolved(x, w, zeros[0], attrs), b)
    made = scaled(total, ratio(scales[0], w_scale, scales[1]), _wide(b))
    return finished(made, x.dtype, fused_activation_function, scales[1], zeros[1])


@kernel("tfl.q_depthwise_conv_2d")
def _q_depthwise(x, w, b, w_scale, *, depth_multiplier, **attrs):
    return _q_conv_2d(x, np.ascontiguousarray(w.transpose(3, 1, 2, 0)), b, w_scale, **attrs)


@op(name="tfl.q_transpose_conv")
class QTransposeConv(QuantisedFused):
    """Transposed convolution, VALID, of x [N, H, W, C] with symmetric w [O, KH, KW, C]; see tfl.transpose_conv."""

    output_shape = operand(INDICES)
    w = operand(frozenset({I8}))
    x = operand(STORED)
    b = operand(SUM)
    w_scale = operand(frozenset({F32}))
    padding = attr(str, "VALID", choices=("VALID",))
    stride_w = attr(int, 1)
    stride_h = attr(int, 1)
    quantised = (2,)
    reads_elems = True

    def infer(self, output_shape, w, x, b, w_scale, *, scales, zeros, stride_w, stride_h, **_):
        self.check(scales, zeros, x)
        n, h, width, _ = image(x, self.name)
        o, kh, kw, _ = image(w, self.name)
        known = output_shape.elems or (None,) * 4
        made = (n, (h - 1) * stride_h + kh, (width - 1) * stride_w + kw, o)
        return TensorType(x.dtype, tuple(m if k is None else k for m, k in zip(made, known, strict=True)))


@kernel("tfl.q_transpose_conv")
def _q_transpose_conv(output_shape, w, x, b, w_scale, *, scales, zeros, fused_activation_function, padding, **strides):
    steps = (strides["stride_h"], strides["stride_w"])
    extra = tuple(
        int(output_shape[i]) - ((x.shape[i] - 1) * s + w.shape[i]) for i, s in zip((1, 2), steps, strict=True)
    )
    acc = get_kernel("conv_transpose")(
        x.astype(np.float64) - zeros[0],
        np.ascontiguousarray(w.transpose(3, 0, 1, 2)).astype(np.float64),
        None,
        strides=steps,
        pads=(),
        output_padding=extra,
        dilations=(),
        groups=1,
        auto_pad="explicit",
        output_shape=(),
        channels_last=True,
    )
    made = scaled(_summed(acc, b), ratio(scales[0], w_scale, scales[1]), _wide(b))
    return finished(made, x.dtype, fused_activation_function, scales[1], zeros[1])


@op(name="tfl.q_fully_connected")
class QFullyConnected(QuantisedFused):
    """x [..., K] times the transpose of symmetric w [O, K], plus b [O]; sums are scaled in float64, halves away from 0."""

    x = operand(STORED)
    w = operand(WEIGHT)
    b = operand(SUM)
    w_scale = operand(frozenset({F32}))
    keep_num_dims = attr(bool, False)

    def infer(self, x, w, b, w_scale, *, scales, zeros, keep_num_dims, **_):
        self.check(scales, zeros, x)
        if not x.shape or w.shape is None or len(w.shape) != 2 or (len(x.shape) != 2 and not keep_num_dims):
            raise TypeInferError(f"{self.name} takes x of known rank and w of rank 2, got {x.type} and {w.type}")
        agree(x.shape[-1], w.shape[1], "the contracted dims")
        if w_scale.shape not in ((1,), (w.shape[0],)):
            raise TypeInferError(f"{self.name}: w_scale of {w_scale.type} for {w.shape[0]} rows")
        return TensorType(x.dtype, (*x.shape[:-1], w.shape[0]))


@kernel("tfl.q_fully_connected")
def _q_fully_connected(x, w, b, w_scale, *, scales, zeros, keep_num_dims, fused_activation_function):
    acc = (x.astype(np.float64) - zeros[0]) @ w.astype(np.float64).T
    real = _summed(acc, b).astype(np.float64) * ratio(scales[0], w_scale, scales[1])
    made = rounded(real).astype(np.int64)
    return finished(made, x.dtype, fused_activation_function, scales[1], zeros[1])


@op(name="tfl.q_batch_matmul")
class QBatchMatmul(Quantised):
    """numpy's matmul of quantised operands of rank 2 or more, either with its last two axes swapped first."""

    x = operand(STORED)
    y_ = operand(STORED)
    adj_x = attr(bool, False)
    adj_y = attr(bool, False)
    quantised = (0, 1)

    def infer(self, x, y, *, scales, zeros, adj_x, adj_y):
        self.check(scales, zeros, x)
        a, b = x.shape, y.shape
        if a is None or b is None or len(a) < 2 or len(b) < 2 or x.dtype is not y.dtype:
            raise TypeInferError(f"{self.name} takes equal types of ranks of 2 or more, got {x.type} and {y.type}")
        (m, k), (k2, n) = (a[-2:][::-1] if adj_x else a[-2:]), (b[-2:][::-1] if adj_y else b[-2:])
        agree(k, k2, "the contracted dims")
        return TensorType(x.dtype, (*broadcast_shapes(a[:-2], b[:-2]), m, n))


@kernel("tfl.q_batch_matmul")
def _q_batch_matmul(x, y, *, scales, zeros, adj_x, adj_y):
    a, b = (np.swapaxes(v, -1, -2) if swap else v for v, swap in ((x, adj_x), (y, adj_y)))
    total = np.asarray((a.astype(np.float64) - zeros[0]) @ (b.astype(np.float64) - zeros[1])).astype(np.int64)
    wide = x.dtype == np.int16
    made = scaled(total if wide else wrapped(total), ratio_of_one(*scales), wide)
    return finished(made, x.dtype, "NONE", scales[2], zeros[2])


# ---------------------------------------------------------------------------------------------------- arithmetic


class QArithmetic(QuantisedFused):
    """Base of the quantised arithmetic: operands broadcast."""

    x = operand(STORED)
    y_ = operand(STORED)
    quantised = (0, 1)

    def infer(self, x, y, *, scales, zeros, **_):
        self.check(scales, zeros, x)
        if x.dtype is not y.dtype:
            raise TypeInferError(f"{self.name} of {x.dtype} and {y.dtype}")
        return TensorType(x.dtype, None if x.shape is None or y.shape is None else broadcast_shapes(x.shape, y.shape))


@op(name="tfl.q_add")
class QAdd(QArithmetic):
    """Sum of quantised values, in a domain of 2**20 (i16: 2**15) steps per half of the larger operand's step."""


@op(name="tfl.q_sub")
class QSub(QArithmetic):
    """Difference of quantised values, as the sum."""


@op(name="tfl.q_mul")
class QMul(QArithmetic):
    """Product of quantised values."""


@op(name="tfl.q_squared_difference")
class QSquaredDifference(QArithmetic):
    """(x - y) ** 2 of i8 values."""


def _common(x, y, scales, zeros, places: int) -> tuple[np.ndarray, np.ndarray, np.float64]:
    """Both operands in units of 2**-places of twice the larger scale, and that scale."""
    a, b = (np.float32(s) for s in scales[:2])
    twice = np.float64(2 * max(a, b))
    made = [
        scaled((v.astype(np.int64) - zero) << places, np.float64(scale) / twice)
        for v, zero, scale in ((x, zeros[0], a), (y, zeros[1], b))
    ]
    return made[0], made[1], twice


def _sum(sign: int):
    def run(x, y, *, scales, zeros, fused_activation_function):
        places = 15 if x.dtype == np.int16 else 20
        a, b, twice = _common(x, y, scales, zeros, places)
        real = twice / (np.float64(np.float32(scales[2])) * (1 << places))
        return finished(scaled(a + sign * b, real), x.dtype, fused_activation_function, scales[2], zeros[2])

    return run


kernel("tfl.q_add")(_sum(1))
kernel("tfl.q_sub")(_sum(-1))


@kernel("tfl.q_mul")
def _q_mul(x, y, *, scales, zeros, fused_activation_function):
    a, b, c = (np.float32(s) for s in scales)
    product = (x.astype(np.int64) - zeros[0]) * (y.astype(np.int64) - zeros[1])
    return finished(scaled(product, a * b / c), x.dtype, fused_activation_function, scales[2], zeros[2])


@kernel("tfl.q_squared_difference")
def _q_squared_difference(x, y, *, scales, zeros, fused_activation_function):
    a, b, twice = _common(x, y, scales, zeros, 7)
    real = twice * twice / (np.float64(np.float32(scales[2])) * (1 << 14))
    made = scaled(wrapped((a - b) ** 2), real)
    return finished(made, x.dtype, fused_activation_function, scales[2], zeros[2])


# ----------------------------------------------------------------------------------------------------- reductions


class QReduction(Quantised):
    """Base of the sums over constant `axes`."""

    x = operand(STORED)
    reduced = attr(ints)
    keepdims = attr(bool, True)

    def infer(self, x, *, scales, zeros, reduced, keepdims):
        self.check(scales, zeros, x)
        if x.shape is None:
            return TensorType(x.dtype, None)
        gone = {a % len(x.shape) for a in reduced}
        dims = [1 if i in gone else d for i, d in enumerate(x.shape) if keepdims or i not in gone]
        return TensorType(x.dtype, tuple(dims))


@op(name="tfl.q_mean")
class QMean(QReduction):
    """Mean of quantised values over `reduced`."""


@op(name="tfl.q_sum")
class QSum(QReduction):
    """Sum of quantised values over `reduced`."""


@kernel("tfl.q_mean")
def _q_mean(x, *, scales, zeros, reduced, keepdims):
    total, count = _totals(x, reduced, keepdims)
    mantissa, shift = _mean_multiplier(scales, count)
    made = rescaled(wrapped(total - zeros[0] * count), mantissa, shift)
    return finished(made, x.dtype, "NONE", scales[1], zeros[1])


def _totals(x: np.ndarray, reduced: tuple[int, ...], keepdims: bool) -> tuple[np.ndarray, int]:
    axes = tuple(a % x.ndim for a in reduced)
    total = np.asarray(x.astype(np.int64).sum(axis=axes, keepdims=keepdims))
    return total, math.prod(x.shape[a] for a in axes)


def _mean_multiplier(scales: tuple[float, ...], count: int) -> tuple[int, int]:
    """The ratio of scales with the division by `count` worked in, as far as the mantissa has room."""
    one = np.float32
    mantissa, shift = (
        int(v) for v in quantized_multiplier(np.asarray(np.float64(one(scales[0])) / np.float64(one(scales[1]))))
    )
    places = min(count.bit_length() - 1, 32, 31 + shift)
    return (mantissa << places) // count, shift - places


@kernel("tfl.q_sum")
def _q_sum(x, *, scales, zeros, reduced, keepdims):
    """In float32, as the builtin kernel: the reference resolver of LiteRT reads signed values as unsigned ones here."""
    one = np.float32
    total, count = _totals(x, reduced, keepdims)
    scale = one(scales[0]) / one(scales[1])
    bias = one(-zeros[0]) * scale * one(count)
    made = rounded(np.asarray(total.astype(one) * scale + bias, one)).astype(np.int64)
    return finished(made, x.dtype, "NONE", scales[1], zeros[1])


# ------------------------------------------------------------------------------------- from and to other parameters


@op(name="tfl.quantize")
class Quantize(OpDef):
    """x / scale in float32, halves away from zero, plus the zero point, saturated to `to`."""

    x = operand(frozenset({F32}))
    scale = attr(float)
    zero = attr(int)
    to = attr(DType)

    def infer(self, x, *, scale, zero, to):
        return TensorType(to, x.shape)


@kernel("tfl.quantize")
def _quantize(x, *, scale, zero, to):
    info = np.iinfo(to.numpy)
    with np.errstate(all="ignore"):
        level = rounded(x / np.float32(scale)).astype(np.float64)
    return np.clip(np.nan_to_num(level) + zero, info.min, info.max).astype(to.numpy)


@op(name="tfl.q_quantize")
class QQuantize(Quantised):
    """Integers with one scale and zero point as integers `to` with another."""

    x = operand(STORED | {U8})
    to = attr(DType)

    def infer(self, x, *, scales, zeros, to):
        self.check(scales, zeros)
        if to not in STORED | {U8}:
            raise TypeInferError(f"{self.name} to {to}")
        return TensorType(to, x.shape)


@kernel("tfl.q_quantize")
def _q_quantize(x, *, scales, zeros, to):
    real = np.float64(np.float32(scales[0])) / np.float64(np.float32(scales[1]))
    made = scaled(x.astype(np.int64) - zeros[0], real) + zeros[1]
    info = np.iinfo(to.numpy)
    return np.clip(made, info.min, info.max).astype(to.numpy)


@op(name="tfl.q_pad")
class QPad(OpDef):
    """x grown by `pads` (all begins, then all ends) of its zero point, which is the real zero."""

    x = operand(STORED)
    pads = attr(ints)
    zero = attr(int)

    def infer(self, x, *, pads, zero):
        if x.shape is None or len(pads) != 2 * len(x.shape):
            raise TypeInferError(f"{self.name} of {x.type} with {len(pads)} pads")
        return TensorType(
            x.dtype, tuple(a + d + z for a, d, z in zip(pads, x.shape, pads[len(x.shape) :], strict=False))
        )


@kernel("tfl.q_pad")
def _q_pad(x, *, pads, zero):
    return np.pad(x, list(zip(pads[: x.ndim], pads[x.ndim :], strict=True)), constant_values=zero)
