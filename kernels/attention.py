"""attention (ONNX 23 to 25) and rotary_embedding: products by BLAS, softmax in float64, one rounding. No framework."""

from __future__ import annotations

import numpy as np

from ..ir.errors import InvalidModel
from .budget import hold
from .precision import narrow, wide
from .registry import kernel

Array = np.ndarray


def _heads(x: Array, count: int) -> Array:
    """[B, S, heads * E] or [B, heads, S, E] as float64 [B, heads, S, E]."""
    data = wide(x)
    if data.ndim == 4:
        return data
    return data.reshape(*data.shape[:2], count, data.shape[2] // count).transpose(0, 2, 1, 3)


def _offset(queries: int, past_k: Array | None, lengths: Array | None) -> Array:
    """Valid keys before the first query: [B or 1, 1, 1, 1]."""
    if past_k is not None:
        return np.full((1, 1, 1, 1), past_k.shape[2])
    if lengths is not None:
        return lengths.astype(np.int64).reshape(-1, 1, 1, 1) - queries
    return np.zeros((1, 1, 1, 1), np.int64)


def _visible(
    queries: int, keys: int, offset: Array, lengths: Array | None, is_causal: bool, left: int, right: int
) -> Array:
    """Which keys each query may see by position alone: bool, broadcastable to [B, 1, queries, keys]."""
    hold(2 * queries * keys)  # also where the batch is 0
    key = np.arange(keys)[None, None, None, :]
    position = np.arange(queries)[None, None, :, None] + offset
    seen = np.ones((1, 1, queries, keys), bool)
    if is_causal:
        seen = seen & (key <= position)
    if left >= 0:
        seen = seen & (key >= position - left)
    if right >= 0:
        seen = seen & (key <= position + right)
    if lengths is not None:
        seen = seen & (key < lengths.astype(np.int64).reshape(-1, 1, 1, 1))
    return seen


def _bias(mask: Array | None, seen: Array, keys: int) -> Array:
    """What is added to the scores: the mask, -inf where a key is hidden. A mask that is too short hides the rest."""
    bias = np.where(seen, 0.0, -np.inf)
    if mask is None:
        return bias
    wanted = np.where(mask, 0.0, -np.inf) if mask.dtype == np.bool_ else wide(mask)
    missing = keys - wanted.shape[-1]
    if missing > 0:
        wanted = np.pad(wanted, [(0, 0)] * (wanted.ndim - 1) + [(0, missing)], constant_values=-np.inf)
    return bias + wanted


def _softmax(scores: Array, bias: Array) -> Array:
    """Over the last axis; a row that `bias` hides entirely is 0, not NaN."""
    hidden = np.isneginf(bias.max(axis=-1, keepdims=True, initial=-np.inf))
    peak = scores.max(axis=-1, keepdims=True, initial=-np.inf)  # there may be no key at all
    e = np.exp(scores - np.where(hidden, 0.0, peak))
    probabilities = e / np.where(hidden, 1.0, e.sum(axis=-1, keepdims=True))
    return np.where(hidden, 0.0, probabilities)


def _at_precision(x: Array, precision: object, dtype: np.dtype) -> Array:
    """Rounded to `precision` where it is narrower than `dtype`: then it is part of the result's meaning."""
    target = getattr(precision, "numpy", None)
    return wide(narrow(x, target)) if target is not None and target.itemsize < dtype.itemsize else x


@kernel("attention")
def attention(
    q,
    k,
    v,
    mask=None,
    past_k=None,
    past_v=None,
    kv_lens=None,
    *,
    is_causal=False,
    scale=None,
    softcap=0.0,
    q_num_heads=0,
    kv_num_heads=0,
    qk_matmul_output_mode=0,
    softmax_precision=None,
    left_window_size=-1,
    right_window_size=-1,
):
    """softmax(q k' * scale + mask) v with grouped heads, caches, soft cap and windows.

    q [B, Hq, S, E], k [B, Hk, T, E], v [B, Hk, T, V], or rank 3 with heads inside the last axis. Returns y like q,
    present_k, present_v [B, Hk, P + T, *], and the scores [B, Hq, S, P + T] as `qk_matmul_output_mode` asks: 0 raw,
    1 capped, 2 capped and masked, 3 probabilities.
    """
    if past_k is not None and kv_lens is not None:
        raise InvalidModel("attention takes a cache or the lengths of one, not both")
    query, key, value = _heads(q, q_num_heads), _heads(k, kv_num_heads), _heads(v, kv_num_heads)
    if past_k is not None:
        key = np.concatenate([wide(past_k), key], axis=2)
        value = np.concatenate([wide(past_v), value], axis=2)
    scores = _scores(query, key, scale)
    capped = softcap * np.tanh(scores / softcap) if softcap else scores
    offset = _offset(query.shape[2], past_k, kv_lens)
    seen = _visible(query.shape[2], key.shape[2], offset, kv_lens, is_causal, left_window_size, right_window_size)
    bias = _bias(mask, seen, key.shape[2])
    masked = capped + bias
    weights = _softmax(_at_precision(masked, softmax_precision, q.dtype), bias)
    weights = _at_precision(weights, softmax_precision, q.dtype)
    shown = (scores, capped, masked, weights)[qk_matmul_output_mode]
    y = _weighted(weights, value)
    if q.ndim == 3:
        y = y.transpose(0, 2, 1, 3).reshape(*q.shape[:2], y.shape[1] * y.shape[3])
    return tuple(narrow(np.ascontiguousarray(a), q.dtype) for a in (y, key, value, shown))


def _scores(query: Array, key: Array, scale: float | None) -> Array:
    """query [B, Hq, S, E] times key [B, Hk, T, E]: query heads share key heads in runs of Hq / Hk."""
    batch, heads, length, size = query.shape
    shared = key.shape[1]
    grouped = query.reshape(batch, shared, heads // shared * length, size)
    factor = 1.0 / np.sqrt(size) if scale is None else scale
    return (grouped @ key.transpose(0, 1, 3, 2) * factor).reshape(batch, heads, length, key.shape[2])


def _weighted(weights: Array, value: Array) -> Array:
    """weights [B, Hq, S, T] times value [B, Hk, T, V]."""
    batch, heads, length, keys = weights.shape
    shared = value.shape[1]
    grouped = np.ascontiguousarray(weights).reshape(batch, shared, heads // shared * length, keys)
    return (grouped @ value).reshape(batch, heads, length, value.shape[3])


@kernel("rotary_embedding")
def rotary_embedding(
    x, cos_cache, sin_cache, position_ids=None, *, interleaved=False, num_heads=0, rotary_embedding_dim=0
):
    """Rotate pairs of features by position (Su et al., 2021); x [B, heads, S, E] or [B, S, heads * E].

    Caches are [positions, R / 2] with position_ids [B, S], else [B, S, R / 2]; only the first R =
    rotary_embedding_dim (0: all) features of a head turn. Pairs are neighbours if interleaved, else halves.
    """
    data = _heads(x, num_heads)
    size = rotary_embedding_dim or data.shape[-1]
    cos, sin = wide(cos_cache), wide(sin_cache)
    if position_ids is not None:
        cos, sin = cos[position_ids], sin[position_ids]
    cos, sin = cos[:, None], sin[:, None]
    turning = data[..., :size]
    first, second = (turning[..., 0::2], turning[..., 1::2]) if interleaved else np.split(turning, 2, axis=-1)
    pair = first * cos - second * sin, first * sin + second * cos
    turned = np.stack(pair, axis=-1).reshape(turning.shape) if interleaved else np.concatenate(pair, axis=-1)
    y = np.concatenate([turned, data[..., size:]], axis=-1)
    if x.ndim == 3:
        y = y.transpose(0, 2, 1, 3).reshape(x.shape)
    return narrow(np.ascontiguousarray(y), x.dtype)
