"""Matrix products."""

from __future__ import annotations

from ...ir.graph import Node
from .emitter import Emitter
from .registry import emits


@emits("matmul")
def matmul(e: Emitter, n: Node) -> None:
    e.node("MatMul", n.operands)


@emits("gemm")
def gemm(e: Emitter, n: Node) -> None:
    e.node(
        "Gemm",
        n.operands,
        alpha=None if n.attr("alpha") == 1 else n.attr("alpha"),
        beta=None if n.attr("beta") == 1 else n.attr("beta"),
        transA=int(n.attr("transA")) or None,
        transB=int(n.attr("transB")) or None,
    )


@emits("einsum")
def einsum(e: Emitter, n: Node) -> None:
    equation = n.attr("equation")
    terms = equation.split("->")[0].replace(" ", "").split(",")
    spans = {
        v.rank - len(t.replace("...", "")) for v, t in zip(n.operands, terms, strict=True) if "..." in t and v.rank
    }  # type: ignore[union-attr]
    if len(spans) > 1:
        raise e.refuse("ONNX wants every ellipsis of an einsum to stand for as many axes")
    e.node("Einsum", n.operands, equation=equation)


@emits("matmul_integer")
def matmul_integer(e: Emitter, n: Node) -> None:
    e.node("MatMulInteger", n.operands)


@emits("det", since=11)
def det(e: Emitter, n: Node) -> None:
    e.node("Det", n.operands)
