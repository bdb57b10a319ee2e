"""The torch expression of attention."""

from __future__ import annotations

from ...ir.dims import dim_eq
from ...ir.value import Node
from .calls import Call, Refusal, only, rank_of, row


@row("attention")
def attention(node: Node) -> Call:
    """scaled_dot_product_attention: four axes, one result, and either a mask or a causal one."""
    only(node, "is_causal", "scale")
    q, k, v, mask, *cache = (*node.operands, *[None] * 7)[:7]
    assert q is not None and k is not None
    if any(value is not None for value in cache) or any(value.n_uses for value in node.results[1:]):
        raise Refusal("torch keeps no cache and returns no scores")
    if rank_of(q) != 4 or (mask is not None and node.attr("is_causal")):
        raise Refusal("torch wants separate heads, and one mask")
    if mask is not None and (rank_of(mask) < 2 or dim_eq(mask.shape[-1], k.shape[2]) is not True):  # type: ignore[index]
        raise Refusal("a mask that does not cover every key")
    if node.attr("is_causal") and dim_eq(q.shape[2], k.shape[2]) is not True:  # type: ignore[index]
        raise Refusal("a causal mask over another number of keys than queries")
    same = dim_eq(q.shape[1], k.shape[1])  # type: ignore[index]
    if same is None:
        raise Refusal("how many heads share a key is not fixed")
    extra = {} if same else {"enable_gqa": True}
    scale = {} if node.attr("scale") is None else {"scale": node.attr("scale")}
    return Call(
        "F.scaled_dot_product_attention", q, k, v, attn_mask=mask, is_causal=node.attr("is_causal"), **scale, **extra
    )
