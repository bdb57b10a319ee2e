"""What lstm, gru and rnn say of axes: hidden unit j is row j of every gate, column j of the recurrence, and its states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Node
from .atoms import HIDDEN, SINGLE, Axes, Axis, Fixed, Lane
from .rules import zero_of
from .rules_product import summed
from .walk import CARRIER, CONSUMER, PRODUCER, Walk, rewriting, rule

if TYPE_CHECKING:
    from .remove import Cut

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
STATES = {"lstm": (5, 6), "gru": (5,), "rnn": (5,)}

#: Gate functions with f(0) = 0, whatever their parameters.
ZERO_AT_ZERO = frozenset({"tanh", "relu", "leakyrelu", "elu", "softsign", "scaledtanh"})
#: Which functions of a direction must be zero at zero for a unit without weights to stay zero.
WRITERS = {"lstm": (1, 2), "gru": (1,), "rnn": (0,)}
FUNCTIONS = {"lstm": 3, "gru": 2, "rnn": 1}


@rule("lstm", "gru", "rnn")
def recurrent(walk: Walk, node: Node) -> list[Axes]:
    gates, size = GATES[node.name], node.attr("hidden_size")
    if node.operands[0].rank is None:  # type: ignore[union-attr]
        return walk.held(node, "has data of unknown rank")
    x, w, r, b = (walk.axes(node, i) for i in range(4))
    held = walk.fixed(node, "looks at positions")
    summed(walk, node, x[2], w[2])
    walk.pin((*x[:2], w[0], r[0], *b[:1]), held.reason)
    for axis, part in ((w[1], PRODUCER), (r[1], PRODUCER), (r[2], CONSUMER), *((axis, CARRIER) for axis in b[1:])):
        walk.use(node, axis, part)
    peepholes = walk.axes(node, 7) if node.name == "lstm" else ()
    states = [row for row in (walk.axes(node, i) for i in STATES[node.name]) if row]
    for row in states:
        walk.pin(row[:2], held.reason)
        walk.use(node, row[2], CARRIER)
    if size == 1:
        unit: Axis = SINGLE
        walk.pin((w[1], r[1], *b[1:], *peepholes[1:]), held.reason)
    else:
        rows = [(w[1], gates), (r[1], gates), (r[2], 1), *((axis, 2 * gates) for axis in b[1:]),
                *((axis, 3) for axis in peepholes[1:]), *((row[2], 1) for row in states)]  # fmt: skip
        unit = _unit(walk, rows, size)
    if isinstance(unit, Lane):
        walk.space.mark(unit, HIDDEN)
        unit = unit.computed(zero=stays_zero(node) and all(zero_of(row[2]) for row in states))
    made: list[Axes] = [(held, held, held, unit)]
    return [*made, *[(held, held, unit)] * (len(node.results) - 1)]


def _unit(walk: Walk, rows: list[tuple[Axis, int]], size: int) -> Axis:
    """The hidden units as one lane; `rows` are axes with how often the units stand in them."""
    fixed = next((axis for axis, _ in rows if isinstance(axis, Fixed)), None)
    if fixed is not None:
        walk.pin(tuple(axis for axis, _ in rows), fixed.reason)
        return fixed
    first = rows[2][0].ids  # type: ignore[union-attr]
    for axis, times in rows:
        walk.space.union(axis.ids, np.tile(first, times))  # type: ignore[union-attr]
    return Lane(first)


def stays_zero(node: Node) -> bool:
    """Whether a unit whose writer has no weights stays zero."""
    names = [name.lower() for name in node.attr("activations")]
    if not names:
        return True
    count = FUNCTIONS[node.name]
    return all(name in ZERO_AT_ZERO for i, name in enumerate(names) if i % count in WRITERS[node.name])


@rewriting("lstm", "gru", "rnn")
def hidden_size(cut: Cut, node: Node) -> None:
    node.set_attr("hidden_size", cut.size(node.results[1], 2))
