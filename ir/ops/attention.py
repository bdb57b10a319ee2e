"""attention (heads, caches, masks, windows) and rotary_embedding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..dims import Dim, dim_eq
from ..errors import TypeInferError
from ..opdef import Axis, AxisMap, DtypeVar, OpDef, Sample, attr, op, operand, optional
from ..types import BF16, BOOL, F16, F32, F64, FLOAT, I32, I64, DType, TensorType
from . import rules

if TYPE_CHECKING:
    from ..value import Value

T = DtypeVar("T", FLOAT)
PRECISIONS = frozenset({F16, BF16, F32, F64})


class Heads(NamedTuple):
    """[batch, heads, length, size] of a query, key or value."""

    batch: Dim
    heads: Dim
    length: Dim
    size: Dim


def _heads(value: Value, what: str, count: int) -> Heads | None:
    """A rank-4 operand as it is; a rank-3 one with its last axis cut into `count` heads. Raises TypeInferError."""
    shape = rules.ranked(value, what, 3, 4)
    if shape is None:
        return None
    if len(shape) == 4:
        if count and dim_eq(shape[1], count) is False:
            raise TypeInferError(f"{what} has {shape[1]} heads, the attribute says {count}")
        return Heads(*shape)
    if count < 1:
        raise TypeInferError(f"{what} of rank 3 needs the number of its heads as an attribute")
    if isinstance(shape[2], int) and shape[2] % count:
        raise TypeInferError(f"the last dim of {what}, {shape[2]}, does not divide into {count} heads")
    return Heads(shape[0], count, shape[1], shape[2] // count)


def _check_fit(q: Heads, k: Heads, v: Heads) -> None:
    for a, b, what in (
        (q.batch, k.batch, "batch of q and k"),
        (k.batch, v.batch, "batch of k and v"),
        (q.batch, v.batch, "batch of q and v"),
        (q.size, k.size, "head size of q and k"),
        (k.heads, v.heads, "heads of k and v"),
        (k.length, v.length, "length of k and v"),
    ):
        rules.agree(a, b, what)
    if isinstance(q.heads, int) and isinstance(k.heads, int) and (k.heads == 0 or q.heads % k.heads):
        raise TypeInferError(f"{q.heads} query heads do not share {k.heads} key heads evenly")


@op
class Attention(OpDef):
    """softmax(q k' * scale + mask) v: multi-head, grouped, cached, causal or windowed (ONNX Attention-25).

    q [B, Hq, S, E], k [B, Hk, T, E], v [B, Hk, T, V], or rank 3 with the heads inside the last axis, their numbers
    then in q_num_heads and kv_num_heads. mask broadcasts to [B, Hq, S, P + T]: bool (True attends) or added. past_k
    and past_v [B, Hk, P, *] go before k and v; kv_lens [B] says how many keys are valid instead.
    qk_matmul_output_mode picks what `qk` is: 0 scaled scores, 1 after softcap, 2 after the mask, 3 probabilities.
    """

    q = operand(T)
    k = operand(T)
    v = operand(T)
    mask = optional()
    past_k = optional(T)
    past_v = optional(T)
    kv_lens = optional(frozenset({I32, I64}))
    is_causal = attr(bool, False)
    scale = attr(float, None)
    softcap = attr(float, 0.0)
    q_num_heads = attr(int, 0)
    kv_num_heads = attr(int, 0)
    qk_matmul_output_mode = attr(int, 0, choices=(0, 1, 2, 3))
    softmax_precision = attr(DType, None)
    left_window_size = attr(int, -1)
    right_window_size = attr(int, -1)
    results = ("y", "present_k", "present_v", "qk")

    def infer(self, q, k, v, mask, past_k, past_v, kv_lens, *, q_num_heads, kv_num_heads, softmax_precision, **attrs):
        if (past_k is None) != (past_v is None):
            raise TypeInferError("past_k and past_v come together")
        if past_k is not None and kv_lens is not None:
            raise TypeInferError("kv_lens is for a cache kept outside: it cannot be combined with past_k and past_v")
        if softmax_precision is not None and softmax_precision not in PRECISIONS:
            raise TypeInferError(f"softmax_precision {softmax_precision} is none of f16, bf16, f32, f64")
        self._check_numbers(mask, q, attrs)
        dtype = rules.first_dtype(q, k, v)
        query, key, value = _heads(q, "q", q_num_heads), _heads(k, "k", kv_num_heads), _heads(v, "v", kv_num_heads)
        if query is None or key is None or value is None:
            return [TensorType(dtype, None)] * 4
        _check_fit(query, key, value)
        past = 0 if past_k is None else self._past(past_k, past_v, key, value)
        if past is None:
            return [TensorType(dtype, None)] * 4
        total = key.length + past
        self._check_mask(mask, query, total)
        y = (query.batch, query.heads, query.length, value.size)
        if q.rank == 3:
            y = (query.batch, query.length, query.heads * value.size)
        present = [(key.batch, key.heads, total, key.size), (key.batch, key.heads, total, value.size)]
        return [TensorType(dtype, s) for s in (y, *present, (query.batch, query.heads, query.length, total))]

    def _check_numbers(self, mask, q, attrs: dict[str, Any]) -> None:
        for name in ("left_window_size", "right_window_size"):
            if attrs[name] < -1:
                raise TypeInferError(f"{name} is {attrs[name]}; expected -1 (no bound) or more")
        if mask is not None and None not in (mask.dtype, q.dtype) and mask.dtype not in (BOOL, q.dtype):
            raise TypeInferError(f"mask has dtype {mask.dtype}, expected bool or {q.dtype}")

    def _past(self, past_k, past_v, key: Heads, value: Heads) -> Dim | None:
        lengths = []
        for past, now, what in ((past_k, key, "past_k"), (past_v, value, "past_v")):
            shape = rules.ranked(past, what, 4)
            if shape is not None:
                for have, want in zip((shape[0], shape[1], shape[3]), (now.batch, now.heads, now.size), strict=True):
                    rules.agree(have, want, f"{what} of shape {rules.show(shape)}")
                lengths.append(shape[2])
        if len(lengths) == 2:
            return rules.agree(lengths[0], lengths[1], "length of past_k and past_v")
        return lengths[0] if lengths else None

    def _check_mask(self, mask, query: Heads, total: Dim) -> None:
        if mask is None or mask.shape is None:
            return
        target = (query.batch, query.heads, query.length)
        fits = 1 <= len(mask.shape) <= 4
        for have, want in zip(mask.shape[-2::-1], target[::-1], strict=False):
            fits = fits and (have == 1 or dim_eq(have, want) is not False)
        if mask.shape and type(mask.shape[-1]) is int and type(total) is int:
            fits = fits and mask.shape[-1] <= total  # a shorter mask leaves the last keys out
        if not fits:
            raise TypeInferError(
                f"mask of shape {rules.show(mask.shape)} does not broadcast to {rules.show((*target, total))}"
            )

    def axes(self, q, k, v, mask, past_k, past_v, kv_lens, *, q_num_heads, **_):
        """Batches and value features pass, and so do heads when queries and keys have the same number of them."""
        if any(x is None or x.rank != 4 for x in (q, k, v)):
            return None
        same = dim_eq(q.shape[1], k.shape[1]) is True
        n, h, e = Axis("n"), Axis("h") if same else None, Axis("e")
        held = (n, h, None, None)
        rows = [held, held, (n, h, None, e)]
        rows.append(None if mask is None else self._mask_axes(mask, q, h))
        rows += [None if past_k is None else held, None if past_v is None else (n, h, None, e)]
        rows.append(None if kv_lens is None else (n,))
        if mask is not None and mask.shape is None:
            return None
        return AxisMap(tuple(rows), ((n, h, None, e), held, (n, h, None, e), held))

    def _mask_axes(self, mask, q, heads: Axis | None):
        shape = mask.shape or ()
        full = (Axis("n"), heads, None, None)[4 - len(shape) :]
        rows = zip(full, shape, q.shape[4 - len(shape) :], strict=True)
        return tuple(Axis(a.label, "broadcast") if a and d == 1 and want != 1 else a for a, d, want in rows)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, kv, mask, past, attrs in ATTENTION_SAMPLES:
            made = [_normal(rng, *shape), _normal(rng, *kv), _normal(rng, *kv)]
            bias = (
                None if mask is None else rng.random(mask[1:]) > 0.3 if mask[0] == "bool" else _normal(rng, *mask[1:])
            )
            caches = (None, None) if past is None else (_normal(rng, *past), _normal(rng, *past))
            yield Sample((*made, bias, *caches, None), attrs)
        q, k = _normal(rng, 2, 2, 3, 4), _normal(rng, 2, 2, 6, 4)
        yield Sample((q, k, k + 1, None, None, None, np.array([4, 6], np.int64)), {"is_causal": True})


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@op
class RotaryEmbedding(OpDef):
    """Rotate feature pairs of x [B, H, S, E] or [B, S, H E] by position (ONNX RotaryEmbedding-23).

    Caches are [positions, R / 2] read at position_ids [B, S], or [B, S, R / 2] without them; R is rotary_embedding_dim,
    or E when that is 0. Pairs are neighbours if `interleaved`, else the two halves.
    """

    x = operand(T)
    cos_cache = operand(T)
    sin_cache = operand(T)
    position_ids = optional(frozenset({I64}))
    interleaved = attr(bool, False)
    num_heads = attr(int, 0)
    rotary_embedding_dim = attr(int, 0)

    def infer(self, x, cos_cache, sin_cache, position_ids, *, num_heads, rotary_embedding_dim, **_):
        found = _heads(x, "x", num_heads)
        for cache, what in ((cos_cache, "cos_cache"), (sin_cache, "sin_cache")):
            shape = rules.ranked(cache, what, 3 if position_ids is None else 2)
            size = rotary_embedding_dim or (found.size if found else None)
            if isinstance(size, int) and size % 2:
                raise TypeInferError(f"{size} rotated features are not pairs")
            if shape is not None and size is not None:
                rules.agree(shape[-1] * 2, size, f"{what} of shape {rules.show(shape)} and rotated features")
        rules.ranked(position_ids, "position_ids", 2)
        return x.type

    def axes(self, x, cos_cache, sin_cache, position_ids, *, num_heads, **_):
        if x.rank is None or any(c.rank is None for c in (cos_cache, sin_cache)):
            return None
        n, s = Axis("n"), Axis("s")
        row = (n, Axis("h"), s, None) if x.rank == 4 else (n, s, None)
        batch, length = x.shape[0], x.shape[-2 if x.rank == 4 else 1]
        places = None if position_ids is None else self._places(position_ids.shape, batch, length)
        caches = [
            (None, None) if position_ids is not None else (*self._places(c.shape, batch, length), None)
            for c in (cos_cache, sin_cache)
        ]
        return AxisMap((row, *caches, places), (row,))

    def _places(self, shape, batch: Dim, length: Dim):
        pairs = zip(("n", "s"), shape or (), (batch, length), strict=False)
        return tuple(Axis(k, "broadcast" if d == 1 and want != 1 else "pass") for k, d, want in pairs)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        angles = rng.uniform(0, 6, (2, 3, 4)).astype(np.float32)
        x = _normal(rng, 2, 5, 3, 8)
        for interleaved in (False, True):
            yield Sample((x, np.cos(angles), np.sin(angles), None), {"interleaved": interleaved})
        ids = rng.integers(0, 7, (2, 3))
        table = rng.uniform(0, 6, (7, 2)).astype(np.float32)
        attrs = {"num_heads": 5, "rotary_embedding_dim": 4}
        yield Sample((_normal(rng, 2, 3, 40), np.cos(table), np.sin(table), ids), attrs)


#: q shape, k and v shape, mask (kind and shape), past shape, attributes.
ATTENTION_SAMPLES: tuple[tuple[tuple, tuple, tuple | None, tuple | None, dict[str, Any]], ...] = (
    ((2, 3, 4, 5), (2, 3, 6, 5), None, None, {}),
    ((2, 4, 3, 5), (2, 2, 3, 5), None, None, {"is_causal": True, "scale": 0.3}),
    ((2, 3, 4, 5), (2, 3, 6, 5), ("bool", 4, 6), None, {"qk_matmul_output_mode": 3}),
    ((2, 3, 4, 5), (2, 3, 6, 5), ("float", 2, 1, 4, 6), None, {"softcap": 2.0, "qk_matmul_output_mode": 2}),
    ((2, 3, 2, 5), (2, 3, 2, 5), None, (2, 3, 4, 5), {"is_causal": True, "qk_matmul_output_mode": 1}),
    ((2, 4, 12), (2, 5, 6), ("float", 4, 5), None, {"q_num_heads": 4, "kv_num_heads": 2}),
    ((1, 2, 5, 4), (1, 2, 5, 4), None, None, {"left_window_size": 2, "right_window_size": 1}),
)
