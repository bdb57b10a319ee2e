"""What becomes integers: which nodes, which values, and which values share one grid. Decides; changes nothing.

Products (conv, gemm, matmul) compute on integers where they are asked to. Other ops join them where they stand between
integer ops: something integer comes in, and somebody integer takes the result. A bias added behind a matmul and a clamp
behind a product, sum or factor belong to the op before them: no grid stands in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ...ir.graph import Graph, Node, Value
from .params import ACTIVATIONS, Params, affine, fixed
from .roles import CLAMPS, Role, data_operands, role_of, weighted

#: The grid that a node is asked to compute on: a name of `params.ACTIVATIONS`, or "float".
Wanted = Callable[[Node], str]

#: A number added to data moves the zero point: by whole steps, for which the step may grow so much; less than FAINT of a
#: step is nothing.
STRETCH, FAINT = 1.2, 0.05

#: A value that others take as well is laid on a concat's wider grid only up to so much wider than its own.
WIDER = 2.0


@dataclass
class Plan:
    """`nodes` compute on the named grids; `inner` values have none, since the next node belongs to theirs; `biases` are the
    additions that belong to a matmul, with the bias operand's place; `values` are laid on the named grids."""

    graph: Graph
    nodes: dict[Node, str] = field(default_factory=dict)
    inner: set[Value] = field(default_factory=set)
    biases: dict[Node, tuple[Node, int]] = field(default_factory=dict)
    values: dict[Value, str] = field(default_factory=dict)
    skipped: dict[Node, str] = field(default_factory=dict)

    def role(self, node: Node) -> Role:
        role = role_of(node)
        assert role is not None
        return role

    def edges(self, node: Node) -> list[tuple[int, Value]]:
        """The computed operands of `node` that are read from a grid."""
        found = data_operands(node, self.role(node))
        return [(i, v) for i, v in found if not v.is_const and v not in self.inner]

    def observed(self) -> list[Value]:
        """The values whose range calibration has to see: all that have a grid of their own, in order."""
        return [v for v in self.values if not self._derived(v)]

    def _derived(self, value: Value) -> bool:
        node = value.node
        if node is None or node not in self.nodes:
            return False
        role = self.role(node)
        return role.kind == "same" or role.fixed is not None


def make_plan(graph: Graph, wanted: Wanted, *, integer_ends: bool = False) -> Plan:
    """Which nodes and values of `graph` become integers. `integer_ends`: inputs and outputs are integers too, so that what
    stands before and behind the products takes part."""
    plan = Plan(graph)
    products = []
    others: dict[Node, Role] = {}
    for node in graph.nodes():
        role = role_of(node)
        if role is None or wanted(node) == "float":
            continue
        why = _refused(node, role)
        if why is not None:
            plan.skipped[node] = why
        elif role.kind == "product":
            products.append(node)
        else:
            others[node] = role
    for node in products:
        plan.nodes[node] = wanted(node)
        _absorb_bias(plan, node, others)
    for node in products:
        _absorb_clamp(plan, plan.biases[node][0] if node in plan.biases else node, others)
    between = _between(graph, set(plan.nodes), others, integer_ends)
    _name_grids(plan, between, wanted)
    return plan


def _refused(node: Node, role: Role) -> str | None:
    """Why a node that could compute on integers must not."""
    around = [*(v.node for v in node.inputs()), *(user for v in node.results for user in v.users)]
    if any(n is not None and n.name in ("quantize", "dequantize") for n in around):
        return "its operands or results are quantised already"
    if node.name == "mul" and _base(node.operands[0]) is _base(node.operands[1]):
        return "it squares its operand"
    for _, value in data_operands(node, role):
        if value.is_const and not np.isfinite(value.array().astype(np.float64)).all():
            return f"constant {value.weight.key!r} holds NaN or infinity"  # type: ignore[union-attr]
        if value.is_const and value.type.numel == 0:  # type: ignore[attr-defined]
            return f"constant {value.weight.key!r} is empty"  # type: ignore[union-attr]
    return None


def _base(value: Value | None) -> Value | None:
    """What `value` is an affine function of, element by element."""
    while value is not None and value.node is not None and value.node.name in ("add", "sub", "mul", "neg"):
        data = [v for v in value.node.operands if v is not None and not v.is_const]
        if len(data) != 1:
            break
        value = data[0]
    return value


def _absorb_bias(plan: Plan, node: Node, others: Mapping[Node, Role]) -> None:
    """A constant vector added along the output channels of a matmul with a weight on its right is the matmul's bias."""
    found = weighted(node)
    if found is None or found.place != 1 or found.channel is None or found.bias is not None:
        return
    if node.name not in ("matmul", "gemm") or node.result.n_uses != 1:
        return
    user = node.result.uses[0].node
    if user.name != "add" or user not in others or user.result.type is not node.result.type:
        return
    place = 1 - user.operands.index(node.result)
    bias = user.operands[place]
    channels = node.operands[1].shape[found.channel]  # type: ignore[union-attr, index]
    if bias is None or not bias.is_const or not bias.shape or bias.shape[-1] != channels:
        return
    if bias.type.numel == channels:  # type: ignore[attr-defined]
        plan.biases[node] = (user, place)
        plan.inner.add(node.result)
        plan.nodes[user] = plan.nodes[node]


def _absorb_clamp(plan: Plan, node: Node, others: Mapping[Node, Role]) -> None:
    if node.result.n_uses != 1:
        return
    user = node.result.uses[0].node
    if user.name in CLAMPS and user in others and user.operands[0] is node.result:
        plan.inner.add(node.result)
        plan.nodes[user] = plan.nodes[node]


def _between(graph: Graph, core: set[Node], others: Mapping[Node, Role], integer_ends: bool) -> dict[Node, Role]:
    """The nodes that stand between integer ops: the largest set in which each has something integer coming in and somebody
    integer taking its result. Inputs count as integers coming in; outputs as takers where elements are only moved."""
    inside = {node: role for node, role in others.items() if node not in core}
    changed = True
    while changed:
        before = len(inside)
        for node in graph.nodes():
            if node in inside and not _fed(node, inside[node], core, inside, graph):
                del inside[node]
        for node in graph.reversed():
            if node in inside and not _taken(node, inside[node], core, inside, integer_ends):
                del inside[node]
        changed = len(inside) != before
    return inside


def _fed(node: Node, role: Role, core: set[Node], inside: Mapping[Node, Role], graph: Graph) -> bool:
    """Integers come in: by every data operand of an op that computes, by one of an op that picks and joins."""
    sources = [v for _, v in data_operands(node, role) if not v.is_const]
    fed = [v.node in core or v.node in inside if v.node is not None else v.owner is graph for v in sources]
    return any(fed) if role.kind == "same" else bool(fed) and all(fed)


def _taken(node: Node, role: Role, core: set[Node], inside: Mapping[Node, Role], integer_ends: bool) -> bool:
    for use in (use for value in node.results for use in value.uses):
        taker = use.node
        if taker in core or taker in inside:
            places = (role_of(taker) or role).data
            if places is None or use.index in places:
                return True
        elif taker.name == "return" and (integer_ends or role.kind == "same"):
            return True
    return False


def _name_grids(plan: Plan, between: Mapping[Node, Role], wanted: Wanted) -> None:
    """Give each node of the plan, in order, and each value at its edges the grid that it is on."""
    core, plan.nodes = plan.nodes, {}
    for node in plan.graph.nodes():
        if node in core:
            plan.nodes[node] = core[node]
        elif node in between:
            source = node.operands[0] if between[node].data == (0,) else None
            moved = between[node].kind == "same" and source is not None and source.node in plan.nodes
            plan.nodes[node] = plan.nodes[source.node] if moved else wanted(node)  # type: ignore[union-attr, index]
            if between[node].kind == "own" and node.name in ("add", "sub", "mul"):
                _absorb_clamp(plan, node, between)
                core.update({n: g for n, g in plan.nodes.items() if n not in core})
    for node in plan.nodes:
        for _, value in plan.edges(node):
            grid = plan.nodes[value.node] if value.node in plan.nodes else plan.nodes[node]  # type: ignore[index]
            plan.values[value] = finer(plan.values.get(value, grid), grid)
        plan.values.update({v: plan.nodes[node] for v in node.results if v not in plan.inner})


def finer(a: str, b: str) -> str:
    """The grid with more steps."""
    return a if ACTIVATIONS[a].dtype.bits >= ACTIVATIONS[b].dtype.bits else b


# --------------------------------------------------------------------------------------------- which values share a grid


class Affine(NamedTuple):
    """A value with the integers of `base`: its scale `factor` times as large, its zero point `steps` lower."""

    base: Value
    factor: float
    steps: int


class Layout:
    """Parameters for every value of a plan, from observed ranges: values that an op wants on one grid share one.

    `at(value, grid)` are a value's parameters on a grid; `entry(node, place)` those that operand `place` of a node of kind
    "same" is read with, where they differ from the value's own.
    """

    def __init__(self, plan: Plan, ranges: Mapping[Value, tuple[float, float]], grids: Mapping) -> None:
        self.plan = plan
        self.grids = grids
        self._parent: dict[Value, Value] = {}
        self._range = dict(ranges)
        self._fixed: dict[Value, tuple[float, float]] = {}
        self._affine: dict[Value, Affine] = {}
        self._settled: set[Value] = set()  # bases whose step may not change any more
        self._entries: dict[tuple[Node, int], Value] = {}
        for node in plan.nodes:
            role = plan.role(node)
            if role.fixed is not None:
                self._fixed.update((v, role.fixed) for v in node.results if v not in plan.inner)
            elif role.kind == "same":
                self._share(node, role)
            elif node.name in ("add", "sub", "mul") and node.result not in plan.inner:
                self._follow(node)

    def at(self, value: Value, grid: str) -> Params:
        root = self._find(value)
        if root in self._affine and grid == self.plan.values[root]:
            base, factor, steps = self._affine[root]
            params = self.at(base, grid)
            scale = np.asarray(params.scale.astype(np.float64) * factor, np.float32)
            return params._replace(scale=scale, zero=np.asarray(int(params.zero) - steps, params.dtype.numpy))  # type: ignore
        if root in self._fixed:
            return fixed(*self._fixed[root], grid)
        return affine(*self._range[root], self.grids[grid])

    def entry(self, node: Node, place: int) -> Params | None:
        result = self._entries.get((node, place))
        return None if result is None else self.at(result, self.plan.nodes[node])

    def _find(self, value: Value) -> Value:
        root = value
        while root in self._parent:
            root = self._parent[root]
        return root

    def _follow(self, node: Node) -> None:
        """A number times or plus data keeps the integers: the scale is multiplied, the zero point moved by whole steps, for
        which the data's step may grow a little. Otherwise the result has a grid of its own."""
        data = [v for v in node.operands if v is not None and not v.is_const]
        numbers = [v.scalar() for v in node.operands if v is not None and v.is_const]
        grid = self.plan.nodes[node]
        if len(data) != 1 or not numbers or numbers[0] is None or self.plan.values.get(data[0]) != grid:
            return
        root = self._find(data[0])
        base, factor, steps = self._affine.get(root, Affine(root, 1.0, 0))
        if node.name == "mul":
            if numbers[0] > 0:
                self._affine[node.result] = Affine(base, factor * numbers[0], steps)
            return
        shift = numbers[0] if node.name == "add" else -numbers[0]
        if node.name == "sub" and node.operands[0] is not data[0]:
            return
        params = self.at(base, grid)
        moved = shift / (float(params.scale) * factor)
        whole = round(moved)
        stretched = None
        if abs(moved - whole) >= FAINT:
            whole = int(moved)
            settled = steps or base in self._settled or base in self._fixed or params.grid.symmetric
            if settled or not whole or moved / whole > STRETCH:
                return
            low, high = self._range[base]
            stretched = low, low + (high - low) * moved / whole
        zero = int(params.zero) - steps - whole  # type: ignore[arg-type]
        if params.grid.low <= zero <= params.grid.high and not (whole and params.grid.symmetric):
            if stretched:
                self._range[base] = stretched
            self._settled.add(base)
            self._affine[node.result] = Affine(base, factor, steps + whole)

    def _share(self, node: Node, role: Role) -> None:
        """Results of `node` take their operands' grid; operands that must keep another one are laid anew for this node."""
        results = [v for v in node.results if v not in self.plan.inner]
        grid = self.plan.nodes[node]
        operands = [(i, v) for i, v in data_operands(node, role) if not v.is_const]
        constants = [v.array() for _, v in data_operands(node, role) if v.is_const]
        if node.name == "pad" and node.operand("value") is not None:
            constants.append(node.operand("value").array())
        if len(operands) == 1 and not constants and self.plan.values[operands[0][1]] == grid:
            for result in results:
                self._join(operands[0][1], result)
            return
        first = results[0]
        low = min([float(a.min(initial=0)) for a in constants] + [self._span(v)[0] for _, v in operands])
        high = max([float(a.max(initial=0)) for a in constants] + [self._span(v)[1] for _, v in operands])
        self._range[first] = (low, high)
        for other in results[1:]:
            self._join(first, other)
        for place, value in operands:
            if self._may_join(value, grid, low, high):
                self._join(first, value)
            else:
                self._entries[node, place] = first

    def _span(self, value: Value) -> tuple[float, float]:
        root = self._find(value)
        return self._fixed.get(root) or self._range[root]

    def _may_join(self, value: Value, grid: str, low: float, high: float) -> bool:
        """Whether a value can do with the grid of an op that takes it."""
        root = self._find(value)
        if root in self._fixed or root in self._affine or root in self._settled or self.plan.values[value] != grid:
            return False
        mine = self._span(value)
        alone = value.n_uses == 1 and self._find(value) is value
        return alone or high - low <= WIDER * (max(mine[1], 0.0) - min(mine[0], 0.0))

    def _join(self, first: Value, second: Value) -> None:
        a, b = self._find(first), self._find(second)
        if a is b:
            return
        self._parent[b] = a
        spans = [self._range[v] for v in (a, b) if v in self._range]
        if spans and a not in self._fixed:
            self._range[a] = (min(s[0] for s in spans), max(s[1] for s in spans))
