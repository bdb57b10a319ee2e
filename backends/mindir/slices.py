"""slice as StridedSlice with every axis spelled out; backward steps are reversals. Must not import MindSpore."""

from __future__ import annotations

import numpy as np

from ...ir.builder import Builder
from ...ir.types import I64
from ...ir.value import Node, Value
from ...passes.decompose.rules import Declined, Outcome
from .ops import WHOLE
from .registry import EVERY, Call, Shape, emits, lowers

_FAR = WHOLE


def _steps(node: Node) -> list[tuple[int, int]] | None:
    """(axis, step) of every sliced axis; None when axes or steps are computed."""
    x, starts, axes, steps = node.operands[0], node.operand("starts"), node.operand("axes"), node.operand("steps")
    count = starts.shape[0] if starts.shape else None
    if type(count) is not int:
        return None
    chosen = range(count) if axes is None else axes.ints()
    strides = (1,) * count if steps is None else steps.ints()
    if chosen is None or strides is None:
        return None
    return [(axis % x.rank, step) for axis, step in zip(chosen, strides, strict=True)]


def _forward(node: Node) -> str | None:
    steps = _steps(node)
    if steps is None or node.operand("starts").ints() is None or node.operand("ends").ints() is None:
        return "the bounds are computed"
    return None if all(step > 0 for _, step in steps) else "steps go forward"


def _clamped(bound: int, dim: object) -> int:
    """A bound that means the same: within a known dim, else within 32 bits."""
    if type(dim) is int:
        return min(max(bound + dim if bound < 0 else bound, 0), dim)
    return min(max(bound, -_FAR), _FAR)


@emits("slice", EVERY, check=_forward)
def slice_(node: Node) -> Call:
    x = node.operands[0]
    begin, end, strides = [0] * x.rank, [d if type(d) is int else _FAR for d in x.shape], [1] * x.rank
    bounds = zip(node.operand("starts").ints(), node.operand("ends").ints(), strict=True)
    for (axis, step), (start, stop) in zip(_steps(node), bounds, strict=True):
        begin[axis], end[axis], strides[axis] = _clamped(start, x.shape[axis]), _clamped(stop, x.shape[axis]), step
    return Call("StridedSlice", (x, tuple(begin), tuple(end), tuple(strides), 0, 0, 0, 0, 0))


@emits("ms.strided_slice", EVERY)
def strided_slice(node: Node) -> Call:
    x, begin, end = node.operands
    return Call("StridedSlice", (x, Shape(begin), Shape(end), node.attr("strides"), 0, 0, 0, 0, 0))


@lowers("slice")
def lower_slice(b: Builder, node: Node) -> Outcome:
    steps = _steps(node)
    if steps is None:
        return Declined("axes or steps are computed")
    starts, ends = node.operand("starts").ints(), node.operand("ends").ints()
    if starts is not None and ends is not None:
        return _backwards(b, node, steps, starts, ends)
    if any(step < 0 for _, step in steps):
        return Declined("a backward slice with computed bounds")
    return _computed(b, node, steps)


def _backwards(b: Builder, node: Node, steps: list, starts: tuple, ends: tuple) -> Outcome:
    """The same elements forwards, then reversed."""
    x = node.operands[0]
    first: list[int] = []
    last: list[int] = []
    strides: list[int] = []
    turned: list[int] = []
    for (axis, step), start, stop in zip(steps, starts, ends, strict=True):
        if step > 0:
            span = (start, stop, step)
        else:
            found = _forward_span(x.shape[axis], start, stop, step)
            if found is None:
                return Declined("a backward slice of an axis of unknown length")
            span = found
            turned.append(axis)
        for row, number in zip((first, last, strides), span, strict=True):
            row.append(number)
    y = b.slice(x, tuple(first), tuple(last), tuple(axis for axis, _ in steps), tuple(strides))
    return b.reverse(y, axes=tuple(turned))


def _forward_span(dim: object, start: int, stop: int, step: int) -> tuple[int, int, int] | None:
    """Start, end and step of the forward slice with the elements of a backward one."""
    if type(dim) is int:
        places = range(dim)[max(start, -dim - 1) : max(stop, -dim - 1) if stop >= -dim else None : step]
        if len(places) == 0:
            return 0, 0, 1
        return places[-1], places[0] + 1, -step
    if step != -1 or ((start >= 0) != (stop >= 0 and stop < _FAR) and stop > -_FAR):
        return None
    low = 0 if stop <= -_FAR else stop + 1
    high = _FAR if start in (-1, _FAR) or start >= _FAR else start + 1
    return (low, high, 1) if stop <= -_FAR or stop != -1 else None


def _computed(b: Builder, node: Node, steps: list) -> Outcome:
    """Bounds of every axis as tuples: those of the sliced axes from the vectors, whole axes else."""
    x = node.operands[0]
    strides = [1] * x.rank
    for axis, step in steps:
        strides[axis] = step
    begin = _spread(b, x, node.operand("starts"), steps, 0)
    end = _spread(b, x, node.operand("ends"), steps, _FAR)
    return b.call("ms.strided_slice", (x, begin, end), {"strides": tuple(strides)}).results[0]


def _spread(b: Builder, x: Value, vector: Value, steps: list, whole: int) -> Value:
    """One bound per axis as a tuple."""
    known = vector.ints()
    rows: list[Value | int] = [whole] * x.rank
    for place, (axis, _) in enumerate(steps):
        rows[axis] = _clamped(known[place], None) if known else _element(b, vector, place)
    if known:
        return b.const(np.asarray(rows, np.int64))
    pieces = [r if isinstance(r, Value) else b.const([r]) for r in rows]
    joined = b.concat(*pieces, axis=0) if len(pieces) > 1 else pieces[0]
    return b.call("ms.tensor_to_tuple", (joined,)).results[0]


def _element(b: Builder, vector: Value, place: int) -> Value:
    """Element `place`, within 32 bits, as [1]."""
    vector = vector if vector.dtype is I64 else b.cast(vector, to=I64)
    if vector.shape != (1,):
        vector = b.slice(vector, (place,), (place + 1,), (0,))
    return b.clip(vector, b.const(np.asarray(-_FAR)), b.const(np.asarray(_FAR)))
