"""One pass of data through a module on the reference kernels, with observers on values.

    seen = observe(module, values, feeds, lambda value: Percentile())
    lo, hi = seen[value].range(-128, 127)

Values are freed as the run goes on and a batch is all that is held of the data, so that the memory does not depend on the
number of samples. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np

from ..ir.errors import AnyIRError, UsageError
from ..ir.graph import Module
from ..ir.value import Value
from ..kernels.run import bind_inputs, run_graph
from ..passes.manager import Feeds
from .observers import Observer

AnyObserver = TypeVar("AnyObserver", bound=Observer)


def observe(
    module: Module,
    values: Iterable[Value],
    feeds: Feeds,
    make: Callable[[Value], AnyObserver],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Value, AnyObserver]:
    """An observer from `make` for each of `values`, shown what the value is for every batch of `feeds`.

    Values are inputs or results in the graph of the module's signature, of known float or integer type, or constants, which
    are shown once. `progress(done, count)` is called after each batch. Raises UsageError for a value of another
    graph or of a region, and what the data and the kernels raise.
    """
    graph = module.signature.graph
    seen: dict[Value, AnyObserver] = {}
    taps: dict[Value, Callable[[np.ndarray], None]] = {}
    for value in values:
        if value in seen:
            continue
        seen[value] = observer = make(value)
        if value.is_const:
            observer.update(value.weight.tensor.numpy())
            continue
        if value.graph is not graph:
            raise UsageError(f"%{value.hint or value.index} is not a value of @{graph.name}: it cannot be observed")
        taps[value] = _tap(value, observer)
    if not taps:
        return seen
    done, count = 0, feeds.count if progress is not None else 0
    for arrays in feeds.batches():
        run_graph(graph, bind_inputs(module.signature, arrays), taps=taps)
        if progress is not None:
            done = min(done + _samples(arrays), count)
            progress(done, count)
    return seen


def _tap(value: Value, observer: Observer) -> Callable[[np.ndarray], None]:
    """Show a value to its observer; what it refuses is said of the value."""

    def show(array: np.ndarray) -> None:
        try:
            observer.update(array)
        except AnyIRError as error:
            raise error.at(f"%{value.hint or value.index}") from None

    return show


def _samples(arrays: Mapping[str, np.ndarray]) -> int:
    return max((len(array) for array in arrays.values() if array.ndim), default=1)
