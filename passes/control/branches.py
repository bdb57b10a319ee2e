"""What the pass `regions` does to one `if`: choose a branch, share, hoist, merge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.clone import copy_into
from ...ir.graph import Graph, Node, Value
from ...ir.infer import propagate
from ...ir.opdef import PURE, RANDOM
from ...ir.types import Type, meet
from ..manager import Context
from .refute import cannot_follow
from .regions import add_captures, captures, drop_dead, infer_again, inline, rebuild, replace


def simplify_if(node: Node, merged: dict[Value, Node], ctx: Context) -> None:
    """`merged` holds, for each condition, the `if` of this graph that others of the same condition may join."""
    cond = node.operands[0]
    while cond is not None and cond.node is not None and cond.node.name == "not" and cond.rank == 0:
        cond = cond.node.operands[0]
        node.regions = node.regions[::-1]
        node.set_operand(0, cond)
        ctx.stats["swap branches"] += 1
    known = cond.ints() if cond is not None else None
    if known is not None and len(known) == 1:
        _choose(node, 0 if known[0] else 1, "inline constant if", ctx)
        return
    for number in (0, 1):
        if _ranks_differ(node) and cannot_follow(node, number) and not cannot_follow(node, 1 - number):
            _choose(node, 1 - number, "drop impossible branch", ctx)
            return
    _enter_condition(node, ctx)
    earlier = merged.get(cond)  # type: ignore[arg-type]
    if earlier is not None and earlier.graph is node.graph and _can_join(earlier, node):
        merged[cond] = _join(earlier, node)  # type: ignore[index]
        ctx.stats["merge ifs"] += 1
        return
    merged[cond] = node  # type: ignore[index]
    _hoist(node, ctx)
    _share_results(node, ctx)


def _choose(node: Node, number: int, name: str, ctx: Context) -> None:
    """The nodes of one branch in place of the `if`."""
    region = node.regions[number]
    made = [node.operands[1 + region.inputs.index(v)] if v.owner is region else v for v in region.outputs]
    if any(meet(old.type, new.type) is None for old, new in zip(node.results, made, strict=True)):  # type: ignore[union-attr]
        return
    outputs = inline(node, region, node.operands[1:], range(len(region.outputs)))  # type: ignore[arg-type]
    if outputs is not None:
        replace(node, outputs)
        ctx.stats[name] += 1


def _ranks_differ(node: Node) -> bool:
    """Some result has another rank in each branch: then nothing behind it is known, so a wrong branch hides a lot."""
    pairs = zip(*(region.outputs for region in node.regions), strict=True)
    return any(a.rank is not None and b.rank is not None and a.rank != b.rank for a, b in pairs)


def _enter_condition(node: Node, ctx: Context) -> None:
    """Inside the branches the condition itself is a constant."""
    cond = node.operands[0]
    if cond is None or cond.rank != 0:
        return
    for outer, row in captures(node):
        if outer is not cond or not any(inner.n_uses for inner in row):
            continue
        for inner, truth in zip(row, (True, False), strict=True):
            users = inner.users
            inner.replace_uses(node.graph.module.literal(np.asarray(truth)))  # type: ignore[union-attr]
            propagate(users)
        ctx.stats["know condition in branches"] += 1
        infer_again(node)


# Results and nodes that both branches have.


def _share_results(node: Node, ctx: Context) -> None:
    """A result that is the same constant, or the same captured value, whatever the condition says."""
    inputs = [dict(zip(r.inputs, node.operands[1:], strict=True)) for r in node.regions]
    for result, *pair in zip(node.results, *(region.outputs for region in node.regions), strict=True):
        a, b = (inside.get(v, v) for inside, v in zip(inputs, pair, strict=True))
        if a is None or not result.n_uses or meet(result.type, a.type) is None:
            continue
        outside = a.is_const or a is not pair[0]
        if outside and (a is b or (a.is_const and b is not None and b.is_const and _same_literal(a, b))):
            users = result.users
            result.replace_uses(a)
            propagate(user for user in users if user.name != "return")
            ctx.stats["share result of branches"] += 1
    first: dict[tuple[Value | None, ...], Value] = {}
    for result, *pair in zip(node.results, *(region.outputs for region in node.regions), strict=True):
        other = first.setdefault(tuple(pair), result)
        if other is not result and result.n_uses and result.type is other.type:
            result.replace_uses(other)
            ctx.stats["share result of branches"] += 1


def _same_literal(a: Value, b: Value) -> bool:
    """Two unnamed constants of equal contents."""
    both = a.weight, b.weight
    if a.type is not b.type or any(w.role != "const" for w in both):  # type: ignore[union-attr]
        return False
    return a.weight.tensor.digest() == b.weight.tensor.digest()  # type: ignore[union-attr]


def _hoist(node: Node, ctx: Context) -> None:
    """Equal nodes of both branches that need nothing computed inside move out: one of two. Both would run in any case, so
    nothing is computed that was not before. What a branch yields as its own result stays: it would have to copy it."""
    pairs = _common(node)
    if not pairs:
        return
    inside = [dict(zip(r.inputs, node.operands[1:], strict=True)) for r in node.regions]
    mapping: dict[Value, Value] = {inner: outer for inner, outer in inside[0].items() if outer is not None}
    for first, _ in pairs:
        copy_into(first, node.graph, mapping, before=node)  # type: ignore[arg-type]
    made = [mapping[v] for first, _ in pairs for v in first.results]
    rows = add_captures(node, made)
    for number, row in enumerate(rows):
        olds = [v for pair in pairs for v in pair[number].results]
        for old, new in zip(olds, row, strict=True):
            old.replace_uses(new)
        for pair in reversed(pairs):
            pair[number].erase()
    ctx.stats["hoist from branches"] += len(pairs)


def _common(node: Node) -> list[tuple[Node, Node]]:
    """Pairs of equal nodes, one of each branch, that can move out together."""
    then, other = node.regions
    place: dict[Value, object] = {}
    for region in node.regions:
        place.update(zip(region.inputs, node.operands[1:], strict=True))
    known: dict[tuple, Node] = {}
    for mine in then.nodes():
        if _may_move(mine, place):
            known.setdefault(_key(mine, place), mine)
            place.update((v, v) for v in mine.results)
    pairs: list[tuple[Node, Node]] = []
    taken: set[Node] = set()
    for theirs in other.nodes():
        mine = known.get(_key(theirs, place)) if _may_move(theirs, place) else None  # type: ignore[assignment]
        if mine is None or mine in taken or any(_is_inside(v, then, taken) for v in mine.inputs()):
            continue
        types_agree = all(a.type is b.type for a, b in zip(mine.results, theirs.results, strict=True))
        if types_agree and not _yielded_apart(mine, theirs, then, other):
            pairs.append((mine, theirs))
            taken.add(mine)
            place.update(zip(theirs.results, mine.results, strict=True))
    return sorted(pairs, key=lambda pair: pair[0].order)


def _may_move(node: Node, place: dict[Value, object]) -> bool:
    plain = node.has(PURE) and not node.has(RANDOM) and not node.regions
    return plain and all(v.is_const or v in place for v in node.inputs())


def _is_inside(value: Value, region: Graph, taken: set[Node]) -> bool:
    return value.node is not None and value.node.graph is region and value.node not in taken


def _key(node: Node, place: dict[Value, object]) -> tuple:
    return (node.op.name, node.attrs.key, *(None if v is None else place.get(v, v) for v in node.operands))


def _yielded_apart(mine: Node, theirs: Node, then: Graph, other: Graph) -> bool:
    """One of the branches yields a result of the pair where the other branch yields something else."""
    for a, b in zip(mine.results, theirs.results, strict=True):
        if any((x is a) != (y is b) for x, y in zip(then.outputs, other.outputs, strict=True)):
            return True
    return False


# One `if` for two.


def _can_join(earlier: Node, node: Node) -> bool:
    """All that `node` captures is there before `earlier`, or is a result of it."""
    for value in node.operands[1:]:
        made = value.node if value is not None else None
        if made is not None and made is not earlier and not made.before(earlier):
            return False
    return True


def _join(earlier: Node, node: Node) -> Node:
    """One `if` with the results of both, in place of the earlier one."""
    kept = [v for v in node.operands[1:] if v is not None and v.node is not earlier]
    rows = add_captures(earlier, kept)
    for region, more, row in zip(earlier.regions, node.regions, rows, strict=True):
        inside = dict(zip(kept, row, strict=True))
        inside.update(zip(earlier.results, region.outputs, strict=True))
        outputs = list(more.outputs)
        users = [user for inner in more.inputs for user in inner.users]
        for inner, outer in zip(more.inputs, node.operands[1:], strict=True):
            outputs = [inside[outer] if v is inner else v for v in outputs]  # type: ignore[index]
            inner.replace_uses(inside[outer])  # type: ignore[index]
        more.set_outputs(())
        region.absorb(more, before=region.return_node)
        propagate(user for user in users if user.graph is region and user is not region.return_node)
        region.set_outputs((*region.outputs, *outputs))
    made = _with_results(earlier, [v.type for v in node.results])
    for old, new in zip(node.results, made.results[len(made.results) - len(node.results) :], strict=True):
        old.replace_uses(new)
    node.erase()
    return made


def _with_results(node: Node, types: Sequence[Type]) -> Node:
    """`node` with further results of these types behind its own."""
    made = rebuild(node, node.operands, range(len(node.results)), more=types)
    infer_again(made)
    return made


def drop_results_of_if(node: Node, ctx: Context) -> Node:
    """The same node without the results that nobody uses."""
    kept = [i for i, value in enumerate(node.results) if value.n_uses]
    if len(kept) == len(node.results):
        return node
    ctx.stats["drop results"] += len(node.results) - len(kept)
    for region in node.regions:
        region.set_outputs([region.outputs[i] for i in kept])
        drop_dead(region)
    return rebuild(node, node.operands, kept)
