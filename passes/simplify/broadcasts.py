"""Expand and what else repeats elements: dropped where broadcasting repeats them anyway, cut down to the sizes it must say,
and numbers that fill a whole tensor computed once."""

from __future__ import annotations

import numpy as np

from ...ir.dims import Dim
from ...ir.errors import TypeInferError
from ...ir.graph import Node, Value
from ...ir.ops.shapes import broadcast_shapes
from ..optimize.common import producer, same_dims, single, small_const
from ..rewrite import StagingBuilder, rule

#: Elementwise ops that join two operands or more by numpy's broadcasting.
BROADCASTING = (
    "add", "sub", "mul", "div", "floor_div", "mod", "pow", "min", "max", "atan2", "where", "and", "or", "xor", "equal",
    "not_equal", "less", "less_equal", "greater", "greater_equal", "bitwise_and", "bitwise_or", "bitwise_xor", "bit_shift",
)  # fmt: skip
#: Ops of one operand, whose result repeats what the operand repeats.
UNARY = (
    "cast", "neg", "not", "abs", "exp", "log", "sqrt", "rsqrt", "reciprocal", "square", "sigmoid", "tanh", "relu", "erf", "sign",
    "floor", "ceil", "round", "sin", "cos", "is_nan", "is_inf", "bitwise_not", "silu", "softplus",
)  # fmt: skip


def repeated(b: StagingBuilder, value: Value | None) -> Value | None:
    """A smaller value that broadcasts to what `value` is: the operand of an expand, the number that fills it, one row of a
    table that is read at one place only; None where there is none."""
    if value is None or value.node is None:
        return None
    node = value.node
    if node.name == "expand":
        return node.operands[0]
    number = uniform(value)
    if number is not None:
        return b.const(number)
    if node.name == "gather" and node.operands[1].node is not None and node.operands[1].rank is not None:  # type: ignore[union-attr]
        place, rows = uniform(node.operands[1]), _rows(node)  # type: ignore[arg-type]
        if place is not None and 0 <= place < rows:  # of no rows nothing is read where no place is asked for
            at = b.const(place.reshape((1,) * node.operands[1].rank))  # type: ignore[union-attr]
            return b.gather(node.operands[0], at, axis=node.attr("axis"))
    return None


def _rows(gather: Node) -> int:
    """How long the axis is that a gather reads along; 0 where that is no number."""
    shape = gather.operands[0].shape  # type: ignore[union-attr]
    size = shape[gather.attr("axis")] if shape else 0
    return size if isinstance(size, int) else 0


#: Ops that copy elements of their first operand only, so that equal ones stay equal.
_COPYING = frozenset({"slice", "reshape", "expand", "gather", "transpose", "squeeze", "unsqueeze", "flatten", "tile", "split",
                      "gather_elements", "gather_nd", "reverse"})  # fmt: skip
_REPEATING = _COPYING | {"constant_of_shape"}
#: Constants of up to so many elements are looked through for one number, so many movements away.
MOST_NUMBERS, REACH = 4096, 8


def uniform(value: Value) -> np.ndarray | None:
    """The number that all elements of `value` are, as far as a few movements back show it; None where they differ. What is
    empty when the model runs may be called uniform all the same."""
    for _ in range(REACH):
        if value.weight is not None:
            return _one_number(value)
        node = value.node
        if node is None:
            return None
        if node.name == "constant_of_shape":
            return filler(node)
        if node.name not in _COPYING:
            return None
        value = node.operands[0]  # type: ignore[assignment]
    return None


def _one_number(constant: Value) -> np.ndarray | None:
    count = constant.type.numel  # type: ignore[attr-defined]
    if not 0 < count <= MOST_NUMBERS or constant.dtype is None or constant.dtype.kind == "string":
        return None
    flat = constant.array().reshape(-1)
    return flat[:1].reshape(()) if flat.tobytes() == flat[:1].tobytes() * count else None


def filling(value: Value | None) -> Node | None:
    """The node that fills `value` with one constant: constant_of_shape, or expand of a constant with one element."""
    node = producer(value, "expand", "constant_of_shape")
    if node is None or node.name == "constant_of_shape":
        return node
    x = node.operands[0]
    return node if single(x) and small_const(x) else None  # type: ignore[arg-type]


def filler(node: Node, rank: int = 0) -> np.ndarray:
    """The constant of a filling node, of this rank."""
    if node.name == "constant_of_shape":
        return np.full((1,) * rank, node.attr("value"), node.attr("to").numpy)
    return node.operands[0].array().reshape((1,) * rank)  # type: ignore[union-attr]


def _broadcast(shapes: list) -> tuple[Dim, ...] | None:
    if any(s is None for s in shapes):
        return None
    try:
        return broadcast_shapes(*shapes)
    except TypeInferError:
        return None


@rule(*BROADCASTING, "matmul")
def drop_expand_of_operand(b: StagingBuilder, node: Node):
    """op(expand(x), y) -> op(x, y) where op broadcasts x to the same shape"""
    operands = list(node.operands)
    for i, value in enumerate(operands):
        if value.node is None or value.node.op.name not in _REPEATING:  # type: ignore[union-attr]
            continue
        plain = repeated(b, value)
        if plain is None:
            continue
        if node.name == "matmul" and not same_dims((plain.shape or ())[-2:], (value.shape or ())[-2:]):  # type: ignore[union-attr]
            continue  # rows and columns are not broadcast
        tried = [*operands[:i], plain, *operands[i + 1 :]]
        shape = (
            _product_shape(tried) if node.name == "matmul" else _broadcast([v.shape for v in tried if v is not None])
        )
        if same_dims(shape, node.result.shape):
            operands = tried
    if operands == list(node.operands):
        return None
    return b.call(node.name, operands, dict(node.attrs)).result


def _product_shape(operands: list[Value]) -> tuple[Dim, ...] | None:
    """The shape of a matrix product of ranks >= 2 whose operands lost an expand of leading axes only."""
    x, y = (v.shape for v in operands)
    if x is None or y is None or len(x) < 2 or len(y) < 2:
        return None
    batch = _broadcast([x[:-2], y[:-2]])
    return None if batch is None else (*batch, x[-2], y[-1])


@rule("expand")
def trim_expand(b: StagingBuilder, node: Node):
    """expand to computed sizes -> expand to a constant, where only axes of known size are repeated"""
    x, shape = node.operands
    if x.shape is None or node.result.shape is None or shape.is_const:
        return None
    lead = len(node.result.shape) - len(x.shape)
    target = [
        1 if i >= lead and same_dims(x.shape[i - lead : i - lead + 1], (d,)) else d
        for i, d in enumerate(node.result.shape)
    ]
    if not all(isinstance(d, int) for d in target):
        return b.decline("a repeated axis has no known size")
    return b.expand(x, tuple(target))


@rule(*BROADCASTING)
def compute_filling_once(b: StagingBuilder, node: Node):
    """add(constant_of_shape(s), c) -> expand(add(v, c), s): one number is computed instead of many"""
    fills = [filling(v) for v in node.operands]
    found = next((f for f in fills if f is not None), None)
    if found is None or not all(
        f is not None or (v is not None and single(v) and small_const(v))
        for f, v in zip(fills, node.operands, strict=True)
    ):
        return None
    if not same_dims(found.result.shape, node.result.shape):
        return b.decline("the result is larger than what is filled")
    rank = max((v.rank or 0 for v, f in zip(node.operands, fills, strict=True) if f is None), default=0)  # type: ignore[union-attr]
    scalars = [v if f is None else b.const(filler(f, rank)) for v, f in zip(node.operands, fills, strict=True)]
    made = b.call(node.name, scalars, dict(node.attrs)).result
    return b.expand(made, found.operands[0 if found.name == "constant_of_shape" else 1])


@rule(*UNARY)
def compute_filling_once_unary(b: StagingBuilder, node: Node):
    """neg(constant_of_shape(s)) -> expand(neg(v), s)"""
    found = filling(node.operands[0])
    if found is None:
        return None
    made = b.call(node.name, (b.const(filler(found)),), dict(node.attrs)).result
    return b.expand(made, found.operands[0 if found.name == "constant_of_shape" else 1])


@rule("lstm", "gru", "rnn", "dynamic_quantize_lstm")
def drop_zero_state(b: StagingBuilder, node: Node):
    """lstm, gru and rnn that begin with a state of zeros -> without an initial state"""
    places = [node.op.positions[name] for name in ("h0", "c0") if name in node.op.positions]
    operands = list(node.operands)
    for place in places:
        if place < len(operands) and operands[place] is not None and is_zero(operands[place]):  # type: ignore[arg-type]
            operands[place] = None
    if operands == list(node.operands):
        return None
    return b.call(node.name, operands, dict(node.attrs)).results


def is_zero(value: Value) -> bool:
    """All elements are 0 (and not -0.0)."""
    if value.weight is not None and small_const(value):
        return not np.any(value.array()) and not np.any(np.signbit(value.array()))
    number = uniform(value)
    return number is not None and not number and not np.signbit(number)


@rule(*BROADCASTING, *UNARY)
def sink_expand(b: StagingBuilder, node: Node):
    """where(expand(x), c, d) -> expand(where(x, c, d)) with numbers: computed before it is repeated, and nearer to ops that
    broadcast themselves"""
    widened = [producer(v, "expand") for v in node.operands]
    found = next((w for w in widened if w is not None), None)
    if found is None or found.result.n_uses != 1 or single(found.operands[0]):  # type: ignore[arg-type]
        return None
    for value, expand in zip(node.operands, widened, strict=True):
        if expand is not found and not (value is not None and value.is_const and single(value)):
            return b.decline("another operand is no number")
    if not same_dims(found.result.shape, node.result.shape):
        return None
    operands = [found.operands[0] if w is not None else v for v, w in zip(node.operands, widened, strict=True)]
    return b.expand(b.call(node.name, operands, dict(node.attrs)).result, found.operands[1])


RULES = (
    drop_expand_of_operand,
    trim_expand,
    compute_filling_once,
    compute_filling_once_unary,
    drop_zero_state,
    sink_expand,
)
