"""Which channels something reads: from what is pinned backwards, over what every op sums.

A class of atoms (`passes/prune`) runs through the graph until ops sum over it. It is read by an op where the data and the
weights are not zero there, and where what the op makes is read in turn; for a product this is told for each pair of input
and output, for other ops as a whole. A class that nothing reads may go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from ...ir.graph import Module, Node
from ...ir.opdef import ELEMENTWISE
from ..prune.atoms import Axis, Classes, Lane, lanes_of
from ..prune.groups import Analysis
from ..prune.rules import reduced_axes
from .layers import Layers
from .products import Product
from .recurrence import gates
from .spans import BLOCK, Spans

#: Hand atoms through, index by index, or pin them; nothing is summed over an axis that is not pinned.
PASSING = frozenset({
    "batch_norm", "instance_norm", "group_norm", "softmax", "log_softmax", "hardmax", "lrn", "mean_variance_normalization",
    "cumsum", "cumprod", "reverse_sequence", "topk", "arg_max", "arg_min", "max_pool", "average_pool", "lp_pool",
    "global_average_pool", "global_max_pool", "global_lp_pool", "adaptive_average_pool", "adaptive_max_pool", "quantize",
    "dequantize", "transpose", "unsqueeze", "squeeze", "concat", "split", "slice", "reverse", "gather", "pad", "expand",
    "constant_of_shape", "tile", "shape", "depth_to_space", "space_to_depth", "resize", "trilu", "reshape", "flatten",
    "rotary_embedding", "call", "if", "loop", "scan",
})  # fmt: skip

#: Zeros add nothing to these.
ZERO_FREE = frozenset({"reduce_sum", "reduce_l1", "reduce_l2", "reduce_sum_square", "rms_norm", "lp_normalization"})


@dataclass(eq=False)
class Exit:
    """Where a product sums over its inputs. `reads`: inputs that may count at all; `taken`: those that an edit frees of their
    weights; `moves`: input -> (the input that takes its weights, factor)."""

    product: Product
    roots_in: np.ndarray
    roots_out: np.ndarray | None
    reads: np.ndarray
    taken: np.ndarray
    moves: dict[int, tuple[int, float]] = field(default_factory=dict)

    def read_by(self, live: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """bool [inputs]: those of `wanted` that have a weight towards an output that lives."""
        rows = None if self.roots_out is None else live[self.roots_out]
        if rows is None or rows.all():
            return wanted.copy()
        found = np.zeros(len(wanted), bool)
        if not rows.any() or not wanted.any():
            return found
        p = self.product
        cube = p.cube(p.numbers())
        groups, per_group, inside = cube.shape[:3]
        for group in range(groups):
            out = np.flatnonzero(rows.reshape(groups, per_group)[group])
            columns = np.flatnonzero(wanted.reshape(groups, inside)[group])
            step = max(1, BLOCK // max(1, len(columns) * cube.shape[3]))
            for start in range(0, len(out), step):
                block = cube[group][np.ix_(out[start : start + step], columns)]
                found.reshape(groups, inside)[group, columns] |= (block != 0).any(axis=(0, 2))
        return found

    def counting(self, live: np.ndarray) -> np.ndarray:
        """bool [inputs]: what counts now; an input that takes another's weights counts for it."""
        left = self.reads & ~self.taken
        found = self.read_by(live, left & ~live[self.roots_in])
        for source, (target, _) in self.moves.items():
            wanted = np.zeros(len(left), bool)
            wanted[source] = True
            if not found[target] and not live[self.roots_in[target]]:
                found[target] = self.read_by(live, wanted)[source]
        return found


class Liveness:
    """Exits and outright readers of a module, and from them the classes that are read."""

    def __init__(self, module: Module, analysis: Analysis, layers: Layers, spans: Spans) -> None:
        self.walk, self.classes, self.spans = analysis.walk, analysis.classes, spans
        self.layers = layers
        self.exits: list[Exit] = []
        self.held = np.zeros(self.walk.space.count, bool)
        for node in module.all_nodes():
            if node not in self.walk.dead:
                self._node(node)
        roots = cast(Classes, self.classes)
        self.held |= roots.pinned >= 0

    def live(self) -> np.ndarray:
        """bool [atoms], kept at roots: what is read, with the edits that are planned so far."""
        live = self.held.copy()
        changed = True
        while changed:
            changed = False
            for exit_ in reversed(self.exits):
                found = exit_.counting(live)
                if found.any():
                    live[exit_.roots_in[found]] = True
                    changed = True
        return live

    def roots(self, axis: Axis) -> np.ndarray:
        return self.classes.roots[axis.ids] if isinstance(axis, Lane) else np.zeros(0, np.intp)

    def _node(self, node: Node) -> None:
        if node in self.layers.products:
            self._product(self.layers.products[node])
        elif node in self.layers.units:
            self._recurrent(node)
        elif node.name in _SUMS:
            for lane, free in _SUMS[node.name](self, node):
                self._read(lane, free)
        elif not (node.has(ELEMENTWISE) or node.name in PASSING):
            for index, value in enumerate(node.operands):
                if value is not None:
                    for axis in self.walk.axes(node, index, zeroed=True, bundles=True):
                        self._read(axis, None)

    def _read(self, axis: Axis, free: np.ndarray | None) -> None:
        for lane in lanes_of(axis):
            ids = lane.ids if free is None or len(free) != len(lane.ids) else lane.ids[~free]
            self.held[self.classes.roots[ids]] = True

    def _product(self, p: Product) -> None:
        data = self.walk.axes(p.node, p.data)[p.data_axis]
        made = self.walk.values[p.node.result][p.out_axis]
        if not isinstance(data, Lane):
            return
        roots_in = self.roots(data)
        roots_out = self.roots(made) if isinstance(made, Lane) else None
        if roots_out is None or not _is_carried(roots_in, roots_out, p.groups):
            self._sum(p, roots_in, roots_out)

    def _recurrent(self, node: Node) -> None:
        """Its gates sum over the data, and over the units of a step ago."""
        unit = self.walk.values[node.results[0]][-1]
        for p in gates(node):
            data = self.walk.axes(node, 0)[-1] if p.weight == 1 else unit
            if isinstance(data, Lane):
                rows = None if not isinstance(unit, Lane) else np.tile(self.roots(unit), p.outputs // len(unit.ids))
                self._sum(p, self.roots(data), rows)

    def _sum(self, p: Product, roots_in: np.ndarray, roots_out: np.ndarray | None) -> None:
        x = self.spans.at(p.x, p.data_axis).wide(p.channels)
        silent = x.zero | p.zero_columns
        reads = ~silent if not silent.any() or p.is_finite else np.ones(p.channels, bool)
        self.exits.append(Exit(p, roots_in, roots_out, reads, np.zeros(p.channels, bool)))


def _is_carried(roots_in: np.ndarray, roots_out: np.ndarray, groups: int) -> bool:
    """Whether inputs and outputs of each group are one class: nothing is summed across classes."""
    if groups == 1:
        return False
    table_in, table_out = roots_in.reshape(groups, -1), roots_out.reshape(groups, -1)
    return bool((table_in == table_in[:, :1]).all() and (table_out == table_in[:, :1]).all())


# ---------------------------------------------------------------------------------------- what other ops sum over

Reads = Iterator[tuple[Axis, np.ndarray | None]]


def _reduced(live: Liveness, node: Node) -> Reads:
    row = live.walk.axes(node, 0)
    for axis in reduced_axes(node) or range(len(row)):
        yield row[axis], _zero(live, node, 0, axis)


def _normed(live: Liveness, node: Node) -> Reads:
    row = live.walk.axes(node, 0)
    at = node.attr("axis") % len(row) if row else 0
    for axis in [at] if node.name == "lp_normalization" else range(at, len(row)):
        yield row[axis], _zero(live, node, 0, axis)


def _zero(live: Liveness, node: Node, index: int, axis: int) -> np.ndarray | None:
    """Slices of an operand that are zero, where zeros add nothing."""
    value = node.operands[index]
    if node.name not in ZERO_FREE or value is None or value.shape is None or type(value.shape[axis]) is not int:
        return None
    return live.spans.at(value, axis).wide(value.shape[axis]).zero  # type: ignore[arg-type]


def _contracted(live: Liveness, node: Node) -> Reads:
    """Of two factors either may be zero."""
    amap = node.op.axis_map(node)
    rows = [live.walk.axes(node, i, bundles=True) for i in range(len(node.operands))]
    if amap is None:
        for row in rows:
            yield from ((axis, None) for axis in row)
        return
    sums: dict[str, list[tuple[int, int]]] = {}
    for index, labels in enumerate(amap.operands):
        for axis, label in enumerate(labels or ()):
            if label is not None and label.role == "contract":
                sums.setdefault(label.label, []).append((index, axis))
    for places in sums.values():
        zero = None
        for index, axis in places:
            value = node.operands[index]
            size = value.shape[axis] if value is not None and value.shape is not None else None
            if type(size) is int and size > 1:
                found = live.spans.at(value, axis).wide(size).zero
                zero = found if zero is None or len(zero) != len(found) else zero | found
        for index, axis in places:
            yield rows[index][axis], zero


def _attended(live: Liveness, node: Node) -> Reads:
    """Features of queries and keys."""
    named = live.walk.named.get(node)
    if named is not None:
        yield named["features"], None


def _recurred(live: Liveness, node: Node) -> Reads:
    """Computed weights, or such as are no numbers, read all."""
    for row in (live.walk.axes(node, 0), live.walk.values[node.results[0]]):
        yield from ((axis, None) for axis in row[-1:])


_SUMS = {
    **dict.fromkeys(("matmul", "gemm", "einsum"), _contracted),
    **dict.fromkeys(("layer_norm", "rms_norm", "lp_normalization"), _normed),
    **dict.fromkeys(("lstm", "gru", "rnn"), _recurred),
    **dict.fromkeys((
        "reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod", "reduce_l1", "reduce_l2", "reduce_log_sum",
        "reduce_log_sum_exp", "reduce_sum_square", "reduce_all", "reduce_any",
    ), _reduced),
    "attention": _attended,
}  # fmt: skip
