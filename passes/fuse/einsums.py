"""The products of an attention as einsums: which axes are batch, rows, columns and summed, in whatever order they stand. Makes
of them what attention takes, [*batch, length, size] each. No rule is defined here."""

from __future__ import annotations

from typing import NamedTuple

from ...ir.graph import Node, Value
from ..decompose.matmul import labels_of
from ..rewrite import StagingBuilder

Perm = tuple[int, ...]
#: [batch, length, heads, size] as [batch, heads, length, size], and back.
HEADS = (0, 2, 1, 3)


class Turns(NamedTuple):
    """How the axes of an einsum's operands are brought to [*batch, m, k] and [*batch, n, k] or, where `sums_rows`,
    [*batch, k, n], and those of [*batch, m, n] to its own."""

    left: Perm
    right: Perm
    result: Perm


def turns(node: Node, first: int, *, sums_rows: bool = False) -> Turns | None:
    """Of a product of two values of one rank with operand `first` on the left; the batch axes stand in the order of the left
    operand (`sums_rows`), or of the result. None for other einsums."""
    ranks = [v.rank for v in node.operands]  # type: ignore[union-attr]
    parsed = None if len(ranks) != 2 or None in ranks else labels_of(node.attr("equation"), ranks)  # type: ignore[arg-type]
    if parsed is None:
        return None
    (left, right), result = parsed[0][:: 1 - 2 * first], parsed[1]
    if any(len(set(term)) < len(term) or len(term) != len(left) for term in (left, right, result)):
        return None
    order = left if sums_rows else result
    batch = [c for c in order if c in left and c in right and c in result]
    m, n, k = (
        [c for c in order_of if (c in left) == a and (c in right) == b and (c in result) == r]
        for order_of, a, b, r in ((left, True, False, True), (right, False, True, True), (left, True, True, False))
    )
    if not len(m) == len(n) == len(k) == 1 or len(batch) + 2 != len(left):
        return None
    made = (*batch, *m, *n)
    return Turns(
        tuple(left.index(c) for c in (*batch, *m, *k)),
        tuple(right.index(c) for c in ((*batch, *k, *n) if sums_rows else (*batch, *n, *k))),
        tuple(made.index(c) for c in result),
    )


def plain(perm: Perm) -> bool:
    return perm == tuple(range(len(perm)))


def in_order(b: StagingBuilder, value: Value, perm: Perm) -> Value:
    return value if plain(perm) else b.transpose(value, perm=perm)


def queries_and_keys(b: StagingBuilder, node: Node, operands: tuple[Value, Value]) -> tuple[Value, Value] | None:
    """(q, k) of the einsum of scores [*batch, queries, keys], whose operands may have lost a factor."""
    for first in (0, 1):
        found = turns(node, first)
        if found is not None and plain(found.result):
            return in_order(b, operands[first], found.left), in_order(b, operands[1 - first], found.right)
    return None


def moves_left(b: StagingBuilder, node: Node) -> int:
    """How many of the transposes made so far do not vanish, with the heads inside the last axis, in the attention that takes
    the place of `node`."""
    return sum(not _inside(made, node) for made in b.staged if made.name == "transpose")


def _inside(made: Node, node: Node) -> bool:
    if made.attr("perm") != HEADS:
        return False
    user, above = node.result.single_user(), made.operands[0].node  # type: ignore[union-attr]
    if made.operands[0].node is not None and made.operands[0].node.name == "attention":  # type: ignore[union-attr]
        return user is not None and user.name == "reshape" and user.result.rank == 3
    return above is not None and above.name == "reshape" and above.operands[0].rank == 3  # type: ignore[union-attr]
