"""Products by panels and exact integer products, against numpy in float64 and in Python's integers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from anyir.kernels import jit
from anyir.kernels import product as products
from anyir.kernels.product import BYTE_RANGE, EXACT_FLOAT32, integer_product, less_zero_point, multiply, product

RNG = np.random.default_rng(0)


def normal(*shape: int, dtype=np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def widest(*arrays: np.ndarray) -> list[np.ndarray]:
    return [a.astype(np.float64) for a in arrays]


@pytest.fixture(params=[1, 1 << 12, 1 << 19])
def panel(request, monkeypatch) -> int:
    """Panels of the least width, of some columns, of everything."""
    monkeypatch.setattr(products, "PANEL_BYTES", request.param)
    return request.param


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 5), (5, 200)), ((200, 5), (5, 3)), ((7,), (7, 40)), ((40, 7), (7,)), ((9,), (9,)),
        ((2, 3, 17, 8), (2, 3, 8, 33)), ((2, 1, 17, 8), (3, 8, 33)), ((4, 6, 8), (8, 50)), ((6, 8), (4, 8, 50)),
        ((3, 0), (0, 4)), ((0, 3), (3, 4)), ((2, 0, 3), (2, 3, 4)), ((1, 1), (1, 1)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_shapes(panel, rounded_once, a, b, dtype):
    left, right = normal(*a, dtype=dtype), normal(*b, dtype=dtype)
    made = product(left, right, np.dtype(dtype))
    wanted = np.matmul(*widest(left, right))
    assert made.dtype == dtype and made.shape == wanted.shape
    if dtype in (np.float32, np.float64):
        rounded_once(made, wanted, scale=float(np.abs(wanted).max(initial=1.0)))
    else:
        half = float(ml_dtypes.finfo(dtype).eps) / 2 * np.exp2(np.floor(np.log2(np.maximum(np.abs(wanted), 2.0**-14))))
        assert np.all(np.abs(made.astype(np.float64) - wanted) <= half * (1 + 1e-9))


@pytest.mark.parametrize("swap", [False, True])
def test_views_are_read_where_they_lie(panel, rounded_once, swap):
    left, right = normal(40, 90)[::2, ::3], normal(64, 30).T[:, 5:50]
    if swap:
        left, right = right.T, left.T
    made = np.empty((left.shape[0], 2 * right.shape[1]), np.float32)[:, ::2]
    multiply(left, right, made)
    rounded_once(made, np.matmul(*widest(left, right)))


def test_finish_sees_each_part_once(panel):
    left, right = normal(70, 6), normal(6, 90)
    made, seen = np.empty((70, 90)), np.zeros((70, 90), int)

    def finish(part, rows, columns):
        seen[rows, columns] += 1
        part *= 2.0

    multiply(left, right, made, finish)
    assert np.all(seen == 1)
    np.testing.assert_allclose(made, 2 * np.matmul(*widest(left, right)), rtol=1e-12)


def test_nan_and_infinity_stay_in_their_rows(panel):
    left, right = normal(8, 4), np.abs(normal(4, 120))
    left[1, 2], left[3, 0] = np.nan, np.inf
    made = product(left, right, np.dtype(np.float32))
    assert np.isnan(made[1]).all() and np.isposinf(made[3]).all()
    assert np.isfinite(np.delete(made, (1, 3), axis=0)).all()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 4, 6, 8])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (33, 18), (0, 4), (6, 0)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_few_rows_or_columns(monkeypatch, rounded_once, compiled, rows, shape, transposed):
    """Beside one large operand, row-major or a transposed view, few enough to be multiplied by a loop."""
    monkeypatch.setattr(jit, "UNCOMPILED_STEPS", -1 if compiled else 1 << 60)
    large = normal(*shape[::-1]).T if transposed else normal(*shape)
    few = normal(rows, shape[0])
    for left, right in ((few, large), (large.T, few.T)):
        made, wanted = np.empty((left.shape[0], right.shape[1]), np.float32), np.matmul(*widest(left, right))
        multiply(left, right, made)
        rounded_once(made, wanted, scale=float(np.abs(wanted).max(initial=1.0)))


def test_mismatched_shapes_are_refused():
    with pytest.raises(ValueError, match="matmul"):
        product(normal(2, 3), normal(4, 5), np.dtype(np.float32))


@pytest.mark.parametrize("terms", [0, 1, EXACT_FLOAT32 // BYTE_RANGE**2, EXACT_FLOAT32 // BYTE_RANGE**2 + 1, 2000])
def test_integer_products_are_exact_at_the_extremes(terms):
    """All terms at the bound: the sums that a float32 product would get wrong."""
    left = np.full((3, terms), BYTE_RANGE, np.float32)
    left[1] = -BYTE_RANGE
    left[2, ::2] = 1 - BYTE_RANGE
    right = np.full((terms, 2), BYTE_RANGE, np.float32)
    right[::3, 1] = -1
    wanted = left.astype(int) @ right.astype(int)
    made = integer_product(left, right, BYTE_RANGE, BYTE_RANGE)
    assert made.dtype == np.int32
    np.testing.assert_array_equal(made, wanted)


def test_integer_products_wrap():
    terms = 2**31 // BYTE_RANGE**2 + 10
    ones = np.full((1, terms), BYTE_RANGE, np.float32)
    wanted = np.array(terms * BYTE_RANGE**2).astype(np.int64).astype(np.int32)
    assert integer_product(ones, ones.T, BYTE_RANGE, BYTE_RANGE)[0, 0] == wanted


def test_zero_points_broadcast():
    values = RNG.integers(0, 256, (5, 6)).astype(np.uint8)
    zeros = RNG.integers(0, 256, (5, 1)).astype(np.uint8)
    np.testing.assert_array_equal(less_zero_point(values, zeros), values.astype(int) - zeros.astype(int))
    np.testing.assert_array_equal(less_zero_point(values, None), values)
