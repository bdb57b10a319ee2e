"""Where a compiled loop stands in for whole-array numpy, both give the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.kernels.jit import interpreted

SIZE, BATCH, STEPS, INPUTS = 33, 3, 9, 10


def lstm_operands(count: int, special: float | None) -> tuple:
    rng = np.random.default_rng(count)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def levels(*shape):
        return rng.integers(-128, 128, shape).astype(np.int8)

    x = normal(STEPS, BATCH, INPUTS)
    if special is not None:
        x[4, 1, 3] = special
    scale, zero = np.full(count, 0.004, np.float32), np.arange(count).astype(np.int8)
    weights = (levels(count, INPUTS, 4 * SIZE), levels(count, SIZE, 4 * SIZE), normal(count, 8 * SIZE))
    states = (normal(count, BATCH, SIZE), normal(count, BATCH, SIZE), normal(count, 3 * SIZE))
    return (x, *weights, np.array([STEPS, 2, 5], np.int32), *states, scale, zero, scale, zero)


@pytest.mark.parametrize("special", [None, np.nan, np.inf, 0.0])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("input_forget", [False, True])
def test_quantised_lstm(call, special, direction, input_forget):
    given = lstm_operands(2 if direction == "bidirectional" else 1, special)
    attrs = {"hidden_size": SIZE, "direction": direction, "input_forget": input_forget}
    compiled = call("dynamic_quantize_lstm", *given, **attrs)
    with interpreted():
        plain = call("dynamic_quantize_lstm", *given, **attrs)
    for one, other in zip(compiled, plain, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 4), (2, 5, 7), (2, 3, 40, 50), (0, 3, 2), (2, 3, 0)])
def test_batch_norm(call, dtype, shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(dtype)
    x.reshape(-1)[::7] = [np.nan, np.inf, -np.inf, -0.0][len(shape) % 4]
    operands = (x, *(rng.uniform(0.5, 1.5, shape[1]).astype(dtype) for _ in range(4)))
    compiled = call("batch_norm", *operands)
    with interpreted():
        plain = call("batch_norm", *operands)
    assert compiled.dtype == dtype
    np.testing.assert_array_equal(compiled, plain)
