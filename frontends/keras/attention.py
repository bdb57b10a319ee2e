"""Attention layers of Keras: multi-head, grouped-query, dot-product and additive attention."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from ...formats.keras_config import Layer
from ...formats.keras_h5 import Slots
from ...ir import types as t
from ...ir.graph import Value
from .registry import layer, not_quantized
from .scope import Scope


def _projections(entry: Layer, output: str = "attention_output") -> list[tuple[str, Slots]]:
    """The inner dense layers in creation order, each under its attribute (public or private by version)."""
    not_quantized(entry)
    own = [("kernel", True)] + ([("bias", True)] if entry.config.get("use_bias", True) else [])
    names = [("query", "query"), ("key", "key"), ("value", "value"), ("output", output)]
    if entry.config.get("use_gate"):
        names.insert(2, ("gate", "gate"))
    return [(f"{part}_dense|_{part}_dense", Slots(name, list(own))) for part, name in names]


def _heads(s: Scope, part: str, x: Value, heads: int, width: int) -> Value:
    """x [B, T, C] projected to [B, H, T, D]."""
    inner = s.sub(part)
    features = s.shape(x)[2]
    kernel = inner.weight("kernel", (features, heads, width), view=(s.static(x, 2), heads * width))
    y = s.b.matmul(x, kernel)
    if inner.has("bias"):
        y = s.b.add(y, inner.weight("bias", (heads, width), view=(heads * width,)))
    return s.transpose(s.b.reshape(y, (0, 0, heads, width)), (0, 2, 1, 3))


def _joined(s: Scope, y: Value, heads: int, width: int) -> Value:
    """[B, H, T, D] through the output projection: [B, T, C]."""
    inner = s.sub("attention_output")
    made = inner.stored_shape("kernel")[2:]
    if len(made) != 1:
        raise s.unsupported("an output_shape of more than one axis")
    flat = s.b.reshape(s.transpose(y, (0, 2, 1, 3)), (0, 0, heads * width))
    z = s.b.matmul(flat, inner.weight("kernel", (heads, width, *made), view=(heads * width, *made)))
    return s.b.add(z, inner.weight("bias", made)) if inner.has("bias") else z


def _positions(s: Scope, x: Value) -> Value:
    """0, 1, 2 ... over axis 1 of x."""
    size = s.shape(x)[1]
    if isinstance(size, int):
        return s.b.const(np.arange(s.bounded(size, "positions"), dtype=np.int64))
    return s.b.range(s.value(0, t.I64), s.b.squeeze(s.b.shape(x, start=1, end=2), (0,)), s.value(1, t.I64))


def _score_mask(
    s: Scope, query: Value, value: Value, masks: dict[str, Value | None], causal: bool, given: Value | None
) -> Any:
    """The AND of all masks, broadcastable to [B, T, S]; None when there is none (`_compute_attention_mask`)."""
    found = []
    if masks["query"] is not None:
        found.append(s.expand(masks["query"], -1))
    found += [s.expand(mask, -2) for mask in (masks["value"], masks["key"]) if mask is not None]
    window = s.config.get("sliding_window")
    if causal or window is not None:
        rows, columns = s.expand(_positions(s, query), 1), s.expand(_positions(s, value), 0)
        if causal:
            found.append(s.b.greater_equal(rows, columns))
        if window is not None:
            near = s.b.less(s.b.abs(s.b.sub(rows, columns)), s.value(s.size("sliding_window"), t.I64))
            found.append(near)
    if given is not None:
        found.append(s.boolean(given))
    return reduce(s.b.and_, found) if found else None


def _as_4d(s: Scope, mask: Value | None) -> Value | None:
    """[T, S], [B, T, S] or [B, H, T, S] -> rank 4."""
    while mask is not None and s.rank(mask) < 4:
        mask = s.expand(mask, 1 if s.rank(mask) == 3 else 0)
    return mask


def _attend(
    s: Scope, q: Value, k: Value, v: Value, mask: Value | None, causal: bool, scale: float, scores: bool
) -> list[Value]:
    """[output, scores?]: the attention op, or its steps where the scores are wanted."""
    if not scores:
        return [s.b.attention(q, k, v, mask, is_causal=causal, scale=scale)[0]]
    raw = s.b.matmul(s.b.mul(q, s.value(scale, q.dtype)), s.transpose(k, (0, 1, 3, 2)))
    if mask is not None:
        raw = s.b.add(raw, s.b.where(mask, s.value(0.0, raw.dtype), s.value(-1e9, raw.dtype)))
    weights = s.b.softmax(raw, axis=-1)
    return [s.b.matmul(weights, v), weights]


def _argument_masks(s: Scope, tensors: dict[str, Value | None], kwargs: dict[str, Any]) -> dict[str, Value | None]:
    """The padding mask of each argument: the one given as a keyword, else the one that came along with the tensor."""
    found: dict[str, Value | None] = {}
    for part, tensor in tensors.items():
        mask = kwargs.get(f"{part}_mask")
        if mask is None and tensor is not None:
            mask = s.masks.get(tensor)
        found[part] = None if mask is None else s.boolean(mask)
    return found


def _multi_head(
    s: Scope,
    query: Value,
    value: Value,
    key: Value | None,
    heads: tuple[int, int],
    widths: tuple[int, int],
    kwargs: dict[str, Any],
) -> list[Value]:
    key = value if key is None else key
    for x in (query, key, value):
        if s.rank(x) != 3:
            raise s.unsupported(
                f"attention over inputs of rank {s.rank(x)}", "rank 3 (batch, time, features) is supported"
            )
    causal, scores = bool(kwargs.get("use_causal_mask")), bool(kwargs.get("return_attention_scores"))
    masks = _argument_masks(s, {"query": query, "value": value, "key": None if key is value else key}, kwargs)
    s.out_masks = [s.masks.get(query)]
    given = kwargs.get("attention_mask")
    only_causal = (
        causal and not scores and given is None and not any(masks.values()) and s.config.get("sliding_window") is None
    )
    mask = None if only_causal else _as_4d(s, _score_mask(s, query, value, masks, causal, given))
    q, k = (_heads(s, p, x, h, widths[0]) for p, x, h in (("query", query, heads[0]), ("key", key, heads[1])))
    v = _heads(s, "value", value, heads[1], widths[1])
    y, *rest = _attend(s, q, k, v, mask, only_causal, float(1.0 / np.sqrt(float(widths[0]))), scores)
    if s.flag("use_gate"):
        y = s.b.mul(y, s.b.sigmoid(_heads(s, "gate", query, heads[0], widths[1])))
    return [_joined(s, y, heads[0], widths[1]), *rest]


@layer("MultiHeadAttention", children=_projections, mask="own")
def multi_head_attention(s: Scope, query: Value, value: Value, key: Value | None = None, **kwargs: Any) -> list[Value]:
    axes = s.config.get("attention_axes")
    if axes not in (None, 1, [1], [-2], (1,)):
        raise s.unsupported(f"attention_axes {axes}", "attention over axis 1 is supported")
    heads, width = s.size("num_heads"), s.size("key_dim")
    return _multi_head(s, query, value, key, (heads, heads), (width, s.size("value_dim", width)), kwargs)


@layer("GroupQueryAttention", "GroupedQueryAttention", children=_projections, mask="own")
def grouped_query_attention(
    s: Scope, query: Value, value: Value, key: Value | None = None, **kwargs: Any
) -> list[Value]:
    """Several query heads share a key and value head (Ainslie et al. 2023)."""
    heads, shared, width = s.size("num_query_heads"), s.size("num_key_value_heads"), s.size("head_dim")
    if heads % shared:
        raise s.invalid(f"{heads} query heads do not divide into {shared} groups")
    if kwargs.get("return_attention_scores") and heads != shared:
        raise s.unsupported("return_attention_scores with shared heads")
    return _multi_head(s, query, value, key, (heads, shared), (width, width), kwargs)


# ------------------------------------------------------------------------------------------------ single-head attention


def _attention_slots(entry: Layer) -> list[tuple[str, bool]]:
    scale = [("scale", True)] if entry.config.get("use_scale", False) else []
    return scale + ([("concat_score_weight", True)] if entry.config.get("score_mode") == "concat" else [])


def _distribute(s: Scope, scores: Value, xs: list[Value], kwargs: dict[str, Any]) -> list[Value]:
    """softmax(masked scores) value; a masked query gives zeros (`Attention._apply_scores`)."""
    query_mask, value_mask = s.masks.get(xs[0]), s.masks.get(xs[1])
    masks = {"query": None, "key": None, "value": value_mask}
    mask = _score_mask(s, xs[0], xs[2], masks, bool(kwargs.get("use_causal_mask")), None)
    if mask is not None:
        low = s.value(65504.0 if scores.dtype is t.F16 else 1e9, scores.dtype)
        scores = s.b.where(mask, scores, s.b.sub(scores, low))
    weights = s.b.softmax(scores, axis=-1)
    y = s.b.matmul(weights, xs[1])
    if query_mask is not None:
        y = s.b.where(s.expand(query_mask, -1), y, s.value(0.0, y.dtype))
        s.out_masks = [query_mask]
    return [y, weights] if kwargs.get("return_attention_scores") else [y]


def _inputs(s: Scope, xs: Any) -> list[Value]:
    if not isinstance(xs, (list, tuple)) or not 2 <= len(xs) <= 3:
        raise s.invalid("it takes a list: query, value and maybe key")
    made = list(xs) if len(xs) == 3 else [xs[0], xs[1], xs[1]]
    for x in made:
        if s.rank(x) != 3:
            raise s.unsupported(
                f"attention over inputs of rank {s.rank(x)}", "rank 3 (batch, time, features) is supported"
            )
    return made


def _tanh_sum(s: Scope, query: Value, key: Value, scale: Value | None) -> Value:
    """tanh(scale * (query + key)) for every pair: [B, T, S, C]."""
    pairs = s.b.add(s.expand(query, 2), s.expand(key, 1))
    return s.b.tanh(pairs if scale is None else s.b.mul(scale, pairs))


@layer("Attention", weights=_attention_slots, mask="own")
def attention(s: Scope, xs: Any, **kwargs: Any) -> list[Value]:
    """Dot-product attention, or concat attention with `score_mode="concat"`; both without projections."""
    items = _inputs(s, xs)
    query, _, key = items
    scale = s.weight("scale", ()) if s.has("scale") else None
    if s.text("score_mode", "dot", ("dot", "concat")) == "dot":
        scores = s.b.matmul(query, s.transpose(key, (0, 2, 1)))
        scores = scores if scale is None else s.b.mul(scores, scale)
    else:
        summed = s.b.reduce_sum(_tanh_sum(s, query, key, scale), (-1,), keepdims=False)
        scores = s.b.mul(summed, s.weight("concat_score_weight", ()))
    return _distribute(s, scores, items, kwargs)


@layer("AdditiveAttention", weights=lambda e: [("scale", True)] if e.config.get("use_scale", True) else [], mask="own")
def additive_attention(s: Scope, xs: Any, **kwargs: Any) -> list[Value]:
    """sum(scale * tanh(query + key)) (Bahdanau et al. 2015)."""
    items = _inputs(s, xs)
    pairs = _tanh_sum(s, items[0], items[2], None)
    if s.has("scale"):
        pairs = s.b.mul(s.weight("scale", (s.shape(items[0])[2],)), pairs)
    return _distribute(s, s.b.reduce_sum(pairs, (-1,), keepdims=False), items, kwargs)
