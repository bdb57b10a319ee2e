"""Attention that exporters wrote out becomes one op again, with the heads' transposes inside it where all of them agree.

    softmax(q k' * scale + mask) v                        4-d: [batch, heads, length, size]
    reshape(transpose(attention(heads(q), ...)))          3-d: [batch, length, heads * size], heads as attributes

The op gives 0 to a query that sees no key; the written-out form gives it no number. So a mask must be computed from finite
numbers alone, and an input is none: it may hold -inf. Targets without the op write it out again, so the pass stands in no
preset: a backend whose target has the op runs it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ...ir.dims import Dim, dim_eq
from ...ir.graph import Node, Value
from ..manager import pattern_pass
from ..optimize.common import SMALL, same_dims
from ..rewrite import StagingBuilder, rule
from .rotary import ROTARY
from .terms import is_float, own, product, stands_for

#: The most nodes of a mask that are looked at, and how deep they stand.
DEEPEST = 12

_ARITHMETIC = {"add", "sub", "mul", "min", "max", "neg", "abs"}
_MOVES = {"reshape", "unsqueeze", "squeeze", "expand", "transpose", "slice", "gather", "concat", "identity", "trilu"}


def _finite(value: Value) -> bool:
    """No -inf comes out of this but by overflow: a sum of products of finite constants and integers."""
    todo = [(value, 0)]
    for _ in range(4 * DEEPEST):
        if not todo:
            return True
        item, depth = todo.pop()
        if item.dtype is None or not (item.dtype.is_numeric or item.dtype.kind == "bool"):
            return False
        if not item.dtype.is_float:
            continue
        if item.is_const:
            if item.weight.nbytes > SMALL or not np.all(np.isfinite(item.array().astype(np.float64))):  # type: ignore[union-attr]
                return False
            continue
        node = item.node
        if node is None or depth == DEEPEST:
            return False
        if node.name == "where":
            todo += [(v, depth + 1) for v in node.operands[1:]]  # type: ignore[misc]
        elif node.name in _ARITHMETIC or node.name in _MOVES or node.name in ("cast", "dequantize"):
            todo += [(v, depth + 1) for v in node.inputs()]
        else:
            return False
    return False


def _is_true(value: Value) -> bool:
    """All of it is True."""
    node = value.node
    if node is not None and node.name == "expand":
        value = node.operands[0]
    elif node is not None and node.name == "constant_of_shape":
        return node.attr("value") == 1
    return value.is_const and value.weight.nbytes <= SMALL and bool(np.all(value.array()))  # type: ignore[union-attr]


def _is_causal(mask: Value, queries: Dim, keys: Dim) -> bool:
    """0 where the key stands no later than the query, -inf elsewhere."""
    if mask.rank is None or mask.rank < 2 or any(d != 1 for d in mask.shape[:-2]):  # type: ignore[index]
        return False
    if not same_dims(mask.shape[-2:], (queries, keys)):  # type: ignore[index]
        return False
    if mask.is_const:
        if mask.weight.nbytes > SMALL:  # type: ignore[union-attr]
            return False
        rows = mask.array().astype(np.float64).reshape(-1, mask.shape[-1])  # type: ignore[index,arg-type]
        seen = np.arange(rows.shape[0])[:, None] >= np.arange(rows.shape[-1])
        return bool(np.array_equal(rows, np.where(seen, 0.0, -np.inf)))
    node = mask.node
    while node is not None and node.name in ("unsqueeze", "reshape") and node.operands[0].rank == 2:
        node = node.operands[0].node
    if node is None or node.name != "where":
        return False
    test, zero, hidden = node.operands
    lower = None if test is None else test.node
    if lower is None or lower.name != "trilu" or lower.attr("upper") or not _is_true(lower.operands[0]):
        return False
    shift = lower.operand("k")
    return (shift is None or shift.scalar() == 0) and _is_number(zero, 0.0) and _is_number(hidden, -math.inf)


def _is_number(value: Value, wanted: float) -> bool:
    return value.scalar() == wanted


# The 4-d form.


class _Scores(NamedTuple):
    """scale * (q k') + mask, k' being `turned`."""

    q: Value
    turned: Value
    scale: float
    mask: Value | None


def _without_factor(value: Value) -> tuple[float, Value]:
    """(c, x) of a value c * x that is used here alone; (1, value) else."""
    node = own(value, "mul", "div")
    found = None if node is None else product(node)
    if found is None or len(found.parts) != 1 or not found.factor or not stands_for(found.parts[0], node):  # type: ignore[arg-type]
        return 1.0, value
    return found.factor, found.parts[0]


def _scores(value: Value) -> _Scores | None:
    scale, rest = _without_factor(value)
    node = own(rest, "matmul")
    if node is not None:
        return _of_product(node, scale, None)
    total = own(value, "add")
    if total is None:
        return None
    for scores, mask in (total.operands, total.operands[::-1]):
        scale, rest = _without_factor(scores)
        node = own(rest, "matmul")
        if node is not None and stands_for(scores, total):
            return _of_product(node, scale, mask)
    return None


def _of_product(node: Node, scale: float, mask: Value | None) -> _Scores:
    (a, q), (c, turned) = (_without_factor(v) for v in node.operands)
    return _Scores(q, turned, scale * a * c, mask)


def _turned_back(b: StagingBuilder, turned: Value) -> Value:
    """The last two axes changed over, by the transpose that did it if there is one."""
    node = own(turned, "transpose")
    if node is None:
        return b.transpose(turned, perm=(0, 1, 3, 2))
    perm = node.attr("perm")
    back = (*perm[:2], perm[3], perm[2])
    return node.operands[0] if back == (0, 1, 2, 3) else b.transpose(node.operands[0], perm=back)


def _fits(q: Value, k: Value, v: Value, mask: Value | None) -> bool:
    """All of rank 4, as many heads and batches each, and a mask that has a column for every key."""
    if any(x.rank != 4 or not is_float(x) or x.dtype is not q.dtype for x in (q, k, v)):
        return False
    if not same_dims(q.shape[:2], k.shape[:2]) or not same_dims(k.shape[:3], v.shape[:3]):  # type: ignore[index]
        return False
    if type(q.shape[1]) is not int or mask is None:  # type: ignore[index]
        return mask is None
    if mask.dtype is not q.dtype or mask.rank is None or not 2 <= mask.rank <= 4:
        return False
    target = (*q.shape[:3], k.shape[2])  # type: ignore[index]
    have = (*(1,) * (4 - mask.rank), *mask.shape)  # type: ignore[misc]
    return dim_eq(have[3], target[3]) is True and all(
        d == 1 or dim_eq(d, want) is True for d, want in zip(have[:3], target[:3], strict=True)
    )


@rule("matmul", numerics="ulp")
def fuse_attention(b: StagingBuilder, node: Node):
    """softmax(q k' * scale + mask) v -> attention(q, k, v, mask)"""
    weights, v = node.operands
    softmax = own(weights, "softmax")
    if softmax is None or softmax.result.rank != 4 or softmax.attr("axis") % 4 != 3:
        return None
    found = _scores(softmax.operands[0])
    if found is None or found.q.rank != 4 or found.turned.rank != 4 or not math.isfinite(found.scale):
        return b.decline("the scores are no product of queries and keys")
    k = _turned_back(b, found.turned)
    if not _fits(found.q, k, v, found.mask):
        return b.decline("heads, batches or the mask are not surely of one size")
    if found.mask is not None and _is_causal(found.mask, found.q.shape[2], k.shape[2]):  # type: ignore[index]
        return b.attention(found.q, k, v, is_causal=True, scale=found.scale)[0]
    if found.mask is not None and not _finite(found.mask):
        return b.decline("the mask may hide all keys of a query by -inf")
    return b.attention(found.q, k, v, found.mask, scale=found.scale)[0]


def _is_plain(node: Node) -> bool:
    """4-d, without a cache, and only its first result is used."""
    return (
        all(v is None for v in node.operands[4:])
        and all(v.rank == 4 for v in node.operands[:3])
        and not any(v.n_uses for v in node.results[1:])
    )


def _repeated(value: Value) -> tuple[Value, int] | None:
    """(x, n) of a value that holds every head of x [batch, heads, length, size] n times in a row."""
    joined = own(value, "reshape")
    spread = None if joined is None else own(joined.operands[0], "expand")
    raised = None if spread is None else own(spread.operands[0], "unsqueeze", "reshape")
    if raised is None or value.rank != 4 or spread.result.rank != 5 or raised.operands[0].rank != 4:  # type: ignore[union-attr]
        return None
    x = raised.operands[0]
    batch, heads, length, size = x.shape  # type: ignore[misc]
    count = spread.result.shape[2]  # type: ignore[union-attr,index]
    if type(count) is not int or type(heads) is not int or count < 2:
        return None
    shapes = (
        (raised.result, (batch, heads, 1, length, size)),
        (spread.result, (batch, heads, count, length, size)),  # type: ignore[union-attr]
        (value, (batch, heads * count, length, size)),
    )
    return (x, count) if all(same_dims(v.shape, shape) for v, shape in shapes) else None


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
    """Heads taken out of the last axis of `x` [batch, length, parts * heads * size]: `part` of `parts`."""

    x: Value
    part: int
    parts: int


def _heads(value: Value) -> _Split | None:
    """What a value [batch, heads, length, size] was made from."""
    node, part, parts = value.node, 0, 1
    if node is not None and node.name == "gather":  # of [parts, batch, heads, length, size]
        node, part, parts = _packed(node, 0)
        perm: tuple[int, ...] = (2, 0, 3, 1, 4)
    else:
        perm = (0, 2, 1, 3)
    if node is None or node.name != "transpose" or node.attr("perm") != perm:
        return None
    cut = node.operands[0].node
    if parts == 1 and cut is not None and cut.name == "gather":  # of [batch, length, parts, heads, size]
        cut, part, parts = _packed(cut, 2)
    if cut is None or cut.name != "reshape" or cut.operands[0].rank != 3:
        return None
    x, shape = cut.operands[0], cut.result.shape
    inner = shape[2:]  # type: ignore[index]
    if not all(type(d) is int for d in inner) or x.shape[2] != math.prod(inner):  # type: ignore[index,misc]
        return None
    return _Split(x, part, parts) if same_dims(x.shape[:2], shape[:2]) else None  # type: ignore[index]


def _packed(node: Node, axis: int) -> tuple[Node | None, int, int]:
    """(what computes the operand, index, how many) of a gather of one index out of `axis` of five."""
    packed, index = node.operands
    number = index.scalar() if index.rank == 0 else None
    count = packed.shape[axis] if packed.rank == 5 else None  # type: ignore[index]
    if number is None or node.attr("axis") != axis or type(count) is not int or count < 1:
        return None, 0, 1
    return packed.node, number % count, count


def _part(b: StagingBuilder, split: _Split, made: dict[Value, tuple[Value, ...]]) -> Value:
    """The columns that a split stands for; one split of the matrix serves all that are packed in it."""
    if split.parts == 1:
        return split.x
    if split.x not in made:
        width = split.x.shape[2] // split.parts  # type: ignore[index]
        sizes = (width,) * split.parts
        made[split.x] = b.split(split.x, sizes, axis=2, num_outputs=split.parts)
    return made[split.x][split.part]


@rule("reshape", numerics="ulp")
def attention_of_joined_heads(b: StagingBuilder, node: Node):
    """reshape(transpose(attention(heads(q), heads(k), heads(v)))) -> attention(q, k, v)"""
    turned = own(node.operands[0], "transpose")
    inner = None if turned is None or turned.attr("perm") != (0, 2, 1, 3) else turned.operands[0].node
    if inner is None or inner.name != "attention" or any(v is not None for v in inner.operands[4:]):
        return None
    if inner.results[0].n_uses != 1 or any(v.n_uses for v in inner.results[1:]) or inner.operands[0].rank != 4:
        return None
    queries, keys = (inner.operands[i].shape[1] for i in (0, 1))
    splits = [_heads(v) for v in inner.operands[:3]]
    if any(s is None for s in splits) or type(queries) is not int or type(keys) is not int:
        return b.decline("heads are not all taken out of a last axis")
    made: dict[Value, tuple[Value, ...]] = {}
    q, k, v = (_part(b, s, made) for s in splits)  # type: ignore[arg-type]
    (a, q), (c, k) = _without_factor(q), _without_factor(k)
    attrs = {**inner.attrs, "q_num_heads": queries, "kv_num_heads": keys}
    if attrs["scale"] is not None:
        attrs["scale"] = attrs["scale"] * a * c
    y = b.call("attention", (q, k, v, *inner.operands[3:4]), attrs).results[0]
    if not same_dims(y.shape, node.result.shape):
        return b.decline("the heads are not joined again")
    return y


@rule("attention", numerics="ulp", benefit=2)
def factor_into_scale(b: StagingBuilder, node: Node):
    """attention(c * q, k, v) -> attention(q, k, v) with c in its scale"""
    scale = node.attr("scale")
    if scale is None or any(v.n_uses for v in node.results[1:]):
        return None
    (a, q), (c, k) = (_without_factor(v) for v in node.operands[:2])
    if a * c == 1.0:
        return None
    made = b.call("attention", (q, k, *node.operands[2:]), {**node.attrs, "scale": scale * a * c})
    return made.results


fuse_attention_pass = pattern_pass(
    "fuse-attention",
    [
        fuse_attention,
        share_repeated_heads,
        attention_with_cache,
        attention_of_joined_heads,
        factor_into_scale,
        *ROTARY,
    ],
    doc="Attention and rotary embedding that were written out become one op each.",
)
