"""Layers: nodes that multiply data by a constant float matrix, and that matrix as rows of outputs over columns of inputs.

    for layer in layers(module):
        rows = layer.matrix(layer.array())           # [outputs, what each output sums over]
        layer.store(module, layer.restore(rows), "halved")

Convolutions lay their columns out taps first and input channels last, so that runs of neighbours along a row are runs of
input channels. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...ir.graph import Module, Node, Value
from ...ir.tensor import ArrayTensor
from ...ir.types import BF16, F16, F32, F64
from ..select import layer_name, select

REAL = frozenset({F16, BF16, F32, F64})


@dataclass(frozen=True)
class Layer:
    """Operand `index` of `node` is the matrix, its axes taken in the order `perm`, of which the first `row_axes` are rows."""

    node: Node
    index: int
    perm: tuple[int, ...]
    row_axes: int

    @property
    def value(self) -> Value:
        return self.node.operands[self.index]  # type: ignore[return-value]

    @property
    def name(self) -> str:
        """How people know the layer; a recurrent one has two matrices, told apart by their weights' keys."""
        return layer_name(self.node) if self.node.name not in RECURRENT else self.value.weight.key  # type: ignore[union-attr]

    @property
    def channels(self) -> int:
        """Output channels; rows of the matrix are theirs, evenly and in order."""
        return self.value.shape[self.perm[0]]  # type: ignore[index, return-value]

    def array(self) -> np.ndarray:
        return self.value.array()

    def matrix(self, array: np.ndarray) -> np.ndarray:
        """[rows, columns] of an array of the weight's shape."""
        turned = array.transpose(self.perm)
        rows = int(np.prod(turned.shape[: self.row_axes]))
        return turned.reshape(rows, -1)

    def restore(self, matrix: np.ndarray) -> np.ndarray:
        """The inverse of `matrix`, contiguous."""
        shape = self.value.array().shape
        turned = matrix.reshape([shape[axis] for axis in self.perm])
        return np.ascontiguousarray(turned.transpose(np.argsort(self.perm)))

    def store(self, module: Module, array: np.ndarray, origin: str) -> None:
        """New contents of the same type; `origin` says how they came about."""
        weight = self.value.weight
        assert weight is not None
        module.set_weight(weight, ArrayTensor(array.astype(self.array().dtype, copy=False)))
        weight.origin = f"{weight.origin}; {origin}" if weight.origin else origin


def _conv(node: Node) -> list[Layer]:
    rank = node.operands[1].rank  # type: ignore[union-attr]
    return [Layer(node, 1, (0, *range(2, rank), 1), 1)]  # type: ignore[arg-type]


def _conv_transpose(node: Node) -> list[Layer]:
    rank = node.operands[1].rank  # type: ignore[union-attr]
    return [Layer(node, 1, (1, *range(2, rank), 0), rank - 1)]  # type: ignore[arg-type, operator]


def _gemm(node: Node) -> list[Layer]:
    left = Layer(node, 0, (1, 0) if node.attr("transA") else (0, 1), 1)
    return [left, Layer(node, 1, (0, 1) if node.attr("transB") else (1, 0), 1)]


def _matmul(node: Node) -> list[Layer]:
    left, right = (value.rank for value in node.operands[:2])  # type: ignore[union-attr]
    made = []
    if left is not None and left >= 2:
        made.append(Layer(node, 0, tuple(range(left)), left - 1))
    if right is not None and right >= 2:
        made.append(Layer(node, 1, (*range(right - 2), right - 1, right - 2), right - 1))
    return made


def _recurrent(node: Node) -> list[Layer]:
    return [Layer(node, 1, (1, 0, 2), 2), Layer(node, 2, (1, 0, 2), 2)]


RECURRENT = frozenset({"lstm", "gru", "rnn"})
_LAYERS: dict[str, Callable[[Node], list[Layer]]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "gemm": _gemm,
    "matmul": _matmul,
    **dict.fromkeys(RECURRENT, _recurrent),
}


def layers_of(node: Node) -> list[Layer]:
    """The matrices of one node: constant, of a real float type, with at least one element; mostly none or one."""
    make = _LAYERS.get(node.name)
    if make is None or not any(value.is_const for value in node.inputs()):
        return []
    return [layer for layer in make(node) if _is_matrix(layer.value)]


def _is_matrix(value: Value) -> bool:
    return value.is_const and value.dtype in REAL and value.weight.tensor.size > 0  # type: ignore[union-attr]


def layers(module: Module, where: str = "") -> list[Layer]:
    """Every matrix of the module that `where` selects, each once, in order; a shared one with its first user.

    Raises UsageError (R022) when `where` selects no layer.
    """
    nodes = [node for node in module.all_nodes(*_LAYERS) if layers_of(node)]
    found: dict[Value, Layer] = {}
    for node in select(module, where, nodes) if where else nodes:
        for layer in layers_of(node):
            found.setdefault(layer.value, layer)
    return list(found.values())
