"""Weights that are mostly zero, as TFLite stores them: the other elements, and where they stand (compressed rows).

    values, record = encode(array)              # the last axis compressed; None where that is not smaller
    array = decode(record, values, shape)       # any order of axes and any of them compressed, as the schema allows

Levels of the TACO form (Kjolstad et al., "The tensor algebra compiler", 2017; `SparsityParameters` of the schema). Knows
arrays and records only and must not import the IR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir.errors import InvalidModel, Unsupported
from ..ir.storage import check_limit
from .tflite import Record
from .tflite_schema import ENUMS

DENSE, COMPRESSED = (ENUMS["DimensionType"][name] for name in ("DENSE", "SPARSE_CSR"))
_INDICES: dict[str, Any] = {"Uint8Vector": np.uint8, "Uint16Vector": np.uint16, "Int32Vector": np.int32}
#: Bytes that a sparse tensor costs besides values and indices: the operator that unpacks it, its result, the records.
OVERHEAD = 512


def encode(array: np.ndarray) -> tuple[np.ndarray, Record] | None:
    """The elements that are not zero in row-major order [n], and the record of where they stand; None where that takes
    as many bytes as the array, or more. -0.0 counts as zero only where it is stored as such: by its bits."""
    if array.ndim < 2 or not array.size:
        return None
    rows = np.ascontiguousarray(array).reshape(-1, array.shape[-1])
    bits = rows.view(np.dtype(f"u{rows.dtype.itemsize}"))
    counts = np.count_nonzero(bits, axis=1)
    segments, indices = _vector(np.concatenate([[0], np.cumsum(counts)])), _vector(np.nonzero(bits)[1])
    values = rows[bits != 0]
    if not len(values):  # buffers without content stand for what is computed
        return None
    size = sum(part["values"].nbytes for part in (segments, indices)) + values.nbytes + OVERHEAD
    if size >= array.nbytes:
        return None
    levels = [Record("DimensionMetadata", format=DENSE, dense_size=int(d)) for d in array.shape]
    levels[-1].update(format=COMPRESSED, array_segments=segments, array_indices=indices)
    order = np.arange(array.ndim, dtype=np.int32)
    return values, Record("SparsityParameters", traversal_order=order, dim_metadata=levels)


def _vector(numbers: np.ndarray) -> Record:
    """In the narrowest type that holds them."""
    most = int(numbers.max(initial=0))
    kind = next(kind for kind, dtype in _INDICES.items() if most <= np.iinfo(dtype).max)
    return Record(kind, {"values": numbers.astype(_INDICES[kind])})


def decode(record: Record, values: np.ndarray, shape: Sequence[int], where: str = "") -> np.ndarray:
    """The dense array. Raises InvalidModel where record, values [n] and shape disagree, Unsupported for blocks."""
    if record["block_map"] is not None and len(record["block_map"]):
        raise Unsupported("sparse weights in blocks", code="U233", where=where)
    levels, order = record["dim_metadata"] or [], _numbers(record["traversal_order"])
    if sorted(order.tolist()) != list(range(len(shape))) or len(levels) != len(shape):
        raise InvalidModel(f"sparse weights of {len(levels)} levels, shape {list(shape)}", code="F239", where=where)
    check_limit("fold_total_bytes", math.prod(shape) * values.itemsize, "bytes of a dense tensor", where)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    places = np.zeros(1, np.int64)
    for level, axis in zip(levels, order.tolist(), strict=True):
        if level["dense_size"] != shape[axis]:
            raise InvalidModel(f"axis {axis} has {level['dense_size']} places", code="F239", where=where)
        if level["format"] == DENSE:
            steps = np.arange(shape[axis], dtype=np.int64)
            places = (places[:, None] + steps * strides[axis]).reshape(-1)
        else:
            counts, indices = _compressed(level, len(places), shape[axis], where)
            places = np.repeat(places, counts) + indices * strides[axis]
    if len(places) != len(values):
        raise InvalidModel(f"{len(values)} elements for {len(places)} places", code="F239", where=where)
    made = np.zeros(math.prod(shape), values.dtype)
    made[places] = values
    return made.reshape(shape)


def _compressed(level: Record, paths: int, size: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """How many indices each path has, and all indices."""
    ends, indices = (_numbers((level[name] or {}).get("values")) for name in ("array_segments", "array_indices"))
    counts = np.diff(ends)
    sound = len(ends) == paths + 1 and ends[0] == 0 and ends[-1] == len(indices) and (counts >= 0).all()
    if not sound or (len(indices) and not 0 <= indices.min() <= indices.max() < size):
        raise InvalidModel("the rows of sparse weights do not fit together", code="F239", where=where)
    rising = np.diff(indices) > 0
    rising[ends[1:-1][(ends[1:-1] > 0) & (ends[1:-1] < len(indices))] - 1] = True
    if not rising.all():
        raise InvalidModel("an element of sparse weights is there twice", code="F239", where=where)
    return counts, indices


def _numbers(vector: Any) -> np.ndarray:
    return np.zeros(0, np.int64) if vector is None else np.asarray(vector).astype(np.int64)
