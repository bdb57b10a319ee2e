"""Kernels of the activation family: float64 formulas rounded once; softmax and its kin along one axis.

Formulas are ONNX's (operator documentation of the same names); integer inputs stay integers where ONNX allows them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .blocks import along, blockwise
from .elementwise import erf_wide
from .numeric import exact, is_integer, narrow, truncate, wide
from .precision import quiet
from .registry import kernel

Array = np.ndarray


def _float_only(function: Callable[..., Array]) -> Callable[..., Array]:
    def run(x: Array, **attrs: float) -> Array:
        with quiet():
            return blockwise(lambda block: function(block, **attrs), x)

    return run


def _sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), with exp only of what is not positive: no overflow, full precision in both tails."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def _softplus(x: Array) -> Array:
    """log(1 + exp(x)) without overflow."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _hard_sigmoid(x: Array, *, alpha: float, beta: float) -> Array:
    return np.minimum(np.maximum(alpha * x + beta, 0.0), 1.0)


def _gelu(x: Array, *, approximate: str) -> Array:
    """Hendrycks and Gimpel, "Gaussian error linear units" (2016): 0.5 x (1 + erf(x / sqrt 2)), or its tanh form."""
    if approximate == "tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1.0 + erf_wide(x / math.sqrt(2.0)))


def _shrink(x: Array, *, bias: float, lambd: float) -> Array:
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, np.where(np.isnan(x), x, 0.0)))


_FLOAT: dict[str, Callable[..., Array]] = {
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda x: x * _hard_sigmoid(x, alpha=1.0 / 6.0, beta=0.5),
    "silu": lambda x: x * _sigmoid(x),
    "swish": lambda x, *, alpha: x * _sigmoid(alpha * x),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "softplus": _softplus,
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "elu": lambda x, *, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0))),
    "selu": lambda x, *, alpha, gamma: gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0))),
    "celu": lambda x, *, alpha: np.maximum(x, 0.0) + np.minimum(alpha * np.expm1(x / alpha), 0.0),
    "thresholded_relu": lambda x, *, alpha: np.where((x > alpha) | np.isnan(x), x, 0.0),
    "gelu": _gelu,
}

for _name, _function in _FLOAT.items():
    kernel(_name)(_float_only(_function))


@kernel("relu")
def relu(x: Array) -> Array:
    """max(x, 0); NaN stays NaN."""
    y = exact(x)
    return narrow(np.maximum(y, y.dtype.type(0)), x.dtype)


@kernel("relu6")
def relu6(x: Array) -> Array:
    """min(max(x, 0), 6); NaN stays NaN."""
    y = exact(x)
    made = np.asarray(np.maximum(y, y.dtype.type(0)))
    return narrow(np.minimum(made, y.dtype.type(6), out=made), x.dtype)


@kernel("leaky_relu")
def leaky_relu(x: Array, *, alpha: float) -> Array:
    return blockwise(lambda y: np.where(y < 0, alpha * y, y), x)


@kernel("prelu")
def prelu(x: Array, slope: Array) -> Array:
    """x where x >= 0, else slope * x; `slope` broadcasts to the shape of x. Integers wrap."""
    y, factor = exact(x), exact(slope)
    with quiet():
        return narrow(np.where(y < 0, factor * y, y), x.dtype)


@kernel("shrink")
def shrink(x: Array, *, bias: float, lambd: float) -> Array:
    """x + bias below -lambd, x - bias above lambd, else 0. Integers: computed in float64, truncated."""
    y = _shrink(wide(x).astype(np.float64), bias=bias, lambd=lambd)
    return truncate(y, x.dtype) if is_integer(x.dtype) else narrow(y, x.dtype)


@kernel("softmax")
def softmax(x: Array, *, axis: int) -> Array:
    """exp(x - max) / sum(exp(x - max)) along `axis`."""
    if x.size == 0:
        return x.copy()
    with quiet():
        return along(_softmax, x, axis)


def _softmax(y: Array) -> Array:
    """Over the middle axis, in place."""
    y -= y.max(axis=1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=1, keepdims=True)
    return y


@kernel("log_softmax")
def log_softmax(x: Array, *, axis: int) -> Array:
    """(x - max) - log(sum(exp(x - max))) along `axis`."""
    if x.size == 0:
        return x.copy()
    with quiet():
        return along(_log_softmax, x, axis)


def _log_softmax(y: Array) -> Array:
    """Over the middle axis, in place."""
    y -= y.max(axis=1, keepdims=True)
    y -= np.log(np.exp(y).sum(axis=1, keepdims=True))
    return y


@kernel("hardmax")
def hardmax(x: Array, *, axis: int) -> Array:
    """1 at the first largest element along `axis`, 0 elsewhere."""
    if x.size == 0:
        return x.copy()
    first = np.expand_dims(wide(x).argmax(axis=axis), axis)
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return (np.arange(x.shape[axis]).reshape(shape) == first).astype(x.dtype)
