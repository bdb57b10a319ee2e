"""Flatten before a product with constant weights: the weight rows change places once, at compile time, not the data.

    %t = transpose(%x) {perm = [0, 3, 1, 2]}                        %f = reshape(%x, [-1, 48])
    %f = reshape(%t, [-1, 48])                            ->        %y = gemm(%f, %w_rows_permuted)
    %y = gemm(%f, %w)

Elementwise ops between the two are allowed; their constants are permuted too. Numerics: exact.
"""

from __future__ import annotations

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Graph
from ...ir.opdef import ELEMENTWISE
from ...ir.value import Node, Use, Value

_FLATTENING = ("reshape", "flatten")


def feeds_products(node: Node) -> bool:
    """`node` flattens [N, *dims] to [N, prod(dims)] for nothing but products with constant weights."""
    return _plan(node) is not None


def absorb_flatten(graph: Graph) -> None:
    """Erase transposes that stand in front of such a flatten only."""
    for node in list(graph.nodes("transpose")):
        users = node.result.users
        keeps_batch = node.attr("perm")[:1] == (0,)
        if keeps_batch and users and all(user.operands[0] is node.result and feeds_products(user) for user in users):
            for user in users:
                _absorb(user, node)
            node.erase()


def _plan(node: Node) -> list[Use] | None:
    """The uses, through elementwise ops, of the flattened features by products or by per-feature constants."""
    if node.name not in _FLATTENING or not _flattens(node):
        return None
    found: list[Use] = []
    pending = list(node.result.uses)
    while pending:
        use = pending.pop()
        if _is_product(use):
            found.append(use)
        elif use.node.has(ELEMENTWISE) and _others_constant(use) and len(use.node.results) == 1:
            found.append(use)
            pending += use.node.result.uses
        else:
            return None
    return found or None


def _flattens(node: Node) -> bool:
    source, made = node.operands[0].shape, node.result.shape
    if source is None or made is None or len(source) < 3 or len(made) != 2 or source[0] != made[0]:
        return False
    return all(type(d) is int for d in source[1:]) and type(made[1]) is int


def _is_product(use: Use) -> bool:
    node = use.node
    if node.name not in ("matmul", "gemm") or use.index != 0 or (node.name == "gemm" and node.attr("transA")):
        return False
    weight = node.operands[1]
    return weight is not None and weight.is_const and weight.rank == 2


def _others_constant(use: Use) -> bool:
    """All operands but the data are constants that broadcast along the batch."""
    others = [v for i, v in enumerate(use.node.operands) if i != use.index and v is not None]
    return all(v.is_const and (v.rank == 1 or v.rank == 0 or (v.rank == 2 and v.shape[0] == 1)) for v in others)


def _absorb(flatten: Node, transpose: Node) -> None:
    """Let `flatten` read what `transpose` read, and put everything behind it in the new feature order."""
    source = transpose.operands[0]
    logical = tuple(d for d in transpose.result.shape[1:] if isinstance(d, int))  # `_flattens` saw to it that all are
    perm = transpose.attr("perm")
    physical = [perm.index(axis) for axis in range(len(perm))]  # source axis a is logical axis physical[a]
    places = np.arange(int(np.prod(logical))).reshape(logical).transpose([a - 1 for a in physical[1:]]).reshape(-1)
    for use in sorted(_plan(flatten) or [], key=lambda use: use.node.order):
        _permute_constants(use, places)
    b = Builder(flatten.graph, before=flatten, loc=flatten.loc)
    flat = b.reshape(source, (-1, len(places)) if type(source.shape[0]) is not int else (source.shape[0], len(places)))
    flat.hint = flatten.result.hint
    flatten.replace(flat)


def _permute_constants(use: Use, places: np.ndarray) -> None:
    node = use.node
    b = Builder(node.graph, before=node, loc=node.loc)
    if _is_product(use):
        axis = 1 if node.name == "gemm" and node.attr("transB") else 0
        node.set_operand(1, _taken(b, node.operands[1], places, axis))
        return
    for index, value in enumerate(node.operands):
        if index != use.index and value is not None and value.rank and value.shape[-1] == len(places):
            node.set_operand(index, _taken(b, value, places, value.rank - 1))


def _taken(b: Builder, value: Value, places: np.ndarray, axis: int) -> Value:
    weight = value.weight
    array = np.ascontiguousarray(np.take(value.array(), places, axis=axis))
    if weight.role == "const":
        return b.const(array)
    return b.const(array, key=weight.key, role=weight.role, origin=f"rows permuted along axis {axis}")
