"""Scales and zero points: the laws that every range, weight and bias has to keep."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.ir.types import F32
from anyir.kernels.quant import dequantize, quantize
from anyir.passes.quantize.params import (
    ACTIVATIONS,
    BIAS_LIMIT,
    SYMMETRIC,
    WEIGHTS,
    Params,
    affine,
    bias_integers,
    bias_params,
    fixed,
    raised_for_bias,
    spans,
    to_floats,
    to_integers,
    weight_params,
)
from hypothesis import given
from hypothesis import strategies as st

BOUND = st.floats(-1e6, 1e6, allow_nan=False, width=32)
GRIDS = [*ACTIVATIONS.values(), *SYMMETRIC.values()]


@given(BOUND, BOUND, st.sampled_from(GRIDS))
def test_a_range_fits_and_zero_is_exact(a: float, b: float, grid) -> None:
    params = affine(min(a, b), max(a, b), grid)
    scale, zero = float(params.scale), int(params.zero)
    assert scale > 0
    assert grid.low <= zero <= grid.high
    assert to_floats(to_integers(np.zeros(1, np.float32), params), params)[0] == 0
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    ends = np.array([low, high], np.float32)
    error = np.abs(to_floats(to_integers(ends, params), params).astype(np.float64) - ends)
    assert (error <= scale * (1 + 1e-5)).all()
    if grid.symmetric:
        assert zero == grid.middle


@pytest.mark.parametrize("grid", GRIDS)
def test_a_range_of_nothing_has_scale_one(grid) -> None:
    assert float(affine(0.0, 0.0, grid).scale) == 1.0


@pytest.mark.parametrize("bounds", [(np.nan, 1.0), (0.0, np.inf), (-np.inf, 0.0)])
def test_a_range_that_is_not_finite_is_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="not finite"):
        affine(*bounds, ACTIVATIONS["int8"])


@pytest.mark.parametrize(
    ("low", "high", "name", "scale", "zero"),
    [  # TensorFlow Lite 8-bit quantization specification; its 16x8 counterpart
        (0.0, 1.0, "int8", 1 / 256, -128),
        (-1.0, 1.0, "int8", 1 / 128, 0),
        (-16.0, 0.0, "int8", 16 / 256, 127),
        (0.0, 1.0, "uint8", 1 / 256, 0),
        (-1.0, 1.0, "uint8", 1 / 128, 128),
        (-16.0, 0.0, "uint8", 16 / 256, 255),
        (0.0, 1.0, "int16", 1 / 32768, 0),
        (-1.0, 1.0, "int16", 1 / 32768, 0),
    ],
)
def test_fixed_results(low: float, high: float, name: str, scale: float, zero: int) -> None:
    params = fixed(low, high, name)
    assert float(params.scale) == scale
    assert int(params.zero) == zero


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize(
    ("axes", "block", "shape"),
    [((), None, ()), ((0,), None, (4, 1)), ((1,), None, (1, 10)), ((0,), (1, 5), (4, 2)), ((0,), (1, 4), (4, 3))],
)
@pytest.mark.parametrize("clip", [False, True])
def test_weights(name: str, axes: tuple[int, ...], block, shape: tuple[int, ...], clip: bool) -> None:
    array = np.random.default_rng(3).standard_normal((4, 10)).astype(np.float32)
    grid = WEIGHTS[name]
    params = weight_params(array, grid, axes, block, clip)
    assert params.scale.shape == shape
    assert params.block == (4 if block == (1, 4) else 0)
    made = to_integers(array, params)
    assert made.dtype == grid.dtype.numpy
    assert np.abs(made.astype(int)).max() <= grid.high
    kernel = dequantize(made, params.scale, None, to=F32, block_size=params.block)
    np.testing.assert_array_equal(kernel, to_floats(made, params))
    if not clip:
        unsaturated = quantize(array, params.scale, None, to=grid.dtype, block_size=params.block)
        np.testing.assert_array_equal(unsaturated.astype(int), made.astype(int))


def test_searching_for_the_clip_never_makes_the_error_larger() -> None:
    array = np.random.default_rng(4).standard_t(3, (16, 64)).astype(np.float32)
    plain, searched = (weight_params(array, WEIGHTS["int4"], (0,), clip=clip) for clip in (False, True))
    errors = [((to_floats(to_integers(array, p), p) - array) ** 2).sum(axis=1) for p in (plain, searched)]
    assert (errors[1] <= errors[0]).all()
    assert (errors[1] < errors[0]).sum() > len(array) / 2


def test_zero_channels_have_scale_one_and_no_nan() -> None:
    array = np.zeros((3, 4), np.float32)
    array[1] = 2
    params = weight_params(array, WEIGHTS["int8"], (0,))
    np.testing.assert_array_equal(params.scale.reshape(-1), np.array([1, 2 / 127, 1], np.float32))
    assert not to_integers(array, params)[[0, 2]].any()


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.array([[1.0, np.nan]]), np.array([[np.inf]])])
def test_weights_that_have_no_scale_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="empty, or not finite"):
        weight_params(array.astype(np.float32), WEIGHTS["int8"])


@pytest.mark.parametrize("axes", [(), (0,)])
def test_a_bias_always_fits_and_is_exact_to_half_a_step(axes: tuple[int, ...]) -> None:
    """Weights that are zero or next to nothing in a channel must not cost the bias its bits."""
    weight = np.array([[1.0, -0.5], [1e-9, 0], [0, 0], [0, 0]], np.float32)
    bias = np.array([0.3, -0.7, 0.74, 0], np.float32)
    data = affine(0.0, 6.0, ACTIVATIONS["int8"])
    params = weight_params(weight, WEIGHTS["int8"], axes)
    empty = (spans(weight, axes) == 0).reshape(params.scale.shape)
    raised = raised_for_bias(params, bias, data, 0 if axes else None, empty)
    scale = bias_params(raised, data, 4)
    integers = bias_integers(bias, scale)
    assert np.abs(integers.astype(np.int64)).max() <= BIAS_LIMIT
    error = np.abs(to_floats(integers, scale) - bias)
    assert (error <= 0.5 * scale.scale + np.spacing(np.abs(bias))).all()
    if axes:
        assert (error[:3] < 1e-4).all()
        assert raised.scale[0] == params.scale[0]
    np.testing.assert_array_equal(
        np.broadcast_to(scale.scale, (4,)), np.broadcast_to((data.scale * raised.scale).reshape(-1), (4,))
    )


def test_groups_of_a_transposed_convolution_share_scales() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 2)).astype(np.float32)
    data = affine(-1.0, 1.0, ACTIVATIONS["int8"])
    params = weight_params(weight, WEIGHTS["int8"], (1,))
    bias = np.arange(6, dtype=np.float32)
    raised = raised_for_bias(params, bias, data, 1, np.zeros((1, 3, 1), bool))
    assert isinstance(raised, Params)
    assert bias_params(raised, data, 6).scale.shape == (6,)
