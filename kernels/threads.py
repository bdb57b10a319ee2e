"""How many threads BLAS takes: one, where a model is run over many samples.

    with one_thread():
        for batch in feeds.batches(): run_graph(...)

Kernels hand BLAS products that fit a cache: a second thread gains nothing on them and waits for the next one at full
speed, which doubles the time that is paid for and slows down whatever else the machine does. numpy has no call for this;
the functions are those of the library that it has loaded, and where that is another one nothing happens.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

#: Functions that say and set the number: numpy's own OpenBLAS, older ones, those of distributions, MKL.
NAMES = (
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
)


class Blas(NamedTuple):
    get: Callable[[], int]
    set: Callable[[int], object]


@functools.cache
def blas() -> Blas | None:
    """The two functions of numpy's BLAS; None where it has none that are known."""
    library = ctypes.CDLL(np.linalg._umath_linalg.__file__)  # type: ignore[attr-defined]
    for get, set_ in NAMES:
        if hasattr(library, get) and hasattr(library, set_):
            return Blas(library[get], library[set_])
    return None


_lock = threading.Lock()
_inside = 0
_before = 1


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS takes one thread inside the block, or function, in the whole process; the last to leave puts back what was."""
    library = blas()
    if library is None:
        yield
        return
    global _inside, _before
    with _lock:
        if not _inside:
            _before = library.get()
            library.set(1)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                library.set(_before)
