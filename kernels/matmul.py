"""matmul, gemm, einsum, the integer products, determinants. Floats go to BLAS in float64 and are rounded once.

Products of 8-bit integers are exact as well (kernels/product.py); wider integers are multiplied in their own type, which
wraps as ONNX's do. Imports no framework.
"""

from __future__ import annotations

import numpy as np

from .constants import kept
from .numeric import is_integer
from .precision import narrow, wide
from .product import BYTE_RANGE, integer_product, less_zero_point, multiply, product
from .registry import kernel


@kernel("matmul")
def matmul(a, b):
    """numpy's product: [..., M, K] and [..., K, N] to [..., M, N]; a 1-D operand is a row (left) or column (right)."""
    if is_integer(a.dtype):
        return np.matmul(a, b, dtype=a.dtype)
    return product(a, b, a.dtype)


@kernel("gemm")
def gemm(a, b, c=None, *, alpha=1.0, beta=1.0, transA=False, transB=False):
    """alpha * a' b' + beta * c, with a' and b' transposed on demand and c broadcast one way to [M, N].

    Integer operands: the scaled sums are truncated toward zero, alpha and beta of 1 stay exact.
    """
    left, right = (a.T if transA else a), (b.T if transB else b)
    if is_integer(a.dtype):
        return _integer_gemm(left, right, c, alpha, beta)
    y = np.empty((left.shape[0], right.shape[1]), a.dtype)
    offsets = None if c is None else np.broadcast_to(kept(wide, c), y.shape)

    def finish(part, rows, columns):
        if alpha != 1.0:
            part *= alpha
        if offsets is not None:
            part += beta * offsets[rows, columns] if beta != 1.0 else offsets[rows, columns]

    multiply(left, right, y, finish)
    return y


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
    rows = a_zp[:, None] if a_zp is not None and a_zp.ndim == 1 and a.ndim > 1 else a_zp
    return integer_product(less_zero_point(a, rows), less_zero_point(b, b_zp), BYTE_RANGE, BYTE_RANGE)


@kernel("det")
def det(x):
    """[..., M, M] to [...], by LU decomposition in float64."""
    return narrow(np.asarray(np.linalg.det(wide(x))), x.dtype)
