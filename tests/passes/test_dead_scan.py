"""The first look at a matrix: a sample of a large one says what a look at all of it says, and only where it can."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.ir.tensor import as_tensor
from anyir.passes.dead.scan import SAMPLED, _sampled, scan

SHAPES = ((64, 1100), (1100, 64), (256, 32, 3, 3), (130, 1030, 1, 1))
EDITS = ("nothing", "a zero row", "a zero column", "equal rows", "equal columns", "a zero in the sample")


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_sample_says_what_all_of_it_says(shape: tuple[int, ...], kind: type, edit: str) -> None:
    a: np.ndarray = (np.random.default_rng(len(edit)).normal(size=shape) * 40).astype(kind)
    if edit == "a zero row":
        a[7] = -0.0
    elif edit == "a zero column":
        a[:, 9] = 0
    elif edit == "equal rows":
        a[5] = a[11]
    elif edit == "equal columns":
        a[:, 5] = a[:, 11]
    elif edit == "a zero in the sample":
        a[:, shape[1] // 2 - 16 : shape[1] // 2 + 16] = 0
        a[0] = 1
    for axis in (0, 1):
        found = scan(as_tensor(a.copy()), axis)
        rows = np.moveaxis(a, axis, 0).reshape(shape[axis], -1)
        for one, zero in enumerate(found.zero):
            assert np.array_equal(zero, ~np.moveaxis(a, one, 0).reshape(shape[one], -1).any(axis=1))
        _, group, count = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
        assert set(np.flatnonzero(count[group.reshape(-1)] > 1)) <= set(found.equal)


def test_a_sample_is_enough_for_most_matrices_and_never_for_one_with_a_zero_slice() -> None:
    a = np.random.default_rng(0).normal(size=(300, 200)).astype(np.float32)
    assert a.nbytes > SAMPLED
    bits = np.uint32(0x7FFFFFFF)
    assert all(_sampled(as_tensor(a.copy()), axis, bits) is not None for axis in (0, 1))
    a[250] = 0
    assert all(_sampled(as_tensor(a.copy()), axis, bits) is None for axis in (0, 1))
