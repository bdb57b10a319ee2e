"""What ops that move elements without mixing axes say of axes, and how their shape constants follow a cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Node
from ...ir.ops.shapes import norm_axes, slice_positions
from .atoms import REPEAT, SINGLE, Axes, Axis, Bundle, Fixed, Lane
from .rules import channel_axis, pinning
from .walk import PRODUCER, Walk, rewriting, rule, sized

if TYPE_CHECKING:
    from .remove import Cut


@rule("transpose")
def transpose(walk: Walk, node: Node) -> list[Axes]:
    row = walk.axes(node, 0, bundles=True)
    return [tuple(row[i] for i in node.attr("perm"))] if row else walk.held(node, "has data of unknown rank")


@rule("unsqueeze")
def unsqueeze(walk: Walk, node: Node) -> list[Axes]:
    row = walk.axes(node, 0, bundles=True)
    given = node.operands[1].ints()  # type: ignore[union-attr]
    if given is None or node.operands[0].rank is None:  # type: ignore[union-attr]
        return walk.held(node, "has axes that are not known")
    places, rest = norm_axes(given, len(row) + len(given)), iter(row)
    return [tuple(SINGLE if i in places else next(rest) for i in range(len(row) + len(given)))]


@rule("squeeze")
def squeeze(walk: Walk, node: Node) -> list[Axes]:
    over = _squeezed(node)
    if over is None:
        return walk.held(node, "has axes that are not known")
    return [tuple(axis for i, axis in enumerate(walk.axes(node, 0, bundles=True)) if i not in over)]


def _squeezed(node: Node) -> tuple[int, ...] | None:
    x = node.operands[0]
    if x is None or x.shape is None or node.result.rank is None:
        return None
    given = node.operands[1] if len(node.operands) > 1 else None
    if given is not None:
        axes = given.ints()
        return None if axes is None else norm_axes(axes, len(x.shape))
    over = tuple(i for i, n in enumerate(x.shape) if n == 1)
    return over if len(over) == len(x.shape) - node.result.rank else None


@rewriting("squeeze")
def squeeze_by_name(cut: Cut, node: Node) -> None:
    """An axis that has become 1 must not be squeezed as well."""
    if len(node.operands) < 2 or node.operands[1] is None:
        x = node.operands[0]
        over = [i for i, n in enumerate(cut.old_shape(x)) if n == 1]  # type: ignore[arg-type]
        cut.set_ints(node, 1, over)


@rule("concat")
def concat(walk: Walk, node: Node) -> list[Axes]:
    """The result's atoms are the operands' in a row; fixed ones are pinned atoms of their own."""
    rows = [walk.axes(node, i) for i in range(len(node.operands))]
    if any(v.rank is None for v in node.inputs()):
        return walk.held(node, "has an operand of unknown rank")
    at, rank = node.attr("axis") % len(rows[0]), len(rows[0])
    made: list[Axis] = []
    for i in range(rank):
        if i == at:
            made.append(_joined_ends(walk, node, at, [row[at] for row in rows]))
        else:
            joined = walk.space.join([row[i] for row in rows])
            zero = all(isinstance(row[i], Lane) and row[i].zero for row in rows)  # type: ignore[union-attr]
            made.append(joined.computed(zero=zero) if isinstance(joined, Lane) else joined)
    return [tuple(made)]


def _joined_ends(walk: Walk, node: Node, at: int, axes: list[Axis]) -> Axis:
    lanes = [axis for axis in axes if isinstance(axis, Lane)]
    if not lanes:
        return walk.fixed(node, "joins fixed axes")
    parts = []
    for value, axis in zip(node.operands, axes, strict=True):
        if isinstance(axis, Lane):
            walk.piece(axis)
            parts.append(axis.ids)
            continue
        size = sized(value, at)  # type: ignore[arg-type]
        if size is None or isinstance(axis, Bundle):
            why = walk.fixed(node, "joins it with an axis of unknown size")
            for lane in lanes:
                walk.space.pin(lane, why.reason)
            return why
        part = Lane(walk.space.fresh(size))
        walk.space.pin(part, axis.reason)
        parts.append(part.ids)
    return Lane(np.concatenate(parts), all(lane.zero for lane in lanes))


@rule("split")
def split(walk: Walk, node: Node) -> list[Axes]:
    row = walk.axes(node, 0)
    at = node.attr("axis") % len(row) if row else 0
    sizes = [sized(value, at) for value in node.results] if row else []
    if not row or (isinstance(row[at], Lane) and any(n is None for n in sizes)):
        return walk.held(node, "has lengths that are not known")
    made, start = [], 0
    for size in sizes:
        part: Axis = row[at]
        if isinstance(part, Lane):
            part = Lane(part.ids[start : start + size], part.zero)  # type: ignore[operator]
            part = part if size != 1 else _alone(walk, node, part)
            walk.piece(part)
            start += size  # type: ignore[operator]
        made.append((*row[:at], part, *row[at + 1 :]))
    return made


def _alone(walk: Walk, node: Node, lane: Lane) -> Axis:
    """A single index taken out of a lane stays, and its axis of size 1 is broadcast like any other."""
    walk.space.pin(lane, walk.fixed(node, "takes a single index of it").reason)
    return SINGLE


@rewriting("split")
def split_sizes(cut: Cut, node: Node) -> None:
    x = node.operands[0]
    at = node.attr("axis") % x.rank  # type: ignore[union-attr, operator]
    if cut.is_cut(x, at):  # type: ignore[arg-type]
        node.set_attr("num_outputs", None)
        cut.set_ints(node, 1, [cut.size(value, at) for value in node.results])


@rule("slice")
def slices(walk: Walk, node: Node) -> list[Axes]:
    row = walk.axes(node, 0)
    bounds = _bounds(node)
    if bounds is None:
        return walk.held(node, "has bounds that are not known")
    made = list(row)
    for axis, (first, last, step) in bounds.items():
        lane = row[axis]
        if not isinstance(lane, Lane):
            continue
        if first is None or last is None or step is None:
            made[axis] = walk.fixed(node, "has bounds that are not known")
            walk.space.pin(lane, made[axis].reason)  # type: ignore[union-attr]
            continue
        taken = slice_positions(len(lane.ids), first, last, step)
        if len(taken) == len(lane.ids) and step == 1:
            continue
        part = Lane(lane.ids[np.asarray(taken, np.intp)], lane.zero)
        made[axis] = (
            part if len(taken) > 1 else _alone(walk, node, part) if taken else walk.fixed(node, "takes nothing")
        )
        walk.piece(made[axis])
    return [tuple(made)]


def _bounds(node: Node) -> dict[int, tuple[int | None, int | None, int | None]] | None:
    """Start, end and step by axis; None for those that are not known, or altogether when the axes are not."""
    x, starts, ends = node.operands[:3]
    rank = None if x is None else x.rank
    axes, steps = ((*node.operands, None, None)[i] for i in (3, 4))
    count = None if starts is None or starts.shape is None else starts.shape[0]
    along = tuple(range(count)) if axes is None and type(count) is int else None if axes is None else axes.ints()
    if rank is None or along is None:
        return None
    columns = []
    for value in (starts, ends, steps):
        elems = (1,) * len(along) if value is None else value.elems or (None,) * len(along)
        columns.append([e if type(e) is int else None for e in elems])
    return dict(zip(norm_axes(along, rank), zip(*columns, strict=True), strict=True))  # type: ignore[arg-type]


@rewriting("slice")
def slice_bounds(cut: Cut, node: Node) -> None:
    """Steps of 1: the bounds move. Other steps become a gather of what is left."""
    x = node.operands[0]
    bounds = _bounds(node) or {}
    cuts = [axis for axis in bounds if cut.is_cut(x, axis)]  # type: ignore[arg-type]
    if not cuts:
        return
    value, order = x, list(bounds)
    for axis in cuts:
        keep = cut.keep(x, axis)  # type: ignore[arg-type]
        taken = np.asarray(slice_positions(len(keep), *bounds.pop(axis)), np.intp)
        places = (np.cumsum(keep) - 1)[taken[keep[taken]]]
        if len(places) == keep.sum() and np.array_equal(places, np.arange(len(places))):
            continue
        b = cut.builder(node)
        if np.array_equal(places, np.arange(places[0], places[0] + len(places))):
            one = [np.array([n], np.int64) for n in (places[0], places[-1] + 1, axis)]
            value = b.slice(value, *one)
        else:
            value = b.gather(value, places.astype(np.int64), axis=axis)
    if bounds:
        cut.set_operand(node, 0, value)
        for index in (1, 2, 4):
            cut.take_entries(node, index, [order.index(axis) for axis in bounds])
        cut.set_ints(node, 3, list(bounds))
    else:
        cut.replace(node, value)


@rule("reverse")
def reverse(walk: Walk, node: Node) -> list[Axes]:
    row = list(walk.axes(node, 0))
    for axis in {a % len(row) for a in node.attr("axes")}:
        lane = row[axis]
        row[axis] = Lane(lane.ids[::-1], lane.zero) if isinstance(lane, Lane) else lane
    return [tuple(row)]


@rule("gather")
def gather(walk: Walk, node: Node) -> list[Axes]:
    """Constant indices take atoms; others, an embedding say, pin the axis. The other axes pass."""
    row, indices = walk.axes(node, 0), node.operands[1]
    if not row or indices is None or indices.rank is None:
        return walk.held(node, "has an operand of unknown rank")
    at = node.attr("axis") % len(row)
    taken = _taken(node, row[at])
    inner = (
        walk.axes(node, 1)
        if not indices.is_const
        else tuple(walk.fixed(node, "is indexed") for _ in indices.shape or ())
    )
    if taken is None or taken.ndim > 1:
        walk.space.pin(row[at], f"{node.name} looks up positions of it")
        middle: Axes = tuple(axis.computed(zero=False) if isinstance(axis, Lane) else axis for axis in inner)
    elif taken.ndim == 0 or len(taken) == 1:
        _alone(walk, node, Lane(row[at].ids[np.atleast_1d(taken)]))  # type: ignore[union-attr]
        middle = (SINGLE,) * taken.ndim
    else:
        part = Lane(row[at].ids[taken], row[at].zero)  # type: ignore[union-attr]
        walk.piece(part)
        middle = (part,)
    others = [axis.computed(zero=axis.zero) if isinstance(axis, Lane) else axis for axis in row]
    for i, axis in enumerate(row):
        if i != at:
            walk.use(node, axis, PRODUCER)
    return [(*others[:at], *middle, *others[at + 1 :])]


def _taken(node: Node, axis: Axis) -> np.ndarray | None:
    """The positions that a gather takes of a lane, where they are known."""
    indices = node.operands[1]
    if not isinstance(axis, Lane) or indices is None or not indices.is_const:
        return None
    taken = indices.array().astype(np.int64)
    return np.where(taken < 0, taken + len(axis.ids), taken)


@rewriting("gather")
def gather_indices(cut: Cut, node: Node) -> None:
    x = node.operands[0]
    at = node.attr("axis") % x.rank  # type: ignore[union-attr, operator]
    if cut.is_cut(x, at):  # type: ignore[arg-type]
        keep = cut.keep(x, at)  # type: ignore[arg-type]
        taken = node.operands[1].array().astype(np.int64)  # type: ignore[union-attr]
        taken = np.where(taken < 0, taken + len(keep), taken)
        places = (np.cumsum(keep) - 1)[taken[keep[taken]] if taken.ndim else taken]
        cut.set_array(node, 1, places)


@rule("pad")
def pad(walk: Walk, node: Node) -> list[Axes]:
    """New indices at the ends of a lane are atoms of their own, which nothing cuts unless they run in step with others."""
    row, amounts = list(walk.axes(node, 0)), _pads(node)
    if amounts is None:
        return walk.held(node, "has pads that are not known")
    value = node.operands[2] if len(node.operands) > 2 else None
    mode = node.attr("mode")
    filled = mode != "constant" or value is None or value.scalar() == 0
    grows = any(amounts.values()) if amounts else False
    for axis, lane in enumerate(row):
        if not isinstance(lane, Lane):
            continue
        before, after = amounts.get(axis, (0, 0))
        if before is None or after is None or ((before or after) and mode != "constant"):
            row[axis] = walk.fixed(node, f"in mode {mode} copies indices of it")
            walk.space.pin(lane, row[axis].reason)  # type: ignore[union-attr]
        elif before or after:
            row[axis] = _grown(walk, lane, before, after, filled)
        else:
            row[axis] = lane.computed(zero=lane.zero and (filled or not grows))
    return [tuple(row)]


def _grown(walk: Walk, lane: Lane, before: int, after: int, filled: bool) -> Lane:
    ids = lane.ids[max(-before, 0) : len(lane.ids) - max(-after, 0)]
    ends = [walk.space.fresh(max(n, 0)) for n in (before, after)]
    return Lane(np.concatenate([ends[0], ids, ends[1]]), lane.zero and filled)


def _pads(node: Node) -> dict[int, tuple[int | None, int | None]] | None:
    """Amounts before and after, by axis; None when the axes are not known."""
    x, pads = node.operands[:2]
    axes = node.operands[3] if len(node.operands) > 3 else None
    if x is None or x.rank is None or pads is None:
        return None
    along = tuple(range(x.rank)) if axes is None else axes.ints()
    if along is None:
        return None
    elems = [e if type(e) is int else None for e in pads.elems or (None,) * (2 * len(along))]
    return dict(zip(norm_axes(along, x.rank), zip(elems[: len(along)], elems[len(along) :], strict=True), strict=True))


@rewriting("pad")
def pad_amounts(cut: Cut, node: Node) -> None:
    x, amounts = node.operands[0], _pads(node) or {}
    if not any(cut.is_cut(node.result, axis) or cut.is_cut(x, axis) for axis in amounts):  # type: ignore[arg-type]
        return
    made: dict[int, int] = {}
    for i, (axis, (before, after)) in enumerate(amounts.items()):
        if not (before or after) or not (cut.is_cut(node.result, axis) or cut.is_cut(x, axis)):  # type: ignore[arg-type]
            continue
        old, new = cut.keep(x, axis), cut.keep(node.result, axis)  # type: ignore[arg-type]
        made[i] = int(new[:before].sum()) if before > 0 else -int(old[:-before].sum())  # type: ignore[operator, misc]
        back = int(new[len(new) - after :].sum()) if after > 0 else -int(old[len(old) + after :].sum())  # type: ignore[operator]
        made[i + len(amounts)] = back
    cut.change_entries(node, 1, made)


@rule("expand")
def expand(walk: Walk, node: Node) -> list[Axes]:
    """An axis of 1 that is repeated gets atoms of its own: how often it is repeated is free."""
    row, shape = walk.axes(node, 0), node.result.shape
    if shape is None or node.operands[0].rank is None:  # type: ignore[union-attr]
        return walk.held(node, "has a shape that is not known")
    made: list[Axis] = []
    padded = (SINGLE,) * (len(shape) - len(row)) + row
    for axis, dim in zip(padded, shape, strict=True):
        if axis is SINGLE and dim != 1:
            axis = walk.new(dim, zero=False)
            walk.space.mark(axis, REPEAT)
        made.append(axis)
    return [tuple(axis.computed(zero=axis.zero) if isinstance(axis, Lane) else axis for axis in made)]


@rule("constant_of_shape")
def constant_of_shape(walk: Walk, node: Node) -> list[Axes]:
    if node.result.shape is None:
        return walk.held(node, "has a shape that is not known")
    return [tuple(walk.new(dim, zero=node.attr("value") == 0) for dim in node.result.shape)]


@rewriting("expand")
def expanded_shape(cut: Cut, node: Node) -> None:
    """The entries of axes that were cut; an entry 1 leaves its axis as it is."""
    elems = node.operands[1].elems or ()  # type: ignore[union-attr]
    lead = len(cut.old_shape(node.result)) - len(elems)
    made = {
        i: cut.size(node.result, lead + i) for i, e in enumerate(elems) if e != 1 and cut.is_cut(node.result, lead + i)
    }
    cut.change_entries(node, 1, made)


@rewriting("constant_of_shape")
def shape_of_constant(cut: Cut, node: Node) -> None:
    count = len(cut.old_shape(node.result))
    cut.change_entries(node, 0, {i: cut.size(node.result, i) for i in range(count) if cut.is_cut(node.result, i)})


@rule("tile")
def tile(walk: Walk, node: Node) -> list[Axes]:
    """A repeated lane shares its atoms; an axis of 1 that is repeated gets its own."""
    row, times = walk.axes(node, 0), node.operands[1].elems  # type: ignore[union-attr]
    if not row or times is None:
        return walk.held(node, "has repeats that are not known")
    made: list[Axis] = []
    for i, (axis, count) in enumerate(zip(row, times, strict=True)):
        if count == 1 or isinstance(axis, Fixed):
            again = walk.new(node.result.shape[i], zero=False) if axis is SINGLE and count != 1 else axis  # type: ignore[index]
            walk.space.mark(again, REPEAT if again is not axis else 0)
            made.append(again)
        elif type(count) is int and isinstance(axis, Lane):
            made.append(Lane(np.tile(axis.ids, count), axis.zero))
        else:
            made.append(walk.fixed(node, "repeats it a number of times that is not known"))
            walk.space.pin(axis, made[-1].reason)  # type: ignore[union-attr]
    return [tuple(a.computed(zero=a.zero) if isinstance(a, Lane) else a for a in made)]


@rewriting("tile")
def tile_repeats(cut: Cut, node: Node) -> None:
    """Only an axis of 1 can have another number of repeats."""
    x = cut.old_shape(node.operands[0])  # type: ignore[arg-type]
    cut.change_entries(
        node, 1, {i: cut.size(node.result, i) for i, n in enumerate(x) if n == 1 and cut.is_cut(node.result, i)}
    )


@rule("shape")
def shape(walk: Walk, node: Node) -> list[Axes]:
    """Says nothing of axes: its elements stay what they were."""
    return [(walk.fixed(node, "is a shape"),)]


@rewriting("shape")
def old_shape(cut: Cut, node: Node) -> None:
    """Arithmetic goes on with the sizes of before the cut (a scale 1/sqrt(d) must not change); every op that makes a shape
    of them is rewritten for itself."""
    x = node.operands[0]
    sizes = cut.old_shape(x)[slice(node.attr("start"), node.attr("end"))]  # type: ignore[arg-type]
    first = range(len(cut.old_shape(x)))[slice(node.attr("start"), node.attr("end"))].start  # type: ignore[arg-type]
    changed = {i: n for i, n in enumerate(sizes) if cut.is_cut(x, first + i)}  # type: ignore[arg-type]
    cut.freeze(node, changed)  # type: ignore[arg-type]


@rule("depth_to_space", "space_to_depth")
def depth_space(walk: Walk, node: Node) -> list[Axes]:
    """Channel c of the image stands for a block of b^2 channels of the depth."""
    row, at = list(walk.axes(node, 0)), channel_axis(node) if node.operands[0].rank else 1  # type: ignore[union-attr]
    if not row:
        return walk.held(node, "has data of unknown rank")
    block = node.attr("blocksize") ** 2
    made = list(pinning(walk, node, [i for i in range(1, 4) if i != at], "moves it into blocks", zero=True)[0])
    lane = row[at]
    crd = node.attrs.get("mode") == "CRD"
    if isinstance(lane, Lane) and node.name == "depth_to_space":
        table = lane.ids.reshape(-1, block).T if crd else lane.ids.reshape(block, -1)
        ids = walk.space.union_all(table)
        made[at] = Lane(ids, lane.zero) if len(ids) > 1 else _alone(walk, node, Lane(lane.ids))
    elif isinstance(lane, Lane):
        made[at] = Lane(np.repeat(lane.ids, block) if crd else np.tile(lane.ids, block), lane.zero)
    return [tuple(made)]


@rule("resize")
def resize(walk: Walk, node: Node) -> list[Axes]:
    """Axes whose size stays pass."""
    x, y = node.operands[0], node.result
    if x is None or x.shape is None or y.shape is None:
        return walk.held(node, "has data of unknown rank")
    changed = [i for i, (a, b) in enumerate(zip(x.shape, y.shape, strict=True)) if a != b or type(a) is not int]
    if node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return walk.held(node, "crops by a region")
    return pinning(walk, node, changed, "resizes it", zero=True)


@rewriting("resize")
def resized_sizes(cut: Cut, node: Node) -> None:
    sizes = node.operands[3] if len(node.operands) > 3 else None
    if sizes is not None and sizes.shape != (0,):
        rank = len(cut.old_shape(node.result))
        axes = [a % rank for a in node.attr("axes")] or list(range(rank))
        made = {i: cut.size(node.result, axis) for i, axis in enumerate(axes) if cut.is_cut(node.result, axis)}
        cut.change_entries(node, 3, made)


@rule("trilu")
def trilu(walk: Walk, node: Node) -> list[Axes]:
    return pinning(walk, node, (-1, -2), "takes a triangle of it", zero=True)
