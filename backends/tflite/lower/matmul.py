"""Products as FULLY_CONNECTED where the right side is a constant matrix, else as BATCH_MATMUL."""

from __future__ import annotations

import numpy as np

from ....ir.builder import Builder
from ....ir.types import F32, I32
from ....ir.value import Node, Value
from ....passes.decompose.matmul import as_floats, exact_conv, laid_out, part_of, stored_filters
from ....passes.decompose.rules import Declined, Outcome
from ..qdq import is_weight
from . import lowers
from .common import derived, f32, numbers, reshaped, turned


@lowers("matmul")
def matmul(b: Builder, node: Node) -> Value | Declined:
    x, y = node.operands
    if x.dtype is not F32 or not x.rank or not y.rank:
        return Declined(f"a product of {x.type} and {y.type}")
    if x.rank == 1 or y.rank == 1:
        return _with_vectors(b, node, x, y)
    if is_weight(y) and all(d == 1 for d in y.shape[:-2]) and y.rank <= x.rank:
        matrix = y
        if y.rank > 2:
            flat = y.shape[-2:]
            if y.is_const:
                matrix = b.const(y.array().reshape(flat), key=y.weight.key, role=y.weight.role)
            else:
                matrix = reshaped(b, y, flat)
        return fully_connected(b, x, turned(b, matrix, (1, 0)), None)
    return b.call("tfl.batch_matmul", (x, y)).result


@lowers("matmul_integer")
def matmul_integer(b: Builder, node: Node) -> Outcome:
    """Float products of runs of the contracted axis that are short enough to be exact, summed in int32."""
    x, y, x_zero, y_zero = (*node.operands, None, None)[:4]
    if x.rank < 2 or y.rank < 2 or type(x.shape[-1]) is not int:
        return Declined("a contracted axis of unknown length")
    left = _difference(b, x, x_zero, -1)
    total = None
    for start in range(0, x.shape[-1], _EXACT_RUN):
        stop = min(start + _EXACT_RUN, x.shape[-1])
        right = as_floats(b, part_of(b, y, y.rank - 2, start, stop), _aligned(b, y_zero, y.rank))
        part = b.cast(b.matmul(_run(b, left, start, stop, x.rank - 1), right), to=I32)
        total = part if total is None else b.add(total, part)
    return total if total is not None else Declined("an empty product")


@lowers("conv_integer")
def conv_integer(b: Builder, node: Node) -> Outcome:
    """As everywhere, the filters stored as the integers that they are."""
    return exact_conv(b, node, stored_filters)


# 255 * 255 * 256 is below 2**24, up to which float32 holds every integer.
_EXACT_RUN = 256


def _difference(b: Builder, x: Value, zero: Value | None, row_axis: int | None) -> Value:
    made = b.cast(x, to=F32)
    if zero is None:
        return made
    point = b.cast(zero, to=F32)
    per_row = row_axis is not None and zero.rank == 1 and zero.shape != (1,)
    return b.sub(made, b.unsqueeze(point, (row_axis,)) if per_row else point)


def _aligned(b: Builder, zero: Value | None, rank: int) -> Value | None:
    """A zero point for each column, of the matrix's rank."""
    if zero is None or zero.rank != 1:
        return zero
    return laid_out(b, zero, () if zero.shape == (1,) else (*(1,) * (rank - 1), -1))


def _run(b: Builder, x: Value, start: int, stop: int, axis: int) -> Value:
    return x if (start, stop) == (0, x.shape[axis]) else b.slice(x, (start,), (stop,), (axis,))


def _with_vectors(b: Builder, node: Node, x: Value, y: Value) -> Value:
    """A vector on the left is a row, one on the right a column."""
    row = reshaped(b, x, (1, *x.shape)) if x.rank == 1 else x
    column = y
    if y.rank == 1:
        column = b.const(y.array().reshape(-1, 1)) if y.is_const else reshaped(b, y, (*y.shape, 1))
    return reshaped(b, b.matmul(row, column), node.result.shape)


def fully_connected(b: Builder, x: Value, w: Value, bias: Value | None) -> Value:
    """x [..., K] with w [O, K]."""
    operands = (x, w) if bias is None else (x, w, bias)
    return b.call("tfl.fully_connected", operands, {"keep_num_dims": x.rank != 2}).result


@lowers("gemm")
def gemm(b: Builder, node: Node) -> Value | Declined:
    x, y, c = (*node.operands, None)[:3]
    if x.dtype is not F32:
        return Declined(f"a product of {x.dtype}")
    alpha, beta = node.attr("alpha"), node.attr("beta")
    flat = (
        c is None
        or beta == 0
        or (is_weight(c) and (c.rank == 0 or c.shape[-1:] == node.result.shape[-1:] or c.rank == 1))
    )
    if (
        is_weight(y)
        and (alpha == 1 or y.is_const)
        and flat
        and not node.attr("transA")
        and (c is None or beta == 0 or _is_row(c))
    ):
        return _dense(b, node, x, y, None if beta == 0 else c)
    attrs = {"adj_x": node.attr("transA"), "adj_y": node.attr("transB")}
    made = b.call("tfl.batch_matmul", (x, y), attrs).result
    made = made if alpha == 1 else b.mul(made, f32(b, alpha))
    if c is None or beta == 0:
        return made
    return b.add(made, c if beta == 1 else b.mul(c, f32(b, beta)))


def _is_row(c: Value) -> bool:
    """The same for every row of the result: a scalar, [O] or [1, O]."""
    return c.rank < 2 or c.shape[0] == 1


def _dense(b: Builder, node: Node, x: Value, y: Value, c: Value | None) -> Value:
    w = y if node.attr("transB") else turned(b, y, (1, 0))
    alpha = node.attr("alpha")
    if alpha != 1:
        w = derived(b, w, w.array() * np.float32(alpha), f"times {alpha}")
    if c is None:
        return fully_connected(b, x, w, None)
    if not c.is_const and is_weight(c) and c.shape == (w.shape[0],) and node.attr("beta") == 1:
        return fully_connected(b, x, w, c)
    if c.is_const:
        outs = w.shape[0]
        row = np.broadcast_to(c.array().reshape(-1) * np.float32(node.attr("beta")), numbers((outs,)))
        same = c.shape == (outs,) and node.attr("beta") == 1
        return fully_connected(b, x, w, c if same else derived(b, c, row, "broadcast, scaled"))
    made = fully_connected(b, x, w, None)
    return b.add(made, c if node.attr("beta") == 1 else b.mul(c, f32(b, node.attr("beta"))))
