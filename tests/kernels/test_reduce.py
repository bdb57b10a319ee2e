"""Reduce kernels against Python's exact sums, numpy and torch; what ONNX says of nothing, ties, the last index."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from anyir.ir.errors import InvalidModel

torch = pytest.importorskip("torch")

Call = Callable[..., Any]
RNG = np.random.default_rng(7)

ROWS: dict[str, Callable[[list[float]], float]] = {
    "reduce_sum": math.fsum,
    "reduce_mean": lambda r: math.fsum(r) / len(r),
    "reduce_max": max,
    "reduce_min": min,
    "reduce_prod": math.prod,
    "reduce_l1": lambda r: math.fsum(map(abs, r)),
    "reduce_l2": lambda r: math.sqrt(math.fsum(v * v for v in r)),
    "reduce_log_sum": lambda r: math.log(math.fsum(r)),
    "reduce_log_sum_exp": lambda r: math.log(math.fsum(map(math.exp, r))),
    "reduce_sum_square": lambda r: math.fsum(v * v for v in r),
}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("name", ROWS)
def test_rows(name: str, dtype: Any, call: Call) -> None:
    x = RNG.uniform(0.1, 2.0, (4, 3, 5)).astype(dtype)
    exact = [ROWS[name](x[:, i].astype(np.float64).ravel().tolist()) for i in range(3)]
    made = call(name, x, np.array([0, -1]), keepdims=False)
    eps = float(ml_dtypes.finfo(dtype).eps)
    assert made.dtype == dtype
    np.testing.assert_allclose(made.astype(np.float64), exact, rtol=0.51 * eps + 2e-15)
    assert call(name, x, np.array([0, -1])).shape == (1, 3, 1)


def test_a_float32_sum_does_not_drift(call: Call) -> None:
    x = np.full(300_000, 0.1, np.float32)
    assert call("reduce_sum", x, keepdims=False) == np.float32(float(np.float32(0.1)) * 300_000)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64])
def test_integers(dtype: Any, call: Call) -> None:
    info = np.iinfo(dtype)
    x = RNG.integers(info.min, info.max, (3, 4), dtype, endpoint=True)
    rows = [[int(v) for v in row] for row in x]

    def wrap(v: int) -> int:
        low = v % (1 << info.bits)
        return low - (1 << info.bits) if info.min < 0 and low >> (info.bits - 1) else low

    axes = np.array([1])
    assert call("reduce_sum", x, axes, keepdims=False).tolist() == [wrap(sum(r)) for r in rows]
    assert call("reduce_prod", x, axes, keepdims=False).tolist() == [wrap(math.prod(r)) for r in rows]
    assert call("reduce_max", x, axes, keepdims=False).tolist() == [max(r) for r in rows]
    small = np.array([[1, 2, 4], [7, 7, 8]], dtype)
    assert call("reduce_mean", small, axes, keepdims=False).tolist() == [2, 7]
    assert call("reduce_l2", small, axes, keepdims=False).tolist() == [4, 12]


def test_negative_means_truncate_toward_zero(call: Call) -> None:
    assert call("reduce_mean", np.array([-1, -2], np.int32), keepdims=False).tolist() == -1


EMPTY = {
    "reduce_sum": 0.0,
    "reduce_prod": 1.0,
    "reduce_max": -np.inf,
    "reduce_min": np.inf,
    "reduce_l1": 0.0,
    "reduce_l2": 0.0,
    "reduce_sum_square": 0.0,
    "reduce_log_sum": -np.inf,
    "reduce_log_sum_exp": -np.inf,
}


@pytest.mark.parametrize("name", EMPTY)
def test_of_nothing(name: str, call: Call) -> None:
    x = np.zeros((2, 0, 3), np.float32)
    np.testing.assert_array_equal(call(name, x, np.array([1])), np.full((2, 1, 3), EMPTY[name], np.float32))


def test_of_nothing_without_infinity(call: Call) -> None:
    nothing = np.zeros((0,), np.int32)
    assert call("reduce_max", nothing, keepdims=False) == -(2**31)
    assert call("reduce_min", nothing.astype(np.uint8), keepdims=False) == 255
    assert bool(call("reduce_max", nothing.astype(bool), keepdims=False)) is False
    assert bool(call("reduce_all", nothing.astype(bool), keepdims=False)) is True
    assert bool(call("reduce_any", nothing.astype(bool), keepdims=False)) is False
    assert np.isnan(call("reduce_mean", nothing.astype(np.float32), keepdims=False))
    with pytest.raises(InvalidModel, match="mean"):
        call("reduce_mean", nothing)
    with pytest.raises(InvalidModel, match="empty"):
        call("arg_max", nothing, axis=0)


def test_no_axes(call: Call) -> None:
    x = RNG.standard_normal((2, 3)).astype(np.float32)
    assert call("reduce_sum", x).shape == (1, 1)
    np.testing.assert_array_equal(call("reduce_sum", x, noop_with_empty_axes=True), x)
    np.testing.assert_array_equal(
        call("reduce_sum_square", x, np.array([], np.int64), noop_with_empty_axes=True),
        np.square(x.astype(float)).astype("f4"),
    )
    assert call("reduce_sum", np.float32(3)[()].reshape(())).shape == ()


def test_axes_are_checked(call: Call) -> None:
    x = np.zeros((2, 3), np.float32)
    for axes in ([2], [-3], [0, -2]):
        with pytest.raises(InvalidModel, match="axes"):
            call("reduce_sum", x, np.array(axes))


def test_log_sum_exp_is_safe(call: Call) -> None:
    x = np.array([[1e4, 1e4], [-1e4, -1e4], [-np.inf, -np.inf], [np.inf, 0]], np.float32)
    made = call("reduce_log_sum_exp", x, np.array([1]), keepdims=False)
    np.testing.assert_allclose(made[:2], [1e4 + np.log(2), -1e4 + np.log(2)], rtol=1e-6)
    assert made[2:].tolist() == [-np.inf, np.inf]


def test_nan_wins(call: Call) -> None:
    x = np.array([1, np.nan, 3], np.float32)
    for name in ("reduce_max", "reduce_min", "reduce_sum"):
        assert np.isnan(call(name, x)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8, ml_dtypes.bfloat16])
def test_arg_reductions_and_ties(dtype: Any, call: Call) -> None:
    x = np.array([[2, 7, 7, 1], [5, 0, 5, 0]]).astype(dtype)
    assert call("arg_max", x, axis=1, keepdims=False).tolist() == [1, 0]
    assert call("arg_max", x, axis=1, keepdims=False, select_last_index=True).tolist() == [2, 2]
    assert call("arg_min", x, axis=-1, keepdims=False).tolist() == [3, 1]
    assert call("arg_min", x, axis=-1, select_last_index=True).tolist() == [[3], [3]]
    assert call("arg_max", x, axis=0).tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_scans(name: str, exclusive: bool, reverse: bool, call: Call) -> None:
    x = RNG.uniform(0.5, 1.5, (3, 6)).astype(np.float32)
    combine, start = (math.fsum, 0.0) if name == "cumsum" else (math.prod, 1.0)
    rows = []
    for row in x.astype(np.float64).tolist():
        row = row[::-1] if reverse else row
        made = [combine(row[: i if exclusive else i + 1]) if i or not exclusive else start for i in range(6)]
        rows.append(made[::-1] if reverse else made)
    for axis in (1, -1):
        made = call(name, x, np.array(axis), exclusive=exclusive, reverse=reverse)
        np.testing.assert_allclose(made, rows, rtol=6.1e-8)
    np.testing.assert_allclose(
        call(name, x.T.copy(), np.array([0]), exclusive=exclusive, reverse=reverse), np.array(rows).T, 6.1e-8
    )


def test_integer_scans_wrap(call: Call) -> None:
    assert call("cumsum", np.array([2**31 - 1, 1], np.int32), np.array(0)).tolist() == [2**31 - 1, -(2**31)]


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_topk(largest: bool, axis: int, call: Call) -> None:
    x = RNG.permutation(35).reshape(5, 7).astype(np.float32)
    values, indices = call("topk", x, np.array([3]), axis=axis, largest=largest)
    wanted = torch.topk(torch.from_numpy(x), 3, dim=axis, largest=largest)
    np.testing.assert_array_equal(values, wanted.values.numpy())
    np.testing.assert_array_equal(indices, wanted.indices.numpy())


def test_topk_ties_by_rising_index(call: Call) -> None:
    x = np.array([3, 1, 3, 3, 1], np.uint8)
    assert [v.tolist() for v in call("topk", x, np.array([4]))] == [[3, 3, 3, 1], [0, 2, 3, 1]]
    assert [v.tolist() for v in call("topk", x, np.array([3]), largest=False)] == [[1, 1, 3], [1, 4, 0]]
    with pytest.raises(InvalidModel, match="k = 6"):
        call("topk", x, np.array([6]))
