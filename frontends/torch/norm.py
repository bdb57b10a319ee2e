"""aten normalisations. Must not import torch."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from ...ir.errors import InvalidModel, Unsupported
from ...ir.value import Value
from .context import Context
from .registry import Bool, Int, Number, Sizes, Tensor, handles

EVAL = "call .eval() on the module before it is exported"


def _filled(c: Context, given: Value | None, size: Any, value: float, like: Value) -> Value:
    """`given`, or `size` times `value`."""
    if given is not None:
        return given
    assert like.dtype is not None
    if not isinstance(size, int):
        raise Unsupported("normalisation over a dimension whose size is known only at run time")
    return c.b.const(np.full(size, value, like.dtype.numpy), like.dtype)


def _channels(c: Context, x: Value) -> Any:
    if c.rank(x) < 2:
        raise InvalidModel(f"normalisation of a tensor of rank {c.rank(x)}")
    return c.size(x, 1)


def _batch_norm(
    c: Context, x: Value, scale: Value | None, bias: Value | None, mean: Value, var: Value, eps: float
) -> Value:
    size = _channels(c, x)
    scale, bias = _filled(c, scale, size, 1.0, x), _filled(c, bias, size, 0.0, x)
    return c.b.batch_norm(x, *(c.cast(v, x.dtype) for v in (scale, bias, mean, var)), epsilon=eps)  # type: ignore[arg-type]


@handles("aten.batch_norm")
def batch_norm(
    c: Context, input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, training: Bool, momentum: Number = 0.1, eps: Number = 1e-5,
) -> Value:  # fmt: skip
    if training or running_mean is None or running_var is None:
        raise Unsupported("batch normalisation with the statistics of the batch", hint=EVAL)
    return _batch_norm(c, input, weight, bias, running_mean, running_var, float(eps))


@handles("aten._native_batch_norm_legit_no_training")
def batch_norm_inference(
    c: Context, input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor, running_var: Tensor,
    momentum: Number, eps: Number,
) -> tuple[Value | None, ...]:  # fmt: skip
    return _batch_norm(c, input, weight, bias, running_mean, running_var, float(eps)), None, None


@handles("aten.instance_norm")
def instance_norm(
    c: Context, input: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, running_mean: Tensor | None = None,
    running_var: Tensor | None = None, use_input_stats: Bool = True, momentum: Number = 0.1, eps: Number = 1e-5,
) -> Value:  # fmt: skip
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise InvalidModel("instance normalisation without any statistics")
        return _batch_norm(c, input, weight, bias, running_mean, running_var, float(eps))
    size = _channels(c, input)
    scale, shift = _filled(c, weight, size, 1.0, input), _filled(c, bias, size, 0.0, input)
    return c.b.instance_norm(input, scale, shift, epsilon=float(eps))


@handles("aten.layer_norm")
def layer_norm(
    c: Context, input: Tensor, normalized_shape: Sizes, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: Number = 1e-5,
) -> Value:  # fmt: skip
    """Over the last dimensions, as many as `normalized_shape` has."""
    axis = _normalized(c, input, normalized_shape)
    if weight is None and bias is not None:
        weight = c.b.expand(c.like(1.0, input), c.sizes(normalized_shape))
    return c.b.layer_norm(input, weight, bias, axis=axis, epsilon=float(eps))


def _normalized(c: Context, x: Value, shape: Sizes) -> int:
    if not 0 < len(shape) <= c.rank(x) or (x.shape or ())[-len(shape) :] != shape:
        raise InvalidModel(f"normalized_shape {shape} of a tensor {x.type}")
    return -len(shape) % c.rank(x)


@handles("aten.native_layer_norm")
def native_layer_norm(
    c: Context, input: Tensor, normalized_shape: Sizes, weight: Tensor | None, bias: Tensor | None, eps: Number
) -> tuple[Value | None, ...]:
    return layer_norm(c, input, normalized_shape, weight, bias, eps), None, None


@handles("aten.rms_norm", "aten._fused_rms_norm")
def rms_norm(
    c: Context, input: Tensor, normalized_shape: Sizes, weight: Tensor | None = None, eps: Number | None = None
) -> Any:
    axis = _normalized(c, input, normalized_shape)
    if eps is None:
        assert input.dtype is not None
        eps = float(ml_dtypes.finfo(input.dtype.numpy).eps)
    y = c.b.rms_norm(input, weight, axis=axis, epsilon=float(eps))
    return (y, None) if "_fused" in c.node.target else y


@handles("aten.group_norm")
def group_norm(
    c: Context,
    input: Tensor,
    num_groups: Int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: Number = 1e-5,
) -> Value:
    size = _channels(c, input)
    scale, shift = _filled(c, weight, size, 1.0, input), _filled(c, bias, size, 0.0, input)
    return c.b.group_norm(input, scale, shift, num_groups=num_groups, epsilon=float(eps))


@handles("aten.native_group_norm")
def native_group_norm(
    c: Context,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    N: Any,
    C: Any,
    HxW: Any,
    group: Int,
    eps: Number,
) -> tuple[Value | None, ...]:
    return group_norm(c, input, group, weight, bias, eps), None, None


@handles("aten._weight_norm")
def weight_norm(c: Context, v: Tensor, g: Tensor, dim: Int = 0) -> Value:
    """g * v / |v|, the norm over all dimensions but `dim`."""
    keep = c.axis(v, dim)
    axes = tuple(axis for axis in range(c.rank(v)) if axis != keep)
    length = c.b.reduce_l2(v, axes, keepdims=True) if axes else c.b.abs(v)
    return c.b.mul(v, c.b.div(g, length))
