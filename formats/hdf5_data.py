"""The data half of the HDF5 reader: datatypes and chunked storage. `hdf5` holds the tree; see there for what is
refused.

Sections are those of the "HDF5 File Format Specification Version 3.0". Must not import the IR (errors, storage apart).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from ..ir.errors import Unsupported
from ..ir.storage import check_limit, limit

if TYPE_CHECKING:
    from .hdf5 import Dataset, H5File

UNDEFINED = 0xFFFFFFFFFFFFFFFF
RESAVE = "save the model again with Keras' own defaults"


@dataclass(frozen=True)
class Type:
    """A decoded datatype message: a numpy dtype, or a kind of string ("fixed", "vlen"), or a refusal in words."""

    size: int
    dtype: np.dtype | None = None
    text: str = ""
    reason: str = ""


def product(dims: Iterable[int]) -> int:
    total = 1
    for n in dims:
        total *= n
    return total


_FLOATS = {(2, 5, 10): np.float16, (2, 8, 7): ml_dtypes.bfloat16, (4, 8, 23): np.float32, (8, 11, 52): np.float64}
_OTHERS = {
    2: "times",
    4: "bit fields",
    5: "opaque",
    6: "compounds",
    7: "references",
    8: "enums",
    10: "arrays",
    11: "complex",
}


def datatype(message: bytes) -> Type:
    """A datatype message (section IV.A.2.d): IEEE floats, ordinary integers and strings; a reason for all else."""
    if len(message) < 8:
        return Type(1, reason="unreadable types")
    kind, bits, size = message[0] & 15, message[1], struct.unpack_from("<I", message, 4)[0]
    if kind == 3 and size:
        return Type(size, text="fixed")
    if kind == 9:
        is_text = bits & 15 == 1 and size == 16
        return Type(16, text="vlen") if is_text else Type(max(size, 1), reason="variable-length sequences")
    order = ">" if bits & 1 else "<"
    is_whole = kind == 0 and len(message) >= 12 and struct.unpack_from("<HH", message, 8) == (0, 8 * size)
    if is_whole and size in (1, 2, 4, 8):
        return Type(size, np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}"))
    if kind == 1 and len(message) >= 16 and not bits & 64:
        offset, precision, _, exponent, _, mantissa = struct.unpack_from("<HHBBBB", message, 8)
        base = _FLOATS.get((size, exponent, mantissa))
        if (
            base is not None
            and (offset, precision) == (0, 8 * size)
            and not (order == ">" and size == 2 and mantissa == 7)
        ):
            dtype = np.dtype(base)
            return Type(size, dtype.newbyteorder(order) if order == ">" else dtype)
    return Type(max(size, 1), reason=_OTHERS.get(kind, "unusual numbers"))


class Chunks:
    """Reads one chunked dataset: sizes first, then chunk by chunk into one array."""

    def __init__(self, file: H5File, dataset: Dataset) -> None:
        self.file, self.dataset = file, dataset
        layout, rank = dataset.layout, len(dataset.shape)
        if len(layout) < 11 + 4 * (rank + 1) or layout[2] != rank + 1:
            raise file.fail("chunks of another rank than the data", dataset.path)
        (self.tree,) = struct.unpack_from("<Q", layout, 3)
        *self.chunk, element = struct.unpack_from(f"<{rank + 1}I", layout, 11)
        if element != dataset.dtype.itemsize or 0 in self.chunk or self.tree == UNDEFINED:
            raise file.fail(
                f"a dataset declares {dataset.nbytes} bytes and holds none, or has bad chunks", dataset.path
            )
        self.filters = self._filters(dataset.filters) if dataset.filters else []

    def read(self) -> np.ndarray:
        file, data = self.file, self.dataset
        chunks = self._table()
        stored = sum(size for _, _, size, _ in chunks)
        chunk_bytes = product(self.chunk) * data.dtype.itemsize
        file.charge(stored, data.path)
        file.stored += stored
        padded = [-(-n // c) * c for n, c in zip(data.shape, self.chunk, strict=True)]
        file.inflated += product(padded) * data.dtype.itemsize
        if file.inflated > limit("hdf5_ratio") * file.stored:
            check_limit("hdf5_bytes", file.inflated, "inflated bytes of datasets", f"{file.where}: {data.path}")
        out = np.empty(data.shape, data.dtype)
        for offset, address, size, mask in chunks:
            raw = self._decode(file.at(address, size, f"chunk of {data.path}"), chunk_bytes, mask)
            block = np.frombuffer(raw, data.dtype).reshape(self.chunk)
            inside = tuple(slice(0, min(c, n - o)) for c, n, o in zip(self.chunk, data.shape, offset, strict=True))
            out[tuple(slice(o, o + c) for o, c in zip(offset, self.chunk, strict=True))] = block[inside]
        return out

    def _table(self) -> list[tuple[tuple[int, ...], int, int, int]]:
        """(offset, address, stored bytes, filter mask) of all chunks; each place exactly once."""
        data, rank = self.dataset, len(self.dataset.shape)
        found: dict[tuple[int, ...], tuple[tuple[int, ...], int, int, int]] = {}
        for key, address in self.file.tree_leaves(self.tree, 1, 8 + 8 * (rank + 1)):
            size, mask, *offset = struct.unpack(f"<II{rank + 1}Q", key)
            place = tuple(offset[:-1])
            if place in found or any(o % c or o >= n for o, c, n in zip(place, self.chunk, data.shape, strict=True)):
                raise self.file.fail("a chunk lies outside the data or repeats another", data.path)
            found[place] = (place, address, size, mask)
        expected = product([-(-n // c) for n, c in zip(data.shape, self.chunk, strict=True)])
        if len(found) != expected:
            raise self.file.fail(f"{expected - len(found)} of {expected} chunks are missing", data.path)
        return list(found.values())

    def _decode(self, raw: bytes | memoryview, size: int, mask: int) -> bytes | memoryview:
        for i, (kind, width) in reversed(list(enumerate(self.filters))):
            if mask >> i & 1:
                continue
            if kind == 1:
                raw = self._inflate(raw, size)
            elif width > 1 and len(raw) % width == 0:
                raw = np.frombuffer(raw, np.uint8).reshape(width, -1).T.tobytes()
        if len(raw) != size:
            raise self.file.fail(f"a chunk holds {len(raw)} bytes instead of {size}", self.dataset.path)
        return raw

    def _inflate(self, raw: bytes | memoryview, size: int) -> bytes:
        stream = zlib.decompressobj()
        try:
            data = stream.decompress(raw, size + 1)
        except zlib.error as error:
            raise self.file.fail(f"a compressed chunk is damaged ({error})", self.dataset.path) from None
        if len(data) != size:
            raise self.file.fail("a compressed chunk does not inflate to its declared size", self.dataset.path)
        return data

    def _filters(self, message: bytes) -> list[tuple[int, int]]:
        """(filter, shuffle width) in the order of application (specification, section IV.A.2.l)."""
        found = []
        try:
            version, count = message[0], message[1]
            at = 8 if version == 1 else 2
            for _ in range(count):
                (kind,) = struct.unpack_from("<H", message, at)
                if version not in (1, 2) or kind not in (1, 2):
                    raise Unsupported(
                        f"HDF5 filter {kind} is not supported (gzip and shuffle are)",
                        where=f"{self.file.where}: {self.dataset.path}",
                        hint=RESAVE,
                    )
                name, values = 0, struct.unpack_from("<H", message, at + (6 if version == 1 else 4))[0]
                if version == 1:
                    name = -(-struct.unpack_from("<H", message, at + 2)[0] // 8) * 8
                at += (8 if version == 1 else 6) + name
                found.append((kind, struct.unpack_from("<I", message, at)[0] if kind == 2 and values else 1))
                at += 4 * (values + (values % 2 if version == 1 else 0))
        except (IndexError, struct.error):
            raise self.file.fail("a short filter message", self.dataset.path) from None
        return found
