"""Rows of gathers, scatters and one-hot."""

from __future__ import annotations

from ....ir.types import I32, I64
from ....ir.value import Node
from ..table import Emitted, bare, index_operand, row, scalar_i32

_GATHERED = "f32 f16 i32 i64 i16 u8 i8 bool"


def _index_type(node: Node) -> str | None:
    indices = node.operands[1]
    if indices.dtype not in (I32, I64):
        return f"indices of {indices.dtype}"
    return None if never_negative(indices) else "indices that may be negative, which TFLite refuses when it runs"


def never_negative(value) -> bool:
    """Every element is provably >= 0."""
    pending, seen = [value], set()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        if current.is_const:
            if current.array().size and current.array().min() < 0:
                return False
            continue
        node = current.node
        if node is not None and node.name == "where" and _wraps(node):
            continue
        if node is not None and node.name == "range" and _rises(node):
            continue
        if node is None or node.name not in _KEEPS_SIGN:
            return False
        pending += [node.operands[i] for i in _KEEPS_SIGN[node.name] if i < len(node.operands)]
    return True


def _rises(node: Node) -> bool:
    start, _, delta = node.operands
    return all(v.is_const and v.array().min() >= 0 for v in (start, delta))


def _wraps(node: Node) -> bool:
    """where(i < 0, i + dim, i), what the legaliser puts around indices; the test of a constant i is a constant."""
    test, moved, index = node.operands
    add = moved.node
    if add is None or add.name != "add" or add.operands[0] is not index:
        return False
    if test.is_const:
        return index.is_const and bool((test.array() == (index.array() < 0)).all())
    less = test.node
    return less is not None and less.name == "less" and less.operands[0] is index and less.operands[1].scalar() == 0


# Ops whose results are >= 0 when these operands are.
_KEEPS_SIGN: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        ("shape", "tfl.shape", "arg_max", "arg_min", "non_zero", "tfl.where", "abs", "tfl.non_negative"), ()
    ),
    **dict.fromkeys(
        ("cast", "reshape", "transpose", "squeeze", "unsqueeze", "slice", "gather", "expand", "tile"), (0,)
    ),
    **dict.fromkeys(("cast", "tfl.broadcast_to", "reduce_max", "relu", "tfl.strided_slice", "split"), (0,)),
    **dict.fromkeys(("add", "mul", "min"), (0, 1)),
    "concat": tuple(range(64)),
}


@row("gather", "GATHER", _GATHERED, _index_type)
def _gather(node: Node) -> Emitted:
    x, indices = node.operands
    return Emitted([x, _indices(indices)], {"axis": node.attr("axis") % x.rank})


def _indices(value):
    return index_operand(value) if value.is_const and value.ints() is not None else value


@row("gather_nd", "GATHER_ND", _GATHERED, lambda node: _index_type(node) or _no_batch(node))
def _gather_nd(node: Node) -> Emitted:
    return Emitted([node.operands[0], _indices(node.operands[1])])


def _no_batch(node: Node) -> str | None:
    return "batch dims" if node.attr("batch_dims") else None


@row("tfl.scatter_nd", "SCATTER_ND", "f32 i32 i64 u8 i8", data=1)
def _scatter_nd(node: Node) -> Emitted:
    indices, updates, shape = node.operands
    return Emitted([_indices(indices), updates, index_operand(shape)])


@row("tfl.one_hot", "ONE_HOT", "i32 i64")
def _one_hot(node: Node) -> Emitted:
    indices, on, off = node.operands
    return Emitted([indices, scalar_i32(node.attr("depth")), on, off], {"axis": node.attr("axis")})


row("tfl.where", "WHERE", "f32 i32 i64 u32 u8 i8 bool")(bare)
