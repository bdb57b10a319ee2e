"""Layers that multiply data by a constant matrix: conv, conv_transpose, matmul and gemm as one four-dimensional view.

A product sums  y[g, o] = bias + alpha * sum over i, taps of  w[g, o, i, tap] * x[g, i],  with one group for all but grouped
convolutions. Its weight is a constant; of a dequantised one nothing is said: quantised models keep their integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from ...ir.graph import Node, Value
from ...ir.types import BF16, F16, F32, F64
from .scan import ROWS, Scan, is_finite, scan

REAL = frozenset({F16, BF16, F32, F64})


@dataclass(frozen=True, eq=False)
class Product:
    """Operand `data` has the summed axis `data_axis`, operand `weight` the constant; `out_axis` is the axis of the result that
    the weight's rows make. `partial`: not every position of the result sums every term (padding, transposed strides)."""

    node: Node
    data: int
    weight: int
    data_axis: int
    out_axis: int
    scan: Scan
    groups: int = 1
    partial: bool = False
    alpha: float = 1.0

    #: Whether the rows are what the node gives; of a recurrence they are what its gates work with.
    is_layer: ClassVar[bool] = True

    @property
    def x(self) -> Value:
        return self.node.operands[self.data]  # type: ignore[return-value]

    @property
    def w(self) -> Value:
        return self.node.operands[self.weight]  # type: ignore[return-value]

    @property
    def name(self) -> str:
        return self.w.weight.key  # type: ignore[union-attr]

    @property
    def rows_axis(self) -> int:
        """The axis of the weight whose slices are output channels (within a group, for a grouped transposed one)."""
        kind = self.node.name
        if kind == "conv":
            return 0
        if kind == "conv_transpose":
            return 1
        if kind == "gemm":
            return 0 if self.node.attr("transB") else 1
        return 1 if self.weight == 1 else 0

    @property
    def bias(self) -> Value | None:
        if self.node.name == "matmul":
            return None
        return self.node.operands[2] if len(self.node.operands) > 2 else None

    @property
    def beta(self) -> float:
        return self.node.attr("beta") if self.node.name == "gemm" else 1.0

    @property
    def inside(self) -> int:
        """Input channels of a group."""
        return self.channels // self.groups

    @property
    def channels(self) -> int:
        return self.x.shape[self.data_axis]  # type: ignore[index, return-value]

    @property
    def outputs(self) -> int:
        return self.node.result.shape[self.out_axis]  # type: ignore[index, return-value]

    def numbers(self) -> np.ndarray:
        return self.w.array()

    @cached_property
    def zero_rows(self) -> np.ndarray:
        """bool [outputs]: rows without weights."""
        found = self.scan.zero[self.rows_axis]
        return found if len(found) == self.outputs else np.zeros(self.outputs, bool)

    @cached_property
    def zero_columns(self) -> np.ndarray:
        """bool [channels]: inputs without weights, in every group."""
        found = self.scan.zero[1 - self.rows_axis]
        return np.tile(found, self.channels // len(found))

    @property
    def equal_sums(self) -> np.ndarray | None:
        """Rows whose sum another row has; None where there are none."""
        found = self.scan.equal
        return found if len(found) and len(self.scan.sums) == self.outputs else None

    @cached_property
    def is_finite(self) -> bool:
        """No NaN, no infinity: else nothing is said of the layer."""
        return is_finite(self.w.weight.tensor)  # type: ignore[union-attr]

    @cached_property
    def slack(self) -> float:
        """Rounding of the runtime's own sum, as a share of the sum of its terms' sizes: one rounding per term and two more."""
        import ml_dtypes

        taps = math.prod(self.w.weight.tensor.shape[2:]) if self.node.name.startswith("conv") else 1  # type: ignore[union-attr]
        terms = self.inside * taps
        return (terms + 4) * float(ml_dtypes.finfo(self.node.result.dtype.numpy).eps)  # type: ignore[union-attr]

    def blocks(self, numbers: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Outputs of every group, a few at a time, with their float64 [groups, some outputs, inputs, taps]."""
        cube = self.cube(self.numbers())
        step = max(1, numbers * cube.shape[1] // max(1, cube.size))
        for start in range(0, cube.shape[1], step):
            rows = slice(start, min(start + step, cube.shape[1]))
            yield rows, cube[:, rows].astype(np.float64)

    def lines(self, rows: np.ndarray) -> list[np.ndarray]:
        """The weights of some outputs."""
        cube = self.cube(self.numbers())
        return [cube[divmod(row, cube.shape[1])] for row in rows.tolist()]

    def cube(self, array: np.ndarray) -> np.ndarray:
        """[groups, outputs, inputs, taps] view of an array of the weight's shape."""
        if array.ndim == 2 and self.node.name in ("matmul", "gemm"):
            return (array if self.rows_axis == 0 else array.T)[None, :, :, None]
        taps = math.prod(array.shape[2:])
        if self.node.name == "conv":
            return array.reshape(self.groups, -1, array.shape[1], taps)
        shaped = array.reshape(self.groups, -1, array.shape[1], taps)
        return shaped.transpose(0, 2, 1, 3)


@dataclass(frozen=True, eq=False)
class Table:
    """A gather of rows of a constant matrix, an embedding say: its columns make the channels of the result."""

    node: Node
    scan: Scan

    @property
    def w(self) -> Value:
        return self.node.operands[0]  # type: ignore[return-value]

    @property
    def out_axis(self) -> int:
        return len(self.node.result.shape) - 1  # type: ignore[arg-type]

    @property
    def outputs(self) -> int:
        return self.w.shape[1]  # type: ignore[index, return-value]

    @cached_property
    def is_odd(self) -> bool:
        """Whether a column may be zero, like another, or constant: the same in some rows."""
        some = self.w.weight.tensor.region((0, 0), (min(ROWS, self.w.shape[0]), self.outputs))  # type: ignore[union-attr, index, type-var, arg-type]
        return not self.scan.is_plain or bool((some == some[:1]).all(axis=0).any())

    @cached_property
    def is_finite(self) -> bool:
        return is_finite(self.w.weight.tensor)  # type: ignore[union-attr]

    def lines(self, columns: np.ndarray) -> list[np.ndarray]:
        return list(self.w.array()[:, columns].T)


class Products:
    """Makes products and tables of nodes; every matrix is looked at once, however often it is asked for."""

    def __init__(self) -> None:
        self.scans: dict[tuple[Value, int], Scan] = {}

    def of(self, node: Node) -> Product | None:
        """The product that a node is; None where it multiplies two computed values, or its sizes are not known."""
        make = _MAKERS.get(node.name)
        if make is None or any(v is None or v.shape is None for v in node.operands[:2]) or node.result.shape is None:
            return None
        found = make(node)
        if found is None:
            return None
        x, w = node.operands[found.data], node.operands[found.weight]
        static = [x.shape[found.data_axis], node.result.shape[found.out_axis], *w.shape]  # type: ignore[union-attr, index, misc]
        return self._scanned(node, found) if all(type(n) is int and n > 0 for n in static) else None

    def table(self, node: Node) -> Table | None:
        """The table that a gather looks up; None for other gathers."""
        if node.name != "gather" or node.result.shape is None:
            return None
        w = node.operands[0]
        plain = _is_numbers(w) and w.rank == 2 and node.attr("axis") in (0, -2)  # type: ignore[arg-type, union-attr]
        return Table(node, self._scan(w, 1)) if plain and w.shape[0] > 1 < w.shape[1] else None  # type: ignore[union-attr, index, operator, arg-type]

    def _scanned(self, node: Node, form: Form) -> Product:
        made = Product(node, *form[:4], _PLAIN, *form[4:])
        return replace(made, scan=self._scan(made.w, made.rows_axis))

    def _scan(self, w: Value, rows_axis: int) -> Scan:
        key = (w, rows_axis)
        if key not in self.scans:
            self.scans[key] = scan(w.weight.tensor, rows_axis)  # type: ignore[union-attr]
        return self.scans[key]


class Form(NamedTuple):
    data: int
    weight: int
    data_axis: int
    out_axis: int
    groups: int = 1
    partial: bool = False
    alpha: float = 1.0


_PLAIN = Scan((np.zeros(0, bool), np.zeros(0, bool)), np.zeros(0))


def _is_numbers(value: Value) -> bool:
    """A constant of reals."""
    return value.is_const and value.dtype in REAL


def _conv(node: Node) -> Form | None:
    x, w = node.operands[:2]
    if not _is_numbers(w) or len(x.shape) < 3 or len(w.shape) != len(x.shape):  # type: ignore[arg-type, union-attr]
        return None
    at = len(x.shape) - 1 if node.attr("channels_last") else 1  # type: ignore[arg-type, union-attr]
    padded = node.attr("auto_pad") != "explicit" or any(node.attr("pads"))
    return Form(0, 1, at, at, node.attr("groups"), padded)


def _conv_transpose(node: Node) -> Form | None:
    made = _conv(node)
    if made is None:
        return None
    point = all(n == 1 for n in node.operands[1].shape[2:]) and all(s == 1 for s in node.attr("strides"))  # type: ignore[index]
    plain = not made.partial and not any(node.attr("output_padding")) and not node.attr("output_shape")
    return made._replace(partial=not (point and plain))


def _matmul(node: Node) -> Form | None:
    a, b = node.operands[:2]
    if len(a.shape) >= 2 and len(b.shape) == 2 and _is_numbers(b):  # type: ignore[arg-type, union-attr]
        return Form(0, 1, len(a.shape) - 1, len(a.shape) - 1)  # type: ignore[arg-type, union-attr]
    if len(b.shape) >= 2 and len(a.shape) == 2 and _is_numbers(a):  # type: ignore[arg-type, union-attr]
        return Form(1, 0, len(b.shape) - 2, len(b.shape) - 2)  # type: ignore[arg-type, union-attr]
    return None


def _gemm(node: Node) -> Form | None:
    if not _is_numbers(node.operands[1]):  # type: ignore[arg-type]
        return None
    return Form(0, 1, 0 if node.attr("transA") else 1, 1, alpha=node.attr("alpha"))


_MAKERS = {"conv": _conv, "conv_transpose": _conv_transpose, "matmul": _matmul, "gemm": _gemm}
