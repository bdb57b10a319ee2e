"""Kernels of control flow: regions arrive as functions from arrays to a list of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..ir.errors import InvalidModel
from ..ir.types import TensorType, Type
from .budget import hold, nbytes
from .registry import kernel

Array = np.ndarray


class Region(Protocol):
    """The body of a control-flow op; `types` are those of its outputs."""

    types: list[Type]

    def __call__(self, *arrays: Any) -> list[Any]: ...


@kernel("if")
def if_(cond: Array, *captures: Any, regions: Sequence[Region]) -> tuple[Any, ...]:
    """The outputs of regions[0] if `cond` is true, else of regions[1]."""
    return tuple(regions[0 if _flag(cond) else 1](*captures))


@kernel("loop")
def loop(
    trip: Array | None, cond: Array | None, *values: Any, carried: int, regions: Sequence[Region]
) -> tuple[Any, ...]:
    """ONNX Loop; see the op. After no iteration at all, a per-iteration output is empty, its unknown dims 0."""
    limit = None if trip is None else int(np.asarray(trip).reshape(-1)[0])
    going = cond is None or _flag(cond)
    state, captures = list(values[:carried]), values[carried:]
    rows: list[list[Any]] = []
    step = 0
    while going and (limit is None or step < limit):
        made = regions[0](np.asarray(step, np.int64), np.asarray(True), *state, *captures)
        going, state = _flag(made[0]), list(made[1 : 1 + carried])
        hold(nbytes(made[1 + carried :]))
        rows.append(made[1 + carried :])
        step += 1
    if not rows:
        return (*state, *map(_nothing, regions[0].types[1 + carried :]))
    return (*state, *(np.stack(column) for column in zip(*rows, strict=True)))


def _nothing(type_: Type) -> Array:
    if not isinstance(type_, TensorType) or type_.dtype is None or type_.shape is None:
        raise InvalidModel(f"a loop without iterations: the shape of its output {type_} is unknown", code="F021")
    return np.empty((0, *(d if type(d) is int else 0 for d in type_.shape)), type_.dtype.numpy)


def _flag(value: Array) -> bool:
    flat = np.asarray(value).reshape(-1)
    if flat.size != 1:
        raise InvalidModel(f"a condition of {flat.size} elements", code="F020")
    return bool(flat[0])
