"""gemm, einsum and the integer products as transposes, reshapes and matmul. Knows no target."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from ...ir.builder import Builder
from ...ir.types import F32, I32
from ...ir.value import Node, Value
from .rules import Declined, Part, Size, decomposes, reshape_to, room, scalar, slice_axis, static, transposed


@decomposes("gemm")
def gemm(b: Builder, node: Node) -> Value | Declined:
    """alpha a' b' + beta c"""
    x, y, c = (*node.operands, None)[:3]
    alpha, beta = node.attr("alpha"), node.attr("beta")
    if not x.dtype.is_float and (alpha != 1 or beta != 1):
        return Declined("scaled integer products are not decomposed")
    x = transposed(b, x, (1, 0)) if node.attr("transA") else x
    y = transposed(b, y, (1, 0)) if node.attr("transB") else y
    product = b.matmul(x, y)
    if alpha != 1:
        product = b.mul(product, scalar(b, alpha, product))
    if c is None or beta == 0:
        return product
    return b.add(product, c if beta == 1 else b.mul(c, scalar(b, beta, c)))


@decomposes("matmul_integer")
def matmul_integer(b: Builder, node: Node) -> Value:
    """The product of i32 differences. A zero point per row of a is a column; per column of b, a row."""
    x, y, x_zero, y_zero = (*node.operands, None, None)[:4]
    left, right = b.cast(x, to=I32), b.cast(y, to=I32)
    if x_zero is not None:
        zero = b.cast(x_zero, to=I32)
        left = b.sub(left, b.unsqueeze(zero, (-1,)) if zero.rank == 1 and x.rank > 1 and zero.shape != (1,) else zero)
    if y_zero is not None:
        right = b.sub(right, b.cast(y_zero, to=I32))
    return b.matmul(left, right)


#: Integers up to this size, and so sums that stay below it, are exact in f32.
_EXACT = 1 << 24
#: The largest difference of an 8-bit integer and its zero point.
_WIDEST = 255


#: From filters and their zero point: a function that gives the differences of channels start to stop in f32.
Filters = Callable[[Builder, Value, Value | None], Callable[[int, int], Value]]


@decomposes("conv_integer")
def conv_integer(b: Builder, node: Node) -> Value | Declined:
    """Float convolutions over runs of channels in which no sum can leave the integers that f32 has, summed in i32."""
    return exact_conv(b, node, _cast_filters)


def exact_conv(b: Builder, node: Node, filters: Filters) -> Value | Declined:
    """`conv_integer` with filters made as a target likes."""
    x, w, x_zero, w_zero = (*node.operands, None, None)[:4]
    if not static(*w.shape):
        return Declined("the filter's size is not known")
    runs = _exact_runs(_reach(w, w_zero))
    if runs is None or (len(runs) > 1 and node.attr("groups") > 1):
        return Declined(f"sums over {math.prod(w.shape[1:])} products are not exact in f32")
    left = b.cast(x, to=F32)
    if x_zero is not None:
        left = b.sub(left, b.cast(x_zero, to=F32))
    channels = x.rank - 1 if node.attr("channels_last") else 1
    right, total = filters(b, w, w_zero), None
    for start, stop in runs:
        data = left if len(runs) == 1 else slice_axis(b, left, channels, start, stop)
        part = b.cast(b.conv(data, right(start, stop), **dict(node.attrs)), to=I32)
        total = part if total is None else b.add(total, part)
    return total


def _cast_filters(b: Builder, w: Value, zero: Value | None) -> Callable[[int, int], Value]:
    right = b.cast(w, to=F32)
    if zero is not None:
        point = b.cast(zero, to=F32)
        right = b.sub(right, b.reshape(point, (-1, *[1] * (w.rank - 1))) if zero.rank == 1 else point)
    return lambda start, stop: right if (start, stop) == (0, w.shape[1]) else slice_axis(b, right, 1, start, stop)


def stored_filters(b: Builder, w: Value, zero: Value | None) -> Callable[[int, int], Value]:
    """Constant filters by dequantize of constants, so that what is stored stays 8 bits."""
    if zero is not None and zero.rank == 1:
        zero = laid_out(b, zero, (-1, *[1] * (w.rank - 1)))
    return lambda start, stop: as_floats(b, part_of(b, w, 1, start, stop), zero)


def laid_out(b: Builder, parameter: Value, shape: tuple[int, ...]) -> Value:
    """A scale or zero point of another shape; a constant stays one."""
    return b.const(parameter.array().reshape(shape)) if parameter.is_const else b.reshape(parameter, shape)


def part_of(b: Builder, x: Value, axis: int, start: int, stop: int) -> Value:
    """Elements start to stop along an axis; of a constant, stored as a constant of its own."""
    if (start, stop) == (0, x.shape[axis]):
        return x
    if not x.is_const:
        return slice_axis(b, x, axis, start, stop)
    kept = x.array()[(slice(None),) * axis + (slice(start, stop),)]
    weight = x.weight
    return b.const(
        np.ascontiguousarray(kept), key=weight.wanted, role=weight.role, origin=f"{start}:{stop} of {weight.key}"
    )


def as_floats(b: Builder, x: Value, zero: Value | None) -> Value:
    """x - zero in f32; of a constant by dequantize, so that what is stored stays 8 bits."""
    if x.is_const:
        return b.dequantize(x, b.const(np.float32(1)), zero, to=F32)
    made = b.cast(x, to=F32)
    return made if zero is None else b.sub(made, b.cast(zero, to=F32))


def _reach(w: Value, zero: Value | None) -> np.ndarray:
    """Per filter and channel, what the sum of its products can at most amount to: [out, in] in int64."""
    outs, ins, *taps = (d for d in w.shape if isinstance(d, int))
    if not w.is_const or (zero is not None and not zero.is_const):
        return np.full((outs, ins), math.prod(taps) * _WIDEST * _WIDEST, np.int64)
    point = np.int64(0) if zero is None else zero.array().astype(np.int64)
    point = point.reshape(-1, *[1] * (w.rank - 1)) if point.ndim == 1 else point
    return np.abs(w.array().astype(np.int64) - point).reshape(outs, ins, math.prod(taps)).sum(2) * _WIDEST


def _exact_runs(reach: np.ndarray) -> list[tuple[int, int]] | None:
    """Channels in runs whose sums stay exact for every filter; None where one channel alone is too much."""
    starts, total = [0], np.zeros(len(reach), np.int64)
    for channel in range(reach.shape[1]):
        if (reach[:, channel] >= _EXACT).any():
            return None
        total = total + reach[:, channel]
        if (total >= _EXACT).any():
            starts.append(channel)
            total = reach[:, channel]
    return list(itertools.pairwise([*starts, reach.shape[1]]))


# ------------------------------------------------------------------------------------------------------- einsum


def labels_of(equation: str, ranks: Sequence[int]) -> tuple[list[str], str] | None:
    """Labels of each operand and of the result; dims of an ellipsis get labels of their own, from the right."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in text]
    widths = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    most = max([w for term, w in zip(terms, widths, strict=True) if "..." in term], default=0)
    if most > len(free):
        return None
    dots = "".join(free[:most])
    spelled = [term.replace("...", dots[most - w :] if w else "") for term, w in zip(terms, widths, strict=True)]
    if not arrow:
        joined = "".join(terms).replace(".", "")
        right = ("..." if "..." in left else "") + "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    return spelled, right.replace("...", dots)


class _Term:
    """An operand and the label of each of its axes (all different)."""

    def __init__(self, value: Value, labels: str) -> None:
        self.value = value
        self.labels = labels


def _diagonal(b: Builder, value: Value, labels: str) -> _Term | None:
    """Repeated labels of one operand: everything off the diagonal becomes 0 and the later axis is summed away."""
    while len(set(labels)) < len(labels):
        second = next(i for i, c in enumerate(labels) if c in labels[:i])
        first = labels.index(labels[second])
        size = value.shape[first]
        if type(size) is not int or value.shape[second] != size:
            return None
        shape = [1] * value.rank
        shape[first] = shape[second] = size
        room(size, size)
        mask = b.const(np.eye(size, dtype=bool).reshape(shape))
        value = b.reduce_sum(b.where(mask, value, scalar(b, 0, value)), (second,), keepdims=False)
        labels = labels[:second] + labels[second + 1 :]
    return _Term(value, labels)


def _summed(b: Builder, term: _Term, keep: set[str]) -> _Term:
    """Without the axes whose labels nobody else needs."""
    gone = tuple(i for i, c in enumerate(term.labels) if c not in keep)
    if not gone:
        return term
    labels = "".join(c for c in term.labels if c in keep)
    return _Term(b.reduce_sum(term.value, gone, keepdims=False), labels)


def _arranged(b: Builder, term: _Term, batch: str, rows: str, columns: str) -> Value:
    """[*batch, prod(rows), prod(columns)]; batch labels that the term lacks have size 1."""
    have = [c for c in batch if c in term.labels]
    order = have + list(rows) + list(columns)
    value = transposed(b, term.value, [term.labels.index(c) for c in order])
    lead = len(have)
    parts: list[Part] = []
    at = 0
    for c in batch:
        parts.append(Size(value, at) if c in have else 1)
        at += c in have
    if len(rows) == 1 and len(columns) == 1 and len(have) == len(batch):
        return value
    parts += [_merged(value, lead, len(rows)), _merged(value, lead + len(rows), len(columns))]
    return _reshape_merged(b, value, parts)


def _merged(value: Value, start: int, count: int) -> Part:
    """The dims start .. start + count as one part: a Size, a known product, or -1 when it has to be worked out."""
    if count == 1:
        return Size(value, start)
    dims = value.shape[start : start + count]
    if all(type(d) is int for d in dims):
        return int(np.prod(np.asarray(dims, object))) if dims else 1
    return -1


def _reshape_merged(b: Builder, value: Value, parts: list) -> Value:
    if -1 not in parts:
        return reshape_to(b, value, parts)
    known = [p.value.shape[p.axis] if isinstance(p, Size) else p for p in parts]
    if all(type(d) is int for d in known) and known.count(-1) == 1 and 0 not in known:
        return b.reshape(value, tuple(known))
    return _with_minus_one(b, value, parts)


def _with_minus_one(b: Builder, value: Value, parts: list) -> Value:
    pieces = [
        b.shape(value, start=p.axis, end=p.axis + 1) if isinstance(p, Size) else b.const(np.asarray([p], np.int64))
        for p in parts
    ]
    return b.reshape(value, b.concat(*pieces, axis=0))


def _contract(b: Builder, x: _Term, y: _Term, keep: set[str]) -> _Term | None:
    """One matmul: shared labels that are kept are batch axes, shared labels that are not are summed over."""
    x = _summed(b, x, keep | set(y.labels))
    y = _summed(b, y, keep | set(x.labels))
    both = [c for c in x.labels if c in y.labels]
    batch = "".join(c for c in both if c in keep)
    inner = "".join(c for c in both if c not in keep)
    for c in inner:  # a size of 1 that is to be repeated cannot go through a product of sums
        a, z = x.value.shape[x.labels.index(c)], y.value.shape[y.labels.index(c)]
        if (a == 1) != (z == 1):
            return None
    rows = "".join(c for c in x.labels if c not in both)
    columns = "".join(c for c in y.labels if c not in both)
    if not rows and not columns and not inner:
        value = b.mul(
            _arranged(b, x, batch, "", "") if batch else x.value, _arranged(b, y, batch, "", "") if batch else y.value
        )
        return _Term(b.squeeze(value, (-2, -1)) if batch else value, batch)
    product = b.matmul(_arranged(b, x, batch, rows, inner), _arranged(b, y, batch, inner, columns))
    parts: list[Part] = [Size(product, i) for i in range(len(batch))]
    parts += [Size(x.value, x.labels.index(c)) for c in rows] + [Size(y.value, y.labels.index(c)) for c in columns]
    labels = batch + rows + columns
    if len(rows) == 1 and len(columns) == 1:
        return _Term(product, labels)
    return _Term(reshape_to(b, product, parts), labels)


@decomposes("einsum")
def einsum(b: Builder, node: Node) -> Value | Declined:
    """Operands from left to right, two at a time, each pair by one matmul."""
    parsed = labels_of(node.attr("equation"), [v.rank for v in node.operands])
    if parsed is None:
        return Declined("too many labels")
    labels, result = parsed
    terms = [_diagonal(b, value, text) for value, text in zip(node.operands, labels, strict=True)]
    if any(term is None for term in terms):
        return Declined("a diagonal of unknown size")
    at = terms[0]
    for index, term in enumerate(terms[1:], 1):
        keep = set(result).union(*(t.labels for t in terms[index + 1 :]))
        at = _contract(b, at, term, keep)
        if at is None:
            return Declined("a summed label has size 1 in one operand only")
    at = _summed(b, at, set(result))
    return transposed(b, at.value, [at.labels.index(c) for c in result])
