"""How many units each dependency group gives up: a share of each, or of all together, or what a budget of MACs asks for.

    costs = Costs(module, groups, sizes)
    gone = choose(groups, scores, Amount(ratio=0.5), costs)        # units to remove, one array per group

MACs of a cut model are those of its layers times what is left of each axis: no model is built for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.cost import macs
from ..ir.graph import Module, Node
from ..passes.prune.atoms import Lane
from ..passes.prune.groups import Group

#: Units that are tried for what a budget of MACs has left.
TRIES = 64


@dataclass(frozen=True)
class Amount:
    """What is to go. `macs` is the share of MACs that stays and overrules `ratio`, the share of units that goes; each group
    keeps `min_keep` units, and a multiple of `multiple` (attention heads apart)."""

    ratio: float = 0.5
    macs: float | None = None
    ranking: str = "local"
    min_keep: int = 1
    multiple: int = 1

    def kept(self, group: Group, wanted: float) -> int:
        """How many units of a group stay when about `wanted` should."""
        step = 1 if group.kind == "head" else self.multiple
        least = max(min(self.min_keep, group.size), 1)
        count = _rounded(wanted / step) * step
        count = max(count, -(-least // step) * step)
        return min(count, group.size)


@dataclass
class _Term:
    """A layer's MACs, and for each of its axes that groups cut: positions, and how many of them each unit has, by group."""

    macs: int
    axes: list[tuple[int, dict[int, np.ndarray]]]


class Costs:
    """The MACs of one sample, whole and cut. `sizes` binds symbols; layers whose shapes it leaves open count nothing."""

    def __init__(self, module: Module, groups: Sequence[Group], sizes: Mapping[str, int]) -> None:
        self.groups = groups
        self.terms: list[_Term] = []
        self.fixed = 0
        self._by_weight = {(m.node, m.value, m.axis): [] for g in groups for m in g.members}  # type: ignore[var-annotated]
        for place, group in enumerate(groups):
            for member in group.members:
                self._by_weight[member.node, member.value, member.axis].append((place, member.units))
        self._places = _lookup(groups)
        for node in module.all_nodes():
            count = macs(node, sizes) or 0
            axes = [found for found in self._axes(node) if found[1]] if count else []
            if axes:
                self.terms.append(_Term(count, axes))
            else:
                self.fixed += count
        self.total = self.fixed + sum(term.macs for term in self.terms)

    def left(self, gone: Sequence[np.ndarray]) -> float:
        """MACs when the units that the masks name are gone."""
        total = float(self.fixed)
        for term in self.terms:
            share = 1.0
            for positions, cut in term.axes:
                share *= 1 - sum(int(counts[gone[place]].sum()) for place, counts in cut.items()) / positions
            total += term.macs * share
        return total

    def saved(self) -> list[np.ndarray]:
        """What each unit saves when it goes alone."""
        made = [np.zeros(group.size) for group in self.groups]
        for term in self.terms:
            for positions, cut in term.axes:
                for place, counts in cut.items():
                    made[place] += term.macs * counts / positions
        return made

    def _axes(self, node: Node) -> list[tuple[int, dict[int, np.ndarray]]]:
        found = [self._of_value(node.results[0], axis) for axis in range(node.results[0].rank or 0)]
        inner = _INNER.get(node.name)
        if inner is not None:
            found.append(inner(self, node))
        return found

    def _of_value(self, value, axis: int) -> tuple[int, dict[int, np.ndarray]]:
        """An axis of a value: how many positions, and per group how many of them each unit has."""
        analysis = self.groups[0].analysis
        assert analysis is not None
        row = analysis.walk.values.get(value)
        if not row or not isinstance(row[axis], Lane):
            return 1, {}
        roots = analysis.roots(row[axis])
        places, units = self._places[0][roots], self._places[1][roots]
        return len(roots), self._counted(places, units)

    def _of_weight(self, node: Node, index: int, axis: int) -> tuple[int, dict[int, np.ndarray]]:
        value = node.operands[index]
        if value is None or not value.is_const:
            return self._of_value(value, axis % (value.rank or 1)) if value is not None else (1, {})
        rows = self._by_weight.get((node, value, axis), [])
        counted = {place: np.bincount(u[u >= 0], minlength=self.groups[place].size) for place, u in rows}
        return int(value.shape[axis]), counted  # type: ignore[index, arg-type]

    def _counted(self, places: np.ndarray, units: np.ndarray) -> dict[int, np.ndarray]:
        return {
            int(place): np.bincount(units[places == place], minlength=self.groups[place].size)
            for place in np.unique(places[places >= 0])
        }


def _lookup(groups: Sequence[Group]) -> tuple[np.ndarray, np.ndarray]:
    """Group and unit by root, -1 where there is none."""
    analysis = groups[0].analysis
    assert analysis is not None
    place_of = np.full(len(analysis.classes.roots), -1)
    unit_of = np.zeros(len(analysis.classes.roots), np.intp)
    for place, group in enumerate(groups):
        place_of[group.roots] = place
        unit_of[group.roots] = np.arange(group.size)
    return place_of, unit_of


def _rows(node: Node) -> int:
    return 0 if node.name == "gemm" and node.attr("transA") else (node.operands[0].rank or 1) - 1  # type: ignore[union-attr]


#: The axis that a layer sums over.
_INNER: dict[str, Callable[[Costs, Node], tuple[int, dict[int, np.ndarray]]]] = {
    "conv": lambda costs, node: costs._of_weight(node, 1, 1),
    "conv_transpose": lambda costs, node: costs._of_weight(node, 1, 0),
    "gemm": lambda costs, node: costs._of_weight(node, 0, _rows(node)),
    "matmul": lambda costs, node: costs._of_weight(node, 0, _rows(node)),
    **dict.fromkeys(("lstm", "gru", "rnn"), lambda costs, node: costs._of_weight(node, 1, 2)),
}


# ------------------------------------------------------------------------------------------------------------- choosing


def choose(
    groups: Sequence[Group], scores: Sequence[np.ndarray], amount: Amount, costs: Costs, sizes: Sequence[int]
) -> list[np.ndarray]:
    """The units of each group that go, as masks: those with the lowest scores, of equal ones the first.

    `sizes` are those that the groups had at first: a ratio is of them.
    """
    ranks = [np.argsort(np.argsort(each, kind="stable"), kind="stable") for each in scores]

    def cut(kept: Sequence[float]) -> list[np.ndarray]:
        counts = [amount.kept(group, wanted) for group, wanted in zip(groups, kept, strict=True)]
        return [rank < group.size - count for rank, group, count in zip(ranks, groups, counts, strict=True)]

    if amount.ranking == "local":
        return _meet(amount, costs, lambda ratio: cut([size - _rounded(ratio * size) for size in sizes]))
    order = _order(groups, scores, costs, amount.min_keep)
    owner = np.repeat(np.arange(len(groups)), [group.size for group in groups])[order]

    def left_of(ratio: float) -> list[float]:
        going = max(_rounded(ratio * sum(sizes)) - (sum(sizes) - len(owner)), 0)
        taken = np.bincount(owner[:going], minlength=len(groups))
        return [group.size - count for group, count in zip(groups, taken, strict=True)]

    made = _meet(amount, costs, lambda ratio: cut(left_of(ratio)))
    return made if amount.macs is None or amount.multiple > 1 else _fill(made, amount.macs, costs, owner, cut)


def _fill(
    gone: list[np.ndarray],
    share: float,
    costs: Costs,
    owner: np.ndarray,
    cut: Callable[[Sequence[float]], list[np.ndarray]],
) -> list[np.ndarray]:
    """Units put back, the last ones taken first, as long as the budget has room for one of them."""
    removed = owner[: sum(int(mask.sum()) for mask in gone)]
    for place in removed[::-1][:TRIES]:
        kept = [len(mask) - int(mask.sum()) for mask in gone]
        kept[place] += 1
        fuller = cut(kept)
        if gone[place].any() and costs.left(fuller) <= share * costs.total:
            gone = fuller
    return gone


def _rounded(count: float) -> int:
    return int(np.floor(count + 0.5))


def _order(groups: Sequence[Group], scores: Sequence[np.ndarray], costs: Costs, min_keep: int) -> np.ndarray:
    """All units, cheapest per saved MAC first; the best of each group, which stay, last."""
    keys = []
    for group, each, saved in zip(groups, scores, costs.saved(), strict=True):
        key = each / np.maximum(saved, 1.0)
        key = np.maximum.accumulate(key[np.argsort(each, kind="stable")])[np.argsort(np.argsort(each, kind="stable"))]
        best = np.argsort(each, kind="stable")[max(group.size - max(min_keep, 1), 0) :]
        key[best] = np.inf
        keys.append(key)
    return np.argsort(np.concatenate(keys), kind="stable")


def _meet(amount: Amount, costs: Costs, cut: Callable[[float], list[np.ndarray]]) -> list[np.ndarray]:
    """The cut for the ratio, or the smallest one that meets the budget of MACs (the largest one where none does)."""
    if amount.macs is None:
        return cut(amount.ratio)
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        if costs.left(cut(middle)) <= amount.macs * costs.total:
            high = middle
        else:
            low = middle
    return cut(high)
