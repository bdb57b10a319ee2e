"""Arithmetic with constants in another order: fewer operations, the same result up to rounding.

Every chain of factors is read as factor * x or factor / x, every chain of addends as x + c or c - x; two links become one.
Constants are joined in float64 and rounded once. What leaves the normal range of the type on the way is left alone: there
the order decides between a number, zero and infinity.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...ir.graph import Node, Value
from ..manager import pattern_pass
from ..optimize.common import is_float, producer, same_type, single, small_const
from ..rewrite import StagingBuilder, rule
from .bounds import CLIPS, Range, clipped, range_of
from .reductions import merged_reductions, only_element

#: Movements and products through which a number as a factor passes, and how many of them in a row.
LINEAR = (
    "reshape", "transpose", "squeeze", "unsqueeze", "flatten", "slice", "gather", "expand", "tile", "reverse",
    "matmul", "reduce_sum", "reduce_mean", "average_pool", "global_average_pool",
)  # fmt: skip
REACH = 6
#: Tables of positions of up to so many elements take in what is added to all of their rows.
TABLE = 1 << 22


class Factor(NamedTuple):
    """factor * x or, inverted, factor / x; `sources` are the constants that went in."""

    x: Value
    factor: np.ndarray
    inverted: bool
    sources: tuple[Value, ...] = ()


class Addend(NamedTuple):
    """x + addend or, negated, addend - x."""

    x: Value
    addend: np.ndarray
    negated: bool
    sources: tuple[Value, ...] = ()


_ONE, _ZERO = np.ones(()), np.zeros(())


def _constant(value: Value | None) -> np.ndarray | None:
    """A float constant whose numbers are all finite, in float64."""
    if not small_const(value) or not is_float(value) or value.dtype.bits < 16:  # type: ignore[arg-type, union-attr]
        return None
    array = value.array().astype(np.float64)  # type: ignore[union-attr]
    return array if np.isfinite(array).all() else None


def factor_of(node: Node | None) -> Factor | None:
    """`node` as a product or quotient with a constant that has no zeros."""
    if node is None or node.name not in ("mul", "div", "neg", "reciprocal") or not is_float(node.result):
        return None
    x = node.operands[0]
    if node.name == "neg":
        return Factor(x, -_ONE, False)  # type: ignore[arg-type]
    if node.name == "reciprocal":
        return Factor(x, _ONE, True)  # type: ignore[arg-type]
    y = node.operands[1]
    constant, inverted = _constant(y), False
    if constant is None and node.name == "div":
        constant, x, y, inverted = _constant(x), y, x, True
    if constant is None or not constant.all() or x.is_const:  # type: ignore[union-attr]
        return None
    return Factor(x, 1.0 / constant if node.name == "div" and not inverted else constant, inverted, (y,))  # type: ignore


def addend_of(node: Node | None) -> Addend | None:
    """`node` as a sum or difference with a constant."""
    if node is None or node.name not in ("add", "sub", "neg") or not is_float(node.result):
        return None
    x = node.operands[0]
    if node.name == "neg":
        return Addend(x, _ZERO, True)  # type: ignore[arg-type]
    y = node.operands[1]
    constant, negated = _constant(y), False
    if constant is None and node.name == "sub":
        constant, x, y, negated = _constant(x), y, x, True
    if constant is None or x.is_const:  # type: ignore[union-attr]
        return None
    return Addend(x, -constant if node.name == "sub" and not negated else constant, negated, (y,))  # type: ignore[arg-type]


def joined(b: StagingBuilder, array: np.ndarray, like: Value, sources: tuple[Value, ...]) -> Value | None:
    """`array` as a constant of the dtype of `like`; None where that is unknown, a number leaves its normal range or it is
    larger than all of its sources. A parameter that went in gives its name."""
    if like.dtype is None:
        return None
    dtype = like.dtype.numpy
    limits = _limits(dtype)
    size = np.abs(array[array != 0])
    if not np.isfinite(array).all() or (size.size and not limits[0] <= size.min() <= size.max() <= limits[1]):
        return None
    if array.size > max((v.type.numel for v in sources), default=1):  # type: ignore[attr-defined]
        return None
    named = next((v.weight for v in sources if v.weight.role != "const"), None)  # type: ignore[union-attr]
    if named is None:
        return b.const(np.asarray(array, dtype))
    origin = "; ".join(dict.fromkeys(filter(None, (v.weight.origin or v.weight.key for v in sources))))  # type: ignore
    return b.const(np.asarray(array, dtype), key=named.wanted, role=named.role, origin=origin)


def _limits(dtype: np.dtype) -> tuple[float, float]:
    import ml_dtypes

    info = ml_dtypes.finfo(dtype)
    return float(info.smallest_normal), float(info.max)


def _owned(value: Value) -> bool:
    return value.n_uses == 1


@rule("mul", "div", "neg", "reciprocal", numerics="ulp")
def merge_factors(b: StagingBuilder, node: Node):
    """mul(mul(x, a), b) -> mul(x, a * b), div(mul(x, a), b) -> mul(x, a / b), div(a, mul(x, b)) -> div(a / b, x) ..."""
    outer = factor_of(node)
    inner = factor_of(outer.x.node) if outer is not None else None
    if outer is None or inner is None or {node.name, outer.x.node.name} == {"neg", "reciprocal"}:  # type: ignore[union-attr]
        return None  # neg(reciprocal(x)) is as short as it gets
    if not _owned(outer.x):
        return b.decline("the inner product is also used elsewhere")
    factor = outer.factor / inner.factor if outer.inverted else outer.factor * inner.factor
    made = _scaled(b, inner.x, factor, outer.inverted != inner.inverted, (*outer.sources, *inner.sources))
    return made if made is not None and same_type(made, node.result) else b.decline("the constant leaves its range")


def _scaled(
    b: StagingBuilder, x: Value, factor: np.ndarray, inverted: bool, sources: tuple[Value, ...]
) -> Value | None:
    if factor.ndim == 0 and abs(factor) == 1:
        made = b.reciprocal(x) if inverted else x
        return b.neg(made) if factor < 0 else made
    constant = joined(b, factor, x, sources)
    if constant is None:
        return None
    return b.div(constant, x) if inverted else b.mul(x, constant)


@rule("add", "sub", "neg", numerics="ulp")
def merge_addends(b: StagingBuilder, node: Node):
    """add(add(x, a), b) -> add(x, a + b), sub(b, add(x, a)) -> sub(b - a, x), add(neg(x), c) -> sub(c, x) ..."""
    outer = addend_of(node)
    inner = addend_of(outer.x.node) if outer is not None else None
    if outer is None or inner is None or (node.name == "neg" and outer.x.node.name == "neg"):  # type: ignore[union-attr]
        return None
    if not _owned(outer.x):
        return b.decline("the inner sum is also used elsewhere")
    addend = outer.addend - inner.addend if outer.negated else outer.addend + inner.addend
    negated = outer.negated != inner.negated
    if not negated and addend.ndim == 0 and addend == 0:
        return inner.x if same_type(inner.x, node.result) else None
    constant = joined(b, addend, inner.x, (*outer.sources, *inner.sources))
    if constant is None:
        return b.decline("the constant leaves its range")
    made = b.sub(constant, inner.x) if negated else b.add(inner.x, constant)
    return made if same_type(made, node.result) else None


@rule("add", numerics="ulp")
def addend_into_table(b: StagingBuilder, node: Node):
    """add(add(x, c), slice(table)) -> add(x, slice(table + c)) where c is the same for all rows"""
    for value, cut in (node.operands, node.operands[::-1]):
        sums, rows = producer(value, "add"), producer(cut, "slice")
        table = rows.operands[0] if rows is not None else None
        addend = addend_of(sums)
        if addend is None or table is None or not _owned(value) or not _owned(table):
            continue
        if table.weight is None or table.type.numel > TABLE:  # type: ignore[attr-defined]
            continue
        axes = rows.operand("axes").ints() if rows.operand("axes") is not None else None  # type: ignore[union-attr]
        lead = table.rank - addend.addend.ndim
        if axes is None or lead < 0 or any(a >= lead and addend.addend.shape[a - lead] != 1 for a in axes):
            continue
        numbers = table.array().astype(np.float64) + addend.addend
        made = joined(b, numbers, table, (table, *addend.sources)) if np.isfinite(numbers).all() else None
        if made is not None and numbers.shape == table.shape:
            moved = b.call("slice", (made, *rows.operands[1:]), dict(rows.attrs)).result  # type: ignore[union-attr]
            return b.add(addend.x, moved)
    return None


@rule("neg", numerics="ulp")
def negate_difference(b: StagingBuilder, node: Node):
    """neg(sub(x, y)) -> sub(y, x)"""
    inner = producer(node.operands[0], "sub")
    if inner is None or not _owned(inner.result):
        return None
    x, y = inner.operands
    return None if x.is_const or y.is_const else b.sub(y, x)  # type: ignore[union-attr]


@rule("mul", "div", numerics="ulp")
def merge_distant_factors(b: StagingBuilder, node: Node):
    """mul(f(mul(x, a)), b) -> f(mul(x, a * b)) for numbers, through reshapes, transposes, products and the like"""
    outer = factor_of(node)
    if outer is None or outer.inverted or outer.factor.size != 1 or not same_type(outer.x, node.result):
        return None
    path = _path_to_factor(outer.x)
    if path is None:
        return None
    inner: Factor = factor_of(path[-1])  # type: ignore[assignment]
    number = joined(b, (outer.factor * inner.factor).reshape(()), node.result, (*outer.sources, *inner.sources))
    if number is None:
        return b.decline("the constant leaves its range")
    return _again(b, path, b.mul(inner.x, number))


def _path_to_factor(value: Value) -> list[Node] | None:
    """The linear ops from `value` back to a product with a number, each with one user; the product last. None when there
    is none."""
    path: list[Node] = []
    while len(path) < REACH:
        node = value.node
        if node is None or not _owned(value):
            return None
        found = factor_of(node)
        if found is not None and found.factor.size == 1 and not found.inverted:
            return [*path, node] if path and same_type(found.x, value) else None
        if node.name not in LINEAR or not is_float(value):
            return None
        path.append(node)
        value = node.operands[0]  # type: ignore[assignment]
    return None


def _again(b: StagingBuilder, path: list[Node], value: Value) -> Value:
    """The ops of a path, all but the last, on another value."""
    for node in reversed(path[:-1]):
        value = b.call(node.name, (value, *node.operands[1:]), dict(node.attrs)).result
    return value


@rule("matmul", numerics="ulp")
def factors_of_product(b: StagingBuilder, node: Node):
    """matmul(mul(x, a), mul(y, b)) -> matmul(mul(x, a * b), y) for numbers"""
    sides = [factor_of(v.node) if v.node is not None and _owned(v) else None for v in node.operands]  # type: ignore[union-attr]
    if any(s is None or s.inverted or s.factor.size != 1 for s in sides):
        return None
    left, right = sides
    if not all(same_type(s.x, v) for s, v in zip(sides, node.operands, strict=True)):  # type: ignore[union-attr, arg-type]
        return None
    factor = (left.factor * right.factor).reshape(())  # type: ignore[union-attr]
    number = joined(b, factor, node.result, (*left.sources, *right.sources))  # type: ignore[union-attr]
    return None if number is None else b.matmul(b.mul(left.x, number), right.x)  # type: ignore[union-attr]


@rule("mul", numerics="ulp")
def multiply_by_reciprocal(b: StagingBuilder, node: Node):
    """mul(x, reciprocal(y)) -> div(x, y), mul(x, rsqrt(y)) -> div(x, sqrt(y))"""
    for x, value in (node.operands, node.operands[::-1]):
        inner = producer(value, "reciprocal", "rsqrt")
        if inner is not None and _owned(value) and not x.is_const:  # type: ignore[arg-type, union-attr]
            y = inner.operands[0]
            return b.div(x, b.sqrt(y) if inner.name == "rsqrt" else y)
    return None


@rule("div", numerics="ulp")
def divide_by_quotient(b: StagingBuilder, node: Node):
    """div(x, reciprocal(y)) -> mul(x, y), div(x, rsqrt(y)) -> mul(x, sqrt(y))"""
    x, value = node.operands
    inner = producer(value, "reciprocal", "rsqrt")
    if inner is None or not _owned(value) or x.is_const:  # type: ignore[arg-type, union-attr]
        return None
    y = inner.operands[0]
    return b.mul(x, b.sqrt(y) if inner.name == "rsqrt" else y)


#: pow with these exponents is an op of its own.
_POWERS = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal", 2.0: "square", 1.0: "identity"}


@rule("pow", numerics="ulp")
def power_by_name(b: StagingBuilder, node: Node):
    """pow(x, 0.5) -> sqrt(x), pow(x, -1) -> reciprocal(x), pow(x, -0.5) -> rsqrt(x), pow(x, 2) -> square(x)"""
    x, exponent = node.operands
    if not is_float(x) or not small_const(exponent) or not single(exponent) or not same_type(x, node.result):  # type: ignore
        return None
    name = _POWERS.get(float(exponent.array().reshape(-1)[0]))  # type: ignore[union-attr]
    if name is None:
        return None
    return x if name == "identity" else b.call(name, (x,)).result


@rule("min", "max", *CLIPS, numerics="ulp")
def extrema_to_clip(b: StagingBuilder, node: Node):
    """min(max(x, a), b) -> clip(x, a, b), max(x, 0) -> relu(x), relu(min(x, 6)) -> relu6(x) for numbers a <= b"""
    outer = _bounded(node)
    if outer is None:
        return None
    x, around = outer
    inner = _bounded(x.node)
    if inner is None or not _owned(x):
        if node.name == "max" and around.low == 0:
            return b.relu(x) if same_type(x, node.result) else None
        return None
    if node.name in CLIPS and x.node.name in CLIPS:  # type: ignore[union-attr]
        return None
    low, high = (min(max(v, around.low), around.high) for v in inner[1])
    made = clipped(b, inner[0], Range(low, high))
    return made if same_type(made, node.result) else None


def _bounded(node: Node | None) -> tuple[Value, Range] | None:
    """What a clip, or a min or max with a number, bounds, and by what."""
    if node is None or node.name not in ("min", "max", *CLIPS) or not is_float(node.result):
        return None
    if node.name in CLIPS:
        found = range_of(node)
        return None if found is None else (node.operands[0], found)  # type: ignore[return-value]
    for x, number in (node.operands, node.operands[::-1]):
        constant = _constant(number)
        if constant is not None and constant.size == 1 and not x.is_const:  # type: ignore[union-attr]
            value = float(constant.reshape(-1)[0])
            return x, Range(-np.inf, value) if node.name == "min" else Range(value, np.inf)  # type: ignore[return-value]
    return None


@rule("reduce_sum", "reduce_mean", "reduce_prod", numerics="ulp")
def merge_reductions(b: StagingBuilder, node: Node):
    """reduce_sum(reduce_sum(x, a), b) -> reduce_sum(x, a and b), the same for mean and product"""
    inner = producer(node.operands[0], node.name)
    if inner is None or not is_float(node.result) or not _owned(inner.result):
        return None
    return merged_reductions(b, node)


@rule("reduce_sum", "reduce_mean", numerics="ulp")
def sum_of_one(b: StagingBuilder, node: Node):
    """sum or mean over axes of size 1 -> reshape, or x"""
    return only_element(b, node) if is_float(node.result) else None


REASSOCIATE = (
    merge_factors,
    merge_addends,
    addend_into_table,
    negate_difference,
    merge_distant_factors,
    factors_of_product,
    multiply_by_reciprocal,
    divide_by_quotient,
    power_by_name,
    extrema_to_clip,
    merge_reductions,
    sum_of_one,
)

reassociate = pattern_pass(
    "reassociate",
    REASSOCIATE,
    doc="Products, sums and bounds with constants in fewer operations, equal up to rounding.",
)
