"""attention and rotary_embedding as products, softmax and slices. Knows no target."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.types import BOOL, I64
from ...ir.value import Node, Value
from .rules import Declined, Part, Size, decomposes, reshape_to, room, scalar, shape_of


def _heads(b: Builder, x: Value, count: int) -> Value:
    """[B, S, heads * E] as [B, heads, S, E]."""
    return x if x.rank == 4 else b.transpose(b.reshape(x, (0, 0, count, -1)), perm=(0, 2, 1, 3))


def _length(b: Builder, x: Value, axis: int) -> Value:
    """One dim as an i64 scalar."""
    dim = x.shape[axis]
    if type(dim) is int:
        return b.const(np.asarray(dim))
    return b.squeeze(b.shape(x, start=axis, end=axis + 1), (0,))


def _line(b: Builder, x: Value, axis: int) -> Value:
    dim = x.shape[axis]
    return b.const(np.arange(room(dim))) if type(dim) is int else b.range(0, _length(b, x, axis), 1)


def _visible(
    b: Builder, node: Node, query: Value, key: Value, past: Value | None, lengths: Value | None
) -> Value | None:
    """Which keys a query may see by position: bool, broadcastable to [B, 1, S, T]; None when it sees all."""
    causal = node.attr("is_causal")
    left, right = _windows(node)
    if not causal and left < 0 and right < 0 and lengths is None:
        return None
    keys = _line(b, key, 2)
    place = b.unsqueeze(_line(b, query, 2), (1,))
    if lengths is not None:
        lengths = b.reshape(lengths if lengths.dtype is I64 else b.cast(lengths, to=I64), (-1, 1, 1, 1))
        place = b.add(place, b.sub(lengths, _length(b, query, 2)))
    elif past is not None:
        place = b.add(place, _length(b, past, 2))
    seen = []
    if causal:
        seen.append(b.less_equal(keys, place))
    if left >= 0:
        seen.append(b.greater_equal(keys, b.sub(place, b.const(np.asarray(left)))))
    if right >= 0:
        seen.append(b.less_equal(keys, b.add(place, b.const(np.asarray(right)))))
    if lengths is not None:
        seen.append(b.less(keys, lengths))
    total = seen[0]
    for part in seen[1:]:
        total = b.and_(total, part)
    return total


def _bias(b: Builder, mask: Value | None, seen: Value | None, key: Value, like: Value) -> Value | Declined | None:
    """What is added to the scores: the mask, -inf where a key is hidden; a mask that is too short hides the rest."""
    zero, hidden = scalar(b, 0, like), scalar(b, -math.inf, like)
    bias = None if seen is None else b.where(seen, zero, hidden)
    if mask is None:
        return bias
    wanted = (
        b.where(mask, zero, hidden)
        if mask.dtype is BOOL
        else (mask if mask.dtype is like.dtype else b.cast(mask, to=like.dtype))
    )
    have, want = mask.shape[-1], key.shape[2]
    if have != want:
        if not (type(have) is int and type(want) is int):
            return (
                Declined("the mask's length and the number of keys are not known to be equal") if have != 1 else wanted
            )
        wanted = b.pad(wanted, (*[0] * (2 * mask.rank - 1), want - have), hidden) if have < want else wanted
    return wanted if bias is None else b.add(bias, wanted)


def _grouped(b: Builder, x: Value, shared: Any) -> Value:
    """[B, Hq, S, E] as [B, Hk, Hq / Hk * S, E]: query heads that share a key head become one longer head."""
    return x if x.shape[1] == shared else b.reshape(x, (0, shared, -1, x.shape[3] if type(x.shape[3]) is int else 0))


@decomposes("attention", rounds=True)
def attention(b: Builder, node: Node) -> tuple[Value | None, ...] | Declined:
    """softmax(q k' scale + bias) v"""
    q, k, v, mask, past_k, past_v, lengths = (*node.operands, *[None] * 7)[:7]
    query = _heads(b, q, node.attr("q_num_heads"))
    key, value = (_heads(b, t, node.attr("kv_num_heads")) for t in (k, v))
    if any(type(d) is not int for d in (query.shape[1], key.shape[1], value.shape[1], query.shape[3])):
        return Declined("the number of heads or their size is not known")
    if past_k is not None:
        key, value = b.concat(past_k, key, axis=2), b.concat(past_v, value, axis=2)
    scores = _scores(b, node, query, key)
    softcap = node.attr("softcap")
    capped = b.mul(b.tanh(b.mul(scores, scalar(b, 1 / softcap, q))), scalar(b, softcap, q)) if softcap else scores
    seen = _visible(b, node, query, key, past_k, lengths)
    bias = _bias(b, mask, seen, key, q)
    if isinstance(bias, Declined):
        return bias
    masked = capped if bias is None else b.add(capped, bias)
    weights = _probabilities(b, node, masked, bias)
    y = _weighted(b, weights, value)
    if q.rank == 3:
        y = reshape_to(b, b.transpose(y, perm=(0, 2, 1, 3)), [Size(q, 0), Size(q, 1), _width(query, value)])
    shown = (scores, capped, masked, weights)[node.attr("qk_matmul_output_mode")]
    made = (y, key, value, shown)
    used = [result.n_uses > 0 for result in node.results]
    return tuple(t if use else None for t, use in zip(made, used, strict=False))


def _probabilities(b: Builder, node: Node, masked: Value, bias: Value | None) -> Value:
    """Softmax, and 0 in rows that the bias hides entirely: softmax never sees such a row, not every target's survives it.

    A query of plain causal attention sees at least its own key.
    """
    sees_itself = (
        node.operand("mask") is None and all(v is None for v in node.operands[4:]) and _windows(node) == (-1, -1)
    )
    if bias is None or sees_itself:
        return b.softmax(masked, axis=-1)
    hidden = b.equal(b.reduce_max(bias, (-1,), keepdims=True), scalar(b, -math.inf, bias))
    zero = scalar(b, 0, masked)
    return b.where(hidden, zero, b.softmax(b.where(hidden, zero, masked), axis=-1))


def _windows(node: Node) -> tuple[int, int]:
    return node.attrs.get("left_window_size", -1), node.attrs.get("right_window_size", -1)


def _width(query: Value, value: Value) -> Part:
    return query.shape[1] * value.shape[3] if type(value.shape[3]) is int else -1


def _scores(b: Builder, node: Node, query: Value, key: Value) -> Value:
    scale = node.attr("scale")
    width: Any = query.shape[3]
    factor = 1 / math.sqrt(max(width, 1)) if scale is None else scale
    grouped = _grouped(b, b.mul(query, scalar(b, factor, query)), key.shape[1])
    product = b.matmul(grouped, b.transpose(key, perm=(0, 1, 3, 2)))
    if grouped.shape[1] == query.shape[1]:
        return product
    return b.reshape(product, shape_of(b, [Size(query, 0), Size(query, 1), Size(query, 2), Size(key, 2)]))


def _weighted(b: Builder, weights: Value, value: Value) -> Value:
    shared = value.shape[1]
    if weights.shape[1] == shared:
        return b.matmul(weights, value)
    grouped = b.reshape(weights, shape_of(b, [Size(weights, 0), shared, -1, Size(weights, 3)]))
    parts = [Size(weights, 0), Size(weights, 1), Size(weights, 2), Size(value, 3)]
    return b.reshape(b.matmul(grouped, value), shape_of(b, parts))


@decomposes("rotary_embedding", rounds=True)
def rotary_embedding(b: Builder, node: Node) -> Value | Declined:
    """(a cos - b sin, a sin + b cos) for pairs (a, b) of neighbouring features, or of the two halves."""
    x, cos, sin, places = (*node.operands, None)[:4]
    data = _heads(b, x, node.attr("num_heads"))
    width = data.shape[3]
    size = node.attr("rotary_embedding_dim") or width
    if type(size) is not int or type(width) is not int:
        return Declined("the size of a head is not known")
    if places is not None:
        cos, sin = b.gather(cos, places, axis=0), b.gather(sin, places, axis=0)
    cos, sin = b.unsqueeze(cos, (1,)), b.unsqueeze(sin, (1,))
    if node.attr("interleaved"):
        first, second = (b.slice(data, (i,), (size,), (3,), (2,)) for i in (0, 1))
    else:
        first, second = (b.slice(data, (i * size // 2,), ((i + 1) * size // 2,), (3,)) for i in (0, 1))
    low = b.sub(b.mul(first, cos), b.mul(second, sin))
    high = b.add(b.mul(first, sin), b.mul(second, cos))
    if node.attr("interleaved"):
        pairs = b.concat(b.unsqueeze(low, (4,)), b.unsqueeze(high, (4,)), axis=4)
        turned = reshape_to(b, pairs, [Size(data, 0), Size(data, 1), Size(data, 2), size])
    else:
        turned = b.concat(low, high, axis=3)
    if size < width:
        turned = b.concat(turned, b.slice(data, (size,), (width,), (3,)), axis=3)
    if x.rank == 3:
        turned = b.reshape(b.transpose(turned, perm=(0, 2, 1, 3)), (0, 0, -1))
    return turned
