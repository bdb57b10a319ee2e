"""Small models made of `keras.ops`, for the operation tables of the Keras frontend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .keras_cases import IMG, SEQ, case

_ROW = np.linspace(-1.0, 1.0, 6, dtype="float32")


def _ops(name: str, make: Callable[[Any, Any], Any], shape: tuple = SEQ, dtype: str = "float32") -> None:
    """A case `make(keras.ops, x)` that returns one tensor or a list."""

    def build() -> Any:
        import keras

        x = keras.Input(shape, dtype=dtype)
        return keras.Model(x, make(keras.ops, x))

    case(f"ops-{name}")(build)


_ops(
    "unary",
    lambda o, x: [
        o.abs(x),
        -x,
        o.sign(x),
        o.floor(x),
        o.ceil(x),
        o.trunc(x),
        o.round(x),
        o.square(x),
        o.exp(x),
        o.expm1(x),
        o.log1p(o.abs(x)),
        o.sqrt(o.abs(x)),
        o.rsqrt(o.abs(x) + 1),
        o.reciprocal(x + 5),
        o.log(o.abs(x) + 1),
        o.log2(o.abs(x) + 1),
        o.log10(o.abs(x) + 1),
        o.exp2(x),
        o.erf(x),
    ],
)
_ops(
    "trigonometry",
    lambda o, x: [
        o.sin(x),
        o.cos(x),
        o.tan(x / 3),
        o.arcsin(o.tanh(x)),
        o.arccos(o.tanh(x)),
        o.arctan(x),
        o.sinh(x),
        o.cosh(x),
        o.tanh(x),
        o.arcsinh(x),
        o.arccosh(o.abs(x) + 1),
        o.arctanh(o.tanh(x) * 0.9),
        o.arctan2(x, x + 1),
        o.deg2rad(x),
        o.rad2deg(x),
    ],
)
_ops(
    "binary",
    lambda o, x: [
        x + _ROW,
        1 - x,
        x * 2,
        2.0 / (x + 5),
        x**2,
        o.abs(x) ** 1.5,
        x // 0.3,
        x % 0.3,
        o.maximum(x, 0.1),
        o.minimum(x, _ROW),
        o.divide_no_nan(x, o.relu(x)),
        o.hypot(x, x + 1),
        o.logaddexp(x, _ROW),
    ],
)
_ops(
    "integers",
    lambda o, x: [
        x + 1,
        x // 3,
        x % 3,
        x * x,
        x / 2,
        x - 2,
        o.mean(x, axis=1),
        o.sum(x, axis=1),
        o.max(x, axis=1),
        o.cast(x, "float32") * 0.5,
        o.bitwise_and(x, x + 1),
        o.bitwise_or(x, x + 1),
        o.bitwise_xor(x, x + 1),
    ],
    dtype="int32",
)
_ops(
    "logic",
    lambda o, x: [
        x > 0,
        x >= _ROW,
        o.less(x, 0.5),
        o.less_equal(x, x),
        o.equal(x, x),
        o.not_equal(x, 0.0),
        o.logical_and(x > 0, x < 1),
        o.logical_or(x > 0, x < -1),
        o.logical_not(x > 0),
        o.logical_xor(x > 0, x > 1),
        o.isfinite(x),
        o.isnan(x),
        o.isinf(x),
        o.any(x > 1, axis=1),
        o.all(x > -1, axis=2, keepdims=True),
    ],
)
_ops(
    "where-clip",
    lambda o, x: [
        o.where(x > 0, x, -1.0),
        o.where(x > 0, 1.0, 0.0),
        o.clip(x, -0.5, 0.5),
        o.nan_to_num(x),
        o.cast(x > 0, "float32"),
    ],
)
_ops(
    "reductions",
    lambda o, x: [
        o.sum(x, axis=1),
        o.mean(x, axis=(1, 2)),
        o.max(x, axis=-1, keepdims=True),
        o.min(x, axis=1),
        o.prod(x, axis=2),
        o.var(x, axis=1),
        o.std(x, axis=-1, keepdims=True),
        o.logsumexp(x, axis=1),
        o.argmax(x, axis=-1),
        o.argmin(x, axis=1),
        o.cumsum(x, axis=1),
        o.cumprod(x, axis=2),
        o.norm(x, axis=-1),
        o.amax(x, axis=1),
    ],
)
_ops(
    "products",
    lambda o, x: [
        o.matmul(x, o.transpose(x, (0, 2, 1))),
        o.einsum("bij,bkj->bik", x, x),
        o.dot(x, np.ones((6, 3), "float32")),
        o.tensordot(x, np.ones((6, 2), "float32"), axes=1),
        o.matmul(x, _ROW),
    ],
)
_ops(
    "shapes",
    lambda o, x: [
        o.reshape(x, (-1, 60)),
        o.transpose(x, (0, 2, 1)),
        o.swapaxes(x, 1, 2),
        o.moveaxis(x, 1, -1),
        o.expand_dims(x, 1),
        o.squeeze(o.expand_dims(x, -1), -1),
        o.tile(x, (1, 2, 1)),
        o.repeat(x, 3, axis=1),
        o.flip(x, axis=1),
        o.roll(x, 2, axis=1),
        o.pad(x, ((0, 0), (1, 2), (0, 1))),
        o.pad(x, ((0, 0), (2, 1), (0, 0)), mode="reflect"),
    ],
)
_ops(
    "joins",
    lambda o, x: [
        o.concatenate([x, x], axis=-1),
        o.stack([x, -x], axis=1),
        *o.split(x, 2, axis=1),
        *o.split(x, [1, 4], axis=2),
        *o.unstack(x[:, :2], axis=1),
    ],
)
_ops(
    "indexing",
    lambda o, x: [
        x[:, 1:3, ::2],
        x[..., 0],
        x[:, -1],
        x[:, None, 2],
        o.take(x, np.array([0, 2]), axis=1),
        o.take_along_axis(x, o.argsort(x, axis=1), axis=1),
        o.sort(x, axis=-1),
        *(o.cast(v, "float32") for v in o.top_k(x, 2)),
        o.tril(x),
        o.triu(x, 1),
    ],
)
_ops("one-hot", lambda o, x: [o.one_hot(x, 10), o.one_hot(x, 12, axis=1)], (5,), "int32")
_ops("making", lambda o, x: [o.zeros_like(x) + 1, o.ones_like(x), o.full_like(x, 2.5)])
_ops("softmax", lambda o, x: [o.softmax(x, axis=1), o.log_softmax(x, axis=1), o.normalize(x, axis=-1)])
_ops(
    "activations",
    lambda o, x: [
        o.relu(x),
        o.relu6(x),
        o.gelu(x),
        o.gelu(x, approximate=False),
        o.silu(x),
        o.elu(x, 0.5),
        o.leaky_relu(x, 0.1),
        o.hard_sigmoid(x),
        o.hard_silu(x),
        o.softplus(x),
        o.glu(x),
        o.threshold(x, 0.2, -1.0),
        o.celu(x, 0.7),
        o.selu(x),
    ],
)
_ops("pools", lambda o, x: [o.max_pool(x, 2), o.average_pool(x, 3, strides=1, padding="same")], IMG)
_ops(
    "convs",
    lambda o, x: [
        o.conv(x, np.full((3, 3, 4, 5), 0.1, "float32"), strides=2, padding="same"),
        o.depthwise_conv(x, np.full((2, 2, 4, 2), 0.1, "float32")),
        o.separable_conv(x, np.full((2, 2, 4, 1), 0.1, "float32"), np.full((1, 1, 4, 3), 0.2, "float32")),
    ],
    IMG,
)
_ops(
    "images",
    lambda o, x: [
        o.image.resize(x, (5, 6)),
        o.image.resize(x, (12, 4), interpolation="nearest"),
        o.image.rgb_to_grayscale(x[..., :3]),
    ],
    IMG,
)
_ops("norms", lambda o, x: [o.rms_normalization(x, _ROW), o.layer_normalization(x, _ROW, _ROW)])
_ops(
    "attention",
    lambda o, x: [o.dot_product_attention(x, x, x), o.dot_product_attention(x, x, x, is_causal=True)],
    (5, 2, 6),
)
