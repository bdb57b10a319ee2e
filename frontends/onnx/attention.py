"""Attention and rotary embedding."""

from __future__ import annotations

from typing import Any

from ...formats.onnx import dtypes
from ...ir.graph import Value
from ...ir.types import BOOL, F32, F64, DType
from .importer import Call, Importer, known_dtype
from .registry import handles


@handles("Attention", since=23)
def attention(c: Importer, n: Call) -> Any:
    attrs: dict[str, Any] = {
        "is_causal": bool(n.attr("is_causal", 0)),
        "softcap": n.attr("softcap", 0.0),
        "qk_matmul_output_mode": n.attr("qk_matmul_output_mode", 0),
        "left_window_size": n.attr("left_window_size", -1),
        "right_window_size": n.attr("right_window_size", -1),
    }
    for name in ("scale", "q_num_heads", "kv_num_heads"):
        if name in n.attrs:
            attrs[name] = n.attrs[name]
    if n.attr("softmax_precision"):
        attrs["softmax_precision"] = dtypes.from_code(n.attrs["softmax_precision"], n.label)
    return _in_one_dtype(c, n, attrs)


def _in_one_dtype(c: Importer, n: Call, attrs: dict[str, Any]) -> list[Value]:
    """ONNX lets values have another dtype than queries and keys, and masks any dtype of numbers: the IR wants one, the
    wider, and casts back, which is exact but for y."""
    q, k, v, mask, past_k, past_v, lens = n.take(7)
    key, value = known_dtype(q), known_dtype(v)
    wide = key if key is value else F64 if F64 in (key, value) else F32
    q, k, v, past_k, past_v = (_cast(c, x, wide) for x in (q, k, v, past_k, past_v))
    if mask is not None and mask.dtype is not BOOL:
        mask = _cast(c, mask, wide)
    made = c.b.attention(q, k, v, mask, past_k, past_v, lens, **attrs)
    dtypes_of = (key, key, value, key)
    return [_cast(c, x, to) if n.wants(i) else x for i, (x, to) in enumerate(zip(made, dtypes_of, strict=True))]


def _cast(c: Importer, x: Value | None, to: DType) -> Any:
    return x if x is None or x.dtype is to else c.b.cast(x, to=to)


@handles("RotaryEmbedding", since=23)
def rotary_embedding(c: Importer, n: Call) -> Any:
    attrs = {"interleaved": bool(n.attr("interleaved", 0))}
    attrs |= {"num_heads": n.attr("num_heads", 0), "rotary_embedding_dim": n.attr("rotary_embedding_dim", 0)}
    return c.b.rotary_embedding(*n.take(4), **attrs)
