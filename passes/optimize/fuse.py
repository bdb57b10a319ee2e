"""Activations and norms that exporters wrote out become one op again. Everything is within the last ulp (`numerics="ulp"`)."""

from __future__ import annotations

import math

from ...ir.graph import Value
from ..manager import pattern_pass
from ..pattern import literal_equals
from ..rewrite import StagingBuilder, rewrites


def _is_float(x: Value) -> bool:
    return x.dtype is not None and x.dtype.is_float


def _near(value: Value, wanted: float) -> bool:
    """A one-element constant equal to `wanted` as far as its dtype can say."""
    number = value.scalar()
    return number is not None and math.isclose(float(number), wanted, rel_tol=1e-6)


@rewrites(lambda p, x: p.mul(x, p.sigmoid(x)), numerics="ulp")
def fuse_silu(b: StagingBuilder, x: Value):
    """mul(x, sigmoid(x)) -> silu(x)"""
    return b.silu(x) if _is_float(x) else b.decline("silu needs a float input")


@rewrites(lambda p, x, s: p.div(p.mul(x, p.clip(p.add(x, 3.0), 0.0, 6.0)), s), numerics="ulp", benefit=3)
def fuse_hard_swish_divided(b: StagingBuilder, x: Value, s: Value):
    """div(mul(x, clip(add(x, 3), 0, 6)), 6) -> hard_swish(x)"""
    return b.hard_swish(x) if literal_equals(s, 6.0) else b.decline("the divisor is not 6")


@rewrites(lambda p, x, s: p.div(p.mul(x, p.relu6(p.add(x, 3.0))), s), numerics="ulp", benefit=3)
def fuse_hard_swish_relu6(b: StagingBuilder, x: Value, s: Value):
    """div(mul(x, relu6(add(x, 3))), 6) -> hard_swish(x)"""
    return b.hard_swish(x) if literal_equals(s, 6.0) else b.decline("the divisor is not 6")


@rewrites(lambda p, x, s: p.mul(p.mul(x, p.relu6(p.add(x, 3.0))), s), numerics="ulp", benefit=3)
def fuse_hard_swish_multiplied(b: StagingBuilder, x: Value, s: Value):
    """mul(mul(x, relu6(add(x, 3))), 1/6) -> hard_swish(x)"""
    return b.hard_swish(x) if _near(s, 1 / 6) else b.decline("the factor is not 1/6")


@rewrites(lambda p, x: p.mul(x, p.hard_sigmoid(x, alpha=1 / 6, beta=0.5)), numerics="ulp", benefit=2)
def fuse_hard_swish_sigmoid(b: StagingBuilder, x: Value):
    """mul(x, hard_sigmoid(x, 1/6, 1/2)) -> hard_swish(x)"""
    return b.hard_swish(x)


@rewrites(lambda p, x, h, d: p.mul(p.mul(x, p.add(p.erf(p.div(x, d)), 1.0)), h), numerics="ulp", benefit=3)
def fuse_gelu_divided(b: StagingBuilder, x: Value, h: Value, d: Value):
    """mul(mul(x, add(erf(div(x, sqrt 2)), 1)), 1/2) -> gelu(x)"""
    if not (_near(h, 0.5) and _near(d, math.sqrt(2))):
        return b.decline("the constants are not 1/2 and sqrt 2")
    return b.gelu(x)


@rewrites(lambda p, x, h, d: p.mul(p.mul(x, h), p.add(p.erf(p.div(x, d)), 1.0)), numerics="ulp", benefit=3)
def fuse_gelu_halved_first(b: StagingBuilder, x: Value, h: Value, d: Value):
    """mul(mul(x, 1/2), add(erf(div(x, sqrt 2)), 1)) -> gelu(x)"""
    if not (_near(h, 0.5) and _near(d, math.sqrt(2))):
        return b.decline("the constants are not 1/2 and sqrt 2")
    return b.gelu(x)


@rewrites(lambda p, x, h, d: p.mul(p.mul(x, h), p.add(p.erf(p.mul(x, d)), 1.0)), numerics="ulp", benefit=3)
def fuse_gelu_multiplied(b: StagingBuilder, x: Value, h: Value, d: Value):
    """mul(mul(x, 1/2), add(erf(mul(x, 1/sqrt 2)), 1)) -> gelu(x)"""
    if not (_near(h, 0.5) and _near(d, math.sqrt(0.5))):
        return b.decline("the constants are not 1/2 and 1/sqrt 2")
    return b.gelu(x)


@rewrites(lambda p, x: p.div(1.0, p.sqrt(x)), numerics="ulp")
def fuse_rsqrt_divided(b: StagingBuilder, x: Value):
    """div(1, sqrt(x)) -> rsqrt(x)"""
    return b.rsqrt(x) if _is_float(x) else b.decline("rsqrt needs a float input")


@rewrites(lambda p, x: p.reciprocal(p.sqrt(x)), numerics="ulp")
def fuse_rsqrt_reciprocal(b: StagingBuilder, x: Value):
    """reciprocal(sqrt(x)) -> rsqrt(x)"""
    return b.rsqrt(x)


@rewrites(lambda p, x: p.log(p.add(p.exp(x), 1.0)), numerics="approx")
def fuse_softplus(b: StagingBuilder, x: Value):
    """log(add(exp(x), 1)) -> softplus(x); approx, since softplus does not overflow where the written-out form does"""
    return b.softplus(x)


@rewrites(lambda p, x: p.mul(x, p.tanh(p.softplus(x))), numerics="ulp", benefit=2)
def fuse_mish(b: StagingBuilder, x: Value):
    """mul(x, tanh(softplus(x))) -> mish(x)"""
    return b.mish(x)


def _normalized(p, x, axes, eps):
    """(x - mean) / sqrt(mean((x - mean)^2) + eps), as a pattern; the difference is one node."""
    difference = p.sub(x, p.reduce_mean(x, axes, keepdims=True))
    variance = p.reduce_mean(p.square(difference), axes, keepdims=True)
    return p.div(difference, p.sqrt(p.add(variance, eps)))


@rewrites(_normalized, numerics="ulp", benefit=4)
def fuse_layer_norm(b: StagingBuilder, x: Value, axes: Value, eps: Value):
    """div(sub(x, mean(x)), sqrt(add(mean(square(sub(x, mean(x)))), eps))) -> layer_norm(x)"""
    epsilon, over = eps.scalar(), axes.ints()
    if x.rank is None or epsilon is None or not over:
        return b.decline("rank, axes and epsilon must be known")
    first = min(a % x.rank for a in over)
    if sorted(a % x.rank for a in over) != list(range(first, x.rank)):
        return b.decline("the axes are not the last ones")
    return b.layer_norm(x, axis=first, epsilon=float(epsilon))


@rewrites(lambda p, x, w, a, e: p.mul(p.layer_norm(x, axis=a, epsilon=e), w), numerics="ulp")
def layer_norm_scale(b: StagingBuilder, x: Value, w: Value, a: int, e: float):
    """mul(layer_norm(x), w) -> layer_norm(x, w)"""
    if x.shape is None or w.shape != x.shape[a:]:
        return b.decline("the scale does not have the normalised shape")
    return b.layer_norm(x, w, axis=a, epsilon=e)


@rewrites(lambda p, x, w, c, a, e: p.add(p.layer_norm(x, w, axis=a, epsilon=e), c), numerics="ulp")
def layer_norm_bias(b: StagingBuilder, x: Value, w: Value, c: Value, a: int, e: float):
    """add(layer_norm(x, w), c) -> layer_norm(x, w, c)"""
    if w is None or x.shape is None or c.shape != x.shape[a:]:
        return b.decline("the shift does not have the normalised shape")
    return b.layer_norm(x, w, c, axis=a, epsilon=e)


fuse_activations = pattern_pass(
    "fuse-activations",
    [
        fuse_silu,
        fuse_hard_swish_divided,
        fuse_hard_swish_relu6,
        fuse_hard_swish_multiplied,
        fuse_hard_swish_sigmoid,
        fuse_gelu_divided,
        fuse_gelu_halved_first,
        fuse_gelu_multiplied,
        fuse_rsqrt_divided,
        fuse_rsqrt_reciprocal,
        fuse_softplus,
        fuse_mish,
        fuse_layer_norm,
        layer_norm_scale,
        layer_norm_bias,
    ],
    doc="Activations and norms that were written out become one op.",
)
