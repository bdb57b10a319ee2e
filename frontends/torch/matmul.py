"""aten matrix products. Must not import torch."""

from __future__ import annotations

import re

from ...ir.errors import InvalidModel
from ...ir.value import Value
from .context import Context
from .registry import Ints, Number, Str, Tensor, Tensors, handles


def swapped(c: Context, x: Value) -> Value:
    """The last two axes swapped."""
    rank = c.rank(x)
    if rank < 2:
        raise InvalidModel(f"a matrix is expected, not {x.type}")
    return c.b.transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))


@handles("aten.linear")
def linear(c: Context, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Value:
    """x @ weight.T + bias; the weight stays as it is stored, [out, in]."""
    if c.rank(weight) == 1:
        y = c.b.matmul(input, weight)
    elif c.rank(input) == 2:
        return c.b.gemm(input, weight, bias, transB=True)
    else:
        y = c.b.matmul(input, swapped(c, weight))
    return y if bias is None else c.b.add(y, bias)


@handles("aten.mm", "aten.bmm", "aten.matmul", "aten.mv", "aten.dot", "aten.vdot", "aten.inner")
def matmul(
    c: Context,
    self: Tensor,
    mat2: Tensor | None = None,
    other: Tensor | None = None,
    vec: Tensor | None = None,
    tensor: Tensor | None = None,
) -> Value:
    """numpy's matmul; `inner` contracts the last axis of both."""
    right = next((item for item in (mat2, other, vec, tensor) if item is not None), None)
    if right is None:
        raise InvalidModel("a product with one factor")
    if "inner" in c.node.target and c.rank(right) > 1:
        return _tensor_product(c, self, right, 1, [c.rank(self) - 1], [c.rank(right) - 1])
    return c.b.matmul(self, right)


@handles("aten.addmm")
def addmm(c: Context, self: Tensor, mat1: Tensor, mat2: Tensor, beta: Number = 1, alpha: Number = 1) -> Value:
    """beta * self + alpha * mat1 @ mat2."""
    if mat1.dtype is not None and mat1.dtype.is_float:
        return c.b.gemm(mat1, mat2, self, alpha=float(alpha), beta=float(beta))
    return _weighted(c, self, c.b.matmul(mat1, mat2), beta, alpha)


@handles("aten.baddbmm", "aten.addmv")
def baddbmm(
    c: Context, self: Tensor, batch1: Tensor | None = None, batch2: Tensor | None = None, mat: Tensor | None = None,
    vec: Tensor | None = None, beta: Number = 1, alpha: Number = 1,
) -> Value:  # fmt: skip
    a, b = (batch1, batch2) if mat is None else (mat, vec)
    if a is None or b is None:
        raise InvalidModel("a product with one factor")
    return _weighted(c, self, c.b.matmul(a, b), beta, alpha)


def _weighted(c: Context, x: Value, y: Value, beta: Number, alpha: Number) -> Value:
    """beta * x + alpha * y; with beta 0 the values of x do not matter, NaN included."""
    y = y if alpha == 1 else c.b.mul(y, c.like(alpha, y))
    if beta == 0:
        return y
    return c.b.add(x if beta == 1 else c.b.mul(x, c.like(beta, x)), y)


@handles("aten.outer", "aten.ger")
def outer(c: Context, self: Tensor, vec2: Tensor) -> Value:
    (x, y), _ = c.promoted(self, vec2)
    return c.b.mul(c.b.unsqueeze(x, (1,)), y)


@handles("aten.einsum")
def einsum(c: Context, equation: Str, tensors: Tensors, path: Ints | None = None) -> Value:
    """torch allows spaces; letters and `...` mean what they mean in ONNX."""
    text = equation.replace(" ", "")
    if not re.fullmatch(r"[A-Za-z.,]*(->[A-Za-z.]*)?", text):
        raise InvalidModel("an einsum equation of other than letters")
    return c.b.einsum(*tensors, equation=text)


@handles("aten.tensordot")
def tensordot(c: Context, self: Tensor, other: Tensor, dims_self: Ints, dims_other: Ints) -> Value:
    left, right = c.axes(self, dims_self or None), c.axes(other, dims_other or None)
    if not dims_self:
        left = right = ()
    if len(left) != len(right):
        raise InvalidModel("tensordot over different numbers of dimensions")
    return _tensor_product(c, self, other, len(left), list(left), list(right))


def _tensor_product(c: Context, x: Value, y: Value, count: int, left: list[int], right: list[int]) -> Value:
    """The contraction of some axes, as an einsum."""
    letters = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    if c.rank(x) + c.rank(y) > 52:
        raise InvalidModel("too many dimensions")
    shared = [next(letters) for _ in range(count)]
    names_x = {axis: shared[i] for i, axis in enumerate(left)}
    names_y = {axis: shared[i] for i, axis in enumerate(right)}
    a = [names_x.get(i) or next(letters) for i in range(c.rank(x))]
    b = [names_y.get(i) or next(letters) for i in range(c.rank(y))]
    out = [n for n in a + b if n not in shared]
    return c.b.einsum(x, y, equation=f"{''.join(a)},{''.join(b)}->{''.join(out)}")


@handles("aten.bilinear")
def bilinear(c: Context, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Value:
    y = c.b.einsum(input1, weight, input2, equation="...i,oij,...j->...o")
    return y if bias is None else c.b.add(y, bias)
