"""Rules of `move-data` on parts of tensors: slices, splits, concats and pads that meet, merge or undo each other.

All of them copy elements and compute none: exact. A rule fires only where the graph has no more nodes behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.dims import Dim, dim_eq
from ...ir.graph import Node, Value
from ..pattern import literal_equals
from ..rewrite import StagingBuilder, rule
from ..simplify.slices import TO_THE_END, Cut
from .axes import cuts_of, equal_shapes, lengths_of, moves_to, padded, pads_of, sliced

#: A concat is not merged into another one beyond this many operands, so that a chain of any length stays linear.
MOST_PARTS = 64
#: Of a value with more users than this nobody asks what all of them do.
MOST_USERS = 32


def _along(node: Node) -> int | None:
    """The axis of a concat or split as a number >= 0."""
    value = node.results[0] if node.name == "concat" else node.operands[0]
    return None if value is None or value.rank is None else node.attr("axis") % value.rank


# ------------------------------------------------------------------------------------------------ slice


@rule("slice", benefit=2)
def merge_slices(b: StagingBuilder, node: Node):
    """slice(slice(x)) -> slice(x)"""
    inner = node.operands[0].node
    if inner is None or inner.name != "slice":
        return None
    first, second = cuts_of(inner), cuts_of(node)
    if first is None or second is None:
        return b.decline("a bound is unknown, or counts from the end of an axis of unknown size")
    made = dict(first)
    for axis, (start, end, step) in second.items():
        low, high, by = first.get(axis, Cut(0, TO_THE_END, 1))
        made[axis] = Cut(low + by * start, max(low + by * start, min(high, low + by * end)), by * step)
    if any(cut.start >= TO_THE_END for cut in made.values()):
        return b.decline("the bounds are too large to be added")
    return sliced(b, inner.operands[0], {a: Cut(c.start, min(c.end, TO_THE_END), c.step) for a, c in made.items()})


@rule("slice", benefit=2)
def slice_of_concat(b: StagingBuilder, node: Node):
    """slice(concat(x, y ...)) -> the parts that it touches"""
    joined = node.operands[0].node
    cuts = cuts_of(node)
    if joined is None or joined.name != "concat" or cuts is None:
        return None
    axis = _along(joined)
    cut = cuts.get(axis) if axis is not None else None
    if cut is None or cut.step != 1 or cut.end <= cut.start:
        return b.decline("it cuts another axis, with steps, or takes nothing")
    touched = _touched(joined.operands, axis, cut)
    if touched is None:
        return b.decline("where the parts lie is unknown")
    others = {a: c for a, c in cuts.items() if a != axis}
    if len(touched) == 1:
        part, own = touched[0]
        return sliced(b, part, {**others, axis: own})
    partial = sum(not own.everything(part.shape[axis]) for part, own in touched)
    if others or partial > (node.operands[0].n_uses == 1) or len(touched) == len(joined.operands):
        return b.decline("it would need more nodes")
    return b.concat(*[sliced(b, part, {axis: own}) for part, own in touched], axis=axis)


def _touched(parts: Sequence[Value], axis: int, cut: Cut) -> list[tuple[Value, Cut]] | None:
    """The parts of a concat that [start, end) reaches, with what it takes of each. From a part of unknown size on it must
    take everything."""
    made, at, sure = [], 0, True
    for part in parts:
        size = part.shape[axis] if part.shape is not None else None
        if size is None:
            return None
        if sure and cut.end <= at:
            break
        if sure and isinstance(size, int):
            low, high = max(cut.start, at), min(cut.end, at + size)
            if low < high:
                made.append((part, Cut(low - at, high - at, 1)))
            at += size
            continue
        if sure and (cut.end != TO_THE_END or cut.start > at):
            return None
        sure = False
        made.append((part, Cut(0, TO_THE_END, 1)))
    return made or None


@rule("slice", benefit=2)
def slice_of_pad(b: StagingBuilder, node: Node):
    """slice(pad(x)) -> pad(x) by less, a slice of x, or x"""
    pad = node.operands[0].node
    cuts = cuts_of(node)
    if pad is None or pad.name != "pad" or cuts is None or pad.attr("mode") != "constant":
        return None
    pads, x = pads_of(pad), pad.operands[0]
    if pads is None or x.shape is None:
        return None
    left, inside = dict(pads), {a: cut for a, cut in cuts.items() if a not in pads}
    for axis in sorted(set(cuts) & set(pads)):
        (start, end, step), size = cuts[axis], x.shape[axis]
        if step != 1 or not isinstance(size, int) or min(pads[axis]) < 0:
            return b.decline("it cuts with steps, an axis of unknown size, or one that is cropped")
        low, high = max(start, pads[axis][0]), min(end, pads[axis][0] + size)
        if low >= high:
            return b.decline("it takes nothing of x")
        left[axis] = (low - start, end - high)
        inside[axis] = Cut(low - pads[axis][0], high - pads[axis][0], 1)
    left = {axis: pair for axis, pair in left.items() if any(pair)}
    inside = {axis: cut for axis, cut in inside.items() if not cut.everything(x.shape[axis])}
    if left == pads and not inside:
        return b.decline("it takes everything")
    if left and inside and node.operands[0].n_uses > 1:
        return b.decline("it would need more nodes")
    kept = sliced(b, x, inside)
    return padded(b, pad, kept, left) if left else kept


# ------------------------------------------------------------------------------------------------ split and concat


@rule("split", benefit=2)
def split_of_concat(b: StagingBuilder, node: Node):
    """split(concat(x, y ...)) at the same places -> x, y ..."""
    joined, axis = node.operands[0].node, _along(node)
    if joined is None or joined.name != "concat" or axis is None or _along(joined) != axis:
        return None
    runs = _cut_into(joined.operands, lengths_of(node), axis)
    if runs is None:
        return b.decline("it cuts at other places")
    if sum(len(run) > 1 for run in runs) > 1 + (node.operands[0].n_uses == 1):
        return b.decline("it would need more nodes")
    return [run[0] if len(run) == 1 else b.concat(*run, axis=axis) for run in runs]


def _cut_into(parts: Sequence[Value], lengths: Sequence[Dim] | None, axis: int) -> list[list[Value]] | None:
    """The parts in consecutive runs of these lengths."""
    runs: list[list[Value]] = []
    rest = list(parts)
    for length in lengths or ():
        run: list[Value] = []
        total: Dim = 0
        while rest and (not run or dim_eq(total, length) is not True):
            part = rest.pop(0)
            if part.shape is None:
                return None
            run.append(part)
            total = total + part.shape[axis]
        if not run or dim_eq(total, length) is not True:
            return None
        runs.append(run)
    return runs if runs and not rest else None


@rule("split")
def split_for_one(b: StagingBuilder, node: Node):
    """split of which one result is used -> slice"""
    used = [v for v in node.results if v.n_uses]
    lengths, axis = lengths_of(node), _along(node)
    if len(used) != 1 or len(node.results) < 2 or lengths is None or axis is None:
        return None
    ahead = [n for n in lengths[: used[0].index + 1] if isinstance(n, int)]
    if len(ahead) <= used[0].index:
        return b.decline("where the result lies is no number")
    made = sliced(b, node.operands[0], {axis: Cut(sum(ahead[:-1]), sum(ahead), 1)})
    return b.instead({used[0]: made}, [node])


@rule("concat")
def concat_of_pieces(b: StagingBuilder, node: Node):
    """concat of consecutive pieces of x -> x, or one slice of it"""
    axis = _along(node)
    if axis is None or any(v.shape is None for v in node.operands):
        return None
    made: list[Value] = []
    at, parts = 0, node.operands
    while at < len(parts):
        value, count = _split_run(parts, at, axis) or _slice_run(b, parts, at, axis) or (parts[at], 1)
        made.append(value)
        at += count
    if len(made) == len(parts):
        return None
    return made[0] if len(made) == 1 else b.concat(*made, axis=axis)


def _split_run(parts: Sequence[Value], at: int, axis: int) -> tuple[Value, int] | None:
    """All results of one split in their order, from `at` on: (what was split, how many)."""
    node = parts[at].node
    if node is None or node.name != "split" or _along(node) != axis or len(node.results) < 2:
        return None
    if tuple(parts[at : at + len(node.results)]) != node.results:
        return None
    return node.operands[0], len(node.results)


def _slice_run(b: StagingBuilder, parts: Sequence[Value], at: int, axis: int) -> tuple[Value, int] | None:
    """Slices of one value along `axis`, each beginning where the last one ended, if one slice for all is no node more."""
    first = _piece(parts[at], axis)
    if first is None:
        return None
    x, cut = first
    end, count, saved = cut.end, 1, int(parts[at].n_uses == 1)
    while at + count < len(parts) and end != TO_THE_END:
        following = _piece(parts[at + count], axis)
        if following is None or following[0] is not x or following[1].start != end:
            break
        end = following[1].end
        saved += parts[at + count].n_uses == 1
        count += 1
    whole = Cut(cut.start, end, 1)
    if count < 2 or not (saved or whole.everything(x.shape[axis])):
        return None
    return sliced(b, x, {axis: whole}), count


def _piece(value: Value, axis: int) -> tuple[Value, Cut] | None:
    """(x, cut) of a slice along this axis alone."""
    node = value.node
    if node is None or node.name != "slice":
        return None
    cuts = cuts_of(node)
    return (
        (node.operands[0], cuts[axis]) if cuts is not None and list(cuts) == [axis] and cuts[axis].step == 1 else None
    )


@rule("concat")
def merge_concats(b: StagingBuilder, node: Node):
    """concat(concat(x, y), z) -> concat(x, y, z)"""
    axis = _along(node)
    inner = [
        v.node if v.node is not None and v.node.name == "concat" and v.n_uses == 1 else None for v in node.operands
    ]
    flat: list[Value] = []
    for value, below in zip(node.operands, inner, strict=True):
        flat += [value] if below is None or _along(below) != axis else below.operands
    if axis is None or len(flat) == len(node.operands) or len(flat) > MOST_PARTS:
        return None
    return b.concat(*flat, axis=axis)


@rule("concat")
def exchange_concats(b: StagingBuilder, node: Node):
    """concat of concats along another axis, more of them than each has parts -> a concat of few of many"""
    axis = _along(node)
    rows = [v.node for v in node.operands]
    if axis is None or len(set(node.operands)) < len(rows):
        return None
    if any(r is None or r.name != "concat" or r.result.n_uses != 1 or _along(r) == axis for r in rows):
        return None
    across, width = _along(rows[0]), len(rows[0].operands)
    if any(_along(r) != across or len(r.operands) != width for r in rows) or width >= len(rows):
        return b.decline("it would need more nodes")
    columns = list(zip(*[r.operands for r in rows], strict=True))
    for column in columns:
        sizes = [v.shape[across] if v.shape is not None else None for v in column]
        if any(n is None or dim_eq(n, sizes[0]) is not True for n in sizes):
            return b.decline("the parts of two rows differ in size")
    return b.concat(*[b.concat(*column, axis=axis) for column in columns], axis=across)


@rule("slice")
def slices_to_split(b: StagingBuilder, node: Node):
    """slices of x that lie side by side and take all of it -> split(x)"""
    found = cuts_of(node)
    x = node.operands[0]
    if found is None or len(found) != 1 or x.n_uses > MOST_USERS:
        return None
    (axis,) = found
    if not isinstance(x.shape[axis], int) or found[axis].start != 0:
        return None
    pieces: dict[int, tuple[Node, Cut]] = {}
    for user in x.users:
        piece = _piece(user.results[0], axis) if user.name == "slice" and user.operands[0] is x else None
        if piece is not None and user.graph is node.graph and piece[1].end > piece[1].start:
            pieces.setdefault(piece[1].start, (user, piece[1]))
    row: list[tuple[Node, Cut]] = []
    end = 0
    while end in pieces:
        row.append(pieces[end])
        end = row[-1][1].end
    dropped = sum(_loses_axis(user.result, axis) for user, _ in row)
    if end != x.shape[axis] or len(row) - dropped < 2:
        return b.decline("they leave a gap, overlap, or take one element for a gather")
    lengths = tuple(cut.end - cut.start for _, cut in row)
    parts = b.split(x, lengths, axis=axis, num_outputs=len(row))
    return b.instead({user.result: part for (user, _), part in zip(row, parts, strict=True)}, [user for user, _ in row])


def _loses_axis(value: Value, axis: int) -> bool:
    """Its only user drops this axis, of size 1: together they are a gather."""
    user = value.single_user()
    if user is None or value.shape[axis] != 1 or user.next is None or moves_to(user.results[0]) is not value:
        return False
    return equal_shapes(user.result.shape, [d for i, d in enumerate(value.shape) if i != axis])


# ------------------------------------------------------------------------------------------------ pad


@rule("pad")
def merge_pads(b: StagingBuilder, node: Node):
    """pad(pad(x)) with the same fill -> pad(x)"""
    inner = node.operands[0].node
    if inner is None or inner.name != "pad" or {node.attr("mode"), inner.attr("mode")} != {"constant"}:
        return None
    first, second = pads_of(inner), pads_of(node)
    if first is None or second is None or not _same_fill(node.operand("value"), inner.operand("value")):
        return b.decline("the pads are unknown or filled with something else")
    if any(n < 0 for pair in (*first.values(), *second.values()) for n in pair):
        return b.decline("one of them crops")
    summed = {
        a: tuple(map(sum, zip(first.get(a, (0, 0)), second.get(a, (0, 0)), strict=True))) for a in {**first, **second}
    }
    return padded(b, node, inner.operands[0], summed)  # type: ignore[arg-type]


@rule("pad")
def slice_into_pad(b: StagingBuilder, node: Node):
    """pad(slice(x)) -> pad(x) that crops on one side and grows on the other"""
    cut = node.operands[0].node
    pads = pads_of(node)
    if (
        cut is None
        or cut.name != "slice"
        or node.operands[0].n_uses != 1
        or pads is None
        or node.attr("mode") != "constant"
    ):
        return None
    cuts, x = cuts_of(cut), cut.operands[0]
    made = dict(pads)
    for axis, (start, end, step) in (cuts or {}).items():
        size, (low, high) = x.shape[axis], pads.get(axis, (0, 0))
        if step != 1 or not isinstance(size, int) or min(low, high) < 0:
            return b.decline("steps, an axis of unknown size, or a pad that crops")
        if (start and low) or (end < size and high) or start == end:
            return b.decline("fill would have to replace elements, or nothing is left")
        made[axis] = (low - start, high - (size - end))
    return None if not cuts else padded(b, node, x, made)


def _same_fill(a: Value | None, b: Value | None) -> bool:
    """The same value, or both the 0 that an absent operand means."""
    return a is b or all(v is None or literal_equals(v, 0) for v in (a, b))


RULES = (
    merge_slices,
    slice_of_concat,
    slice_of_pad,
    split_of_concat,
    split_for_one,
    concat_of_pieces,
    merge_concats,
    exchange_concats,
    slices_to_split,
    merge_pads,
    slice_into_pad,
)
