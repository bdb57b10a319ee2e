"""Operations of `keras.ops.nn` and `keras.ops.image` with windows, normalization or attention; kernels come as
operands.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats.keras_config import Layer
from ...ir.graph import Value
from .conv import spatial, transposed_pads
from .registry import operation
from .reshaping import resize_to
from .scope import Scope


def _with(s: Scope, **config: Any) -> Scope:
    """A scope whose config holds the operation's arguments, for the helpers that layers and operations share."""
    merged = {**s.config, **{key: value for key, value in config.items() if value is not None}}
    return Scope(s.lowering, Layer(s.layer.name, s.layer.class_name, s.layer.module, merged, []), s.slots, s.path)


def _padding(s: Scope, n: int) -> dict:
    mode = s.text("padding", "valid").lower()
    if mode not in ("same", "valid"):
        raise s.unsupported(f"padding {mode!r}")
    return {"auto_pad": "same_upper"} if mode == "same" else {"pads": (0,) * (2 * n)}


@operation("Conv")
def conv(
    s: Scope,
    inputs: Any,
    kernel: Any,
    strides: Any = 1,
    padding: str = "valid",
    data_format: Any = None,
    dilation_rate: Any = 1,
) -> Value:
    """Kernel (*K, in / groups, out); the number of groups follows from the shapes."""
    o = _with(s, strides=strides, padding=padding, data_format=data_format, dilation_rate=dilation_rate)
    x, w = s.common(inputs, kernel)
    n = s.rank(x) - 2
    channels = s.static(x, s.rank(x) - 1 if o.channels_last() else 1)
    w = s.transpose(w, (n + 1, n, *range(n)))
    attrs = {"strides": o.sizes("strides", n, 1), "dilations": o.sizes("dilation_rate", n, 1), **_padding(o, n)}
    return spatial(o, x, lambda y: s.b.conv(y, w, groups=channels // s.static(w, 1), **attrs))


@operation("DepthwiseConv")
def depthwise_conv(
    s: Scope,
    inputs: Any,
    kernel: Any,
    strides: Any = 1,
    padding: str = "valid",
    data_format: Any = None,
    dilation_rate: Any = 1,
) -> Value:
    o = _with(s, strides=strides, padding=padding, data_format=data_format, dilation_rate=dilation_rate)
    x, w = s.common(inputs, kernel)
    return _depthwise(o, x, w)


def _depthwise(o: Scope, x: Value, w: Value) -> Value:
    n = o.rank(x) - 2
    *sizes, channels, multiplier = (o.static(w, i) for i in range(n + 2))
    w = o.b.reshape(o.transpose(w, (n, n + 1, *range(n))), (channels * multiplier, 1, *sizes))
    attrs = {"strides": o.sizes("strides", n, 1), "dilations": o.sizes("dilation_rate", n, 1), **_padding(o, n)}
    return spatial(o, x, lambda y: o.b.conv(y, w, groups=channels, **attrs))


@operation("SeparableConv")
def separable_conv(
    s: Scope,
    inputs: Any,
    depthwise_kernel: Any,
    pointwise_kernel: Any,
    strides: Any = 1,
    padding: str = "valid",
    data_format: Any = None,
    dilation_rate: Any = 1,
) -> Value:
    o = _with(s, strides=strides, padding=padding, data_format=data_format, dilation_rate=dilation_rate)
    x, depth, point = s.common(inputs, depthwise_kernel, pointwise_kernel)
    n = s.rank(x) - 2
    y = _depthwise(o, x, depth)
    return spatial(o, y, lambda z: s.b.conv(z, s.transpose(point, (n + 1, n, *range(n)))))


@operation("ConvTranspose")
def conv_transpose(
    s: Scope,
    inputs: Any,
    kernel: Any,
    strides: Any = 1,
    padding: str = "valid",
    output_padding: Any = None,
    data_format: Any = None,
    dilation_rate: Any = 1,
) -> Value:
    o = _with(
        s,
        strides=strides,
        padding=padding,
        output_padding=output_padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
    )
    x, w = s.common(inputs, kernel)
    n = s.rank(x) - 2
    steps, dilations = o.sizes("strides", n, 1), o.sizes("dilation_rate", n, 1)
    extra = (None,) * n if output_padding is None else o.sizes("output_padding", n, least=0)
    sizes = [s.static(w, i) for i in range(n)]
    rows = [transposed_pads(o, *row) for row in zip(sizes, steps, dilations, extra, strict=True)]
    begins, ends, outer = zip(*rows, strict=True)
    w = s.transpose(w, (n + 1, n, *range(n)))
    attrs: dict[str, Any] = {
        "strides": steps,
        "dilations": dilations,
        "pads": (*begins, *ends),
        "output_padding": outer,
    }
    return spatial(o, x, lambda y: s.b.conv_transpose(y, w, **attrs))


@operation("MaxPool", "AveragePool")
def pool(
    s: Scope, inputs: Any, pool_size: Any, strides: Any = None, padding: str = "valid", data_format: Any = None
) -> Value:
    o = _with(s, pool_size=pool_size, strides=strides, padding=padding, data_format=data_format)
    x = s.value(inputs)
    n = s.rank(x) - 2
    kernel = o.sizes("pool_size", n)
    attrs = {"kernel_shape": kernel, "strides": o.sizes("strides", n, list(kernel)), **_padding(o, n)}
    if s.layer.class_name == "MaxPool":
        return spatial(o, x, lambda y: s.b.max_pool(y, **attrs))
    return spatial(o, s.floating(x), lambda y: s.b.average_pool(y, count_include_pad=False, **attrs))


@operation("AdaptiveMaxPool", "AdaptiveAveragePool")
def adaptive_pool(s: Scope, inputs: Any, output_size: Any, data_format: Any = None) -> Value:
    o = _with(s, output_size=output_size, data_format=data_format)
    x = s.value(inputs)
    size = o.sizes("output_size", s.rank(x) - 2)
    if s.layer.class_name == "AdaptiveMaxPool":
        return spatial(o, x, lambda y: s.b.adaptive_max_pool(y, output_size=size))
    return spatial(o, s.floating(x), lambda y: s.b.adaptive_average_pool(y, output_size=size))


@operation("BatchNorm")
def batch_norm(
    s: Scope, x: Any, mean: Any, variance: Any, axis: Any, offset: Any = None, scale: Any = None, epsilon: float = 1e-3
) -> Value:
    value = s.floating(s.value(x))
    rank = s.rank(value)
    at = s.axis(axis, rank)
    perm = (0, at, *(i for i in range(1, rank) if i != at))
    size = s.static(value, at)
    s.bounded(size, "a filled constant")
    fill = lambda v, d: s.b.const(np.full((size,), d, s.dtype_of(value).numpy)) if v is None else s.value(v)  # noqa: E731
    y = s.b.batch_norm(
        s.transpose(value, perm),
        fill(scale, 1),
        fill(offset, 0),
        s.value(mean),
        s.value(variance),
        epsilon=float(epsilon),
    )
    return s.transpose(y, [perm.index(i) for i in range(rank)])


def _trailing_axis(s: Scope, x: Value, axis: Any) -> int:
    axes = s.axes(axis, s.rank(x))
    if axes != tuple(range(s.rank(x) - len(axes), s.rank(x))):
        raise s.unsupported("normalization over axes that are not the last ones")
    return axes[0]


@operation("LayerNorm")
def layer_norm(
    s: Scope,
    x: Any,
    gamma: Any = None,
    beta: Any = None,
    axis: Any = -1,
    epsilon: Any = None,
    rms_scaling: bool = False,
) -> Value:
    if rms_scaling:
        raise s.unsupported("the deprecated rms_scaling", "use keras.ops.rms_normalization")
    value = s.floating(s.value(x))
    items = [None if v is None else s.cast(s.value(v), s.dtype_of(value)) for v in (gamma, beta)]
    small = 1e-7 if epsilon is None else float(epsilon)
    return s.b.layer_norm(value, *items, axis=_trailing_axis(s, value, axis), epsilon=small)


@operation("RMSNorm")
def rms_norm(s: Scope, x: Any, scale: Any = None, axis: Any = -1, epsilon: Any = None) -> Value:
    value = s.floating(s.value(x))
    weight = None if scale is None else s.cast(s.value(scale), s.dtype_of(value))
    small = 1e-7 if epsilon is None else float(epsilon)
    return s.b.rms_norm(value, weight, axis=_trailing_axis(s, value, axis), epsilon=small)


@operation("DotProductAttention")
def dot_product_attention(
    s: Scope,
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    scale: Any = None,
    is_causal: bool = False,
    flash_attention: Any = None,
    attn_logits_soft_cap: Any = None,
) -> Value:
    """[B, T, H, D] inputs and result; fewer key heads are shared by groups of query heads."""
    q, k, v = (s.transpose(x, (0, 2, 1, 3)) for x in s.common(query, key, value))
    extra = None
    if mask is not None:
        extra = s.boolean(s.value(mask))
    if bias is not None:
        added = s.cast(s.value(bias), s.dtype_of(q))
        low = s.value(-1e9 if s.dtype_of(q).bits > 16 else -3e4, q.dtype)
        extra = added if extra is None else s.b.add(added, s.b.where(extra, s.value(0.0, q.dtype), low))
    factor = float(1.0 / np.sqrt(float(s.static(q, 3)))) if scale is None else s.as_number(scale, "scale")
    cap = 0.0 if attn_logits_soft_cap is None else float(attn_logits_soft_cap)
    y = s.b.attention(q, k, v, extra, is_causal=bool(is_causal), scale=factor, softcap=cap)[0]
    return s.transpose(y, (0, 2, 1, 3))


@operation("DepthToSpace", "SpaceToDepth")
def depth_space(s: Scope, x: Any, block_size: int, data_format: Any = "channels_last") -> Value:
    o, value = _with(s, data_format=data_format), s.value(x)
    size = s.as_size(block_size, "block_size")
    if s.layer.class_name == "DepthToSpace":
        return spatial(o, value, lambda y: s.b.depth_to_space(y, blocksize=size, mode="DCR"))
    return spatial(o, value, lambda y: s.b.space_to_depth(y, blocksize=size))


@operation("Resize")
def resize(
    s: Scope,
    images: Any,
    size: Any,
    interpolation: str = "bilinear",
    antialias: bool = False,
    data_format: Any = None,
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    **fill: Any,
) -> Value:
    if antialias or crop_to_aspect_ratio or pad_to_aspect_ratio:
        raise s.unsupported("resizing with antialias or to an aspect ratio")
    o = _with(s, data_format=data_format, size=size)
    return resize_to(o, s.floating(s.value(images)), o.sizes("size", 2), interpolation)  # type: ignore[arg-type]


@operation("RGBToGrayscale")
def grayscale(s: Scope, images: Any, data_format: Any = None) -> Value:
    """0.2989 R + 0.587 G + 0.114 B"""
    o, x = _with(s, data_format=data_format), s.floating(s.value(images))
    weights = s.b.const(np.asarray([0.2989, 0.5870, 0.1140], s.dtype_of(x).numpy).reshape(1, 3, 1, 1))
    return spatial(o, x, lambda y: s.b.conv(y, weights))
