"""Removes units physically: cuts every constant, puts shape constants and attributes right, and gives values their new types.

    removed = remove_units(module, {group: np.array([0, 5])})    # in place
    shadow = masked(module, {group: np.array([0, 5])})           # a clone with the same units zeroed: computes the same

`masked` is what removal is judged by. Results that inference types otherwise than the cut says are an internal error:
nothing is ever left half done in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import dim_eq
from ...ir.errors import InternalError, UsageError
from ...ir.graph import Graph, Module, Node, Value
from ...ir.infer import inferred
from ...ir.tensor import ArrayTensor, LazyTensor, Tensor
from ...ir.types import I64, TensorType
from .atoms import Axes, Axis, Bundle, Lane, lanes_of
from .groups import Analysis, Group, structure
from .walk import REWRITINGS, Holding

Choice = Mapping[Group, Any]
#: Constants of more bytes are cut when they are read, piece by piece.
LARGE = 1 << 24


def remove_units(module: Module, chosen: Choice) -> int:
    """Remove the units with these numbers from each group, in place; returns how many went.

    Raises UsageError for groups of another module or of a graph that has changed since, for numbers that a group does not
    have, and where nothing would be left of an axis.
    """
    analysis, gone = _checked(module, chosen)
    if analysis is None or not gone.any():
        return 0
    remove_classes(analysis, gone)
    module.drop_unused_weights()
    return int(gone.sum())


def remove_classes(analysis: Analysis, gone: np.ndarray) -> None:
    """Remove the classes whose roots are marked in `gone` [atoms]; none of them may be pinned."""
    for node in analysis.walk.dead:
        node.erase()
    cut = Cut(analysis, gone)
    cut.check()
    cut.constants()
    for graph in analysis.module.graphs.values():
        cut.follow(graph)


def masked(module: Module, chosen: Choice) -> Module:
    """A copy of the module in which the weights of these units are zero. Raises UsageError as remove_units does."""
    analysis, gone = _checked(module, chosen)
    copy = module.clone()
    if analysis is None:
        return copy
    cut = Cut(analysis, gone)
    twins = dict(zip(module.all_nodes(), copy.all_nodes(), strict=True))
    twins.update(
        zip((g.return_node for g in module.all_graphs()), (g.return_node for g in copy.all_graphs()), strict=True)
    )
    for holding in analysis.walk.holdings:
        masks = [cut.mask(axis) for axis in holding.axes]
        if not holding.zeroed or all(mask is None for mask in masks):
            continue
        zeroed = copy.add_weight(*_renewed(holding.value, ArrayTensor(_zeroed(holding, masks)), "masked"))
        for node, index in holding.users:
            twins[node].set_operand(index, zeroed)
    copy.drop_unused_weights()
    return copy


def _zeroed(holding: Holding, masks: Sequence[np.ndarray | None]) -> np.ndarray:
    array = np.array(holding.value.array())
    zero = _zero_point(holding)
    for axis, mask in enumerate(masks):
        if mask is not None:
            view = np.moveaxis(array, axis, 0)
            view[~mask] = np.moveaxis(np.broadcast_to(zero, array.shape), axis, 0)[~mask]
    return array


def _zero_point(holding: Holding) -> Any:
    """What stands for zero: the zero point of a quantised weight."""
    node, index = holding.users[0]
    if node.name == "dequantize" and index == 0 and len(node.operands) > 2 and node.operands[2] is not None:
        point, shape = node.operands[2].array(), holding.value.shape
        for axis, (have, want) in enumerate(zip(point.shape, shape or (), strict=False)):
            point = point if have in (1, want) else np.repeat(point, -(-want // have), axis)  # type: ignore[operator]
        return point[tuple(slice(0, n) for n in shape)] if point.ndim else point  # type: ignore[union-attr, misc]
    return np.zeros((), holding.value.array().dtype)


def _renewed(value: Value, tensor: Tensor, what: str) -> tuple[str, Tensor, str, str]:
    weight = value.weight
    assert weight is not None
    return weight.wanted, tensor, weight.role, f"{what} of {weight.origin or weight.wanted}"


def _nothing(cut: Cut, node: Node) -> None:
    """Ops without sizes of their own."""


def _checked(module: Module, chosen: Choice) -> tuple[Analysis | None, np.ndarray]:
    """The analysis that the groups are of, and the roots that go."""
    analyses = list({id(group.analysis): group.analysis for group in chosen}.values())
    if not analyses:
        return None, np.zeros(0, bool)
    analysis = analyses[0]
    if len(analyses) > 1 or analysis is None or analysis.module is not module:
        raise UsageError("the groups are not of one analysis of this module", hint="call find_groups(module) again")
    if structure(module) != analysis.structure:
        raise UsageError("the graph has changed since its groups were found", hint="call find_groups(module) again")
    gone = np.zeros(analysis.walk.space.count, bool)
    for group, numbers in chosen.items():
        units = np.asarray(numbers, np.intp).reshape(-1)
        if group.pinned and len(units):
            raise UsageError(f"group {group.name} may not be cut: {group.pinned}")
        if len(units) and not (units.min() >= 0 and units.max() < group.size):
            raise UsageError(f"group {group.name} has {group.size} units, {units.min()} to {units.max()} were given")
        gone[group.roots[units]] = True
    return analysis, gone


class Cut:
    """One removal under way: constants first, then node by node in order, each put right when what it takes has its new
    types. What rewritings ask of shapes is answered as of before the cut, whatever was replaced or retyped meanwhile."""

    def __init__(self, analysis: Analysis, gone: np.ndarray) -> None:
        self.walk = analysis.walk
        self.module = analysis.module
        self.gone = gone[analysis.classes.roots]
        self.known: dict[Value, tuple[Axes, tuple]] = {}  # new values that stand for old ones
        self.shapes: dict[Value, tuple] = {}  # of values that have a new type, the old shape
        self.touched: dict[Node, None] = {}
        self.affected = {node: None for node in self.module.all_nodes() if self._is_affected(node)}

    def _is_affected(self, node: Node) -> bool:
        rows = [self.axes(v) for v in (*node.inputs(), *node.results)]
        if any(self.touches(axis) for row in rows for axis in row):
            return True
        if any(
            self.mask(a) is not None for i in range(len(node.operands)) for a in self.walk.splat_uses.get((node, i), ())
        ):
            return True
        if node in self.walk.named and any(self.mask(axis) is not None for axis in self.walk.named[node].values()):
            return True
        return any(self._const_is_cut(node, i) for i, v in enumerate(node.operands) if v is not None and v.is_const)

    def _const_is_cut(self, node: Node, index: int) -> bool:
        number = self.walk.holding_of(node, index)
        return number is not None and any(self.mask(a) is not None for a in self.walk.holdings[number].axes)

    # What a rewriting asks.

    def mask(self, axis: Axis) -> np.ndarray | None:
        """True for the positions that stay; None when all do."""
        if not isinstance(axis, Lane):
            return None
        gone = self.gone[axis.ids]
        return ~gone if gone.any() else None

    def axes(self, value: Value) -> Axes:
        if value in self.known:
            return self.known[value][0]
        return self.walk.values.get(value, ())

    def touches(self, axis: Axis) -> bool:
        return any(self.gone[lane.ids].any() for lane in lanes_of(axis))

    def is_cut(self, value: Value, axis: int) -> bool:
        row = self.axes(value)
        return bool(row) and self.touches(row[axis])

    def keep(self, value: Value, axis: int) -> np.ndarray:
        """True for the positions that stay."""
        row = self.axes(value)
        mask = self.mask(row[axis]) if row else None
        return np.ones(self.old_shape(value)[axis], bool) if mask is None else mask

    def old_shape(self, value: Value) -> tuple:
        if value in self.known:
            return self.known[value][1]
        return self.shapes.get(value, value.shape or ())

    def size(self, value: Value, axis: int) -> Any:
        """The new size of an axis."""
        if not self.is_cut(value, axis):
            return self.old_shape(value)[axis]
        found = self.axes(value)[axis]
        if isinstance(found, Bundle):
            kept = [(dim, self.mask(part)) for dim, part in found.parts]
            return math.prod(dim if mask is None else int(mask.sum()) for dim, mask in kept)
        return int(self.keep(value, axis).sum())

    def named_size(self, node: Node, name: str, old: int) -> int:
        """The new size of an axis that the node packs into another one."""
        mask = self.mask(self.walk.named[node][name])
        return old if mask is None else int(mask.sum())

    # What a rewriting does.

    def builder(self, node: Node, *, after: bool = False) -> Builder:
        graph = node.graph
        assert graph is not None
        return Builder(graph, after=node, loc=node.loc) if after else Builder(graph, before=node, loc=node.loc)

    def replace(self, node: Node, value: Value) -> None:
        """Use `value` in place of the node's result; it counts as cut in the same way."""
        old = node.result
        wanted = tuple(self.size(old, i) for i in range(len(self.old_shape(old))))
        self._agree(node, old.type.with_shape(wanted), value.type)  # type: ignore[attr-defined]
        self.known[value] = (self.axes(old), self.old_shape(old))
        self._touch_users(old)
        node.replace(value)

    def insert(self, node: Node, value: Value, *, keep: Node) -> None:
        """Put `value`, which `keep` computes, between the node's result and its other users."""
        self.known[value] = (self.axes(node.result), self.old_shape(node.result))
        self._touch_users(node.result)
        node.result.replace_uses(value, keep=(keep,))

    def _touch_users(self, value: Value) -> None:
        self.touched.update(dict.fromkeys(value.users))

    def set_operand(self, node: Node, index: int, value: Value | None) -> None:
        operands = [*node.operands, *[None] * (index + 1 - len(node.operands))]
        operands[index] = value
        node.set_operands(operands)
        self.touched[node] = None

    def set_array(self, node: Node, index: int, array: Any) -> None:
        """A literal of the old operand's dtype (i64 where there was none)."""
        old = node.operands[index] if index < len(node.operands) else None
        dtype = I64 if old is None or old.dtype is None else old.dtype
        self.set_operand(node, index, self.module.literal(np.asarray(array, dtype.numpy), dtype))

    def set_ints(self, node: Node, index: int, numbers: Sequence[int]) -> None:
        self.set_array(node, index, np.asarray(numbers, np.int64).reshape(-1))

    def change_entries(self, node: Node, index: int, changed: Mapping[int, int]) -> None:
        """Other numbers at these places of a shape-like operand, which may be computed."""
        value = node.operands[index]
        if not changed or value is None:
            return
        numbers = value.ints()
        if numbers is not None:
            self.set_ints(node, index, [changed.get(i, n) for i, n in enumerate(numbers)])
        else:
            self.set_operand(node, index, self._patched(self.builder(node), value, changed))

    def _patched(self, b: Builder, value: Value, changed: Mapping[int, int]) -> Value:
        """A computed vector with numbers at some places."""
        count, dtype = int(value.shape[0]), value.dtype  # type: ignore[index, arg-type]
        parts, start = [], 0
        for at in (*sorted(changed), count):
            if at > start:
                parts.append(b.slice(value, (start,), (at,), (0,)))
            if at != count:
                parts.append(self.module.literal(np.asarray([changed[at]], dtype.numpy), dtype))  # type: ignore[union-attr, index]
            start = at + 1
        return b.concat(*parts, axis=0) if len(parts) > 1 else parts[0]

    def take_entries(self, node: Node, index: int, places: Sequence[int]) -> None:
        """Only the entries at these places of a shape-like operand."""
        value = node.operands[index] if index < len(node.operands) else None
        if value is None:
            return
        numbers = value.ints()
        if numbers is not None:
            self.set_ints(node, index, [numbers[i] for i in places])
        else:
            self.set_operand(node, index, self.builder(node).gather(value, np.asarray(places, np.int64), axis=0))

    def freeze(self, node: Node, numbers: Mapping[int, int]) -> None:
        """The users of a shape go on with these numbers."""
        if not numbers:
            return
        y = node.result
        known = y.ints()
        if known is not None:
            self._touch_users(y)
            y.replace_uses(self.module.literal(np.asarray(known, np.int64), I64))
            return
        users = y.users
        made = self._patched(self.builder(node, after=True), y, numbers)
        for user in users:
            for i, operand in enumerate(user.operands):
                if operand is y:
                    user.set_operand(i, made)
            self.touched[user] = None

    def scale(self, node: Node, index: int, factor: float) -> None:
        """Multiply an operand by a number."""
        value = node.operands[index]
        assert value is not None
        if value.is_const:
            made = (value.array().astype(np.float64) * factor).astype(value.dtype.numpy)  # type: ignore[union-attr]
            new = self.module.add_weight(*_renewed(value, ArrayTensor(made), f"{factor:.9g} times"))
            new.weight.aliases = value.weight.aliases  # type: ignore[union-attr]
        else:
            new = self.builder(node).mul(value, np.asarray(factor, value.dtype.numpy))  # type: ignore[union-attr]
        self.known[new] = (self.axes(value), self.old_shape(value))
        self.set_operand(node, index, new)

    # The steps of a removal.

    def check(self) -> None:
        """Nothing is cut down to nothing. Raises UsageError."""
        rows = [(holding.value, holding.axes) for holding in self.walk.holdings]
        for value, axes in (*rows, *self.walk.values.items()):  # splats have no atoms but where they are used
            for axis in [lane for whole in axes for lane in lanes_of(whole)]:
                if len(axis.ids) and self.gone[axis.ids].all():
                    name = value.weight.key if value.weight is not None else value.hint or "a value"
                    raise UsageError(
                        f"nothing would be left of an axis of {name} {value.type}", hint="keep a unit of it"
                    )

    def constants(self) -> None:
        """Give every use of a constant its cut copy; uses that are cut alike share one."""
        made: dict[tuple[Value, tuple], Value] = {}
        for holding in self.walk.holdings:
            masks = [self.mask(axis) for axis in holding.axes]
            if all(mask is None for mask in masks):
                continue
            key = (holding.value, tuple(None if mask is None else mask.tobytes() for mask in masks))
            if key not in made:
                made[key] = self._cut_constant(holding.value, masks)
                self.known[made[key]] = (holding.axes, holding.value.shape or ())
            for node, index in holding.users:
                node.set_operand(index, made[key])
                self.touched[node] = None

    def _cut_constant(self, value: Value, masks: Sequence[np.ndarray | None]) -> Value:
        weight, said = value.weight, []
        tensor = weight.tensor  # type: ignore[union-attr]
        for axis, mask in enumerate(masks):
            if mask is not None:
                indices = tuple(np.flatnonzero(mask).tolist())
                tensor = LazyTensor("take", (tensor,), {"axis": axis, "indices": indices})
                said.append(f"{len(indices)} of {len(mask)} slices on axis {axis}")
        cut = tensor if tensor.nbytes > LARGE else ArrayTensor(tensor.numpy(), tensor.dtype)
        new = self.module.add_weight(*_renewed(value, cut, " and ".join(said)))
        new.weight.aliases = value.weight.aliases  # type: ignore[union-attr]
        return new

    def follow(self, graph: Graph) -> None:
        """Rewrite and retype node by node; each result as the cut says, which inference must not contradict."""
        for node in graph.nodes():
            for region in node.regions:
                for value in region.inputs:
                    self._retype(value, value.type)
                self.follow(region)
            if node in self.affected:
                self._cut_splats(node)
                REWRITINGS.get(node.name, _nothing)(self, node)
            if node.graph is None or not self._is_stale(node):
                continue
            for value, found in zip(node.results, inferred(node), strict=True):
                self._retype(value, found.type)
                value._elems = found.elems

    def _cut_splats(self, node: Node) -> None:
        """A shorter piece of a value of equal elements, for this use alone."""
        for index, value in enumerate(node.operands):
            axes = self.walk.splat_uses.get((node, index), ())
            cut = {i: int(mask.sum()) for i, axis in enumerate(axes) if (mask := self.mask(axis)) is not None}
            if value is not None and cut:
                zeros = [0] * len(cut)
                piece = self.builder(node).slice(value, zeros, list(cut.values()), list(cut))
                self.known[piece] = (axes, self.old_shape(value))
                node.set_operand(index, piece)

    def _is_stale(self, node: Node) -> bool:
        return (
            node in self.affected
            or node in self.touched
            or any(v in self.shapes or v in self.known for v in node.inputs())
            or any(value not in self.walk.values for value in node.results)
        )

    def _retype(self, value: Value, found: Any) -> None:
        """The old type with the axes that were cut; what was built for the cut has the inferred type."""
        if value not in self.walk.values:
            value.type = found
            return
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            return
        shape = tuple(self.size(value, i) for i in range(len(value.type.shape)))
        type_ = value.type.with_shape(shape)
        if value.node is not None:
            self._agree(value.node, type_, found)
        if type_ is not value.type:
            self.shapes[value] = value.type.shape
            value.type = type_

    @staticmethod
    def _agree(node: Node, wanted: TensorType, found: Any) -> None:
        """Raises InternalError where inference contradicts the cut."""
        if not isinstance(found, TensorType) or found.shape is None or wanted.shape is None:
            return
        same = len(found.shape) == len(wanted.shape)
        if not same or any(dim_eq(a, b) is False for a, b in zip(found.shape, wanted.shape, strict=True)):
            where = f"{node.name} at {node.loc}"
            raise InternalError(f"a cut value should be {wanted}, inference says {found}", where=where)
