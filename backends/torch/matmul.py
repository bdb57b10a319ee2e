"""Torch expressions of matrix products."""

from __future__ import annotations

from ...ir.types import BOOL
from ...ir.value import Node
from .calls import Call, Refusal, row


@row("matmul")
def matmul(node: Node) -> Call:
    a, b = node.operands
    return Call("torch.matmul", a, b)


@row("gemm")
def gemm(node: Node) -> Call:
    """F.linear for x @ w.T + b, torch.addmm for the plain form; transposes of other kinds are taken apart."""
    a, b, c = (*node.operands, None)[:3]
    assert a is not None and b is not None
    if node.attr("transA") or a.dtype is None or not a.dtype.is_float:
        raise Refusal("transA, or a gemm of integers")
    if node.attr("transB"):
        width = b.shape[0] if b.shape is not None else None
        if node.attr("alpha") != 1 or (c is not None and (node.attr("beta") != 1 or c.shape != (width,))):
            raise Refusal("factors, or a bias that is no vector")
        return Call("F.linear", a, b, c)
    if c is None or c.rank is None:
        raise Refusal("no bias")
    return Call("torch.addmm", c, a, b, beta=node.attr("beta"), alpha=node.attr("alpha"))


@row("einsum")
def einsum(node: Node) -> Call:
    if node.result.dtype is BOOL:
        raise Refusal("an einsum of bools")
    return Call("torch.einsum", node.attr("equation"), *node.operands)
