"""What the pass `regions` does to one `loop` or `scan`: none or one iteration, few iterations, what never changes, what
nobody needs, what need not be computed each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...ir.builder import Builder
from ...ir.clone import copy_into, copy_nodes
from ...ir.graph import Graph, Node, Value
from ...ir.infer import propagate
from ...ir.opdef import PURE, RANDOM
from ...ir.ops.control import goes_on
from ...ir.types import TensorType, meet
from ..manager import Context
from .regions import add_captures, count_nodes, drop_dead, first_capture, infer_again, inline, rebuild, replace

#: A loop of at most so many iterations is unrolled when it makes no more nodes than it has, or than SMALL.
TRIPS, SMALL = 8, 16
#: Ops whose cost does not depend on the size of what they look at, and that never fail: worth moving out of a loop that may
#: run no iteration at all.
FREE = frozenset({"shape", "size"})


class Layout(NamedTuple):
    """Where things stand: the first carried value among operands, inputs of the body and outputs of the body, how many are
    carried, and the first capture among operands and inputs."""

    outside: int
    inside: int
    yielded: int
    carried: int
    captures: int


def layout(node: Node) -> Layout:
    carried = node.attr("carried")
    if node.name == "loop":
        return Layout(2, 2, 1, carried, first_capture(node)[0])
    return Layout(0, 0, 0, carried, first_capture(node)[0])


def simplify_loop(node: Node, ctx: Context) -> None:
    node = _keep_unchanged_outside(node, ctx)
    trips = _trips(node)
    if trips == 0 and _replace_by_nothing(node):
        ctx.stats["drop loop without iterations"] += 1
    elif trips == 1 and _unroll(node, 1, ctx, "inline single iteration"):
        return
    elif node.graph is not None:
        few = trips is not None and 1 < trips <= TRIPS and _is_small(node, trips)
        if not (few and _unroll(node, trips, ctx, "unroll loop")):  # type: ignore[arg-type]
            _hoist(node, ctx, surely_runs=_surely_runs(node))


def _trips(node: Node) -> int | None:
    """How often the body runs; None when that is not known, or a condition may end the loop earlier."""
    if node.name == "scan":
        place = node.attr("carried")
        x, axes = node.operands[place], node.attr("scan_input_axes") or (0,)
        length = x.shape[axes[0]] if x is not None and x.shape is not None else None
        return length if type(length) is int else None
    trip, cond = _limit(node), _starts(node)
    if trip == 0 or cond is False:
        return 0
    if cond is None:
        return None
    body = node.regions[0]
    once = body.outputs[0].ints() == (0,) and (node.operands[0] is None or (trip or 0) > 0)
    return 1 if once or trip == 1 else trip if goes_on(body) else None


def _limit(node: Node) -> int | None:
    """The trip count where it is known, at least 0."""
    known = node.operands[0].ints() if node.operands[0] is not None else None
    return max(0, known[0]) if known else None


def _starts(node: Node) -> bool | None:
    """What the condition is at the start; None when that is not known."""
    cond = node.operands[1]
    known = (1,) if cond is None else cond.ints()
    return bool(known[0]) if known else None


def _surely_runs(node: Node) -> bool:
    """There is a first iteration."""
    if node.name == "scan":
        return (_trips(node) or 0) > 0
    return bool(_starts(node)) and (node.operands[0] is None or (_limit(node) or 0) > 0)


# None, one or few iterations.


def _replace_by_nothing(node: Node) -> bool:
    """The carried values as they came in, and stacks of nothing where their shape is known."""
    at, module = layout(node), node.graph.module  # type: ignore[union-attr]
    made: list[Any] = list(node.operands[at.outside : at.outside + at.carried])
    for value, row in zip(node.results[at.carried :], node.regions[0].outputs[at.yielded + at.carried :], strict=True):
        dims = row.shape if value.shape is not None else None
        if not value.n_uses:
            made.append(value)
            continue
        if dims is None or value.dtype is None or any(type(d) is not int for d in dims):
            return False
        place = _axis_of(node, len(made) - at.carried, len(dims) + 1)
        made.append(module.literal(np.empty((*dims[:place], 0, *dims[place:]), value.dtype.numpy), value.dtype))
    return replace(node, made)


def _axis_of(node: Node, number: int, rank: int) -> int:
    """Where stacked output `number`, of this rank, has its new axis."""
    axes = node.attr("scan_output_axes") if node.name == "scan" else ()
    return axes[number] % rank if axes else 0


def _is_small(node: Node, trips: int) -> bool:
    """The copies of the body, with what takes slices and stacks rows, are few."""
    at, body = layout(node), node.regions[0]
    own = count_nodes(body, SMALL)
    stacks = len(body.outputs) - at.yielded - at.carried
    slices = at.captures - at.outside - at.carried
    return trips * (own + stacks + slices) + stacks <= max(SMALL, own + 1)


def _unroll(node: Node, trips: int, ctx: Context, name: str) -> bool:
    """The body `trips` times in place of the node, the last time the body itself."""
    at, body, b = layout(node), node.regions[0], Builder(node.graph, before=node, loc=node.loc)  # type: ignore[arg-type]
    if node.name == "scan" and any(v.rank is None for v in body.outputs[at.carried :]):
        return False
    state = list(node.operands[at.outside : at.outside + at.carried])
    fixed = list(node.operands[at.captures :])
    rows: list[list[Value]] = []
    if not _fits(node, at, state):
        return False
    for step in range(trips):
        values = [*_given(node, b, at, step, trips), *state, *_slices(node, b, at, step), *fixed]
        if step < trips - 1:
            mapping: dict[Value, Value] = dict(zip(body.inputs, values, strict=True))  # type: ignore[arg-type]
            outputs = _copied(node, body, mapping)
        else:
            outputs = inline(node, body, values, range(len(body.outputs)))  # type: ignore[arg-type, assignment]
        state = list(outputs[at.yielded : at.yielded + at.carried])
        rows.append(list(outputs[at.yielded + at.carried :]))
    made = [*state, *(_stack(node, b, i, [row[i] for row in rows]) for i in range(len(rows[0])))]
    replace(node, made)  # type: ignore[arg-type]
    ctx.stats[name] += 1
    return True


def _fits(node: Node, at: Layout, state: Sequence[Value | None]) -> bool:
    """Every value can take its place in the next iteration, and as a result; what differs is left alone."""
    body = node.regions[0]
    if node.name == "loop" and body.inputs[0].dtype is None:
        return False
    inputs = body.inputs[at.inside : at.inside + at.carried]
    outputs = body.outputs[at.yielded : at.yielded + at.carried]
    for first, inner, last, result in zip(state, inputs, outputs, node.results, strict=False):
        types = (first.type, last.type) if first is not None else ()
        if not types or any(meet(t, inner.type) is None for t in types) or meet(last.type, result.type) is None:
            return False
    stacked = body.outputs[at.yielded + at.carried :]
    return all(isinstance(v.type, TensorType) and v.shape is not None for v in stacked)


def _given(node: Node, b: Builder, at: Layout, step: int, trips: int) -> list[Value]:
    """What a loop gives each iteration: its number, and the condition that let it run."""
    if node.name == "scan":
        return []
    inner = node.regions[0].inputs[0]
    return [b.const(np.asarray(step, inner.dtype.numpy)), b.const(np.asarray(True))]  # type: ignore[union-attr]


def _slices(node: Node, b: Builder, at: Layout, step: int) -> list[Value]:
    """What a scan gives each iteration: a slice of each scanned value."""
    if node.name == "loop":
        return []
    made = []
    count = node.attr("num_scan_inputs")
    axes = node.attr("scan_input_axes") or (0,) * count
    backwards = node.attr("scan_input_directions") or (0,) * count
    for x, axis, back in zip(node.operands[at.carried : at.captures], axes, backwards, strict=True):
        axis %= x.rank  # type: ignore[union-attr, operator]
        length = x.shape[axis]  # type: ignore[union-attr, index]
        if length == 1:
            made.append(b.squeeze(x, (axis,)))
        else:
            made.append(b.gather(x, np.asarray(length - 1 - step if back else step), axis=axis))
    return made


def _copied(node: Node, body: Graph, mapping: dict[Value, Value]) -> list[Value]:
    """A copy of the body in front of `node`; its outputs."""
    propagate(copy_nodes(body, node.graph, mapping, before=node))  # type: ignore[arg-type]
    return [mapping.get(v, v) for v in body.outputs]


def _stack(node: Node, b: Builder, number: int, rows: list[Value]) -> Value:
    """The rows along the new axis of stacked output `number`."""
    backwards = node.attr("scan_output_directions") if node.name == "scan" else ()
    axis = _axis_of(node, number, rows[0].rank + 1)  # type: ignore[operator]
    ordered = rows[::-1] if backwards and backwards[number] else rows
    parts = [b.unsqueeze(row, (axis,)) for row in ordered]
    return parts[0] if len(parts) == 1 else b.concat(*parts, axis=axis)


# What never changes, and what nobody needs.


def _keep_unchanged_outside(node: Node, ctx: Context) -> Node:
    """A carried value that every iteration passes on as it is becomes a capture; behind the loop it is what it was before."""
    at, body = layout(node), node.regions[0]
    still = []
    for i in range(at.carried):
        outer, inner = node.operands[at.outside + i], body.inputs[at.inside + i]
        same = body.outputs[at.yielded + i] is inner and outer is not None
        if same and meet(outer.type, node.results[i].type) is not None and meet(outer.type, inner.type) is not None:  # type: ignore[union-attr]
            still.append(i)
    if not still:
        return node
    ctx.stats["carried to capture"] += len(still)
    users: list[Node] = []
    for i in still:
        users += node.results[i].users
        node.results[i].replace_uses(node.operands[at.outside + i])  # type: ignore[arg-type]
    moved = [node.operands[at.outside + i] for i in still], [body.inputs[at.inside + i] for i in still]
    made = _without_carried(node, still, moved)
    propagate(user for user in users if user.name != "return" and user.graph is not None)
    for outer, inner in zip(*moved, strict=True):
        if inner.refine(meet(outer.type, inner.type), outer.elems):  # type: ignore[union-attr, arg-type]
            propagate(inner.users)
    infer_again(made)
    return made


def _without_carried(node: Node, gone: Sequence[int], captured: tuple[list, list]) -> Node:
    """The node without these carried values, which are captured instead where `captured` has values and inputs."""
    at, body = layout(node), node.regions[0]
    kept = [i for i in range(len(node.results)) if i not in gone]
    body.set_outputs([v for i, v in enumerate(body.outputs) if i - at.yielded not in gone])
    drop_dead(body)
    body.set_inputs([*(v for i, v in enumerate(body.inputs) if i - at.inside not in gone), *captured[1]])
    operands = [*(v for i, v in enumerate(node.operands) if i - at.outside not in gone), *captured[0]]
    return rebuild(node, operands, kept, {"carried": at.carried - len(gone)})


def drop_results_of_loop(node: Node, ctx: Context) -> Node:
    """The same node without stacked outputs that nobody uses, nor carried values that only feed themselves."""
    at, body = layout(node), node.regions[0]
    unused = [i for i, value in enumerate(node.results) if not value.n_uses]
    stacked = [i for i in unused if i >= at.carried]
    if stacked:
        ctx.stats["drop results"] += len(stacked)
        node = _without_stacked(node, stacked)
    maybe = [i for i in unused if i < at.carried]
    live = _live_inputs(node, maybe) if maybe else set()
    dead = [i for i in maybe if body.inputs[at.inside + i] not in live]
    if dead:
        ctx.stats["drop carried"] += len(dead)
        node = _without_carried(node, dead, ([], []))
    return node


def _live_inputs(node: Node, maybe: Sequence[int]) -> set[Value]:
    """What the body's outputs are computed from, those of carried values `maybe` counting only once their inputs do."""
    at, body = layout(node), node.regions[0]
    waiting = {body.inputs[at.inside + i]: body.outputs[at.yielded + i] for i in maybe}
    pending = [v for i, v in enumerate(body.outputs) if i - at.yielded not in maybe]
    seen = set(pending)
    while pending:
        value = pending.pop()
        more = list(value.node.inputs()) if value.node is not None else []
        if value in waiting:
            more.append(waiting[value])
        for other in more:
            if other not in seen:
                seen.add(other)
                pending.append(other)
    return seen


def _without_stacked(node: Node, gone: Sequence[int]) -> Node:
    at, body = layout(node), node.regions[0]
    kept = [i for i in range(len(node.results)) if i not in gone]
    attrs = {}
    for name in ("scan_output_axes", "scan_output_directions") if node.name == "scan" else ():
        if node.attr(name):
            attrs[name] = tuple(v for i, v in enumerate(node.attr(name)) if i + at.carried not in gone)
    body.set_outputs([v for i, v in enumerate(body.outputs) if i - at.yielded not in gone])
    return rebuild(node, node.operands, kept, attrs)


# What need not be computed each time.


def _hoist(node: Node, ctx: Context, surely_runs: bool) -> None:
    """Move out what depends on captures alone: all that is pure where there surely is a first iteration, since it would run
    then; else only what is free. What the body yields as it is stays: it would have to be copied there."""
    at, body = layout(node), node.regions[0]
    mapping: dict[Value, Value] = dict(zip(body.inputs[at.captures :], node.operands[at.captures :], strict=True))  # type: ignore[arg-type]
    fixed = set(mapping)
    moved = []
    yielded = set(body.outputs)
    for inner in body.nodes():
        plain = inner.has(PURE) and not inner.has(RANDOM) and not inner.regions
        if not plain or not (surely_runs or inner.name in FREE):
            continue
        if all(v.is_const or v in fixed for v in inner.inputs()) and not yielded.intersection(inner.results):
            fixed.update(inner.results)
            moved.append(inner)
    if not moved:
        return
    for inner in moved:
        copy_into(inner, node.graph, mapping, before=node)  # type: ignore[arg-type]
    values = [v for inner in moved for v in inner.results]
    (row,) = add_captures(node, [mapping[v] for v in values])
    for old, new in zip(values, row, strict=True):
        old.replace_uses(new)
    for inner in reversed(moved):
        inner.erase()
    ctx.stats["hoist from loop"] += len(moved)
