"""Matrix products."""

from __future__ import annotations

from ...ir.graph import Node, Value
from ...ir.types import I64
from .emitter import Emitter, Ref, Temp
from .registry import emits


@emits("matmul")
def matmul(e: Emitter, n: Node) -> None:
    """With the transpose of a table that others read as it is, such as a tied embedding: a Gemm of the rows, which does so too.
    A transpose that is stored would make the file longer, and one that is not moves the whole table in each run."""
    x, table = n.operands[0], _shared_table(n.operands[1])
    columns, width = (0, 0) if table is None else table.weight.tensor.shape  # type: ignore[union-attr]
    shape = _with_last(e, x, columns) if columns and width else None
    if shape is None:
        e.node("MatMul", n.operands)
        return
    rows = e.temp("Reshape", [x, e.ints((-1, width))], x.dtype)  # type: ignore[union-attr]
    product = e.temp("Gemm", [rows, table], x.dtype, transB=1)  # type: ignore[union-attr]
    e.node("Reshape", [product, shape], allowzero=1 if isinstance(shape, Temp) else None)


def _shared_table(value: Value | None) -> Value | None:
    """The float matrix whose transpose `value` is, where that is not all that is read of it."""
    node = value.node if value is not None else None
    if node is None or node.name != "transpose" or node.attr("perm") != (1, 0):
        return None
    table: Value = node.operands[0]  # type: ignore[assignment]
    return table if table.weight is not None and table.n_uses > 1 and table.dtype.is_float else None  # type: ignore[union-attr]


def _with_last(e: Emitter, x: Value | None, last: int) -> Ref:
    """The shape of `x` with another last dim; None where ONNX cannot say it in few nodes."""
    if x is None or x.shape is None or len(x.shape) < 3:
        return None
    dims = [d if type(d) is int else -1 for d in x.shape[:-1]]
    if dims.count(-1) <= 1 and 0 not in dims:
        return e.ints((*dims, last))  # type: ignore[arg-type]
    if e.opset < 15:
        return None
    return e.temp("Concat", [e.temp("Shape", [x], I64, end=-1), e.ints((last,))], I64, axis=0)


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
