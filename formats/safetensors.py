"""The safetensors format: a length, a JSON header, raw little-endian tensors. Knows no framework.

    tensors, metadata = read("net.safetensors")     # dict name -> MappedTensor (nothing is copied), dict str -> str
    write("net.safetensors", {"w": tensor}, {"format": "pt"})

The header is checked before anything else: its size, its JSON, dtypes, shapes against byte counts, and that the tensors
cover the data exactly: no gaps, no overlaps, nothing after the last one. Writing streams one tensor after the other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, NamedTuple

from ..ir.archive import parse_json
from ..ir.errors import InvalidModel, Unsupported, clean
from ..ir.storage import atomic_write, check_limit, map_file
from ..ir.tensor import MappedTensor, Tensor, checked_shape
from ..ir.types import DType, dtype

_NAMES: dict[str, str] = {
    "BOOL": "bool", "I8": "i8", "I16": "i16", "I32": "i32", "I64": "i64", "U8": "u8", "U16": "u16", "U32": "u32",
    "U64": "u64", "F4": "f4e2m1", "F8_E4M3": "f8e4m3fn", "F8_E5M2": "f8e5m2", "F8_E8M0": "f8e8m0",
    "F8_E4M3FNUZ": "f8e4m3fnuz", "F8_E5M2FNUZ": "f8e5m2fnuz", "F16": "f16", "BF16": "bf16", "F32": "f32", "F64": "f64",
    "C64": "c64",
}  # fmt: skip
_DTYPES = {name: dtype(ours) for name, ours in _NAMES.items()}
_CODES = {kind: name for name, kind in _DTYPES.items()}
_METADATA = "__metadata__"
_ALIGN = 8


class _Entry(NamedTuple):
    name: str
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int


# -------------------------------------------------------------------------------------------------- reading


def read(path: str | os.PathLike[str]) -> tuple[dict[str, MappedTensor], dict[str, str]]:
    """Tensors by name in the order of the header, mapped from the file, and the metadata.

    Raises InvalidModel (not this format, inconsistent), Unsupported (a dtype that the IR has not), LimitExceeded,
    SystemFailure.
    """
    file = map_file(path)
    where = clean(file.path)
    if file.size < 8:
        raise InvalidModel(f"{file.size} bytes are too few for a safetensors file", where=where)
    length = int.from_bytes(file.view(0, 8), "little")
    if length > file.size - 8:
        raise InvalidModel(f"a header of {length} bytes does not lie in the {file.size} bytes there", where=where)
    check_limit("header_bytes", length, "safetensors header", where)
    header = parse_json(file.view(8, length), "safetensors header", where=where, limit_name="header_bytes")
    if not isinstance(header, dict):
        raise InvalidModel("the header is not a JSON object", where=where)
    metadata = _metadata(header.pop(_METADATA, {}), where)
    entries = [_entry(name, row, f"{where}: tensor {clean(repr(name))}") for name, row in header.items()]
    _check_cover(entries, file.size - 8 - length, where)
    base = 8 + length
    return {e.name: MappedTensor(file, base + e.begin, e.end - e.begin, e.dtype, e.shape) for e in entries}, metadata


def _metadata(found: Any, where: str) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InvalidModel("the metadata is not an object of strings", where=where)
    return found


def _entry(name: str, row: Any, where: str) -> _Entry:
    if not isinstance(row, dict) or sorted(row) != ["data_offsets", "dtype", "shape"]:
        raise InvalidModel("expected an object of dtype, shape and data_offsets", where=where)
    kind, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise Unsupported(f"dtype {clean(repr(kind))}", where=where, hint=f"known: {', '.join(_DTYPES)}")
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
            raise InvalidModel(f"{what} is not a list of numbers >= 0", where=where)
    dims = checked_shape(shape)
    if len(offsets) != 2 or offsets[1] - offsets[0] != _DTYPES[kind].nbytes(_count(dims)):
        raise InvalidModel(f"data_offsets {offsets} do not fit {kind}{list(dims)}", where=where)
    return _Entry(name, _DTYPES[kind], dims, offsets[0], offsets[1])


def _count(dims: Iterable[int]) -> int:
    total = 1
    for dim in dims:
        total *= dim
    return total


def _check_cover(entries: list[_Entry], size: int, where: str) -> None:
    """Sorted by place, each tensor begins where the one before it ends, and the last ends with the file."""
    at = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != at:
            what = "overlaps the one before it" if entry.begin < at else f"leaves a gap of {entry.begin - at} bytes"
            raise InvalidModel(f"tensor {clean(repr(entry.name))} at {entry.begin} {what}", where=where)
        at = entry.end
    if at != size:
        raise InvalidModel(f"the tensors end at {at}, the data has {size} bytes", where=where)


# -------------------------------------------------------------------------------------------------- writing


def write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    protect: Iterable[str | os.PathLike[str]] = (),
) -> None:
    """Write a file whole or not at all. Raises as `write_to` and `storage.atomic_write` do."""
    with atomic_write(path, protect=protect) as file:
        write_to(file, tensors, metadata)


def write_to(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Stream the format: tensors by falling alignment and then name, so that each lies aligned. Deterministic.

    Raises Unsupported for a dtype that the format has not (strings, complex128, 2- and 4-bit integers).
    """
    if _METADATA in tensors:
        raise Unsupported(f"a tensor cannot be called {_METADATA}")
    for name, tensor in tensors.items():
        if tensor.dtype not in _CODES or tensor.size * tensor.dtype.bits % 8:
            what = f"{tensor.dtype}{list(tensor.shape)}"
            raise Unsupported(f"safetensors cannot hold {what}", where=clean(name), hint="cast it or unpack it")
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.bits, name))
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    at = 0
    for name in order:
        tensor = tensors[name]
        place = [at, at + tensor.nbytes]
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        at = place[1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % _ALIGN)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        tensors[name].write(file)
