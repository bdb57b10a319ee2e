"""Shape and movement ops through reshape, transpose, slice, concat, gather and where. Exact. Knows no target."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.types import BOOL, I64
from ...ir.value import Node, Value
from .rules import (
    Declined,
    Part,
    Size,
    back_to_last,
    channels_first,
    decomposes,
    flat_size,
    reshape_to,
    room,
    scalar,
    shape_of,
    sizes,
    slice_axis,
    static,
)


@decomposes("flatten")
def flatten(b: Builder, node: Node) -> Value:
    """[product of the dims before `axis`, product of the others]"""
    (x,) = node.operands
    axis = node.attr("axis")
    axis = axis + x.rank if axis < 0 else axis
    head, tail = x.shape[:axis], x.shape[axis:]
    if axis == 0 or axis == x.rank:
        flat = [1, _product(tail)] if axis == 0 else [_product(head), 1]
        return b.reshape(x, tuple(-1 if n is None else n for n in flat))
    if static(*tail) and 0 not in tail:
        return b.reshape(x, (-1, _product(tail)))
    if static(*head) and 0 not in head:
        return b.reshape(x, (_product(head), -1))
    if axis == 1 and 0 not in x.shape:
        return b.reshape(x, (0, -1))
    lead = flat_size(b, [Size(x, i) for i in range(axis)])
    rest = flat_size(b, [Size(x, i) for i in range(axis, x.rank)])
    return b.reshape(x, b.concat(lead, rest, axis=0))


def _product(dims: tuple) -> int | None:
    return int(np.prod(np.asarray(dims, object))) if static(*dims) and dims else (1 if not dims else None)


@decomposes("squeeze")
def squeeze(b: Builder, node: Node) -> Value | Declined:
    x, axes = (*node.operands, None)[:2]
    given = None if axes is None else axes.ints()
    if axes is not None and given is None:
        return Declined("the axes are computed")
    if given is None:
        if not static(*x.shape):
            return Declined("which dims are 1 is not known")
        gone = {i for i, d in enumerate(x.shape) if d == 1}
    else:
        gone = {a % x.rank for a in given}
    return reshape_to(b, x, [Size(x, i) for i in range(x.rank) if i not in gone])


@decomposes("unsqueeze")
def unsqueeze(b: Builder, node: Node) -> Value | Declined:
    x, axes = node.operands
    given = axes.ints()
    if given is None:
        return Declined("the axes are computed")
    rank = x.rank + len(given)
    new = {a % rank for a in given}
    rest = iter(range(x.rank))
    return reshape_to(b, x, [1 if i in new else Size(x, next(rest)) for i in range(rank)])


def _split_sizes(node: Node, axis: int) -> list[int] | None:
    x = node.operands[0]
    given = node.operand("split")
    if given is not None:
        found = given.ints()
        return None if found is None else list(found)
    length, count = x.shape[axis], len(node.results)
    if type(length) is not int:
        return None
    each = -(-length // count)
    return [max(0, min(each, length - i * each)) for i in range(count)]


@decomposes("split")
def split(b: Builder, node: Node) -> tuple[Value, ...] | Declined:
    x = node.operands[0]
    if x.rank is None:
        return Declined("the rank is not known")
    axis = node.attr("axis") % x.rank
    lengths = _split_sizes(node, axis)
    if lengths is None and node.operand("split") is None:
        return _split_evenly(b, x, axis, len(node.results))
    if lengths is None:
        return Declined("the sizes of the parts are not known")
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return tuple(slice_axis(b, x, axis, start, start + length) for start, length in zip(starts, lengths, strict=True))


def _split_evenly(b: Builder, x: Value, axis: int, count: int) -> tuple[Value, ...]:
    """Parts of an axis of unknown length: its ceiling share each, the last one what is left."""
    length = b.shape(x, start=axis, end=axis + 1)
    each = b.div(b.add(length, b.const([count - 1])), b.const([count]))
    bounds = [b.mul(each, b.const([i])) for i in range(count + 1)]
    return tuple(b.slice(x, bounds[i], bounds[i + 1], (axis,)) for i in range(count))


@decomposes("tile")
def tile(b: Builder, node: Node) -> Value | Declined:
    """[a, b] repeated (r, s) times is [1, a, 1, b] expanded to [r, a, s, b]."""
    x, repeats = node.operands
    times = repeats.ints()
    if times is None:
        return Declined("the repeats are computed")
    if x.rank == 0:
        return x
    apart = [part for i in range(x.rank) for part in (1, Size(x, i))]
    wide = [part for i in range(x.rank) for part in (times[i], Size(x, i))]
    spread = b.expand(reshape_to(b, x, apart), shape_of(b, wide))
    if static(*x.shape):
        return b.reshape(spread, tuple(d * t for d, t in zip(x.shape, times, strict=True)))
    target = b.mul(b.shape(x), b.const(np.asarray(times, np.int64)))
    return b.reshape(spread, target)


@decomposes("depth_to_space")
def depth_to_space(b: Builder, node: Node) -> Value:
    """DCR takes the blocks before the channels, CRD after."""
    (x,) = node.operands
    last, size = node.attr("channels_last"), node.attr("blocksize")
    if last:
        x = channels_first(b, x)
    depth = x.shape[1] // (size * size) if type(x.shape[1]) is int else -1
    first = [size, size, depth] if node.attr("mode").upper() == "DCR" else [depth, size, size]
    perm = (0, 3, 4, 1, 5, 2) if node.attr("mode").upper() == "DCR" else (0, 1, 4, 2, 5, 3)
    y = b.transpose(_block_reshape(b, x, [Size(x, 0), *first, Size(x, 2), Size(x, 3)]), perm=perm)
    y = _merge_pairs(b, y, (2, 4))
    return back_to_last(b, y) if last else y


@decomposes("space_to_depth")
def space_to_depth(b: Builder, node: Node) -> Value | Declined:
    (x,) = node.operands
    last, size = node.attr("channels_last"), node.attr("blocksize")
    if last:
        x = channels_first(b, x)
    if not static(x.shape[2], x.shape[3]):
        return Declined("the spatial size is not known")
    parts = [Size(x, 0), Size(x, 1), x.shape[2] // size, size, x.shape[3] // size, size]
    perm = (0, 3, 5, 1, 2, 4) if node.attr("mode") == "DCR" else (0, 1, 3, 5, 2, 4)
    y = b.transpose(_block_reshape(b, x, parts), perm=perm)
    if type(x.shape[1]) is not int:
        return Declined("the number of channels is not known")
    y = reshape_to(b, y, [Size(x, 0), x.shape[1] * size * size, x.shape[2] // size, x.shape[3] // size])
    return back_to_last(b, y) if last else y


def _block_reshape(b: Builder, x: Value, parts: list[int | Size]) -> Value:
    return reshape_to(b, x, parts)


def _merge_pairs(b: Builder, y: Value, starts: tuple[int, ...]) -> Value:
    """Merge each pair of axes that begins at one of `starts`."""
    if static(*y.shape[1:]):
        i = 0
        dims: list[Part] = []
        while i < y.rank:
            pair = i in starts
            dims.append(Size(y, i) if i == 0 else y.shape[i] * (y.shape[i + 1] if pair else 1))
            i += 2 if pair else 1
        return reshape_to(b, y, dims)
    pieces, i = [], 0
    while i < y.rank:
        pair = i in starts
        pieces.append(flat_size(b, [Size(y, i), Size(y, i + 1)]) if pair else b.shape(y, start=i, end=i + 1))
        i += 2 if pair else 1
    return b.reshape(y, b.concat(*pieces, axis=0))


@decomposes("reverse")
def reverse(b: Builder, node: Node) -> Value:
    """Slices with step -1, one axis each."""
    (x,) = node.operands
    y = x
    for axis in node.attr("axes"):
        y = b.slice(y, (-1,), (np.iinfo(np.int64).min,), (axis % x.rank,), (-1,))
    return y


@decomposes("reverse_sequence")
def reverse_sequence(b: Builder, node: Node) -> Value | Declined:
    """gather_elements with lens - 1 - t below each length, t above."""
    x, lens = node.operands
    batch, time = node.attr("batch_axis") % x.rank, node.attr("time_axis") % x.rank
    if type(x.shape[time]) is not int:
        return Declined("the number of steps is not known")
    line = [1] * x.rank
    line[time] = x.shape[time]
    steps = b.const(np.arange(room(x.shape[time])).reshape(line))
    line = [1] * x.rank
    line[batch] = -1
    lengths = b.reshape(lens if lens.dtype is I64 else b.cast(lens, to=I64), tuple(line))
    source = b.where(b.less(steps, lengths), b.sub(b.sub(lengths, b.const(np.asarray(1))), steps), steps)
    return b.gather_elements(x, b.expand(source, shape_of(b, sizes(x))), axis=time)


def _source_positions(mode: str, length: Any, begin: int, end: int) -> np.ndarray:
    """Where each element along a padded axis comes from; negative pads crop first, the border repeats what is left."""
    first, size = max(-begin, 0), length + min(begin, 0) + min(end, 0)
    return first + _bordered(mode, size, max(begin, 0), max(end, 0))


def _bordered(mode: str, size: int, begin: int, end: int) -> np.ndarray:
    room(begin + size + end)
    at = np.arange(-begin, size + end)
    if mode == "edge":
        return np.clip(at, 0, size - 1)
    if mode == "wrap":
        return at % size
    if size == 1:
        return np.zeros_like(at)
    period = 2 * (size - 1)
    folded = at % period
    return np.where(folded >= size, period - folded, folded)


def constant_pads(node: Node) -> tuple[tuple[int, int], ...] | None:
    """(begin, end) of every axis, or None when pads or axes are computed."""
    x, pads, axes = node.operands[0], node.operand("pads"), node.operand("axes")
    given, chosen = pads.ints(), range(x.rank) if axes is None else axes.ints()
    if given is None or chosen is None:
        return None
    pairs = [(0, 0)] * x.rank
    count = len(given) // 2
    for i, axis in enumerate(chosen):
        pairs[axis % x.rank] = (given[i], given[count + i])
    return tuple(pairs)


@decomposes("pad")
def pad(b: Builder, node: Node) -> Value | Declined:
    """Constant borders: cropped first, then concatenated. Other modes: a gather along each padded axis."""
    x = node.operands[0]
    pairs = constant_pads(node)
    if pairs is None:
        return Declined("the pads are computed")
    mode = node.attr("mode")
    if mode == "constant":
        value = node.operand("value")
        return _constant_border(b, x, pairs, scalar(b, 0, x) if value is None else value)
    for axis, (begin, end) in enumerate(pairs):
        if begin == end == 0:
            continue
        if type(x.shape[axis]) is not int:
            return _dynamic_border(b, node.operands[0], pairs, mode)
        x = b.gather(x, b.const(_source_positions(mode, x.shape[axis], begin, end)), axis=axis)
    return x


def _dynamic_border(b: Builder, x: Value, pairs: tuple, mode: str) -> Value | Declined:
    """Edges of unknown lengths: slices from both ends, turned round for reflect."""
    for axis, (begin, end) in enumerate(pairs):
        if begin < 0 or end < 0:
            return Declined("cropping an axis of unknown length")
        head, tail = _edges(b, x, axis, begin, end, mode)
        parts = [part for part in (head, x, tail) if part is not None]
        x = b.concat(*parts, axis=axis) if len(parts) > 1 else x
    return x


def _edges(b: Builder, x: Value, axis: int, begin: int, end: int, mode: str) -> tuple[Value | None, Value | None]:
    far = np.iinfo(np.int64).max
    if mode == "wrap":
        return (
            b.slice(x, (-begin,), (far,), (axis,)) if begin else None,
            b.slice(x, (0,), (end,), (axis,)) if end else None,
        )
    if mode == "reflect":
        return (
            b.slice(x, (begin,), (0,), (axis,), (-1,)) if begin else None,
            b.slice(x, (-2,), (-2 - end,), (axis,), (-1,)) if end else None,
        )
    first, last = b.slice(x, (0,), (1,), (axis,)), b.slice(x, (-1,), (far,), (axis,))
    return b.concat(*[first] * begin, axis=axis) if begin else None, b.concat(*[last] * end, axis=axis) if end else None


def _constant_border(b: Builder, x: Value, pairs: tuple, value: Value) -> Value:
    crops = {axis: pair for axis, pair in enumerate(pairs) if min(pair) < 0}
    for axis, (begin, end) in crops.items():
        x = b.slice(x, (max(-begin, 0),), (min(end, 0) or np.iinfo(np.int64).max,), (axis,))
    if crops and any(max(pair) > 0 for pair in pairs):  # a target may have pads that do nothing else
        return b.pad(x, [max(pair[side], 0) for side in (0, 1) for pair in pairs], value)
    for axis, (begin, end) in enumerate(pairs):
        parts = [x]
        if begin > 0:
            parts.insert(0, _block(b, x, axis, begin, value))
        if end > 0:
            parts.append(_block(b, x, axis, end, value))
        x = b.concat(*parts, axis=axis) if len(parts) > 1 else x
    return x


def _block(b: Builder, x: Value, axis: int, length: int, value: Value) -> Value:
    """`value` in the shape of `x`, but `length` along `axis`."""
    return b.expand(
        b.reshape(value, (1,) * x.rank), shape_of(b, [length if i == axis else s for i, s in enumerate(sizes(x))])
    )


@decomposes("trilu")
def trilu(b: Builder, node: Node) -> Value | Declined:
    """Rows compared with columns, the other triangle replaced by 0."""
    x, k = (*node.operands, None)[:2]
    shift = 0 if k is None else k.ints()
    if shift is None:
        return Declined("the diagonal is computed")
    shift = shift if isinstance(shift, int) else shift[0]
    rows, columns = _positions(b, x, x.rank - 2), _positions(b, x, x.rank - 1)
    gap = b.sub(columns, rows)
    edge = b.const(np.asarray(shift))
    keep = b.greater_equal(gap, edge) if node.attr("upper") else b.less_equal(gap, edge)
    zero = b.const(np.zeros((), x.dtype.numpy))
    return b.and_(keep, x) if x.dtype is BOOL else b.where(keep, x, zero)


def _positions(b: Builder, x: Value, axis: int) -> Value:
    """0, 1 ... along one of the last two axes, as [n, 1] or [n]."""
    length = x.shape[axis]
    if type(length) is int:
        line = b.const(np.arange(room(length)))
    else:
        line = b.range(0, b.squeeze(b.shape(x, start=axis, end=axis + 1), (0,)), 1)
    return b.unsqueeze(line, (1,)) if axis == x.rank - 2 else line


@decomposes("eye_like")
def eye_like(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    to = node.attr("dtype") or x.dtype
    gap = b.sub(_positions(b, x, 1), _positions(b, x, 0))
    on = b.equal(gap, b.const(np.asarray(node.attr("k"))))
    return on if to is BOOL else b.cast(on, to=to)


@decomposes("constant_of_shape")
def constant_of_shape(b: Builder, node: Node) -> Value:
    return b.expand(b.const(np.asarray(node.attr("value"), node.result.dtype.numpy)), node.operands[0])


@decomposes("expand")
def expand(b: Builder, node: Node) -> Value | Declined:
    """To a known shape: where against a constant of that shape keeps x everywhere."""
    x, _ = node.operands
    shape: Any = node.result.shape
    if not static(*shape):
        return Declined("the result's shape is not known")
    room(*shape)
    return b.where(b.const(np.ones(shape, bool)), x, scalar(b, 0, x))
