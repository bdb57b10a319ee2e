"""Attention and rotary embedding."""

from __future__ import annotations

from typing import Any

from ...formats.onnx import dtypes
from .importer import Call, Importer
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
    return c.b.attention(*n.take(7), **attrs)


@handles("RotaryEmbedding", since=23)
def rotary_embedding(c: Importer, n: Call) -> Any:
    attrs = {"interleaved": bool(n.attr("interleaved", 0))}
    attrs |= {"num_heads": n.attr("num_heads", 0), "rotary_embedding_dim": n.attr("rotary_embedding_dim", 0)}
    return c.b.rotary_embedding(*n.take(4), **attrs)
