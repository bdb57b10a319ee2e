"""Clips: relu, relu6, clip, min and max with constants bound a value from below and above; two in a row are one.

Zero is the one number that has two signs: bounds of 0.0 and -0.0 are never merged, nor taken for one another.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ...ir.graph import Node, Value
from ..optimize.common import is_float, producer, same_type, single, small_const
from ..pattern import literal_equals
from ..rewrite import StagingBuilder, rule

CLIPS = ("relu", "relu6", "clip")
#: Results that are never below 0.0, nor -0.0.
NOT_NEGATIVE = ("sigmoid", "hard_sigmoid", "softmax", "exp", "relu", "relu6", "square", "abs", "softplus")


class Range(NamedTuple):
    low: float
    high: float

    def holds_both_zeros(self, other: Range) -> bool:
        """Bounds of both ranges are zeros of different signs."""
        zeros = {math.copysign(1.0, v) for v in (*self, *other) if v == 0}
        return len(zeros) > 1


def range_of(node: Node) -> Range | None:
    """The constant bounds of a relu, relu6 or clip on floats; None where one is computed, NaN, or they cross."""
    if not is_float(node.result):
        return None
    if node.name != "clip":
        return Range(0.0, math.inf if node.name == "relu" else 6.0)
    low, high = (_bound(node.operand(name), absent) for name, absent in (("min", -math.inf), ("max", math.inf)))
    return Range(low, high) if low is not None and high is not None and low <= high else None


def _bound(value: Value | None, absent: float) -> float | None:
    if value is None:
        return absent
    if not small_const(value) or not single(value):
        return None
    number = float(value.array().reshape(-1)[0])
    return None if math.isnan(number) else number


def clipped(b: StagingBuilder, x: Value, to: Range) -> Value:
    """`x` within a range, in its canonical spelling."""
    if to.low == 0 and math.copysign(1.0, to.low) > 0 and to.high in (6.0, math.inf):
        return b.relu(x) if to.high == math.inf else b.relu6(x)
    low, high = (None if math.isinf(v) else b.const(np.asarray(v, x.dtype.numpy)) for v in to)  # type: ignore[union-attr]
    return b.clip(x, low, high)


@rule("clip")
def clip_to_relu(b: StagingBuilder, node: Node):
    """clip(x, 0) -> relu(x); clip(x, 0, 6) -> relu6(x); infinite bounds go"""
    x, low, high = node.operands[0], node.operand("min"), node.operand("max")
    if not is_float(x):  # type: ignore[arg-type]
        return None
    if high is not None and literal_equals(high, math.inf):
        high = None
    if low is not None and literal_equals(low, -math.inf):
        low = None
    if low is None and high is None:
        return x
    if low is not None and literal_equals(low, 0.0) and (high is None or literal_equals(high, 6.0)):
        return b.relu(x) if high is None else b.relu6(x)
    return b.clip(x, low, high) if (low, high) != (node.operand("min"), node.operand("max")) else None


@rule(*CLIPS)
def merge_clips(b: StagingBuilder, node: Node):
    """clip(clip(x, a, b), c, d), relu(clip(x, a, b)), relu6(relu(x)) -> one clip, relu or relu6"""
    inner = producer(node.operands[0], *CLIPS)
    if inner is None:
        return None
    outer, first = range_of(node), range_of(inner)
    if outer is None or first is None:
        return b.decline("a bound is computed, NaN, or above the other one")
    if outer.holds_both_zeros(first):
        return b.decline("one bound is 0.0, another -0.0")
    together = Range(*(min(max(v, outer.low), outer.high) for v in first))
    if together == first:
        return inner.result
    return clipped(b, inner.operands[0], together)  # type: ignore[arg-type]


@rule("relu", "abs")
def drop_relu(b: StagingBuilder, node: Node):
    """relu(sigmoid(x)) -> sigmoid(x), abs(abs(x)) -> abs(x), and whatever else is never negative"""
    inner = producer(node.operands[0], *NOT_NEGATIVE)
    if inner is None or not (is_float(node.result) or inner.name == node.name):
        return None  # the smallest integer is its own absolute value
    return inner.result


@rule("min", "max")
def merge_extrema(b: StagingBuilder, node: Node):
    """max(max(x, c), d) -> max(x, max(c, d)), the same for min, with numbers"""
    inner = producer(node.operands[0], node.name)
    if inner is None:
        return None
    x, c, d = *inner.operands, node.operands[1]
    if not all(small_const(v) and single(v) for v in (c, d)):  # type: ignore[arg-type]
        return None
    numbers = [float(v.array().reshape(-1)[0]) for v in (c, d)] if is_float(c) else [v.ints()[0] for v in (c, d)]  # type: ignore
    if any(n != n for n in numbers) or (numbers[0] == 0 == numbers[1] and is_float(c)):  # type: ignore[arg-type]
        return b.decline("a number is NaN, or both are zeros")
    pick = c if (numbers[0] > numbers[1]) == (node.name == "max") else d
    made = b.call(node.name, (x, pick)).result
    return made if same_type(made, node.result) else None


RULES = (clip_to_relu, merge_clips, drop_relu, merge_extrema)
