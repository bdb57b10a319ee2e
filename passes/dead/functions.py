"""Functions of one variable on intervals, element by element in float64: monotone ones, and those with one valley."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray
Attrs = Mapping[str, Any]
Function = Callable[[Array, Attrs], Array]

#: f(0) = 0, element by element.
KEEP_ZERO = frozenset({
    "identity", "cast", "neg", "abs", "relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "thresholded_relu",
    "tanh", "silu", "swish", "mish", "gelu", "hard_swish", "softsign", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh",
    "erf", "sqrt", "square", "expm1", "log1p", "floor", "ceil", "round", "trunc", "sign", "shrink",
})  # fmt: skip


def _elu(x: Array, a: Attrs) -> Array:
    return np.where(x > 0, x, a["alpha"] * np.expm1(np.minimum(x, 0)))


def _selu(x: Array, a: Attrs) -> Array:
    return a["gamma"] * np.where(x > 0, x, a["alpha"] * np.expm1(np.minimum(x, 0)))


def _celu(x: Array, a: Attrs) -> Array:
    return np.maximum(x, 0) + np.minimum(a["alpha"] * np.expm1(np.minimum(x, 0) / a["alpha"]), 0)


def _sigmoid(x: Array, a: Attrs | None = None) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _softsign(x: Array, a: Attrs) -> Array:
    return np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(np.where(np.isinf(x), 0, x))))


def _is_rising(name: str, attrs: Attrs) -> bool:
    """Whether the attributes leave the function monotone, never falling."""
    if name in ("leaky_relu", "elu", "hard_sigmoid"):
        return attrs["alpha"] >= 0
    if name == "selu":
        return attrs["alpha"] >= 0 and attrs["gamma"] >= 0
    if name == "celu":
        return attrs["alpha"] > 0
    return True


#: Never falling, from minus to plus infinity (sqrt: where it has a value).
RISING: dict[str, Function] = {
    "identity": lambda x, a: x,
    "relu": lambda x, a: np.maximum(x, 0),
    "relu6": lambda x, a: np.clip(x, 0, 6),
    "leaky_relu": lambda x, a: np.where(x > 0, x, a["alpha"] * x if a["alpha"] else 0.0),
    "elu": _elu,
    "selu": _selu,
    "celu": _celu,
    "sigmoid": _sigmoid,
    "hard_sigmoid": lambda x, a: np.clip(a["alpha"] * x + a["beta"] if a["alpha"] else 0 * x + a["beta"], 0, 1),
    "tanh": lambda x, a: np.tanh(x),
    "softplus": lambda x, a: np.logaddexp(x, 0),
    "softsign": _softsign,
    "exp": lambda x, a: np.exp(x),
    "expm1": lambda x, a: np.expm1(x),
    "sinh": lambda x, a: np.sinh(x),
    "asinh": lambda x, a: np.arcsinh(x),
    "atan": lambda x, a: np.arctan(x),
    "floor": lambda x, a: np.floor(x),
    "ceil": lambda x, a: np.ceil(x),
    "round": lambda x, a: np.rint(x),
    "trunc": lambda x, a: np.trunc(x),
    "sign": lambda x, a: np.sign(x),
}


def _gelu(x: Array, a: Attrs) -> Array:
    if a["approximate"] == "tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    from math import erfc

    return np.array([0.5 * v * erfc(-v / 2**0.5) for v in x.reshape(-1).tolist()]).reshape(x.shape)


def _swish(x: Array, a: Attrs) -> Array:
    return x * _sigmoid(a.get("alpha", 1.0) * x)


#: At most 0 left of 0 and never below the number beside them; rising, and not negative, right of 0.
VALLEY: dict[str, tuple[Function, float]] = {
    "hard_swish": (lambda x, a: x * np.clip(x / 6 + 0.5, 0, 1), -0.3751),
    "silu": (_swish, -0.2785),
    "gelu": (_gelu, -0.1701),
    "mish": (lambda x, a: x * np.tanh(np.logaddexp(x, 0)), -0.3089),
}

#: |f(a) - f(b)| <= number * |a - b|.
LIPSCHITZ = {
    "identity": 1.0, "neg": 1.0, "abs": 1.0, "relu": 1.0, "relu6": 1.0, "sigmoid": 0.25, "tanh": 1.0, "softplus": 1.0,
    "softsign": 1.0, "atan": 1.0, "asinh": 1.0, "sin": 1.0, "cos": 1.0, "erf": 1.1284, "hard_swish": 1.5, "silu": 1.1,
    "gelu": 1.13, "mish": 1.09,
}  # fmt: skip


def lipschitz(name: str, attrs: Attrs) -> float | None:
    """A Lipschitz constant of the function, where one is known."""
    if name in ("leaky_relu", "elu"):
        return max(1.0, abs(attrs["alpha"]))
    if name == "hard_sigmoid":
        return abs(attrs["alpha"])
    return LIPSCHITZ.get(name)


def at_points(name: str, attrs: Attrs, x: Array) -> Array | None:
    """f(x), where the function is known."""
    found = RISING.get(name) or (VALLEY[name][0] if name in VALLEY else None)
    if found is None:
        return {"neg": np.negative, "abs": np.abs, "square": np.square, "sin": np.sin, "cos": np.cos}.get(name, _none)(
            x
        )
    return found(x, attrs)


def _none(x: Array) -> None:
    return None


def image(name: str, attrs: Attrs, lo: Array, hi: Array) -> tuple[Array, Array] | None:
    """An interval that holds f(x) for every lo <= x <= hi; None where nothing is known of the function."""
    if name in RISING and _is_rising(name, attrs):
        return RISING[name](lo, attrs), RISING[name](hi, attrs)
    if name == "neg":
        return -hi, -lo
    if name in ("abs", "square"):
        size = np.abs if name == "abs" else np.square
        low = np.where((lo <= 0) & (hi >= 0), 0.0, np.minimum(size(lo), size(hi)))
        return low, np.maximum(size(lo), size(hi))
    if name in ("sin", "cos", "erf"):
        return _wave(name, lo, hi)
    if name in VALLEY:
        function, lowest = VALLEY[name]
        finite_lo, finite_hi = np.where(np.isinf(lo), 0, lo), np.where(np.isinf(hi), 0, hi)
        at_lo, at_hi = function(finite_lo, attrs), np.where(np.isinf(hi), np.inf, function(finite_hi, attrs))
        low = np.where(lo >= 0, at_lo, lowest)
        high = np.where(hi >= 0, at_hi, 0.0)
        same = lo == hi
        return np.where(same, at_lo, low), np.where(same, at_lo, high)
    return None


def _wave(name: str, lo: Array, hi: Array) -> tuple[Array, Array]:
    """-1 to 1, and sin(0) = erf(0) = 0."""
    zero = (lo == 0) & (hi == 0)
    value = 1.0 if name == "cos" else 0.0
    return np.where(zero, value, -1.0), np.where(zero, value, 1.0)
