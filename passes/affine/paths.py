"""Where a scale and shift can go: along the values around it, through ops that they commute with, to nodes that take them.

`behind` walks to the producers: each value on the way must be read by the way alone. `before` walks to the users: all of
them must take it. Nothing on the way changes but constants, so a plan is a list of constants (plan.py). Factors
above 0 pass relu and max; shifts pass what keeps means (pools without padding, resize). The ways are short: see REACH.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir.dims import dim_eq, dim_lt
from ...ir.graph import Node, Value
from .affine import Affine, affine, applied, fits, number
from .moves import MOVES, cut, read_alone, spread_parts
from .plan import BEFORE, BEHIND, Plan, is_weight, matmul_behind, scale_operand

#: A value with more users is not followed.
USERS = 8

#: Users that do not look at the elements.
LOOK_ONLY = ("shape", "size")

HOMOGENEOUS = ("relu", "leaky_relu", "prelu", "abs")
MONOTONE = ("max_pool", "global_max_pool", "adaptive_max_pool", "reduce_max", "reduce_min")
LINEAR = ("global_average_pool", "adaptive_average_pool", "reduce_mean", "resize")


def passes(node: Node, made: Affine) -> str | None:
    """Why `node` does not commute with this affine; None when it does (its axes apart)."""
    name = node.name
    if name in HOMOGENEOUS:
        return None if made.grows and not made.shifts else "only a factor above 0 passes an activation"
    if name in MONOTONE:
        return None if made.grows else "only factors above 0 keep the order"
    if name == "average_pool":
        padded = node.attr("count_include_pad") and (
            any(node.attr("pads")) or node.attr("ceil_mode") or node.attr("auto_pad") != "explicit"
        )
        return "the mean counts zeros of the border" if made.shifts and padded else None
    if name == "reduce_sum":
        return "a sum multiplies the shift" if made.shifts else None
    if name == "resize" and node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return "what is extrapolated is a constant"
    if name == "pad":
        return _pad_passes(node, made)
    return None


def _pad_passes(node: Node, made: Affine) -> str | None:
    value = node.operand("value")
    zero = value is None or value.scalar() == 0
    if node.attr("mode") != "constant" or (zero and not made.shifts):
        return None
    return "the border is a constant"


# ------------------------------------------------------------------------------------------------ towards the producers


def behind(plan: Plan, user: Node, index: int, made: Affine) -> str | None:
    """Plan that operand `index` of `user` is computed scaled and shifted; None, or why it cannot be."""
    value = user.operands[index]
    made = made if value is None or value.rank is None else _of_rank(made, value.rank)
    if value is None or not fits(made, value):
        return "the shape would grow"
    if value.weight is not None:
        return plan.put(user, index, applied(made, value.weight))
    node = value.node
    if node is None:
        return "it comes from an input"
    step = _BACK.get(node.name) or (_move_back if node.name in MOVES else None)
    if step is None and node.name not in BEHIND:
        return f"{node.name} takes no scale or shift"
    alone = made if _read_once(value) else read_alone(value, user, made)
    why = plan.visit(node)
    if why is None and alone is None:
        why = _back_from_others(plan, value, user, made)
    if why:
        return why
    made = made if alone is None else alone
    return step(plan, node, made, value) if step is not None else BEHIND[node.name](plan, node, made)


def _back_from_others(plan: Plan, value: Value, user: Node, made: Affine) -> str | None:
    """Plan that what else reads the value takes back the shift that it is to get for `user`: of what a norm yields, by no more
    than its scale, so that no digit is lost on the way."""
    scale = number(value.node.operand("scale"), made.rank) if value.node.name == "layer_norm" else None  # type: ignore
    small = scale is not None and np.abs(made.shift).max() <= np.abs(scale).max()
    if made.scales or not small or value.n_uses > USERS or sum(v is value for v in user.operands) > 1:
        return "the value is also used elsewhere"
    for other, index in value.uses:
        if other is not user and other.name not in LOOK_ONLY:
            why = _user(plan, other, index, value, made._replace(shift=-made.shift))
            if why:
                return why
    return None


def _read_once(value: Value) -> bool:
    return value.n_uses <= USERS and sum(use.node.name not in LOOK_ONLY for use in value.uses) == 1


def _of_rank(made: Affine, rank: int) -> Affine:
    """For an operand of lower rank: without those leading dims of 1."""
    arrays = [
        a.reshape(a.shape[a.ndim - rank :]) if all(n == 1 for n in a.shape[: -rank or None]) else a for a in made[:2]
    ]
    return made._replace(factor=arrays[0], shift=arrays[1]) if rank < made.rank else made


def _move_back(plan: Plan, node: Node, made: Affine, value: Value) -> str | None:
    why = passes(node, made)
    if why:
        return why
    arrays = [MOVES[node.name](node, a, False) for a in (made.factor, made.shift)]
    if any(a is None for a in arrays):
        return f"it varies along an axis that {node.name} changes"
    return behind(plan, node, 0, made._replace(factor=arrays[0], shift=arrays[1]))


def _neg_back(plan: Plan, node: Node, made: Affine, value: Value) -> str | None:
    """f (-x) + s = -(f x - s)"""
    return behind(plan, node, 0, made._replace(shift=-made.shift))


def _sum_back(plan: Plan, node: Node, made: Affine, value: Value) -> str | None:
    """f (x + y) + s: f into both terms, s into one, a constant one if there is any."""
    first, second = (1, 0) if node.operands[1].weight is not None else (0, 1)  # type: ignore[union-attr]
    sign = -1.0 if node.name == "sub" and first == 1 else 1.0
    term = made._replace(shift=sign * made.shift)
    constant = node.operands[first].weight  # type: ignore[union-attr]
    if constant is None:
        return behind(plan, node, first, term) or behind(plan, node, second, made.scale_only())
    why = plan.put(node, first, applied(term, constant))
    return why or (behind(plan, node, second, made.scale_only()) if made.scales else None)


def _product_back(plan: Plan, node: Node, made: Affine, value: Value) -> str | None:
    """f (x y): f into a constant, else into the first factor that takes it."""
    if made.shifts:
        return "a product takes no shift"
    order = (1, 0) if node.operands[1].weight is not None else (0, 1)  # type: ignore[union-attr]
    why = None
    for index in order:
        constant = node.operands[index].weight  # type: ignore[union-attr]
        if constant is not None:
            return plan.put(node, index, applied(made, constant))
        why = plan.attempt(lambda trial, index=index: behind(trial, node, index, made))  # type: ignore[misc]
        if why is None:
            return None
    return why


def _quotient_back(plan: Plan, node: Node, made: Affine, value: Value) -> str | None:
    """f (x / y): f into x, or 1 / f into a constant y."""
    if made.shifts or not np.all(made.factor):
        return "a quotient takes no shift"
    divisor = node.operands[1].weight  # type: ignore[union-attr]
    if divisor is not None:
        return plan.put(node, 1, applied(made._replace(factor=1.0 / made.factor), divisor))
    return behind(plan, node, 0, made)


def _matmul_back(plan: Plan, node: Node, made: Affine, value: Value) -> str | None:
    """Into the weights, else a single factor into what computes one of the operands."""
    why = plan.attempt(lambda trial: matmul_behind(trial, node, made))
    if why is None or made.shifts or made.factor.size > 1:
        return why
    for index, operand in enumerate(node.operands):
        one = affine(operand.rank or 0, made.factor.item())  # type: ignore[union-attr]
        why = plan.attempt(lambda trial, index=index, one=one: behind(trial, node, index, one))  # type: ignore[misc]
        if why is None:
            return None
    return why


def _concat_back(plan: Plan, node: Node, made: Affine, value: Value) -> str | None:
    """Each part takes its own part of the affine."""
    parts = spread_parts(made, [v.shape for v in node.operands], node.attr("axis"))  # type: ignore[union-attr]
    if parts is None:
        return "the sizes of the parts are not known"
    for index, part in enumerate(parts):
        why = behind(plan, node, index, part)
        if why:
            return why
    return None


def _split_back(plan: Plan, node: Node, made: Affine, value: Value) -> str | None:
    """One result of a split: what is split takes it for that part alone."""
    whole = cut(made, [v.shape for v in node.results], value.index, node.attr("axis"))
    return "the sizes of the parts are not known" if whole is None else behind(plan, node, 0, whole)


_BACK: dict[str, Callable[[Plan, Node, Affine, Value], str | None]] = {
    "neg": _neg_back,
    "add": _sum_back,
    "sub": _sum_back,
    "mul": _product_back,
    "div": _quotient_back,
    "matmul": _matmul_back,
    "concat": _concat_back,
    "split": _split_back,
}


# ------------------------------------------------------------------------------------------------ towards the users


def before(plan: Plan, value: Value, made: Affine) -> str | None:
    """Plan that all users of `value` take the affine that it no longer goes through; None, or why they cannot."""
    if not fits(made, value):
        return "the shape would shrink"
    if value.n_uses > USERS:
        return "too many users"
    uses = [use for use in value.uses if use.node.name not in LOOK_ONLY]
    if not uses:
        return "nobody reads it"
    for user, index in uses:
        why = _user(plan, user, index, value, made)
        if why:
            return why
    return None


def _user(plan: Plan, node: Node, index: int, value: Value, made: Affine) -> str | None:
    step = _AHEAD.get(node.name)
    if step is None and node.name not in BEFORE and node.name not in MOVES:
        return f"{node.name} takes no scale or shift"
    if sum(v is value for v in node.operands) > 1:
        return "a node reads it twice"
    why = plan.visit(node)
    if why:
        return why
    if step is not None:
        return step(plan, node, index, made)
    return BEFORE[node.name](plan, node, index, made) if node.name in BEFORE else _move_ahead(plan, node, index, made)


def _move_ahead(plan: Plan, node: Node, index: int, made: Affine) -> str | None:
    why = passes(node, made) if index == 0 else "it is no data"
    if why:
        return why
    arrays = [MOVES[node.name](node, a, True) for a in (made.factor, made.shift)]
    if any(a is None for a in arrays):
        return f"it varies along an axis that {node.name} changes"
    return before(plan, node.result, made._replace(factor=arrays[0], shift=arrays[1]))


def _onward(plan: Plan, node: Node, made: Affine) -> str | None:
    """Behind an elementwise node of the same rank or a higher one."""
    rank = node.result.rank
    return "the rank is not known" if rank is None else before(plan, node.result, affine(rank, made.factor, made.shift))


def _sum_ahead(plan: Plan, node: Node, index: int, made: Affine) -> str | None:
    """f x + s + c = f (x + c') with c' = (c + s) / f, and so for differences; beside a computed term only a shift passes."""
    other = node.operands[1 - index]
    minus = node.name == "sub"
    if other is None or other.weight is None:
        turned = made._replace(shift=-made.shift) if minus and index == 1 else made
        if made.scales:
            return "a sum takes no factor"
        why = plan.attempt(lambda trial: _onward(trial, node, turned))
        return why and plan.attempt(lambda trial: _into_other_term(trial, node, 1 - index, made))
    rank = node.result.rank
    if rank is None or rank != made.rank or not np.all(made.factor):
        return "the ranks differ"
    if node.result.type is not node.operands[index].type:  # type: ignore[union-attr]
        return "the shape would grow"
    moved = affine(rank, 1.0 / made.factor, (-1.0 if minus else 1.0) * made.shift / made.factor)
    why = plan.put(node, 1 - index, applied(moved, other.weight))
    return why or (before(plan, node.result, made.scale_only()) if made.scales else None)


def _into_other_term(plan: Plan, node: Node, index: int, made: Affine) -> str | None:
    """(x + s) + y = x + (y + s); of a difference the other way around."""
    rank = node.operands[index].rank  # type: ignore[union-attr]
    if rank is None or rank < made.rank or node.operands[index].type is not node.result.type:  # type: ignore[union-attr]
        return "the shape would grow"
    return behind(plan, node, index, affine(rank, shift=-made.shift if node.name == "sub" else made.shift))


def _neg_ahead(plan: Plan, node: Node, index: int, made: Affine) -> str | None:
    return before(plan, node.result, made._replace(shift=-made.shift))


def _product_ahead(plan: Plan, node: Node, index: int, made: Affine) -> str | None:
    """(f x + s) c = x (f c) + s c; beside a computed factor only a factor passes."""
    other = node.operands[1 - index]
    if other is None or other.weight is None:
        return "a product takes no shift" if made.shifts else _onward(plan, node, made)
    if node.result.type is not node.operands[index].type:  # type: ignore[union-attr]
        return "the shape would grow"
    array = number(other, made.rank)
    if array is None:
        return "the constant is large"
    why = plan.put(node, 1 - index, applied(made.scale_only(), other.weight)) if made.scales else None
    if why or not made.shifts:
        return why
    return before(plan, node.result, affine(made.rank, shift=made.shift * affine(made.rank, array).factor))


def _quotient_ahead(plan: Plan, node: Node, index: int, made: Affine) -> str | None:
    """(f x) / c = x / (c / f); beside a computed operand only a factor passes."""
    other = node.operands[1 - index]
    if made.shifts or not np.all(made.factor):
        return "a quotient takes no shift"
    if index == 1:
        made = made._replace(factor=1.0 / made.factor)
    if other is None or other.weight is None:
        return _onward(plan, node, made)
    if node.result.type is not node.operands[index].type:  # type: ignore[union-attr]
        return "the shape would grow"
    factor = made.factor if index == 1 else 1.0 / made.factor
    return plan.put(node, 1 - index, applied(made._replace(factor=factor), other.weight))


def _matmul_ahead(plan: Plan, node: Node, index: int, made: Affine) -> str | None:
    """Along the inner axis into the weights, a shift also behind them; across it, or as a single factor, onward."""
    weight, rank = node.operands[1 - index], node.result.rank
    inner = made.rank - 1 if index == 0 else max(made.rank - 2, 0)
    if weight is None or weight.rank is None or rank is None:
        return "the rank is not known"
    if index == 1 and min(made.rank, weight.rank) >= 2 and not made.scales and not is_weight(weight):
        return _attention_ahead(plan, node, made)
    arrays = (made.factor, made.shift)
    if any(n != 1 for a in arrays for i, n in enumerate(a.shape) if i != inner):
        return "it varies across the inner axis"
    if not is_weight(weight):
        if made.shifts or made.factor.size > 1:
            return "only a single factor passes a product of computed values"
        return before(plan, node.result, affine(rank, made.factor.item()))
    size = weight.shape
    axis = max(len(size) - 2, 0) if index == 0 else len(size) - 1
    shape = [-1 if i == axis else 1 for i in range(len(size))]
    why = scale_operand(plan, node, 1 - index, made.factor.reshape(shape))
    if why or not made.shifts:
        return why
    array = number(weight, len(size))
    if array is None or min(len(size), made.rank) < 2:
        return "the weights are large"
    added = (array * made.shift.reshape(shape)).sum(axis, keepdims=True)
    return before(plan, node.result, affine(rank, shift=added)) if added.ndim <= rank else "the ranks differ"


def _attention_ahead(plan: Plan, node: Node, made: Affine) -> str | None:
    """P (v + c) = P v + c, the rows of a softmax P having the sum 1; q (k + c) = q k + d with a d per row, which a softmax of the
    rows does not see (Vaswani et al., 2017, section 3.2.1, for what reads keys and values)."""
    weights, (rows, columns) = node.operands[0], made.shift.shape[-2:]
    if not _softmax_of_rows(weights.node):  # type: ignore[union-attr]
        return _unseen(plan, node.result) if columns == 1 else "only sums with weights of a softmax keep a shift"
    if rows > 1 or weights.shape is None:  # type: ignore[union-attr]
        return "it varies across the inner axis"
    queries, keys = weights.shape[-2:]  # type: ignore[union-attr]
    if not (dim_lt(0, keys) or dim_eq(queries, keys)):
        return "there may be nothing to sum"
    return before(plan, node.result, affine(node.result.rank, shift=made.shift))  # type: ignore[arg-type]


def _softmax_of_rows(node: Node | None) -> bool:
    return node is not None and node.name == "softmax" and node.attr("axis") in (-1, node.result.rank - 1)  # type: ignore[operator]


def _unseen(plan: Plan, value: Value) -> str | None:
    """Plan nothing where a softmax of the rows takes `value`, scaled by row and with anything added; else why it may not."""
    user = value.single_user()
    if user is None:
        return "it is not one softmax that reads it"
    why = plan.visit(user)
    if why or _softmax_of_rows(user):
        return why
    other = next((v for v in user.operands if v is not value), None)
    if user.name in ("mul", "div") and user.operands[0] is value:
        same = other is not None and other.shape is not None and other.shape[-1:] in ((), (1,))
    else:
        same = user.name in ("add", "sub") and other is not None
    return _unseen(plan, user.result) if same else f"{user.name} takes no shift of rows"


def _concat_ahead(plan: Plan, node: Node, index: int, made: Affine) -> str | None:
    whole = cut(made, [v.shape for v in node.operands], index, node.attr("axis"))  # type: ignore[union-attr]
    return "the sizes of the parts are not known" if whole is None else before(plan, node.result, whole)


def _split_ahead(plan: Plan, node: Node, index: int, made: Affine) -> str | None:
    parts = spread_parts(made, [v.shape for v in node.results], node.attr("axis")) if index == 0 else None
    if parts is None:
        return "the sizes of the parts are not known"
    for value, part in zip(node.results, parts, strict=True):
        why = before(plan, value, part) if value.n_uses and (part.scales or part.shifts) else None
        if why:
            return why
    return None


_AHEAD: dict[str, Callable[[Plan, Node, int, Affine], str | None]] = {
    "neg": _neg_ahead,
    "add": _sum_ahead,
    "sub": _sum_ahead,
    "mul": _product_ahead,
    "div": _quotient_ahead,
    "matmul": _matmul_ahead,
    "concat": _concat_ahead,
    "split": _split_ahead,
}

#: Ops, data movement apart, that an affine may be behind and still reach what takes it.
PASSED_BACK = tuple(_BACK)
