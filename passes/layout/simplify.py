"""Transposes and reshapes that meet: identity ones go, two become one, one that moves only size-1 axes is a reshape.

    %a = transpose(%x) {perm = [0, 2, 3, 1]}                  %b = %x
    %b = transpose(%a) {perm = [0, 3, 1, 2]}        ->

Numerics: exact.
"""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.graph import Graph
from ...ir.value import Node
from .rules import target
from .spaces import identity, moved


def simplify_transposes(graph: Graph) -> None:
    """Bring every chain of transposes, and of reshapes, in `graph` to its shortest form."""
    for node in list(graph.nodes("transpose", "reshape")):
        if node.graph is graph:
            (_transpose if node.name == "transpose" else _reshape)(node)


def _drop(node: Node | None) -> None:
    if node is not None and node.graph is not None and not any(v.n_uses for v in node.results):
        node.erase()


def _transpose(node: Node) -> None:
    source, perm = node.operands[0], node.attr("perm")
    rank, below = source.rank, source.node
    if rank is None:
        return
    chained = below is not None and below.name == "transpose"
    if chained:
        perm, source = tuple(below.attr("perm")[a] for a in perm), below.operands[0]
    b = Builder(node.graph, before=node, loc=node.loc)
    if perm == identity(rank):
        node.replace(source)
    elif _moves_units_only(perm, source.shape):
        node.replace(b.reshape(source, target(moved(source.shape, perm))))
    elif source is not node.operands[0]:
        node.replace(b.transpose(source, perm=perm))
    _drop(below if chained else None)


def _moves_units_only(perm: tuple[int, ...], shape: tuple) -> bool:
    kept = [a for a in perm if shape[a] != 1]
    return kept == sorted(kept) and sum(type(d) is not int for d in shape) <= 1 and 0 not in shape


def _reshape(node: Node) -> None:
    """Static targets need no chain; a reshape to the shape that is already there needs no node."""
    shape, below = node.result.shape, node.operands[0].node
    if shape is None or sum(type(d) is not int for d in shape) > 1 or 0 in shape:
        return
    source = node.operands[0]
    chained = below is not None and below.name == "reshape"
    if chained:
        source = below.operands[0]
    if source.shape == shape:
        node.replace(source)
    elif source is not node.operands[0]:
        node.replace(Builder(node.graph, before=node, loc=node.loc).reshape(source, target(shape)))
    _drop(below if chained else None)
