"""lstm, gru and rnn: the two matrices that they multiply with, and which of their hidden units are zero or equal all the time.

ONNX orders gates as i o f c (lstm) and z r h (gru); the last one writes the state. A unit whose writer has no weights and that
begins at zero stays there; units with the same weights that begin alike are equal at every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from ...ir.graph import Node, Value
from ...ir.tensor import LazyTensor, Tensor
from ..prune.rules_recurrent import GATES, STATES, stays_zero
from .products import REAL, Product
from .scan import BLOCK, Scan, is_finite
from .twins import Twins, distinct, equal, of_rows

#: The gate that writes the state.
_WRITER = {"lstm": 3, "gru": 2, "rnn": 0}
#: Move what they are given, whatever else they take.
_SPREADS = frozenset({"expand", "reshape", "unsqueeze", "squeeze", "transpose", "tile", "slice"})
#: Weights of each row that are looked at before all are.
SAMPLE = 8
_NOTHING = Scan((np.zeros(0, bool), np.zeros(0, bool)), np.zeros(0))


@dataclass(frozen=True, eq=False)
class Gates(Product):
    """W [directions, gates, inputs] over the data, or R [directions, gates, units] over the units as they were a step ago."""

    is_layer: ClassVar[bool] = False

    @property
    def x(self) -> Value:
        return self.node.operands[0] if self.weight == 1 else self.node.results[0]  # type: ignore[return-value]

    @property
    def bias(self) -> None:
        return None

    @property
    def outputs(self) -> int:
        return self.w.shape[0] * self.w.shape[1]  # type: ignore[index, operator, return-value]

    @cached_property
    def zero_columns(self) -> np.ndarray:
        tensor = self.w.weight.tensor  # type: ignore[union-attr]
        directions, rows, width = tensor.shape
        step, zero = max(1, BLOCK // (width * tensor.dtype.numpy.itemsize)), np.arange(width)
        for start in range(0, rows, step):
            block = tensor.region((0, start, 0), (directions, min(rows, start + step), width))
            zero = zero[~block[:, :, zero].any(axis=(0, 1))]
            if not len(zero):
                break
        return np.isin(np.arange(width), zero)

    def cube(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(1, -1, array.shape[2], 1)


def gates(node: Node) -> tuple[Gates, Gates]:
    """W and R of a node that `units` knows."""
    ends = len(node.operands[0].shape) - 1, len(node.results[0].shape) - 1  # type: ignore[arg-type, union-attr]
    return Gates(node, 0, 1, ends[0], ends[1], _NOTHING), Gates(node, 0, 2, ends[1], ends[1], _NOTHING)


@dataclass(frozen=True)
class Units:
    """Of hidden units: those that are zero at every step, and which are equal."""

    zero: np.ndarray
    twins: Twins

    @property
    def odd(self) -> np.ndarray:
        """bool [units]: zero, or equal to another."""
        _, group, count = np.unique(self.twins.ids, return_inverse=True, return_counts=True)
        return self.zero | (count[group] > 1)


def units(node: Node) -> Units | None:
    """None where weights are computed, or are no numbers. A few weights of each gate often show that there are none."""
    size, places = node.attr("hidden_size"), (1, 2, 3, *STATES[node.name], 7)
    given = [_operand(node, i) for i in places]
    shaped = node.operands[0].shape is not None and all(v.shape is not None for v in node.results)  # type: ignore[union-attr]
    states = [i in STATES[node.name] for i in places]
    known = [v is None or (v.is_const and v.dtype in REAL) for v in given]
    if size < 2 or not shaped or not all(k or s for k, s in zip(known, states, strict=True)):
        return None
    nothing = np.zeros(size, bool)
    if not all(known):
        return Units(nothing, distinct(size))
    tensors = [None if v is None else v.weight.tensor for v in given]  # type: ignore[union-attr]
    parts = [(t, size, s) for t, s in zip(tensors, states, strict=True)]
    odd = _looked_at(node, [_of_all(*part) for part in parts], ~nothing).odd
    if not odd.any():
        return Units(nothing, distinct(size))
    if not all(is_finite(t) for t in tensors if t is not None):
        return None
    return _looked_at(node, [_of_some(*part, np.flatnonzero(odd)) for part in parts], odd)


def _looked_at(node: Node, by_unit: list[np.ndarray | None], chosen: np.ndarray) -> Units:
    """What these arrays tell of the chosen units; of the others nothing."""
    rows = np.concatenate([array.reshape(len(array), -1) for array in by_unit if array is not None], axis=1)
    found = of_rows(list(rows))
    zero, twins = np.zeros(len(chosen), bool), distinct(len(chosen))
    zero[chosen] = _silent(node, by_unit)
    twins.ids[chosen] = len(chosen) + equal(found.ids[:, None], found.factor[:, None]).ids
    return Units(zero, twins)


def _operand(node: Node, index: int) -> Value | None:
    """An operand; None where there is none. A state of zeros, of some shape, is none."""
    given = value = node.operands[index] if index < len(node.operands) else None
    while value is not None and value.node is not None and value.node.name in _SPREADS:
        value = value.node.operands[0]
    if index not in STATES[node.name] or value is None:
        return given
    made = value.node is not None and value.node.name == "constant_of_shape" and value.node.attr("value") == 0
    return None if made or value.scalar() == 0 else given


def _of_all(tensor: Tensor | None, size: int, is_state: bool) -> np.ndarray | None:
    """The first weights of each row of all units."""
    if tensor is None:
        return None
    few = tensor.shape if is_state else (*tensor.shape[:2], *(min(SAMPLE, n) for n in tensor.shape[2:]))
    return _by_unit(tensor.region((0,) * len(few), few), size, is_state)


def _of_some(tensor: Tensor | None, size: int, is_state: bool, units: np.ndarray) -> np.ndarray | None:
    """All that there is of some units."""
    if tensor is None:
        return None
    axis = 2 if is_state else 1
    places = tuple((np.arange(0, tensor.shape[axis], size)[:, None] + units).reshape(-1).tolist())
    return _by_unit(LazyTensor("take", (tensor,), {"axis": axis, "indices": places}).numpy(), len(units), is_state)


def _by_unit(array: np.ndarray, size: int, is_state: bool) -> np.ndarray:
    """[units, directions, gates, inputs] of [directions, gates * units, inputs], or of a state [directions, batch, units]."""
    if is_state:
        return np.moveaxis(array[..., None], 2, 0)
    return np.moveaxis(array.reshape(len(array), -1, size, array.shape[2] if array.ndim == 3 else 1), 2, 0)


def _silent(node: Node, by_unit: list[np.ndarray | None]) -> np.ndarray:
    """Units whose writer has neither weights nor bias, and that begin at zero."""
    w, r, bias, *states = by_unit[: 3 + len(STATES[node.name])]
    at, count = _WRITER[node.name], GATES[node.name]
    rows = [w[:, :, at], r[:, :, at], *([] if bias is None else [bias[:, :, at], bias[:, :, at + count]])]  # type: ignore[index]
    moved = [array.reshape(len(array), -1).any(axis=1) for array in (*rows, *states) if array is not None]
    return ~np.logical_or.reduce(moved) & stays_zero(node)
