"""Truth values: negations pushed into comparisons, bools that went through numbers, selections that are decided."""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.types import BOOL
from ..optimize.common import is_float, producer, same_shape, same_type, single, small_const
from ..pattern import literal_equals
from ..rewrite import StagingBuilder, rule

#: not(op(x, y)) as one op; the ordered ones only without NaN, of which both are false.
_OPPOSITE = {"equal": "not_equal", "not_equal": "equal"}
_OPPOSITE_ORDER = {"less": "greater_equal", "less_equal": "greater", "greater": "less_equal", "greater_equal": "less"}


@rule("where")
def where_not(b: StagingBuilder, node: Node):
    """where(not(c), x, y) -> where(c, y, x)"""
    cond, x, y = node.operands
    inner = producer(cond, "not")
    return b.where(inner.operands[0], y, x) if inner is not None else None


@rule("not")
def not_of_comparison(b: StagingBuilder, node: Node):
    """not(equal(x, y)) -> not_equal(x, y); not(less(x, y)) -> greater_equal(x, y) for integers"""
    inner = producer(node.operands[0], *_OPPOSITE, *_OPPOSITE_ORDER)
    if inner is None:
        return None
    if inner.name in _OPPOSITE:
        return b.call(_OPPOSITE[inner.name], inner.operands).result
    if is_float(inner.operands[0]):  # type: ignore[arg-type]
        return b.decline("with NaN, less and greater_equal are both false")
    return b.call(_OPPOSITE_ORDER[inner.name], inner.operands).result


@rule("where")
def where_decided(b: StagingBuilder, node: Node):
    """where(true, x, y), where(c, x, x) -> x"""
    cond, x, y = node.operands
    if x is y:
        chosen = x
    elif small_const(cond) and cond.type.numel:  # type: ignore[attr-defined, union-attr]
        truth = cond.array()  # type: ignore[union-attr]
        chosen = x if truth.all() else y if not truth.any() else None
    else:
        return None
    return chosen if chosen is not None and same_type(chosen, node.result) else None


@rule("where")
def where_of_numbers(b: StagingBuilder, node: Node):
    """where(c, 1, 0) -> cast(c), where(c, true, false) -> c"""
    cond, x, y = node.operands
    dtype = node.result.dtype
    if (
        dtype is None
        or not (dtype.is_numeric or dtype is BOOL)
        or dtype.kind == "complex"
        or not same_shape(cond, node.result)
    ):  # type: ignore[arg-type]
        return None
    if not all(small_const(v) and single(v) for v in (x, y)):  # type: ignore[arg-type]
        return None
    for first, second, truth in ((x, y, cond), (y, x, None)):
        if literal_equals(first, 1) and literal_equals(second, 0):  # type: ignore[arg-type]
            made = truth if truth is not None else b.not_(cond)
            return made if dtype is BOOL else b.cast(made, to=dtype)
    return None


@rule("and", "or", "xor", "equal", "not_equal")
def logic_with_constant(b: StagingBuilder, node: Node):
    """and(x, true), or(x, false), xor(x, false), equal(x, true) -> x; xor(x, true), equal(x, false) -> not(x)"""
    x, c = node.operands
    if x.dtype is not BOOL or not small_const(c) or not same_type(x, node.result):  # type: ignore[union-attr, arg-type]
        return None
    truth = c.array()  # type: ignore[union-attr]
    if not truth.size or truth.any() != truth.all():
        return None
    keeps = {"and": True, "or": False, "xor": False, "equal": True, "not_equal": False}[node.name]
    if bool(truth.all()) is keeps:
        return x
    if node.name not in ("and", "or"):
        return b.not_(x)
    shape = node.result.type.is_static and c.shape == node.result.shape  # type: ignore[attr-defined, union-attr]
    return c if shape else b.decline("a constant of that shape would be needed")


@rule("equal", "not_equal", "greater", "less")
def comparison_of_bool(b: StagingBuilder, node: Node):
    """not_equal(cast(c), 0), greater(cast(c), 0), equal(cast(c), 1) -> c; equal(cast(c), 0), less(cast(c), 1) -> not(c)"""
    inner, number = producer(node.operands[0], "cast"), node.operands[1]
    if inner is None or inner.operands[0].dtype is not BOOL or not small_const(number) or not single(number):  # type: ignore
        return None
    if not (inner.result.dtype.is_int or is_float(inner.result)):  # type: ignore[union-attr]
        return None
    cond = inner.operands[0]
    for value, same in ((0, ("not_equal", "greater")), (1, ("equal",))):
        if literal_equals(number, value):  # type: ignore[arg-type]
            if node.name in same:
                made = cond
            elif (node.name, value) in (("equal", 0), ("not_equal", 1), ("less", 1)):
                made = b.not_(cond)
            else:
                return None
            return made if same_type(made, node.result) else None
    return None


RULES = (
    where_not,
    not_of_comparison,
    where_decided,
    where_of_numbers,
    logic_with_constant,
    comparison_of_bool,
    "not(not(x)) -> x",
)
