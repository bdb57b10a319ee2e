"""What attention and rotary_embedding say of heads and features."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Node
from .atoms import HEAD, SINGLE, Axes, Axis, Fixed, Lane
from .rules import zero_of
from .rules_product import summed
from .rules_reshape import parts_of, product_of
from .walk import Walk, rewriting, rule, sized

if TYPE_CHECKING:
    from .remove import Cut


@rule("attention")
def attention(walk: Walk, node: Node) -> list[Axes]:
    """A key head goes with all its query heads; one key head that all share lets query heads go as they like. Features of
    queries and keys are summed over, those of values pass."""
    if any(v is None or v.rank is None for v in node.operands[:3]) or _sizes(node) is None:
        return walk.held(node, "has heads that are not known")
    held = walk.fixed(node, "looks at positions")
    (q_heads, q_features), (k_heads, k_features), (v_heads, v_features) = (_packed(walk, node, i) for i in range(3))
    kv_heads = walk.space.join([axis for axis in (k_heads, v_heads) if axis is not SINGLE] or [SINGLE])
    heads = _shared(walk, node, q_heads, kv_heads)
    summed(walk, node, q_features, k_features)
    _hold_others(walk, node, held, heads, (kv_heads, k_features, v_features))
    walk.space.mark(heads, HEAD)
    walk.named[node] = {"q": heads, "k": kv_heads, "features": q_features}
    y_heads = Lane(heads.ids, zero_of(v_heads)) if isinstance(heads, Lane) else heads
    y_features = v_features.computed(zero=v_features.zero) if isinstance(v_features, Lane) else v_features
    if node.operands[0].rank == 3:  # type: ignore[union-attr]
        count, size = (n for n in (_sizes(node)[0], _sizes(node)[4]))  # type: ignore[index]
        y: Axes = (held, held, product_of(walk, node, ("to", node, 2), [count, size], [y_heads, y_features]))
    else:
        y = (held, y_heads, held, y_features)
    scores = heads.computed(zero=False) if isinstance(heads, Lane) else heads
    return [y, (held, k_heads, held, k_features), (held, v_heads, held, v_features), (held, scores, held, held)]


def _sizes(node: Node) -> tuple[int, int, int, int, int] | None:
    """Query heads, key heads, and the features of queries, keys and values."""
    made = []
    for index, value in enumerate(node.operands[:3]):
        count = node.attr("q_num_heads" if index == 0 else "kv_num_heads")
        last = sized(value, value.rank - 1)  # type: ignore[arg-type, union-attr, operator]
        heads = sized(value, 1) if value.rank == 4 else count  # type: ignore[arg-type, union-attr]
        if last is None or not heads:
            return None
        made.append((heads, last if value.rank == 4 else last // heads))  # type: ignore[union-attr]
    (q, qe), (k, ke), (_, ve) = made
    return q, k, qe, ke, ve


def _packed(walk: Walk, node: Node, index: int) -> tuple[Axis, Axis]:
    """Heads and features of an operand; its batch and length are held."""
    row = walk.axes(node, index)
    walk.pin((row[0], row[-2 if len(row) == 4 else 1]), f"{node.name} looks at positions")
    if len(row) == 4:
        return row[1], row[3]
    sizes = _sizes(node)
    heads, features = (sizes[0], sizes[2]) if index == 0 else (sizes[1], sizes[2 + index])  # type: ignore[index]
    return unpacked(walk, node, index, row[2], heads, features)


def unpacked(walk: Walk, node: Node, index: int, axis: Axis, heads: int, features: int) -> tuple[Axis, Axis]:
    """Heads and features of an axis that holds both."""
    if not isinstance(axis, Lane):
        return (SINGLE if heads == 1 else axis), (SINGLE if features == 1 else axis)
    if heads == 1:
        return SINGLE, axis
    if features == 1:
        return axis, SINGLE
    first, second = parts_of(walk, node, ("from", node, index), axis, [heads, features])
    return first, second


def _shared(walk: Walk, node: Node, query: Axis, key: Axis) -> Axis:
    """Query heads, in step with the key head that serves them."""
    if key is SINGLE or query is SINGLE:
        return query
    if isinstance(query, Lane) and isinstance(key, Lane):
        walk.space.union(query.ids, np.repeat(key.ids, len(query.ids) // len(key.ids)))
        return query
    return walk.space.join([query, key])


def _hold_others(walk: Walk, node: Node, held: Fixed, heads: Axis, kv: tuple[Axis, Axis, Axis]) -> None:
    """Mask, caches and lengths."""
    for index in range(3, len(node.operands)):
        row = walk.axes(node, index, zeroed=False)
        for place, axis in enumerate(row, 4 - len(row)):
            if axis is SINGLE:
                continue
            if index == 3 and place == 1:
                walk.space.join([axis, heads])
            elif index in (4, 5) and place in (1, 3):
                walk.space.join([axis, kv[0] if place == 1 else kv[index - 3]])
            else:
                walk.space.pin(axis, held.reason)


@rewriting("attention")
def attention_numbers(cut: Cut, node: Node) -> None:
    """The numbers of heads; a scale that was left to the number of features stays what it was."""
    sizes = _sizes_before(cut, node)
    for name, heads, axis in (("q_num_heads", sizes[0], "q"), ("kv_num_heads", sizes[1], "k")):
        if node.attr(name):
            node.set_attr(name, cut.named_size(node, axis, heads))
    if node.attr("scale") is None and cut.named_size(node, "features", sizes[2]) != sizes[2]:
        node.set_attr("scale", 1.0 / math.sqrt(sizes[2]))


def _sizes_before(cut: Cut, node: Node) -> tuple[int, int, int]:
    q, k = (cut.old_shape(v) for v in node.operands[:2])  # type: ignore[arg-type]
    q_heads = q[1] if len(q) == 4 else node.attr("q_num_heads")
    k_heads = k[1] if len(k) == 4 else node.attr("kv_num_heads")
    return q_heads, k_heads, q[3] if len(q) == 4 else q[2] // q_heads


@rule("rotary_embedding")
def rotary(walk: Walk, node: Node) -> list[Axes]:
    """Heads pass; the two features of a pair go together, with their entry of both caches."""
    row, count = walk.axes(node, 0), node.attr("num_heads")
    last = sized(node.operands[0], len(row) - 1) if row else None  # type: ignore[arg-type]
    if last is None or (len(row) == 3 and not count):
        return walk.held(node, "has heads that are not known")
    heads, features = (row[1], row[3]) if len(row) == 4 else unpacked(walk, node, 0, row[2], count, last // count)
    size = last if len(row) == 4 else last // count
    turned = node.attr("rotary_embedding_dim") or size
    caches = [walk.axes(node, i) for i in (1, 2)]
    for axes in caches:
        walk.pin(axes[:-1], f"{node.name} looks at positions")
    _pair_up(walk, node, features, [axes[-1] for axes in caches], turned)
    walk.named[node] = {"heads": heads, "turned": _head_of(features, turned)}
    others = tuple(a.computed(zero=a.zero) if isinstance(a, Lane) else a for a in row)
    if len(row) == 4:
        return [others]
    return [(*others[:2], product_of(walk, node, ("to", node, 2), [count, size], [heads, features]))]


def _head_of(features: Axis, turned: int) -> Axis:
    return Lane(features.ids[:turned]) if isinstance(features, Lane) else features


def _pair_up(walk: Walk, node: Node, features: Axis, caches: list[Axis], turned: int) -> None:
    if not isinstance(features, Lane):
        walk.space.join([features, *[axis for axis in caches if axis is not SINGLE]])
        return
    ids = features.ids[:turned]
    table = ids.reshape(-1, 2).T if node.attr("interleaved") else ids.reshape(2, -1)
    pairs = Lane(walk.space.union_all(table))
    walk.space.join([pairs, *[axis for axis in caches if axis is not SINGLE]])


@rewriting("rotary_embedding")
def rotary_numbers(cut: Cut, node: Node) -> None:
    x = cut.old_shape(node.operands[0])  # type: ignore[arg-type]
    heads, turned = node.attr("num_heads"), node.attr("rotary_embedding_dim")
    size = x[-1] if len(x) == 4 else x[-1] // heads
    if heads:
        node.set_attr("num_heads", cut.named_size(node, "heads", heads))
    if turned and turned != size:
        node.set_attr("rotary_embedding_dim", cut.named_size(node, "turned", turned))
    elif turned:
        node.set_attr("rotary_embedding_dim", 0)
