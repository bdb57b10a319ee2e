"""Canonical forms (the list is in ir/canonical.py): one spelling per meaning, and what does nothing goes.

Everything here is exact, bit for bit, NaN and -0.0 included. No rule may undo another.
"""

from __future__ import annotations

import math

import numpy as np

from ...ir.dims import dim_eq
from ...ir.graph import Node, Value
from ...ir.opdef import COMMUTATIVE
from ...ir.types import STRING
from ..manager import pattern_pass
from ..pattern import literal_equals
from ..rewrite import StagingBuilder, rule

REDUCTIONS = tuple(
    f"reduce_{kind}"
    for kind in ["sum", "mean", "max", "min", "prod", "l1", "l2", "log_sum", "log_sum_exp", "sum_square"]
)


def same_shape(a: Value, b: Value) -> bool:
    """Both shapes are known and surely equal."""
    x, y = a.shape, b.shape
    return (
        x is not None
        and y is not None
        and len(x) == len(y)
        and all(dim_eq(m, n) is True for m, n in zip(x, y, strict=True))
    )


def same_type(a: Value, b: Value) -> bool:
    return a.dtype is b.dtype and same_shape(a, b)


@rule("add", "mul", "min", "max", "and", "or", "xor", "equal", "not_equal", "bitwise_and", "bitwise_or", "bitwise_xor")
def constant_second(b: StagingBuilder, node: Node):
    """add(c, x) -> add(x, c)"""
    x, y = node.operands[:2]
    if not node.has(COMMUTATIVE) or not x.is_const or y.is_const:
        return None
    if node.name in ("min", "max") and _has_float_zero(x):
        return b.decline("of 0.0 and -0.0 the one that stands first may be taken")
    return b.call(node.name, (y, x), dict(node.attrs)).result


def _has_float_zero(constant: Value) -> bool:
    """A float constant with a zero in it, or one too large to look."""
    if constant.dtype is None or not constant.dtype.is_float:
        return False
    return constant.weight.nbytes > 1 << 20 or not np.all(constant.array())


@rule("identity")
def drop_identity(b: StagingBuilder, node: Node):
    """identity(x) -> x"""
    return node.operands[0]


@rule("cast")
def drop_cast(b: StagingBuilder, node: Node):
    """cast to the dtype that x has -> x"""
    x = node.operands[0]
    return x if x.dtype is node.attr("to") else None


@rule("cast")
def merge_casts(b: StagingBuilder, node: Node):
    """cast(cast(x)) -> cast(x) where the inner one loses nothing"""
    inner = node.operands[0].node
    if inner is None or inner.name != "cast":
        return None
    x = inner.operands[0]
    if x.dtype is None or not _widens(x.dtype, inner.attr("to")):
        return None
    if node.attr("to") is STRING and inner.attr("to").is_float:
        return None  # the spelling depends on the type: f32 0.1 is "0.1", as f64 it is "0.10000000149011612"
    return b.call("cast", (x,), dict(node.attrs)).result


def _widens(source, target) -> bool:
    """Every value of `source` is one of `target`."""
    if source.kind == "bool":
        return target.is_int or target.is_float
    if source.is_int and target.is_int:
        return np.can_cast(source.numpy, target.numpy, "safe") if not (source.is_packed or target.is_packed) else False
    exact_bits = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}
    if source.is_int and target.name in exact_bits:
        return source.bits <= exact_bits[target.name]
    return (source.name, target.name) in {
        ("f16", "f32"),
        ("f16", "f64"),
        ("bf16", "f32"),
        ("bf16", "f64"),
        ("f32", "f64"),
    }


@rule("expand")
def drop_expand(b: StagingBuilder, node: Node):
    """expand to the shape that x has -> x"""
    return node.operands[0] if same_type(node.operands[0], node.result) else None


@rule("reshape", "flatten", "squeeze", "unsqueeze", "tile", "slice", "pad")
def drop_no_op(b: StagingBuilder, node: Node):
    """reshape, tile, slice and pad that leave the shape as it is -> x"""
    x = node.operands[0]
    if not same_type(x, node.result):
        return None
    if node.name == "slice":
        steps = node.operand("steps")
        if steps is not None and (steps.ints() is None or any(s != 1 for s in steps.ints())):
            return None
    if node.name == "pad":
        pads = node.operand("pads").ints()
        if pads is None or any(pads):
            return None
    return x


@rule("transpose")
def drop_transpose(b: StagingBuilder, node: Node):
    """transpose by the identity -> x"""
    perm = node.attr("perm")
    return node.operands[0] if perm == tuple(range(len(perm))) else None


@rule("transpose")
def merge_transposes(b: StagingBuilder, node: Node):
    """transpose(transpose(x)) -> transpose(x)"""
    inner = node.operands[0].node
    if inner is None or inner.name != "transpose":
        return None
    outer_perm, inner_perm = node.attr("perm"), inner.attr("perm")
    return b.transpose(inner.operands[0], perm=tuple(inner_perm[p] for p in outer_perm))


@rule("transpose")
def transpose_moving_unit_dims(b: StagingBuilder, node: Node):
    """transpose that moves only dims of size 1 -> reshape"""
    x, perm = node.operands[0], node.attr("perm")
    if x.shape is None or perm == tuple(range(len(perm))):
        return None
    if [p for p in perm if x.shape[p] != 1] != [i for i, d in enumerate(x.shape) if d != 1]:
        return None
    return _reshaped(b, x, _reshape_target(node.result))


@rule("flatten", "squeeze", "unsqueeze")
def as_reshape(b: StagingBuilder, node: Node):
    """flatten, squeeze, unsqueeze with a result of known shape -> reshape"""
    x = node.operands[0]
    return None if x.rank is None else _reshaped(b, x, _reshape_target(node.result))


def _reshaped(b: StagingBuilder, x: Value, target: tuple[int, ...] | None) -> Value | None:
    """x in the shape `target`, in which 0 is a size."""
    return None if target is None else b.reshape(x, target, allowzero=0 in target)


def _reshape_target(value: Value) -> tuple[int, ...] | None:
    """The constant that reshapes to this value's shape: at most one symbolic dim, which becomes -1."""
    shape = value.shape
    if shape is None:
        return None
    open_dims = [i for i, d in enumerate(shape) if not isinstance(d, int)]
    if len(open_dims) > 1 or (open_dims and 0 in shape):
        return None
    return tuple(-1 if i in open_dims else d for i, d in enumerate(shape))  # type: ignore[misc]


@rule("reshape")
def merge_reshapes(b: StagingBuilder, node: Node):
    """reshape(reshape(x)) -> reshape(x)"""
    inner = node.operands[0].node
    if inner is None or inner.name not in ("reshape", "flatten", "squeeze", "unsqueeze"):
        return None
    target = node.operands[1].ints()
    if target is None or (0 in target and not node.attr("allowzero")):
        target = _reshape_target(node.result)
    return _reshaped(b, inner.operands[0], target)


@rule("reshape")
def reshape_by_constant(b: StagingBuilder, node: Node):
    """reshape to a computed or 0-copying shape -> reshape to a constant, where the result shape says it"""
    shape = node.operands[1]
    given = shape.ints()
    if shape.is_const and given is not None and not (0 in given and not node.attr("allowzero")):
        return None
    target = _reshape_target(node.result)
    return None if target is None or 0 in target else b.reshape(node.operands[0], target)


@rule("concat")
def drop_concat_of_one(b: StagingBuilder, node: Node):
    """concat(x) -> x; empty parts go"""
    axis = node.attr("axis")
    parts = [v for v in node.operands if v.shape is None or v.shape[axis] != 0]
    if len(parts) == 1 and same_type(parts[0], node.result):
        return parts[0]
    if parts and len(parts) < len(node.operands):
        return b.concat(*parts, axis=axis)
    return None


@rule("split")
def drop_split_into_one(b: StagingBuilder, node: Node):
    """split into one part -> x"""
    if len(node.results) != 1 or not same_type(node.operands[0], node.results[0]):
        return None
    return node.operands[0]


@rule(
    *REDUCTIONS,
    "softmax",
    "log_softmax",
    "hardmax",
    "concat",
    "split",
    "arg_max",
    "arg_min",
    "topk",
    "gather",
    "layer_norm",
)
def positive_axis(b: StagingBuilder, node: Node):
    """negative axis attribute -> axis >= 0"""
    axis = node.attrs.get("axis")
    rank = node.operands[0].rank if node.operands else None
    if axis is None or axis >= 0 or rank is None:
        return None
    made = b.call(node.name, node.operands, {**node.attrs, "axis": axis + rank})
    return made.results


@rule(*REDUCTIONS)
def sorted_axes(b: StagingBuilder, node: Node):
    """absent, negative or unordered axes of a reduction -> all of them, sorted, >= 0"""
    x, axes = node.operands[0], node.operand("axes")
    if x.rank is None or node.attr("noop_with_empty_axes"):
        return None
    given = None if axes is None else axes.ints()
    if axes is not None and given is None:
        return None
    wanted = tuple(range(x.rank)) if not given else tuple(sorted(a % x.rank for a in given))
    if given is not None and tuple(given) == wanted and axes.is_const:
        return None
    return b.call(node.name, (x, wanted), dict(node.attrs)).result


@rule("where")
def where_not(b: StagingBuilder, node: Node):
    """where(not(c), x, y) -> where(c, y, x)"""
    cond, x, y = node.operands
    inner = cond.node
    return b.where(inner.operands[0], y, x) if inner is not None and inner.name == "not" else None


@rule("swish")
def swish_to_silu(b: StagingBuilder, node: Node):
    """swish with alpha 1 -> silu"""
    return b.silu(node.operands[0]) if node.attr("alpha") == 1.0 else None


@rule("mul", "div", "add", "sub")
def neutral_element(b: StagingBuilder, node: Node):
    """mul(x, 1), div(x, 1), add(x, -0.0), sub(x, 0) -> x"""
    x, y = node.operands
    # x + 0.0 turns -0.0 into 0.0, so only -0.0 is neutral for a float add; integers have one zero.
    neutral = {"mul": 1, "div": 1, "add": -0.0 if x.dtype is not None and x.dtype.is_float else 0, "sub": 0}[node.name]
    if x.dtype is None or not x.dtype.is_numeric or x.dtype.kind == "complex" or not literal_equals(y, neutral):
        return None
    return x if same_type(x, node.result) else None


@rule("sub")
def subtract_constant(b: StagingBuilder, node: Node):
    """sub(x, c) -> add(x, -c) for floats"""
    x, c = node.operands
    if not c.is_const or x.is_const or c.dtype is None or not c.dtype.is_float or c.weight.nbytes > 1 << 20:
        return None
    if c.weight.role == "param":
        return None
    return b.add(x, b.const(np.asarray(-c.array())))


@rule("div")
def divide_by_power_of_two(b: StagingBuilder, node: Node):
    """div(x, c) -> mul(x, 1/c) where c is a power of two (exact)"""
    x, c = node.operands
    number = c.scalar()
    if number is None or c.dtype is None or not c.dtype.is_float or not math.isfinite(number) or number == 0:
        return None
    mantissa, exponent = math.frexp(number)
    if abs(mantissa) != 0.5 or not -100 < exponent < 100 or c.dtype.bits < 32:
        return None
    return b.mul(x, b.const(np.asarray(1.0 / c.array(), c.dtype.numpy)))


@rule("clip")
def clip_to_relu(b: StagingBuilder, node: Node):
    """clip(x, 0) -> relu(x); clip(x, 0, 6) -> relu6(x)"""
    x, low, high = node.operands[0], node.operand("min"), node.operand("max")
    if x.dtype is None or not x.dtype.is_float or low is None or not literal_equals(low, 0.0):
        return None
    if high is None or literal_equals(high, math.inf):
        return b.relu(x)
    return b.relu6(x) if literal_equals(high, 6.0) else None


@rule("pow")
def pow_to_square(b: StagingBuilder, node: Node):
    """pow(x, 2) -> square(x); pow(x, 1) -> x; not in double precision, where pow may miss by an ulp"""
    x, exponent = node.operands
    if (
        x.dtype is None
        or not x.dtype.is_float
        or x.dtype.bits > 32
        or x.dtype is not node.result.dtype
        or not same_shape(x, node.result)
    ):
        return None
    if literal_equals(exponent, 2):
        return b.square(x)
    return x if literal_equals(exponent, 1) else None


CANONICAL = (
    constant_second,
    drop_identity,
    drop_cast,
    merge_casts,
    drop_expand,
    drop_no_op,
    drop_transpose,
    merge_transposes,
    transpose_moving_unit_dims,
    as_reshape,
    merge_reshapes,
    reshape_by_constant,
    drop_concat_of_one,
    drop_split_into_one,
    positive_axis,
    sorted_axes,
    where_not,
    swish_to_silu,
    neutral_element,
    subtract_constant,
    divide_by_power_of_two,
    clip_to_relu,
    pow_to_square,
    "neg(neg(x)) -> x",
    "not(not(x)) -> x",
    "relu(relu(x)) -> relu(x)",
    "abs(abs(x)) -> abs(x)",
)

canonicalize = pattern_pass(
    "canonicalize", CANONICAL, doc="Rewrite to the canonical forms, exactly; see ir/canonical.py."
)
