"""Edits that free a channel of its readers: what it adds to a layer's sums is moved to where it does not need the channel.

    constant    c at every position: W c goes into the bias, where every position sums every term (no padding)
    merged      constants that padding keeps from the bias: all of a layer go into one of them, W_i c_i / c_r
    duplicate   equal to another channel: its column is added to that one's
    scaled      a power of two times another channel: so many times its column is added to that one's
    near-dead   within r of a constant c, and |W| r at most the bound: W c into the bias, the rest is dropped (`bounded.py`)
    near-twin   within r of c times another channel, and |W| r at most the bound: c W is added to that one's column

A class is planned for only where all its readers can be freed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Node
from .labels import Equalities
from .liveness import Exit, Liveness
from .products import Product
from .spans import BLOCK, Spans
from .twins import Twins

if TYPE_CHECKING:
    from .bounded import Bounded

CONSTANT, MERGED, NEAR = "constant-channel", "merged-constant", "near-dead-channel"
DUPLICATE, SCALED, NEAR_TWIN = "duplicate-channel", "scaled-channel", "near-twin-channel"
#: Kinds that leave an error, of which a certificate tells.
BOUNDED = frozenset({NEAR, NEAR_TWIN})


@dataclass(frozen=True)
class Certificate:
    """No element of the layer's result moves by more than `error`, which is at most `bound` times `reach`, the largest that
    inputs of the same size can make it; in numbers, or in shares of the size of value `unit`."""

    error: float
    reach: float
    unit: str


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
        bounded: Bounded | None,
    ) -> None:
        self.live, self.spans, self.equal, self.bounded = live, spans, equal, bounded

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
            elif options.target[i] >= 0:
                exit_.moves[i] = (int(options.target[i]), float(options.number[i]))
        near = [i for i, kind in edit.kinds.items() if kind in BOUNDED]
        if near:
            sums = [float(error[near].sum()) for error, _, _ in options.errors]
            spent = self.bounded.spent[exit_.product.node]  # type: ignore[union-attr]
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
        twins = self.equal.at(p.x, p.data_axis)
        if twins is not None:
            _duplicates(exit_, options, twins, constant, alive)
        if self.bounded is not None and p.is_layer:
            self.bounded.choose(exit_, options, alive)
        told = (options.kind != "").any()
        return options if told and p.is_finite and _is_holdable(p, options) else None

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


def _is_holdable(p: Product, options: Options) -> bool:
    """Whether the type of the weights holds what they become where others are added to them."""
    moved = np.flatnonzero(options.target >= 0)
    if not len(moved):
        return True
    import ml_dtypes

    sums = np.ones(p.channels)
    np.add.at(sums, options.target[moved], np.abs(options.number[moved]))
    largest = max(float(np.abs(cube).max()) for _, cube in p.blocks(BLOCK))
    return largest * sums.max() < float(ml_dtypes.finfo(p.w.dtype.numpy).max)  # type: ignore[union-attr]


def _duplicates(exit_: Exit, options: Options, twins: Twins, constant: np.ndarray, alive: np.ndarray) -> None:
    """Of twins the one with the least root takes the others' weights."""
    roots = exit_.roots_in
    order = np.lexsort((roots, twins.ids))
    live = [i for i in order.tolist() if alive[roots[i]] and twins.factor[i] and not constant[i]]
    keeper: dict[int, int] = {}
    for i in live:
        first = keeper.setdefault(int(twins.ids[i]), i)
        if first != i and roots[first] != roots[i] and options.kind[i] == "":
            number = twins.factor[i] / twins.factor[first]
            options.kind[i] = DUPLICATE if number == 1 else SCALED
            options.target[i], options.number[i] = first, number


# ----------------------------------------------------------------------------------------------- where a bias may go


def bias_place(p: Product) -> tuple[Node, int] | None:
    """The node and operand that take a constant per output: the layer's own, or that of the add behind a matmul."""
    if not p.is_layer:
        return None
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
