"""Convolutions of Keras in one to three spatial dims: plain, depthwise, separable and transposed.

Keras stores kernels as (*K, in, out) and runs channels-last; the IR wants [out, in, *K] and channels first, so each
layer stands between two transposes, which the optimiser cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...ir.graph import Value
from .registry import layer
from .scope import Scope

_BY_AXIS = ("softmax", "log_softmax", "glu", "sparsemax")


def spatial(s: Scope, x: Value, compute: Callable[[Value], Value]) -> Value:
    """`compute` on channels-first data, whatever the layer's data format, and back."""
    if not s.channels_last():
        return compute(x)
    return s.to_last(compute(s.to_first(x)))


def convolved(s: Scope, x: Value, compute: Callable[[Value], Value]) -> Value:
    """`spatial` with the activation: inside where it is elementwise, so that nothing stands between the transposes."""
    spec = s.config.get("activation")
    if not isinstance(spec, str) or spec in _BY_AXIS:
        return s.activate(spatial(s, x, compute))
    return spatial(s, x, lambda y: s.activate(compute(y)))


def _padding(s: Scope, kernel: Sequence[int], dilations: Sequence[int]) -> dict:
    """The IR's padding attributes: "same" depends on the input's size and stays symbolic, causal pads the front."""
    mode = s.text("padding", "valid").lower()
    if mode == "same":
        return {"auto_pad": "same_upper"}
    if mode == "causal" and len(kernel) == 1:
        return {"pads": ((kernel[0] - 1) * dilations[0], 0)}
    if mode != "valid":
        raise s.invalid(f"padding is {mode!r}, expected valid or same")
    return {"pads": (0,) * (2 * len(kernel))}


def _geometry(s: Scope, n: int) -> dict:
    kernel, strides = s.sizes("kernel_size", n), s.sizes("strides", n, 1)
    dilations = s.sizes("dilation_rate", n, 1)
    return {"strides": strides, "dilations": dilations, **_padding(s, kernel, dilations)}


def _channels(s: Scope, x: Value) -> int:
    return s.static(x, s.rank(x) - 1 if s.channels_last() else 1)


def _spatial_rank(s: Scope, x: Value) -> int:
    n = int(s.layer.class_name.replace("Transpose", "")[-2])
    if s.rank(x) != n + 2:
        raise s.invalid(f"its input has rank {s.rank(x)}, expected {n + 2}")
    if s.lowering.backend == "theano":
        raise s.unsupported(
            "the file was written by Keras on Theano, whose kernels are flipped", "save it again with Keras 2"
        )
    return n


def _kernel_first(n: int) -> tuple[int, ...]:
    """(*K, in, out) -> (out, in, *K), and (*K, out, in) -> (in, out, *K)."""
    return (n + 1, n, *range(n))


@layer("Conv1D", "Conv2D", "Conv3D", "Convolution1D", "Convolution2D", "Convolution3D", weights="kernel bias?use_bias")
def conv(s: Scope, x: Value) -> Value:
    x, n = s.floating(x), _spatial_rank(s, x)
    groups, filters = s.size("groups", 1), s.size("filters")
    shape = (*s.sizes("kernel_size", n), _channels(s, x) // groups, filters)
    w = s.weight("kernel", shape, perm=_kernel_first(n))
    bias = s.weight("bias", (filters,)) if s.has("bias") else None
    return convolved(s, x, lambda y: s.b.conv(y, w, bias, groups=groups, **_geometry(s, n)))


def _depthwise_weight(s: Scope, name: str, n: int, channels: int) -> Value:
    """(*K, in, multiplier) -> [in * multiplier, 1, *K]: output channel c * multiplier + m reads input channel c."""
    multiplier, kernel = s.size("depth_multiplier", 1), s.sizes("kernel_size", n)
    shape = (*kernel, channels, multiplier)
    return s.weight(name, shape, perm=(n, n + 1, *range(n)), view=(channels * multiplier, 1, *kernel))


def _depthwise_slots(entry) -> list[tuple[str, bool]]:
    return [("kernel", True)] + ([("bias", True)] if entry.config.get("use_bias", True) else [])


@layer("DepthwiseConv1D", "DepthwiseConv2D", weights=_depthwise_slots)
def depthwise_conv(s: Scope, x: Value) -> Value:
    x, n, channels = s.floating(x), _spatial_rank(s, x), _channels(s, x)
    w = _depthwise_weight(s, "kernel", n, channels)
    bias = s.weight("bias", (channels * s.size("depth_multiplier", 1),)) if s.has("bias") else None
    return convolved(s, x, lambda y: s.b.conv(y, w, bias, groups=channels, **_geometry(s, n)))


@layer(
    "SeparableConv1D", "SeparableConv2D", "SeparableConvolution1D", "SeparableConvolution2D",
    weights="depthwise_kernel pointwise_kernel bias?use_bias",
)  # fmt: skip
def separable_conv(s: Scope, x: Value) -> Value:
    """A depthwise convolution, then a pointwise one with the bias."""
    x, n, channels = s.floating(x), _spatial_rank(s, x), _channels(s, x)
    filters, made = s.size("filters"), channels * s.size("depth_multiplier", 1)
    depth = _depthwise_weight(s, "depthwise_kernel", n, channels)
    point = s.weight("pointwise_kernel", (*[1] * n, made, filters), perm=_kernel_first(n))
    bias = s.weight("bias", (filters,)) if s.has("bias") else None

    def compute(y: Value) -> Value:
        return s.b.conv(s.b.conv(y, depth, groups=channels, **_geometry(s, n)), point, bias)

    return convolved(s, x, compute)


@layer(
    "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "Convolution2DTranspose", "Convolution3DTranspose",
    weights="kernel bias?use_bias",
)  # fmt: skip
def conv_transpose(s: Scope, x: Value) -> Value:
    x, n, filters = s.floating(x), _spatial_rank(s, x), s.size("filters")
    kernel, strides, dilations = s.sizes("kernel_size", n), s.sizes("strides", n, 1), s.sizes("dilation_rate", n, 1)
    w = s.weight("kernel", (*kernel, filters, _channels(s, x)), perm=_kernel_first(n))
    bias = s.weight("bias", (filters,)) if s.has("bias") else None
    extra: Sequence[int | None] = (None,) * n
    if s.config.get("output_padding") is not None:
        extra = s.sizes("output_padding", n, least=0)
    rows = [transposed_pads(s, *row) for row in zip(kernel, strides, dilations, extra, strict=True)]
    begins, ends, outer = zip(*rows, strict=True)
    attrs: dict[str, Any] = {
        "strides": strides,
        "dilations": dilations,
        "pads": (*begins, *ends),
        "output_padding": outer,
    }
    return convolved(s, x, lambda y: s.b.conv_transpose(y, w, bias, **attrs))


def transposed_pads(s: Scope, kernel: int, stride: int, dilation: int, extra: int | None) -> tuple[int, int, int]:
    """(cropped begin, cropped end, output padding) of one axis.

    Keras defines the result's length (`compute_conv_transpose_padding_args_for_jax`): "valid" is (n-1) s + max(k, s),
    "same" is n s, or with an explicit output padding (n-1) s + k resp. (n-1) s + k % 2, plus that padding; k is the
    dilated kernel.
    """
    mode = s.text("padding", "valid").lower()
    reach = (kernel - 1) * dilation + 1
    if mode == "valid":
        right = reach - 1 + (max(reach, stride) - reach if extra is None else extra)
        left = reach - 1
    elif mode == "same":
        total = stride + reach - 2 if extra is None else reach + reach % 2 - 2 + extra
        left = min(total // 2 + total % 2, reach - 1)
        right = total - left
    else:
        raise s.invalid(f"padding is {mode!r}, expected valid or same")
    begin, end = reach - 1 - left, reach - 1 - right
    return (begin, end, 0) if end >= 0 else (begin, 0, -end)
