"""Kernels of control flow: regions arrive as functions from arrays to a list of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..ir.dims import Expr, bind_shape, evaluate, symbols
from ..ir.errors import AnyIRError, InvalidModel
from ..ir.types import TensorType, Type
from . import budget
from .registry import kernel

Array = np.ndarray


class Region(Protocol):
    """The body of a control-flow op; `inputs` and `types` are the types of what it takes and of what it yields."""

    inputs: list[Type]
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
    """ONNX Loop; see the op."""
    (body,) = regions
    limit = None if trip is None else int(np.asarray(trip).reshape(-1)[0])
    going = cond is None or _flag(cond)
    state, captures = list(values[:carried]), values[carried:]
    rows: list[list[Any]] = []
    step = 0
    while going and (limit is None or step < limit):
        made = _turn(body, np.asarray(step, np.int64), np.asarray(True), *state, *captures)
        going, state = _flag(made[0]), list(made[1 : 1 + carried])
        budget.hold(budget.nbytes(made[1 + carried :]))
        rows.append(made[1 + carried :])
        step += 1
    return (*state, *_stacked(rows, body, 1 + carried, (None, None, *values)))


@kernel("scan")
def scan(
    *values: Any,
    carried: int,
    num_scan_inputs: int,
    scan_input_axes: tuple[int, ...],
    scan_input_directions: tuple[int, ...],
    scan_output_axes: tuple[int, ...],
    scan_output_directions: tuple[int, ...],
    regions: Sequence[Region],
) -> tuple[Any, ...]:
    """ONNX Scan-9; see the op. Raises InvalidModel when the scanned values have different lengths."""
    (body,) = regions
    state, captures = list(values[:carried]), values[carried + num_scan_inputs :]
    columns = [
        np.moveaxis(x, axis, 0)[:: -1 if backwards else 1]
        for x, axis, backwards in zip(
            values[carried : carried + num_scan_inputs],
            scan_input_axes or (0,) * num_scan_inputs,
            scan_input_directions or (0,) * num_scan_inputs,
            strict=True,
        )
    ]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) != 1:
        raise InvalidModel(f"scan: the scanned values have lengths {lengths}", code="F020")
    rows: list[list[Any]] = []
    for step in range(lengths[0]):
        made = _turn(body, *state, *(column[step, ...] for column in columns), *captures)
        state = list(made[:carried])
        budget.hold(budget.nbytes(made[carried:]))
        rows.append(made[carried:])
    stacks = _stacked(rows, body, carried, (*values[:carried], *[None] * num_scan_inputs, *captures))
    places = zip(
        stacks,
        scan_output_axes or (0,) * len(stacks),
        scan_output_directions or (0,) * len(stacks),
        strict=True,
    )
    return (*state, *(_put(stack, axis, bool(backwards)) for stack, axis, backwards in places))


def _turn(body: Region, *arrays: Any) -> list[Any]:
    """One iteration, paid for: a body may be empty, and a loop without end."""
    budget.spend(budget.NODE)
    return body(*arrays)


def _put(stack: Array, axis: int, backwards: bool) -> Array:
    made = np.moveaxis(stack[::-1] if backwards else stack, 0, axis)
    return np.array(made, order="C") if made is not stack else stack


def _stacked(rows: list[list[Any]], body: Region, first: int, values: Sequence[Any]) -> list[Array]:
    """The per-iteration outputs, each stacked along a new first axis; empty ones when there was no iteration."""
    if rows:
        return [np.stack(column) for column in zip(*rows, strict=True)]
    sizes: dict[str, int] = {}
    for type_, array in zip(body.inputs, values, strict=True):
        _bind(type_, array, sizes)
    return [_nothing(type_, sizes) for type_ in body.types[first:]]


def _bind(type_: Type, array: Any, sizes: dict[str, int]) -> None:
    """Sizes of the symbols in the type of a value; a value that its type contradicts says nothing."""
    if isinstance(type_, TensorType) and type_.shape is not None and isinstance(array, np.ndarray):
        try:
            sizes.update(bind_shape(type_.shape, array.shape, sizes))
        except AnyIRError:
            return


def _nothing(type_: Type, sizes: dict[str, int]) -> Array:
    """No elements of this type: dims that nobody knows are 0, a shape that nobody knows is that of scalars."""
    if not isinstance(type_, TensorType) or type_.dtype is None:
        raise InvalidModel(f"a loop without iterations: nothing is known of its output {type_}", code="F021")
    shape = [_size(dim, sizes) if isinstance(dim, Expr) else dim for dim in type_.shape or ()]
    return np.empty((0, *shape), type_.dtype.numpy)


def _size(dim: Expr, sizes: dict[str, int]) -> int:
    return max(evaluate(dim, sizes), 0) if all(name in sizes for name in symbols(dim)) else 0


def _flag(value: Array) -> bool:
    flat = np.asarray(value).reshape(-1)
    if flat.size != 1:
        raise InvalidModel(f"a condition of {flat.size} elements", code="F020")
    return bool(flat[0])
