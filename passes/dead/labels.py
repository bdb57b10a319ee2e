"""Which channels are surely equal: numbers along an axis of a value, equal where the slices are, by one walk.

Begins at rows of a matrix that are equal with their biases, and goes on through whatever treats both alike. A value without
labels has no slices that are known to be equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...ir.graph import Module, Node, Value
from ...ir.opdef import ELEMENTWISE
from .movement import channel_axis, origin
from .products import Product
from .spans import LARGEST

Labels = np.ndarray
_NORMS = frozenset({"batch_norm", "instance_norm"})


class Equalities:
    """The labels of all values of a module."""

    def __init__(self, module: Module, products: Mapping[Node, Product]) -> None:
        self.along: dict[Value, dict[int, Labels]] = {}
        self.products = products
        for graph in module.all_graphs():
            for node in graph.nodes():
                self._node(node)

    def at(self, value: Value | None, axis: int) -> Labels | None:
        return None if value is None else self.along.get(value, {}).get(axis)

    def _node(self, node: Node) -> None:
        product = self.products.get(node)
        if product is not None:
            self._tell(node.result, product.out_axis, self._rows(product))
        elif not any(v in self.along for v in node.operands if v is not None):
            return
        elif node.has(ELEMENTWISE):
            self._elementwise(node)
        elif node.name in _NORMS:
            at = channel_axis(node)
            columns = [self.at(node.operands[0], at), *(_of_constant(v, 0) for v in node.operands[1:])]
            self._tell(node.result, at, together(columns))
        elif not node.regions:
            for index, value in enumerate(node.results):
                for axis in range(len(value.shape or ())):
                    self._tell(value, axis, self._moved(node, index, axis))

    def _tell(self, value: Value, axis: int, labels: Labels | None) -> None:
        if labels is not None and len(np.unique(labels)) < len(labels):
            self.along.setdefault(value, {})[axis] = labels

    def _rows(self, p: Product) -> Labels | None:
        """Rows with the same weights and bias, in groups whose data is the same."""
        candidates = p.equal_sums
        if candidates is None or not p.is_finite:
            return None
        x = self.at(p.x, p.data_axis)
        groups = np.arange(p.groups) if x is None else _ids(x.reshape(p.groups, -1))
        if p.groups > 1 and x is None:
            groups = np.arange(p.groups)
        inside = np.repeat(groups, p.outputs // p.groups)
        bias = _of_bias(p)
        return None if bias is None else together([_of_rows(p, candidates), inside, bias])

    def _elementwise(self, node: Node) -> None:
        shape = node.result.shape
        if shape is None or any(v is not None and v.shape is None for v in node.operands):
            return
        axes = {axis + len(shape) - len(v.shape) for v in node.operands if v in self.along for axis in self.along[v]}  # type: ignore[arg-type, union-attr, index]
        for axis in sorted(axes):
            columns: list[Labels | None] = []
            for value in node.operands:
                place = -1 if value is None else axis - len(shape) + len(value.shape)  # type: ignore[arg-type]
                if value is not None and place >= 0 and value.shape[place] != 1:  # type: ignore[index]
                    columns.append(_of_constant(value, place) if value.is_const else self.at(value, place))
            self._tell(node.result, axis, together(columns))

    def _moved(self, node: Node, index: int, axis: int) -> Labels | None:
        found = origin(node, index, axis)
        if found is None:
            return None
        rows = []
        for beside in found:
            columns = []
            for part in beside:
                labels = self.at(node.operands[part.operand], part.axis)
                if labels is None:
                    if len(found) == 1:
                        return None
                    labels = np.arange(node.operands[part.operand].shape[part.axis])  # type: ignore[union-attr, index, arg-type]
                table = np.append(labels, -1)[part.table]
                columns.append(_ids(table if part.within is None else np.column_stack([table, part.within])))
            rows.append(together(columns))
        offsets = np.cumsum([0, *(len(row) for row in rows)])  # type: ignore[arg-type]
        return np.concatenate([row + offset for row, offset in zip(rows, offsets, strict=False)])  # type: ignore[operator]


def together(columns: Sequence[Labels | None]) -> Labels | None:
    """Equal where all are; None where one of them has no equals."""
    if not columns or any(column is None for column in columns):
        return None
    return _ids(np.stack(columns, axis=1))  # type: ignore[arg-type]


def _ids(table: np.ndarray) -> Labels:
    """A number for each row of a table."""
    return np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)


def _of_constant(value: Value | None, axis: int) -> Labels | None:
    if value is None or not value.is_const or value.weight.tensor.size > LARGEST:  # type: ignore[union-attr]
        return None
    array = np.moveaxis(value.array(), axis, 0)
    return _of_arrays([np.ascontiguousarray(row) for row in array])


def _of_arrays(rows: Sequence[np.ndarray]) -> Labels:
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault((row + row.dtype.type(0)).tobytes(), len(seen)) for row in rows])  # no -0.0


def _of_bias(p: Product) -> Labels | None:
    bias = p.bias
    if bias is None or not bias.shape or bias.shape[-1] == 1:
        return np.zeros(p.outputs, int)
    return _of_constant(bias, len(bias.shape) - 1) if bias.shape[-1] == p.outputs else None


def _of_rows(p: Product, candidates: np.ndarray) -> Labels:
    """A number for each row; only those are compared whose sums are equal."""
    labels = np.arange(p.outputs)
    cube = p.cube(p.numbers())
    per_group = cube.shape[1]
    rows = [np.ascontiguousarray(cube[place // per_group, place % per_group]) for place in candidates.tolist()]
    labels[candidates] = p.outputs + _of_arrays(rows)
    return labels
