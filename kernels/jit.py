"""Lazy numba: a loop is written once, runs uncompiled for small work and compiled (cached on disk) for large.

    @jit(lambda x, out: out.size)          # how many steps the loop takes for these arguments
    def _rows(x, out): ...

numba is imported at the first compiled call only. Inside `interpreted()` (constant folding) nothing is ever compiled.
Functions decorated with `jit` may call each other by their global names. Both bodies do the same float64 arithmetic in
the same order, unless `any_order` is said, so which one runs does not show (but for erf and tanh, which numba takes from
another library: they may differ in the last bit of float64).
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import update_wrapper
from typing import Any

#: Steps that a function takes uncompiled in a process before it is compiled. Loading numba and one cached function
#: costs about as much CPU time (measured: 0.5 s, and 0.3 to 0.5 microseconds a step); compiling costs seconds.
UNCOMPILED_STEPS = 1_000_000

_interpreted: ContextVar[bool] = ContextVar("interpreted", default=False)


@contextmanager
def interpreted() -> Iterator[None]:
    """Run jit functions as plain Python inside this block."""
    token = _interpreted.set(True)
    try:
        yield
    finally:
        _interpreted.reset(token)


def is_interpreted() -> bool:
    return _interpreted.get()


class JitFunction:
    """A function with two bodies: `py_func` as written, and its compiled twin, made at the first call that needs it."""

    def __init__(self, function: Callable, steps: Callable[..., int], any_order: bool) -> None:
        update_wrapper(self, function)
        self.py_func = function
        self.steps = steps
        self.any_order = any_order
        self._taken = 0
        self._compiled: Callable | None = None

    def __call__(self, *args: Any) -> Any:
        if _interpreted.get():
            return self.py_func(*args)
        if self._compiled is None:
            self._taken += self.steps(*args)
            if self._taken <= UNCOMPILED_STEPS:
                with interpreted():
                    return self.py_func(*args)
        return self.compiled()(*args)

    def ready(self, *args: Any) -> bool:
        """Whether a call with these arguments would run compiled; where not, their steps count as if they were taken. For
        callers that have whole-array numpy for small work."""
        if _interpreted.get():
            return False
        if self._compiled is None:
            self._taken += self.steps(*args)
        return self._compiled is not None or self._taken > UNCOMPILED_STEPS

    def compiled(self) -> Callable:
        """The numba dispatcher (one specialisation per argument types, cached on disk)."""
        if self._compiled is None:
            self._compiled = _compile(self.py_func, self.any_order)
        return self._compiled


def jit(steps: Callable[..., int], *, any_order: bool = False) -> Callable[[Callable], JitFunction]:
    """Decorate a numba-compatible function; arguments are arrays and scalars, positional only. `steps` gets the same
    arguments and says how often the innermost loop runs (a bound will do). With `any_order` the compiler may add up in
    any order, as BLAS does."""
    return lambda function: JitFunction(function, steps, any_order)


def _compile(function: Callable, any_order: bool) -> Callable:
    """njit with a copy of the globals in which other jit functions are their dispatchers."""
    import numba

    if not os.environ.get("NUMBA_CACHE_DIR"):
        numba.config.CACHE_DIR = cache_folder()  # type: ignore[attr-defined]
    names = function.__code__.co_names
    scope = dict(function.__globals__)
    for name in names:
        if isinstance(scope.get(name), JitFunction):
            scope[name] = scope[name].compiled()
    twin = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    twin.__module__ = function.__module__
    twin.__qualname__ = function.__qualname__
    relaxed = {"reassoc", "contract", "nsz"} if any_order else False
    return numba.njit(twin, cache=True, nogil=True, error_model="numpy", fastmath=relaxed)


def cache_folder() -> str:
    """The user's cache folder for compiled kernels, made with mode 0700; never next to a model."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(root, "anyir", "numba")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder
