"""How lazy tensors are evaluated: a table of ops, each with inference and, where it can, evaluation box by box.

An op that is not in the table is evaluated whole by a registered function (`register_evaluator`; the reference kernels
register themselves under "*"). Results are those of the reference kernels: one rounding per op. Must not import
kernels.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .errors import InvalidModel, Unsupported
from .tensor import Tensor
from .types import BF16, F16, F32, F64, DType

Box = tuple[int, ...]
Attrs = dict[str, Any]
Type = tuple[DType, tuple[int, ...]]
#: Picked positions that follow each other, as many in the mean as this, are copied as runs, not one by one.
RUN = 8


class Rule(NamedTuple):
    """`infer(operands, attrs)` gives dtype and shape, `region(operands, attrs, shape, begin, end)` one box."""

    infer: Callable[[tuple[Tensor, ...], Attrs], Type]
    region: Callable[[tuple[Tensor, ...], Attrs, tuple[int, ...], Box, Box], np.ndarray]


_evaluators: dict[str, Callable[..., np.ndarray]] = {}


def register_evaluator(op: str, function: Callable[..., np.ndarray]) -> None:
    """Evaluate `op` by `function(*arrays, **attrs)`; under "*" any op, by `function(op, *arrays, **attrs)`."""
    _evaluators[op] = function


def by_boxes(op: str) -> bool:
    """Whether `op` can be evaluated a box at a time."""
    return op in RULES


def infer(op: str, operands: tuple[Tensor, ...], attrs: Attrs) -> Type:
    """Dtype and shape of a lazy op of the table. InvalidModel when the operands do not fit."""
    if op not in RULES:
        raise InvalidModel(f"a lazy {op} must be given its dtype and shape")
    return RULES[op].infer(operands, attrs)


def region(op: str, operands: tuple[Tensor, ...], attrs: Attrs, shape: tuple[int, ...], begin: Box, end: Box) -> Any:
    """The box begin..end of the result. Unsupported when nobody can evaluate `op`."""
    if op in RULES:
        return RULES[op].region(operands, attrs, shape, begin, end)
    arrays = [operand.numpy() for operand in operands]
    if op in _evaluators:
        whole = _evaluators[op](*arrays, **attrs)
    elif "*" in _evaluators:
        whole = _evaluators["*"](op, *arrays, **attrs)
    else:
        raise Unsupported(f"no evaluator for a lazy {op}", hint="import anyir.kernels.run")
    return np.asarray(whole)[tuple(map(slice, begin, end))]


# ---------------------------------------------------------------------------------------------- elementwise


def _same_dtype(operands: tuple[Tensor, ...], attrs: Attrs) -> Type:
    dtypes = {operand.dtype.name for operand in operands}
    try:
        shape = np.broadcast_shapes(*(operand.shape for operand in operands))
    except ValueError:
        raise InvalidModel(f"shapes {[list(t.shape) for t in operands]} do not broadcast") from None
    if len(dtypes) != 1 or not operands[0].dtype.is_numeric:
        raise InvalidModel(f"lazy arithmetic on {sorted(dtypes)}")
    return operands[0].dtype, tuple(map(int, shape))


def _float_only(operands: tuple[Tensor, ...], attrs: Attrs) -> Type:
    if not operands[0].dtype.is_float:
        raise InvalidModel(f"lazy division of {operands[0].dtype}")
    return _same_dtype(operands, attrs)


def _broadcast_box(operand: Tensor, begin: Box, end: Box) -> np.ndarray:
    """The part of `operand` that the box of a broadcast result sees."""
    skip = len(begin) - len(operand.shape)
    low = tuple(0 if dim == 1 else b for dim, b in zip(operand.shape, begin[skip:], strict=True))
    high = tuple(1 if dim == 1 else e for dim, e in zip(operand.shape, end[skip:], strict=True))
    return operand.region(low, high)


def _elementwise(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def evaluate(
        operands: tuple[Tensor, ...], attrs: Attrs, shape: tuple[int, ...], begin: Box, end: Box
    ) -> np.ndarray:
        boxes = [_broadcast_box(operand, begin, end) for operand in operands]
        with np.errstate(all="ignore"):
            result = np.asarray(function(*boxes), dtype=operands[0].dtype.numpy)
        return np.broadcast_to(result, tuple(e - b for b, e in zip(begin, end, strict=True)))

    return evaluate


def _cast_type(operands: tuple[Tensor, ...], attrs: Attrs) -> Type:
    """Casts whose result is not a matter of convention: to the usual floats, and to wider integers."""
    (source,), target = operands, attrs["to"]
    widening = source.dtype.is_int and target.is_int and np.can_cast(source.dtype.numpy, target.numpy, "safe")
    if not widening and not (target in (F16, BF16, F32, F64) and (source.dtype.is_float or source.dtype.is_int)):
        raise InvalidModel(f"a lazy cast from {source.dtype} to {target}")
    return target, source.shape


def _cast(operands: tuple[Tensor, ...], attrs: Attrs, shape: tuple[int, ...], begin: Box, end: Box) -> np.ndarray:
    with np.errstate(all="ignore"):
        return operands[0].region(begin, end).astype(attrs["to"].numpy)


# -------------------------------------------------------------------------------------------- data movement


def _transpose_type(operands: tuple[Tensor, ...], attrs: Attrs) -> Type:
    (source,), perm = operands, attrs["perm"]
    if sorted(perm) != list(range(len(source.shape))):
        raise InvalidModel(f"perm {list(perm)} does not permute rank {len(source.shape)}")
    return source.dtype, tuple(source.shape[axis] for axis in perm)


def _transpose(operands: tuple[Tensor, ...], attrs: Attrs, shape: tuple[int, ...], begin: Box, end: Box) -> np.ndarray:
    perm = attrs["perm"]
    inverse = sorted(range(len(perm)), key=perm.__getitem__)
    low, high = (tuple(corner[i] for i in inverse) for corner in (begin, end))
    return operands[0].region(low, high).transpose(perm)


def _slice_type(operands: tuple[Tensor, ...], attrs: Attrs) -> Type:
    """starts, stops and positive steps for every axis, within the shape."""
    (source,), starts, stops, steps = operands, attrs["starts"], attrs["stops"], attrs["steps"]
    if not len(starts) == len(stops) == len(steps) == len(source.shape):
        raise InvalidModel(f"a lazy slice of rank {len(starts)} on rank {len(source.shape)}")
    for start, stop, step, dim in zip(starts, stops, steps, source.shape, strict=True):
        if not (0 <= start <= stop <= dim and step >= 1):
            raise InvalidModel(f"lazy slice {start}:{stop}:{step} of a dimension {dim}")
    return source.dtype, tuple(len(range(*bounds)) for bounds in zip(starts, stops, steps, strict=True))


def _slice(operands: tuple[Tensor, ...], attrs: Attrs, shape: tuple[int, ...], begin: Box, end: Box) -> np.ndarray:
    starts, steps = attrs["starts"], attrs["steps"]
    low = tuple(start + b * step for start, b, step in zip(starts, begin, steps, strict=True))
    high = tuple(
        start + max((e - 1) * step + 1, b * step) for start, b, e, step in zip(starts, begin, end, steps, strict=True)
    )
    return operands[0].region(low, high)[tuple(slice(None, None, step) for step in steps)]


def _concat_type(operands: tuple[Tensor, ...], attrs: Attrs) -> Type:
    first, axis = operands[0], attrs["axis"]
    rank = len(first.shape)
    if not 0 <= axis < rank:
        raise InvalidModel(f"a lazy concat along axis {axis} of rank {rank}")
    for other in operands:
        rest = other.shape[:axis] + other.shape[axis + 1 :]
        if (
            other.dtype is not first.dtype
            or len(other.shape) != rank
            or rest != first.shape[:axis] + first.shape[axis + 1 :]
        ):
            raise InvalidModel(f"a lazy concat of {first!r} and {other!r}")
    total = sum(other.shape[axis] for other in operands)
    return first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :])


def _concat(operands: tuple[Tensor, ...], attrs: Attrs, shape: tuple[int, ...], begin: Box, end: Box) -> np.ndarray:
    axis, at, parts = attrs["axis"], 0, []
    for operand in operands:
        low, high = max(begin[axis] - at, 0), min(end[axis] - at, operand.shape[axis])
        if low < high:
            parts.append(
                operand.region((*begin[:axis], low, *begin[axis + 1 :]), (*end[:axis], high, *end[axis + 1 :]))
            )
        at += operand.shape[axis]
    if not parts:
        return np.zeros(tuple(e - b for b, e in zip(begin, end, strict=True)), operands[0].dtype.numpy)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)


def _with(corner: Box, axis: int, value: int) -> Box:
    return (*corner[:axis], value, *corner[axis + 1 :])


def _take_type(operands: tuple[Tensor, ...], attrs: Attrs) -> Type:
    """`indices` (non-negative ints) along `axis`: what pruning keeps."""
    (source,), axis, indices = operands, attrs["axis"], attrs["indices"]
    if not 0 <= axis < len(source.shape) or any(not 0 <= i < source.shape[axis] for i in indices):
        raise InvalidModel(f"a lazy take of axis {axis} from {source!r}")
    return source.dtype, (*source.shape[:axis], len(indices), *source.shape[axis + 1 :])


def _take(operands: tuple[Tensor, ...], attrs: Attrs, shape: tuple[int, ...], begin: Box, end: Box) -> np.ndarray:
    axis = attrs["axis"]
    chosen = np.array(attrs["indices"][begin[axis] : end[axis]], np.intp)
    first, last = (int(chosen.min()), int(chosen.max()) + 1) if len(chosen) else (0, 0)
    box = operands[0].region(_with(begin, axis, first), _with(end, axis, last))
    ends = [0, *(np.flatnonzero(np.diff(chosen) != 1) + 1).tolist(), len(chosen)]
    if len(ends) > 1 + len(chosen) // RUN:
        return box.take(chosen - first, axis)
    runs = [(int(chosen[a]) - first, b - a) for a, b in pairwise(ends)]
    return np.concatenate([box[(slice(None),) * axis + (slice(at, at + count),)] for at, count in runs], axis)


RULES: dict[str, Rule] = {
    "add": Rule(_same_dtype, _elementwise(operator.add)),
    "sub": Rule(_same_dtype, _elementwise(operator.sub)),
    "mul": Rule(_same_dtype, _elementwise(operator.mul)),
    "div": Rule(_float_only, _elementwise(operator.truediv)),
    "neg": Rule(_same_dtype, _elementwise(operator.neg)),
    "cast": Rule(_cast_type, _cast),
    "transpose": Rule(_transpose_type, _transpose),
    "slice": Rule(_slice_type, _slice),
    "concat": Rule(_concat_type, _concat),
    "take": Rule(_take_type, _take),
}
