"""Rules of `move-data` on parts that are all treated alike: what is done to every part of a split or concat is done once to
the whole. Exact; each rule leaves fewer nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.graph import Node, Value
from ...ir.opdef import ELEMENTWISE, PURE
from ..rewrite import StagingBuilder, rule
from ..simplify.reshapes import REGROUPS, regrouping
from .axes import cuts_of, equal_shapes, grouped, moves_to, partner, reshaped, sliced

#: So many elementwise ops may stand between a split and what all its results go through.
BETWEEN = 3
#: Runtimes compute these for nothing behind a convolution or product: there they stay.
EPILOGUES = ("relu", "relu6", "clip", "sigmoid", "tanh", "leaky_relu", "hard_sigmoid")
PRODUCTS = ("conv", "conv_transpose", "gemm", "matmul")


def _maps_one(node: Node, value: Value) -> bool:
    """An elementwise op of `value` alone: its other operands are scalar constants."""
    if not (node.has(ELEMENTWISE) and node.has(PURE)) or len(node.results) != 1 or node.regions:
        return False
    if sum(v is value for v in node.operands) != 1 or not equal_shapes(node.result.shape, value.shape):
        return False
    return all(v is value or v is None or (v.is_const and v.rank == 0) for v in node.operands)


def _same_call(a: Node, b: Node, first: Value, second: Value) -> bool:
    """Both do the same to their values."""
    if a.op is not b.op or a.attrs != b.attrs or len(a.operands) != len(b.operands):
        return False
    return all(x is y or (x is first and y is second) for x, y in zip(a.operands, b.operands, strict=True))


def _again(b: StagingBuilder, node: Node, old: Value, new: Value) -> Value:
    return b.call(node.name, [new if v is old else v for v in node.operands], dict(node.attrs)).result


# ------------------------------------------------------------------------------------------------ concat


@rule("concat")
def concat_of_alike(b: StagingBuilder, node: Node):
    """concat(f(x), f(y)) -> f(concat(x, y)) for elementwise f and for transposes"""
    made = [v.node for v in node.operands]
    if len(set(node.operands)) < 2 or len(set(node.operands)) < len(made) or any(v.n_uses != 1 for v in node.operands):
        return None
    first = made[0]
    if first is None or any(n is None or n.op is not first.op for n in made) or node.result.rank is None:
        return None
    axis = node.attr("axis") % node.result.rank
    if first.name == "transpose":
        if any(n.attrs != first.attrs for n in made):
            return b.decline("they are transposed in different ways")
        joined = b.concat(*[n.operands[0] for n in made], axis=first.attr("perm")[axis])
        return b.transpose(joined, perm=first.attr("perm"))
    sources = [_only_data(n) for n in made]
    if any(s is None for s in sources) or not all(
        _same_call(first, n, sources[0], s) for n, s in zip(made, sources, strict=True)
    ):
        return None
    if len({s.dtype for s in sources}) > 1:
        return b.decline("their operands have different types")
    if first.name in EPILOGUES and all(s.node is not None and s.node.name in PRODUCTS for s in sources):
        return b.decline("behind products they cost nothing")
    return _again(b, first, sources[0], b.concat(*sources, axis=axis))


def _only_data(node: Node) -> Value | None:
    """The one operand that an elementwise node maps."""
    data = [v for v in node.operands if v is not None and not v.is_const]
    return data[0] if len(data) == 1 and _maps_one(node, data[0]) else None


# ------------------------------------------------------------------------------------------------ split


@rule("split")
def split_of_alike(b: StagingBuilder, node: Node):
    """split whose results all go through one elementwise op, slice, transpose or reshape -> that op, then split"""
    x = node.operands[0]
    if len(node.results) < 2 or x.shape is None or any(v.n_uses != 1 for v in node.results):
        return None
    axis = node.attr("axis") % len(x.shape)
    return _mapped(b, node, x) or _cut(b, node, x, axis) or _moved(b, node, x, axis)


def _mapped(b: StagingBuilder, node: Node, x: Value):
    users = [v.single_user() for v in node.results]
    first, head = users[0], node.results[0]
    if first is None or first.next is None or not _maps_one(first, head):
        return None
    if not all(u is not None and _same_call(first, u, head, v) for u, v in zip(users, node.results, strict=True)):
        return None
    parts = _split_again(b, node, _again(b, first, head, x), node.attr("axis"))
    return b.instead({u.result: p for u, p in zip(users, parts, strict=True)}, [*users, node])  # type: ignore[union-attr, list-item]


def _cut(b: StagingBuilder, node: Node, x: Value, axis: int):
    users = [v.single_user() for v in node.results]
    if any(u is None or u.name != "slice" or u.operands[0] is not v for u, v in zip(users, node.results, strict=True)):
        return None
    cuts = [cuts_of(u) for u in users]  # type: ignore[arg-type]
    if cuts[0] is None or axis in cuts[0] or any(c != cuts[0] for c in cuts):
        return b.decline("they are cut in different ways, or along the axis of the split")
    parts = _split_again(b, node, sliced(b, x, cuts[0]), axis)
    return b.instead({u.result: p for u, p in zip(users, parts, strict=True)}, [*users, node])  # type: ignore[union-attr, list-item]


def _split_again(b: StagingBuilder, node: Node, x: Value, axis: int) -> Sequence[Value]:
    return b.call("split", (x, *node.operands[1:]), {**node.attrs, "axis": axis}).results


def _moved(b: StagingBuilder, node: Node, x: Value, axis: int):
    chains = [_chain(v) for v in node.results]
    if any(c is None for c in chains):
        return None
    ends: list[Node] = [c[-1] for c in chains]  # type: ignore[index]
    if all(e.name == "transpose" for e in ends):
        perm = ends[0].attr("perm")
        if any(e.attr("perm") != perm for e in ends):
            return b.decline("they are transposed in different ways")
        whole, new = b.transpose(x, perm=perm), perm.index(axis)
    else:
        found = _common_shape(node, ends, axis)
        if found is None or any(e.name == "transpose" for e in ends):
            return b.decline("they are reshaped in different ways")
        shape, new = found
        whole = reshaped(b, x, shape)
    made = {}
    for part, chain in zip(_split_again(b, node, whole, new), chains, strict=True):
        value = part
        for step in chain[:-1]:  # type: ignore[index]
            value = b.call(step.name, [value if _is_data(v) else v for v in step.operands], dict(step.attrs)).result
        made[chain[-1].result] = value  # type: ignore[index]
    return b.instead(made, [n for chain in chains for n in reversed(chain)] + [node])  # type: ignore[union-attr]


def _is_data(value: Value | None) -> bool:
    return value is not None and not value.is_const


def _chain(value: Value) -> list[Node] | None:
    """The nodes from a result of a split to a transpose or reshape: elementwise ones, each the only user of the last."""
    found: list[Node] = []
    while len(found) <= BETWEEN:
        user = value.single_user()
        if user is None or user.next is None or value.n_uses != 1:
            return None
        found.append(user)
        if user.name == "transpose" or (user.name in REGROUPS and moves_to(user.results[0]) is value):
            return found
        if not _maps_one(user, value):
            return None
        value = user.result
    return None


def _common_shape(node: Node, ends: Sequence[Node], axis: int):
    """The shape of the whole in which the split cuts what the reshapes make, and the axis along which."""
    x, shape, new = node.operands[0], None, None
    for value, end in zip(node.results, ends, strict=True):
        groups = grouped(value.shape or (), end.results[0].shape or ())
        place = None if groups is None else partner(groups, axis)
        if place is None:
            return None
        whole = [x.shape[axis] if i == place else d for i, d in enumerate(end.results[0].shape)]
        if shape is not None and (place != new or not equal_shapes(shape, whole)):
            return None
        shape, new = whole, place
    return None if shape is None or regrouping(x.shape, shape) is None else (shape, new)


RULES = (concat_of_alike, split_of_alike)
