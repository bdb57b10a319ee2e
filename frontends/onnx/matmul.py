"""Matrix products."""

from __future__ import annotations

from typing import Any

from .importer import Call, Importer
from .registry import handles


@handles("MatMul")
def matmul(c: Importer, n: Call) -> Any:
    return c.b.matmul(*n.inputs)


@handles("Gemm")
def gemm(c: Importer, n: Call) -> Any:
    attrs = {"alpha": n.attr("alpha", 1.0), "beta": n.attr("beta", 1.0)}
    attrs |= {"transA": bool(n.attr("transA", 0)), "transB": bool(n.attr("transB", 0))}
    return c.b.gemm(*n.take(3), **attrs)


@handles("Einsum")
def einsum(c: Importer, n: Call) -> Any:
    return c.b.einsum(*n.inputs, equation=n.attr("equation"))


@handles("MatMulInteger")
def matmul_integer(c: Importer, n: Call) -> Any:
    return c.b.matmul_integer(*n.take(4))


@handles("Det", since=11)
def det(c: Importer, n: Call) -> Any:
    return c.b.det(n.x)
