"""From a declared dtype to float64 and back: the two conversions that every floating-point kernel makes.

Kernels compute in float64 and round exactly once. ml_dtypes converts a float64 to bfloat16, fp8, fp6 and fp4 through
float32, which rounds twice; `narrow` avoids that with a round-to-odd first step (Boldo and Melquiond, 2008: rounding to
odd with two spare bits makes the second rounding harmless). Imports only numpy and ml_dtypes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import ml_dtypes
import numpy as np

_DIRECT = frozenset(map(np.dtype, (np.float32, np.float16)))


_is_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_NOTHING = nullcontext()


def quiet() -> AbstractContextManager[None]:
    """No warnings inside the block: NaN, infinities and overflow are results like others. Inside another such block it
    costs next to nothing, unlike numpy's errstate."""
    return _NOTHING if _is_quiet.get() else _silenced()


@contextmanager
def _silenced() -> Iterator[None]:
    token = _is_quiet.set(True)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _is_quiet.reset(token)


def wide(x: np.ndarray) -> np.ndarray:
    """`x` as a C-contiguous float64 array, without a copy if it is one. Exact for every type but 64-bit integers."""
    return np.asarray(x, dtype=np.float64, order="C")


def narrow(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`x` (float64) rounded once, half to even, to `dtype`; overflow gives the type's infinity or NaN.

    An integer `dtype` expects integral values in its range.
    """
    dtype = np.dtype(dtype)
    if dtype == np.float64:
        return x
    with quiet():
        if dtype in _DIRECT or dtype.kind in "iub":
            return x.astype(dtype)
        return _round_to_odd(x).astype(dtype)


def saturate(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`x` (float64) rounded once to the floating-point `dtype`, what lies beyond its largest finite value put there.

    Infinities saturate too and NaN stays NaN, as in ONNX's saturating casts.
    """
    limit = float(ml_dtypes.finfo(dtype).max)
    return narrow(np.clip(x, -limit, limit), dtype)


def _round_to_odd(x: np.ndarray) -> np.ndarray:
    """float32 with the discarded part remembered in the last bit: truncated toward zero, then made odd if inexact."""
    x = np.asarray(x, np.float64)
    rounded = np.asarray(x.astype(np.float32))
    back = rounded.astype(np.float64)
    inexact = (back != x) & np.isfinite(x)
    bits = rounded.view(np.uint32) - (inexact & (np.abs(back) > np.abs(x))).astype(np.uint32)
    return (bits | inexact.astype(np.uint32)).view(np.float32)
