"""Normalization layers of Keras at inference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...formats.keras_config import Layer
from ...ir.graph import Value
from .merge import l2_normalized
from .registry import layer
from .scope import Scope


def _with_channel_first(s: Scope, x: Value, axis: int, compute: Callable[[Value], Value]) -> Value:
    """`compute` with `axis` moved to position 1, and back."""
    rank = s.rank(x)
    perm = (0, axis, *(i for i in range(1, rank) if i != axis))
    return s.transpose(compute(s.transpose(x, perm)), [perm.index(i) for i in range(rank)])


def _filled(s: Scope, size: int, value: float) -> Value:
    return s.b.const(np.full((s.bounded(size, "a filled constant"),), value, s.dtype.numpy))


def _or_constant(s: Scope, name: str, size: int, value: float) -> Value:
    return s.weight(name, (size,)) if s.has(name) else _filled(s, size, value)


@layer("BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2",
       weights="gamma?scale beta?center ~moving_mean ~moving_variance", mask="keep")  # fmt: skip
def batch_normalization(s: Scope, x: Value) -> Value:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta with the moving statistics."""
    x = s.floating(x)
    axis = s.axis(s.config.get("axis", -1), s.rank(x))
    if axis == 0:
        raise s.unsupported("statistics per sample (axis 0)")
    size = s.static(x, axis)
    mean, variance = s.weight("moving_mean", (size,)), s.weight("moving_variance", (size,))
    scale, bias = _or_constant(s, "gamma", size, 1.0), _or_constant(s, "beta", size, 0.0)
    epsilon = s.number("epsilon", 1e-3)
    return _with_channel_first(s, x, axis, lambda y: s.b.batch_norm(y, scale, bias, mean, variance, epsilon=epsilon))


def _trailing(s: Scope, x: Value, compute: Callable[[Value, int], Value]) -> Value:
    """`compute(y, first axis)` with the normalized axes moved to the end in order, and back."""
    rank = s.rank(x)
    axes = s.axes(s.config.get("axis", -1), rank)
    perm = (*(i for i in range(rank) if i not in axes), *axes)
    y = compute(s.transpose(x, perm), rank - len(axes))
    return s.transpose(y, [perm.index(i) for i in range(rank)])


def _layer_norm_slots(entry: Layer) -> list[tuple[str, bool]]:
    config = entry.config
    rms = config.get("rms_scaling", False)
    names = ["gamma"] * bool(config.get("scale", True) or rms) + ["beta"] * bool(config.get("center", True) and not rms)
    return [(name, True) for name in names]


@layer("LayerNormalization", weights=_layer_norm_slots, mask="keep")
def layer_normalization(s: Scope, x: Value) -> Value:
    """Mean and variance over `axis`; the deprecated `rms_scaling` divides by the deviation without centring."""
    x, epsilon = s.floating(x), s.number("epsilon", 1e-3)
    shape = [s.static(x, a) for a in s.axes(s.config.get("axis", -1), s.rank(x))]
    gamma = s.weight("gamma", shape) if s.has("gamma") else None
    beta = s.weight("beta", shape) if s.has("beta") else None
    if s.flag("rms_scaling"):
        return _trailing(s, x, lambda y, axis: _scaled_by_deviation(s, y, gamma, axis, epsilon))
    return _trailing(s, x, lambda y, axis: s.b.layer_norm(y, gamma, beta, axis=axis, epsilon=epsilon))


def _scaled_by_deviation(s: Scope, x: Value, gamma: Value | None, axis: int, epsilon: float) -> Value:
    """x / sqrt(var(x) + epsilon) * gamma: what `rms_scaling` computes, whatever its name says."""
    axes = tuple(range(axis, s.rank(x)))
    centred = s.b.sub(x, s.b.reduce_mean(x, axes, keepdims=True))
    variance = s.b.reduce_mean(s.b.mul(centred, centred), axes, keepdims=True)
    y = s.b.div(x, s.b.sqrt(s.b.add(variance, s.value(epsilon, x.dtype))))
    return y if gamma is None else s.b.mul(y, gamma)


@layer("RMSNormalization", weights="scale")
def rms_normalization(s: Scope, x: Value) -> Value:
    x = s.floating(x)
    shape = [s.static(x, a) for a in s.axes(s.config.get("axis", -1), s.rank(x))]
    scale = s.weight("scale", shape)
    epsilon = s.number("epsilon", 1e-6)
    return _trailing(s, x, lambda y, axis: s.b.rms_norm(y, scale, axis=axis, epsilon=epsilon))


@layer("GroupNormalization", weights="gamma?scale beta?center", mask="keep")
def group_normalization(s: Scope, x: Value) -> Value:
    x = s.floating(x)
    axis = s.axis(s.config.get("axis", -1), s.rank(x))
    size = s.static(x, axis)
    groups = s.config.get("groups", 32)
    groups = size if groups == -1 else s.as_size(groups, "groups")
    if size % groups:
        raise s.invalid(f"{groups} groups do not divide {size} channels")
    scale, bias = _or_constant(s, "gamma", size, 1.0), _or_constant(s, "beta", size, 0.0)

    def compute(y: Value) -> Value:
        flat = s.rank(y) == 2
        y = s.expand(y, 2) if flat else y
        y = s.b.group_norm(y, scale, bias, num_groups=groups, epsilon=s.number("epsilon", 1e-3))
        return s.b.squeeze(y, (2,)) if flat else y

    return _with_channel_first(s, x, axis, compute)


@layer("UnitNormalization", mask="keep")
def unit_normalization(s: Scope, x: Value) -> Value:
    x = s.floating(x)
    return l2_normalized(s, x, s.axes(s.config.get("axis", -1), s.rank(x)), epsilon=1e-12)
