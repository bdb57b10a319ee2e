"""Activation kernels against torch in float64, and the tails where naive formulas overflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional

Call = Callable[..., Any]
RNG = np.random.default_rng(6)

#: torch's constants; ONNX's defaults are these, rounded to float32.
SELU = {"alpha": 1.6732632423543772848, "gamma": 1.0507009873554804934}

TORCH: list[tuple[str, dict[str, Any], Callable[[Any], Any]]] = [
    ("relu", {}, F.relu),
    ("relu6", {}, F.relu6),
    ("leaky_relu", {"alpha": 0.3}, lambda x: F.leaky_relu(x, 0.3)),
    ("elu", {"alpha": 1.3}, lambda x: F.elu(x, 1.3)),
    ("selu", SELU, F.selu),
    ("celu", {"alpha": 1.7}, lambda x: F.celu(x, 1.7)),
    ("thresholded_relu", {"alpha": 0.7}, lambda x: F.threshold(x, 0.7, 0.0)),
    ("sigmoid", {}, torch.sigmoid),
    ("hard_sigmoid", {"alpha": 1 / 6, "beta": 0.5}, F.hardsigmoid),
    ("hard_swish", {}, F.hardswish),
    ("silu", {}, F.silu),
    ("swish", {"alpha": 1.702}, lambda x: x * torch.sigmoid(1.702 * x)),
    ("mish", {}, F.mish),
    ("softplus", {}, F.softplus),
    ("softsign", {}, F.softsign),
    ("tanh", {}, torch.tanh),
    ("gelu", {}, F.gelu),
    ("gelu", {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
    ("shrink", {"bias": 0.6, "lambd": 0.6}, lambda x: F.softshrink(x, 0.6)),
    ("shrink", {"bias": 0.0, "lambd": 0.4}, lambda x: F.hardshrink(x, 0.4)),
    ("softmax", {"axis": 1}, lambda x: torch.softmax(x, 1)),
    ("log_softmax", {"axis": 0}, lambda x: torch.log_softmax(x, 0)),
]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("name", "attrs", "oracle"), TORCH, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(TORCH)])
def test_against_torch(name: str, attrs: dict, oracle: Any, dtype: Any, call: Call, rounded_once: Any) -> None:
    x = np.concatenate([RNG.uniform(-6, 6, 61), [0.0, 1e-4, -1e-4]]).astype(dtype).reshape(8, 8)
    rounded_once(call(name, x, **attrs), oracle(torch.from_numpy(x.astype(np.float64))).numpy())


@pytest.mark.parametrize("name", ["sigmoid", "softplus", "silu", "mish", "tanh", "gelu", "elu", "selu", "softsign"])
def test_tails_do_not_overflow(name: str, call: Call) -> None:
    x = np.array([-1e4, -200.0, 200.0, 1e4], np.float64)
    made = call(name, x, **(SELU if name == "selu" else {}))
    assert np.isfinite(made).all()
    wanted = getattr(torch, name, getattr(F, name, None))(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(made, wanted, rtol=1e-12, atol=1e-80)


def test_prelu_broadcasts_the_slope_only(call: Call) -> None:
    x = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    slope = RNG.standard_normal((3, 1)).astype(np.float32)
    np.testing.assert_array_equal(
        call("prelu", x, slope), np.where(x < 0, (slope.astype(float) * x).astype(np.float32), x)
    )
    assert call("prelu", np.array([-3, 4]), np.array([2])).tolist() == [-6, 4]


def test_large_logits(call: Call) -> None:
    x = np.array([[1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]], np.float32)
    np.testing.assert_allclose(call("softmax", x, axis=1), [[0.5, 0.5, 0], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(call("log_softmax", x, axis=1)[0], [np.log(0.5), np.log(0.5), -2e4], rtol=1e-4)


def test_hardmax_takes_the_first(call: Call) -> None:
    x = np.array([[1, 3, 3], [2, 2, 1]], np.float32)
    assert call("hardmax", x, axis=1).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert call("hardmax", x, axis=0).tolist() == [[0, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "hardmax"])
def test_nothing_stays_nothing(name: str, call: Call) -> None:
    assert call(name, np.zeros((0, 4), np.float32), axis=0).shape == (0, 4)


def test_nan_passes_through(call: Call) -> None:
    x = np.array([np.nan], np.float32)
    for name in ("relu", "relu6", "leaky_relu", "elu", "sigmoid", "shrink", "thresholded_relu", "hard_sigmoid"):
        assert np.isnan(call(name, x)).all(), name
