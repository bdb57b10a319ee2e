"""aten activations and softmax. Must not import torch."""

from __future__ import annotations

from typing import Any

from ...ir.errors import Unsupported
from ...ir.types import F32
from ...ir.value import Value
from .context import Context
from .registry import Bool, Dtype, Int, Number, Str, Tensor, handles

_PLAIN = {"relu": "relu", "relu6": "relu6", "silu": "silu", "mish": "mish", "hardswish": "hard_swish"}


def _plain(name: str) -> Any:
    def handler(c: Context, self: Tensor) -> Value:
        if self.dtype is not None and not self.dtype.is_float:  # relu and relu6 of ints
            return c.b.clip(self, c.like(0, self), c.like(6, self) if name == "relu6" else None)
        return c.b.call(name, (self,)).result

    return handler


for _aten, _op in _PLAIN.items():
    handles(f"aten.{_aten}")(_plain(_op))


@handles("aten.hardsigmoid")
def hardsigmoid(c: Context, self: Tensor) -> Value:
    """relu6(x + 3) / 6."""
    return c.b.hard_sigmoid(self, alpha=1 / 6, beta=0.5)


@handles("aten.hardtanh")
def hardtanh(c: Context, self: Tensor, min_val: Number = -1, max_val: Number = 1) -> Value:
    return c.b.clip(self, c.like(min_val, self), c.like(max_val, self))


@handles("aten.leaky_relu")
def leaky_relu(c: Context, self: Tensor, negative_slope: Number = 0.01) -> Value:
    return c.b.leaky_relu(self, alpha=float(negative_slope))


@handles("aten.rrelu")
def rrelu(
    c: Context,
    self: Tensor,
    lower: Number = 0.125,
    upper: Number = 1 / 3,
    training: Bool = False,
    generator: Any = None,
) -> Value:
    if training:
        raise Unsupported("rrelu in training mode", hint="call .eval() on the module before it is exported")
    return c.b.leaky_relu(self, alpha=(lower + upper) / 2)


@handles("aten.prelu", "aten._prelu_kernel")
def prelu(c: Context, self: Tensor, weight: Tensor) -> Value:
    """One slope for all, or one for each channel (dimension 1)."""
    rank = c.rank(self)
    if c.rank(weight) == 1 and rank > 1:
        weight = c.reshape(weight, (c.size(weight, 0), *[1] * (rank - 2)))
    return c.b.prelu(self, weight)


@handles("aten.elu")
def elu(c: Context, self: Tensor, alpha: Number = 1, scale: Number = 1, input_scale: Number = 1) -> Value:
    """scale * (max(0, x) + min(0, alpha * (exp(input_scale * x) - 1)))."""
    if input_scale != 1:
        x = c.b.mul(self, c.like(input_scale, self))
        below = c.b.mul(c.b.expm1(x), c.like(alpha, self))
        y = c.b.where(c.b.greater(self, c.like(0, self)), self, below)
    else:
        y = c.b.elu(self, alpha=float(alpha))
    return y if scale == 1 else c.b.mul(y, c.like(scale, y))


@handles("aten.selu")
def selu(c: Context, self: Tensor) -> Value:
    return c.b.selu(self, alpha=1.6732632423543772848170429916717, gamma=1.0507009873554804934193349852946)


@handles("aten.celu")
def celu(c: Context, self: Tensor, alpha: Number = 1.0) -> Value:
    return c.b.celu(self, alpha=float(alpha))


@handles("aten.gelu")
def gelu(c: Context, self: Tensor, approximate: Str = "none") -> Value:
    return c.b.gelu(self, approximate=approximate)


@handles("aten.softplus")
def softplus(c: Context, self: Tensor, beta: Number = 1, threshold: Number = 20) -> Value:
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x is above the threshold."""
    scaled = self if beta == 1 else c.b.mul(self, c.like(beta, self))
    soft = c.b.softplus(scaled)
    soft = soft if beta == 1 else c.b.div(soft, c.like(beta, soft))
    if threshold >= 20 and self.dtype is F32:  # there log1p(exp(x)) is x in f32
        return soft
    return c.b.where(c.b.greater(scaled, c.like(threshold, scaled)), self, soft)


@handles("aten.log_sigmoid")
def log_sigmoid(c: Context, self: Tensor) -> Value:
    return c.b.neg(c.b.softplus(c.b.neg(self)))


@handles("aten.log_sigmoid_forward")
def log_sigmoid_forward(c: Context, self: Tensor) -> tuple[Value | None, ...]:
    return log_sigmoid(c, self), None


@handles("aten.hardshrink")
def hardshrink(c: Context, self: Tensor, lambd: Number = 0.5) -> Value:
    return c.b.shrink(self, bias=0.0, lambd=float(lambd))


@handles("aten.softshrink")
def softshrink(c: Context, self: Tensor, lambd: Number = 0.5) -> Value:
    return c.b.shrink(self, bias=float(lambd), lambd=float(lambd))


@handles("aten.threshold")
def threshold(c: Context, self: Tensor, threshold: Number, value: Number) -> Value:
    return c.b.where(c.b.greater(self, c.like(threshold, self)), self, c.like(value, self))


@handles("aten.glu")
def glu(c: Context, self: Tensor, dim: Int = -1) -> Value:
    """The first half along `dim` times the sigmoid of the second."""
    a, gate = c.b.split(self, axis=c.axis(self, dim), num_outputs=2)
    return c.b.mul(a, c.b.sigmoid(gate))


@handles(
    "aten.softmax",
    "aten.log_softmax",
    "aten._softmax",
    "aten._log_softmax",
    "aten._safe_softmax",
    "aten.special_softmax",
)
def softmax(c: Context, self: Tensor, dim: Int, dtype: Dtype | None = None, half_to_float: Bool = False) -> Value:
    """Softmax along `dim`, computed in the declared result dtype."""
    x = c.cast(self, c.dtype)
    if c.rank(x) == 0:
        x = c.b.unsqueeze(x, (0,))
        return c.b.squeeze(_softmax_op(c)(x, axis=0), (0,))
    return _softmax_op(c)(x, axis=c.axis(x, dim))


def _softmax_op(c: Context) -> Any:
    name = c.node.target.split(".")[1]
    if name == "_safe_softmax":
        raise Unsupported("softmax that turns fully masked rows into zeros")
    return c.b.log_softmax if "log" in name else c.b.softmax
