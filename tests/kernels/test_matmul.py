"""Products against numpy in float64, torch's einsum, and Python integers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")


def test_matmul_samples(call, samples, rounded_once):
    for sample in samples("matmul"):
        a, b = sample.operands
        made = np.asarray(call("matmul", a, b))
        if a.dtype.kind == "f":
            rounded_once(made, torch.matmul(torch.from_numpy(a).double(), torch.from_numpy(b).double()).numpy())


def test_integer_matmul_wraps(call):
    rng = np.random.default_rng(2)
    a = rng.integers(-(2**31), 2**31, (3, 9)).astype(np.int32)
    b = rng.integers(-(2**31), 2**31, (9, 4)).astype(np.int32)
    exact = a.astype(object) @ b.astype(object)
    wrapped = (exact + 2**31) % 2**32 - 2**31
    np.testing.assert_array_equal(call("matmul", a, b), wrapped.astype(np.int64))


def test_gemm_samples(call, samples, rounded_once):
    for sample in samples("gemm"):
        a, b, c = sample.operands
        attrs = sample.attrs
        left = a.T if attrs.get("transA") else a
        right = b.T if attrs.get("transB") else b
        wide = np.int64 if a.dtype.kind == "i" else np.float64
        exact = attrs.get("alpha", 1.0) * (left.astype(wide) @ right.astype(wide))
        if c is not None:
            exact = exact + attrs.get("beta", 1.0) * c.astype(wide)
        made = call("gemm", a, b, c, **attrs)
        if a.dtype.kind == "i":
            assert made.dtype == a.dtype
            np.testing.assert_array_equal(made, exact)
        else:
            rounded_once(made, exact)


def test_einsum_samples_match_torch(call, samples, rounded_once):
    for sample in samples("einsum"):
        (xs,) = sample.operands
        equation = sample.attrs["equation"]
        wanted = torch.einsum(equation, *(torch.from_numpy(x).double() for x in xs)).numpy()
        rounded_once(call("einsum", *xs, equation=equation), wanted)


def test_einsum_of_integers_is_exact(call):
    a = np.arange(12, dtype=np.int64).reshape(3, 4) + 2**29
    made = call("einsum", a, a, equation="ij,kj->ik")
    np.testing.assert_array_equal(made, a.astype(object) @ a.T.astype(object))


def test_matmul_integer(call, samples):
    for sample in samples("matmul_integer"):
        a, b, a_zero, b_zero = sample.operands
        left, right = a.astype(np.int64), b.astype(np.int64)
        if a_zero is not None:
            left = left - np.asarray(a_zero).astype(np.int64).reshape(-1, 1)
        if b_zero is not None:
            right = right - np.asarray(b_zero).astype(np.int64)
        operands = [None if v is None else np.asarray(v) for v in sample.operands]
        made = call("matmul_integer", *operands)
        assert made.dtype == np.int32
        np.testing.assert_array_equal(made, left @ right)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 4, 4), (0, 2, 2), (2, 0, 0)])
def test_det_is_leibniz_sum(call, shape):
    """The sum over permutations, exact for small integers."""
    x = np.random.default_rng(6).integers(-3, 4, shape).astype(np.float32)
    size = shape[-1]
    wanted = np.zeros(shape[:-2])
    for order in itertools.permutations(range(size)):
        crossed = sum(a > b for a, b in itertools.combinations(order, 2))
        wanted = wanted + (-1) ** crossed * np.prod([x[..., i, j] for i, j in enumerate(order)], axis=0)
    made = call("det", x)
    assert made.dtype == x.dtype
    np.testing.assert_allclose(made, wanted, atol=1e-5)
