"""Normalisation layers."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Value
from ...ir.types import BF16, F16, F32
from .importer import Call, Importer, known_dtype, rank_of
from .registry import handles


def _buffers(*values: Value | None) -> None:
    for value in values:
        if value is not None and value.weight is not None:
            value.weight.role = "buffer"


def _in_dtype(c: Importer, value: Value, like: Value) -> Value:
    return value if value.dtype is like.dtype else c.b.cast(value, to=known_dtype(like))


@handles("BatchNormalization")
def batch_norm(c: Importer, n: Call) -> Any:
    """Who asks for statistics trains: with `training_mode` since opset 14, before by naming further outputs. `spatial`
    0 has parameters per element."""
    x, scale, bias, mean, var = n.take(5)
    epsilon = n.attr("epsilon", 1e-5)
    asked = any(n.wants(i) for i in range(1, 5))
    if n.attr("training_mode", 0) or (asked and n.opset < 14 and not (n.opset < 7 and n.attr("is_test", 0))):
        return _train(c, n, epsilon)
    if asked:
        raise n.invalid("statistics are asked for in inference mode, which computes none")
    if n.opset < 7 and not n.attr("is_test", 0):
        c.note(n, "is_test is 0 but no statistics are asked for, read as inference")
    _buffers(mean, var)
    if n.opset < 9 and not n.attr("spatial", 1):
        return _normalised(c, x, scale, bias, mean, var, epsilon)
    if rank_of(x, n) < 2:
        raise n.refuse("an input of rank 1 has no channel axis")
    return c.b.batch_norm(x, scale, bias, mean, var, epsilon=epsilon)


def _train(c: Importer, n: Call, epsilon: float) -> list[Value]:
    """Normalise by the batch's own mean and (population) variance and move the running ones along. Results: y, running
    mean and variance, and before opset 14 the batch's mean and variance. Those of half floats are computed in the dtype
    of the running ones."""
    x, scale, bias, mean, var = n.take(5)
    b, momentum = c.b, n.attr("momentum", 0.9)
    per_element = n.opset < 9 and not n.attr("spatial", 1)
    axes = (0,) if per_element else (0, *range(2, rank_of(x, n)))
    wide = _in_dtype(c, x, mean) if x.dtype in (F16, BF16) else x
    batch_mean = b.reduce_mean(wide, axes, keepdims=False)
    centred = b.sub(wide, b.reduce_mean(wide, axes, keepdims=True))
    batch_var = b.reduce_mean(b.mul(centred, centred), axes, keepdims=False)
    if per_element:
        y = _normalised(c, x, scale, bias, batch_mean, batch_var, epsilon)
    else:
        y = b.batch_norm(x, scale, bias, batch_mean, batch_var, epsilon=epsilon)

    def moved(old: Value, new: Value) -> Value:
        keep, take = (c.scalar(f, old) for f in (momentum, 1 - momentum))
        return b.add(b.mul(old, keep), b.mul(_in_dtype(c, new, old), take))

    return [y, moved(mean, batch_mean), moved(var, batch_var), *((batch_mean, batch_var) if n.opset < 14 else ())]


def _normalised(c: Importer, x: Value, scale: Value, bias: Value, mean: Value, var: Value, epsilon: float) -> Value:
    """Batch normalisation with parameters per element."""
    inverse = c.b.div(scale, c.b.sqrt(c.b.add(var, c.scalar(epsilon, var))))
    return c.b.add(c.b.mul(c.b.sub(x, mean), inverse), bias)


@handles("InstanceNormalization")
def instance_norm(c: Importer, n: Call) -> Any:
    return c.b.instance_norm(*n.take(3), epsilon=n.attr("epsilon", 1e-5))


@handles("GroupNormalization")
def group_norm_by_group(c: Importer, n: Call) -> Any:
    """Opset 18 has one scale and bias per group: repeat them for the channels of the group."""
    x, scale, bias = n.take(3)
    groups = n.attr("num_groups")
    rank_of(x, n)
    channels = x.shape[1]
    if type(channels) is not int or channels % groups:
        raise n.refuse(f"{channels} channels cannot be told apart into {groups} groups")

    def repeated(value: Value) -> Value:
        wide = c.b.expand(c.b.unsqueeze(value, (1,)), (groups, channels // groups))
        return c.b.reshape(wide, (channels,))

    return _group_norm(c, n, x, repeated(scale), repeated(bias))


@handles("GroupNormalization", since=21)
def group_norm(c: Importer, n: Call) -> Any:
    return _group_norm(c, n, *n.take(3))


def _group_norm(c: Importer, n: Call, x: Value, scale: Value, bias: Value) -> Value:
    return c.b.group_norm(x, scale, bias, num_groups=n.attr("num_groups"), epsilon=n.attr("epsilon", 1e-5))


@handles("LayerNormalization")
def layer_norm(c: Importer, n: Call) -> Any:
    x, scale, bias = n.take(3)
    axis, epsilon = n.attr("axis", -1), n.attr("epsilon", 1e-5)
    y = c.b.layer_norm(x, scale, bias, axis=axis, epsilon=epsilon)
    if not (n.wants(1) or n.wants(2)):
        return y
    return (y, *_statistics(c, n, x, axis, epsilon))


def _statistics(c: Importer, n: Call, x: Value, axis: int, epsilon: float) -> tuple[Value, Value]:
    """Mean and inverse standard deviation over the normalised axes, in the precision of `stash_type`."""
    rank = rank_of(x, n)
    axes = tuple(range(axis % rank, rank))
    wide = c.b.cast(x, to=F32) if x.dtype in (F16, BF16) and n.attr("stash_type", 1) == 1 else x
    mean = c.b.reduce_mean(wide, axes, keepdims=True)
    centred = c.b.sub(wide, mean)
    var = c.b.reduce_mean(c.b.mul(centred, centred), axes, keepdims=True)
    shifted = c.b.add(var, c.scalar(epsilon, wide))
    return mean, c.b.reciprocal(c.b.sqrt(shifted))


@handles("RMSNormalization")
def rms_norm(c: Importer, n: Call) -> Any:
    x, scale = n.take(2)
    return c.b.rms_norm(x, scale, axis=n.attr("axis", -1), epsilon=n.attr("epsilon", 1e-5))


@handles("LRN")
def lrn(c: Importer, n: Call) -> Any:
    return c.b.lrn(
        n.x,
        alpha=n.attr("alpha", 1e-4),
        beta=n.attr("beta", 0.75),
        bias=n.attr("bias", 1.0),
        size=n.attr("size"),
    )


@handles("LpNormalization")
def lp_normalization(c: Importer, n: Call) -> Any:
    return c.b.lp_normalization(n.x, axis=n.attr("axis", -1), p=n.attr("p", 2))


@handles("MeanVarianceNormalization")
def mean_variance_normalization(c: Importer, n: Call) -> Any:
    return c.b.mean_variance_normalization(n.x, axes=tuple(n.attr("axes", (0, 2, 3))))
