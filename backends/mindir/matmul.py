"""Matrix products: MatMul for matrices, BatchMatMul for equal batch dims, MatMulExt where they broadcast."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.dims import dim_eq
from ...ir.types import I8, I16, I32, I64, U8
from ...ir.value import Node
from ...passes.decompose.rules import Declined, Outcome, scalar
from .registry import FLOAT_3, NUMBERS, Call, emits, lowers

_MATRIX = FLOAT_3 | {I8, I16, I32, I64, U8}


def _matrices(node: Node) -> str | None:
    a, b = node.operands
    if a.rank == 2 and b.rank == 2:
        return None if a.dtype in _MATRIX else f"MatMul has no CPU kernel for {a.dtype}"
    return None


@emits("matmul", NUMBERS, check=_matrices)
def matmul(node: Node) -> Call:
    a, b = node.operands
    if a.rank == 2 and b.rank == 2:
        return Call("MatMul", (a, b, False, False))
    same = a.rank == b.rank and all(dim_eq(m, n) is True for m, n in zip(a.shape[:-2], b.shape[:-2], strict=False))
    if same and a.rank > 2:
        return Call("BatchMatMul", (a, b, False, False))
    return Call("MatMulExt", (a, b))


@emits("ms.matmul", _MATRIX)
def transposed_matmul(node: Node) -> Call:
    return Call("MatMul", (*node.operands, node.attr("transpose_a"), node.attr("transpose_b")))


@lowers("gemm")
def gemm(b: Builder, node: Node) -> Outcome:
    """One MatMul with its transpositions, and BiasAdd for a row."""
    x, y, c = (*node.operands, None)[:3]
    alpha, beta = node.attr("alpha"), node.attr("beta")
    if x.dtype not in _MATRIX or (not x.dtype.is_float and (alpha != 1 or beta != 1)):
        return Declined("")
    attrs = {"transpose_a": node.attr("transA"), "transpose_b": node.attr("transB")}
    product = b.call("ms.matmul", (x, y), attrs).results[0]
    if alpha != 1:
        product = b.mul(product, scalar(b, alpha, product))
    if c is None or beta == 0:
        return product
    c = c if beta == 1 else b.mul(c, scalar(b, beta, c))
    if c.rank == 1 and dim_eq(c.shape[0], product.shape[1]) is True:
        return b.call("ms.bias_add", (product, c)).results[0]
    return b.add(product, c)
