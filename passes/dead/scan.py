"""A first look at every matrix, block by block and once: which slices along an axis are zero, which rows may be twins: equal, or
one a power of two times the other. Of a large one a few rows and columns often show that there are none.

Works on the bits as integers: the disjunction of a slice is zero (but for a sign) only where all of it is, and the mantissas of
twins have equal sums. Memory stays that of a block, whatever the size of the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...ir.tensor import Tensor

BLOCK = 1 << 20
#: The golden ratio in 64 bits: odd multiples of it give each block of rows its own weight in the sums of columns.
_ODD = 0x9E3779B97F4A7C15
#: Matrices of more bytes are sampled before all of them is read: some rows, and some bytes of each row.
SAMPLED, ROWS, ROW_BYTES = 1 << 16, 16, 64
_BITS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class Scan:
    """Of a matrix: zero slices along axes 0 and 1, and sums that are equal where slices along `rows_axis` are twins."""

    zero: tuple[np.ndarray, np.ndarray]
    sums: np.ndarray

    @cached_property
    def equal(self) -> np.ndarray:
        """Numbers of the slices whose sum another slice has."""
        order = np.argsort(self.sums, kind="stable")
        same = self.sums[order][1:] == self.sums[order][:-1]
        return np.sort(np.unique(np.concatenate([order[1:][same], order[:-1][same]])))

    @cached_property
    def is_plain(self) -> bool:
        """Nothing is zero and nothing looks like a twin."""
        return not (self.zero[0].any() or self.zero[1].any() or len(self.equal))


def scan(tensor: Tensor, rows_axis: int) -> Scan:
    """The scan of a tensor of reals or integers of rank >= 2; -0.0 is a zero."""
    n0, n1 = tensor.shape[:2]
    kind = _BITS[tensor.dtype.numpy.itemsize]
    width = tensor.size // n0
    counted = kind((1 << (8 * kind().itemsize - tensor.dtype.is_float)) - 1)
    digits = _digits(tensor, kind)
    sampled = _sampled(tensor, rows_axis, counted) if tensor.nbytes > SAMPLED else None
    if sampled is not None:
        return sampled
    found0, found1 = np.zeros(n0, kind), np.zeros(width, kind)
    sums = np.zeros(n0 if rows_axis == 0 else width, np.uint64)
    parts = 1 if rows_axis == 0 else 8  # each with a weight of its own in the sums of columns
    step = max(1, min(BLOCK // max(1, width * kind().itemsize), -(-n0 // parts)))
    for start in range(0, n0, step):
        stop = min(n0, start + step)
        block = _bits(tensor, start, stop, kind).reshape(stop - start, width)
        np.bitwise_or(found1, np.bitwise_or.reduce(block, axis=0), out=found1)
        found0[start:stop] = np.bitwise_or.reduce(block, axis=1)
        block = block & digits
        if rows_axis == 0:
            sums[start:stop] = np.add.reduce(_wide(block), axis=1, dtype=np.uint64)
        else:
            sums += np.add.reduce(block, axis=0, dtype=np.uint64) * np.uint64((2 * start + 1) * _ODD % (1 << 64))
    if rows_axis == 1:
        by_place = sums.reshape(n1, -1) * (np.arange(width // n1, dtype=np.uint64) * np.uint64(2) + np.uint64(1))
        sums = np.add.reduce(by_place, axis=1)
    by_column = np.bitwise_or.reduce(found1.reshape(n1, -1), axis=1)
    return Scan(((found0 & counted) == 0, (by_column & counted) == 0), sums)


def is_finite(tensor: Tensor) -> bool:
    """No NaN, no infinity."""
    return all(np.isfinite(block).all() for block in tensor.blocks(BLOCK))


def _digits(tensor: Tensor, kind: Any) -> Any:
    """The bits of an element that a power of two does not change: its mantissa."""
    if not tensor.dtype.is_float:
        return kind(~kind(0))
    import ml_dtypes

    return kind((1 << ml_dtypes.finfo(tensor.dtype.numpy).nmant) - 1)


def _sampled(tensor: Tensor, rows_axis: int, counted: Any) -> Scan | None:
    """The scan of a matrix of which a few elements show that every slice has one other than 0 and that no two rows are
    twins; None where they do not."""
    n0, n1, *tail = tensor.shape
    taps = math.prod(tail)
    wide = min(n1, max(1, ROW_BYTES // max(1, taps * counted.itemsize)))
    row, column = max(0, n0 - ROWS) // 2, (n1 - wide) // 2
    ends = (0,) * len(tail)
    some_rows = tensor.region((row, 0, *ends), (min(n0, row + ROWS), n1, *tail))
    some_columns = tensor.region((0, column, *ends), (n0, column + wide, *tail))
    parts = []
    for axis, part in enumerate((some_columns, some_rows)):
        bits = np.ascontiguousarray(part).view(counted.dtype)
        flat = np.moveaxis(bits, axis, 0).reshape((n0, n1)[axis], -1)
        if not (flat & counted).any(axis=1).all():
            return None
        parts.append(flat)
    chosen = parts[rows_axis] & _digits(tensor, counted.dtype.type)
    odd = np.arange(chosen.shape[1], dtype=np.uint64) * np.uint64(2 * _ODD % (1 << 64)) + np.uint64(1)
    sums = (chosen * odd).sum(axis=1, dtype=np.uint64)
    if len(np.unique(sums)) < len(sums):
        return None
    return Scan((np.zeros(n0, bool), np.zeros(n1, bool)), sums)


def _wide(block: np.ndarray) -> np.ndarray:
    """The same rows in the widest integers that fill them: their sums collide less."""
    row = block.shape[1] * block.itemsize
    return next(block.view(kind) for size, kind in sorted(_BITS.items(), reverse=True) if row % size == 0)


def _bits(tensor: Tensor, start: int, stop: int, kind: Any) -> np.ndarray:
    tail = tensor.shape[1:]
    part = tensor.region((start, *(0,) * len(tail)), (stop, *tail))
    return np.ascontiguousarray(part).view(kind)
