"""aten elementwise operators: arithmetic, comparison, logic, bits, clamp, where, casts. Promotion as in `promotion`.

Must not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ...ir.errors import InvalidModel, Unsupported
from ...ir.types import BOOL, F32, DType
from ...ir.value import Value
from .context import LOW_PRECISION, Context, exactly
from .promotion import result_type
from .registry import Bool, Dtype, Int, Number, Operand, Scalar, Str, Tensor, Tensors, handles

# ------------------------------------------------------------------------------------------------------ unary

_KEEP = {  # any number in, the same dtype out
    "abs": "abs", "absolute": "abs", "neg": "neg", "negative": "neg", "sign": "sign", "sgn": "sign", "square": "square",
}  # fmt: skip
_FLOAT = {  # ints become floats first
    "exp": "exp", "log": "log", "sqrt": "sqrt", "rsqrt": "rsqrt", "reciprocal": "reciprocal", "erf": "erf",
    "special_erf": "erf", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan",
    "sinh": "sinh", "cosh": "cosh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "log1p": "log1p",
    "expm1": "expm1", "special_expm1": "expm1", "sigmoid": "sigmoid", "special_expit": "sigmoid", "tanh": "tanh",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
    "softsign": "softsign",
}  # fmt: skip
_ROUNDING = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "fix": "trunc"}


def _one_to_one(name: str, convert: Callable[[Context, Value], Value], skip_ints: bool = False) -> Any:
    def handler(c: Context, self: Tensor) -> Value:
        if skip_ints and self.dtype is not None and not self.dtype.is_float:
            return self
        return c.b.call(name, (convert(c, self),)).result

    return handler


def _signed(c: Context, x: Value) -> Value:
    if x.dtype is BOOL:
        raise Unsupported("arithmetic on a bool tensor")
    return x


for _aten, _op in _KEEP.items():
    handles(f"aten.{_aten}")(_one_to_one(_op, _signed))
for _aten, _op in _FLOAT.items():
    handles(f"aten.{_aten}")(_one_to_one(_op, Context.as_float))
for _aten, _op in _ROUNDING.items():
    handles(f"aten.{_aten}")(_one_to_one(_op, lambda c, x: x, skip_ints=True))


@handles("aten.round")
def round_(c: Context, self: Tensor, decimals: Int = 0) -> Value:
    """Halves to even; with `decimals`, x * 10^d is rounded and divided again."""
    if self.dtype is not None and not self.dtype.is_float:
        return self
    if not decimals:
        return c.b.round(self)
    if abs(decimals) > 30:
        raise Unsupported(f"round to {decimals} decimals")
    scale = c.like(10.0 ** abs(decimals), self)
    up, down = (c.b.mul, c.b.div) if decimals > 0 else (c.b.div, c.b.mul)
    return down(c.b.round(up(self, scale)), scale)


@handles("aten.log2", "aten.log10", "aten.exp2", "aten.special_exp2")
def log_base(c: Context, self: Tensor) -> Value:
    """Logarithms and powers of other bases."""
    x = c.as_float(self)
    if "exp2" in c.node.target:
        return c.b.pow(c.like(2.0, x), x)
    base = 2.0 if "log2" in c.node.target else 10.0
    return c.b.div(c.b.log(x), c.like(math.log(base), x))


@handles("aten.erfc", "aten.special_erfc")
def erfc(c: Context, self: Tensor) -> Value:
    x = c.as_float(self)
    return c.b.sub(c.like(1, x), c.b.erf(x))


@handles("aten.frac")
def frac(c: Context, self: Tensor) -> Value:
    return c.b.sub(self, c.b.trunc(self))


@handles("aten.deg2rad", "aten.rad2deg")
def degrees(c: Context, self: Tensor) -> Value:
    x = c.as_float(self)
    factor = math.pi / 180 if "deg2rad" in c.node.target else 180 / math.pi
    return c.b.mul(x, c.like(factor, x))


@handles("aten.logit", "aten.special_logit")
def logit(c: Context, self: Tensor, eps: Number | None = None) -> Value:
    """log(x / (1 - x)), x clamped to [eps, 1 - eps]."""
    x = c.as_float(self)
    if eps is not None:
        x = c.b.clip(x, c.like(eps, x), c.like(1 - eps, x))
    return c.b.log(c.b.div(x, c.b.sub(c.like(1, x), x)))


@handles("aten.sinc", "aten.special_sinc")
def sinc(c: Context, self: Tensor) -> Value:
    x = c.as_float(self)
    angle = c.b.mul(x, c.like(math.pi, x))
    return c.b.where(c.b.equal(x, c.like(0, x)), c.like(1, x), c.b.div(c.b.sin(angle), angle))


@handles("aten.nan_to_num")
def nan_to_num(
    c: Context, self: Tensor, nan: Number | None = None, posinf: Number | None = None, neginf: Number | None = None
) -> Value:
    """NaN and the infinities replaced: by 0 and the largest finite numbers where no others are given."""
    if self.dtype is None or not self.dtype.is_float:
        return self
    import ml_dtypes

    b, info = c.b, ml_dtypes.finfo(self.dtype.numpy)
    x = b.where(b.is_nan(self), c.like(nan if nan is not None else 0.0, self), self)
    top = float(info.max) if posinf is None else posinf
    low = float(info.min) if neginf is None else neginf
    x = b.where(b.is_inf(self, detect_negative=False), c.like(top, self), x)
    return b.where(b.is_inf(self, detect_positive=False), c.like(low, self), x)


# -------------------------------------------------------------------------------------------------- arithmetic


def _arithmetic(c: Context, op: str, *operands: Any) -> Value:
    """Combine in the promoted dtype. A Python number that a 16-bit float cannot hold is not rounded to it: torch
    computes these dtypes in f32 and rounds the result once."""
    dtype = result_type(operands)
    if dtype is BOOL:
        return _boolean(c, op, [c.value(item, BOOL) for item in operands])
    if _needs_f32(dtype, operands):
        wide = c.b.call(op, [c.value(item, F32) for item in operands]).result
        return c.cast(wide, dtype)
    return c.b.call(op, [c.value(item, dtype) for item in operands]).result


def _needs_f32(dtype: DType, operands: tuple) -> bool:
    if not dtype.is_float or dtype.bits > LOW_PRECISION:
        return False
    numbers = [item for item in operands if not isinstance(item, Value)]
    return any(not isinstance(item, int | float) or not exactly(item, dtype) for item in numbers)


_LOGICAL = {"add": "or", "mul": "and", "max": "or", "min": "and"}


def _boolean(c: Context, op: str, values: list[Value]) -> Value:
    if op not in _LOGICAL:
        raise Unsupported(f"{op} of bools")
    return c.b.call(_LOGICAL[op], values).result


def _scaled(c: Context, other: Any, alpha: Any) -> Any:
    """`alpha * other`."""
    if not isinstance(alpha, bool) and isinstance(alpha, int | float) and alpha == 1:
        return other
    return _arithmetic(c, "mul", other, alpha) if isinstance(other, Value) else other * alpha


@handles("aten.add", "aten._add_relu")
def add(c: Context, self: Operand, other: Operand, alpha: Scalar = 1) -> Value:
    total = _arithmetic(c, "add", self, _scaled(c, other, alpha))
    return c.b.relu(total) if "relu" in c.node.target else total


@handles("aten.sub", "aten.subtract")
def sub(c: Context, self: Operand, other: Operand, alpha: Scalar = 1) -> Value:
    return _arithmetic(c, "sub", self, _scaled(c, other, alpha))


@handles("aten.rsub")
def rsub(c: Context, self: Operand, other: Operand, alpha: Scalar = 1) -> Value:
    return _arithmetic(c, "sub", other, _scaled(c, self, alpha))


@handles("aten.mul", "aten.multiply")
def mul(c: Context, self: Operand, other: Operand) -> Value:
    return _arithmetic(c, "mul", self, other)


@handles("aten.div", "aten.divide", "aten.true_divide")
def div(c: Context, self: Operand, other: Operand, rounding_mode: Str | None = None) -> Value:
    """True division gives floats, also of ints; `rounding_mode` trunc or floor keeps the promoted dtype."""
    if rounding_mode == "floor":
        return _arithmetic(c, "floor_div", self, other)
    if rounding_mode == "trunc":
        quotient = _arithmetic(c, "div", self, other)
        return c.b.trunc(quotient) if quotient.dtype is not None and quotient.dtype.is_float else quotient
    if rounding_mode is not None:
        raise InvalidModel(f"rounding mode {rounding_mode!r}")
    dtype = result_type((self, other))
    if dtype.is_float:
        return _arithmetic(c, "div", self, other)
    return c.b.div(c.value(self, F32), c.value(other, F32))


@handles("aten.floor_divide")
def floor_divide(c: Context, self: Operand, other: Operand) -> Value:
    return _arithmetic(c, "floor_div", self, other)


@handles("aten.remainder")
def remainder(c: Context, self: Operand, other: Operand) -> Value:
    """The remainder with the sign of the divisor."""
    return _arithmetic(c, "mod", self, other)


@handles("aten.fmod")
def fmod(c: Context, self: Operand, other: Operand) -> Value:
    """The remainder with the sign of the dividend."""
    (x, y), _ = c.promoted(self, other)
    return c.b.mod(x, y, fmod=True)


@handles("aten.pow")
def pow_(c: Context, self: Operand, exponent: Operand) -> Value:
    if (
        isinstance(exponent, int | float)
        and not isinstance(exponent, bool)
        and exponent == 2
        and isinstance(self, Value)
    ):
        dtype = result_type((self, exponent))
        return c.b.square(c.cast(self, dtype))
    return _arithmetic(c, "pow", self, exponent)


@handles("aten.float_power")
def float_power(c: Context, self: Operand, exponent: Operand) -> Value:
    return c.b.pow(c.value(self, c.dtype), c.value(exponent, c.dtype))


@handles("aten.maximum", "aten.max.other")
def maximum(c: Context, self: Tensor, other: Tensor) -> Value:
    return _arithmetic(c, "max", self, other)


@handles("aten.minimum", "aten.min.other")
def minimum(c: Context, self: Tensor, other: Tensor) -> Value:
    return _arithmetic(c, "min", self, other)


@handles("aten.fmax", "aten.fmin")
def fmax(c: Context, self: Tensor, other: Tensor) -> Value:
    """Like maximum and minimum, but a number wins over NaN."""
    (x, y), dtype = c.promoted(self, other)
    chosen = c.b.max(x, y) if "fmax" in c.node.target else c.b.min(x, y)
    if not dtype.is_float:
        return chosen
    return c.b.where(c.b.is_nan(x), y, c.b.where(c.b.is_nan(y), x, chosen))


@handles("aten.atan2", "aten.arctan2")
def atan2(c: Context, self: Tensor, other: Tensor) -> Value:
    return c.b.atan2(c.cast(self, c.dtype), c.cast(other, c.dtype))


@handles("aten.hypot")
def hypot(c: Context, self: Tensor, other: Tensor) -> Value:
    (x, y), _ = c.promoted(self, other)
    return c.b.sqrt(c.b.add(c.b.square(x), c.b.square(y)))


@handles("aten.xlogy", "aten.special_xlogy")
def xlogy(c: Context, self: Operand, other: Operand) -> Value:
    """x * log(y), 0 where x is 0 and y is no NaN."""
    x, y = c.value(self, c.dtype), c.value(other, c.dtype)
    zero = c.const(0, c.dtype)
    vanishes = c.b.and_(c.b.equal(x, zero), c.b.not_(c.b.is_nan(y)))
    return c.b.where(vanishes, zero, c.b.mul(x, c.b.log(y)))


@handles("aten.logaddexp", "aten.logaddexp2")
def logaddexp(c: Context, self: Tensor, other: Tensor) -> Value:
    """log(exp(x) + exp(y)) without overflow: max + log1p(exp(-|x - y|))."""
    (x, y), _ = c.promoted(self, other)
    b = c.b
    gap = b.neg(b.abs(b.sub(x, y)))
    if "logaddexp2" in c.node.target:
        two = c.like(math.log(2), x)
        return b.add(b.max(x, y), b.div(b.log1p(b.exp(b.mul(gap, two))), two))
    return b.add(b.max(x, y), b.log1p(b.exp(gap)))


@handles("aten.addcmul", "aten.addcdiv")
def addcmul(c: Context, self: Tensor, tensor1: Tensor, tensor2: Tensor, value: Number = 1) -> Value:
    """self + value * tensor1 * tensor2 (or / tensor2)."""
    term = _arithmetic(c, "div" if "addcdiv" in c.node.target else "mul", tensor1, tensor2)
    return _arithmetic(c, "add", self, _scaled(c, term, value))


@handles("aten.lerp")
def lerp(c: Context, self: Tensor, end: Tensor, weight: Operand) -> Value:
    """self + weight * (end - self), from the other end where weight is at least one half, as torch does."""
    b, w = c.b, c.value(weight, c.dtype)
    gap = b.sub(end, self)
    near = b.add(self, b.mul(w, gap))
    far = b.sub(end, b.mul(gap, b.sub(c.like(1, w), w)))
    return b.where(b.less(b.abs(w), c.like(0.5, w)), near, far)


@handles("aten.heaviside")
def heaviside(c: Context, self: Tensor, values: Tensor) -> Value:
    b, zero = c.b, c.like(0, self)
    step = c.cast(b.greater(self, zero), c.dtype)
    return b.where(b.equal(self, zero), values, step)


# -------------------------------------------------------------------------------------------------- comparison

_COMPARE = {
    "eq": "equal", "ne": "not_equal", "not_equal": "not_equal", "lt": "less", "less": "less", "le": "less_equal",
    "less_equal": "less_equal", "gt": "greater", "greater": "greater", "ge": "greater_equal",
    "greater_equal": "greater_equal",
}  # fmt: skip


def _comparison(name: str) -> Any:
    def handler(c: Context, self: Operand, other: Operand) -> Value:
        dtype = result_type((self, other))
        wide = F32 if _needs_f32(dtype, (self, other)) else dtype
        x, y = c.value(self, wide), c.value(other, wide)
        if dtype is BOOL and name not in ("equal", "not_equal"):
            x, y = (c.b.cast(v, to=F32) for v in (x, y))
        return c.b.call(name, (x, y)).result

    return handler


for _aten, _op in _COMPARE.items():
    handles(f"aten.{_aten}")(_comparison(_op))


@handles("aten.isnan", "aten.isinf", "aten.isposinf", "aten.isneginf")
def is_special(c: Context, self: Tensor) -> Value:
    name = c.node.target.split(".")[1]
    if self.dtype is None or not self.dtype.is_float:
        return c.b.expand(c.const(False, BOOL), c.sizes(self.shape or ()))
    if name == "isnan":
        return c.b.is_nan(self)
    return c.b.is_inf(self, detect_positive=name != "isneginf", detect_negative=name != "isposinf")


@handles("aten.isfinite")
def isfinite(c: Context, self: Tensor) -> Value:
    if self.dtype is None or not self.dtype.is_float:
        return c.b.expand(c.const(True, BOOL), c.sizes(self.shape or ()))
    return c.b.not_(c.b.or_(c.b.is_nan(self), c.b.is_inf(self)))


@handles("aten.isclose")
def isclose(
    c: Context, self: Tensor, other: Tensor, rtol: Number = 1e-5, atol: Number = 1e-8, equal_nan: Bool = False
) -> Value:
    """|x - y| <= atol + rtol * |y|, or equal."""
    b = c.b
    x, y = c.as_float(self), c.as_float(other)
    bound = b.add(b.mul(b.abs(y), c.like(rtol, y)), c.like(atol, y))
    gap = b.abs(b.sub(x, y))
    close = b.or_(b.equal(x, y), b.and_(b.less_equal(gap, bound), b.not_(b.is_inf(gap))))
    return b.or_(close, b.and_(b.is_nan(x), b.is_nan(y))) if equal_nan else close


_LOGIC = {"logical_and": "and", "logical_or": "or", "logical_xor": "xor"}
_BITS = {"and": "and", "or": "or", "xor": "xor"}


@handles("aten.logical_and", "aten.logical_or", "aten.logical_xor")
def logical(c: Context, self: Tensor, other: Tensor) -> Value:
    name = _LOGIC[c.node.target.split(".")[1].rstrip("_")]
    return c.b.call(name, (c.cast(self, BOOL), c.cast(other, BOOL))).result


@handles("aten.logical_not")
def logical_not(c: Context, self: Tensor) -> Value:
    return c.b.not_(c.cast(self, BOOL))


@handles("aten.bitwise_not")
def bitwise_not(c: Context, self: Tensor) -> Value:
    return c.b.not_(self) if self.dtype is BOOL else c.b.bitwise_not(self)


def _bitwise(name: str) -> Any:
    def handler(c: Context, self: Operand, other: Operand) -> Value:
        (x, y), dtype = c.promoted(self, other)
        return c.b.call(name if dtype is BOOL else f"bitwise_{name}", (x, y)).result

    return handler


for _op in _BITS:
    handles(f"aten.bitwise_{_op}", f"aten.__{_op}__")(_bitwise(_op))


@handles("aten.bitwise_left_shift", "aten.bitwise_right_shift", "aten.__lshift__", "aten.__rshift__")
def shift(c: Context, self: Operand, other: Operand) -> Value:
    (x, y), dtype = c.promoted(self, other)
    left = "left" in c.node.target or "lshift" in c.node.target
    if dtype.kind == "int" and left:
        return c.b.mul(x, c.b.pow(c.like(2, x), y))
    if dtype.kind == "int":
        return c.b.floor_div(x, c.b.pow(c.like(2, x), y))
    return c.b.bit_shift(x, y, direction="LEFT" if left else "RIGHT")


# ------------------------------------------------------------------------------------------- where, clamp, cast


@handles("aten.where")
def where(c: Context, condition: Tensor, self: Operand, other: Operand) -> Value:
    (x, y), _ = c.promoted(self, other)
    return c.b.where(c.cast(condition, BOOL), x, y)


@handles("aten.masked_fill")
def masked_fill(c: Context, self: Tensor, mask: Tensor, value: Operand) -> Value:
    assert self.dtype is not None
    return c.b.where(mask, c.value(value, self.dtype), self)


@handles("aten.clamp", "aten.clip")
def clamp(c: Context, self: Tensor, min: Operand | None = None, max: Operand | None = None) -> Value:
    """Bounds take part in promotion; where min is above max the result is max."""
    if min is None and max is None:
        raise InvalidModel("clamp with neither min nor max")
    bounds = [item for item in (min, max) if item is not None]
    dtype = result_type((self, *bounds))
    x = c.cast(self, dtype)
    low, high = (None if item is None else c.value(item, dtype) for item in (min, max))
    if all(item is None or item.rank == 0 for item in (low, high)):
        return c.b.clip(x, low, high)
    x = x if low is None else c.b.max(x, low)
    return x if high is None else c.b.min(x, high)


@handles("aten.clamp_min")
def clamp_min(c: Context, self: Tensor, min: Operand) -> Value:
    return clamp(c, self, min)


@handles("aten.clamp_max")
def clamp_max(c: Context, self: Tensor, max: Operand) -> Value:
    return clamp(c, self, None, max)


@handles("aten.to", "aten._to_copy", "aten.type_as")
def to(c: Context, self: Tensor, dtype: Dtype | None = None, other: Tensor | None = None) -> Value:
    """Another dtype; another device or memory format is nothing here."""
    wanted = dtype or (other.dtype if other is not None else None)
    return self if wanted is None else c.cast(self, wanted)


@handles(
    "aten.alias", "aten.detach", "aten.detach_", "aten.clone", "aten.contiguous", "aten.lift_fresh_copy",
    "aten.lift_fresh", "aten.positive", "aten._conj", "aten.resolve_conj", "aten.resolve_neg", "aten.real", "aten.requires_grad_",
)  # fmt: skip
def same(c: Context, self: Tensor) -> Value:
    return self


@handles("aten.copy")
def copy(c: Context, self: Tensor, src: Tensor) -> Value:
    """`src` in the shape and dtype of `self`."""
    assert self.dtype is not None
    made = c.cast(src, self.dtype)
    return made if made.shape == self.shape else c.b.expand(made, c.sizes(self.shape or ()))


@handles("aten.fill")
def fill(c: Context, self: Tensor, value: Operand) -> Value:
    assert self.dtype is not None
    return c.b.expand(c.value(value, self.dtype), c.sizes(self.shape or ()))


@handles("aten.zero")
def zero(c: Context, self: Tensor) -> Value:
    return fill(c, self, 0)


@handles("aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.feature_alpha_dropout")
def dropout(c: Context, input: Tensor, p: Number, train: Bool) -> Value:
    if train and p:
        raise Unsupported("dropout in training mode", hint="call .eval() on the module before it is exported")
    return input


@handles("aten.native_dropout")
def native_dropout(c: Context, input: Tensor, p: Number, train: Bool | None = None) -> tuple[Value | None, ...]:
    return dropout(c, input, p, bool(train)), None


@handles("aten.broadcast_tensors")
def broadcast_tensors(c: Context, tensors: Tensors) -> tuple[Value, ...]:
    shape = c.sizes(c.shape)
    return tuple(c.b.expand(item, shape) for item in tensors)
