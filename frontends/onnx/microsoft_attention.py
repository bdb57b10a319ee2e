"""com.microsoft: Attention, MultiHeadAttention and GroupQueryAttention as the op `attention` with an explicit mask.

Padding masks add `mask_filter_value` (-10000), they do not hide: a row without any visible key still gives an average, as
in onnxruntime. Source: onnxruntime's docs/ContribOperators.md and its CPU kernels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ...formats.onnx.microsoft import DOMAIN
from ...ir.dims import dim_eq
from ...ir.graph import Value
from ...ir.types import I64
from .importer import Call, Importer, known_dtype, rank_of
from .microsoft import length, line, of_rank
from .registry import handles

FILTER = -10000.0


def heads(c: Importer, x: Value, count: int) -> Value:
    """[B, S, count * H] as [B, count, S, H]; rank 4 as it is."""
    return x if x.rank == 4 else c.b.transpose(c.b.reshape(x, (0, 0, count, -1)), perm=(0, 2, 1, 3))


def merged(c: Importer, y: Value) -> Value:
    """[B, N, S, H] as [B, S, N * H]."""
    return c.b.reshape(c.b.transpose(y, perm=(0, 2, 1, 3)), (0, 0, -1))


def _parts(c: Importer, x: Value, sizes: tuple[int, ...], axis: int = -1) -> tuple[Value, ...]:
    return tuple(c.b.split(x, sizes, axis=axis % x.rank))  # type: ignore[operator, arg-type]


def _plus(c: Importer, a: Value | None, b: Value | None) -> Value | None:
    """The sum of two masks, either of which may be absent."""
    return a if b is None else b if a is None else c.b.add(a, b)


def _padding(c: Importer, n: Call, mask: Value | None, q: Value, total: Value) -> Value | None:
    """A mask of any accepted shape as what is added to the scores [B, 1, S or 1, T]; `total` is T as an i64 scalar.

    [B] ends, [2 B] ends and starts, [3 B + 2] ends and offsets that repeat them, [B, T], [B, S, T]: 1 attends.
    """
    if mask is None:
        return None
    rank = rank_of(mask, n)
    if rank == 1:
        seen = c.b.unsqueeze(_within(c, n, mask, q, total), (1, 2))
    elif rank in (2, 3):
        batch, keys = c.b.shape(q, start=0, end=1), c.b.reshape(total, (1,))
        rows = c.b.shape(q, start=1, end=2) if rank == 3 else c.const([1])
        seen = c.b.reshape(c.b.greater(mask, c.scalar(0, mask)), c.b.concat(batch, c.const([1]), rows, keys, axis=0))
    else:
        raise n.refuse(f"a mask of rank {rank} (the Megatron form, which only CUDA kernels take)")
    return c.b.where(seen, c.scalar(0, q), c.scalar(n.attr("mask_filter_value", FILTER), q))


def _within(c: Importer, n: Call, mask: Value, q: Value, total: Value) -> Value:
    """Ends, or ends and starts, as bool [B, T]. Which of them a mask holds shows in its size, maybe only when it runs."""
    b, keys, batch, count = c.b, line(c, total), q.shape[0], mask.shape[0]  # type: ignore[index]
    wide, size = b.cast(mask, to=I64), b.shape(q, start=0, end=1)
    forms = [dim_eq(count, expected) for expected in (batch, 2 * batch, 3 * batch + 2)]
    if forms[0] is True:
        return b.less(keys, b.unsqueeze(wide, (1,)))
    seen = b.less(keys, b.unsqueeze(b.slice(wide, (0,), size, (0,)), (1,)))
    if forms[2] is True:
        return seen
    twice = b.mul(size, c.const([2]))
    if forms[1] is True:
        starts = b.slice(wide, size, twice, (0,))
    else:
        padded = b.concat(wide, b.constant_of_shape(size, value=0, to=I64), axis=0)
        there = b.cast(b.equal(b.shape(mask), twice), to=I64)
        starts = b.mul(b.slice(padded, size, twice, (0,)), there)
    return b.and_(seen, b.greater_equal(keys, b.unsqueeze(starts, (1,))))


def _heads_of(n: Call, name: str) -> int:
    count = n.attr(name)
    if count < 1:
        raise n.invalid(f"{name} is {count}")
    return count


def _scaled(n: Call) -> dict[str, Any]:
    """onnxruntime takes a scale of 0 for none."""
    return {"scale": n.attrs["scale"]} if n.attr("scale", 0.0) else {}


def _later(c: Importer, q: Value, past: Value, total: Value) -> Value:
    """Hides keys behind a query's own place [S, T], as onnxruntime does: by the lowest number, and the last query sees all
    (which tells only where there are more new keys than queries)."""
    b, queries = c.b, length(c, q, 1)
    place = b.unsqueeze(line(c, queries), (1,))
    hidden = b.greater(line(c, total), b.add(place, past))
    hidden = b.and_(hidden, b.less(place, b.sub(queries, c.const(1))))
    return b.where(hidden, c.scalar(float(ml_dtypes.finfo(known_dtype(q).numpy).min), q), c.scalar(0, q))


@handles("Attention", domain=DOMAIN)
def attention(c: Importer, n: Call) -> Any:
    """Projections of one input, then attention; past and present hold keys and values in one tensor."""
    x, weights, bias, mask, past, added, _ = n.take(7)
    for name, why in (("do_rotary", "the angles are not part of the file"), ("past_present_share_buffer", "")):
        if n.attr(name, 0):
            raise n.refuse(f"{name} = 1 is for CUDA kernels" + (f": {why}" if why else ""))
    count, sizes = _heads_of(n, "num_heads"), tuple(n.attr("qkv_hidden_sizes") or ())
    of_rank(n, x, 3, "input")
    width = of_rank(n, weights, 2, "weights")[1]
    if not sizes and (type(width) is not int or width % 3):
        raise n.refuse(f"weights of width {width} do not hold queries, keys and values of one size")
    sizes = sizes or (width // 3,) * 3
    if len(sizes) != 3 or sizes[0] != sizes[1] or any(s <= 0 or s % count for s in sizes):
        raise n.invalid(f"qkv_hidden_sizes {list(sizes)} for {count} heads")
    projected = c.b.matmul(x, weights)
    q, k, v = _parts(c, projected if bias is None else c.b.add(projected, bias), sizes)
    past_k, past_v = (None if past is None else c.b.gather(past, c.const(i), axis=0) for i in (0, 1))
    total = length(c, x, 1) if past is None else c.b.add(length(c, x, 1), length(c, past, 3))
    hiding = _plus(c, _padding(c, n, mask, x, total), added)
    attrs: dict[str, Any] = {"q_num_heads": count, "kv_num_heads": count, **_scaled(n)}
    attrs["is_causal"] = bool(n.attr("unidirectional", 0))
    y, present_k, present_v, _ = c.b.attention(q, k, v, hiding, past_k, past_v, **attrs)
    if not n.wants(1):
        return y
    return y, c.b.concat(c.b.unsqueeze(present_k, (0,)), c.b.unsqueeze(present_v, (0,)), axis=0)


@handles("MultiHeadAttention", domain=DOMAIN)
def multi_head_attention(c: Importer, n: Call) -> Any:
    """Queries, keys and values separate or packed; `qk` are the scaled and masked scores."""
    mask, added, past_k, past_v, past_length, indirection = n.take(10)[4:]
    if past_length is not None or indirection is not None:
        raise n.refuse("past_sequence_length and cache_indirection (beam search over a shared cache)")
    count = _heads_of(n, "num_heads")
    q, k, v = _unpacked(c, n, count)
    axis = 2 if k.rank == 4 else 1
    past = c.const(0) if past_k is None else length(c, past_k, 2)
    total = c.b.add(length(c, k, axis), past)
    bias, causal = _plus(c, _padding(c, n, mask, q, total), added), bool(n.attr("unidirectional", 0))
    if causal and (n.wants(3) or dim_eq(q.shape[1], k.shape[axis]) is not True):  # type: ignore[index]
        bias, causal = _plus(c, bias, _later(c, q, past, total)), False
    split = k.rank == 4  # all three then need the axis of heads
    if split:
        q, k, v = (heads(c, t, count) for t in (q, k, v))
    attrs: dict[str, Any] = {"is_causal": causal, "qk_matmul_output_mode": 2, **_scaled(n)}
    attrs |= {} if split else {"q_num_heads": count, "kv_num_heads": count}
    y, *rest = c.b.attention(q, k, v, bias, past_k, past_v, **attrs)
    return (merged(c, y) if split else y, *rest)


def _unpacked(c: Importer, n: Call, count: int) -> tuple[Value, Value, Value]:
    """Queries [B, S, D], keys and values alike (or [B, N, L, H]), biases added."""
    q, k, v, bias = n.take(4)
    if k is None:
        if rank_of(q, n) != 5:
            raise n.refuse("a query without key must be packed as [batch, length, heads, 3, head size]")
        q, k, v = _taken_apart(c, n, q, 3)
    elif rank_of(k, n) == 5:
        k, v = _taken_apart(c, n, k, 2)
    if v is None:
        raise n.invalid("value is missing")
    of_rank(n, q, 3, "query")
    if {k.rank, v.rank} not in ({3}, {4}):
        raise n.invalid(f"key of type {k.type} and value of type {v.type}")
    if bias is None:
        return q, k, v
    if rank_of(k, n) == 4:
        raise n.invalid("a bias together with keys that are cut into heads already")
    width, size = q.shape[2], of_rank(n, bias, 1, "bias")[0]  # type: ignore[index]
    if type(width) is not int or type(size) is not int:
        raise n.refuse("the size of the bias or of a query is not known")
    parts = _parts(c, bias, (width, width, size - 2 * width))
    q, k, v = (c.b.add(t, part) for t, part in zip((q, k, v), parts, strict=True))
    return q, k, v


def _taken_apart(c: Importer, n: Call, packed: Value, count: int) -> tuple[Value, ...]:
    """[B, S, N, count, H] as `count` values [B, S, N * H]."""
    if packed.shape[3] != count:  # type: ignore[index]
        raise n.invalid(f"{packed.shape[3]} values are packed, expected {count}")  # type: ignore[index]
    return tuple(c.b.reshape(c.b.gather(packed, c.const(i), axis=3), (0, 0, -1)) for i in range(count))


class Cache(NamedTuple):
    """Where the new tokens of each sample stand: `past` [B or 1] keys before them, `lens` [B] valid ones with them; the
    number of `queries` and of `slots` in the cache are scalars. All i64."""

    past: Value
    lens: Value
    queries: Value
    slots: Value


#: Attributes of GroupQueryAttention that must have this value, and why.
FIXED: tuple[tuple[str, Any, str], ...] = (
    ("k_quant_type", "NONE", "a quantised cache"),
    ("v_quant_type", "NONE", "a quantised cache"),
    ("sliding_window_cache", 0, "a cache that is a ring"),
    ("causal", 1, "attention to later tokens"),
)


@handles("GroupQueryAttention", domain=DOMAIN)
def group_query_attention(c: Importer, n: Call) -> Any:
    """Causal attention over a cache: each sample has its own number of valid keys."""
    given = dict(zip((f.name for f in n.node.schema.inputs), n.take(17), strict=True))  # type: ignore[union-attr]
    _check_group_query(n, given)
    count, shared = _heads_of(n, "num_heads"), _heads_of(n, "kv_num_heads")
    q, k, v = _group_heads(c, n, given, count, shared)
    where = _cache(c, n, given, q)
    q, k = _turned(c, n, given, q, k, where)
    keys, values = (_present(c, given[name], t, where) for name, t in (("past_key", k), ("past_value", v)))
    bias = _group_bias(c, n, given, q, where)
    attrs = {"softcap": n.attr("softcap", 0.0), **_scaled(n)}
    sink = given["head_sink"]
    if sink is not None:
        of_rank(n, sink, 1, "head_sink")
    if sink is None and n.attr("smooth_softmax", -1) != 1:
        y, *_ = c.b.attention(q, keys, values, bias, **attrs)
    else:
        y = _with_sink(c, q, keys, values, bias, sink, attrs)
    return merged(c, y), keys, values


def _check_group_query(n: Call, given: dict[str, Value | None]) -> None:
    for name, wanted, why in FIXED:
        if n.attr(name, wanted) != wanted:
            raise n.refuse(f"{name} = {n.attr(name)} ({why})")
    if given["query_seqlens"] is not None:
        raise n.refuse("query_seqlens (samples with different numbers of new tokens)")
    if n.wants(3) or n.attr("qk_output", 0):
        raise n.refuse(f"qk_output = {n.attr('qk_output', 0)}: scores as an output")
    if n.attr("do_rotary", 0) and (given["cos_cache"] is None or given["sin_cache"] is None):
        raise n.invalid("do_rotary needs cos_cache and sin_cache")
    if (given["past_key"] is None) != (given["past_value"] is None):
        raise n.invalid("past_key and past_value come together")


def _group_heads(c: Importer, n: Call, given: dict, count: int, shared: int) -> tuple[Value, Value, Value]:
    """q [B, N, S, H], k and v [B, Nk, S, H]; a query without key holds all three."""
    q, k, v = (given[name] for name in ("query", "key", "value"))
    width = of_rank(n, q, 3, "query")[2]
    if (k is None) != (v is None):
        raise n.invalid("key and value come together")
    if k is None:
        if type(width) is not int or width % (count + 2 * shared):
            raise n.refuse(f"a packed query of width {width} for {count} + 2 x {shared} heads")
        size = width // (count + 2 * shared)
        q, k, v = _parts(c, q, (count * size, shared * size, shared * size))
    of_rank(n, k, 3, "key")
    of_rank(n, v, 3, "value")
    q, k, v = heads(c, q, count), heads(c, k, shared), heads(c, v, shared)
    norms = [given["q_norm_weight"], given["k_norm_weight"]]
    names = ("q_norm_epsilon", "k_norm_epsilon")
    epsilons = [n.attr(name, n.attr("qk_norm_epsilon", 1e-6)) for name in names]
    q, k = (
        t if w is None else c.b.rms_norm(t, w, axis=-1, epsilon=e)
        for t, w, e in zip((q, k), norms, epsilons, strict=True)
    )
    return q, k, v


def _cache(c: Importer, n: Call, given: dict, q: Value) -> Cache:
    b = c.b
    lens = b.add(b.cast(b.reshape(given["seqlens_k"], (-1,)), to=I64), c.const(1))
    total = b.cast(b.reshape(given["total_sequence_length"], ()), to=I64)
    queries = length(c, q, 2)
    if given["past_key"] is None:
        none = c.const(np.zeros(1, np.int64))
        return Cache(none, lens, queries, queries)
    past = b.where(b.equal(queries, total), c.const(0), b.sub(lens, queries))  # a first prompt may be padded
    return Cache(past, lens, queries, b.max(total, length(c, given["past_key"], 2)))


def _places(c: Importer, where: Cache) -> Value:
    """The position of each new token: [B or 1, S]."""
    return c.b.add(c.b.unsqueeze(where.past, (1,)), line(c, where.queries))


def _expanded_places(c: Importer, q: Value, where: Cache) -> Value:
    """The position of each new token: [B, S]."""
    shape = c.b.concat(c.b.shape(q, start=0, end=1), c.b.reshape(where.queries, (1,)), axis=0)
    return c.b.expand(_places(c, where), shape)


def _turned(c: Importer, n: Call, given: dict, q: Value, k: Value, where: Cache) -> tuple[Value, Value]:
    """Queries and keys rotated by position."""
    if not n.attr("do_rotary", 0):
        return q, k
    b, cos, sin, ids = c.b, given["cos_cache"], given["sin_cache"], given["position_ids"]
    half, size = of_rank(n, cos, 2, "cos_cache")[1], q.shape[3]  # type: ignore[index]
    if type(half) is not int:
        raise n.refuse("the shape of cos_cache is not known")
    ids = _expanded_places(c, q, where) if ids is None else ids
    attrs: dict[str, Any] = {
        "interleaved": bool(n.attr("rotary_interleaved", 0)),
        "rotary_embedding_dim": 0 if 2 * half == size else 2 * half,
    }
    return b.rotary_embedding(q, cos, sin, ids, **attrs), b.rotary_embedding(k, cos, sin, ids, **attrs)


def _present(c: Importer, past: Value | None, new: Value, where: Cache) -> Value:
    """The cache [B, Nk, slots, H]: a sample's past keys, its new ones, then zeros."""
    if past is None:
        return new
    b = c.b
    both = b.concat(past, new, axis=2)
    row, own = line(c, where.slots), b.unsqueeze(where.past, (1,))
    offset = b.sub(row, own)  # [B, slots]: which of the new keys
    source = b.where(
        b.less(offset, c.const(0)), row, b.add(b.min(offset, b.sub(where.queries, c.const(1))), length(c, past, 2))
    )
    shape = b.concat(b.shape(new, start=0, end=2), b.reshape(where.slots, (1,)), b.shape(new, start=3, end=4), axis=0)
    filled = b.gather_elements(both, b.expand(b.unsqueeze(source, (1, 3)), shape), axis=2)
    there = b.unsqueeze(b.less(offset, where.queries), (1, 3))
    return b.where(there, filled, c.scalar(0, new))


def _group_bias(c: Importer, n: Call, given: dict, q: Value, where: Cache) -> Value:
    """Causal and window mask by position, bool [B, 1, S, slots]; added to attention_bias where there is one."""
    b, window = c.b, n.attr("local_window_size", -1)
    key, place = line(c, where.slots), b.unsqueeze(_places(c, where), (2,))
    seen = b.and_(b.less_equal(key, place), b.less(key, b.unsqueeze(where.lens, (1, 2))))
    if window >= 0:
        seen = b.and_(seen, b.greater(key, b.sub(place, c.const(window))))
    seen, added = b.unsqueeze(seen, (1,)), given["attention_bias"]
    if added is None and given["head_sink"] is None and n.attr("smooth_softmax", -1) != 1:
        return seen
    hidden = b.where(seen, c.scalar(0, q), c.scalar(-np.inf, q))
    if added is None:
        return hidden
    missing = b.sub(where.slots, length(c, added, 3))
    pads = b.concat(c.const([0] * 7), b.reshape(missing, (1,)), axis=0)
    return b.add(b.pad(added, pads, c.scalar(0, q)), hidden)


def _with_sink(
    c: Importer, q: Value, k: Value, v: Value, bias: Value, sink: Value | None, attrs: dict[str, Any]
) -> Value:
    """Softmax with one more term: exp(0), or exp(sink[head]). It is a key and a value of zeros behind the others."""
    b = c.b
    extra = c.const([0, 0, 0, 0, 0, 0, 1, 0])
    keys, values = (b.pad(t, extra, c.scalar(0, t)) for t in (k, v))
    if sink is None:
        return b.attention(q, keys, values, b.pad(bias, c.const([0] * 7 + [1]), c.scalar(0, q)), **attrs)[0]
    count = sink.shape[0]  # type: ignore[index]
    rows = b.concat(b.shape(q, start=0, end=3), b.shape(bias, start=3, end=4), axis=0)
    column = b.concat(b.shape(q, start=0, end=3), c.const([1]), axis=0)
    last = b.expand(b.reshape(sink, (1, count, 1, 1)), column)
    return b.attention(q, keys, values, b.concat(b.expand(bias, rows), last, axis=3), **attrs)[0]
