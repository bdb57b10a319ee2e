"""Elementwise ops: dtypes that a kernel lacks run in a wider one, broadcasts that it lacks are made explicit."""

from __future__ import annotations

import numpy as np

from ....ir.builder import Builder
from ....ir.types import BOOL, F32, I8, I16, I32, I64, U8, U16, U32, DType
from ....ir.value import Node, Value
from ....passes.decompose.rules import Declined, Outcome
from ..table import rows
from . import lowers
from .common import dims_of, f32, knows_dims, reshaped, static

_WIDER: dict[DType, tuple[DType, ...]] = {
    BOOL: (I32, F32), I8: (I32, F32), U8: (I32, F32), I16: (I32, F32), U16: (I32, F32), U32: (I64,), I32: (F32,),
}  # fmt: skip

_WIDENED = [
    "abs",
    "neg",
    "square",
    "sign",
    "add",
    "sub",
    "mul",
    "div",
    "max",
    "min",
    "floor_div",
    "mod",
    "equal",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "relu",
    "relu6",
    "leaky_relu",
    "clip",
    "pow",
    "reduce_sum",
    "reduce_max",
    "reduce_min",
    "reduce_prod",
    "cumsum",
]


@lowers(*_WIDENED)
def widened(b: Builder, node: Node) -> Outcome:
    """Small integers compute in int32, whose low bits are theirs; what only float has runs in float where exact."""
    made = _spread_out(b, node)
    if made is not None:
        return made
    dtype = node.operands[0].dtype
    allowed = rows()[node.name].dtypes if node.name in rows() else frozenset({F32, I32})
    wide = next((d for d in _WIDER.get(dtype, ()) if d in allowed), None)
    if wide is None or (wide is F32 and dtype is I32):
        return Declined("")
    return in_dtype(b, node, wide)


def in_dtype(b: Builder, node: Node, wide: DType) -> tuple[Value, ...]:
    """The node on operands cast to `wide`, its results cast back to what they were."""
    dtype = node.operands[0].dtype
    operands = [b.cast(v, to=wide) if v is not None and v.dtype is dtype else v for v in node.operands]
    made = b.call(node.name, operands, dict(node.attrs)).results
    return tuple(
        b.cast(new, to=old.dtype) if new.dtype is not old.dtype else new
        for new, old in zip(made, node.results, strict=True)
    )


def _spread_out(b: Builder, node: Node, least: int = 5) -> Value | None:
    """Kernels that broadcast below rank `least` only get operands of one shape from there on."""
    shape = node.results[0].shape
    if shape is None or len(shape) < least or node.name not in rows():
        return None
    if not any(v.shape != shape for v in node.inputs()):
        return None
    if node.name in ("add", "sub", "mul", "div", "max", "min") or not knows_dims(shape, *node.inputs()):
        return None
    operands = [v if v is None or v.shape == shape else expanded(b, v, shape, node) for v in node.operands]
    return b.call(node.name, operands, dict(node.attrs)).result


def expanded(b: Builder, value: Value, shape: tuple, node: Node) -> Value:
    if value.is_const and static(shape):
        return b.const(np.broadcast_to(value.array(), shape))
    dims = b.const(np.asarray(shape, np.int32)) if static(shape) else dims_of(b, shape, *node.inputs())
    return b.call("tfl.broadcast_to", (value, dims)).result


@lowers("where")
def where(b: Builder, node: Node) -> Outcome:
    """SELECT_V2 broadcasts up to rank 5."""
    made = _spread_out(b, node) if (node.result.rank or 0) > 5 else None
    return made if made is not None else Declined("")


@lowers("bitwise_xor", "and", "or")
def spread_out(b: Builder, node: Node) -> Outcome:
    made = _spread_out(b, node)
    return made if made is not None else Declined("")


@lowers("atan2", "bitwise_and", "bit_shift")
def one_shape(b: Builder, node: Node) -> Outcome:
    """Kernels that do not broadcast at all; shifts of a width that is missing run in one that is there."""
    made = _spread_out(b, node, least=0)
    if made is None and node.name == "bit_shift" and node.operands[0].dtype is U16 and _goes_right(node):
        return in_dtype(b, node, U32)
    return made if made is not None else Declined("")


def _goes_right(node: Node) -> bool:
    return node.attr("direction").lower() == "right"


@lowers("bitwise_or")
def bitwise_or(b: Builder, node: Node) -> Outcome:
    """(x xor y) xor (x and y)"""
    x, y = node.operands
    if x.dtype not in rows()["bitwise_xor"].dtypes:
        return Declined("")
    return b.bitwise_xor(b.bitwise_xor(x, y), b.bitwise_and(x, y))


@lowers("identity")
def identity(b: Builder, node: Node) -> Value:
    return node.operands[0]


@lowers("cast")
def cast(b: Builder, node: Node) -> Outcome:
    """To the same dtype: nothing; u16 and u64 travel by way of int32 and int64."""
    (x,), to = node.operands[:1], node.attr("to")
    if x.dtype is to:
        return x
    return Declined("")


@lowers("clip")
def clip(b: Builder, node: Node) -> Outcome:
    """The clamps that TFLite has, else MAXIMUM and MINIMUM."""
    x, low, high = (*node.operands, None, None)[:3]
    if x.dtype is not F32:
        return widened(b, node) if x.dtype in _WIDER else Declined("")
    bounds = tuple(None if v is None else v.scalar() for v in (low, high))
    whole = {(0.0, None): "relu", (0.0, np.inf): "relu", (0.0, 6.0): "relu6"}
    own = {(-1.0, 1.0): "tfl.relu_n1_to_1", (0.0, 1.0): "tfl.relu_0_to_1"}
    if (low is None or low.is_const) and (high is None or high.is_const):
        name = whole.get(bounds) or own.get(bounds)
        if name is not None:
            return b.call(name, (x,)).result
    x = x if low is None else b.max(x, low)
    return x if high is None else b.min(x, high)


@lowers("xor")
def xor(b: Builder, node: Node) -> Value:
    return b.not_equal(*node.operands)


@lowers("pow")
def power(b: Builder, node: Node) -> Outcome:
    """Float base and exponent of one dtype; square and square root are cheaper."""
    x, y = node.operands
    exponent = y.scalar()
    if x.dtype is F32 and exponent == 2 and x.shape == node.result.shape:
        return b.square(x)
    if x.dtype is F32 and y.dtype is not F32:
        return b.pow(x, b.cast(y, to=F32))
    if x.dtype is I32 and y.is_const and y.dtype.is_int and y.dtype is not I32:
        return b.pow(x, b.const(y.array().astype(np.int32)))
    return widened(b, node) if x.dtype is F32 else Declined("")


@lowers("div", "floor_div")
def divide(b: Builder, node: Node) -> Outcome:
    """int64: in int32 where both fit for sure, else step by step."""
    x, y = node.operands
    if x.dtype is not I64:
        return widened(b, node)
    if _small(x) and _small(y):
        return in_dtype(b, node, I32)
    rest = b.mod(x, y)
    floor = _multiple(b, b.sub(x, rest), y)
    if node.name == "floor_div":
        return floor
    zero = b.const(np.asarray(0, np.int64))
    up = b.and_(b.not_equal(rest, zero), b.not_equal(b.less(x, zero), b.less(y, zero)))
    return b.add(floor, b.cast(up, to=I64))


def _multiple(b: Builder, x: Value, y: Value) -> Value:
    """x / y in int64 where y divides x. Each float quotient is right to 22 bits; three of them cover 63."""
    total = None
    for _ in range(3):
        part = b.cast(b.round(b.div(b.cast(x, to=F32), b.cast(y, to=F32))), to=I64)
        total = part if total is None else b.add(total, part)
        x = b.sub(x, b.mul(part, y))
    return total


def _small(value: Value) -> bool:
    """Index arithmetic: what comes from shapes and constants stays below 2**31 as long as tensors do."""
    pending = [value]
    while pending:
        current = pending.pop()
        if current.is_const:
            if current.array().size and np.abs(current.array().astype(np.float64)).max() >= 2**31:
                return False
            continue
        node = current.node
        if node is None or node.name not in _INDEX_ARITHMETIC:
            return False
        if node.name not in ("shape", "size", "tfl.shape"):
            pending += node.inputs()
    return True


_INDEX_ARITHMETIC = frozenset(
    [
        "shape",
        "size",
        "tfl.shape",
        "cast",
        "add",
        "sub",
        "div",
        "floor_div",
        "mod",
        "min",
        "max",
        "concat",
        "slice",
        "gather",
        "reshape",
        "squeeze",
        "unsqueeze",
        "reduce_prod",
        "mul",
    ]
)


@lowers("abs")
def absolute(b: Builder, node: Node) -> Outcome:
    (x,) = node.operands
    if x.dtype is not I64:
        return widened(b, node)
    return b.where(b.less(x, b.const(np.asarray(0, np.int64))), b.neg(x), x)


@lowers("sign")
def sign(b: Builder, node: Node) -> Outcome:
    (x,) = node.operands
    if x.dtype is not I64:
        return widened(b, node)
    zero = b.const(np.asarray(0, np.int64))
    return b.sub(b.cast(b.greater(x, zero), to=I64), b.cast(b.less(x, zero), to=I64))


@lowers("prelu")
def prelu(b: Builder, node: Node) -> Outcome:
    """A scalar slope gets an axis; above rank 4 by its definition."""
    x, slope = node.operands
    if x.dtype is not F32:
        return Declined("")
    if not slope.rank and x.rank:
        return b.prelu(x, reshaped(b, slope, (1,)))
    return b.add(b.relu(x), b.mul(slope, b.min(x, f32(b, 0.0))))
