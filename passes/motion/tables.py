"""Rules of `move-data` on tables: products with flags are lookups, what follows a lookup goes into the table or to its indices.

    %y = matmul(cast(equal(%i, [0, 1, 2])), %w)    : y = gather(w, i), a row of zeros behind w for what no flag stands for
    %z = gelu(add(%y, %c))                         : z = gather(gelu(w + c), i)

Exact: a sum of one number and zeros is that number, and f of a row is computed from the row alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ...ir.graph import Node, Value
from ...ir.opdef import ELEMENTWISE, PURE
from ...ir.storage import limit
from ...ir.types import I32, I64, INDEX, STRING, U64
from ..optimize.common import is_float, is_integer, producer, same_shape, same_type, small_const
from ..optimize.fold import GROWTH, KEEP
from ..optimize.reach import reach_of
from ..rewrite import StagingBuilder, rule
from .axes import relaid, reshaped

#: Ops that may follow a lookup and go into its table at once.
STEPS = 32


class Flags(NamedTuple):
    """Zeros but for a 1 along the last axis, of this length, at the place that each element of `x` names; negative ones
    count from the end where it `wraps`. Other numbers have no 1."""

    x: Value
    length: int
    wraps: bool


def _flags(value: Value) -> Flags | None:
    """What `value` flags, if a product alone reads it."""
    cast = producer(value, "cast")
    inner = value if cast is None else cast.operands[0]
    node = producer(inner, "equal", "one_hot")
    if node is None or value.n_uses != 1 or inner.n_uses != 1:  # type: ignore[union-attr]
        return None
    return _compared(node) if node.name == "equal" else _counted(node)


def _compared(node: Node) -> Flags | None:
    """equal(x, [0, 1, 2])"""
    x, places = node.operands
    if not is_integer(x) or x.dtype is U64 or not x.shape or x.shape[-1] != 1:  # type: ignore[arg-type, union-attr]
        return None
    if not small_const(places) or not places.shape or places.type.numel != places.shape[-1]:  # type: ignore
        return None
    numbers = places.array().reshape(-1)  # type: ignore[union-attr]
    return Flags(x, numbers.size, False) if np.array_equal(numbers, np.arange(numbers.size)) else None  # type: ignore


def _counted(node: Node) -> Flags | None:
    """one_hot(x, 3, [0, 1])"""
    x, depth, values = node.operands
    count = depth.ints()  # type: ignore[union-attr]
    last = x.rank is not None and node.attr("axis") % (x.rank + 1) == x.rank  # type: ignore[union-attr]
    if not count or not last or x.dtype not in INDEX or not small_const(values):  # type: ignore[union-attr]
        return None
    return Flags(x, count[0], True) if values.array().tolist() == [0, 1] else None  # type: ignore[arg-type, union-attr]


@rule("matmul", "gemm")
def product_of_flags(b: StagingBuilder, node: Node):
    """matmul(cast(equal(x, [0, 1, 2])), w), matmul(one_hot(x, 3, [0, 1]), w) -> gather(w, x)"""
    flags, w = _flags(node.operands[0]), node.operands[1]  # type: ignore[arg-type]
    if flags is None or not flags.length or w.weight is None or w.rank > 2 or _scales(node):  # type: ignore[operator, union-attr]
        return None
    low, high = reach_of(flags.x)
    if flags.wraps and low < 0 and not (-flags.length <= low and high < flags.length):
        return b.decline("an index may count from the end")
    others = high >= flags.length or (low < 0 and not flags.wraps)
    table = _rows(b, w, bool(node.attrs.get("transB")), others)  # type: ignore[arg-type]
    x = reshaped(b, flags.x, node.operands[0].shape[:-1])  # type: ignore[union-attr, index]
    if table is None or x is None:
        return b.decline("the rows are not finite, are needed as they are, or one more would lengthen the file")
    made = b.gather(table, _clipped(b, x, low < -1 and others, flags.length if high > flags.length else None))
    if len(node.operands) > 2 and node.operands[2] is not None:
        made = b.add(made, node.operands[2])
    return made if same_type(made, node.result) else None


def _scales(node: Node) -> bool:
    """A gemm that turns its flags, or multiplies by numbers."""
    return node.attrs.get("transA", False) or any(node.attrs.get(name, 1.0) != 1.0 for name in ("alpha", "beta"))


def _rows(b: StagingBuilder, w: Value, turned: bool, others: bool) -> Value | None:
    """The rows of a matrix as sums beside zeros give them, that is without -0.0; `others` asks for a row of zeros behind."""
    weight = w.weight
    assert weight is not None
    if weight.nbytes > limit("fold_bytes") or not (is_integer(w) or (is_float(w) and w.dtype.bits >= 16)):  # type: ignore
        return None
    old = w.array()
    if is_float(w) and not np.isfinite(old).all():
        return None
    table = (old.T if turned else old) + old.dtype.type(0)
    if others:
        table = np.concatenate([table, np.zeros_like(table[:1])])
    elif np.array_equal(table, old) and not np.any(np.signbit(old[old == 0])):
        return w
    growth = table.nbytes - old.nbytes
    if w.n_uses != 1 or growth > max(limit("fold_spare"), old.nbytes // GROWTH):
        return None
    if weight.role == "const":
        return b.const(table)
    return b.const(table, key=weight.wanted, role=weight.role, origin=f"rows of {weight.origin or weight.wanted}")


def _clipped(b: StagingBuilder, x: Value, below: bool, end: int | None) -> Value:
    """`x` as an index: what is `below` zero becomes -1, what lies behind `end` becomes `end`; both name the last row."""
    if x.dtype not in INDEX:
        x = b.cast(x, to=I32 if x.dtype.bits < 32 else I64)  # type: ignore[union-attr]
    low, high = (None if n is None else b.const(np.asarray(n, x.dtype.numpy)) for n in (-1 if below else None, end))  # type: ignore
    return x if low is None and high is None else b.clip(x, low, high)


# ------------------------------------------------------------------------------------------------ behind a lookup


@rule("gather")
def function_of_rows(b: StagingBuilder, node: Node):
    """f(gather(table, x), c) -> gather(f(table, c), x) for elementwise f, where c is the same for all rows"""
    table, x = node.operands
    if not small_const(table) or not table.rank or table.n_uses != 1 or x.is_const or node.attr("axis") % table.rank:  # type: ignore
        return None
    made, last = table, node
    for _ in range(STEPS):
        step = last.result.single_user()
        if step is None or not _by_rows(step, last.result, table):  # type: ignore[arg-type]
            break
        operands = [made if v is last.result else _beside(b, v, table.rank) for v in step.operands]  # type: ignore
        made, last = b.call(step.name, operands, dict(step.attrs)).result, step
    return None if last is node else b.instead({last.result: b.gather(made, x)}, [last])  # type: ignore[dict-item]


def _by_rows(step: Node, value: Value, table: Value) -> bool:
    """`step` computes each row of its result from that row of `value` and from constants that are the same for all rows, and
    its numbers take no more bytes."""
    if not step.has(ELEMENTWISE | PURE) or step.name in KEEP or not same_shape(step.result, value):
        return False
    dtype, rows = step.result.dtype, table.rank - 1  # type: ignore[operator]
    if dtype is None or dtype is STRING or dtype.bits > table.dtype.bits:  # type: ignore[union-attr]
        return False
    others = [v for v in step.operands if v is not None and v is not value]
    return all(small_const(v) and all(d == 1 for d in v.shape[: max(0, v.rank - rows)]) for v in others)  # type: ignore


def _beside(b: StagingBuilder, constant: Value | None, rank: int) -> Value | None:
    """A constant without the leading axes that a table of this rank has not."""
    if constant is None or constant.rank <= rank:  # type: ignore[operator]
        return constant
    return relaid(b, constant, constant.shape[-rank:])  # type: ignore[index, arg-type]


@rule("transpose")
def transpose_of_rows(b: StagingBuilder, node: Node):
    """transpose(gather(table, x)) that leaves the rows whole -> gather(table, transpose(x))"""
    lookup, perm = producer(node.operands[0], "gather"), node.attr("perm")
    if lookup is None or lookup.result.n_uses != 1:
        return None
    table, x = lookup.operands
    if table.shape is None or lookup.attr("axis") % len(table.shape) or x.rank is None or x.rank < 2:  # type: ignore
        return None
    if perm[x.rank :] != tuple(range(x.rank, len(perm))):  # type: ignore[union-attr]
        return b.decline("it moves axes of the rows")
    if table.dtype is None or x.dtype is None:  # type: ignore[union-attr]
        return None
    row = table.shape[1:]  # type: ignore[union-attr]
    if not all(isinstance(d, int) for d in row) or math.prod(row) * table.dtype.bits < x.dtype.bits:  # type: ignore
        return b.decline("the indices may be larger than the rows")
    return b.gather(table, b.transpose(x, perm=perm[: x.rank]))  # type: ignore[union-attr]


RULES = (product_of_flags, function_of_rows, transpose_of_rows)
