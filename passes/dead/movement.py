"""Where the slices of a moved value come from: for one axis of the result, positions along an axis of each operand.

A `Part` says that slices of the result hold elements of operand `operand` only, taken from its slices `table[j]` along `axis`
(-1: from none of them but the padding's value). The result's axis is the parts in a row; several parts at the same
place (concat along another axis) all add to each slice.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ...ir.graph import Node
from ...ir.ops.shapes import slice_positions
from ..prune.rules_reshape import factored


class Part(NamedTuple):
    operand: int
    axis: int
    table: np.ndarray  # [slices of the result, slices of the operand that each holds elements of]
    within: np.ndarray | None = None  # [slices of the result]: which piece of those slices; None: all of them


#: Row by row what stands one after the other, in each row what lies together.
Parts = list[list[Part]]


def parts(node: Node, axis: int) -> Parts | None:
    """The parts of the result's axis; None where nothing is known, or nothing is to be said of it."""
    find = _FINDERS.get(node.name)
    if find is None or any(v is None or v.shape is None for v in (node.operands[0], node.result)):
        return None
    size = node.result.shape[axis]  # type: ignore[index]
    return find(node, axis) if type(size) is int and size > 1 else None


def _whole(operand: int, axis: int, size: int) -> Part:
    return Part(operand, axis, np.arange(size).reshape(-1, 1))


def _same(node: Node, axis: int, source: int) -> Parts | None:
    size = node.operands[0].shape[source]  # type: ignore[index, union-attr]
    return [[_whole(0, source, size)]] if size == node.result.shape[axis] else None  # type: ignore[index, arg-type]


def _transpose(node: Node, axis: int) -> Parts | None:
    return _same(node, axis, node.attr("perm")[axis])


def _squeeze(node: Node, axis: int) -> Parts | None:
    """Axes longer than 1 keep their order."""
    mine = [n for n in node.result.shape[:axis] if n != 1]  # type: ignore[index]
    long = [i for i, n in enumerate(node.operands[0].shape) if n != 1]  # type: ignore[arg-type, union-attr]
    return _same(node, axis, long[len(mine)]) if len(mine) < len(long) else None


def _reshape(node: Node, axis: int) -> Parts | None:
    """By mixed radix: an axis of the source that has a factor in this one; what else is in it repeats, what is not is spread."""
    source, result = node.operands[0].shape, node.result.shape  # type: ignore[union-attr]
    factors = factored(source, result)
    own = [k for k, f in enumerate(factors) if f.result == axis]
    if not own or any(type(factors[k].size) is not int for k in own):
        return None
    if math.prod(factors[k].size for k in own) != result[axis]:  # type: ignore[index, misc]
        return None
    for start in (factors[k].source for k in own):
        made = None if start is None else _radix(factors, own, start, source[start])  # type: ignore[index]
        if made is not None:
            return [[made]]
    return None


def _radix(factors: list, own: list[int], source: int, size: object) -> Part | None:
    theirs = [k for k, f in enumerate(factors) if f.source == source]
    if type(size) is not int or size == 1 or any(type(factors[k].size) is not int for k in theirs):
        return None
    if math.prod(factors[k].size for k in theirs) != size:
        return None
    places = np.arange(size).reshape([factors[k].size for k in theirs])
    shared = [i for i, k in enumerate(theirs) if k in own]
    rest = [i for i, k in enumerate(theirs) if k not in own]
    places = places.transpose(shared + rest)
    view = [factors[k].size if k in theirs else 1 for k in own]
    spread = places.reshape(*view, -1)
    whole = [factors[k].size for k in own]
    full = np.broadcast_to(spread, (*whole, spread.shape[-1]))
    pieces = np.arange(math.prod(n for n, seen in zip(whole, view, strict=True) if seen == 1 and n != 1))
    others = [n if seen == 1 else 1 for n, seen in zip(whole, view, strict=True)]
    within = np.broadcast_to(pieces.reshape(others), whole).reshape(-1) if len(pieces) > 1 else None
    return Part(0, source, full.reshape(-1, spread.shape[-1]), within)


def _concat(node: Node, axis: int) -> Parts | None:
    at = node.attr("axis") % len(node.result.shape)  # type: ignore[arg-type]
    if any(v is None or v.shape is None or type(v.shape[axis]) is not int for v in node.operands):
        return None
    each = [_whole(i, axis, v.shape[axis]) for i, v in enumerate(node.operands)]  # type: ignore[union-attr, index, arg-type]
    return [[part] for part in each] if axis == at else [each]


def _slice(node: Node, axis: int) -> Parts | None:
    from ..prune.rules_shape import _bounds

    bounds, size = _bounds(node), node.operands[0].shape[axis]  # type: ignore[index, union-attr]
    if bounds is None or type(size) is not int:
        return None
    if axis not in bounds:
        return [[_whole(0, axis, size)]]
    first, last, step = bounds[axis]
    if first is None or last is None or step is None:
        return None
    taken = np.asarray(slice_positions(size, first, last, step), np.intp)
    return [[Part(0, axis, taken.reshape(-1, 1))]]


def _gather(node: Node, axis: int) -> Parts | None:
    """Constant indices of rank 1, and the axes beside them."""
    x, indices = node.operands[:2]
    at = node.attr("axis") % len(x.shape)  # type: ignore[arg-type, union-attr]
    if indices is None or indices.shape is None:
        return None
    rank = len(indices.shape)
    if at <= axis < at + rank:
        if not indices.is_const or rank != 1 or type(x.shape[at]) is not int:  # type: ignore[index, union-attr]
            return None
        taken = indices.array().astype(np.intp)
        return [[Part(0, at, np.where(taken < 0, taken + x.shape[at], taken).reshape(-1, 1))]]  # type: ignore[index, union-attr]
    return _same(node, axis, axis if axis < at else axis - rank + 1)


def _pad(node: Node, axis: int) -> Parts | None:
    from ..prune.rules_shape import _pads

    amounts, size = _pads(node), node.operands[0].shape[axis]  # type: ignore[index, union-attr]
    if amounts is None or type(size) is not int:
        return None
    before, after = amounts.get(axis, (0, 0))
    if before is None or after is None or ((before or after) and node.attr("mode") != "constant"):
        return None
    table = np.full(size + before + after, -1) if before >= 0 and after >= 0 else None
    if table is None:
        return None
    table[before : before + size] = np.arange(size)
    return [[Part(0, axis, table.reshape(-1, 1))]]


def _expand(node: Node, axis: int) -> Parts | None:
    source = axis - (len(node.result.shape) - len(node.operands[0].shape))  # type: ignore[arg-type, union-attr]
    return _same(node, axis, source) if source >= 0 else None


def _tile(node: Node, axis: int) -> Parts | None:
    size, count = node.operands[0].shape[axis], node.result.shape[axis]  # type: ignore[index, union-attr]
    if type(size) is not int or type(count) is not int or size == 0:
        return None
    return [[Part(0, axis, (np.arange(count) % size).reshape(-1, 1))]]


def _reverse(node: Node, axis: int) -> Parts | None:
    made = _same(node, axis, axis)
    if made and axis in {a % len(node.result.shape) for a in node.attr("axes")}:  # type: ignore[arg-type]
        return [[Part(0, axis, made[0][0].table[::-1])]]
    return made


def _depth_to_space(node: Node, axis: int) -> Parts | None:
    at = len(node.result.shape) - 1 if node.attr("channels_last") else 1  # type: ignore[arg-type]
    if axis == 0:
        return _same(node, 0, 0)
    size = node.operands[0].shape[at]  # type: ignore[index, union-attr]
    if axis != at or type(size) is not int:
        return None
    block = node.attr("blocksize") ** 2
    places = np.arange(size)
    table = places.reshape(-1, block) if node.attr("mode") == "CRD" else places.reshape(block, -1).T
    return [[Part(0, at, table)]]


_FINDERS = {
    "transpose": _transpose, "squeeze": _squeeze, "unsqueeze": _squeeze, "reshape": _reshape, "flatten": _reshape,
    "concat": _concat, "slice": _slice, "gather": _gather, "pad": _pad, "expand": _expand, "tile": _tile,
    "reverse": _reverse, "depth_to_space": _depth_to_space,
}  # fmt: skip


def split_part(node: Node, result: int, axis: int) -> Part | None:
    """The part of one result of a split."""
    x, at = node.operands[0], node.attr("axis") % len(node.results[result].shape)  # type: ignore[arg-type]
    sizes = [v.shape[at] for v in node.results]  # type: ignore[index]
    whole = x.shape[axis]  # type: ignore[index, union-attr]
    if type(whole) is not int or (axis == at and any(type(n) is not int for n in sizes)):
        return None
    start = sum(sizes[:result]) if axis == at else 0  # type: ignore[arg-type]
    count = sizes[result] if axis == at else whole
    return Part(0, axis, np.arange(start, start + count).reshape(-1, 1))  # type: ignore[operator]


#: Work on each channel alone, whatever they do along the other axes; without parameters.
POOLS = frozenset({
    "max_pool", "average_pool", "lp_pool", "global_average_pool", "global_max_pool", "global_lp_pool",
    "adaptive_average_pool", "adaptive_max_pool", "resize",
})  # fmt: skip


def channel_axis(node: Node) -> int:
    return len(node.operands[0].shape) - 1 if node.attrs.get("channels_last") else 1  # type: ignore[union-attr, arg-type]


def origin(node: Node, result: int, axis: int) -> Parts | None:
    """As `parts`, for every op whose slices along the axis are one function of slices of its operands."""
    x, y = node.operands[0] if node.operands else None, node.results[result]
    if x is None or x.shape is None or y.shape is None or type(y.shape[axis]) is not int or y.shape[axis] == 1:  # type: ignore[operator]
        return None
    if node.name == "split":
        part = split_part(node, result, axis)
        return None if part is None else [[part]]
    if node.name in POOLS:
        crops = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
        return _same(node, axis, axis) if axis in (0, channel_axis(node)) and not crops else None
    if node.name.startswith("reduce_"):
        return _kept_axis(node, axis)
    return parts(node, axis)


def _kept_axis(node: Node, axis: int) -> Parts | None:
    from ..prune.rules import reduced_axes

    over = reduced_axes(node)
    if over is None:
        return None
    kept = [i for i in range(len(node.operands[0].shape)) if node.attr("keepdims") or i not in over]  # type: ignore[union-attr, arg-type]
    return _same(node, axis, kept[axis]) if kept[axis] not in over else None
