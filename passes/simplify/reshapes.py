"""Reshape, flatten, squeeze and unsqueeze are one thing, the same elements in other groups; here is its one spelling.

Given the shape that comes out, in this order:

1. at most one dim that is no number: reshape to a constant, -1 in its place
2. all such dims stand where the operand has them: reshape to a constant, 0 (copy) in their places
3. dims of size 1 were only dropped or only added: squeeze or unsqueeze
4. one dim is left that cannot be copied: reshape to a constant, 0 and one -1, if no copied dim can be zero (beside a zero
   -1 says nothing) or the source has its own -1 in that place and would fail as well

Anything else keeps the shape that the model computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...ir.builder import Builder
from ...ir.dims import Dim, Facts, dim_eq
from ...ir.graph import Node, Value
from ..optimize.common import positive, same_type
from ..rewrite import StagingBuilder, rule

REGROUPS = ("reshape", "flatten", "squeeze", "unsqueeze")
#: So many regroupings in a row are looked through.
CHAIN = 8


class Regrouping(NamedTuple):
    """An op with its constant operand."""

    op: str
    numbers: tuple[int, ...]
    allowzero: bool = False

    def build(self, b: Builder, x: Value) -> Value:
        if self.op == "reshape":
            return b.reshape(x, self.numbers, allowzero=self.allowzero)
        return b.call(self.op, (x, self.numbers)).result


def regrouping(
    source: Sequence[Dim], result: Sequence[Dim], facts: Facts | None = None, rest: int | None = None
) -> Regrouping | None:
    """The canonical way from the shape `source` to the shape `result`; `rest` is where the given target has a -1. None
    where no constant says it."""
    numbers = [d if isinstance(d, int) else -1 for d in result]
    if -1 not in numbers:
        return Regrouping("reshape", tuple(numbers), 0 in numbers)
    if 0 in numbers:
        return None
    if numbers.count(-1) == 1:
        return Regrouping("reshape", tuple(numbers))
    for i, dim in enumerate(result):
        if numbers[i] == -1 and i < len(source) and dim_eq(source[i], dim) is True:
            numbers[i] = 0
    if -1 not in numbers:
        return Regrouping("reshape", tuple(numbers))
    for op, longer, shorter in (("squeeze", source, result), ("unsqueeze", result, source)):
        axes = _unit_axes(longer, shorter)
        if axes:
            return Regrouping(op, axes)
    if numbers.count(-1) == 1:
        copied = [d for n, d in zip(numbers, result, strict=True) if n == 0]
        if numbers.index(-1) == rest or all(positive(d, facts) for d in copied):
            return Regrouping("reshape", tuple(numbers))
    return None


def _unit_axes(longer: Sequence[Dim], shorter: Sequence[Dim]) -> tuple[int, ...] | None:
    """The axes of size 1 without which `longer` is `shorter`, the last ones where there is a choice."""
    axes, at = [], 0
    for i, dim in enumerate(longer):
        if at < len(shorter) and dim_eq(dim, shorter[at]) is True:
            at += 1
        elif dim == 1:
            axes.append(i)
        else:
            return None
    return tuple(axes) if at == len(shorter) else None


def spelled(node: Node) -> Regrouping | None:
    """What a node with a constant operand says; None for a computed one, and for flatten."""
    if len(node.operands) < 2 or not node.operands[1].is_const:  # type: ignore[union-attr]
        return None
    given = node.operands[1].ints()  # type: ignore[union-attr]
    return None if given is None else Regrouping(node.name, tuple(given), bool(node.attrs.get("allowzero")))


def rest_axis(node: Node) -> int | None:
    """Where a reshape's target has its -1."""
    elems = node.operands[1].elems if node.name == "reshape" else None  # type: ignore[union-attr]
    return elems.index(-1) if elems is not None and -1 in elems else None


def sources(value: Value) -> list[Value]:
    """`value` and what it is only a regrouping of, nearest first."""
    found = [value]
    while len(found) < CHAIN and value.node is not None and value.node.name in REGROUPS:
        value = value.node.operands[0]  # type: ignore[assignment]
        found.append(value)
    return found


def regrouped(b: StagingBuilder, x: Value, result: Value, rest: int | None = None) -> tuple[Value, Regrouping] | None:
    """The earliest value that one regrouping turns into the shape of `result`, and that regrouping."""
    if result.shape is None:
        return None
    for source in reversed(sources(x)):
        made = regrouping(source.shape or (), result.shape, b.module.facts, rest)
        if made is not None:
            return source, made
    return None


@rule(*REGROUPS, benefit=2)
def merge_reshapes(b: StagingBuilder, node: Node):
    """reshape(reshape(x)) -> reshape(x), or x; the same for flatten, squeeze and unsqueeze"""
    x = node.operands[0]
    for source in reversed(sources(x)[1:]):  # type: ignore[arg-type]
        if same_type(source, node.result):
            return source
    found = regrouped(b, x, node.result, rest_axis(node))  # type: ignore[arg-type]
    if found is None or found[0] is x:
        return None
    return found[1].build(b, found[0])


@rule(*REGROUPS)
def reshape_by_constant(b: StagingBuilder, node: Node):
    """reshape to a computed shape, flatten, squeeze, unsqueeze -> the canonical regrouping with a constant"""
    x = node.operands[0]
    if node.result.shape is None:
        return None
    made = regrouping(x.shape or (), node.result.shape, b.module.facts, rest_axis(node))
    if made is None:
        return b.decline("no constant says the shape for every size")
    return None if made == spelled(node) else made.build(b, x)


@rule("transpose")
def transpose_moving_unit_dims(b: StagingBuilder, node: Node):
    """transpose that moves only dims of size 1 -> reshape"""
    x, perm = node.operands[0], node.attr("perm")
    if x.shape is None or perm == tuple(range(len(perm))):
        return None
    if [p for p in perm if x.shape[p] != 1] != [i for i, d in enumerate(x.shape) if d != 1]:
        return None
    found = regrouped(b, x, node.result)
    return found[1].build(b, found[0]) if found is not None else b.decline("no constant says the shape for every size")


RULES = (merge_reshapes, reshape_by_constant, transpose_moving_unit_dims)
