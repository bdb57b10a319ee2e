"""Helpers of the kernel tests: an oracle in float64 says what a kernel that rounds once may answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from anyir.ir.ops import get_op
from anyir.kernels.registry import get_kernel

#: Rounding of a float64 sum relative to the sum of magnitudes: 2**-53 per term, for any length used in the tests.
SUM_NOISE = 2.0**-53 * 4096


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge the compiled loops, also where the work is so small that a user would get the uncompiled ones."""
    monkeypatch.setattr("anyir.kernels.jit.UNCOMPILED_STEPS", 0)


@pytest.fixture
def call() -> Callable[..., Any]:
    """Run a kernel as the IR does: attributes validated and defaulted by the op."""

    def run(name: str, *operands: Any, **attrs: Any) -> Any:
        return get_kernel(name)(*operands, **get_op(name).make_attrs(attrs))

    return run


@pytest.fixture
def rounded_once() -> Callable[..., None]:
    """Check that `made` is the float64 `exact` rounded once to made's dtype (half an ULP, plus float64 noise)."""

    def check(made: np.ndarray, exact: Any, scale: float = 1.0) -> None:
        exact = np.asarray(exact, np.float64)
        assert made.shape == exact.shape
        same = np.isfinite(exact)
        np.testing.assert_array_equal(made[~same].astype(np.float64), exact[~same])
        kept, target = made[same].astype(np.float64), exact[same]
        half = np.spacing(np.abs(target).astype(made.dtype)).astype(np.float64) / 2
        noise = SUM_NOISE * max(np.abs(target).max(initial=0.0), scale)
        worst = np.abs(kept - target) - half * (1 + 1e-9) - noise
        assert worst.max(initial=-1.0) <= 0, f"off by {np.abs(kept - target).max()}"

    return check


def samples_of(name: str) -> Iterator[Any]:
    """The op's own samples, seeded."""
    return get_op(name).samples(np.random.default_rng(7))


@pytest.fixture
def samples() -> Callable[[str], Iterator[Any]]:
    return samples_of
