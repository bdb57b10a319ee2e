"""Layout assignment: spatial ops run channels-last, and every other op in the axis order that moves the fewest bytes.

    %y = conv(%x, %w)            ; x, y: [N, C, H, W]          %t = transpose(%x) {perm = [0, 2, 3, 1]}
    %z = relu(%y)                                        ->    %y = conv(%t, %w) {channels_last = true}
    %p = reduce_mean(%z, [2, 3])                               %z = relu(%y)
                                                               %p = reduce_mean(%z, [1, 2])

Every value gets two candidate orders: its logical one, and the one that spreads to it from the nearest spatial op (or,
where spatial ops stay channels-first, from the nearest transpose) through ops that can follow (`rules`). One binary
variable per node chooses; the cost is the bytes moved by the transposes at the borders, fan-out paid once; a minimum cut
finds the cheapest choice. Existing transposes become names of the same data and vanish. Interfaces keep the user's order,
weights the canonical one. Numerics: exact.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import Dim, evaluate, symbols
from ...ir.graph import Graph, Module
from ...ir.opdef import ELEMENTWISE, SPATIAL
from ...ir.tensor import LazyTensor
from ...ir.types import TensorType
from ...ir.value import Node, Value
from .flatten import absorb_flatten, feeds_products
from .mincut import BinaryEnergy
from .rules import space_of, target
from .simplify import simplify_transposes
from .spaces import Order, Space, again, channels_last_order, covers, identity, inverse, moved, port_perm, space_order

_SYMBOL_SIZE = 8  # what a symbolic dim counts as when bytes are compared
_NODE = 256.0  # a transpose or reshape more costs as much as these bytes, however little it moves
_ANY_BYTES = 1e15  # what a node costs where their number counts first

Wanted = Callable[[Node], bool]


def assign_layout(module: Module, wanted: Wanted | None = None, *, channels_last: bool = True) -> None:
    """Set `channels_last` on the spatial ops of all graphs that `wanted` accepts (default: all) and place the fewest
    transposes that this needs. Regions are assigned one by one; their interfaces stay. With `channels_last` False the
    spatial ops stay channels-first, and everything around them takes the order that needs the fewest transposes."""
    for graph in list(module.all_graphs()):
        _Assignment(graph, wanted or (lambda node: True), channels_last).run()
        absorb_flatten(graph)
        simplify_transposes(graph)


@dataclass
class _Frame:
    """A node that may move: its space, its order under label 0 and under label 1, its variable."""

    space: Space
    orders: tuple[Order, Order]
    variable: int = -1
    label: int = 0

    def perm(self, port: int, label: int) -> Order:
        made = port_perm(self.space.ports[port], self.orders[label])
        assert made is not None  # checked when the frame was made
        return made


class _Assignment:
    """The solver's state for one graph."""

    def __init__(self, graph: Graph, wanted: Wanted, channels_last: bool) -> None:
        self.graph = graph
        self.wanted = wanted
        self.channels_last = channels_last
        self.frames: dict[Node, _Frame] = {}
        self.candidates: dict[Value, tuple[Order, Order]] = {}

    def run(self) -> None:
        self._spread()
        if self.frames:
            self._solve()
        if self.frames:
            _Rebuild(self).run()

    # Which nodes may move, and between which two orders.

    def _spread(self) -> None:
        """Breadth first from the spatial ops that shall run channels-last, then from each transpose that they did not reach;
        ports that determine the whole space go before those that don't."""
        sure: deque[Node] = deque()
        unsure: deque[Node] = deque()
        for node in self.graph.nodes() if self.channels_last else ():
            space = anchor_space(node) if self.wanted(node) else None
            if space is not None:
                self._add(node, space, (identity(space.rank), channels_last_order(space.rank)), sure, unsure)
        self._reach(sure, unsure)
        for node in self.graph.nodes("transpose"):
            space = space_of(node) if node not in self.frames else None
            if space is not None and not any(_value(node, p) in self.candidates for p in space.ports):
                self._add(node, space, (identity(space.rank), node.attr("perm")), sure, unsure)
                self._reach(sure, unsure)

    def _reach(self, sure: deque[Node], unsure: deque[Node]) -> None:
        while sure or unsure:
            node = sure.popleft() if sure else unsure.popleft()
            if node not in self.frames:
                self._follow(node, sure, unsure)

    def _follow(self, node: Node, sure: deque[Node], unsure: deque[Node]) -> None:
        space = space_of(node)
        if space is None:
            return
        ports = [p for p in space.ports if _value(node, p) in self.candidates]
        for port in sorted(ports, key=lambda p: not covers(space, space.ports[p])):
            wanted = self.candidates[_value(node, port)]
            orders = tuple(space_order(space, space.ports[port], perm) for perm in wanted)
            fits = all(o is not None and port_perm(row, o) is not None for o in orders for row in space.ports.values())
            if fits and orders[0] != orders[1] and all(map(space.allows, orders)):
                self._add(node, space, self._with_own(node, orders), sure, unsure)  # type: ignore[arg-type]
                return

    def _with_own(self, node: Node, orders: tuple[Order, Order]) -> tuple[Order, Order]:
        """Any node but a transpose may also stay as it is: in place of the order that is wanted less."""
        own = identity(len(orders[0]))
        if node.name == "transpose" or own in orders:
            return orders
        return (own, orders[1]) if self.channels_last else (orders[0], own)

    def _add(self, node: Node, space: Space, orders: tuple[Order, Order], sure: deque, unsure: deque) -> None:
        frame = self.frames[node] = _Frame(space, orders)
        for port in space.ports:
            value = _value(node, port)
            if value.is_const or value in self.candidates:
                continue
            self.candidates[value] = (frame.perm(port, 0), frame.perm(port, 1))
            for near in ([value.node] if value.node else []) + value.users:
                if near is not node and near.graph is self.graph and near is not self.graph.return_node:
                    self._queue(near, value, sure, unsure)

    def _queue(self, node: Node, value: Value, sure: deque[Node], unsure: deque[Node]) -> None:
        space = space_of(node) if node not in self.frames else None
        if space is not None:
            ports = [p for p in space.ports if _value(node, p) is value]
            (sure if any(covers(space, space.ports[p]) for p in ports) else unsure).append(node)

    # Which label is cheapest.

    def _solve(self) -> None:
        """Fewest bytes. Where no spatial op asks for anything (channels-first, or all are channels-last already), only what
        is better than what stands there: not a node more, not a byte more, and one of both less."""
        self._label(_NODE)
        if not any(frame.space.anchored for frame in self.frames.values()):
            read = [node.operands[0] for node in self.graph.nodes("transpose") if node in self.frames]
            present = len(read), sum(map(self._bytes, read))
            found = self._moves()
            if found[0] > present[0]:
                self._label(_ANY_BYTES)
                found = self._moves()
            if not _better(found, present):
                self.frames.clear()

    def _label(self, per_node: float) -> None:
        """Give each frame its label in the cheapest choice."""
        energy = BinaryEnergy()
        for frame in self.frames.values():
            frame.variable = energy.variable()
            if frame.space.anchored:
                energy.unary(frame.variable, float("inf"), 0.0)
        for value in self.candidates:
            self._cost_of(value, energy, per_node)
        for node, frame in self.frames.items():
            liked = frame.space.prefers
            if liked is not None:
                costs = [0.0 if order[-1] == liked else 2 * self._bytes(node.results[0]) for order in frame.orders]
                energy.unary(frame.variable, *costs)
        for frame, label in zip(self.frames.values(), energy.solve(), strict=False):
            frame.label = label

    def _moves(self) -> tuple[int, int]:
        """How many transposes and reshapes the labels ask for, and how many bytes they move."""
        count = moving = 0
        for value in self.candidates:
            if value.rank is not None and value.rank >= 2:
                made = self._as_labelled(value, value.node, -1 - value.index)
                users = [use for use in value.uses if use.node.graph is self.graph and not feeds_products(use.node)]
                wanted = {self._as_labelled(value, use.node, use.index) for use in users} - {made}
                count += len(wanted)
                moving += len(wanted) * self._bytes(value)
        return count, moving

    def _bytes(self, value: Value) -> int:
        """What a transpose of `value` moves. Dequantised data count as what is stored: channels-last targets keep quantised
        models in integers."""
        stored = self.channels_last and value.node is not None and value.node.name == "dequantize"
        return _bytes(value.node.operands[0] if stored else value)  # type: ignore[union-attr, arg-type]

    def _as_labelled(self, value: Value, node: Node | None, port: int) -> Order:
        ways = self._ways(value, node, port)
        return ways[self.frames[node].label] if len(ways) == 2 else ways[0]  # type: ignore[index]

    def _cost_of(self, value: Value, energy: BinaryEnergy, per_node: float) -> None:
        """The transposes between the producer of `value` and its users, each distinct order paid once."""
        if value.rank is None or value.rank < 2:
            return
        made = self._ways(value, value.node, -1 - value.index)
        wants: dict[tuple, list[int | None]] = {}
        for use in value.uses:
            if use.node.graph is self.graph and not feeds_products(use.node):
                ways = self._ways(value, use.node, use.index)
                variable = self.frames[use.node].variable if len(ways) == 2 else None
                wants.setdefault(ways, []).append(variable)
        source = self.frames[value.node].variable if len(made) == 2 else None  # type: ignore[index]
        for ways, variables in wants.items():
            self._connect(value, made, source, ways, list(dict.fromkeys(variables)), energy, per_node)

    def _ways(self, value: Value, node: Node | None, port: int) -> tuple[Order, ...]:
        """The orders in which `node` can make or take `value`, by label; one where it has no choice."""
        frame = self.frames.get(node) if node is not None else None
        if frame is None or port not in frame.space.ports:
            return (identity(value.rank or 0),)
        return frame.perm(port, 0), frame.perm(port, 1)

    def _connect(
        self,
        value: Value,
        made: tuple,
        source: int | None,
        ways: tuple,
        variables: list,
        energy: BinaryEnergy,
        per_node: float,
    ) -> None:
        if self.channels_last and _goes_with(value):
            per_node += 1.0
        moving = self._bytes(value) + per_node

        def cost(a: int, b: int) -> float:
            first, second = made[min(a, len(made) - 1)], ways[min(b, len(ways) - 1)]
            return 0.0 if first == second else per_node if same_data(first, second, value.shape) else moving

        if source is None or variables == [None]:
            for variable in variables if source is None else [source]:
                if variable is not None:
                    pair = (cost(0, 0), cost(0, 1)) if source is None else (cost(0, 0), cost(1, 0))
                    energy.unary(variable, *pair)
            return
        if len(variables) == 1:
            energy.pair(source, variables[0], (cost(0, 0), cost(0, 1), cost(1, 0), cost(1, 1)))
            return
        # A copy in order 1 is paid once for all users that want it (and likewise one in order 0).
        any_one, all_one = energy.variable(), energy.variable()
        for variable in variables:
            energy.forbid(any_one, variable)
            energy.forbid(variable, all_one)
        energy.pair(source, any_one, (cost(0, 0), cost(0, 1), 0.0, cost(1, 1)))
        energy.pair(source, all_one, (0.0, 0.0, cost(1, 0), 0.0))


class _Rebuild:
    """Writes the solution into the graph: moved nodes are built anew in front of the old ones, which then go."""

    def __init__(self, solved: _Assignment) -> None:
        self.graph = solved.graph
        self.frames = solved.frames
        self.place: dict[Value, tuple[Value, Order]] = {}  # logical value -> its data and their order
        self.copies: dict[tuple[Value, Order], Value] = {}

    def run(self) -> None:
        old = []
        for node in list(self.graph.nodes()):
            frame = self.frames.get(node)
            if frame is not None and (self._is_view(node) or frame.orders[frame.label] != identity(frame.space.rank)):
                self._move(node, frame)
                old.append(node)
            else:
                self._keep(node)
        self._keep(self.graph.return_node)
        for node in reversed(old):
            node.erase()

    def _is_view(self, node: Node) -> bool:
        return node.name == "transpose"

    def _keep(self, node: Node) -> None:
        b = Builder(self.graph, before=node, loc=node.loc)
        node.set_operands([None if v is None else self._at(b, v, identity(v.rank or 0)) for v in node.operands])

    def _move(self, node: Node, frame: _Frame) -> None:
        b = Builder(self.graph, before=node, loc=node.loc)
        operands = [
            None if v is None else self._at(b, v, frame.perm(i, frame.label) if i in frame.space.ports else None)
            for i, v in enumerate(node.operands)
        ]
        results = frame.space.rebuild(b, node, operands, frame.orders[frame.label])
        for old, new in zip(node.results, results, strict=True):
            perm = frame.perm(-1 - old.index, frame.label)
            self.place[old] = (new, perm)
            if new.node is not None and new.node not in self.frames:
                new.hint = new.hint or old.hint
                wanted = TensorType(old.dtype, moved(old.shape, perm))
                if new.rank == old.rank:
                    new.refine(wanted, new._elems)

    def _at(self, b: Builder, value: Value, perm: Order | None) -> Value:
        """The data of `value` in the order `perm` (None: as the logical value)."""
        wanted = identity(value.rank or 0) if perm is None else perm
        if value.is_const:
            return value if wanted == identity(len(wanted)) else self._turned(b, value, wanted)
        data, made = self.place.get(value, (value, identity(value.rank or 0)))
        if made == wanted:
            return data
        found = self.copies.get((value, wanted))
        if found is None:
            step = tuple(inverse(made)[axis] for axis in wanted)
            found = self.copies[value, wanted] = turned(b, data, step)
        return found

    def _turned(self, b: Builder, value: Value, perm: Order) -> Value:
        found = self.copies.get((value, perm))
        if found is None:
            found = self.copies[value, perm] = turned_constant(b, value, perm)
        return found


def _better(found: tuple[int, int], present: tuple[int, int]) -> bool:
    return found != present and all(a <= b for a, b in zip(found, present, strict=True))


def _goes_with(value: Value) -> bool:
    """The one user of `value` is an elementwise op, which a target may run within the op that makes `value`: of two places
    that cost the same, a transpose stands behind both."""
    users = value.users
    return value.node is not None and len(users) == 1 and users[0].has(ELEMENTWISE)


def turned(b: Builder, value: Value, perm: Order) -> Value:
    """`value` transposed; by a reshape where only axes of size 1 change places."""
    shape = moved(value.shape, perm)
    if (
        same_data(identity(len(perm)), perm, value.shape)
        and sum(type(d) is not int for d in shape) <= 1
        and 0 not in shape
    ):
        return b.reshape(value, target(shape))
    return b.transpose(value, perm=perm)


def turned_constant(b: Builder, value: Value, perm: Order) -> Value:
    """A constant transposed at compile time; a named weight keeps its name and says where it came from."""
    weight = value.weight
    if weight is not None and weight.role != "const":
        tensor = LazyTensor("transpose", (weight.tensor,), {"perm": perm})
        return b.const(tensor, key=weight.key, role=weight.role, origin=f"transpose {list(perm)}")
    return b.const(np.ascontiguousarray(value.array().transpose(perm)))


def anchor_space(node: Node) -> Space | None:
    """The space of a spatial op that is not channels-last yet and whose results are images."""
    if not node.has(SPATIAL) or node.attr("channels_last") or node.name in _FLAT_INDICES:
        return None
    rank = node.operands[0].rank
    if rank is None or rank < 3 or any(v.rank != rank for v in node.results):
        return None
    ports = {p: tuple((a,) for a in range(rank)) for p in (0, *(-1 - j for j in range(len(node.results))))}
    return Space(rank, ports, _channels_last, anchored=True)


# Their results or operands count elements of the channels-first tensor.
_FLAT_INDICES = ("max_pool_with_indices", "max_unpool")


def _channels_last(b: Builder, node: Node, operands: list[Value | None], order: Order) -> tuple[Value, ...]:
    return again(b, node, operands, channels_last=True)


def same_data(a: Order, b: Order, shape: tuple[Dim, ...] | None) -> bool:
    """Both orders lay out the same bytes: they differ in the places of size-1 axes at most."""
    if a == b or shape is None:
        return a == b
    return [axis for axis in a if shape[axis] != 1] == [axis for axis in b if shape[axis] != 1]


def _value(node: Node, port: int) -> Value:
    found = node.operands[port] if port >= 0 else node.results[-1 - port]
    assert found is not None
    return found


def _bytes(value: Value) -> int:
    count = 1
    for dim in value.shape or ():
        count *= dim if type(dim) is int else max(1, evaluate(dim, dict.fromkeys(symbols(dim), _SYMBOL_SIZE)))
    return max(1, count * (value.dtype.bits if value.dtype else 32) // 8)
