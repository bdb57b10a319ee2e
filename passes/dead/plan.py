"""Edits that free a channel of its readers: what it adds to a layer's sums is moved to where it does not need the channel.

    constant    c at every position: W c goes into the bias, where every position sums every term (no padding)
    merged      constants that padding keeps from the bias: all of a layer go into one of them, W_i c_i / c_r
    duplicate   equal to another channel: its column is added to that one's
    near-dead   within r of a constant c, and |W| r at most the bound: W c into the bias, the rest is dropped

A class is planned for only where all its readers can be freed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...ir.graph import Node
from .gains import Gains, bias_of
from .labels import Equalities
from .liveness import Exit, Liveness
from .products import Product
from .spans import BLOCK, Spans

CONSTANT, MERGED, DUPLICATE, NEAR = "constant-channel", "merged-constant", "duplicate-channel", "near-dead-channel"


@dataclass(frozen=True)
class Certificate:
    """No element of the layer's result moves by more than `error`, which is at most `bound` times `reach`, the largest that
    inputs of the same size can make it; in numbers, or in shares of the size of value `unit`."""

    error: float
    reach: float
    unit: str


@dataclass
class Spent:
    """Of one layer, over all rounds: what it could reach at first, and what has been dropped of that."""

    reach: float
    gained: float
    error: float = 0.0
    relative: float = 0.0

    def affordable(self, error: np.ndarray, relative: np.ndarray, able: np.ndarray, bound: float) -> np.ndarray:
        """The smallest shares that together stay within the bound, absolutely and relatively."""
        order = np.lexsort((np.arange(len(able)), np.maximum(_share(error, self.reach), _share(relative, self.gained))))
        order = order[able[order]]
        fits = self.error + np.cumsum(error[order]) <= bound * self.reach
        fits &= self.relative + np.cumsum(relative[order]) <= bound * self.gained
        fine = np.zeros(len(able), bool)
        fine[order[np.logical_and.accumulate(fits)]] = True
        return fine


def _share(error: np.ndarray, reach: float) -> np.ndarray:
    return error / reach if reach > 0 else np.where(error > 0, np.inf, 0.0)


@dataclass(eq=False)
class Edit:
    """Of one exit: constants by input that go into the bias, inputs and why, and what the dropped rest can do."""

    exit: Exit
    folded: dict[int, float] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    certificates: list[Certificate] = field(default_factory=list)


@dataclass
class Options:
    """What could free each input of one exit: a kind or "" for none, with its numbers."""

    kind: np.ndarray
    number: np.ndarray
    target: np.ndarray
    errors: list[tuple[np.ndarray, float, str]] = field(default_factory=list)  # by input; reach, unit


class Planner:
    """Finds the edits of one round."""

    def __init__(
        self,
        live: Liveness,
        spans: Spans,
        equal: Equalities,
        gains: Gains | None,
        bound: float,
        spent: dict[Node, Spent],
    ) -> None:
        self.live, self.spans, self.equal, self.gains, self.bound, self.spent = live, spans, equal, gains, bound, spent

    def edits(self) -> list[Edit]:
        """The edits, marked on their exits as well so that liveness sees them."""
        alive = self.live.live()
        able = alive & ~self.live.held
        found: list[tuple[Exit, np.ndarray, Options]] = []
        for exit_ in self.live.exits:
            possible = exit_.reads & able[exit_.roots_in]
            if not possible.any():
                continue
            options = self._options(exit_, alive)
            read = exit_.read_by(alive, possible) if options is not None else possible
            if options is None:
                able[exit_.roots_in[possible]] = False
                continue
            able[exit_.roots_in[read & (options.kind == "")]] = False
            found.append((exit_, read, options))
        made = [self._edit(exit_, read & able[exit_.roots_in], options) for exit_, read, options in found]
        return [edit for edit in made if edit is not None]

    def _edit(self, exit_: Exit, chosen: np.ndarray, options: Options) -> Edit | None:
        if not chosen.any():
            return None
        edit = Edit(exit_)
        for i in np.flatnonzero(chosen).tolist():
            kind = edit.kinds[i] = str(options.kind[i])
            exit_.taken[i] = True
            if kind in (CONSTANT, NEAR) and options.number[i]:
                edit.folded[i] = float(options.number[i])
            elif kind in (MERGED, DUPLICATE):
                exit_.moves[i] = (int(options.target[i]), float(options.number[i]))
        near = [i for i, kind in edit.kinds.items() if kind == NEAR]
        if near:
            sums = [float(error[near].sum()) for error, _, _ in options.errors]
            spent = self.spent[exit_.product.node]
            spent.error, spent.relative = spent.error + sums[0], spent.relative + sums[1]
            told = zip(sums, options.errors, strict=True)
            edit.certificates = [
                Certificate(total, reach, unit) for total, (_, reach, unit) in told if total or not unit
            ]
        return edit

    def _options(self, exit_: Exit, alive: np.ndarray) -> Options | None:
        """None where the layer cannot be edited: a shared matrix, groups, numbers that are not finite."""
        p = exit_.product
        if p.groups != 1 or not self.live.walk.is_only_use(p.node, p.weight):
            return None
        n = p.channels
        options = Options(np.full(n, "", dtype=object), np.zeros(n), np.full(n, -1))
        x = self.spans.at(p.x, p.data_axis).wide(n)
        constant = x.constant & (x.lo != 0)
        if constant.any():
            self._constants(exit_, options, constant, x.lo, alive)
        labels = self.equal.at(p.x, p.data_axis)
        if labels is not None:
            _duplicates(exit_, options, labels, constant, alive)
        if self.gains is not None:
            self._near(exit_, options, self.gains)
        told = (options.kind != "").any()
        return options if told and p.is_finite else None

    def _constants(
        self, exit_: Exit, options: Options, constant: np.ndarray, numbers: np.ndarray, alive: np.ndarray
    ) -> None:
        p = exit_.product
        if not p.partial and bias_place(p) is not None:
            options.kind[constant] = CONSTANT
            options.number[constant] = numbers[constant]
            return
        places = np.flatnonzero(constant & exit_.reads & alive[exit_.roots_in])
        if len(places) < 2:
            return
        keeper = places[np.argmax(np.abs(numbers[places]))]
        for i in places[places != keeper].tolist():
            if exit_.roots_in[i] != exit_.roots_in[keeper]:
                options.kind[i], options.target[i], options.number[i] = MERGED, keeper, numbers[i] / numbers[keeper]

    def _near(self, exit_: Exit, options: Options, gains: Gains) -> None:
        """Inputs whose shares of what the layer can reach are together within the bound: of numbers that are known absolutely,
        and of those that are in the size of a value upstream, alike."""
        p = exit_.product
        x, bias = gains.at(p.x, p.data_axis, p.channels), bias_of(p, self.spans)
        if x is None or bias is None:
            return
        known = np.isfinite(x.radius) & np.isfinite(x.gain)
        mid, radius, gain = (np.where(known, part, 0.0) for part in (x.mid, x.radius, x.gain))
        if p.partial:  # zeros beside the image are no further from 0 than this
            radius, mid = radius + np.abs(mid), np.zeros_like(mid)
        largest, reach, gained = np.zeros(p.channels), 0.0, 0.0
        for rows, cube in p.blocks(BLOCK):
            weights = abs(p.alpha) * np.abs(cube[0]).sum(-1)
            largest = np.maximum(largest, weights.max(axis=0))
            reach = max(reach, float((weights @ (np.abs(mid) + radius) + np.abs(bias[rows])).max()))
            gained = max(gained, float((weights @ gain).max()))
        movable = (mid == 0) | (bias_place(p) is not None)
        able = known & movable & (options.kind == "") & exit_.reads
        spent = self.spent.setdefault(p.node, Spent(reach, gained))
        fine = spent.affordable(largest * radius, largest * gain, able, self.bound)
        options.kind[fine] = NEAR
        options.number[fine] = mid[fine]
        options.errors = [
            (largest * radius, spent.reach, ""),
            (largest * gain, spent.gained, x.source.hint or str(x.source.type)),
        ]


def _duplicates(exit_: Exit, options: Options, labels: np.ndarray, constant: np.ndarray, alive: np.ndarray) -> None:
    """Of equal inputs the one with the least root takes the others' weights."""
    roots = exit_.roots_in
    order = np.lexsort((roots, labels))
    live = [i for i in order.tolist() if alive[roots[i]] and not constant[i]]
    keeper: dict[int, int] = {}
    for i in live:
        first = keeper.setdefault(int(labels[i]), i)
        if first != i and roots[first] != roots[i] and options.kind[i] == "":
            options.kind[i], options.target[i], options.number[i] = DUPLICATE, first, 1.0


# ----------------------------------------------------------------------------------------------- where a bias may go


def bias_place(p: Product) -> tuple[Node, int] | None:
    """The node and operand that take a constant per output: the layer's own, or that of the add behind a matmul."""
    if p.node.name == "matmul":
        return _add_behind(p)
    if p.node.name == "gemm" and p.beta != 1.0:
        return None
    bias = p.bias
    if bias is None:
        return p.node, 2
    fits = bias.is_const and bias.shape is not None and all(n == 1 for n in bias.shape[:-1])
    return (p.node, 2) if fits else None


def _add_behind(p: Product) -> tuple[Node, int] | None:
    y = p.node.result
    if y.n_uses != 1 or y.users[0].name != "add" or p.out_axis != len(y.shape) - 1:  # type: ignore[arg-type]
        return None
    node = y.users[0]
    index = 1 if node.operands[0] is y else 0
    other = node.operands[index]
    if other is None or not other.is_const or not other.shape or not all(n == 1 for n in other.shape[:-1]):
        return None
    return (node, index) if other.shape[-1] == p.outputs and node.result.type is y.type else None
