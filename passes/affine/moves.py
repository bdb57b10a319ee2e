"""How an array that stands beside a value, one entry or the full size along each axis, follows it through data movement.

A move maps such an array from a node's first operand to its result (`ahead`) or back; None where the array varies along an
axis that the node mixes. Must not know about factors and shifts beyond their shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ...ir.dims import Dim, dim_eq
from ...ir.graph import Node, Value
from .affine import ELEMENTS, Affine, affine

Shape = tuple[Dim, ...]

#: Slices of one value that are looked at.
PARTS = 8


def _same(node: Node, array: np.ndarray, ahead: bool) -> np.ndarray | None:
    return array


def _slope(node: Node, array: np.ndarray, ahead: bool) -> np.ndarray | None:
    """prelu: the slope broadcasts to x."""
    return array if node.result.type is node.operands[0].type else None  # type: ignore[union-attr]


def _spatial(node: Node, array: np.ndarray, ahead: bool) -> np.ndarray | None:
    """Pools: batch and channel axis stay."""
    return None if node.attr("channels_last") else _constant_along(array, range(2, array.ndim))


def _constant_along(array: np.ndarray, axes: Sequence[int] | range) -> np.ndarray | None:
    return array if all(array.shape[i] == 1 for i in axes) else None


def _changed_axes(node: Node, array: np.ndarray, ahead: bool) -> np.ndarray | None:
    """slice, tile, resize, pad: axes that keep their size are as they were, but for the exceptions below."""
    x, y = node.operands[0].shape, node.result.shape  # type: ignore[union-attr]
    if x is None or y is None or len(x) != len(y):
        return None
    changed = [i for i in range(len(x)) if dim_eq(x[i], y[i]) is not True]
    return _constant_along(array, range(len(x)) if _may_stir(node) else changed)


def _may_stir(node: Node) -> bool:
    """A slice may turn an axis around, pads may shift one: its size then stays."""
    if node.name == "slice":
        steps = node.operand("steps")
        return steps is not None and (steps.ints() is None or any(s != 1 for s in steps.ints()))
    pads = node.operand("pads").ints() if node.name == "pad" else ()
    return pads is None or any(p < 0 for p in pads)


def _resize(node: Node, array: np.ndarray, ahead: bool) -> np.ndarray | None:
    """Batch and channel axis stay where their sizes do; a spatial axis of the same size may still be sampled."""
    made = None if node.attr("channels_last") else _changed_axes(node, array, ahead)
    return None if made is None else _constant_along(made, range(2, array.ndim))


def _transpose(node: Node, array: np.ndarray, ahead: bool) -> np.ndarray | None:
    perm = node.attr("perm")
    if len(perm) != array.ndim:
        return None
    return array.transpose(perm if ahead else sorted(range(len(perm)), key=perm.__getitem__))


def _reduce(node: Node, array: np.ndarray, ahead: bool) -> np.ndarray | None:
    x, axes = node.operands[0], node.operand("axes")
    given = None if axes is None else axes.ints()
    if x.rank is None or not given:  # type: ignore[union-attr]
        return None
    over = {a % x.rank for a in given}  # type: ignore[union-attr]
    keep = node.attr("keepdims")
    if ahead:
        made = _constant_along(array, sorted(over))
        shape = [n for i, n in enumerate(array.shape) if keep or i not in over]
        return None if made is None else made.reshape(shape)
    if keep:
        return _constant_along(array, sorted(over))
    rest = iter(array.shape)
    return array.reshape([1 if i in over else next(rest) for i in range(x.rank)])  # type: ignore[union-attr]


def _expand(node: Node, array: np.ndarray, ahead: bool) -> np.ndarray | None:
    x, y = node.operands[0].shape, node.result.shape  # type: ignore[union-attr]
    if x is None or y is None:
        return None
    new = len(y) - len(x)
    if ahead:
        return array.reshape((1,) * new + array.shape)
    if (
        new < 0
        or _constant_along(array, [i for i in range(len(y)) if i < new or dim_eq(x[i - new], y[i]) is not True]) is None
    ):
        return None
    return array.reshape(array.shape[new:])


def _single(node: Node, array: np.ndarray, ahead: bool) -> np.ndarray | None:
    """Whatever moves elements about keeps a single number for all of them."""
    rank = (node.result if ahead else node.operands[0]).rank  # type: ignore[union-attr]
    return None if array.size != 1 or rank is None else array.reshape((1,) * rank)


def _gather(node: Node, array: np.ndarray, ahead: bool) -> np.ndarray | None:
    """The gathered axis becomes those of the indices."""
    x, indices = node.operands[0].rank, node.operands[1].rank  # type: ignore[union-attr]
    if x is None or indices is None:
        return None
    axis = node.attr("axis") % x
    middle = range(axis, axis + (1 if ahead else indices))
    if _constant_along(array, middle) is None:
        return None
    return array.reshape(array.shape[:axis] + (1,) * (indices if ahead else 1) + array.shape[middle.stop :])


def _reshape(node: Node, array: np.ndarray, ahead: bool) -> np.ndarray | None:
    """Within each group of dims that are split or merged the array is full or constant."""
    x, y = node.operands[0].shape, node.result.shape  # type: ignore[union-attr]
    if x is None or y is None:
        return None
    source, target = (x, y) if ahead else (y, x)
    if array.size == 1:
        return array.reshape((1,) * len(target))
    full: list[int] = []
    shape: list[int] = []
    for own, new in groups(source, target):
        varies = any(array.shape[i] != 1 for i in own)
        if varies and not all(isinstance(d, int) for d in (*(source[i] for i in own), *(target[i] for i in new))):
            return None
        full += [source[i] if varies else 1 for i in own]  # type: ignore[misc]
        shape += [target[i] if varies else 1 for i in new]  # type: ignore[misc]
    if math.prod(full) > ELEMENTS:
        return None
    return np.broadcast_to(array, full).reshape(shape)


def groups(x: Shape, y: Shape) -> list[tuple[list[int], list[int]]]:
    """Runs of axes of x and y that hold the same elements, from the left; what is not known is one run in the middle."""
    left, i, j = _runs(x, y)
    right, m, n = _runs(x[i:][::-1], y[j:][::-1])
    ends = [([len(x) - 1 - a for a in own][::-1], [len(y) - 1 - b for b in new][::-1]) for own, new in right][::-1]
    middle = (list(range(i, len(x) - m)), list(range(j, len(y) - n)))
    return [*left, *([middle] if any(middle) else []), *ends]


def _runs(x: Shape, y: Shape) -> tuple[list[tuple[list[int], list[int]]], int, int]:
    """The runs that begin both shapes, and how many axes of each they take."""
    made: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(x) and j < len(y):
        if dim_eq(x[i], y[j]) is True:
            made.append(([i], [j]))
            i, j = i + 1, j + 1
            continue
        ends = _run(x, y, i, j)
        if ends is None:
            break
        made.append((list(range(i, ends[0])), list(range(j, ends[1]))))
        i, j = ends
    return made, i, j


def _run(x: Shape, y: Shape, i: int, j: int) -> tuple[int, int] | None:
    """Where the shortest run of fixed sizes that starts at these axes ends in both."""
    have, want = x[i], y[j]
    i, j = i + 1, j + 1
    while have != want:
        if not isinstance(have, int) or not isinstance(want, int) or not have or not want:
            return None
        if have < want and i < len(x):
            have, i = have * x[i], i + 1
        elif want < have and j < len(y):
            want, j = want * y[j], j + 1
        else:
            return None
    return (i, j) if isinstance(have, int) else None


#: Data movement, and pools and activations, which keep the axes that they do not reduce.
MOVES: dict[str, Callable[[Node, np.ndarray, bool], np.ndarray | None]] = {
    **dict.fromkeys(("relu", "leaky_relu", "abs", "identity"), _same),
    **dict.fromkeys(
        (
            "max_pool",
            "average_pool",
            "global_average_pool",
            "global_max_pool",
            "adaptive_average_pool",
            "adaptive_max_pool",
        ),
        _spatial,
    ),
    **dict.fromkeys(("reduce_mean", "reduce_sum", "reduce_max", "reduce_min"), _reduce),
    **dict.fromkeys(("reshape", "flatten", "squeeze", "unsqueeze"), _reshape),
    **dict.fromkeys(("slice", "pad", "tile"), _changed_axes),
    **dict.fromkeys(("depth_to_space", "space_to_depth", "reverse"), _single),
    "prelu": _slope,
    "resize": _resize,
    "transpose": _transpose,
    "expand": _expand,
    "gather": _gather,
}


# ------------------------------------------------------------------------------------------------ parts of a whole


def _bounds(shapes: Sequence[Shape | None], axis: int) -> tuple[int, list[int]] | None:
    """The axis, >= 0, and where each part ends along it."""
    if any(s is None for s in shapes):
        return None
    at = axis % len(shapes[0])  # type: ignore[arg-type]
    sizes = [s[at] for s in shapes]  # type: ignore[index]
    if not all(isinstance(n, int) for n in sizes):
        return None
    return at, [int(n) for n in np.cumsum(sizes)]  # type: ignore[arg-type]


def spread_parts(made: Affine, shapes: Sequence[Shape | None], axis: int) -> list[Affine] | None:
    """What of an affine of the whole stands beside each of its parts along `axis`."""
    if any(s is None for s in shapes):
        return None
    at = axis % made.rank
    if made.factor.shape[at] == made.shift.shape[at] == 1:
        return [made] * len(shapes)
    found = _bounds(shapes, axis)
    if found is None:
        return None
    starts = [0, *found[1][:-1]]

    def part(array: np.ndarray, start: int, stop: int) -> np.ndarray:
        return array if array.shape[at] == 1 else array.take(range(start, stop), at)

    arrays = [(part(made.factor, a, b), part(made.shift, a, b)) for a, b in zip(starts, found[1], strict=True)]
    return [
        affine(made.rank, factor, shift, made.sources) if factor.size and shift.size else affine(made.rank)
        for factor, shift in arrays
    ]


def cut(made: Affine, shapes: Sequence[Shape | None], index: int, axis: int) -> Affine | None:
    """The affine of the whole that is `made` beside part `index` along `axis` and nothing beside the others."""
    found = _bounds(shapes, axis)
    if found is None:
        return None
    at, ends = found
    start = ends[index - 1] if index else 0

    def whole(array: np.ndarray, rest: float) -> np.ndarray:
        shape = [ends[-1] if i == at else n for i, n in enumerate(array.shape)]
        filled = np.full(shape, rest)
        filled[(slice(None),) * at + (slice(start, ends[index]),)] = array
        return filled

    if made.factor.size * ends[-1] > ELEMENTS or made.shift.size * ends[-1] > ELEMENTS:
        return None
    return affine(made.rank, whole(made.factor, 1.0), whole(made.shift, 0.0), made.sources)


def read_alone(value: Value, reader: Node, made: Affine) -> Affine | None:
    """The affine of a value with several users of which only `reader`, a slice of it, sees any but factor 1 and shift 0:
    all users read different places along one axis. None where they may not."""
    if value.shape is None or value.n_uses > PARTS:
        return None
    users = value.users
    if len(users) != value.n_uses:
        return None
    places = [_place(user, value) for user in users]
    if any(p is None or p[0] != places[0][0] for p in places):  # type: ignore[index]
        return None
    axis, start, stop = places[users.index(reader)]  # type: ignore[misc]
    others = [p for p, user in zip(places, users, strict=True) if user is not reader]
    if any(start < p[2] and p[1] < stop for p in others):  # type: ignore[index]
        return None
    sizes = [start, stop - start, value.shape[axis] - stop]  # type: ignore[operator]
    shapes = [(*value.shape[:axis], n, *value.shape[axis + 1 :]) for n in sizes]
    return cut(made, shapes, 1, axis)


def _place(node: Node, value: Value) -> tuple[int, int, int] | None:
    """The axis and the range of it that a slice, or a gather by one number, reads of its data."""
    if node.name not in ("slice", "gather") or node.operands[0] is not value:
        return None
    axes = node.operand("axes").ints() if node.name == "slice" and node.operand("axes") is not None else None
    if node.name == "gather":
        axes = (node.attr("axis"),)
    if axes is None or len(axes) != 1:
        return None
    axis = axes[0] % value.rank  # type: ignore[operator]
    size = value.shape[axis]  # type: ignore[index]
    if not isinstance(size, int):
        return None
    if node.name == "gather":
        index = node.operands[1].ints() or ()  # type: ignore[union-attr]
        return (axis, index[0] % size, index[0] % size + 1) if len(index) == 1 and -size <= index[0] < size else None
    bounds = [node.operand(name).ints() for name in ("starts", "ends")]
    if any(b is None for b in bounds) or _may_stir(node):
        return None
    start, stop, _ = slice(bounds[0][0], bounds[1][0]).indices(size)
    return (axis, start, stop) if start < stop else None
