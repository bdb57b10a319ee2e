"""Matrix products of stored arrays: summed in float64 by BLAS, rounded once to the result's dtype, panel by panel.

BLAS wants its operands in float64. The larger operand is widened a panel at a time, in a buffer that stays in cache, and
each part of the product is rounded as soon as it is there: no float64 copy of a weight or of a result is ever made whole.
Integer products are exact (`integer_product`). Imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .jit import jit
from .precision import narrow, quiet

Array = np.ndarray
#: Changes a float64 part of a product in place before it is rounded: (part, its rows, its columns).
Finish = Callable[[Array, slice, slice], None]

PANEL_BYTES = 1 << 19
#: So few rows or columns that widening the other operand for BLAS would take longer than the product.
FEW = 8
#: Panels narrower than this waste BLAS.
LEAST_PANEL = 16
#: float32 holds every integer up to here, so sums that stay below are exact in any order.
EXACT_FLOAT32 = 1 << 24
#: The largest difference of two 8-bit values of one type.
BYTE_RANGE = 255


def product(a: Array, b: Array, dtype: np.dtype) -> Array:
    """numpy's matmul of a [..., M, K] and b [..., K, N] in `dtype`; a 1-D operand is a row (left) or a column (right)."""
    left = a[None, :] if a.ndim == 1 else a
    right = b[:, None] if b.ndim == 1 else b
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(f"matmul of {a.shape} and {b.shape}")
    if right.ndim == 2:
        y = np.empty((*left.shape[:-1], right.shape[1]), dtype)
        rows = math.prod(left.shape[:-1])
        multiply(left.reshape(rows, left.shape[-1]), right, y.reshape(rows, right.shape[1]))
    else:
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        y = np.empty((*batch, left.shape[-2], right.shape[-1]), dtype)
        _batched(np.broadcast_to(left, batch + left.shape[-2:]), np.broadcast_to(right, batch + right.shape[-2:]), y)
    if a.ndim == 1:
        y = y[..., 0, :]
    return y[..., 0] if b.ndim == 1 else y


def _batched(a: Array, b: Array, y: Array) -> None:
    """y [..., M, N] = a @ b, all with the same leading axes; what fits a panel goes to BLAS at once."""
    if y.ndim == 2:
        multiply(a, b, y)
    elif 8 * (a.size + b.size + y.size) <= PANEL_BYTES:
        _settle(np.matmul(widened(a), widened(b)), y)
    else:
        for i in range(len(y)):
            _batched(a[i], b[i], y[i])


def multiply(a: Array, b: Array, y: Array, finish: Finish | None = None) -> None:
    """y [M, N] = a [M, K] @ b [K, N], `finish`ed in float64 and rounded once to y's dtype. Operands may be any views."""
    (rows, inner), columns = a.shape, b.shape[1]
    thin = _thin(a, b)
    if thin is not None:
        if finish is not None:
            finish(thin, slice(0, rows), slice(0, columns))
        _settle(thin, y)
        return
    if a.size <= b.size:
        left, whole = widened(a), slice(0, rows)
        for part in _panels(columns, inner + rows):
            made = left @ widened(b[:, part])
            if finish is not None:
                finish(made, whole, part)
            _settle(made, y[:, part])
        return
    right, whole = widened(b), slice(0, columns)
    for part in _panels(rows, inner + columns):
        made = widened(a[part]) @ right
        if finish is not None:
            finish(made, part, whole)
        _settle(made, y[part])


def _thin(a: Array, b: Array) -> Array | None:
    """a [M, K] @ b [K, N] in float64 where one of the two is a few rows or columns and the other is float32: it is read
    once and widened in registers. None where that does not apply, or is not compiled."""
    if a.shape[0] <= FEW:
        return _few_rows(a, b)
    made = _few_rows(b.T, a.T) if b.shape[1] <= FEW else None
    return None if made is None else made.T


def _few_rows(a: Array, b: Array) -> Array | None:
    if b.dtype != np.float32:
        return None
    loop, lines = (_across, b) if b.flags.c_contiguous else (_dots, b.T)
    if not lines.flags.c_contiguous:
        return None
    rows, y = a.astype(np.float64, order="C"), np.empty((a.shape[0], b.shape[1]))
    if not loop.ready(rows, lines, y):
        return None
    loop(rows, lines, y)
    return y


@jit(lambda a, lines, y: a.shape[0] * lines.size, any_order=True)
def _dots(a, lines, y):
    """y [M, N] = a [M, K] times lines [N, K], four rows and two lines at a time."""
    rows, inner = a.shape
    tall, long = rows - rows % 4, len(lines) - len(lines) % 2
    for n in range(0, long, 2):
        first, second = lines[n], lines[n + 1]
        for m in range(0, tall, 4):
            a0, a1, a2, a3 = a[m], a[m + 1], a[m + 2], a[m + 3]
            s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
            t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
            for k in range(inner):
                u, v = np.float64(first[k]), np.float64(second[k])
                s0 += a0[k] * u
                s1 += a1[k] * u
                s2 += a2[k] * u
                s3 += a3[k] * u
                t0 += a0[k] * v
                t1 += a1[k] * v
                t2 += a2[k] * v
                t3 += a3[k] * v
            y[m, n], y[m + 1, n], y[m + 2, n], y[m + 3, n] = s0, s1, s2, s3
            y[m, n + 1], y[m + 1, n + 1], y[m + 2, n + 1], y[m + 3, n + 1] = t0, t1, t2, t3
    for n in range(len(lines)):
        line = lines[n]
        for m in range(tall if n < long else 0, rows):
            row, total = a[m], 0.0
            for k in range(inner):
                total += row[k] * np.float64(line[k])
            y[m, n] = total


@jit(lambda a, lines, y: a.shape[0] * lines.size, any_order=True)
def _across(a, lines, y):
    """y [M, N] = a [M, K] times lines [K, N], four lines at a time."""
    inner, columns = lines.shape
    y[:] = 0.0
    for k in range(0, inner - 3, 4):
        b0, b1, b2, b3 = lines[k], lines[k + 1], lines[k + 2], lines[k + 3]
        for m in range(len(a)):
            row = y[m]
            a0, a1, a2, a3 = a[m, k], a[m, k + 1], a[m, k + 2], a[m, k + 3]
            for n in range(columns):
                row[n] += (a0 * b0[n] + a1 * b1[n]) + (a2 * b2[n] + a3 * b3[n])
    for k in range(inner - inner % 4, inner):
        line = lines[k]
        for m in range(len(a)):
            row, factor = y[m], a[m, k]
            for n in range(columns):
                row[n] += factor * line[n]


def widened(x: Array) -> Array:
    """`x` in float64 and in its own memory order, which BLAS takes as it is."""
    return x.astype(np.float64, order="K", copy=False)


def _panels(size: int, per_entry: int) -> list[slice]:
    """An axis of `size` in parts whose widened operand and result, `per_entry` elements each, fit the panel."""
    step = max(LEAST_PANEL, PANEL_BYTES // (8 * max(per_entry, 1)))
    return [slice(start, min(size, start + step)) for start in range(0, size, step)]


def _settle(made: Array, y: Array) -> None:
    with quiet():
        y[...] = made if y.dtype in (np.float32, np.float64) else narrow(made, y.dtype)


def integer_product(a: Array, b: Array, largest_a: int, largest_b: int) -> Array:
    """a [..., M, K] @ b [..., K, N] of integral values, |a| <= largest_a and |b| <= largest_b, exactly. int32, wrapping.

    Runs of terms whose sums cannot exceed 2**24 are added up by BLAS in float32, where they are exact in any order, and
    the runs in int64.
    """
    run = max(EXACT_FLOAT32 // max(largest_a * largest_b, 1), 1)
    left, right = (x.astype(np.float32, order="K", copy=False) for x in (a, b))
    terms = left.shape[-1]
    if terms <= run:
        return np.matmul(left, right).astype(np.int32)
    total: Array | None = None
    for start in range(0, terms, run):
        end = start + run
        made = np.matmul(left[..., start:end], right[..., start:end, :]).astype(np.int64)
        total = made if total is None else np.add(total, made, out=total)
    return np.asarray(total).astype(np.int32)


def less_zero_point(x: Array, zero_point: Array | None) -> Array:
    """8-bit `x` less a zero point that broadcasts to it, exactly, in float32."""
    values = x.astype(np.float32, order="K")
    if zero_point is not None and np.any(zero_point):
        values -= zero_point.astype(np.float32)
    return values
