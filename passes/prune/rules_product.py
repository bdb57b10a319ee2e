"""What products say of axes: convolutions, matmul, gemm, einsum. Summed axes run in step; the others pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Node
from ...ir.opdef import Axis as Label
from .atoms import HEAD, SINGLE, UNKNOWN, Axes, Axis, Bundle, Fixed, Lane
from .rules import channel_axis, pinning, zero_of
from .walk import CARRIER, CONSUMER, PRODUCER, Question, Walk, rewriting, rule

if TYPE_CHECKING:
    from .remove import Cut


def summed(walk: Walk, node: Node, a: Axis, b: Axis) -> None:
    """The op sums over both: a removed index must add zero, by the data or by a zeroed weight."""
    joined = walk.space.join([axis for axis in (a, b) if axis is not SINGLE] or [SINGLE])
    if isinstance(joined, Bundle):
        walk.space.pin(joined, f"{node.name} sums over it")
    if isinstance(joined, Lane) and not (zero_of(a) or zero_of(b)):
        walk.space.pin(joined, f"{node.name} sums over what is not zero when masked")
    for axis in (a, b):
        walk.use(node, axis, CONSUMER)


# ------------------------------------------------------------------------------------------------------- convolutions


@rule("conv", "conv_transpose")
def conv(walk: Walk, node: Node) -> list[Axes]:
    row, kernel = walk.axes(node, 0), walk.axes(node, 1)
    if len(row) < 3 or len(kernel) < 3:
        return walk.held(node, "has an operand of unknown rank")
    at = channel_axis(node)
    walk.pin(kernel[2:], f"{node.name} has a kernel of fixed extent")
    groups = node.attr("groups")
    made = _dense(walk, node, row[at], kernel) if groups == 1 else _grouped(walk, node, row[at], kernel)
    made = _with_bias(walk, node, made)
    spatial = [i for i in range(1, len(row)) if i != at]
    result = list(pinning(walk, node, spatial, "slides along it", zero=True)[0])
    result[at] = made
    return [tuple(result)]


def _with_bias(walk: Walk, node: Node, made: Axis) -> Axis:
    bias = walk.axes(node, 2)
    if not bias:
        return made.computed(zero=made.zero) if isinstance(made, Lane) else made
    walk.use(node, bias[0], CARRIER)
    joined = walk.space.join([made, bias[0]])
    return joined.computed(zero=zero_of(made) and zero_of(bias[0])) if isinstance(joined, Lane) else joined


def _dense(walk: Walk, node: Node, data: Axis, kernel: Axes) -> Axis:
    source, made = (kernel[1], kernel[0]) if node.name == "conv" else (kernel[0], kernel[1])
    summed(walk, node, data, source)
    walk.use(node, made, PRODUCER)
    return made


def _grouped(walk: Walk, node: Node, data: Axis, kernel: Axes) -> Axis:
    """Whole groups go, or the same places in every group: what is left must be groups of one size. With one channel per
    group, depthwise, the groups are the channels (a convolution of one channel has one group, and is none of this)."""
    groups, w = node.attr("groups"), node.operands[1].shape  # type: ignore[union-attr]
    plain = node.name == "conv"
    inside, made_inside = (w[1], w[0] // groups) if plain else (w[0] // groups, w[1])  # type: ignore[index, operator]
    if any(type(n) is not int for n in w[:2]):  # type: ignore[index]
        walk.pin((data, *kernel[:2]), UNKNOWN.reason)
        return UNKNOWN
    key = ("groups", node)
    depthwise = inside == 1
    preferred = BY_GROUP if groups >= max(inside, made_inside) else BY_PLACE  # type: ignore[type-var]
    answer = BY_GROUP if depthwise else walk.answers.given.get(key, preferred)
    walk.use(node, kernel[0], CARRIER if depthwise else PRODUCER if plain else CONSUMER)
    walk.use(node, kernel[1], CONSUMER if plain else PRODUCER)
    ways = _by_group if answer == BY_GROUP else _by_place
    made = ways(walk, node, data, kernel, groups)
    if not depthwise:
        walk.questions.append(Question(key, [made], answer))
    return made


BY_GROUP, BY_PLACE = 0, 1


def _by_group(walk: Walk, node: Node, data: Axis, kernel: Axes, groups: int) -> Axis:
    """All inputs and outputs of a group are one."""
    why = walk.fixed(node, "keeps its groups whole")
    walk.space.pin(kernel[1], why.reason)
    if not isinstance(data, Lane) or not isinstance(kernel[0], Lane):
        return walk.space.join([data, kernel[0]])
    each = [walk.space.union_all(lane.ids.reshape(groups, -1).T) for lane in (data, kernel[0])]
    walk.space.union(*each)
    if node.name == "conv":
        return kernel[0]
    made = node.result.shape[channel_axis(node)]  # type: ignore[index]
    return Lane(np.repeat(each[0], made // groups), kernel[0].zero)  # type: ignore[operator, arg-type]


def _by_place(walk: Walk, node: Node, data: Axis, kernel: Axes, groups: int) -> Axis:
    """The same place in every group is one: inputs on their own, outputs on their own."""
    data, outer = (
        Lane(walk.space.union_all(axis.ids.reshape(groups, -1)), axis.zero) if isinstance(axis, Lane) else axis
        for axis in (data, kernel[0])
    )
    if node.name == "conv":
        summed(walk, node, data, kernel[1])
        return kernel[0]
    summed(walk, node, data, outer)
    inner = kernel[1]
    return Lane(np.tile(inner.ids, groups), inner.zero) if isinstance(inner, Lane) else inner


@rewriting("conv", "conv_transpose")
def conv_groups(cut: Cut, node: Node) -> None:
    """As many groups as channels fill."""
    if node.attr("groups") == 1:
        return
    x, w = node.operands[:2]
    at = channel_axis(node)
    channels = cut.size(x, at) if node.name == "conv" else cut.size(node.result, at)  # type: ignore[arg-type]
    node.set_attr("groups", channels // cut.size(w, 1))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ products


@rule("matmul", "gemm", "einsum")
def product(walk: Walk, node: Node) -> list[Axes]:
    """By the labels of the op: summed over, passed to the result, or broadcast."""
    amap = node.op.axis_map(node)
    if amap is None or node.result.rank is None:
        return walk.held(node, "has an operand of unknown rank")
    by_label: dict[str, list[Axis]] = {}
    sums: dict[str, list[Axis]] = {}
    both = _data_labels(node, amap.operands)
    for index, labels in enumerate(amap.operands):
        for axis, label in zip(walk.axes(node, index, bundles=True), labels or (), strict=False):
            if label is None:
                walk.space.pin(axis, f"{node.name} takes a diagonal of it")
            elif label.role == "contract":
                sums.setdefault(label.label, []).append(axis)
            elif axis is not SINGLE:
                by_label.setdefault(label.label, []).append(axis)
                walk.use(node, axis, CARRIER if node.name == "gemm" and index == 2 else PRODUCER)
    for axes in sums.values():
        if len(axes) == 2:
            summed(walk, node, *axes)
        else:
            walk.pin(tuple(axes), f"{node.name} sums over it")
    made = [_passed(walk, node, label, by_label, both) for label in amap.results[0]]
    return [tuple(made)]


def _data_labels(node: Node, rows: Sequence[Sequence[Label | None] | None]) -> set[str]:
    """The labels that both factors, computed ones, have and the result keeps: what heads are. One factor may have a single
    head for all."""
    found = [
        {label.label for label in labels or () if label is not None and label.role != "contract"}
        for value, labels in zip(node.operands, rows, strict=False)
        if value is not None and not value.is_const
    ]
    return set.intersection(*found) if len(found) > 1 and node.name != "gemm" else set()


def _passed(walk: Walk, node: Node, label: Label | None, by_label: dict[str, list[Axis]], both: set[str]) -> Axis:
    if label is None:
        return walk.fixed(node, "takes a diagonal")
    axes = by_label.get(label.label)
    if not axes:
        return SINGLE
    joined = walk.space.join(axes)
    if isinstance(joined, Fixed):
        return joined
    if label.label in both:
        walk.space.mark(joined, HEAD)
    added = node.name == "gemm" and len(node.operands) > 2 and node.operands[2] is not None
    if isinstance(joined, Bundle):  # then all are: a product of two is zero where one of them is
        rows = [axis.parts for axis in axes if isinstance(axis, Bundle)]
        columns = zip(*rows, strict=True)
        return Bundle(tuple((column[0][0], _zero_if_any([part for _, part in column])) for column in columns))
    zeros = [axis.zero for axis in axes if isinstance(axis, Lane)]
    return Lane(joined.ids, len(zeros) == 2 and all(zeros) if added else any(zeros))


def _zero_if_any(axes: Sequence[Axis]) -> Axis:
    """The first of axes that run in step, zero where any of them is."""
    first = next((axis for axis in axes if isinstance(axis, Fixed)), axes[0])
    return first.computed(zero=any(map(zero_of, axes))) if isinstance(first, Lane) else first
