"""Index kernels against torch and against the loops of ONNX's operator documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from anyir.ir.errors import InvalidModel

torch = pytest.importorskip("torch")

Call = Callable[..., Any]
RNG = np.random.default_rng(9)
X = RNG.standard_normal((4, 3, 5)).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_gather(axis: int, call: Call) -> None:
    at = RNG.integers(-3, 3, (2, 2))
    np.testing.assert_array_equal(call("gather", X, at, axis=axis), np.take(X, at, axis=axis))
    assert call("gather", X, np.array(1, np.int32), axis=axis).ndim == 2


@pytest.mark.parametrize("name", ["gather", "gather_elements", "gather_nd"])
@pytest.mark.parametrize("index", [4, -5])
def test_an_index_out_of_range_is_refused(name: str, index: int, call: Call) -> None:
    at = {"gather": [index], "gather_elements": [[[index]]], "gather_nd": [[index]]}[name]
    with pytest.raises(InvalidModel, match=f"index {index} out of range for an axis of 4"):
        call(name, X, np.array(at))
    if name == "gather_nd":
        with pytest.raises(InvalidModel, match="out of range"):
            call("scatter_nd", X, np.array(at), X[:1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_elements_as_torch(axis: int, call: Call) -> None:
    shape = [2, 2, 3]
    shape[axis] = 7
    at = RNG.integers(0, X.shape[axis], shape)
    wanted = torch.gather(torch.from_numpy(X), axis, torch.from_numpy(at)).numpy()
    np.testing.assert_array_equal(call("gather_elements", X, at, axis=axis), wanted)
    np.testing.assert_array_equal(call("gather_elements", X, at - X.shape[axis], axis=axis), wanted)


@pytest.mark.parametrize("batch_dims", [0, 1])
@pytest.mark.parametrize("depth", [1, 2])
def test_gather_nd_by_loops(batch_dims: int, depth: int, call: Call) -> None:
    sizes = X.shape[batch_dims : batch_dims + depth]
    lead = (*X.shape[:batch_dims], 2, 3)
    at = np.stack([RNG.integers(-s, s, lead) for s in sizes], axis=-1)
    made = call("gather_nd", X, at, batch_dims=batch_dims)
    for place in np.ndindex(lead):
        np.testing.assert_array_equal(made[place], X[place[:batch_dims] + tuple(at[place])])


def reduced(old: Any, new: Any, how: str) -> Any:
    return {"none": new, "add": old + new, "mul": old * new, "max": max(old, new), "min": min(old, new)}[how]


@pytest.mark.parametrize("dtype", [np.float32, np.int32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("how", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("axis", [0, 1])
def test_scatter_elements_by_loops(how: str, dtype: Any, axis: int, call: Call) -> None:
    x = RNG.integers(-3, 4, (4, 5)).astype(dtype)
    at = RNG.integers(-4, 4, (6, 5) if axis == 0 else (4, 6))
    updates = RNG.integers(-3, 4, at.shape).astype(dtype)
    wanted = x.astype(np.float64)
    for i, j in np.ndindex(at.shape):
        place = (at[i, j], j) if axis == 0 else (i, at[i, j])
        wanted[place] = reduced(wanted[place], float(updates[i, j]), how)
    made = call("scatter_elements", x, at, updates, axis=axis, reduction=how)
    np.testing.assert_array_equal(made.astype(np.float64), wanted.astype(dtype).astype(np.float64))
    assert made.dtype == x.dtype


@pytest.mark.parametrize("how", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_scatter_nd_by_loops(how: str, depth: int, call: Call) -> None:
    at = np.stack([RNG.integers(-s, s, (6,)) for s in X.shape[:depth]], axis=-1)
    updates = RNG.standard_normal((6, *X.shape[depth:])).astype(np.float32)
    wanted = X.astype(np.float64)
    combine = {"none": lambda a, b: b, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[how]
    for row, update in zip(at, updates, strict=True):
        wanted[tuple(row)] = combine(wanted[tuple(row)], update)
    np.testing.assert_array_equal(call("scatter_nd", X, at, updates, reduction=how), wanted.astype(np.float32))


def test_scatter_sums_are_rounded_once(call: Call) -> None:
    updates = np.full(2000, 0.1, np.float32)
    made = call("scatter_elements", np.zeros(1, np.float32), np.zeros(2000, np.int64), updates, axis=0, reduction="add")
    assert made[0] == np.float32(2000 * float(np.float32(0.1)))
    ints = call(
        "scatter_elements",
        np.array([2**31 - 1], np.int32),
        np.array([0]),
        np.array([1], np.int32),
        axis=0,
        reduction="add",
    )
    assert ints.tolist() == [-(2**31)]


def test_scatter_leaves_its_operand_alone(call: Call) -> None:
    x = np.zeros(3, np.float32)
    x.flags.writeable = False
    assert call("scatter_elements", x, np.array([1]), np.array([5], np.float32), axis=0).tolist() == [0, 5, 0]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_hot(axis: int, call: Call) -> None:
    at = np.array([[0, -1], [3, 7], [-4, -9]])
    made = call("one_hot", at, np.array(4), np.array([2.0, 5.0], np.float32), axis=axis)
    for i, j in np.ndindex(at.shape):
        row = np.moveaxis(made, axis, -1)[i, j]
        hot = at[i, j] + (4 if at[i, j] < 0 else 0)
        assert row.tolist() == [5.0 if hot == k else 2.0 for k in range(4)]


def test_one_hot_of_odd_dtypes(call: Call) -> None:
    values = np.array([0, 1], np.int8)
    assert call("one_hot", np.array([2, 200], np.uint8), np.array(3), values).tolist() == [[0, 0, 1], [0, 0, 0]]
    assert call("one_hot", np.array([-1.0], np.float32), np.array([2.0], np.float32), values).tolist() == [[0, 1]]
    assert call("one_hot", np.array(1), np.array(2), values).tolist() == [0, 1]


def test_non_zero(call: Call) -> None:
    x = RNG.integers(0, 2, (3, 4, 2))
    np.testing.assert_array_equal(call("non_zero", x), np.stack(np.nonzero(x)))
    assert call("non_zero", np.array(5)).shape == (0, 1)
    assert call("non_zero", np.array(0)).shape == (0, 0)
    assert call("non_zero", np.array([0.0, np.nan, -0.0], np.float32)).tolist() == [[1]]


def test_compress(call: Call) -> None:
    flags = np.array([False, True, True])
    np.testing.assert_array_equal(call("compress", X, flags, axis=1), X[:, 1:])
    np.testing.assert_array_equal(call("compress", X, flags, axis=-1), X[:, :, 1:3])
    np.testing.assert_array_equal(call("compress", X, flags), X.ravel()[1:3])
    with pytest.raises(InvalidModel, match="condition"):
        call("compress", X, np.ones(9, bool), axis=0)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i1", "u8", "?", "c8", "U", "bfloat16", "float16"])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("sort", [True, False])
def test_unique(call: Call, dtype: str, axis: int | None, sort: bool) -> None:
    """Against the definition: what is found rebuilds x, occurs once, and comes first where it says."""
    codes = np.random.default_rng(8).integers(0, 2, (6, 3))
    if dtype == "U":
        x = np.array(["b", "a"], object)[codes]
    else:
        x = codes.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    y, first, inverse, counts = call("unique", x, axis=axis, sorted=sort)
    rows = [row.tolist() for row in (x.reshape(-1, 1) if axis is None else np.moveaxis(x, axis, 0))]
    found = [row.tolist() for row in (y.reshape(-1, 1) if axis is None else np.moveaxis(y, axis, 0))]
    assert y.dtype == x.dtype and all(v.dtype == np.int64 for v in (first, inverse, counts))
    assert [found[i] for i in inverse] == rows
    assert first.tolist() == [rows.index(row) for row in found]
    assert counts.tolist() == [rows.count(row) for row in found]
    key = [[(v.real, v.imag) if isinstance(v, complex) else v for v in row] for row in found]
    assert key == sorted(key) if sort else first.tolist() == sorted(first.tolist())


def test_unique_of_special_numbers_and_of_nothing(call: Call) -> None:
    y, first, inverse, counts = call("unique", np.array([np.nan, 2, -0.0, np.nan, 0.0]))
    assert str(y.tolist()) == "[-0.0, 2.0, nan]" and first.tolist() == [2, 1, 0]
    assert inverse.tolist() == [2, 1, 0, 2, 0] and counts.tolist() == [2, 1, 2]
    assert [v.shape for v in call("unique", np.zeros((0, 3), np.int32), axis=0)] == [(0, 3), (0,), (0,), (0,)]
    assert call("unique", np.zeros((3, 0)), axis=0)[3].tolist() == [3]
    big = np.array([2**63, 2**63 + 1, 2**63], np.uint64)  # equal in float64
    assert call("unique", big)[0].tolist() == [2**63, 2**63 + 1]


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(call: Call, mode: str) -> None:
    draws = np.random.default_rng(9)
    past, update = draws.standard_normal((3, 2, 5, 2)), draws.standard_normal((3, 2, 2, 2))
    for starts in (None, np.array([0, 2, 3])) if mode == "linear" else (np.array([4, 7, 1]),):
        wanted = past.copy()
        for b, i in np.ndindex(3, 2):
            wanted[b, :, ((0 if starts is None else starts[b]) + i) % 5] = update[b, :, i]
        np.testing.assert_array_equal(call("tensor_scatter", past, update, starts, mode=mode), wanted)
        moved = call("tensor_scatter", past.swapaxes(1, 2), update.swapaxes(1, 2), starts, axis=1, mode=mode)
        np.testing.assert_array_equal(moved, wanted.swapaxes(1, 2))
    with pytest.raises(InvalidModel):
        call("tensor_scatter", past, update, np.array([0, 4, 0]))
