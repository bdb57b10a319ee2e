"""Activations of Keras: the functions that configs name, and the layers made of them.

The same functions serve as operations (`keras.ops.relu` ...). Formulas: `keras.activations`, Keras 3.15.
"""

from __future__ import annotations

from typing import Any

from ...ir import types as t
from ...ir.graph import Value
from .registry import activation, layer, operation
from .scope import Scope


def _plain(name: str, *spellings: str, **attrs: Any) -> None:
    """One IR op of one operand: as an activation under `spellings` and as an operation in camel case."""

    def lower(s: Scope, x: Value) -> Value:
        return s.b.call(name, (s.floating(s.value(x)),), attrs).result

    activation(*spellings)(lower)


for _op, _names in {
    "sigmoid": ("sigmoid",), "tanh": ("tanh",), "softplus": ("softplus",), "softsign": ("softsign",),
    "exp": ("exponential",), "silu": ("silu", "swish"), "mish": ("mish",), "hard_swish": ("hard_silu", "hard_swish"),
}.items():  # fmt: skip
    _plain(_op, *_names)


def _operation_of(name: str, spelling: str) -> None:
    """`keras.ops` twin of a plain activation."""

    def lower(s: Scope, x: Any) -> Value:
        return s.b.call(name, (s.floating(s.value(x)),)).result

    operation(spelling)(lower)


for _op, _name in {
    "sigmoid": "Sigmoid", "softplus": "Softplus", "softsign": "Softsign", "silu": "Silu", "hard_swish": "HardSilu",
}.items():  # fmt: skip
    _operation_of(_op, _name)


@activation("relu")
@operation("Relu")
def relu(s: Scope, x: Any) -> Value:
    return s.b.relu(s.value(x))


@activation("relu6")
@operation("Relu6")
def relu6(s: Scope, x: Any) -> Value:
    return s.b.relu6(s.floating(s.value(x)))


@activation("softmax")
def softmax_last(s: Scope, x: Value) -> Value:
    return softmax_over(s, x, -1)


@activation("log_softmax")
def log_softmax_last(s: Scope, x: Value) -> Value:
    return s.b.log_softmax(s.floating(x), axis=-1)


@activation("hard_sigmoid")
def hard_sigmoid(s: Scope, x: Value) -> Value:
    """relu6(x + 3) / 6 in Keras 3; clip(0.2 x + 0.5, 0, 1) in Keras 2, whose files mean that one."""
    alpha = 0.2 if s.lowering.major < 3 else 1.0 / 6.0
    return s.b.hard_sigmoid(s.floating(x), alpha=alpha, beta=0.5)


@operation("HardSigmoid")
def hard_sigmoid_operation(s: Scope, x: Any) -> Value:
    return s.b.hard_sigmoid(s.floating(s.value(x)), alpha=1.0 / 6.0, beta=0.5)


@activation("elu")
@operation("Elu")
def elu(s: Scope, x: Any, alpha: float = 1.0) -> Value:
    return s.b.elu(s.floating(s.value(x)), alpha=float(alpha))


@activation("selu")
@operation("Selu")
def selu(s: Scope, x: Any) -> Value:
    return s.b.selu(s.floating(s.value(x)), alpha=1.6732632423543772, gamma=1.0507009873554805)


@activation("celu")
@operation("Celu")
def celu(s: Scope, x: Any, alpha: float = 1.0) -> Value:
    return s.b.celu(s.floating(s.value(x)), alpha=float(alpha))


@activation("gelu")
def gelu(s: Scope, x: Value) -> Value:
    return s.b.gelu(s.floating(x), approximate="none")


@operation("Gelu")
def gelu_operation(s: Scope, x: Any, approximate: bool = True) -> Value:
    return s.b.gelu(s.floating(s.value(x)), approximate="tanh" if approximate else "none")


@activation("leaky_relu")
@operation("LeakyRelu")
def leaky_relu(s: Scope, x: Any, negative_slope: float = 0.2) -> Value:
    return s.b.leaky_relu(s.floating(s.value(x)), alpha=float(negative_slope))


@activation("log_sigmoid")
@operation("LogSigmoid")
def log_sigmoid(s: Scope, x: Any) -> Value:
    """-softplus(-x)"""
    return s.b.neg(s.b.softplus(s.b.neg(s.floating(s.value(x)))))


@activation("hard_tanh")
@operation("HardTanh")
def hard_tanh(s: Scope, x: Any) -> Value:
    x = s.floating(s.value(x))
    return s.b.clip(x, s.value(-1.0, x.dtype), s.value(1.0, x.dtype))


@activation("tanh_shrink")
@operation("TanhShrink")
def tanh_shrink(s: Scope, x: Any) -> Value:
    x = s.floating(s.value(x))
    return s.b.sub(x, s.b.tanh(x))


@activation("hard_shrink")
@operation("HardShrink")
def hard_shrink(s: Scope, x: Any, threshold: float = 0.5) -> Value:
    return s.b.shrink(s.floating(s.value(x)), bias=0.0, lambd=float(threshold))


@activation("soft_shrink")
@operation("SoftShrink")
def soft_shrink(s: Scope, x: Any, threshold: float = 0.5) -> Value:
    return s.b.shrink(s.floating(s.value(x)), bias=float(threshold), lambd=float(threshold))


@operation("Threshold")
def threshold_operation(s: Scope, x: Any, threshold: float, default_value: float) -> Value:
    """x where x > threshold, else default_value"""
    x = s.floating(s.value(x))
    return s.b.where(s.b.greater(x, s.value(float(threshold), x.dtype)), x, s.value(float(default_value), x.dtype))


@activation("squareplus")
@operation("Squareplus")
def squareplus(s: Scope, x: Any, b: float = 4) -> Value:
    """(x + sqrt(x^2 + b)) / 2"""
    x = s.floating(s.value(x))
    root = s.b.sqrt(s.b.add(s.b.mul(x, x), s.value(float(b), x.dtype)))
    return s.b.mul(s.b.add(x, root), s.value(0.5, x.dtype))


@activation("sparse_plus")
@operation("SparsePlus")
def sparse_plus(s: Scope, x: Any) -> Value:
    """0 for x <= -1, (x + 1)^2 / 4 below 1, x above"""
    x = s.floating(s.value(x))
    one, quarter, zero = (s.value(v, x.dtype) for v in (1.0, 0.25, 0.0))
    raised = s.b.add(x, one)
    bent = s.b.where(s.b.less(x, one), s.b.mul(quarter, s.b.mul(raised, raised)), x)
    return s.b.where(s.b.less_equal(x, s.value(-1.0, x.dtype)), zero, bent)


@activation("sparse_sigmoid")
@operation("SparseSigmoid")
def sparse_sigmoid(s: Scope, x: Any) -> Value:
    """clip((x + 1) / 2, 0, 1)"""
    return s.b.hard_sigmoid(s.floating(s.value(x)), alpha=0.5, beta=0.5)


@activation("glu")
@operation("Glu")
def glu(s: Scope, x: Any, axis: int = -1) -> Value:
    """first half * sigmoid(second half)"""
    x = s.floating(s.value(x))
    axis = s.axis(axis, s.rank(x))
    if s.static(x, axis) % 2:
        raise s.invalid(f"glu halves axis {axis} of odd size {s.static(x, axis)}")
    first, second = s.b.split(x, axis=axis, num_outputs=2)
    return s.b.mul(first, s.b.sigmoid(second))


# -------------------------------------------------------------------------------------------------------------- layers


def softmax_over(s: Scope, x: Value, axis: Any) -> Value:
    """Softmax over one axis, or jointly over several (None: all): those go to the end as one axis and back."""
    x, rank = s.floating(x), s.rank(x)
    if isinstance(axis, int):
        return s.b.softmax(x, axis=s.axis(axis, rank))
    axes = s.axes(axis, rank)
    if len(axes) == 1:
        return s.b.softmax(x, axis=axes[0])
    rest = [a for a in range(rank) if a not in axes]
    perm = [*rest, *axes]
    moved = s.transpose(x, perm)
    flat = s.b.reshape(moved, s.dims([*(s.shape(x)[a] for a in rest), -1], x)) if rest else s.b.reshape(moved, (-1,))
    back = s.b.reshape(s.b.softmax(flat, axis=len(rest)), s.dims(s.shape(moved), x))
    return s.transpose(back, [perm.index(a) for a in range(rank)])


@operation("Softmax")
def softmax_operation(s: Scope, x: Any, axis: Any = -1) -> Value:
    return softmax_over(s, s.value(x), axis)


@operation("LogSoftmax")
def log_softmax_operation(s: Scope, x: Any, axis: Any = -1) -> Value:
    x = s.floating(s.value(x))
    return s.b.log_softmax(x, axis=s.axis(axis, s.rank(x)))


@layer("Activation", mask="keep")
def activation_layer(s: Scope, x: Value) -> Value:
    return s.activate(x)


@layer("ReLU", mask="keep")
def relu_layer(s: Scope, x: Value) -> Value:
    ceiling = None if s.config.get("max_value") is None else s.number("max_value")
    return _relu(s, s.floating(x), s.number("negative_slope", 0.0), ceiling, s.number("threshold", 0.0))


def _relu(s: Scope, x: Value, slope: float, ceiling: float | None, threshold: float) -> Value:
    """max(x, 0) with a slope below the threshold and a ceiling; the order of steps is `keras.activations.relu`'s."""
    if threshold == 0.0 and ceiling is None:
        return s.b.leaky_relu(x, alpha=slope) if slope else s.b.relu(x)
    if threshold == 0.0 and slope == 0.0 and ceiling == 6.0:
        return s.b.relu6(x)
    zero, bar = s.value(0.0, x.dtype), s.value(threshold, x.dtype)
    y = s.b.where(s.b.greater(x, bar), x, zero) if threshold else s.b.relu(x)
    if ceiling is not None:
        y = s.b.clip(y, zero, s.value(float(ceiling), x.dtype))
    if slope:
        y = s.b.sub(y, s.b.mul(s.value(slope, x.dtype), s.b.relu(s.b.sub(bar, x))))
    return y


@operation("ReLU")
def relu_operation(
    s: Scope, x: Any, negative_slope: float = 0.0, max_value: Any = None, threshold: float = 0.0
) -> Value:
    """`keras.activations.relu` with its arguments, recorded as an operation."""
    return _relu(s, s.floating(s.value(x)), float(negative_slope), max_value, float(threshold))


@operation("Mish")
def mish_operation(s: Scope, x: Any) -> Value:
    return s.b.mish(s.floating(s.value(x)))


@layer("LeakyReLU", mask="keep")
def leaky_relu_layer(s: Scope, x: Value) -> Value:
    key = "negative_slope" if "negative_slope" in s.config else "alpha"
    return s.b.leaky_relu(s.floating(x), alpha=s.number(key, 0.3))


@layer("ELU", mask="keep")
def elu_layer(s: Scope, x: Value) -> Value:
    return s.b.elu(s.floating(x), alpha=s.number("alpha", 1.0))


@layer("ThresholdedReLU", mask="keep")
def thresholded_relu_layer(s: Scope, x: Value) -> Value:
    return s.b.thresholded_relu(s.floating(x), alpha=s.number("theta", 1.0))


@layer("PReLU", weights="alpha", mask="keep")
def prelu_layer(s: Scope, x: Value) -> Value:
    x = s.floating(x)
    shared = s.config.get("shared_axes") or []
    wanted = [None if not isinstance(d, int) else d for d in s.shape(x)[1:]]
    for axis in s.axes(shared, s.rank(x), "shared_axes") if shared else ():
        if axis > 0:
            wanted[axis - 1] = 1
    return s.b.prelu(x, s.weight("alpha", wanted))


@layer("Softmax", mask="keep")
def softmax_layer(s: Scope, x: Value, mask: Any = None) -> Value:
    """Masked places get -1e9 (-3e4 in float16: `_large_negative_number`) before the exponential."""
    x = s.floating(x)
    given = s.masks.get(x) if mask is None else s.value(mask)
    if given is not None:
        if s.rank(given) != s.rank(x):
            raise s.unsupported("a softmax with a mask of another rank than its input")
        low = s.value(-3e4 if x.dtype is t.F16 else -1e9, x.dtype)
        x = s.b.add(x, s.b.where(s.boolean(given), s.value(0.0, x.dtype), low))
    return softmax_over(s, x, s.config.get("axis", -1))
