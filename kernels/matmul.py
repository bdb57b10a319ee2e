"""matmul, gemm, einsum and the integer products. Floats go to BLAS in float64 and are rounded once.

Products of 8-bit integers are exact in float64 up to 2**37 terms, so they use BLAS as well; wider integers are
multiplied in their own type, which wraps as ONNX's do. Imports no framework.
"""

from __future__ import annotations

import numpy as np

from .numeric import is_integer
from .precision import narrow, wide
from .registry import kernel


@kernel("matmul")
def matmul(a, b):
    """numpy's product: [..., M, K] and [..., K, N] to [..., M, N]; a 1-D operand is a row (left) or column (right)."""
    if is_integer(a.dtype):
        return np.matmul(a, b, dtype=a.dtype)
    return narrow(np.asarray(np.matmul(wide(a), wide(b))), a.dtype)


@kernel("gemm")
def gemm(a, b, c=None, *, alpha=1.0, beta=1.0, transA=False, transB=False):
    """alpha * a' b' + beta * c, with a' and b' transposed on demand and c broadcast one way to [M, N].

    Integer operands: the scaled sums are truncated toward zero, alpha and beta of 1 stay exact.
    """
    left, right = (a.T if transA else a), (b.T if transB else b)
    if is_integer(a.dtype):
        return _integer_gemm(left, right, c, alpha, beta)
    y = wide(left) @ wide(right)
    if alpha != 1.0:
        y *= alpha
    if c is not None:
        y += beta * wide(c) if beta != 1.0 else wide(c)
    return narrow(y, a.dtype)


def _integer_gemm(left, right, c, alpha, beta):
    y = np.matmul(left, right, dtype=left.dtype)
    if alpha != 1.0:
        y = (y * alpha).astype(left.dtype)
    if c is None:
        return y
    return y + (c if beta == 1.0 else (c * beta).astype(left.dtype))


@kernel("einsum")
def einsum(*xs, equation):
    """Sum of products in numpy's einsum notation, with ellipsis and repeated labels; pairs are contracted by BLAS."""
    dtype = xs[0].dtype
    equation = equation.replace(" ", "")
    if is_integer(dtype):
        return np.asarray(np.einsum(equation, *xs, dtype=dtype, casting="no"))
    made = np.einsum(equation, *map(wide, xs), optimize="optimal" if len(xs) < 6 else "greedy")
    return narrow(np.ascontiguousarray(made).reshape(made.shape), dtype)


@kernel("matmul_integer")
def matmul_integer(a, b, a_zp=None, b_zp=None):
    """8-bit a and b less their zero points, multiplied exactly. i32.

    A 1-D a_zp belongs to the rows of `a`, a 1-D b_zp to the columns of `b`; others broadcast as they are.
    """
    left, right = wide(a), wide(b)
    if a_zp is not None:
        left = left - (wide(a_zp)[:, None] if a_zp.ndim == 1 and a.ndim > 1 else wide(a_zp))
    if b_zp is not None:
        right = right - wide(b_zp)
    return np.asarray(np.matmul(left, right)).astype(np.int64).astype(np.int32)
