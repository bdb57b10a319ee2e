"""The dependency engine: which channels, heads and hidden units of a model can only be removed together.

    for group in find_groups(module):
        print(group.name, group.kind, group.size)            # conv1.weight channel 64
        group.producers, group.consumers                     # [(node, weight, axis), ...]
    remove_units(module, {group: np.array([3, 17])})         # passes/prune/remove.py

Every index of every axis is an atom; ops equate atoms (rule files), and the classes of that are the units. Units that the
same weights hold make one group. A class that reaches an input, an output or an op that looks at positions is pinned: it
is left out, or listed with the reason (`pinned=True`). Formulas: the rules of dependency graphs (Fang et al., DepGraph,
CVPR 2023), per index rather than per layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ...ir.graph import Graph, Module, Node, Value
from .atoms import HEAD, HIDDEN, REPEAT, Axis, Classes, Lane
from .walk import CARRIER, CONSUMER, PRODUCER, Answers, Question, Use, Walk

#: Rounds of answering what is open; the last walk takes the first part that it can of what still is.
ROUNDS = 16

Part = tuple[Node, Value, int]


class Unit(NamedTuple):
    """What goes together: positions along an axis of a weight, for every weight that has some."""

    indices: tuple[tuple[Value, int, np.ndarray], ...]


class Member(NamedTuple):
    """One axis of a constant, as one node uses it: `units[i]` is the unit of position i, -1 where it is of another group."""

    node: Node
    value: Value
    axis: int
    part: str
    units: np.ndarray


@dataclass(eq=False)
class Group:
    """Units that run through the same weights. `pinned` says why none of them may go ("" where they may).

    `kind` is channel, head or hidden; `name` the key of the first weight that makes it; `producers`, `consumers` and
    `carriers` (biases, norms, depthwise kernels: what only accompanies the channels) are (node, constant, axis), in the
    order of the graph.
    """

    name: str
    kind: str
    size: int
    members: tuple[Member, ...]
    pinned: str = ""
    roots: np.ndarray = field(default_factory=lambda: np.zeros(0, np.intp), repr=False)
    analysis: Analysis | None = field(default=None, repr=False)

    @property
    def producers(self) -> list[Part]:
        return [(m.node, m.value, m.axis) for m in self.members if m.part == PRODUCER]

    @property
    def consumers(self) -> list[Part]:
        return [(m.node, m.value, m.axis) for m in self.members if m.part == CONSUMER]

    @property
    def carriers(self) -> list[Part]:
        return [(m.node, m.value, m.axis) for m in self.members if m.part == CARRIER]

    @cached_property
    def units(self) -> list[Unit]:
        """The indices of each unit, unit by unit."""
        found: list[list[tuple[Value, int, np.ndarray]]] = [[] for _ in range(self.size)]
        seen: set[tuple[Value, int, bytes]] = set()
        for member in self.members:
            key = (member.value, member.axis, member.units.tobytes())
            if key in seen:
                continue
            seen.add(key)
            order = np.argsort(member.units, kind="stable")
            starts = np.searchsorted(member.units[order], np.arange(self.size + 1))
            for unit in range(self.size):
                at = order[starts[unit] : starts[unit + 1]]
                if len(at):
                    found[unit].append((member.value, member.axis, at))
        return [Unit(tuple(items)) for items in found]

    def units_of(self, value: Value, axis: int) -> np.ndarray:
        """The unit of each position along an axis of a computed value (a layer's input, say), -1 where there is none."""
        assert self.analysis is not None
        return self.analysis.units(self, self.analysis.walk.values[value][axis])


class Analysis:
    """A solved walk over a module, and what it says of the graph as it was then."""

    def __init__(self, module: Module, accept_norms: bool) -> None:
        self.module = module
        self.walk, self.classes = _settled(module, accept_norms)
        self.structure = structure(module)

    def roots(self, axis: Axis) -> np.ndarray:
        return self.classes.roots[axis.ids] if isinstance(axis, Lane) else np.zeros(0, np.intp)

    def units(self, group: Group, axis: Axis) -> np.ndarray:
        roots = self.roots(axis)
        places = np.searchsorted(group.roots, roots)
        places[places == len(group.roots)] = 0
        return np.where(group.roots[places] == roots, places, -1)


def structure(module: Module) -> list[tuple[Node, tuple[Value | None, ...]]]:
    """What an analysis is of: nodes and operands, not the contents of weights."""
    return [(node, node.operands) for node in module.all_nodes()]


def find_groups(where: Module | Graph, *, pinned: bool = False, accept_norms: bool = False) -> list[Group]:
    """The groups of units of a module (of a graph: those that have a node in it), in the order of the graph.

    `pinned` lists those that may not be cut as well, with the reason. `accept_norms`: the channels under a layer norm may
    be cut, the norm then being written out with the old length so that the numbers are those of the zeroed channels.
    """
    module = where.module if isinstance(where, Graph) else where
    analysis = Analysis(module, accept_norms)
    groups = _groups(analysis, pinned)
    if isinstance(where, Graph):
        own = set(where.nodes())
        groups = [group for group in groups if any(m.node in own for m in group.members)]
    return groups


# ------------------------------------------------------------------------------------------ answering what is open


def _settled(module: Module, accept_norms: bool) -> tuple[Walk, Classes]:
    """Walk until every question is answered: what is certain first, then what is preferred, and once more for what has
    led to a pinned axis. A part that has led nowhere is not tried again, so this ends."""
    answers = Answers()
    for round_ in range(ROUNDS + 1):
        answers.final = round_ == ROUNDS
        walk = Walk(module, answers, accept_norms)
        walk.run()
        classes = walk.space.solve()
        if answers.final or not _answer(answers, walk.questions, classes):
            break
    return walk, classes


def _answer(answers: Answers, questions: Sequence[Question], classes: Classes) -> bool:
    """Answer what can be answered now; True when another walk is needed."""
    changed = [_reconsidered(answers, q, classes) for q in questions if q.answer is not None]
    open_ = [q for q in questions if q.answer is None]
    ranked = [(question, _ranking(answers, question, classes)) for question in open_]
    certain = [(q, ranks) for q, ranks in ranked if len(ranks) < 2 or ranks[0][:3] != ranks[1][:3]]
    for question, ranks in certain or ranked:
        lanes = [i for i, part in enumerate(question.parts) if isinstance(part, Lane)]
        answers.given[question.key] = -ranks[0][-1] if ranks else lanes[0]
    return any(changed) or bool(open_)


def _reconsidered(answers: Answers, question: Question, classes: Classes) -> bool:
    """Take back an answer that has led nowhere, while another is left to try."""
    key, (chosen,) = question.key, question.parts
    if isinstance(chosen, Lane) and classes.alive(chosen.ids) > 1:
        return False
    dead = answers.dead.setdefault(key, set())
    if question.answer in dead:
        return False
    dead.add(question.answer)  # type: ignore[arg-type]
    if key[0] == "groups":
        answers.given[key] = 1 - question.answer  # type: ignore[operator]
    else:
        answers.given.pop(key, None)
    return True


def _ranking(answers: Answers, question: Question, classes: Classes) -> list[tuple]:
    """The parts that lead somewhere, best first: heads, not a mere repetition, then the one with most classes."""
    found = []
    dead = answers.dead.get(question.key, set())
    for i, part in enumerate(question.parts):
        alive = classes.alive(part.ids) if isinstance(part, Lane) and i not in dead else 0
        if alive > 1:
            kind = (classes.marked(part.ids, HEAD), not classes.marked(part.ids, REPEAT))  # type: ignore[union-attr]
            found.append((True, *kind, alive, -int(classes.roots[part.ids].min()), -i))  # type: ignore[union-attr]
    return sorted(found, reverse=True)


# ------------------------------------------------------------------------------------------------- units to groups


def _groups(analysis: Analysis, pinned: bool) -> list[Group]:
    walk, classes = analysis.walk, analysis.classes
    tables = {use.slot: classes.roots[_ids(walk, use)] for use in walk.uses}
    keys, made = _signatures(classes, tables.values(), walk.pieces), np.zeros(walk.space.count, bool)
    for use in walk.uses:
        if use.part == PRODUCER:
            made[tables[use.slot]] = True
    wanted = np.unique(np.concatenate(list(tables.values()))) if tables else np.zeros(0, np.intp)
    wanted = wanted[made[wanted] & (pinned | (classes.pinned[wanted] < 0))]
    bundles = _bundles(classes, wanted, keys)
    members = _members(walk, tables, bundles)
    groups, names = [], dict[str, int]()
    for roots, own in zip(bundles, members, strict=True):
        reason = classes.reason(int(roots[0])) or ("there is only one" if len(roots) == 1 else "")
        if reason and not pinned:
            continue
        groups.append(_group(analysis, roots, own, reason, names))
    return groups


def _ids(walk: Walk, use: Use) -> np.ndarray:
    return walk.holdings[use.slot.number].axes[use.slot.axis].ids  # type: ignore[union-attr]


def _signatures(classes: Classes, tables: Iterable[np.ndarray], pieces: Iterable[np.ndarray]) -> np.ndarray:
    """For each root a number that tells which weights, and which parts of split axes, hold it."""
    keys = np.zeros(len(classes.roots), np.uint64)
    rng = np.random.default_rng(0)
    for roots in (*tables, *(classes.roots[ids] for ids in pieces)):
        keys[np.unique(roots)] += np.uint64(rng.integers(1, 1 << 63))
    return keys


def _bundles(classes: Classes, roots: np.ndarray, keys: np.ndarray) -> list[np.ndarray]:
    """Roots with one signature and one reason, in the order of their first atom."""
    bundles: dict[tuple[int, int], list[int]] = {}
    for root, key, reason in zip(roots.tolist(), keys[roots].tolist(), classes.pinned[roots].tolist(), strict=True):
        bundles.setdefault((key, reason), []).append(root)
    return [np.asarray(found) for found in bundles.values()]


def _members(walk: Walk, tables: dict, bundles: list[np.ndarray]) -> list[list[Member]]:
    """The weights of each bundle, in the order of the graph."""
    bundle_of = np.full(walk.space.count, -1)
    unit_of = np.zeros(walk.space.count, np.intp)
    for number, roots in enumerate(bundles):
        bundle_of[roots] = number
        unit_of[roots] = np.arange(len(roots))
    made: list[list[Member]] = [[] for _ in bundles]
    for use in dict.fromkeys(walk.uses):
        roots = tables[use.slot]
        bundle = bundle_of[roots]
        value = walk.holdings[use.slot.number].value
        for number in np.unique(bundle[bundle >= 0]).tolist():
            units = np.where(bundle == number, unit_of[roots], -1)
            made[number].append(Member(use.node, value, use.slot.axis, use.part, units))
    return made


def _group(analysis: Analysis, roots: np.ndarray, members: list[Member], reason: str, names: dict[str, int]) -> Group:
    bits = int(np.bitwise_or.reduce(analysis.classes.bits[roots]))
    kind = "hidden" if bits & HIDDEN else "head" if bits & HEAD else "channel"
    first = next(m for m in members if m.part == PRODUCER)
    key = first.value.weight.key  # type: ignore[union-attr]
    count = names[key] = names.get(key, 0) + 1
    name = key if count == 1 else f"{key}#{count}"
    return Group(name, kind, len(roots), tuple(members), reason, roots, analysis)
