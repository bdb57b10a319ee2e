"""aten scaled dot-product attention. Must not import torch."""

from __future__ import annotations

from typing import Any

from ...ir.dims import dim_eq
from ...ir.errors import InvalidModel, Unsupported
from ...ir.types import BOOL
from ...ir.value import Value
from .context import Context
from .registry import Bool, Number, Scalar, Tensor, handles


@handles("aten.scaled_dot_product_attention")
def sdpa(
    c: Context, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: Number = 0.0,
    is_causal: Bool = False, scale: Scalar | None = None, enable_gqa: Bool = False,
) -> Value:  # fmt: skip
    """softmax(q k' * scale + mask) v over the last two dimensions; a causal mask is aligned to the top left.

    The IR's op has exactly one batch and one head dimension: others are merged, missing ones added.
    """
    if dropout_p:
        raise Unsupported("attention with dropout", hint="call .eval() on the module before it is exported")
    if scale is not None and not isinstance(scale, int | float):
        raise Unsupported("an attention scale that is known only at run time")
    ranks = [c.rank(item) for item in (query, key, value)]
    if min(ranks) < 2 or len(set(ranks)) > 1:
        raise InvalidModel(f"attention of ranks {ranks}")
    if enable_gqa and ranks[0] != 4:
        raise Unsupported("grouped attention of other ranks than 4")
    q, k, v = (_four(c, item) for item in _shared_batch(c, (query, key, value), enable_gqa))
    mask = None if attn_mask is None else _mask(c, attn_mask, query)
    y = c.b.attention(q, k, v, mask, is_causal=is_causal, scale=None if scale is None else float(scale))[0]
    return c.reshape(y, c.shape)


def _shared_batch(c: Context, items: tuple[Value, ...], grouped: bool) -> list[Value]:
    """torch broadcasts the leading dimensions of q, k and v against each other."""
    made = list(items)
    leading = [(item.shape or ())[:-2] for item in items]
    target = tuple(next((d for d in dims if d != 1), 1) for dims in zip(*leading, strict=True))
    for i, dims in enumerate(leading):
        wanted = (target[0], dims[1]) if grouped else target
        if any(dim_eq(a, b) is False for a, b in zip(dims, wanted, strict=True)):
            made[i] = c.b.expand(items[i], c.sizes((*wanted, *(items[i].shape or ())[-2:])))
    return made


def _four(c: Context, x: Value) -> Value:
    """[B, H, L, E]: leading dimensions beyond the head are merged into the batch."""
    *front, length, size = x.shape or ()
    if len(front) == 2:
        return x
    batch: Any = 1
    for dim in front[:-1]:
        batch = batch * dim
    heads = front[-1] if front else 1
    return c.reshape(x, (batch, heads, length, size))


def _mask(c: Context, mask: Value, query: Value) -> Value:
    rank = c.rank(query)
    if rank <= 4:
        for _ in range(max(0, 4 - rank if c.rank(mask) == rank else 0)):
            mask = c.b.unsqueeze(mask, (0,))
    elif c.rank(mask) > 2:
        shape = (*(query.shape or ())[:-2], *(mask.shape or ())[-2:])
        mask = _four(c, c.b.expand(mask, c.sizes(shape)))
    if c.rank(mask) < 2:
        mask = c.b.unsqueeze(mask, (0,) * (2 - c.rank(mask)))
    return mask if mask.dtype is BOOL or query.dtype is None else c.cast(mask, query.dtype)
