"""Attention and rotary embedding."""

from __future__ import annotations

from typing import Any

from .importer import Call, Importer
from .registry import handles


@handles("Attention", since=23)
def attention(c: Importer, n: Call) -> Any:
    q, k, v, mask, past_k, past_v, lengths = n.take(7)
    if lengths is not None:
        raise n.refuse("nonpad_kv_seqlen is not supported", hint="pass the lengths as a mask")
    if n.attr("left_window_size", -1) != -1 or n.attr("right_window_size", -1) != -1:
        raise n.refuse("sliding windows are not supported", hint="pass the window as a mask")
    attrs: dict[str, Any] = {
        "is_causal": bool(n.attr("is_causal", 0)),
        "softcap": n.attr("softcap", 0.0),
        "qk_matmul_output_mode": n.attr("qk_matmul_output_mode", 0),
    }
    for name in ("scale", "q_num_heads", "kv_num_heads", "softmax_precision"):
        if name in n.attrs:
            attrs[name] = n.attrs[name]
    return c.b.attention(q, k, v, mask, past_k, past_v, **attrs)


@handles("RotaryEmbedding", since=23)
def rotary_embedding(c: Importer, n: Call) -> Any:
    attrs = {"interleaved": bool(n.attr("interleaved", 0))}
    attrs |= {"num_heads": n.attr("num_heads", 0), "rotary_embedding_dim": n.attr("rotary_embedding_dim", 0)}
    return c.b.rotary_embedding(*n.take(4), **attrs)
