"""Kernels of the random family: draws that are functions of (seed, salt) and of nothing else.

The stream is Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) keyed by the pair. Only
its raw words are used, which numpy keeps stable across versions; the distributions are computed here.
"""

from __future__ import annotations

import math

import numpy as np

from ..ir.errors import InvalidModel
from ..ir.types import DType
from .budget import ELEMENT, hold, spend
from .numeric import is_float, narrow
from .registry import kernel
from .shape import as_ints

Array = np.ndarray


def uniforms(shape: tuple[int, ...], seed: int, salt: int) -> Array:
    """float64 in [0, 1) with 53 random bits each."""
    hold(24 * math.prod(shape))
    key = np.array([seed & (2**64 - 1), salt & (2**64 - 1)], np.uint64)
    words = np.random.Philox(key=key).random_raw(int(np.prod(shape, dtype=np.int64)))
    return ((np.asarray(words, np.uint64) >> np.uint64(11)) * 2.0**-53).reshape(shape)


def _normals(shape: tuple[int, ...], seed: int, salt: int) -> Array:
    """Box and Muller (1958); the radius takes 1 - u, which is never 0."""
    u = uniforms((2, *shape), seed, salt)
    return np.sqrt(-2.0 * np.log1p(-u[0])) * np.cos(2.0 * np.pi * u[1])


def _dims(shape: Array) -> tuple[int, ...]:
    dims = tuple(as_ints(shape))
    if any(d < 0 for d in dims):
        raise InvalidModel(f"random: shape {list(dims)}", code="F020")
    return dims


@kernel("random_uniform")
def random_uniform(shape: Array, *, low: float, high: float, dtype: DType, seed: int, salt: int) -> Array:
    """Uniform in [low, high); what rounding would lift to `high` becomes `low`."""
    drawn = narrow(low + (high - low) * uniforms(_dims(shape), seed, salt), dtype.numpy)
    top, bottom = (narrow(np.array(float(v)), dtype.numpy) for v in (high, low))
    return np.where(drawn == top, bottom, drawn)


@kernel("random_normal")
def random_normal(shape: Array, *, mean: float, scale: float, dtype: DType, seed: int, salt: int) -> Array:
    return narrow(mean + scale * _normals(_dims(shape), seed, salt), dtype.numpy)


@kernel("bernoulli")
def bernoulli(x: Array, *, dtype: DType | None, seed: int, salt: int) -> Array:
    """1 with probability x, element by element."""
    return (uniforms(x.shape, seed, salt) < x.astype(np.float64)).astype(dtype.numpy if dtype else x.dtype)


@kernel("multinomial")
def multinomial(x: Array, *, sample_size: int, dtype: DType, seed: int, salt: int) -> Array:
    """[batch, sample_size] class numbers drawn with replacement; x [batch, classes] holds log-probabilities."""
    if not is_float(x.dtype) or x.ndim != 2 or x.shape[1] == 0:
        raise InvalidModel(f"multinomial: log-probabilities {list(x.shape)} of {x.dtype}", code="F020")
    logits = x.astype(np.float64)
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    edges = np.cumsum(weight, axis=1)
    hold(9 * x.size * sample_size)
    spend(ELEMENT * x.size * sample_size)
    drawn = uniforms((x.shape[0], sample_size), seed, salt) * edges[:, -1:]
    return (drawn[:, :, None] >= edges[:, None, :-1]).sum(axis=2).astype(dtype.numpy)


@kernel("dropout")
def dropout(x: Array, ratio: Array, *, seed: int, salt: int) -> tuple[Array, Array]:
    """x / (1 - ratio) where the number drawn for an element is not below `ratio`, else 0; and where that is."""
    share = float(np.asarray(ratio).reshape(()))
    kept = uniforms(x.shape, seed, salt) >= share
    return narrow(np.where(kept, x.astype(np.float64) / (1.0 - share if share < 1 else 1.0), 0.0), x.dtype), kept
