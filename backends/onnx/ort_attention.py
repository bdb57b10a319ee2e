"""Attention and rotary embedding as onnxruntime's fused operators (`ort_ops.py`). f32 alone, heads inside the last axis.

MultiHeadAttention gives no number to a query that sees no key, where attention gives 0: a mask must hold no -inf.
"""

from __future__ import annotations

import numpy as np

from ...ir.dims import dim_eq
from ...ir.graph import Node, Value
from ...ir.types import F32, I32, I64
from ...passes.fuse.masks import finite
from ...passes.rewrite import StagingBuilder, rule


def _fits(node: Node) -> bool:
    """f32 of rank 3, no windows, no lengths of keys, and no scores to show."""
    windows = node.attrs.get("left_window_size", -1) == node.attrs.get("right_window_size", -1) == -1
    q, k, v, *rest = (*node.operands, *[None] * 7)[:7]
    plain = windows and rest[-1] is None and not node.results[3].n_uses
    return plain and all(x.dtype is F32 and x.rank == 3 for x in (q, k, v))  # type: ignore[union-attr]


def _bias(b: StagingBuilder, node: Node) -> Value | None:
    """The mask of rank 4, a row for each query; None where it may hide all keys of one."""
    mask, q = node.operand("mask"), node.operands[0]
    if mask is None or mask.dtype is not F32 or not mask.rank or mask.rank < 2 or finite(mask) is None:
        return None
    if dim_eq(mask.shape[-2], q.shape[1]) is not True:  # type: ignore[index]
        return None
    return mask if mask.rank == 4 else b.unsqueeze(mask, tuple(range(4 - mask.rank)))


@rule("attention", numerics="ulp")
def fuse_attention(b: StagingBuilder, node: Node):
    """attention with a mask, a cache or none -> MultiHeadAttention"""
    heads = node.attr("q_num_heads")
    if not _fits(node) or node.attr("softcap") or node.attr("kv_num_heads") != heads:
        return b.decline("not f32 of rank 3, or with bounds, or heads that share keys")
    q, k, v, mask, past_k, past_v = (*node.operands, *[None] * 6)[:6]
    causal = node.attr("is_causal")
    if causal and (past_k is not None or dim_eq(q.shape[1], k.shape[1]) is not True):  # type: ignore[union-attr,index]
        return b.decline("the first query is not surely the first key")
    bias = None if mask is None else _bias(b, node)
    if mask is not None and bias is None:
        return b.decline("the mask may hide all keys of a query, or has no row for each of them")
    operands = (q, k, v, None, None, bias, past_k, past_v)
    attrs = {"num_heads": heads, "scale": node.attr("scale"), "unidirectional": causal}
    made = b.call("ort.multi_head_attention", operands, attrs)
    return (*made.results, node.results[3])


@rule("attention", numerics="ulp")
def fuse_grouped_attention(b: StagingBuilder, node: Node):
    """causal attention whose queries share heads, of a whole text or of one token behind a cache -> GroupQueryAttention"""
    heads, shared = node.attr("q_num_heads"), node.attr("kv_num_heads")
    q, k, v, mask, past_k, past_v = (*node.operands, *[None] * 6)[:6]
    if not _fits(node) or heads == shared or mask is not None:
        return b.decline("not f32 of rank 3, or with a mask, or as many heads of keys as of queries")
    length = q.shape[1]  # type: ignore[union-attr,index]
    same = dim_eq(length, k.shape[1]) is True  # type: ignore[union-attr,index]
    if not same or not (length == 1 or (past_k is None and node.attr("is_causal"))):
        return b.decline("not the causal attention of a whole text, or of one token")
    if type(q.shape[2]) is not int or q.shape[2] // heads % 8:  # type: ignore[union-attr,index,operator]
        return b.decline("heads are not surely of a size that is a multiple of 8")
    total = b.shape(q, start=1, end=2)
    if past_k is not None:
        total = b.add(total, b.shape(past_k, start=2, end=3))
    last = b.expand(b.cast(b.sub(total, b.const((1,), I64)), to=I32), b.shape(q, start=0, end=1))
    operands = (q, k, v, past_k, past_v, last, b.squeeze(b.cast(total, to=I32), (0,)))
    attrs = {"num_heads": heads, "kv_num_heads": shared, "scale": node.attr("scale"), "softcap": node.attr("softcap")}
    made = b.call("ort.group_query_attention", operands, attrs)
    return (*made.results, node.results[3])


@rule("rotary_embedding", numerics="ulp")
def fuse_rotary_embedding(b: StagingBuilder, node: Node):
    """rotary_embedding by positions, or of the same angles for all samples -> RotaryEmbedding"""
    x, cos, sin, ids = (*node.operands, None)[:4]
    heads = node.attr("num_heads") or (x.shape[1] if x.rank == 4 else 0)  # type: ignore[union-attr,index]
    if x.dtype is not F32 or type(heads) is not int:  # type: ignore[union-attr]
        return b.decline("not f32, or the number of heads is open")
    tables = (cos, sin) if ids is not None else tuple(_of_all_samples(b, v) for v in (cos, sin))  # type: ignore[arg-type]
    if None in tables:
        return b.decline("the angles are those of a sample")
    positions = b.const((0,), I64) if ids is None else ids
    attrs = {name: node.attr(name) for name in ("interleaved", "rotary_embedding_dim")}
    return b.call("ort.rotary_embedding", (x, positions, *tables), {**attrs, "num_heads": heads}).result


def _of_all_samples(b: StagingBuilder, angles: Value) -> Value | None:
    """The [length, width] that all samples of [batch, length, width] have."""
    if angles.is_const:
        rows = angles.array()
        return b.const(rows[0]) if len(rows) and bool(np.all(rows == rows[:1])) else None
    node = angles.node
    source = node.operands[0] if node is not None and node.name == "expand" else angles
    alike = source.rank == 3 and source.shape[0] == 1 and source.shape[1:] == angles.shape[1:]  # type: ignore[index]
    return b.squeeze(source, (0,)) if alike else None


ATTENTION = (fuse_attention, fuse_grouped_attention, fuse_rotary_embedding)
#: The ops that these make.
OPERATORS = ("ort.multi_head_attention", "ort.group_query_attention", "ort.rotary_embedding")
