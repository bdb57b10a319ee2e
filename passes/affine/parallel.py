"""Products that read the same value become one product with their weights side by side, and a split.

Not part of -O2: it saves nodes, but a runtime then copies what it splits (measured with onnxruntime on attention layers of 128
to 768 channels and 8 to 256 rows: from 13 % faster to 14 % slower; on nine whole models, most of them transformers: from 2 %
faster to 9 % slower, 3 % slower in the mean). For targets that pay per launch it is there by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Value
from ...ir.loc import Loc
from ...ir.opdef import ELEMENTWISE
from ...ir.tensor import LazyTensor
from ..manager import Context, graph_pass
from ..rewrite import erase_dead

PRODUCTS = ("matmul", "gemm", "conv", "matmul_integer", "conv_integer")
#: Elementwise steps behind a product that are merged with it.
STEPS = 4
#: Products of one value that are looked at.
BRANCHES = 64


@dataclass
class Branch:
    """A product, its weight [the axis that its channels are along], and the elementwise steps behind it."""

    product: Node
    channels: int
    steps: list[Node] = field(default_factory=list)

    @property
    def value(self) -> Value:
        return (self.steps[-1] if self.steps else self.product).result


@graph_pass("merge-parallel", numerics="ulp")
def merge_parallel(graph: Graph, ctx: Context) -> None:
    """Given products of one value with constant weights, elementwise steps behind them included; where that leaves fewer
    nodes: one product, the steps once, and a split.

    Given:
        %q = matmul(%x, %wq)
        %k = matmul(%x, %wk)
        %v = matmul(%x, %wv)
    Result:
        %p = matmul(%x, %w)
        %q, %k, %v = split(%p) {axis = -1}
    """
    for node in graph.nodes(*PRODUCTS):
        for group in _groups(node):
            _extend(group)
            if _pays(group):
                _merge(graph, group)
                ctx.stats["merge_products"] += 1


def _groups(first: Node) -> list[list[Branch]]:
    """The products alike that read the same value, where `first` is the first of them."""
    x = first.operands[0]
    if x is None or x.weight is not None or x.n_uses < 2 or x.n_uses > BRANCHES:
        return []
    alike = [n for n in x.users if n.name == first.name and n.operands[0] is x and _alike(first, n)]
    if len(alike) < 2 or min(alike, key=lambda n: n.order) is not first:
        return []
    ordered = sorted(alike, key=lambda n: n.order)
    return [[Branch(n, n.operands[1].shape[_out_axis(n)]) for n in ordered]]  # type: ignore[union-attr, index, arg-type]


def _alike(first: Node, other: Node) -> bool:
    """The same product but for the weights, which are constants that nobody else uses."""
    w = other.operands[1]
    if w is None or w.weight is None or w.n_uses != 1 or w.rank != first.operands[1].rank:  # type: ignore[union-attr]
        return False
    if other.attrs is not first.attrs or w.dtype is not first.operands[1].dtype:  # type: ignore[union-attr]
        return False
    if other.name in ("matmul", "matmul_integer") and (w.rank != 2 or (other.operands[0].rank or 0) < 2):  # type: ignore
        return False
    if other.name in ("conv", "conv_integer") and (other.attr("groups") != 1 or other.attrs.get("channels_last")):
        return False
    if w.shape[2:] != first.operands[1].shape[2:] or other.result.rank is None:  # type: ignore[union-attr, index]
        return False
    return _rest_alike(first, other)


def _rest_alike(first: Node, other: Node) -> bool:
    """Bias vectors are absent or there in both; zero points are the same numbers."""
    if len(first.operands) != len(other.operands):
        return False
    for index in range(2, len(first.operands)):
        a, b = first.operands[index], other.operands[index]
        if first.name in ("matmul_integer", "conv_integer"):
            same = a is b or (a is not None and b is not None and a.scalar() is not None and a.scalar() == b.scalar())
            if not same or (a is not None and b is not None and a.dtype is not b.dtype):
                return False
        elif (a is None) != (b is None) or (b is not None and not _is_vector(b, other)):
            return False
    return True


def _is_vector(bias: Value, node: Node) -> bool:
    """A constant with one entry per channel."""
    return bias.weight is not None and bias.shape == (node.operands[1].shape[_out_axis(node)],)  # type: ignore


def _out_axis(node: Node) -> int:
    """The axis of the weight that becomes the channels of the result."""
    return 0 if node.name in ("conv", "conv_integer") or node.attrs.get("transB") else 1


def _channel_axis(node: Node) -> int:
    """The axis of the result that the channels are along."""
    return 1 if node.name in ("conv", "conv_integer") else node.result.rank - 1  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------ what stands behind


def _extend(group: Sequence[Branch]) -> None:
    """Take the steps that all branches have in common."""
    axis, rank = _channel_axis(group[0].product), group[0].value.rank
    for _ in range(STEPS):
        users = [branch.value.single_user() for branch in group]
        if any(u is None or b.value.n_uses != 1 for u, b in zip(users, group, strict=True)):
            return
        steps = [u for u in users if u is not None and u.has(ELEMENTWISE) and not u.regions]
        if len(steps) != len(group) or len(set(steps)) != len(steps) or not _same_step(group, steps, axis, rank):
            return
        for branch, step in zip(group, steps, strict=True):
            branch.steps.append(step)


def _same_step(group: Sequence[Branch], steps: Sequence[Node], axis: int, rank: int | None) -> bool:
    first = steps[0]
    for branch, step in zip(group, steps, strict=True):
        if step.name != first.name or step.attrs is not first.attrs or len(step.operands) != len(first.operands):
            return False
        if step.operands[0] is not branch.value or step.result.rank != rank or len(step.results) != 1:
            return False
        if step.result.shape != branch.value.shape or len(step.operands) > 2:
            return False
    return len(first.operands) == 1 or _same_other(group, steps, axis)


def _same_other(group: Sequence[Branch], steps: Sequence[Node], axis: int) -> bool:
    """The second operands: constants per channel, products of one value with such constants, or one single number."""
    others = [step.operands[1] for step in steps]
    if any(o is None for o in others):
        return False
    if all(_per_channel(o, b, axis) for o, b in zip(others, group, strict=True)):  # type: ignore[arg-type]
        return True
    if _scaled_number(others, group) is not None:  # type: ignore[arg-type]
        return True
    return all(o is others[0] for o in others) and others[0].rank == 0 and _early(others[0], group)  # type: ignore


def _per_channel(value: Value, branch: Branch, axis: int) -> bool:
    """A constant that varies along the channels only."""
    if value.weight is None or value.shape is None:
        return False
    rank = branch.value.rank
    shape = (1,) * (rank - len(value.shape)) + tuple(value.shape)  # type: ignore[operator]
    return all(d == 1 or (i == axis and d == branch.channels) for i, d in enumerate(shape))


def _scaled_number(others: Sequence[Value], group: Sequence[Branch]) -> Value | None:
    """The number s of which all second operands are products mul(s, c) with constants."""
    made = [o.node for o in others]
    if any(n is None or n.name != "mul" or n.result.rank != 0 or n.result.n_uses != 1 for n in made):
        return None
    number = made[0].operands[0]  # type: ignore[union-attr]
    fits = all(n.operands[0] is number and n.operands[1].weight is not None for n in made)  # type: ignore[union-attr]
    return number if fits and number.weight is None and _early(number, group) else None  # type: ignore[union-attr]


def _early(value: Value, group: Sequence[Branch]) -> bool:
    """Defined before the first product."""
    return value.weight is not None or value.node is None or value.node.before(group[0].product)


def _pays(group: Sequence[Branch]) -> bool:
    """One product, its steps and a split are fewer nodes than all the products and steps."""
    length = 1 + len(group[0].steps)
    return len(group) * length > length + 1


# ------------------------------------------------------------------------------------------------ the merged product


def _merge(graph: Graph, group: Sequence[Branch]) -> None:
    first = group[0].product
    axis = _channel_axis(first)
    loc = Loc.fuse([b.product.loc for b in group], "merge_products")
    b = Builder(graph, before=first, loc=loc)
    operands = list(first.operands)
    operands[1] = joined(b, [branch.product.operands[1] for branch in group], _out_axis(first))
    if first.name in ("conv", "gemm") and len(operands) > 2 and operands[2] is not None:
        operands[2] = joined(b, [branch.product.operands[2] for branch in group], 0)
    value = b.call(first.name, operands, dict(first.attrs)).result
    for index, step in enumerate(group[0].steps):
        steps = [branch.steps[index] for branch in group]
        rest = [] if len(step.operands) == 1 else [_other(b, group, steps, axis)]
        value = b.call(step.name, (value, *rest), dict(step.attrs)).result
    sizes = tuple(branch.channels for branch in group)
    parts = b.call("split", (value, sizes), {"axis": axis}).results
    for branch, part in zip(group, parts, strict=True):
        branch.value.replace_uses(part)
    erase_dead([branch.steps[-1] if branch.steps else branch.product for branch in group])


def joined(b: Builder, values: Sequence[Value | None], axis: int) -> Value:
    """The constants side by side, put together when they are written."""
    weights = [v.weight for v in values if v is not None]
    tensor = LazyTensor("concat", tuple(w.tensor for w in weights), {"axis": axis})  # type: ignore[union-attr]
    key = "+".join(w.wanted for w in weights)  # type: ignore[union-attr]
    origin = f"{', '.join(w.key for w in weights)} side by side"  # type: ignore[union-attr]
    return b.const(tensor, key=key, role=weights[0].role, origin=origin)  # type: ignore[union-attr]


def _other(b: Builder, group: Sequence[Branch], steps: Sequence[Node], axis: int) -> Value:
    """The second operand of a merged step."""
    others = [step.operands[1] for step in steps]
    if all(o is others[0] for o in others) and others[0].rank == 0:  # type: ignore[union-attr]
        return others[0]  # type: ignore[return-value]
    number = _scaled_number(others, group)  # type: ignore[arg-type]
    if number is not None:
        factors = [o.node.operands[1] for o in others]  # type: ignore[union-attr]
        return b.mul(number, _vector(b, factors, group, axis))
    return _vector(b, others, group, axis)


def _vector(b: Builder, values: Sequence[Value | None], group: Sequence[Branch], axis: int) -> Value:
    """Constants per channel, one after the other, shaped to stand beside the merged product."""
    pairs = zip(values, group, strict=True)
    rows = [np.broadcast_to(v.array().reshape(-1), (branch.channels,)) for v, branch in pairs]  # type: ignore[union-attr]
    column = np.concatenate(rows).reshape(-1, *[1] * (group[0].value.rank - 1 - axis))  # type: ignore[operator]
    return stored_as(b, column, values)  # type: ignore[arg-type]


def stored_as(b: Builder, array: np.ndarray, sources: Sequence[Value]) -> Value:
    """A constant made of others: what they were to the user, under their names if they had some."""
    weights = [v.weight for v in sources]
    dtype = sources[0].dtype
    if all(w.role == "const" for w in weights):  # type: ignore[union-attr]
        return b.const(array, dtype)
    key = "+".join(w.wanted for w in weights)  # type: ignore[union-attr]
    origin = f"{', '.join(w.key for w in weights)} side by side"  # type: ignore[union-attr]
    return b.const(array, dtype, key=key, role=weights[0].role, origin=origin)  # type: ignore[union-attr]
