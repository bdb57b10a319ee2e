"""Attention that exporters wrote out becomes one op again, with the heads' transposes inside it where all of them agree.

    softmax(q k' * scale + mask) v                        4-d: [batch, heads, length, size]
    reshape(transpose(attention(heads(q), ...)))          3-d: [batch, length, heads * size], heads as attributes

The op gives 0 to a query that sees no key; the written-out form gives it no number, unless it looks for that. So a mask must
be computed from finite numbers alone, and an input is none: it may hold -inf; or each query sees itself. A query that sees
no key because all its scores are replaced by one low number weighs all alike, as the op does with that number added to scores
which it absorbs. Targets without the op write it out again, so the pass stands in no
preset: a backend whose target has the op runs it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ...ir.dims import Dim, dim_eq
from ...ir.graph import Node, Value
from ..manager import pattern_pass
from ..optimize.common import same_dims
from ..rewrite import StagingBuilder, rule
from .einsums import in_order, moves_left, plain, queries_and_keys, turns
from .masks import Hidden, Numbers, absorbs, added, finite, guarded, hidden_by, is_causal, lowest
from .rotary import ROTARY
from .terms import is_float, own, product, stands_for

# The 4-d form.


class _Scores(NamedTuple):
    """softcap * tanh(scale * (q k') / softcap) + mask, k' being `turned`, or k where that is `straight`; keys that are `hidden`
    have a low score instead."""

    q: Value
    turned: Value
    scale: float
    softcap: float = 0.0
    mask: Value | None = None
    hidden: Hidden | None = None
    straight: bool = False


def _without_factor(value: Value) -> tuple[float, Value]:
    """(c, x) of a value c * x that is used here alone; (1, value) else."""
    node = own(value, "mul", "div")
    found = None if node is None else product(node)
    if found is None or len(found.parts) != 1 or not found.factor or not stands_for(found.parts[0], node):  # type: ignore[arg-type]
        return 1.0, value
    return found.factor, found.parts[0]


def _scores(b: StagingBuilder, value: Value) -> _Scores | None:
    chosen = own(value, "where")
    for score in () if chosen is None else chosen.operands[1:]:
        found, hidden = _plain_scores(b, score), hidden_by(chosen, score)  # type: ignore[arg-type]
        if found is not None and hidden is not None and stands_for(score, chosen):  # type: ignore[arg-type]
            return found._replace(hidden=hidden)
    total = own(value, "add")
    for score, mask in () if total is None else (total.operands, total.operands[::-1]):
        found = _plain_scores(b, score)  # type: ignore[arg-type]
        if found is not None and stands_for(score, total):  # type: ignore[arg-type]
            return found._replace(mask=mask)
    return _plain_scores(b, value)


def _plain_scores(b: StagingBuilder, value: Value) -> _Scores | None:
    """Without a mask."""
    scale, rest = _without_factor(value)
    tanh = own(rest, "tanh")
    softcap = scale if tanh is not None and scale > 0 else 0.0
    if softcap:
        factor, rest = _without_factor(tanh.operands[0])  # type: ignore[union-attr,arg-type]
        scale *= factor
    node = own(rest, "matmul", "einsum")
    if node is None or len(node.operands) != 2:
        return None
    (a, q), (c, turned) = (_without_factor(v) for v in node.operands)  # type: ignore[arg-type]
    straight = node.name == "einsum"
    pair = queries_and_keys(b, node, (q, turned)) if straight else (q, turned)
    if straight and pair is not None and not same_dims(pair[0].shape[-1:], pair[1].shape[-1:]):  # type: ignore[index]
        return None
    return None if pair is None else _Scores(*pair, scale * a * c, softcap, straight=straight)


def _turned_back(b: StagingBuilder, turned: Value, depth: int = 4) -> Value:
    """The last two axes changed over, by the transpose that did it if there is one, perhaps before heads were repeated."""
    node, rank = own(turned), turned.rank
    if node is not None and depth:
        if node.name == "transpose":
            perm = node.attr("perm")
            back = (*perm[:-2], perm[-1], perm[-2])
            return node.operands[0] if back == tuple(range(rank)) else b.transpose(node.operands[0], perm=back)  # type: ignore[arg-type]
        if node.name == "gather" and node.attr("axis") == 1 and node.operands[1].rank == 1:
            return b.gather(_turned_back(b, node.operands[0], depth - 1), node.operands[1], axis=1)
        shape = _repeated_shape(node)
        if shape is not None:
            make = b.reshape if node.name == "reshape" else b.expand
            return make(_turned_back(b, node.operands[0], depth - 1), shape)
    return b.transpose(turned, perm=(*range(rank - 2), rank - 1, rank - 2))  # type: ignore[operator]


def _repeated_shape(node: Node) -> tuple[int, ...] | None:
    """What makes the same of a transposed operand as an expand, a tile, or a reshape of five axes to four makes of it: heads
    are repeated, or joined with their copies."""
    x, y = node.operands[0], node.results[0]
    if node.name not in ("expand", "tile", "reshape") or not x.rank or not same_dims(x.shape[-2:], y.shape[-2:]):  # type: ignore[index]
        return None
    if not same_dims(x.shape[:1], y.shape[:1]) or not all(type(d) is int for d in y.shape[1:-2]):  # type: ignore[index]
        return None
    if node.name != "reshape":
        return (1, *y.shape[1:-2], 1, 1) if x.rank == y.rank else None  # type: ignore[index,return-value,arg-type]
    inner = [d if type(d) is int else -1 for d in (y.shape[-1], y.shape[-2])]  # type: ignore[index]
    if (x.rank, y.rank) != (5, 4) or inner.count(-1) > 1 or 0 in inner:
        return None
    return (0, y.shape[1], *inner)  # type: ignore[index,return-value,arg-type]


def _fits(q: Value, k: Value, v: Value) -> bool:
    """One batch each and as many keys as values, whose heads are those of the queries or one for all."""
    if any(x.rank != q.rank or not is_float(x) or x.dtype is not q.dtype for x in (q, k, v)):
        return False
    keys = slice(0, q.rank - 1)  # type: ignore[operator]
    if not same_dims(q.shape[:1], k.shape[:1]) or not same_dims(k.shape[keys], v.shape[keys]):  # type: ignore[index]
        return False
    return q.rank == 3 or k.shape[1] == 1 or dim_eq(q.shape[1], k.shape[1]) is True  # type: ignore[index]


def _covers(mask: Value, target: tuple[Dim, ...]) -> bool:
    """A column for every key; the dims before broadcast."""
    if mask.rank is None or not 2 <= mask.rank <= len(target):
        return False
    have = (*(1,) * (len(target) - mask.rank), *mask.shape)  # type: ignore[misc]
    return dim_eq(have[-1], target[-1]) is True and all(
        d == 1 or dim_eq(d, want) is True for d, want in zip(have[:-1], target[:-1], strict=True)
    )


def _masked(b: StagingBuilder, found: _Scores, k: Value, guard: bool) -> tuple[Value | None, bool] | None:
    """(mask, is_causal) for the op; None where the op would hide other keys, or weigh those of a query that sees none
    otherwise. With a `guard` such a query gets 0, as it does from the op."""
    q, mask, hidden = found.q, found.mask, found.hidden
    if mask is None and hidden is None:
        return None, False
    lengths = (q.shape[-2], k.shape[-2])  # type: ignore[index]
    target = (*q.shape[:-1], k.shape[-2])  # type: ignore[index]
    if q.rank == 4 and type(q.shape[1]) is not int:  # type: ignore[index]
        return None
    hides = hidden or added(mask)  # type: ignore[arg-type]
    if hides is not None and (hidden is not None or hides.low == -math.inf) and is_causal(hides, *lengths):
        return None, True
    if hides is not None and guard and hides.low == -math.inf and _covers(hides.seen, target):
        return _over_heads(b, b.not_(hides.seen) if hides.turned else hides.seen, q), False
    if mask is None:
        if not absorbs(hides.low, q) or not _covers(hides.seen, target):  # type: ignore[union-attr]
            return None
        parts = (b.const(0.0, q.dtype), b.const(max(hides.low, lowest(q) / 2), q.dtype))  # type: ignore[union-attr]
        mask = b.where(hides.seen, *(parts[::-1] if hides.turned else parts))  # type: ignore[union-attr]
        return _over_heads(b, mask, q), False
    numbers = finite(mask) if mask.dtype is q.dtype and _covers(mask, target) else None
    return None if numbers is None else (_over_heads(b, _raised(b, mask, numbers), q), False)


def _raised(b: StagingBuilder, mask: Value, numbers: Numbers) -> Value:
    """The mask with half of the lowest number in place of that, beside which scores vanish as well."""
    low = lowest(mask)
    if numbers.least > low:
        return mask
    half = b.const(low / 2, mask.dtype)
    return b.where(b.equal(mask, b.const(low, mask.dtype)), half, mask) if numbers.adds else b.max(mask, half)


def _over_heads(b: StagingBuilder, mask: Value, q: Value) -> Value:
    """Queries of rank 3 have one head, for which a mask of one matrix per sample needs an axis."""
    return b.unsqueeze(mask, (1,)) if q.rank == 3 and mask.rank == 3 and mask.shape[0] != 1 else mask  # type: ignore[index]


def _attention(b: StagingBuilder, v: Value, softmax: Node | None, *, replaced: bool = False, guard: bool = False):
    """The op for a product of these weights with values; `replaced`: a mask puts other scores in place of some."""
    rank = v.rank
    if softmax is None or softmax.result.rank != rank or rank not in (3, 4) or softmax.attr("axis") % rank != rank - 1:
        return None
    found = _scores(b, softmax.operands[0])  # type: ignore[arg-type]
    if found is None or found.q.rank != rank or found.turned.rank != rank or not math.isfinite(found.scale):
        return b.decline("the scores are no product of queries and keys")
    k = found.turned if found.straight else _turned_back(b, found.turned)
    if not _fits(found.q, k, v):
        return b.decline("heads and batches are not surely of one size")
    if not guard and replaced is (found.hidden is None):
        return None
    masked = _masked(b, found, k, guard)
    if masked is None:
        return b.decline("the mask may hide all keys of a query by -inf, or is not surely of the size of the scores")
    heads = int(rank == 3)
    return b.attention(
        found.q, k, v, masked[0], is_causal=masked[1], scale=found.scale, softcap=found.softcap, q_num_heads=heads,
        kv_num_heads=heads,
    )[0]  # fmt: skip


@rule("matmul", numerics="ulp")
def fuse_attention(b: StagingBuilder, node: Node):
    """softmax(q k' * scale + mask) v -> attention(q, k, v, mask)"""
    return _attention(b, node.operands[1], own(node.operands[0], "softmax"))


@rule("matmul", numerics="ulp")
def fuse_attention_of_replaced(b: StagingBuilder, node: Node):
    """softmax(where(seen, q k' * scale, low)) v -> attention(q, k, v, mask)"""
    return _attention(b, node.operands[1], own(node.operands[0], "softmax"), replaced=True)


@rule("einsum", numerics="ulp")
def fuse_attention_of_einsums(b: StagingBuilder, node: Node):
    """einsum(softmax(einsum(q, k) * scale + mask), v) -> attention(q, k, v, mask), where no node is added"""
    for place, weights in enumerate(node.operands):
        softmax = own(weights, "softmax")
        found = None if softmax is None else turns(node, place, sums_rows=True)
        if found is None or not plain(found.left):
            continue
        y = _attention(b, in_order(b, node.operands[1 - place], found.right), softmax)  # type: ignore[arg-type]
        if not isinstance(y, Value):
            return y
        y = in_order(b, y, found.result)
        return y if moves_left(b, node) <= 2 else b.decline("transposes would be more nodes")
    return None


@rule("matmul", numerics="ulp")
def fuse_guarded_attention(b: StagingBuilder, node: Node):
    """where(is_nan(p), 0, p) v with p = softmax(q k' * scale + mask) -> attention(q, k, v, mask)"""
    return _attention(b, node.operands[1], guarded(node.operands[0]), guard=True)


def _is_plain(node: Node) -> bool:
    """4-d, without a cache, and only its first result is used."""
    return (
        all(v is None for v in node.operands[4:])
        and all(v.rank == 4 for v in node.operands[:3])
        and not any(v.n_uses for v in node.results[1:])
    )


def _repeated(value: Value) -> tuple[Value, int] | None:
    """(x, n) of a value that holds every head of x [batch, heads, length, size] n times in a row."""
    node = value.node
    if node is None or value.rank != 4 or value.n_uses != 1 or type(value.shape[1]) is not int:  # type: ignore[index]
        return None
    x = _spread(node) if node.name == "reshape" else node.operands[0] if _copies_heads(node) else None
    heads = None if x is None or x.rank != 4 else x.shape[1]  # type: ignore[index]
    if type(heads) is not int or heads < 1 or value.shape[1] <= heads or value.shape[1] % heads:  # type: ignore[index,operator]
        return None
    same = same_dims((*x.shape[:1], *x.shape[2:]), (*value.shape[:1], *value.shape[2:]))  # type: ignore[index,union-attr]
    return (x, value.shape[1] // heads) if same else None  # type: ignore[index,return-value]


def _spread(joined: Node) -> Value | None:
    """The x of a reshape that joins heads with their copies, which stand along an axis of their own."""
    spread = own(joined.operands[0], "expand", "tile", "concat")
    raised = None if spread is None else spread.operands[0].node
    if raised is None or raised.name not in ("unsqueeze", "reshape") or raised.operands[0].rank != 4:
        return None
    x = raised.operands[0]
    batch, heads, length, size = x.shape  # type: ignore[misc]
    copies = spread.result.shape[2:3] if spread.result.rank == 5 else ()  # type: ignore[union-attr,index]
    if any(v is not raised.result for v in spread.operands if v.rank == 5):  # type: ignore[union-attr]
        return None
    fits = same_dims(raised.result.shape, (batch, heads, 1, length, size))
    return x if fits and same_dims(spread.result.shape, (batch, heads, *copies, length, size)) else None  # type: ignore[union-attr]


def _copies_heads(node: Node) -> bool:
    """A gather of every head some times in a row, or copies of the only head one after the other."""
    x = node.operands[0]
    if node.name == "gather":
        picks, heads = node.operands[1].ints(), x.shape[1] if x.rank == 4 else None  # type: ignore[index]
        if node.attr("axis") != 1 or not picks or type(heads) is not int or not heads or len(picks) % heads:
            return False
        return tuple(picks) == tuple(i // (len(picks) // heads) for i in range(len(picks)))
    one = x.rank == 4 and x.shape[1] == 1  # type: ignore[index]
    if node.name == "concat":
        return one and node.attr("axis") == 1 and all(v is x for v in node.operands)
    return one and node.name in ("expand", "tile")


@rule("attention", numerics="ulp")
def share_repeated_heads(b: StagingBuilder, node: Node):
    """attention(q, repeat(k), repeat(v)) -> attention(q, k, v), whose queries share the heads"""
    if not _is_plain(node):
        return None
    k, v = (_repeated(x) for x in node.operands[1:3])
    if k is None or v is None or k[1] != v[1]:
        return b.decline("keys and values are not both repeated, as often as each other")
    made = b.call("attention", (node.operands[0], k[0], v[0], *node.operands[3:4]), dict(node.attrs))
    return b.instead({node.results[0]: made.results[0]}, (node,))


def _appended(value: Value) -> tuple[Value, Value] | None:
    """(past, x) of a value that is x behind what was kept of it."""
    node = value.node
    if node is None or node.name != "concat" or node.attr("axis") != 2 or len(node.operands) != 2:
        return None
    return node.operands[0], node.operands[1]


@rule("attention", numerics="ulp")
def attention_with_cache(b: StagingBuilder, node: Node):
    """attention(q, concat(past_k, k), concat(past_v, v)) -> attention(q, k, v, past_k, past_v), which yields both joined"""
    if not _is_plain(node) or node.attr("is_causal"):  # a causal op with a cache counts positions from the end of it
        return None
    pair = [_appended(v) for v in node.operands[1:3]]
    if pair[0] is None or pair[1] is None:
        return None
    (past_k, k), (past_v, v) = pair
    q, joined = node.operands[0], node.operands[1:3]
    mask = node.operand("mask")
    if not same_dims(past_k.shape[:3], past_v.shape[:3]) or not same_dims(k.shape[:3], v.shape[:3]):  # type: ignore[index]
        return b.decline("what is kept of keys and values is not surely of one length")
    first = min((x.node for x in joined), key=lambda n: n.order)  # type: ignore[union-attr,arg-type,return-value]
    if any(x is not None and x.node is not None and not x.node.before(first) for x in (q, k, v, past_k, past_v, mask)):
        return b.decline("an operand is computed behind the place where keys are joined")
    made = b.call("attention", (q, k, v, mask, past_k, past_v), dict(node.attrs)).results
    values = {node.results[0]: made[0], joined[0]: made[1], joined[1]: made[2]}
    return b.instead(values, (node, *(x.node for x in joined)))  # type: ignore[misc]


# Heads inside the last axis.


class _Split(NamedTuple):
    """Heads taken out of the last axis of `x` [batch, length, sum of widths]: the part of that number."""

    x: Value
    part: int
    widths: tuple[int, ...]


def _heads(value: Value) -> _Split | None:
    """What a value [batch, heads, length, size] was made from."""
    node, part, parts = value.node, 0, 1
    if node is not None and node.name in ("reshape", "unsqueeze") and node.operands[0].rank == 3:
        batch, heads, length, size = value.shape  # type: ignore[misc]
        known = type(heads) is int and type(size) is int and 1 in (heads, length)  # nothing changes places
        flat = node.operands[0]
        same = known and same_dims(flat.shape, (batch, length, heads * size))
        return _Split(flat, 0, (heads * size,)) if same else None  # type: ignore[operator, arg-type]
    if node is not None and node.name == "split":
        return _split_heads(node, value.index)
    if node is not None and node.name == "gather":  # of [parts, batch, heads, length, size]
        node, part, parts = _packed(node, 0)
        cut = _before(node, (2, 0, 3, 1, 4))
    else:
        cut = _before(node, (0, 2, 1, 3))
        if cut is not None and cut.name == "gather":  # of [batch, length, parts, heads, size]
            cut, part, parts = _packed(cut, 2)
    x = _uncut(cut)
    return None if x is None else _Split(x, part, (x.shape[2] // parts,) * parts)  # type: ignore[index,operator,arg-type]


def _split_heads(node: Node, part: int) -> _Split | None:
    """Some heads of a value that holds all of them: [batch, heads, length, size]."""
    x = _uncut(_before(node.operands[0].node, (0, 2, 1, 3))) if node.attr("axis") in (1, -3) else None
    if x is None or any(type(v.shape[1]) is not int for v in node.results):  # type: ignore[index]
        return None
    return _Split(x, part, tuple(v.shape[1] * v.shape[3] for v in node.results))  # type: ignore[index,operator,misc]


def _before(node: Node | None, perm: tuple[int, ...]) -> Node | None:
    """What computes the operand of a transpose by `perm`."""
    return (
        node.operands[0].node if node is not None and node.name == "transpose" and node.attr("perm") == perm else None
    )


def _uncut(node: Node | None) -> Value | None:
    """The x [batch, length, width] of a reshape that cuts its last axis into known lengths."""
    if node is None or node.name != "reshape" or node.operands[0].rank != 3:
        return None
    x, shape = node.operands[0], node.result.shape
    inner = shape[2:]  # type: ignore[index]
    if not all(type(d) is int for d in inner) or x.shape[2] != math.prod(inner):  # type: ignore[index,misc]
        return None
    return x if same_dims(x.shape[:2], shape[:2]) else None  # type: ignore[index]


def _packed(node: Node, axis: int) -> tuple[Node | None, int, int]:
    """(what computes the operand, index, how many) of a gather of one index out of `axis` of five."""
    packed, index = node.operands
    number = index.scalar() if index.rank == 0 else None
    count = packed.shape[axis] if packed.rank == 5 else None  # type: ignore[index]
    if number is None or node.attr("axis") != axis or type(count) is not int or count < 1:
        return None, 0, 1
    return packed.node, number % count, count


def _part(b: StagingBuilder, split: _Split, made: dict[tuple, tuple[Value, ...]]) -> Value:
    """The columns that a split stands for; one split of the matrix serves all that are packed in it."""
    if len(split.widths) < 2:
        return split.x
    if split[::2] not in made:
        made[split[::2]] = b.split(split.x, split.widths, axis=2, num_outputs=len(split.widths))
    return made[split[::2]][split.part]


def _factors(node: Node, q: Value, k: Value) -> tuple[tuple[float, Value], tuple[float, Value]]:
    """Numbers that may go from the queries and keys of an attention into its scale: a cache has the keys as they are."""
    cached = any(v is not None for v in node.operands[4:6]) or any(v.n_uses for v in node.results[1:3])
    return _without_factor(q), (1.0, k) if cached else _without_factor(k)


@rule("reshape", numerics="ulp")
def attention_of_joined_heads(b: StagingBuilder, node: Node):
    """reshape(transpose(attention(heads(q), heads(k), heads(v)))) -> attention(q, k, v)"""
    inner = node.operands[0].node
    if inner is not None and inner.name == "transpose" and inner.attr("perm") == (0, 2, 1, 3) and own(node.operands[0]):
        inner = inner.operands[0].node
    elif inner is not None and inner.results[0].rank == 4 and inner.results[0].shape[2] != 1:  # type: ignore[index]
        return None
    if inner is None or inner.name != "attention" or any(v is not None for v in inner.operands[6:]):
        return None
    if inner.results[0].n_uses != 1 or inner.results[3].n_uses or any(v.rank != 4 for v in inner.operands[:2]):  # type: ignore[union-attr]
        return None
    queries, keys = (inner.operands[i].shape[1] for i in (0, 1))
    splits = [_heads(v) for v in inner.operands[:3]]
    if any(s is None for s in splits) or type(queries) is not int or type(keys) is not int:
        return b.decline("heads are not all taken out of a last axis")
    parts: dict[tuple, tuple[Value, ...]] = {}
    q, k, v = (_part(b, s, parts) for s in splits)  # type: ignore[arg-type]
    (a, q), (c, k) = _factors(inner, q, k)
    attrs = {**inner.attrs, "q_num_heads": queries, "kv_num_heads": keys}
    if attrs["scale"] is not None:
        attrs["scale"] = attrs["scale"] * a * c
    made = b.call("attention", (q, k, v, *inner.operands[3:]), attrs).results
    if not same_dims(made[0].shape, node.result.shape):
        return b.decline("the heads are not joined again")
    return b.instead(dict(zip((node.result, *inner.results[1:3]), made, strict=False)), (node, inner))  # type: ignore[arg-type]


@rule("attention", numerics="ulp", benefit=2)
def factor_into_scale(b: StagingBuilder, node: Node):
    """attention(c * q, k, v) -> attention(q, k, v) with c in its scale"""
    scale = node.attr("scale")
    if scale is None or node.results[3].n_uses:
        return None
    (a, q), (c, k) = _factors(node, *node.operands[:2])  # type: ignore[arg-type]
    if a * c == 1.0:
        return None
    made = b.call("attention", (q, k, *node.operands[2:]), {**node.attrs, "scale": scale * a * c})
    return made.results


fuse_attention_pass = pattern_pass(
    "fuse-attention",
    [
        fuse_attention,
        fuse_attention_of_replaced,
        fuse_attention_of_einsums,
        fuse_guarded_attention,
        share_repeated_heads,
        attention_with_cache,
        attention_of_joined_heads,
        factor_into_scale,
        *ROTARY,
    ],
    doc="Attention and rotary embedding that were written out become one op each.",
)
