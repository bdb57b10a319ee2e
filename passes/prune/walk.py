"""One walk over a module that gives every axis of every value its atoms, op by op, by the tables of the rule files.

    @rule("relu")                       what the op says of axes: a list with the axes of each result
    def relu(walk, node): ...

    @rewriting("split")                 what it needs when axes were cut: shape constants and attributes put right
    def split(cut, node): ...

An op without a rule pins every axis that it touches. A rule must be right for any cut of what it leaves unpinned: the op
on the cut operands, after its rewriting, computes the cut of its results, provided removed indices either are zero
(`Lane.zero`) or meet a zeroed weight.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.dims import Dim, dim_eq
from ...ir.graph import Graph, Module, Node, Value
from ...ir.opdef import MOVEMENT, PURE
from ...ir.types import BOOL, I64, STRING, TensorType
from .atoms import EMPTY, INDICES, MIXED, SINGLE, UNKNOWN, Axes, Axis, Bundle, Fixed, Lane, Slot, Space

if TYPE_CHECKING:
    from .remove import Cut

FAMILIES = (
    "rules",
    "rules_shape",
    "rules_reshape",
    "rules_product",
    "rules_attention",
    "rules_recurrent",
    "rules_control",
)

Rule = Callable[["Walk", Node], Sequence[Axes]]
Rewriting = Callable[["Cut", Node], None]
RULES: dict[str, Rule] = {}
REWRITINGS: dict[str, Rewriting] = {}

PRODUCER, CONSUMER, CARRIER = "producer", "consumer", "carrier"


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register what ops of these names say of their axes."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def rewriting(*names: str) -> Callable[[Rewriting], Rewriting]:
    """Register how nodes of these names are put right when their axes were cut."""

    def register(function: Rewriting) -> Rewriting:
        REWRITINGS.update(dict.fromkeys(names, function))
        return function

    return register


def load_rules() -> None:
    """Fill the tables."""
    for family in FAMILIES:
        importlib.import_module(f".{family}", __package__)


@dataclass
class Holding:
    """A constant as cuts see it: all uses of a matrix together, or one use of a vector, which may get its own copy."""

    value: Value
    axes: Axes
    users: list[tuple[Node, int]] = field(default_factory=list)
    zeroed: bool = True  # whether masking may zero it


@dataclass(frozen=True, slots=True)
class Use:
    """A node works with one axis of a constant, as producer, consumer or carrier of the channels."""

    node: Node
    slot: Slot
    part: str


@dataclass
class Question:
    """An axis is a product of parts of which only one can be cut: the parts, while it is open which one, or the chosen
    lane alone."""

    key: tuple[Any, ...]
    parts: list[Axis]
    answer: int | None = None


class Answers:
    """Which part of each product is cut, and which parts have turned out to lead nowhere."""

    def __init__(self) -> None:
        self.given: dict[tuple, int] = {}
        self.dead: dict[tuple, set[int]] = {}
        self.final = False


class Walk:
    """The state of one walk: axes of values, constants, uses, open questions."""

    def __init__(self, module: Module, answers: Answers, accept_norms: bool) -> None:
        load_rules()
        self.module = module
        self.answers = answers
        self.accept_norms = accept_norms
        self.space = Space()
        self.values: dict[Value, Axes] = {}
        self.holdings: list[Holding] = []
        self.uses: list[Use] = []
        self.questions: list[Question] = []
        self.dead: dict[Node, None] = {}
        self.splats: dict[Value, bool] = {}  # computed values of equal elements, and whether those are zero
        self.splat_uses: dict[tuple[Node, int], Axes] = {}
        self.named: dict[Node, dict[str, Axis]] = {}  # axes that an op packs into others, for its rewriting
        self.pieces: list[np.ndarray] = []  # atoms of values that are parts of others
        self._holding: dict[Any, int] = {}
        self._reasons: dict[tuple[str, str], Fixed] = {}

    def run(self) -> None:
        for graph in self.module.graphs.values():
            held = Fixed("an input of the model")
            for value in graph.inputs:
                self.settle(value, (held,) * (value.rank or 0))
            self.graph(graph)
            for index in range(len(graph.outputs)):
                self.pin(self.axes(graph.return_node, index), "an output of the model")

    def graph(self, graph: Graph) -> None:
        """Walk a graph or region whose inputs have their axes; what nothing uses has no say."""
        dead = dead_nodes(graph)
        self.dead.update(dead)
        for node in graph.nodes():
            if node in dead:
                continue
            made = RULES.get(node.name, _unknown)(self, node)
            for value, axes in zip(node.results, made, strict=True):
                self.settle(value, axes)
            self._note_splat(node)

    def settle(self, value: Value, axes: Sequence[Axis]) -> None:
        """The axes of a computed value; an axis of 1 is SINGLE, and atoms are as many as the type says."""
        made = list(axes)
        for i, dim in enumerate(value.shape or ()):
            axis = made[i]
            if dim == 1 and axis is not SINGLE:
                self.space.pin(axis, SINGLE.reason)
                made[i] = SINGLE
            elif not _fits(axis, dim):
                self.space.pin(axis, UNKNOWN.reason)
                made[i] = UNKNOWN
        self.values[value] = tuple(made)

    # What rules ask.

    def axes(self, node: Node, index: int, *, zeroed: bool = True, bundles: bool = False) -> Axes:
        """The axes of an operand, () for an absent one. A constant's lanes are zero under masking unless `zeroed` is False.
        A rule that does not ask for bundles sees a fixed axis in their place."""
        value = node.operands[index] if index < len(node.operands) else None
        if value is None:
            return ()
        if value in self.splats:
            return self._splat_axes(value, node, index)
        if not value.is_const:
            return self.values[value] if bundles else tuple(map(self._unbundled, self.values[value]))
        holding = self._hold(value, node, index)
        if not zeroed:
            holding.zeroed = False
            return tuple(a.but(zero=False) if isinstance(a, Lane) else a for a in holding.axes)
        return holding.axes

    def _unbundled(self, axis: Axis) -> Axis:
        if isinstance(axis, Bundle):
            self.space.pin(axis, MIXED.reason)
            return MIXED
        return axis

    def _note_splat(self, node: Node) -> None:
        """Results that are one number all over: initial states, say, which layers share without being tied by them."""
        if node.name == "constant_of_shape":
            self.splats[node.result] = node.attr("value") == 0
        elif node.has(MOVEMENT) and node.name != "concat":
            source = node.operands[0]
            number = None if source is None or source.dtype is STRING else source.scalar()
            if number is not None or source in self.splats:
                self.splats.update(
                    dict.fromkeys(node.results, number == 0 if number is not None else self.splats[source])
                )  # type: ignore[index]

    def _splat_axes(self, value: Value, node: Node, index: int) -> Axes:
        """Atoms of this use alone: it can take a slice of any length."""
        key = (node, index)
        if key not in self.splat_uses:
            self.splat_uses[key] = tuple(self.new(n, zero=self.splats[value]) for n in value.shape or ())
        return self.splat_uses[key]

    def _hold(self, value: Value, node: Node, index: int) -> Holding:
        key = (node, index) if _is_vector(value) else value
        number = self._holding.get(key)
        if number is None:
            number = self._holding[key] = len(self.holdings)
            self.holdings.append(Holding(value, self._const_axes(value, number)))
        holding = self.holdings[number]
        if (node, index) not in holding.users:
            holding.users.append((node, index))
        return holding

    def holding_of(self, node: Node, index: int) -> int | None:
        """The number of the constant that an operand is, where a rule has asked for it."""
        value = node.operands[index]
        return self._holding.get((node, index) if value is not None and _is_vector(value) else value)

    def is_only_use(self, node: Node, index: int) -> bool:
        """Whether nothing else that is walked is cut together with this operand, a constant."""
        number = self.holding_of(node, index)
        return number is not None and len(self.holdings[number].users) == 1

    def exchange(self, node: Node, index: int, new: Value) -> None:
        """Another constant of the same type in place of one that nothing else uses; it has the same axes."""
        old, number = node.operands[index], self.holding_of(node, index)
        node.set_operand(index, new)
        if number is not None:
            self.holdings[number].value = new
            if old in self._holding:
                self._holding[new] = self._holding.pop(old)

    def _const_axes(self, value: Value, number: int) -> Axes:
        sizes = enumerate(value.shape or ())
        if value.dtype in (I64, BOOL, STRING):
            return tuple(SINGLE if n == 1 else INDICES for _, n in sizes)
        return tuple(
            SINGLE if n == 1 else EMPTY if n == 0 else Lane(self.space.fresh(int(n)), True, Slot(number, i))  # type: ignore[arg-type]
            for i, n in sizes
        )

    def fixed(self, node: Node, why: str) -> Fixed:
        """A fixed axis; equal reasons are one object."""
        key = (node.name, why)
        if key not in self._reasons:
            self._reasons[key] = Fixed(f"{node.name} {why}")
        return self._reasons[key]

    def held(self, node: Node, why: str) -> list[Axes]:
        """Pin all operands, and fix all results."""
        reason = self.fixed(node, why)
        for index, value in enumerate(node.operands):
            if value is not None:
                self.pin(self.axes(node, index, zeroed=False), reason.reason)
        return [(reason,) * (v.rank or 0) for v in node.results]

    def pin(self, axes: Axes, reason: str) -> None:
        for axis in axes:
            self.space.pin(axis, reason)

    def new(self, dim: Any, *, zero: bool) -> Axis:
        """A lane for an axis that comes from nowhere."""
        if type(dim) is not int or dim == 0:
            return EMPTY if dim == 0 else UNKNOWN
        return SINGLE if dim == 1 else Lane(self.space.fresh(dim), zero)

    def use(self, node: Node, axis: Axis, part: str) -> None:
        if isinstance(axis, Lane) and axis.slot is not None:
            self.uses.append(Use(node, axis.slot, part))

    def piece(self, axis: Axis) -> None:
        """This axis is a part of another one: it must not become empty while the other does not."""
        if isinstance(axis, Lane):
            self.pieces.append(axis.ids)

    def answer(self, key: tuple[Any, ...], able: list[int]) -> int | None:
        """Which part of a product is cut, one of `able`; None while that is open."""
        answer = self.answers.given.get(key)
        if answer not in able:
            answer = able[0] if self.answers.final else None
        return answer

    def ask(self, key: tuple[Any, ...], parts: Sequence[Axis]) -> None:
        """Leave open which of the parts is cut."""
        self.questions.append(Question(key, list(parts)))

    def judge(self, key: tuple[Any, ...], chosen: Axis) -> None:
        """See later whether the part that was chosen leads anywhere."""
        self.questions.append(Question(key, [chosen], self.answers.given.get(key)))


def _fits(axis: Axis, dim: Dim) -> bool:
    """Whether an axis that a rule has made is one of this size."""
    if isinstance(axis, Bundle):
        return dim_eq(math.prod(axis.dims), dim) is True
    return dim == len(axis.ids) if isinstance(axis, Lane) else dim == 1 or axis is not SINGLE


def dead_nodes(graph: Graph) -> dict[Node, None]:
    """Pure nodes that nothing but dead nodes use, last first."""
    dead: dict[Node, None] = {}
    for node in graph.reversed():
        if node.has(PURE) and all(use.node in dead for value in node.results for use in value.uses):
            dead[node] = None
    return dead


def _is_vector(value: Value) -> bool:
    """Long in at most one axis: biases, scales, slopes. Each use may then be cut on its own, at no cost."""
    shape = value.shape or ()
    return sum(n != 1 for n in shape) <= 1


def _unknown(walk: Walk, node: Node) -> list[Axes]:
    for region in node.regions:
        for value in region.inputs:
            walk.settle(value, (walk.fixed(node, "looks at positions"),) * (value.rank or 0))
        walk.graph(region)
        for index in range(len(region.outputs)):
            walk.pin(walk.axes(region.return_node, index), f"{node.name} looks at positions")
    return walk.held(node, "looks at positions")


def sized(value: Value, axis: int) -> int | None:
    """The size of an axis as a number."""
    dim = value.shape[axis] if isinstance(value.type, TensorType) and value.shape is not None else None
    return dim if type(dim) is int else None
