"""What a handler works with: the builder at the node's location, the declared result types, constants, casts and sizes.

Must not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ...formats.exported import ExportedGraph, ExportedNode, TensorMeta
from ...ir.builder import Builder
from ...ir.dims import Dim, dim_eq
from ...ir.errors import InvalidModel, Unsupported
from ...ir.expr import Expr
from ...ir.types import BOOL, F32, I64, DType
from ...ir.value import Value
from .promotion import result_type
from .registry import Symbolic
from .symbols import Symbols

LOW_PRECISION = 16  # bits: torch computes these floats in f32 and rounds once


class Context:
    """The state of one graph's lowering. `node` is the call at hand; `b` builds at its location."""

    def __init__(self, b: Builder, graph: ExportedGraph, symbols: Symbols) -> None:
        self.b = b
        self.graph = graph
        self.symbols = symbols
        self.env: dict[str, Any] = {}
        self.node = ExportedNode("", {}, ())
        self.used: frozenset[str] = frozenset()
        self.derived: dict[Value, str] = {}  # weights made from the source's, with the keys that they should take over

    # What torch declares about the results.

    def meta(self, index: int = 0) -> TensorMeta:
        """Declared dtype and shape of result `index` (of the first tensor of a result that is a list)."""
        outputs = self.node.outputs
        name = outputs[index] if index < len(outputs) else None
        name = name[0] if isinstance(name, tuple) and name else name
        found = self.graph.tensors.get(name) if isinstance(name, str) else None
        if found is None:
            raise InvalidModel(f"result {index} of {self.node.target} has no declared type")
        return found

    @property
    def dtype(self) -> DType:
        """Declared dtype of the first result."""
        return self.meta().dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Declared shape of the first result."""
        return self.dims(self.meta())

    def dims(self, meta: TensorMeta) -> tuple[Dim, ...]:
        return tuple(self.symbols.dim(size) for size in meta.shape)

    def is_used(self, index: int) -> bool:
        """Somebody uses result `index` of the node."""
        return index < len(self.node.outputs) and self.node.outputs[index] in self.used

    def declared(self, asked: Sequence[Dim] | None) -> tuple[Dim, ...]:
        """The declared shape, after holding the shape that a call asks for against it; -1 there fits anything."""
        shape = self.shape
        if asked is not None:
            fits = len(asked) == len(shape)
            if not fits or any(dim_eq(a, d) is False for a, d in zip(asked, shape, strict=True) if a != -1):
                raise InvalidModel(f"shape {tuple(asked)} is asked for, {shape} is declared")
        return shape

    # Constants and casts.

    def const(self, value: Any, dtype: DType) -> Value:
        """A literal of `dtype`; numbers that do not fit it are refused, where numpy would wrap or raise."""
        if isinstance(value, bool | int | float):
            return self.b.const(_scalar_array(value, dtype), dtype)
        return self.b.const(np.asarray(value, dtype.numpy), dtype)

    def ints(self, values: Iterable[int]) -> Value:
        return self.b.const(np.asarray(list(values), np.int64), I64)

    def cast(self, value: Value, dtype: DType) -> Value:
        """`value` in `dtype`. Numbers become bools by `!= 0`, as in torch."""
        if value.dtype is dtype:
            return value
        if dtype is BOOL:
            assert value.dtype is not None
            return self.b.not_equal(value, self.const(0, value.dtype))
        return self.b.cast(value, to=dtype)

    def value(self, operand: Any, dtype: DType) -> Value:
        """A tensor, number, size or symbolic float as a value of `dtype`."""
        if isinstance(operand, Value):
            return self.cast(operand, dtype)
        if isinstance(operand, Expr):
            return self.cast(self.symbols.value(self.b, operand), dtype)
        if isinstance(operand, Symbolic):
            return self.cast(self.symbols.float_value(self.b, operand.tree), dtype)
        return self.const(operand, dtype)

    def promoted(self, *operands: Any) -> tuple[list[Value], DType]:
        """The operands as values of their common dtype by torch's rules."""
        dtype = result_type(operands)
        return [self.value(item, dtype) for item in operands], dtype

    def as_float(self, value: Value) -> Value:
        """Ints and bools in torch's default float, floats as they are."""
        return value if value.dtype is None or value.dtype.is_float else self.cast(value, F32)

    def like(self, number: int | float | bool, value: Value) -> Value:
        """A literal scalar in the dtype of `value`."""
        assert value.dtype is not None
        return self.const(number, value.dtype)

    # Shapes.

    def rank(self, value: Value) -> int:
        if value.rank is None:
            raise Unsupported("a tensor of unknown rank")
        return value.rank

    def axis(self, value: Value | int, axis: int, extra: int = 0) -> int:
        """`axis` counted from the front. Rank 0 counts as rank 1, as in torch; `extra` more axes may be named."""
        rank = max((value if isinstance(value, int) else self.rank(value)) + extra, 1)
        if not -rank <= axis < rank:
            raise InvalidModel(f"dimension {axis} of a tensor of rank {rank}")
        return axis % rank

    def axes(self, value: Value, axes: Sequence[int] | None) -> tuple[int, ...]:
        """Some axes counted from the front; None and () mean all of them."""
        rank = self.rank(value)
        if not axes:
            return tuple(range(rank))
        found = tuple(self.axis(value, axis) for axis in axes)
        if len(set(found)) != len(found):
            raise InvalidModel(f"a dimension is named twice in {tuple(axes)}")
        return found if rank else ()

    def size(self, value: Value, axis: int) -> Dim:
        assert value.shape is not None
        return value.shape[axis]

    def fixed(self, value: Value, axis: int) -> int:
        """A dim that must be a known number."""
        size = self.size(value, axis)
        if isinstance(size, Expr):
            raise Unsupported(f"dimension {axis} must have a fixed size here, it is {size}")
        return size

    def sizes(self, dims: Sequence[Dim]) -> Value:
        """Dims as an i64 vector: a constant where all are numbers, else read from shapes at run time."""
        if not any(isinstance(dim, Expr) for dim in dims):
            return self.ints(dims)  # type: ignore[arg-type]
        b = self.b
        parts, run = [], []
        for dim in dims:
            if not isinstance(dim, Expr):
                run.append(dim)
                continue
            if run:
                parts.append(self.ints(run))
                run = []
            parts.append(b.unsqueeze(self.symbols.value(b, dim), (0,)))
        if run:
            parts.append(self.ints(run))
        return parts[0] if len(parts) == 1 else b.concat(*parts, axis=0)

    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        """`value` in another shape. At most one dim known only at run time needs no shape arithmetic: it is -1; more of
        them are copied from the operand where they stand at the same axis."""
        if value.shape == tuple(shape):
            return value
        target: list[Dim] = list(shape)
        unknown = [i for i, dim in enumerate(target) if isinstance(dim, Expr)]
        if 0 in target:
            return self.b.reshape(value, self.sizes(target), allowzero=True)
        if len(unknown) > 1:
            own = value.shape or ()
            for i in unknown:
                if i < len(own) and own[i] == target[i]:
                    target[i] = 0
            unknown = [i for i in unknown if target[i] != 0]
        if len(unknown) == 1:
            target[unknown[0]] = -1
        return self.b.reshape(value, self.sizes(target))

    def reshape_flat(self, value: Value) -> Value:
        return self.b.reshape(value, (-1,))

    def count(self, value: Value, axes: Iterable[int]) -> Dim:
        """Number of elements along some axes."""
        total: Dim = 1
        for axis in axes:
            total = total * self.size(value, axis)
        return total


def _scalar_array(number: bool | int | float, dtype: DType) -> np.ndarray:
    if dtype.is_int:
        if isinstance(number, float) and not math.isfinite(number):
            raise InvalidModel(f"{number} as a number of dtype {dtype}")
        whole = int(number)
        low = -(1 << dtype.bits - 1) if dtype.kind == "int" else 0
        if not low <= whole < low + (1 << dtype.bits):
            raise InvalidModel(f"{whole} does not fit dtype {dtype}")
        return np.asarray(whole, dtype.numpy)
    if isinstance(number, int) and not isinstance(number, bool) and abs(number) >= 1 << 1000:
        raise InvalidModel("a number out of range")
    with np.errstate(over="ignore"):
        return np.asarray(np.float64(number)).astype(dtype.numpy)


def exactly(number: int | float | bool, dtype: DType) -> bool:
    """`number` is one of the values of `dtype`."""
    if not dtype.is_float:
        return True
    stored = float(np.asarray(number, np.float64).astype(dtype.numpy).astype(np.float64))
    return stored == number or math.isnan(number)


__all__ = ["LOW_PRECISION", "Context", "exactly"]
