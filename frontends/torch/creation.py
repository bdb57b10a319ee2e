"""aten operators that make tensors from numbers: full, zeros, arange, eye, linspace ... Must not import torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.errors import InvalidModel, Unsupported
from ...ir.types import I64, DType
from ...ir.value import Value
from .context import Context
from .registry import Dtype, Int, Number, Scalar, Size, Sizes, Tensor, handles


def _filled(c: Context, shape: Any, number: Any, dtype: DType) -> Value:
    value = c.value(number, dtype)
    return c.b.expand(value, c.sizes(shape)) if shape else value


_NUMBERS = {"zeros": 0, "ones": 1, "empty": 0, "new_zeros": 0, "new_ones": 1, "new_empty": 0}


@handles("aten.zeros", "aten.ones", "aten.empty", "aten.new_zeros", "aten.new_ones", "aten.new_empty")
def zeros(c: Context, size: Sizes, self: Tensor | None = None, dtype: Dtype | None = None) -> Value:
    """What `empty` holds is nobody's business; zeros are as good as anything."""
    return _filled(c, c.declared(size), _NUMBERS[c.node.target.split(".")[1]], c.dtype)


@handles("aten.zeros_like", "aten.ones_like", "aten.empty_like")
def zeros_like(c: Context, self: Tensor, dtype: Dtype | None = None) -> Value:
    return _filled(c, c.shape, 1 if "ones" in c.node.target else 0, c.dtype)


@handles("aten.full", "aten.new_full", "aten.full_like")
def full(
    c: Context, fill_value: Scalar, size: Sizes | None = None, self: Tensor | None = None, dtype: Dtype | None = None
) -> Value:
    return _filled(c, c.declared(size), fill_value, c.dtype)


@handles("aten.scalar_tensor")
def scalar_tensor(c: Context, s: Scalar, dtype: Dtype | None = None) -> Value:
    return c.value(s, c.dtype)


@handles("aten.arange")
def arange(c: Context, end: Scalar, start: Scalar = 0, step: Scalar = 1, dtype: Dtype | None = None) -> Value:
    """Counted in the declared dtype; a float step may add an element only where torch has it too."""
    if isinstance(step, int | float) and step == 0:
        raise InvalidModel("arange with step 0")
    return c.b.range(*(c.value(item, c.dtype) for item in (start, end, step)))


@handles("aten.linspace")
def linspace(c: Context, start: Number, end: Number, steps: Int, dtype: Dtype | None = None) -> Value:
    """From both ends towards the middle, as torch computes it."""
    if not 0 <= steps <= 1 << 24:
        raise Unsupported(f"linspace of {steps} numbers")
    if not c.dtype.is_float:
        raise Unsupported("linspace of integers")
    step = (end - start) / (steps - 1) if steps > 1 else 0.0
    positions = np.arange(steps)
    made = np.where(positions < steps / 2, start + step * positions, end - step * (steps - 1 - positions))
    return c.b.const((made if steps != 1 else np.array([start])).astype(c.dtype.numpy), c.dtype)


@handles("aten.eye")
def eye(c: Context, n: Size, m: Size | None = None, dtype: Dtype | None = None) -> Value:
    shape = (n, n if m is None else m)
    return c.b.eye_like(_filled(c, shape, 0, c.dtype), k=0, dtype=c.dtype)


@handles("aten.tril_indices", "aten.triu_indices")
def tril_indices(c: Context, row: Int, col: Int, offset: Int = 0, dtype: Dtype | None = None) -> Value:
    if not 0 <= row * col <= 1 << 24:
        raise Unsupported(f"the triangle of a {row} x {col} matrix")
    indices = np.triu_indices if "triu" in c.node.target else np.tril_indices
    return c.b.const(np.stack(indices(row, offset, col)).astype(c.dtype.numpy), c.dtype)


@handles("aten._local_scalar_dense", "aten.item")
def item(c: Context, self: Tensor) -> Value:
    """A number read from a tensor: it stays a tensor, and the symbol that torch gave it is read from there."""
    return c.b.reshape(self, c.b.const(np.zeros(0, np.int64), I64))


_RANDOM = (
    "rand",
    "randn",
    "randint",
    "randperm",
    "bernoulli",
    "multinomial",
    "normal",
    "rand_like",
    "randn_like",
    "uniform",
)


@handles(*(f"aten.{name}" for name in _RANDOM))
def random(c: Context, **_: Any) -> Value:
    raise Unsupported("random numbers", hint="make them outside and pass them as an input")
