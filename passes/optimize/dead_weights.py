"""Lossless dead-weight elimination: channels, neurons and features that contribute exactly nothing, with their partners.

Axes that run in step (a layer's outputs, the activation behind it, the batch norm, both sides of a residual add, the next
layer's inputs) form one group, found by union-find over the ops' `axes()`. Index i of a group may go when at every
contraction (conv, gemm, matmul) either the data slice i or the weight slice i is zero, for then that term of the sum is
zero; everything else on the way is carried element by element. A group that reaches an input, an output, or an op that
looks at positions is left alone. Data is held to be finite: 0 * inf would be NaN.

Given (rows 2, 3 of %w2 and columns 1, 3 of %w1 are zero):
    %h = relu(matmul(%x, %w1))      : f32[N, 4]
    %y = matmul(%h, %w2)
Result:
    %h = relu(matmul(%x, %w1'))     : f32[N, 1]
    %y = matmul(%h, %w2')
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ...ir.graph import Graph, Module, Node, Value
from ...ir.infer import retype
from ...ir.opdef import ELEMENTWISE, Axis, AxisMap
from ...ir.tensor import ArrayTensor
from ..manager import Context, module_pass

Key = tuple[Value, int]

CONTRACTIONS = frozenset({"conv", "conv_transpose", "gemm", "matmul"})

#: Ops that carry an axis through without looking at its size or at positions along it.
CARRIERS = CONTRACTIONS | {
    "batch_norm", "max_pool", "average_pool", "lp_pool", "global_average_pool", "global_max_pool", "global_lp_pool",
    "adaptive_average_pool", "adaptive_max_pool", "transpose", "reduce_mean", "reduce_sum", "reduce_max", "reduce_min",
    "prelu", "resize", "pad", "instance_norm",
}  # fmt: skip

#: f(0) = 0, element by element.
KEEP_ZERO = frozenset(
    [
        "identity",
        "cast",
        "neg",
        "abs",
        "relu",
        "relu6",
        "leaky_relu",
        "prelu",
        "elu",
        "selu",
        "celu",
        "thresholded_relu",
        "tanh",
        "silu",
        "swish",
        "mish",
        "gelu",
        "hard_swish",
        "softsign",
        "sin",
        "tan",
        "asin",
        "atan",
        "sinh",
        "asinh",
        "atanh",
        "erf",
        "sqrt",
        "square",
        "expm1",
        "log1p",
        "floor",
        "ceil",
        "round",
        "trunc",
        "sign",
        "shrink",
    ]
)
#: Zero in every window, row or axis stays zero.
KEEP_ZERO_SLICE = frozenset(
    [
        "average_pool",
        "global_average_pool",
        "global_max_pool",
        "global_lp_pool",
        "adaptive_average_pool",
        "adaptive_max_pool",
        "transpose",
        "reduce_mean",
        "reduce_sum",
        "reduce_max",
        "reduce_min",
        "resize",
    ]
)


@module_pass("dead-weights")
def dead_weights(module: Module, ctx: Context, *, bound: float = 0.0) -> None:
    """Drop channels that contribute nothing, in all layers that they run through.

    `bound` > 0 also takes weight slices whose every element is at most that (not lossless: needs -O3 or an explicit request).
    """
    for graph in module.graphs.values():
        while removed := _one_round(graph, bound):
            ctx.stats["dead-weights"] += removed
            suffix = f" (|w| <= {bound:g} taken as zero)" if bound else ""
            ctx.notes.append(f"dead-weights: {removed} channels removed in @{graph.name}{suffix}")
    module.drop_unused_weights()


def _one_round(graph: Graph, bound: float) -> int:
    """Remove what can go now; removing rows here may kill columns there, hence rounds. Returns channels removed."""
    if not any(_has_zero_slices(node, bound) for node in graph.nodes(*CONTRACTIONS)):
        return 0
    groups = _Groups(graph)
    zeros = _Zeros(bound)
    zeros.carry_through(graph)
    removed = 0
    touched: dict[Node, None] = {}
    current: dict[Value, Value] = {}
    for group in groups.all():
        dead = _dead_indices(group, zeros)
        if dead is not None and dead.any():
            if dead.all():
                dead[0] = False
            if not dead.any():
                continue
            removed += int(dead.sum())
            touched.update(dict.fromkeys(_shrink(group, ~dead, current)))
    retype(touched)
    return removed


def _has_zero_slices(node: Node, bound: float) -> bool:
    """Whether a weight of this contraction has a zero slice on any axis: without one, nothing in the graph can go."""
    weights = [v for v in node.inputs() if v.is_const and (v.rank or 0) >= 2]
    zeros = _Zeros(bound)
    return any(zeros.of(v, axis).any() for v in weights for axis in range(v.rank or 0))  # type: ignore[union-attr]


@dataclass
class Group:
    """Axes that run in step: `members` are (value, axis); `terms` the contractions as pairs (data key, weight key)."""

    size: int
    members: dict[Key, None] = field(default_factory=dict)
    terms: list[tuple[Key, Key]] = field(default_factory=list)
    pinned: bool = False


class _Groups:
    """Union-find over the axes of all values of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.parent: dict[Key, Key] = {}
        self.pins: set[Key] = set()
        self.terms: list[tuple[Key, Key]] = []
        for value in (*graph.inputs, *graph.outputs):
            self.pin(value)
        for node in graph.nodes():
            self.node(node)

    def find(self, key: Key) -> Key:
        self.parent.setdefault(key, key)
        root = key
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[key] != root:
            self.parent[key], key = root, self.parent[key]
        return root

    def pin(self, value: Value) -> None:
        self.pins.update((value, axis) for axis in range(value.rank or 0))

    def node(self, node: Node) -> None:
        carries = node.name in CARRIERS or node.has(ELEMENTWISE)
        amap = node.op.axis_map(node) if carries and not node.regions else None
        if amap is None:
            for value in (*node.inputs(), *node.results):
                self.pin(value)
            return
        by_label: dict[str, Key] = {}
        contracted: dict[str, list[Key]] = {}
        for value, rows in _rows(node, amap):
            for axis, label in enumerate(rows):
                self.axis(node, (value, axis), label, by_label, contracted)
        for keys in contracted.values():
            if node.name in CONTRACTIONS and len(keys) == 2:
                self.terms.append((keys[0], keys[1]))
            else:
                self.pins.update(keys)

    def axis(
        self, node: Node, key: Key, label: Axis | None, by_label: dict[str, Key], contracted: dict[str, list[Key]]
    ) -> None:
        if label is None or label.role in ("concat", "split"):
            self.pins.add(key)
        elif label.role != "broadcast":
            first = by_label.setdefault(label.label, key)
            self.parent[self.find(key)] = self.find(first)
            if label.role == "contract":
                contracted.setdefault(label.label, []).append(key)

    def all(self) -> list[Group]:
        """The groups of a known size above 1 that nothing pins, in a fixed order."""
        made: dict[Key, Group] = {}
        for key in list(self.parent):
            size = key[0].shape[key[1]]  # type: ignore[index]
            group = made.setdefault(self.find(key), Group(size if isinstance(size, int) else 0))
            group.members[key] = None
            group.pinned |= key in self.pins or size != group.size
        for data, weight in self.terms:
            made[self.find(data)].terms.append((data, weight))
        return [g for g in made.values() if not g.pinned and g.size > 1 and g.terms]


def _rows(node: Node, amap: AxisMap) -> Iterable[tuple[Value, tuple[Axis | None, ...]]]:
    """Each value of the node with the labels of its axes; a shape operand (no row) has none to speak of."""
    for value, rows in zip(node.operands, amap.operands, strict=False):
        if value is not None and rows is not None:
            yield value, rows
    yield from zip(node.results, amap.results, strict=True)


class _Zeros:
    """Which slices of a value along an axis are all zero: read off constants, carried forward through the graph."""

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self.known: dict[Key, np.ndarray] = {}

    def carry_through(self, graph: Graph) -> None:
        """Zero slices of every result, in one walk."""
        for node in graph.nodes():
            amap = node.op.axis_map(node) if node.name in CARRIERS or node.has(ELEMENTWISE) else None
            if amap is None or len(node.results) != 1:
                continue
            for axis, size in enumerate(node.result.shape or ()):
                label = amap.results[0][axis]
                if label is not None and isinstance(size, int) and size > 1:
                    found = _combined(node, partial(self.slices, node, amap, label, size))
                    if found is not None and found.any():
                        self.known[node.result, axis] = found

    def of(self, value: Value | None, axis: int) -> np.ndarray | None:
        """True where the slice is zero; None when nothing is known."""
        if value is None:
            return None
        if value.is_const and (value, axis) not in self.known:
            self.known[value, axis] = self.constant(value, axis)
        return self.known.get((value, axis))

    def constant(self, value: Value, axis: int) -> np.ndarray:
        array = value.array()
        others = tuple(i for i in range(array.ndim) if i != axis)
        if self.bound and value.weight.role == "param":  # type: ignore[union-attr]
            return np.all(np.abs(array) <= self.bound, axis=others)
        return ~np.any(array != 0, axis=others)

    def slices(self, node: Node, amap: AxisMap, label: Axis, size: int, index: int) -> np.ndarray | None:
        """Zero slices of operand `index` along the axis labelled `label`; a zero constant without one is zero everywhere."""
        value = node.operands[index] if index < len(node.operands) else None
        rows = amap.operands[index] if index < len(amap.operands) else None
        if value is None or rows is None:
            return None
        for position, other in enumerate(rows):
            if other is not None and other.label == label.label and other.role == "pass":
                return self.of(value, position)
        if value.is_const and value.weight.nbytes <= 1024 and not np.any(value.array()):  # type: ignore[union-attr]
            return np.ones(size, bool)
        return None


def _combined(node: Node, slices: Callable[[int], np.ndarray | None]) -> np.ndarray | None:
    """The rule of each op for zero slices."""
    name = node.name
    if name in KEEP_ZERO or name in KEEP_ZERO_SLICE:
        return None if name == "shrink" and node.attr("lambd") < 0 else slices(0)
    if name == "mul":
        a, b = slices(0), slices(1)
        return a if b is None else b if a is None else a | b
    if name in ("add", "sub"):
        a, b = slices(0), slices(1)
        return None if a is None or b is None else a & b
    if name in CONTRACTIONS:
        bias = node.operands[2] if len(node.operands) > 2 else None
        weight = slices(1)
        if weight is None or bias is None:
            return weight
        offset = slices(2)
        return None if offset is None else weight & offset
    return None


def _dead_indices(group: Group, zeros: _Zeros) -> np.ndarray | None:
    """Indices where every contraction's term is zero; None when some contraction says nothing."""
    dead = np.ones(group.size, bool)
    for data, weight in group.terms:
        found = np.zeros(group.size, bool)
        for key in (data, weight):
            known = zeros.of(*key)
            if known is not None and len(known) == group.size:
                found |= known
        dead &= found
    return dead


def _shrink(group: Group, keep: np.ndarray, current: dict[Value, Value]) -> list[Node]:
    """Cut every constant of the group to the kept indices; returns the nodes whose operands changed.

    `current` maps a constant to what earlier groups of this round have made of it: a matrix may lose rows and columns.
    """
    touched: dict[Node, None] = {}
    members = {(id(value), axis) for value, axis in group.members}
    for original, axis in group.members:
        value = current.get(original, original)
        weight = value.weight
        if weight is None or not value.n_uses:
            continue
        kept = np.ascontiguousarray(np.compress(keep, value.array(), axis=axis))
        origin = f"{int(keep.sum())} of {len(keep)} slices on axis {axis} of {weight.origin or weight.wanted}"
        module = value.users[0].graph.module  # type: ignore[union-attr]
        replacement = current[original] = module.add_weight(weight.wanted, ArrayTensor(kept), weight.role, origin)
        for use in value.uses:
            touched[use.node] = None
            use.node.set_operand(use.index, replacement)
    for node in touched:
        _fix_groups(node, members, int(keep.sum()))
    return list(touched)


def _fix_groups(node: Node, members: set[tuple[int, int]], count: int) -> None:
    """A depthwise convolution has as many groups as channels."""
    groups = node.attrs.get("groups", 1)
    if groups > 1 and node.operands[0] is not None:
        channel = node.operands[0].rank - 1 if node.attrs.get("channels_last") else 1  # type: ignore[operator]
        if (id(node.operands[0]), channel) in members:
            node.set_attr("groups", count)
