"""Rules of `move-data` on layers that work row by row: rows are picked, or change places, in front of the layers, not behind."""

from __future__ import annotations

from collections.abc import Iterable

from ...ir.dims import dim_eq
from ...ir.graph import Node, Value
from ...ir.opdef import ELEMENTWISE, PURE
from ..rewrite import StagingBuilder, rule
from .axes import moves_to
from .products import meeting

#: Nodes that a pick may pass at once.
REACH = 32


@rule("gather", "slice", numerics="ulp")
def pick_rows_early(b: StagingBuilder, node: Node):
    """gather(add(h, matmul(relu(matmul(h, v)), w)), 0) -> the same on gather(h, 0), where a product gets fewer rows by it"""
    axis = _axis(node)
    if axis is None:
        return None
    passed, source = _passed(node, axis)
    if source is None or not any(n.name == "matmul" for n in passed):
        return None
    drops = node.name == "gather"
    made = {source: b.call(node.name, (source, *node.operands[1:]), dict(node.attrs)).result}
    for old in reversed(passed):
        operands = [made.get(v, v) for v in old.operands]  # type: ignore[arg-type]
        made[old.result] = b.call(old.name, operands, _attributes(old, axis) if drops else dict(old.attrs)).result
    return made[node.operands[0]]  # type: ignore[index]


def _axis(node: Node) -> int | None:
    """The axis along which a gather picks one row, or a slice several."""
    x, axes = node.operands[0], node.operand("axes") if node.name == "slice" else None
    if x is None or x.rank is None or x.weight is not None:
        return None
    if node.name == "gather":
        one = node.operands[1].rank == 0 and x.rank > 2  # type: ignore[union-attr]
        return node.attr("axis") % x.rank if one else None
    along = axes.ints() if axes is not None else None
    return along[0] % x.rank if along is not None and len(along) == 1 else None


def _passed(node: Node, axis: int) -> tuple[list[Node], Value | None]:
    """The nodes that `node` can pass, last first, and the one value that they compute on."""
    reached: list[Node] = []
    best: tuple[list[Node], Value | None] = ([], None)
    waiting: dict[Value, None] = dict.fromkeys(node.operands[:1])  # type: ignore[arg-type]
    inside = {node}
    while len(reached) < REACH:
        if len(waiting) == 1:
            best = list(reached), next(iter(waiting))
        last = max((v.node for v in waiting if v.node is not None), key=lambda n: n.order, default=None)
        if last is None or not _by_rows(last, axis) or not last.result.used_only_by(inside):
            return best
        inside.add(last)
        reached.append(last)
        del waiting[last.result]
        waiting.update(dict.fromkeys(_data(last)))
    return best


def _data(node: Node) -> Iterable[Value]:
    return (v for v in node.operands if v is not None and not v.is_const)


def _by_rows(node: Node, axis: int) -> bool:
    """Each row of the result is computed from that row of the data, and from constants that are the same for all rows."""
    rank = node.results[0].rank
    if rank is None or len(node.results) > 1 or not node.has(PURE):
        return False
    if node.name == "matmul":
        x, w = node.operands
        return w.is_const and w.rank == 2 and axis < rank - 1 and _same_rows(x, node, axis)  # type: ignore[union-attr, arg-type]
    if node.name in ("layer_norm", "rms_norm"):
        if node.attr("axis") % rank <= axis:
            return False
    elif not node.has(ELEMENTWISE):
        return False
    return all(
        v is None or (v.rank is not None and v.rank < rank - axis if v.is_const else _same_rows(v, node, axis))
        for v in node.operands
    )


def _same_rows(value: Value, node: Node, axis: int) -> bool:
    return value.rank == node.result.rank and dim_eq(value.shape[axis], node.result.shape[axis]) is True  # type: ignore[index]


def _attributes(node: Node, axis: int) -> dict:
    """Without the axis: a norm's first axis is one nearer."""
    attrs = dict(node.attrs)
    if attrs.get("axis", -1) > axis:
        attrs["axis"] -= 1
    return attrs


@rule("transpose", numerics="ulp")
def turn_rows_early(b: StagingBuilder, node: Node):
    """transpose(add(matmul(reshape(transpose(x)), w), c)) that moves whole rows -> in front of the layers, where it meets the
    other"""
    perm, rank = node.attr("perm"), node.result.rank
    steps: list[Node] = []
    value = node.operands[0]
    while value is not None and value.n_uses == 1 and value.node is not None and len(steps) < REACH:
        data = list(_data(value.node))
        if len(data) != 1 or not _by_rows(value.node, rank - 2):
            break
        steps.append(value.node)
        value = data[0]
    above = moves_to(value) if steps and value.n_uses == 1 else None
    turn = above.node if above is not None and above.n_uses == 1 else None
    if turn is None or turn.name != "transpose" or perm[-1] != rank - 1:
        return None
    if meeting(value, perm) is None:
        return b.decline("the other transpose tears apart what the reshape groups")
    made = {value: b.transpose(value, perm=perm)}
    for step in reversed(steps):
        operands = [made.get(v, v) for v in step.operands]  # type: ignore[arg-type]
        made[step.result] = b.call(step.name, operands, dict(step.attrs)).result
    return made[node.operands[0]]  # type: ignore[index]


RULES = (pick_rows_early, turn_rows_early)
