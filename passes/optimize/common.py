"""What the rules of the optimiser ask of values: equal shapes, small constants, and the only user of a result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.dims import Dim, Facts, dim_eq, dim_lt
from ...ir.graph import Node, Value
from ...ir.types import TensorType

#: Constants above this many bytes are not looked into by rules that only tidy up.
SMALL = 1 << 20


def same_dims(a: Sequence[Dim] | None, b: Sequence[Dim] | None) -> bool:
    """Both shapes are known and surely equal."""
    if a is None or b is None:
        return False
    return len(a) == len(b) and all(m is n or dim_eq(m, n) is True for m, n in zip(a, b, strict=True))


def same_shape(a: Value, b: Value) -> bool:
    return same_dims(a.shape, b.shape)


def same_type(a: Value, b: Value) -> bool:
    return a.dtype is b.dtype and same_shape(a, b)


def positive(dim: Dim, facts: Facts | None = None) -> bool:
    """`dim` is surely no zero."""
    return dim_lt(0, dim, facts) is True


def is_float(value: Value) -> bool:
    return value.dtype is not None and value.dtype.is_float


def is_integer(value: Value) -> bool:
    """A plain integer type that numpy computes in."""
    return value.dtype is not None and value.dtype.is_int and not value.dtype.is_packed


def single(value: Value) -> bool:
    """One element, whatever the rank."""
    return isinstance(value.type, TensorType) and value.type.numel == 1


def small_const(value: Value | None) -> bool:
    """A constant that is cheap to look into."""
    return value is not None and value.weight is not None and value.weight.nbytes <= SMALL


def producer(value: Value | None, *ops: str) -> Node | None:
    """The node that computes `value`, if it is one of these ops in the same graph as its users."""
    node = value.node if value is not None else None
    return node if node is not None and node.op.name in ops else None


def numbers(value: Value) -> np.ndarray:
    """A small constant in an arithmetic that holds its numbers: float64, or its own integer type."""
    array = value.array()
    return array.astype(np.float64) if is_float(value) else array
