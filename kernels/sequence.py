"""Kernels of the sequence family: sequences are Python lists of arrays, an absent optional is None.

Lists are copied, never changed: an operand may be wanted again. Elements are shared.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir.errors import InvalidModel
from ..ir.types import Type
from .registry import kernel
from .shape import as_ints, norm_axes

Array = np.ndarray
Items = list[Any]


def _position(position: Array, count: int, op: str) -> int:
    """A position among `count` as a non-negative number. Raises InvalidModel when it is out of range."""
    at = int(np.asarray(position).reshape(-1)[0])
    if not -count <= at < count:
        raise InvalidModel(f"{op}: position {at} in a sequence of {count}", code="F020")
    return at % count


@kernel("sequence_empty")
def sequence_empty(*, elem: Type) -> Items:
    return []


@kernel("sequence_construct")
def sequence_construct(*xs: Array) -> Items:
    return list(xs)


@kernel("sequence_insert")
def sequence_insert(seq: Items, x: Any, position: Array | None = None) -> Items:
    """ONNX SequenceInsert-11: positions -n to n, in front of the element that stands there."""
    count = len(seq)
    at = count if position is None else int(np.asarray(position).reshape(-1)[0])
    if not -count <= at <= count:
        raise InvalidModel(f"sequence_insert: position {at} in a sequence of {count}", code="F020")
    at += count if at < 0 else 0
    return [*seq[:at], x, *seq[at:]]


@kernel("sequence_erase")
def sequence_erase(seq: Items, position: Array | None = None) -> Items:
    at = _position(np.asarray(-1) if position is None else position, len(seq), "sequence_erase")
    return [*seq[:at], *seq[at + 1 :]]


@kernel("sequence_at")
def sequence_at(seq: Items, position: Array) -> Any:
    return seq[_position(position, len(seq), "sequence_at")]


@kernel("sequence_length")
def sequence_length(seq: Items) -> Array:
    return np.array(len(seq), np.int64)


@kernel("split_to_sequence")
def split_to_sequence(x: Array, split: Array | None = None, *, axis: int, keepdims: bool) -> Items:
    """ONNX SplitToSequence-11: `keepdims` counts only without `split`."""
    (along,) = norm_axes([axis], x.ndim, "split_to_sequence")
    size = x.shape[along]
    lengths = [1] * size if split is None else as_ints(split) if split.ndim else _even(size, int(split))
    if sum(lengths) != size or any(n < 0 for n in lengths):
        raise InvalidModel(f"split_to_sequence: lengths {lengths[:20]} do not add up to {size}", code="F020")
    pieces = np.split(x, np.cumsum(lengths)[:-1].tolist(), axis=along) if lengths else []
    return [piece.squeeze(along) for piece in pieces] if split is None and not keepdims else pieces


def _even(size: int, length: int) -> list[int]:
    """Pieces of `length`, the last one what is left."""
    if length < 1:
        raise InvalidModel(f"split_to_sequence: pieces of length {length}", code="F020")
    return [length] * (size // length) + ([size % length] if size % length else [])


@kernel("concat_from_sequence")
def concat_from_sequence(seq: Items, *, axis: int, new_axis: bool) -> Array:
    if not seq:
        raise InvalidModel("concat_from_sequence: the sequence is empty", code="F021")
    return np.stack(seq, axis=axis) if new_axis else np.concatenate(seq, axis=axis)


@kernel("optional")
def optional_(x: Any = None, *, type: Type | None) -> Any:
    return x


@kernel("optional_get_element")
def optional_get_element(x: Any) -> Any:
    if x is None:
        raise InvalidModel(
            "optional_get_element: the value is absent", code="F021", hint="ask optional_has_element before"
        )
    return x


@kernel("optional_has_element")
def optional_has_element(x: Any = None) -> Array:
    return np.array(x is not None)
