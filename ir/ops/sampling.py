"""Operands for `samples()`: seeded arrays with the shapes and values that break kernels. Needs numpy only."""

from __future__ import annotations

import numpy as np

from ..types import BOOL, F32, STRING, DType

#: Odd shapes: rank 0, size 1, primes, an empty one, rank 4.
SHAPES = ((), (1,), (7,), (2, 3), (3, 1, 5), (0, 4), (2, 1, 3, 5))

#: Pairs that broadcast: equal, by rank, by size 1 on both sides, with a scalar, with nothing in them.
PAIRS = (
    ((2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((3, 1), (1, 4)),
    ((), (5,)),
    ((2, 1, 4), (3, 1)),
    ((1, 3), (0, 3)),
    ((), ()),
)


def draw(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: DType = F32, low: float = -4.0, high: float = 4.0
) -> np.ndarray:
    """Uniform values in [low, high) in the storage of `dtype`; bools and strings ignore the bounds."""
    if dtype is BOOL:
        return np.asarray(rng.integers(0, 2, shape), dtype=np.bool_)
    if dtype is STRING:
        made = np.empty(shape, dtype=object)
        made[...] = "s"
        return made
    if dtype.is_int:
        floor = max(int(low), 0) if dtype.kind == "uint" else int(low)
        return np.asarray(rng.integers(floor, max(int(high), floor + 1) + 1, shape)).astype(dtype.numpy)
    if dtype.kind == "complex":
        return np.asarray(rng.uniform(low, high, shape) + 1j * rng.uniform(low, high, shape)).astype(dtype.numpy)
    return np.asarray(rng.uniform(low, high, shape)).astype(dtype.numpy)


def i64(*values: int) -> np.ndarray:
    """A 1-D shape-like operand."""
    return np.array(values, dtype=np.int64)
