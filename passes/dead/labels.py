"""Which channels are surely equal, or one a power of two times another: `Twins` along axes of values, by one walk.

Begins at rows of a matrix, columns of a table and units of a recurrence that are twins with their biases, and goes on through
whatever treats both alike. Of a value that is not listed nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...ir.graph import Module, Node, Value
from ...ir.opdef import ELEMENTWISE, MOVEMENT
from .layers import Layers
from .movement import Part, channel_axis, origin
from .products import Product, Table
from .recurrence import Units
from .spans import LARGEST
from .twins import Twins, distinct, equal, inverse, of_rows, one_for_all, product, proportional, stacked

#: f(c x, c y, ..) = c f(x, y, ..) for all c, and for c > 0.
_LINEAR = frozenset({"add", "sub", "neg", "identity"})
_POSITIVE = frozenset({
    "relu", "leaky_relu", "abs", "max", "min", "clip", "max_pool", "global_max_pool", "adaptive_max_pool", "lp_pool",
    "global_lp_pool", "reduce_max", "reduce_min", "reduce_l1", "reduce_l2",
})  # fmt: skip
#: Ops that move or average are linear; these are not.
_CURVED = frozenset({
    "reduce_prod", "reduce_sum_square", "reduce_log_sum", "reduce_log_sum_exp", "reduce_all", "reduce_any",
})  # fmt: skip
#: A twin of what one part holds may be in another.
_PARTING = frozenset({"split", "slice", "gather"})


class Equalities:
    """The twins of all values of a module."""

    def __init__(self, module: Module, layers: Layers) -> None:
        self.along: dict[Value, dict[int, Twins]] = {}
        self.products, self.tables, self.units = layers.products, layers.tables, layers.units
        self.names = 0
        for graph in module.all_graphs():
            for node in graph.nodes():
                self._node(node)

    def at(self, value: Value | None, axis: int) -> Twins | None:
        return None if value is None else self.along.get(value, {}).get(axis)

    def _node(self, node: Node) -> None:
        if node in self.products:
            made = self.products[node]
            self._tell(node.result, made.out_axis, self._rows(made))
        elif node in self.tables:
            self._tell(node.result, self.tables[node].out_axis, _columns(self.tables[node]))
        elif node in self.units:
            self._units(node, self.units[node])
        elif not any(v in self.along for v in node.operands if v is not None):
            return
        elif node.has(ELEMENTWISE):
            self._elementwise(node)
        elif node.name in _RULES:
            _RULES[node.name](self, node)
        elif not node.regions:
            for index, value in enumerate(node.results):
                for axis in range(value.rank or 0):
                    moved = self._moved(node, index, axis)
                    if moved is not None and (moved.says or node.name in _PARTING):
                        self.along.setdefault(value, {})[axis] = moved

    def _tell(self, value: Value, axis: int, twins: Twins | None) -> None:
        if twins is not None and twins.says:
            self.along.setdefault(value, {})[axis] = self._renamed(twins)

    def _renamed(self, twins: Twins) -> Twins:
        """With names that no other value has."""
        first, self.names = self.names, self.names + int(twins.ids.max(initial=-1)) + 1
        return Twins(twins.ids + first, twins.factor)

    def _units(self, node: Node, units: Units) -> None:
        for value in node.results:
            self._tell(value, (value.rank or 0) - 1, units.twins)

    def _rows(self, p: Product) -> Twins | None:
        """Rows that are twins with their biases, in groups whose data are twins."""
        candidates = p.equal_sums
        if candidates is None or not p.is_finite:
            return None
        rows = _chosen(p.outputs, candidates, p.lines(candidates))
        if p.groups > 1:
            x = self.at(p.x, p.data_axis)
            given = distinct(p.groups) if x is None else x.blocks(p.groups)
            rows = product([rows, given.take(np.repeat(np.arange(p.groups), p.outputs // p.groups))])
        bias = _of_bias(p)
        return None if bias is None else proportional(*stacked([rows, bias]))

    def _elementwise(self, node: Node) -> None:
        rank = node.result.rank
        if rank is None or any(v is not None and v.shape is None for v in node.operands):
            return
        axes = {a + rank - v.rank for v in node.operands if v in self.along for a in self.along[v]}  # type: ignore[operator, union-attr, index]
        for axis in sorted(axes):
            size = node.result.shape[axis]  # type: ignore[index]
            columns = [self._column(v, axis - rank + v.rank, size) for v in node.operands if v is not None]  # type: ignore[operator, arg-type]
            self._tell(node.result, axis, _function(node.name, columns))

    def _column(self, value: Value, axis: int, size: int) -> Twins | None:
        """An operand along an axis, or the same everywhere where it has none, or one of size 1."""
        if axis < 0 or value.shape[axis] == 1:  # type: ignore[index]
            return one_for_all(size, zero=value.scalar() == 0)
        return _of_constant(value, axis) if value.is_const else self.at(value, axis)

    def _moved(self, node: Node, index: int, axis: int) -> Twins | None:
        found = origin(node, index, axis)
        pieces = [[self._piece(node, part) for part in beside] for beside in found or ()]
        known = [piece is not None for beside in pieces for piece in beside]
        if not any(known) or not (len(pieces) > 1 or all(known)):
            return None
        rows = []
        for beside, parts in zip(pieces, found, strict=True):  # type: ignore[arg-type]
            columns = [x or self._renamed(distinct(len(part.table))) for x, part in zip(beside, parts, strict=True)]
            rows.append(columns[0] if len(columns) == 1 else self._renamed(_moving(node)(*stacked(columns))))
        return Twins(np.concatenate([row.ids for row in rows]), np.concatenate([row.factor for row in rows]))

    def _piece(self, node: Node, part: Part) -> Twins | None:
        """What a part takes of an operand: its channels as they are, or what the op makes of several."""
        twins = self.at(node.operands[part.operand], part.axis)
        if twins is None:
            return None
        alone = part.within is None and part.table.shape[1] == 1 and part.table.min() >= 0
        if alone and node.has(MOVEMENT):
            return twins.take(part.table[:, 0])
        source = twins.padded()
        made = _moving(node)(source.ids[part.table], source.factor[part.table])
        return self._renamed(made if part.within is None else product([made, _named(part.within)]))

    # Ops with a rule of their own.

    def _along_all(self, node: Node) -> None:
        """Equal slices give equal slices, along whatever axis."""
        for axis, twins in self.along.get(node.operands[0], {}).items():  # type: ignore[arg-type]
            self._tell(node.result, axis, _function("", [twins]))

    def _normed_rows(self, node: Node) -> None:
        """Norms of what stands behind the axis."""
        for axis, twins in self.along.get(node.operands[0], {}).items():  # type: ignore[arg-type]
            if axis < node.attr("axis") % (node.result.rank or 1):
                self._tell(node.result, axis, _function("", [twins]))

    def _batch_norm(self, node: Node) -> None:
        at = channel_axis(node)
        centred = [self.at(node.operands[0], at), *(_of_constant(v, 0) for v in node.operands[3:5])]
        self._scaled(node, at, _function("", centred))

    def _normed(self, node: Node) -> None:
        """Channels, or whole groups of them, about their own mean."""
        at = channel_axis(node)
        x = self.at(node.operands[0], at)
        if x is not None:
            groups = node.attr("num_groups") if node.name == "group_norm" else len(x.ids)
            whole = equal(x.ids.reshape(groups, -1), x.factor.reshape(groups, -1))
            self._scaled(node, at, _within(whole, len(x.ids) // groups))

    def _scaled(self, node: Node, at: int, centred: Twins | None) -> None:
        """Times a scale, and a bias added."""
        scale, bias = (_of_constant(v, 0) for v in node.operands[1:3])
        if centred is not None and scale is not None and bias is not None:
            self._tell(node.result, at, proportional(*stacked([product([centred, scale]), bias])))

    def _computed_product(self, node: Node) -> None:
        """Of two computed values: along an axis of both, heads say, where both are twins; along one that only one has, its."""
        amap, shape = node.op.axis_map(node), node.result.shape
        if amap is None or shape is None or (node.name == "gemm" and any(v is not None for v in node.operands[2:])):
            return
        for axis, label in enumerate(amap.results[0]):
            columns = [
                self._column(value, place, shape[axis])  # type: ignore[arg-type]
                for value, labels in zip(node.operands, amap.operands, strict=False)
                for place, other in enumerate(labels or ())
                if value is not None and label is not None and other is not None and other.label == label.label
            ]
            if columns and type(shape[axis]) is int and all(c is not None for c in columns):
                self._tell(node.result, axis, product(columns))  # type: ignore[arg-type]

    def _rotary(self, node: Node) -> None:
        """Heads are turned alike."""
        x = node.operands[0]
        axis, heads = (1, 0) if x.rank == 4 else (2, node.attr("num_heads"))  # type: ignore[union-attr]
        twins = self.at(x, axis)
        if twins is not None and (heads or axis == 1):
            count = heads or len(twins.ids)
            self._tell(node.result, axis, _within(twins.blocks(count), len(twins.ids) // count))

    def _attention(self, node: Node) -> None:
        """Heads whose queries, keys and values are twins; what else there is must be alike for all heads."""
        if any(_has_heads(v) for v in node.operands[3:]) or any(v is None or v.rank is None for v in node.operands[:3]):
            return
        heads = [node.attr("q_num_heads"), *[node.attr("kv_num_heads")] * 2]
        axis = 1 if node.operands[0].rank == 4 else 2  # type: ignore[union-attr]
        found = [self.at(v, axis) for v in node.operands[:3]]
        y = node.results[0]
        if any(twins is None for twins in found) or y.rank != node.operands[0].rank or type(y.shape[axis]) is not int:  # type: ignore[union-attr, index]
            return
        counts = [len(t.ids) if axis == 1 else n for t, n in zip(found, heads, strict=True)]  # type: ignore[union-attr]
        q, *kv = (t.blocks(n) for t, n in zip(found, counts, strict=True))  # type: ignore[union-attr]
        shared = np.repeat(np.arange(counts[1]), counts[0] // counts[1])
        k, v = (twins.take(shared) for twins in kv)
        made = product([equal(*stacked([q, k])), v])
        self._tell(y, axis, _within(made, y.shape[axis] // counts[0]))  # type: ignore[index, operator, arg-type]


_RULES: dict[str, Callable[[Equalities, Node], None]] = {
    "batch_norm": Equalities._batch_norm,
    **dict.fromkeys(("instance_norm", "group_norm"), Equalities._normed),
    **dict.fromkeys(("layer_norm", "rms_norm"), Equalities._normed_rows),
    **dict.fromkeys(("softmax", "log_softmax"), Equalities._along_all),
    **dict.fromkeys(("matmul", "gemm", "einsum"), Equalities._computed_product),
    "attention": Equalities._attention,
    "rotary_embedding": Equalities._rotary,
}


def _function(name: str, columns: Sequence[Twins | None]) -> Twins | None:
    """What an elementwise op makes of its operands; None where one of them has no twins."""
    known = [c for c in columns if c is not None]
    if not known or len(known) != len(columns):
        return None
    if name in _LINEAR or name in _POSITIVE:
        return proportional(*stacked(known), signed=name in _POSITIVE)
    if name == "mul":
        return product(known)
    if name == "div" and (under := inverse(known[1])) is not None:
        return product([known[0], under])
    if name == "prelu":
        return product([proportional(*stacked(known[:1]), signed=True), equal(*stacked(known[1:]))])
    return equal(*stacked(known))


def _moving(node: Node) -> Callable[[np.ndarray, np.ndarray], Twins]:
    """What an op does to slices that it moves, pools or reduces."""
    filled = node.name == "pad" and node.attr("mode") == "constant" and len(node.operands) > 2
    if node.name in _CURVED or (filled and node.operands[2] is not None and node.operands[2].scalar() != 0):
        return equal
    return lambda ids, factors: proportional(ids, factors, signed=node.name in _POSITIVE)


def _within(whole: Twins, count: int) -> Twins:
    """Of `count` channels in each of some blocks: like those at the same place in blocks like it."""
    blocks = np.repeat(np.arange(len(whole.ids)), count)
    return product([whole.take(blocks), _named(np.tile(np.arange(count), len(whole.ids)))])


def _named(ids: np.ndarray) -> Twins:
    return Twins(ids, np.ones(len(ids)))


def _has_heads(value: Value | None) -> bool:
    """Whether a mask or cache may differ from head to head."""
    return value is not None and (value.rank is None or (value.rank >= 3 and value.shape[value.rank - 3] != 1))  # type: ignore[index]


def _of_constant(value: Value | None, axis: int) -> Twins | None:
    if value is None or not value.is_const or value.weight.tensor.size > LARGEST:  # type: ignore[union-attr]
        return None
    return of_rows(list(np.moveaxis(value.array(), axis, 0)))


def _of_bias(p: Product) -> Twins | None:
    bias = p.bias
    if bias is None or not bias.shape or bias.shape[-1] == 1:
        return one_for_all(p.outputs, zero=bias is None or bias.scalar() == 0)
    return _of_constant(bias, len(bias.shape) - 1) if bias.shape[-1] == p.outputs else None


def _columns(table: Table) -> Twins | None:
    candidates = table.scan.equal
    return _chosen(table.outputs, candidates, table.lines(candidates)) if len(candidates) and table.is_finite else None


def _chosen(count: int, candidates: np.ndarray, lines: Sequence[np.ndarray]) -> Twins:
    """Only those are compared of which a first look says that they may be twins."""
    made, found = distinct(count), of_rows(lines)
    made.ids[candidates], made.factor[candidates] = count + found.ids, found.factor
    return made
