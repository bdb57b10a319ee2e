"""Attention and rotary embedding."""

from __future__ import annotations

from typing import Any

from ...formats.onnx import dtypes
from ...ir.builder import Builder
from ...ir.dims import Dim
from ...ir.graph import Module, Node, Value
from ...ir.types import I64
from .emitter import Emitter
from .registry import emits
from .shape import as_i64, operands


@emits("attention", since=23)
def attention(e: Emitter, n: Node) -> None:
    q, k, v, mask, past_k, past_v, lens = operands(n, 7)
    attrs: dict[str, Any] = {
        "is_causal": int(n.attr("is_causal")) or None,
        "scale": n.attr("scale"),
        "softcap": n.attr("softcap") or None,
        "q_num_heads": n.attr("q_num_heads") or None,
        "kv_num_heads": n.attr("kv_num_heads") or None,
        "qk_matmul_output_mode": n.attr("qk_matmul_output_mode") or None,
    }
    if n.attr("softmax_precision") is not None:
        attrs["softmax_precision"] = dtypes.TO_CODE[n.attr("softmax_precision")]
    for name in ("left_window_size", "right_window_size"):
        if n.attr(name) != -1:
            e.needs(25, "attention within a window")
            attrs[name] = n.attr(name)
    if lens is not None:
        e.needs(24, "attention with key lengths")
        if any(v.n_uses for v in n.results[1:3]):
            raise e.refuse("Attention yields no present keys and values where key lengths are given")
    lengths = () if lens is None else (as_i64(e, lens),)  # an operand of opset 24
    e.node("Attention", [q, k, v, _row_per_query(e, mask, q), past_k, past_v, *lengths], **attrs)


def _row_per_query(e: Emitter, mask: Value | None, q: Value) -> Any:
    """onnxruntime repeats a mask over batches and heads, not over queries as ONNX does."""
    axis = 2 if q.rank == 4 else 1
    if mask is None or mask.shape is None or q.shape is None or mask.shape[-2:-1] != (1,) or q.shape[axis] == 1:
        return mask
    length = q.shape[axis]
    if type(length) is int:
        return e.temp("Expand", [mask, e.ints((length, 1))], mask.dtype)
    own = e.temp("Shape", [q], I64, start=axis, end=axis + 1)
    return e.temp("Expand", [mask, e.temp("Concat", [own, e.ints((1,))], I64, axis=0)], mask.dtype)


def whole_masks(module: Module) -> None:
    """Masks with one row for all queries get one for each, once for all attentions that share them (see above)."""
    for graph in module.all_graphs():
        made: dict[tuple[Value, Dim], Value] = {}
        for node in list(graph.nodes("attention")):
            q, mask = node.operands[0], node.operand("mask")
            if mask is None or mask.shape is None or q.shape is None or mask.shape[-2:-1] != (1,):
                continue
            axis = 2 if q.rank == 4 else 1
            length = q.shape[axis]
            if length == 1:
                continue
            if (mask, length) not in made:
                b = Builder(graph, before=node, loc=node.loc)
                rows = (
                    (length, 1) if type(length) is int else b.concat(b.shape(q, start=axis, end=axis + 1), (1,), axis=0)
                )
                made[mask, length] = b.expand(mask, rows)
            node.set_operand(3, made[mask, length])


@emits("rotary_embedding", since=23)
def rotary_embedding(e: Emitter, n: Node) -> None:
    e.node(
        "RotaryEmbedding",
        n.operands,
        interleaved=int(n.attr("interleaved")) or None,
        num_heads=n.attr("num_heads") or None,
        rotary_embedding_dim=n.attr("rotary_embedding_dim") or None,
    )
