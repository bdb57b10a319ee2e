"""Preprocessing layers of Keras that are deterministic maths on numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...formats.keras_config import Layer
from ...ir import types as t
from ...ir.graph import Value
from .registry import layer
from .scope import Scope

_EPSILON = 1e-7  # keras.backend.epsilon()


def _numbers(s: Scope, value: Any, key: str) -> np.ndarray:
    """A number or nested list of numbers from a config, also as a serialized array."""
    if isinstance(value, dict) and value.get("class_name") in ("__numpy__", "__tensor__"):
        value = value.get("config", {}).get("value")
    try:
        made = np.asarray(value, s.dtype.numpy)
    except (TypeError, ValueError):
        raise s.invalid(f"{key} is not made of numbers") from None
    return made


@layer("Rescaling", mask="keep", autocast=False)
def rescaling(s: Scope, x: Value) -> Value:
    """cast(x) * scale + offset"""
    scale, offset = (_numbers(s, s.config.get(key, d), key) for key, d in (("scale", 1.0), ("offset", 0.0)))
    y = s.cast(x, s.dtype)
    y = s.b.mul(y, s.b.const(scale)) if np.any(scale != 1) else y
    return s.b.add(y, s.b.const(offset)) if np.any(offset != 0) else y


def _normalization_slots(entry: Layer) -> list[tuple[str, bool]]:
    adapted = entry.config.get("mean") is None
    return [("mean", False), ("variance", False), ("count", False)] if adapted else []


@layer("Normalization", weights=_normalization_slots, mask="keep", autocast=False)
def normalization(s: Scope, x: Value) -> Value:
    """(x - mean) / max(sqrt(variance), 1e-7) over the kept axes, or back with `invert`."""
    x = s.cast(x, s.dtype)
    rank = s.rank(x)
    kept = s.axes(s.config.get("axis", -1), rank) if s.config.get("axis", -1) is not None else ()
    shape = [s.static(x, a) if a in kept else 1 for a in range(rank)]
    if s.has("mean"):
        given = [s.array(name, [shape[a] for a in kept]).astype(s.dtype.numpy) for name in ("mean", "variance")]
    else:
        given = [_numbers(s, s.config.get(name), name) for name in ("mean", "variance")]
    s.bounded(math.prod(shape), "a mean")
    mean, variance = (np.broadcast_to(_on_axes(s, a, kept, rank), shape) for a in given)
    with np.errstate(invalid="ignore"):
        deviation = np.maximum(np.sqrt(variance), np.asarray(_EPSILON, s.dtype.numpy))
    centre = s.derived("mean", np.ascontiguousarray(mean), f"reshape{shape}", False)
    width = s.derived("deviation", np.ascontiguousarray(deviation), "max(sqrt(variance), 1e-7)", False)
    if s.flag("invert"):
        return s.b.add(centre, s.b.mul(x, width))
    return s.b.div(s.b.sub(x, centre), width)


def _on_axes(s: Scope, a: np.ndarray, kept: tuple[int, ...], rank: int) -> np.ndarray:
    """A mean given by the user, its axes aligned with the kept ones from the right."""
    shape = [1] * rank
    if a.ndim > len(kept):
        raise s.invalid(f"mean has {a.ndim} axes for {len(kept)} kept ones")
    for i in range(1, a.ndim + 1):
        shape[kept[-i]] = a.shape[-i]
    return a.reshape(shape)


def _encoded(s: Scope, indices: Value, mode: str, depth: int, dtype: t.DType) -> Value:
    """one_hot, multi_hot or count over the last axis (`numerical_utils.encode_categorical_inputs`)."""
    if mode != "one_hot" and s.rank(indices) == 1:
        raise s.unsupported(f"{mode} encoding of a vector without batch", "give it shape (batch, tokens)")
    if mode == "one_hot" and s.shape(indices)[-1] == 1 and s.rank(indices) > 1:
        indices = s.b.squeeze(indices, (-1,))
    flags = s.b.one_hot(indices, s.value(depth, t.I64), s.b.const(np.asarray([0, 1], dtype.numpy)), axis=-1)
    if mode == "multi_hot":
        return s.b.reduce_max(flags, (-2,), keepdims=False)
    return s.b.reduce_sum(flags, (-2,), keepdims=False) if mode == "count" else flags


@layer("CategoryEncoding", autocast=False)
def category_encoding(s: Scope, x: Value, count_weights: Any = None) -> Value:
    mode = s.text("output_mode", "multi_hot", ("one_hot", "multi_hot", "count"))
    if count_weights is not None or s.flag("sparse"):
        raise s.unsupported("count_weights or sparse output")
    indices = x if x.dtype in (t.I32, t.I64) else s.cast(x, t.I32)
    return _encoded(s, indices, mode, s.size("num_tokens"), s.dtype)


@layer("Discretization", autocast=False)
def discretization(s: Scope, x: Value) -> Value:
    """The number of boundaries that are not above x, then the encoding of that index."""
    bounds = s.config.get("bin_boundaries")
    if not isinstance(bounds, (list, tuple)) or not bounds or s.flag("sparse"):
        raise s.unsupported("no bin_boundaries in its config, or sparse output", "adapt it before saving")
    mode = s.text("output_mode", "int", ("int", "one_hot", "multi_hot", "count"))
    edges = s.b.const(np.sort(_numbers(s, bounds, "bin_boundaries").astype(np.float32)))
    above = s.b.greater_equal(s.expand(s.cast(x, t.F32), -1), edges)
    index = s.b.reduce_sum(s.cast(above, t.I32), (-1,), keepdims=False)
    return index if mode == "int" else _encoded(s, index, mode, len(bounds) + 1, s.dtype)
