"""Operations of `keras.ops` that rearrange, join, cut, index or make tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ...ir import types as t
from ...ir.graph import Value
from .registry import operation
from .scope import Scope

_END = np.iinfo(np.int64).max


def _ints(s: Scope, value: Any, key: str) -> tuple[int, ...]:
    items = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(v, bool) or not isinstance(v, int) for v in items):
        raise s.invalid(f"{key} is {value!r}, expected whole numbers")
    return tuple(items)


@operation("Reshape")
def reshape(s: Scope, x: Any, newshape: Any) -> Value:
    """One size may be open: -1, or None as Keras writes a batch size that it does not know."""
    target = [-1 if d is None else d for d in (newshape if isinstance(newshape, (list, tuple)) else [newshape])]
    wanted = _ints(s, target, "newshape")
    value = s.value(x)
    shape = s.shape(value)
    if wanted.count(-1) > 1:
        if not (wanted[0] == -1 and wanted.count(-1) == 2) or not shape:
            raise s.unsupported(f"a reshape to {list(wanted)} with several open sizes")
        wanted = (0, *wanted[1:])
        return s.b.reshape(value, wanted)
    return s.b.reshape(value, wanted, allowzero=0 in wanted)


@operation("Transpose")
def transpose(s: Scope, x: Any, axes: Any = None) -> Value:
    value = s.value(x)
    rank = s.rank(value)
    perm = tuple(range(rank))[::-1] if axes is None else tuple(s.axis(a, rank, "axes") for a in axes)
    return s.transpose(value, perm)


@operation("Swapaxes")
def swapaxes(s: Scope, x: Any, axis1: int, axis2: int) -> Value:
    value = s.value(x)
    perm = list(range(s.rank(value)))
    a, b = s.axis(axis1, len(perm)), s.axis(axis2, len(perm))
    perm[a], perm[b] = perm[b], perm[a]
    return s.transpose(value, perm)


@operation("Moveaxis")
def moveaxis(s: Scope, x: Any, source: Any, destination: Any) -> Value:
    value = s.value(x)
    rank = s.rank(value)
    froms = [s.axis(a, rank) for a in _ints(s, source, "source")]
    tos = [s.axis(a, rank) for a in _ints(s, destination, "destination")]
    perm = [a for a in range(rank) if a not in froms]
    for to, origin in sorted(zip(tos, froms, strict=True)):
        perm.insert(to, origin)
    return s.transpose(value, perm)


@operation("ExpandDims")
def expand_dims(s: Scope, x: Any, axis: Any) -> Value:
    return s.b.unsqueeze(s.value(x), _ints(s, axis, "axis"))


@operation("Squeeze")
def squeeze(s: Scope, x: Any, axis: Any = None) -> Value:
    value = s.value(x)
    axes = [i for i, d in enumerate(s.shape(value)) if d == 1] if axis is None else _ints(s, axis, "axis")
    return s.b.squeeze(value, tuple(axes))


@operation("Ravel")
def ravel(s: Scope, x: Any) -> Value:
    return s.b.reshape(s.value(x), (-1,))


@operation("BroadcastTo")
def broadcast_to(s: Scope, x: Any, shape: Any) -> Value:
    value = s.value(x)
    held = s.shape(value)
    target = list(shape)
    wanted = [1 if d in (None, -1) else d for d in target]
    if any(d in (None, -1) and i < len(target) - len(held) for i, d in enumerate(target)):
        raise s.unsupported("a broadcast to a new axis of open size")
    return s.b.expand(value, _ints(s, wanted, "shape"))


@operation("Concatenate", "Append")
def concatenate(s: Scope, xs: Any, x2: Any = None, axis: Any = 0) -> Value:
    items = list(xs) if isinstance(xs, (list, tuple)) else [xs, x2]
    values = s.common(*items) if len(items) > 1 else [s.value(items[0])]
    if axis is None:
        values, axis = [s.b.reshape(v, (-1,)) for v in values], 0
    return s.b.concat(*values, axis=s.axis(axis, s.rank(values[0])))


def _stacking(axis_of: Callable[[int], int]) -> Callable[..., Value]:
    def lower(s: Scope, xs: Any) -> Value:
        values = s.common(*xs)
        least = 2 if axis_of(2) == 0 else 1
        values = [s.b.reshape(v, (1,) * (least - s.rank(v)) + (-1,)) if s.rank(v) < least else v for v in values]
        return s.b.concat(*values, axis=axis_of(s.rank(values[0])))

    return lower


operation("Vstack")(_stacking(lambda rank: 0))
operation("Hstack")(_stacking(lambda rank: 0 if rank == 1 else 1))


@operation("Stack")
def stack(s: Scope, x: Any, axis: int = 0) -> Value:
    values = s.common(*x) if len(x) > 1 else [s.value(x[0])]
    at = s.axis(axis, s.rank(values[0]) + 1)
    return s.b.concat(*(s.expand(v, at) for v in values), axis=at)


@operation("Unstack")
def unstack(s: Scope, x: Any, num: Any = None, axis: int = 0) -> list[Value]:
    value = s.value(x)
    at = s.axis(axis, s.rank(value))
    count = s.bounded(s.static(value, at) if num is None else s.as_size(num, "num"), "parts")
    return [s.b.squeeze(part, (at,)) for part in _split(s, value, [1] * count, at)]


def _split(s: Scope, value: Value, sizes: Sequence[int], axis: int) -> list[Value]:
    if len(sizes) == 1:
        return [value]
    return list(s.b.call("split", (value, tuple(sizes)), {"axis": axis, "num_outputs": len(sizes)}).results)


@operation("Split", "ArraySplit")
def split(s: Scope, x: Any, indices_or_sections: Any, axis: int = 0) -> list[Value]:
    value = s.value(x)
    at = s.axis(axis, s.rank(value))
    size = s.static(value, at)
    if isinstance(indices_or_sections, int):
        count = s.bounded(s.as_size(indices_or_sections, "indices_or_sections"), "parts")
        if size % count and s.layer.class_name == "Split":
            raise s.invalid(f"{size} does not divide into {count} parts")
        sizes = [size // count + (i < size % count) for i in range(count)]
    else:
        marks = [
            0,
            *(min(max(i + size if i < 0 else i, 0), size) for i in _ints(s, list(indices_or_sections), "indices")),
            size,
        ]
        sizes = [b - a for a, b in pairwise(marks)]
        if min(sizes) < 0:
            raise s.invalid("split indices are not in order")
    return _split(s, value, sizes, at)


@operation("Tile")
def tile(s: Scope, x: Any, repeats: Any) -> Value:
    value = s.value(x)
    counts = _ints(s, repeats, "repeats")
    rank = max(len(counts), s.rank(value))
    if s.rank(value) < rank:
        value = s.b.unsqueeze(value, tuple(range(rank - s.rank(value))))
    return s.b.tile(value, (1,) * (rank - len(counts)) + counts)


@operation("Repeat")
def repeat(s: Scope, x: Any, repeats: Any, axis: Any = None) -> Value:
    """Each element `repeats` times in place: a new axis behind it, tiled and merged."""
    value = s.value(x)
    if axis is None:
        value, axis = s.b.reshape(value, (-1,)), 0
    at = s.axis(axis, s.rank(value))
    counts = _ints(s, repeats, "repeats")
    if len(counts) != 1:
        s.bounded(sum(counts) + len(counts), "repeated indices")
        index = np.repeat(np.arange(s.static(value, at)), counts)
        return s.b.gather(value, s.b.const(index.astype(np.int64)), axis=at)
    shape = s.shape(value)
    grown = s.b.tile(s.expand(value, at + 1), tuple(counts[0] if i == at + 1 else 1 for i in range(len(shape) + 1)))
    merged = shape[at] * counts[0]
    return s.reshape(grown, (*shape[:at], merged, *shape[at + 1 :]), value)


@operation("Flip")
def flip(s: Scope, x: Any, axis: Any = None) -> Value:
    value = s.value(x)
    return s.b.reverse(value, axes=s.axes(axis, s.rank(value)))


@operation("Fliplr")
def fliplr(s: Scope, x: Any) -> Value:
    return s.b.reverse(s.value(x), axes=(1,))


@operation("Flipud")
def flipud(s: Scope, x: Any) -> Value:
    return s.b.reverse(s.value(x), axes=(0,))


@operation("Roll")
def roll(s: Scope, x: Any, shift: Any, axis: Any = None) -> Value:
    """Cut each axis at the shift and join the parts the other way round."""
    value = s.value(x)
    if axis is None:
        raise s.unsupported("roll without an axis")
    for by, at in zip(_ints(s, shift, "shift"), _ints(s, axis, "axis"), strict=True):
        at = s.axis(at, s.rank(value))
        by %= s.static(value, at) or 1
        if by:
            tail = s.b.slice(value, (-by,), (_END,), (at,))
            head = s.b.slice(value, (0,), (-by,), (at,))
            value = s.b.concat(tail, head, axis=at)
    return value


@operation("Pad")
def pad(s: Scope, x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = None) -> Value:
    value = s.value(x)
    rank = s.rank(value)
    rows = [pad_width] * rank if isinstance(pad_width, int) else list(pad_width)
    rows = rows * rank if len(rows) == 1 and rank > 1 else rows
    pairs = [(r, r) if isinstance(r, int) else tuple(r) * (2 // len(r)) for r in rows]
    ir_mode = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}.get(mode)
    if ir_mode is None or len(pairs) != rank:
        raise s.unsupported(f"padding of mode {mode!r}")
    fill = s.cast(s.value(0 if constant_values is None else constant_values, value.dtype), s.dtype_of(value))
    pads = (*(a for a, _ in pairs), *(b for _, b in pairs))
    return s.b.pad(value, pads, fill if ir_mode == "constant" else None, mode=ir_mode)


@operation("Tril", "Triu")
def triangle(s: Scope, x: Any, k: int = 0) -> Value:
    return s.b.trilu(s.value(x), s.value(int(k), t.I64), upper=s.layer.class_name == "Triu")


# -------------------------------------------------------------------------------------------------------------- indices


@operation("GetItem")
def get_item(s: Scope, x: Any, key: Any) -> Value:
    """Basic indexing: whole numbers, slices, None and an ellipsis. Other indices are refused."""
    value = s.value(x)
    keys = list(key) if isinstance(key, (list, tuple)) else [key]
    if sum(1 for k in keys if k is Ellipsis) > 1:
        raise s.invalid("an index with two ellipses")
    taken = sum(1 for k in keys if k is not None and k is not Ellipsis)
    at = next((i for i, k in enumerate(keys) if k is Ellipsis), len(keys))
    keys[at : at + 1] = [slice(None)] * (s.rank(value) - taken)
    cuts: list[tuple[int, int, int, int]] = []
    drops: list[int] = []
    news: list[int] = []
    axis = 0
    for position, item in enumerate(keys):
        if item is None:
            news.append(position - len(drops))
            continue
        if isinstance(item, int) and not isinstance(item, bool):
            cuts.append((axis, item, item + 1 if item != -1 else _END, 1))
            drops.append(axis)
        elif isinstance(item, slice):
            cuts += _cut(s, value, axis, item)
        else:
            raise s.unsupported(f"an index of kind {type(item).__name__}", "use keras.ops.take")
        axis += 1
    return _index(s, value, cuts, drops, news)


def _cut(s: Scope, value: Value, axis: int, item: slice) -> list[tuple[int, int, int, int]]:
    parts = [item.start, item.stop, item.step]
    if any(p is not None and (isinstance(p, bool) or not isinstance(p, int)) for p in parts):
        raise s.unsupported("a slice with computed bounds")
    step = 1 if item.step is None else item.step
    if step == 0:
        raise s.invalid("a slice with step 0")
    start = (0 if step > 0 else _END) if item.start is None else item.start
    stop = (_END if step > 0 else -_END) if item.stop is None else item.stop
    return [] if (start, stop, step) == (0, _END, 1) else [(axis, start, stop, step)]


def _index(s: Scope, value: Value, cuts: list, drops: list[int], news: list[int]) -> Value:
    if cuts:
        axes, starts, ends, steps = zip(*cuts, strict=True)
        value = s.b.slice(value, starts, ends, axes, steps)
    if drops:
        value = s.b.squeeze(value, tuple(drops))
    return s.b.unsqueeze(value, tuple(news)) if news else value


def _index_value(s: Scope, indices: Any) -> Value:
    value = s.value(indices)
    return value if value.dtype in (t.I32, t.I64) else s.cast(value, t.I32)


@operation("Take")
def take(s: Scope, x: Any, indices: Any, axis: Any = None) -> Value:
    value = s.value(x)
    if axis is None:
        value, axis = s.b.reshape(value, (-1,)), 0
    return s.b.gather(value, _index_value(s, indices), axis=s.axis(axis, s.rank(value)))


@operation("TakeAlongAxis")
def take_along_axis(s: Scope, x: Any, indices: Any, axis: Any = None) -> Value:
    value, index = s.value(x), _index_value(s, indices)
    if axis is None:
        value, index, axis = s.b.reshape(value, (-1,)), s.b.reshape(index, (-1,)), 0
    at = s.axis(axis, s.rank(value))
    held, asked = s.shape(value), s.shape(index)
    if any(a != b for i, (a, b) in enumerate(zip(held, asked, strict=True)) if i != at):
        raise s.unsupported("take_along_axis with broadcast indices")
    return s.b.gather_elements(value, index, axis=at)


@operation("OneHot")
def one_hot(s: Scope, x: Any, num_classes: int, axis: int = -1, dtype: Any = None, sparse: bool = False) -> Value:
    wanted = t.F32 if dtype is None else s.named_dtype(dtype)
    if sparse:
        raise s.unsupported("sparse output")
    values = s.b.const(np.asarray([0, 1], wanted.numpy))
    return s.b.one_hot(
        _index_value(s, x), s.value(s.as_size(num_classes, "num_classes"), t.I64), values, axis=int(axis)
    )


@operation("Slice")
def slice_(s: Scope, inputs: Any, start_indices: Any, shape: Any) -> Value:
    starts, sizes = _ints(s, start_indices, "start_indices"), _ints(s, shape, "shape")
    ends = tuple(a + n for a, n in zip(starts, sizes, strict=True))
    return s.b.slice(s.value(inputs), starts, ends, tuple(range(len(starts))))


@operation("Sort", "Argsort")
def sort(s: Scope, x: Any, axis: Any = -1) -> Value:
    """Ascending: the top-k of all elements, smallest first."""
    value = s.value(x)
    if axis is None:
        value, axis = s.b.reshape(value, (-1,)), 0
    at = s.axis(axis, s.rank(value))
    values, indices = s.b.topk(value, (s.static(value, at),), axis=at, largest=False, sorted=True)
    return values if s.layer.class_name == "Sort" else s.cast(indices, t.I32)


# --------------------------------------------------------------------------------------------------------------- making


def _full_like(s: Scope, x: Any, fill: Any, dtype: Any) -> Value:
    value = s.value(x)
    wanted = s.dtype_of(value) if dtype is None else s.named_dtype(dtype)
    return s.b.expand(s.cast(s.value(fill, wanted), wanted), s.dims(s.shape(value), value))


@operation("ZerosLike", "EmptyLike")
def zeros_like(s: Scope, x: Any, dtype: Any = None) -> Value:
    return _full_like(s, x, 0, dtype)


@operation("OnesLike")
def ones_like(s: Scope, x: Any, dtype: Any = None) -> Value:
    return _full_like(s, x, 1, dtype)


@operation("FullLike")
def full_like(s: Scope, x: Any, fill_value: Any, dtype: Any = None) -> Value:
    return _full_like(s, x, fill_value, dtype)


@operation("Size")
def size(s: Scope, x: Any) -> Value:
    return s.cast(s.b.size(s.value(x)), t.I32)


@operation("Diagonal")
def diagonal(s: Scope, x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Value:
    """The diagonal of two axes of known size, as a new last axis: a gather of flat positions."""
    value = s.value(x)
    rank = s.rank(value)
    a, b = s.axis(axis1, rank), s.axis(axis2, rank)
    rest = [i for i in range(rank) if i not in (a, b)]
    rows, columns = s.static(value, a), s.static(value, b)
    moved = s.transpose(value, [*rest, a, b])
    flat = s.reshape(moved, (*(s.shape(value)[i] for i in rest), rows * columns), value)
    count = s.bounded(max(min(rows + min(offset, 0), columns - max(offset, 0)), 0), "a diagonal")
    start = (-offset * columns) if offset < 0 else offset
    index = np.asarray([start + i * (columns + 1) for i in range(count)], np.int64)
    return s.b.gather(flat, s.b.const(index), axis=len(rest))
