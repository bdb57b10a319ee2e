"""Torch expressions of indexing."""

from __future__ import annotations

from typing import Any

from ...ir.value import Node
from .calls import Call, Refusal, axis_of, rank_of, row


@row("gather")
def gather(node: Node) -> Call:
    """`x[:, i]`: negative indices count from the end, as in the IR."""
    x, indices = node.operands
    assert x is not None and indices is not None
    axis = axis_of(node.attr("axis"), rank_of(x))
    elems = indices.elems if indices.rank == 0 else None
    index: Any = elems[0] if elems and elems[0] is not None else indices
    return Call("[]", x, (*[slice(None)] * axis, index))


@row("gather_elements")
def gather_elements(node: Node) -> Call:
    x, indices = node.operands
    return Call("helpers.gather_elements", x, indices, axis=node.attr("axis"))


@row("gather_nd")
def gather_nd(node: Node) -> Call:
    if node.attr("batch_dims"):
        raise Refusal("batch_dims")
    x, indices = node.operands
    return Call("helpers.gather_nd", x, indices)


@row("scatter_elements")
def scatter_elements(node: Node) -> Call:
    x, indices, updates = node.operands
    return Call(
        "helpers.scatter_elements", x, indices, updates, axis=node.attr("axis"), reduction=node.attr("reduction")
    )


@row("scatter_nd")
def scatter_nd(node: Node) -> Call:
    x, indices, updates = node.operands
    return Call("helpers.scatter_nd", x, indices, updates, reduction=node.attr("reduction"))


@row("non_zero")
def non_zero(node: Node) -> Call:
    return Call("helpers.non_zero", *node.operands)
