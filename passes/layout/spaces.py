"""How a node runs under another axis order: its iteration space, where operands and results lie in it, its rebuild.

A space has axes 0..rank-1; a *port* (operand i is port i, result j is port -1 - j) lists for each of its axes the
space axes that it covers, in order: one for most ops, several where reshape merges, none for an axis of size 1 that
nothing else has. An *order* is a sequence of space axes, outermost first. A port can follow an order when the axes that
it merges stay together and in sequence; its permutation `p` then says that physical axis i holds logical axis `p[i]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...ir.builder import Builder
from ...ir.value import Node, Value

Order = tuple[int, ...]
Port = tuple[tuple[int, ...], ...]
Rebuild = Callable[[Builder, Node, "list[Value | None]", Order], "Sequence[Value]"]


@dataclass(frozen=True)
class Space:
    """`rebuild(b, node, operands, order)` gets the operands of the moving ports in physical order and the others as
    they are, and returns the results in physical order. `prefers` is the space axis that is cheapest when innermost;
    an anchored space runs channels-last only. `allows` says whether the node can take an order at all."""

    rank: int
    ports: Mapping[int, Port]
    rebuild: Rebuild
    prefers: int | None = None
    anchored: bool = False
    allows: Callable[[Order], bool] = lambda order: True


def singles(axes: Sequence[int]) -> Port:
    """A port whose axes are these space axes, one each."""
    return tuple((a,) for a in axes)


def identity(rank: int) -> Order:
    return tuple(range(rank))


def channels_last_order(rank: int) -> Order:
    """[N, C, *S] as [N, *S, C]."""
    return (0, *range(2, rank), 1)


@lru_cache(maxsize=1 << 14)
def port_perm(port: Port, order: Order) -> Order | None:
    """The permutation of a port under a space order; None when a merged axis is torn apart. Size-1 axes of the port,
    which cover nothing, keep their position."""
    place = {axis: i for i, axis in enumerate(order)}
    keyed = []
    for index, block in enumerate(port):
        if block:
            starts = [place[a] for a in block]
            if starts != list(range(starts[0], starts[0] + len(block))):
                return None
            keyed.append((starts[0], index))
    made = [index for _, index in sorted(keyed)]
    for index, block in enumerate(port):
        if not block:
            made.insert(index, index)
    return tuple(made)


def space_order(space: Space, port: Port, perm: Order) -> Order | None:
    """A space order under which `port` has the permutation `perm`; space axes that the port lacks go right behind their
    predecessor. None when there is none."""
    order = [axis for index in perm for axis in port[index]]
    for axis in range(space.rank):
        if axis not in order:
            order.insert(order.index(axis - 1) + 1 if axis else 0, axis)
    made = tuple(order)
    return made if _equal_up_to_unit(port, port_perm(port, made), perm) else None


def _equal_up_to_unit(port: Port, made: Order | None, wanted: Order) -> bool:
    if made is None:
        return False
    return [i for i in made if port[i]] == [i for i in wanted if port[i]]


def covers(space: Space, port: Port) -> bool:
    return sum(map(len, port)) == space.rank


def inverse(perm: Order) -> Order:
    made = [0] * len(perm)
    for position, axis in enumerate(perm):
        made[axis] = position
    return tuple(made)


def moved(items: Sequence[Any], perm: Order) -> tuple:
    """Per-axis items of the logical tensor, in physical order."""
    return tuple(items[a] for a in perm)


# ------------------------------------------------------------------------------------------------ the table of ops

SpaceRule = Callable[[Node], Space | None]
SPACES: dict[str, SpaceRule] = {}


def moves(*names: str) -> Callable[[SpaceRule], SpaceRule]:
    """Register the space rule of some ops; a rule returns None for a node that it pins."""

    def register(rule: SpaceRule) -> SpaceRule:
        for name in names:
            SPACES[name] = rule
        return rule

    return register


def again(b: Builder, node: Node, operands: Sequence[Value | None], **attrs: Any) -> tuple[Value, ...]:
    """The same op on other operands, with some attributes changed."""
    made = b.make(node.op, tuple(operands), {**node.attrs, **attrs})
    return made.results
