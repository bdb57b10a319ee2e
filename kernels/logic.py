"""Kernels of the logic family: predicates, comparisons, logic, bitwise operations, selection. All exact."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..ir.types import DType
from .elementwise import binary, unary
from .numeric import exact, narrow, wide
from .registry import kernel

Array = np.ndarray


def _predicate(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: np.asarray(function(wide(x)), dtype=np.bool_)


def _compare(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda a, b: np.asarray(function(exact(a), exact(b)), dtype=np.bool_)


_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor,
}

_COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
}

for _name, _function in _BINARY.items():
    kernel(_name)(binary(_function, exact))
for _name, _function in _COMPARE.items():
    kernel(_name)(_compare(_function))
kernel("not")(unary(np.logical_not, exact))
kernel("bitwise_not")(unary(np.invert, exact))
kernel("is_nan")(_predicate(np.isnan))


@kernel("is_inf")
def is_inf(x: Array, *, detect_negative: bool, detect_positive: bool) -> Array:
    """bool[...]: x is -inf (if `detect_negative`) or +inf (if `detect_positive`)."""
    value = wide(x)
    return ((value == -np.inf) & bool(detect_negative)) | ((value == np.inf) & bool(detect_positive))


@kernel("bit_shift")
def bit_shift(a: Array, b: Array, *, direction: str) -> Array:
    """ONNX BitShift-28: right shifts of signed types keep the sign; a shift outside [0, bits) leaves only sign bits."""
    x, y = wide(a), wide(b)
    bits = a.dtype.itemsize * 8 if a.dtype == x.dtype else DType.of(a.dtype).bits
    inside = (y >= 0) & (y < bits)
    amount = np.where(inside, y, 0).astype(x.dtype)
    if direction == "LEFT":
        return narrow(np.where(inside, np.left_shift(x, amount), 0).astype(x.dtype), a.dtype)
    sign_only = np.where(x < 0, -1, 0).astype(x.dtype) if a.dtype.kind != "u" else np.zeros_like(x)
    return narrow(np.where(inside, np.right_shift(x, amount), sign_only), a.dtype)


@kernel("where")
def where(cond: Array, x: Array, y: Array) -> Array:
    return np.where(cond, x, y)
