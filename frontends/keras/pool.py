"""Pooling layers of Keras: windows, whole axes and fixed output sizes, in one to three spatial dims."""

from __future__ import annotations

from ...ir.graph import Value
from .conv import spatial
from .registry import layer
from .scope import Scope


def _rank(s: Scope, x: Value) -> int:
    n = int(s.layer.class_name[-2])
    if s.rank(x) != n + 2:
        raise s.invalid(f"its input has rank {s.rank(x)}, expected {n + 2}")
    return n


def _window(s: Scope, n: int) -> dict:
    kernel = s.sizes("pool_size", n)
    attrs = {"kernel_shape": kernel, "strides": s.sizes("strides", n, list(kernel))}
    if s.text("padding", "valid").lower() == "same":
        return {**attrs, "auto_pad": "same_upper"}
    if s.text("padding", "valid").lower() != "valid":
        raise s.invalid(f"padding is {s.text('padding')!r}, expected valid or same")
    return {**attrs, "pads": (0,) * (2 * n)}


@layer("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "MaxPool1D", "MaxPool2D", "MaxPool3D")
def max_pool(s: Scope, x: Value) -> Value:
    n = _rank(s, x)
    return spatial(s, x, lambda y: s.b.max_pool(y, **_window(s, n)))


@layer("AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "AvgPool1D", "AvgPool2D", "AvgPool3D")
def average_pool(s: Scope, x: Value) -> Value:
    """Padding of "same" does not count in the mean."""
    x, n = s.floating(x), _rank(s, x)
    if s.config.get("padding") == "same" and s.lowering.backend == "torch" and set(s.sizes("strides", n, 2)) != {1}:
        s.lowering.note(
            f"{s.where}: Keras on torch repeats edge pixels where the padding is uneven; this follows Keras' "
            "definition, which its other backends share"
        )
    return spatial(s, x, lambda y: s.b.average_pool(y, count_include_pad=False, **_window(s, n)))


def _global(s: Scope, x: Value, op: str) -> Value:
    """Over all spatial axes; they stay as ones with `keepdims`."""
    n = _rank(s, x)
    last = s.channels_last()
    y = s.b.call(op, (s.to_first(x) if last else x,)).result
    if not s.flag("keepdims"):
        return s.b.squeeze(y, tuple(range(2, n + 2)))
    return s.to_last(y) if last else y


@layer("GlobalAveragePooling2D", "GlobalAveragePooling3D", "GlobalAvgPool2D", "GlobalAvgPool3D")
def global_average_pool(s: Scope, x: Value) -> Value:
    return _global(s, s.floating(x), "global_average_pool")


@layer("GlobalAveragePooling1D", "GlobalAvgPool1D")
def global_average_pool_1d(s: Scope, x: Value) -> Value:
    """With a mask: the mean over the unmasked steps."""
    x = s.floating(x)
    mask = s.masks.get(x)
    if mask is None:
        return _global(s, x, "global_average_pool")
    steps = 1 if s.channels_last() else 2
    weight = s.cast(s.expand(mask, 2 if steps == 1 else 1), s.dtype_of(x))
    keep = s.flag("keepdims")
    total = s.b.reduce_sum(s.b.mul(x, weight), (steps,), keepdims=keep)
    return s.b.div(total, s.b.reduce_sum(weight, (steps,), keepdims=keep))


@layer(
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GlobalMaxPooling3D",
    "GlobalMaxPool1D",
    "GlobalMaxPool2D",
    "GlobalMaxPool3D",
)
def global_max_pool(s: Scope, x: Value) -> Value:
    return _global(s, x, "global_max_pool")


@layer("AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D")
def adaptive_average_pool(s: Scope, x: Value) -> Value:
    n = _rank(s, x)
    return spatial(s, s.floating(x), lambda y: s.b.adaptive_average_pool(y, output_size=s.sizes("output_size", n)))


@layer("AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D")
def adaptive_max_pool(s: Scope, x: Value) -> Value:
    n = _rank(s, x)
    return spatial(s, x, lambda y: s.b.adaptive_max_pool(y, output_size=s.sizes("output_size", n)))
