"""Numbers of the protobuf wire format: each scalar kind with its wire type, how it is read and how it is made.

Used by `protobuf` only. Functions raise ValueError for what a kind cannot hold.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

LONG = 4096  # packed numbers from this count on stay a numpy array
_BYTES = tuple(bytes([i]) for i in range(128))


class Kind(NamedTuple):
    """A scalar kind: wire type, zero value, number -> value, value -> wire number or bytes."""

    wire: int
    zero: Any
    read: Callable[[Any], Any]
    make: Callable[[Any], Any]


def _in_range(low: int, high: int) -> Callable[[int], int]:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"{value} is not in {low}..{high}")
        return value

    return check


def _signed(bits: int) -> tuple[Callable[[int], int], Callable[[Any], int]]:
    check = _in_range(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return (
        lambda raw: check(raw - (1 << 64) if raw >> 63 else raw),
        lambda value: check(operator.index(value)) & ((1 << 64) - 1),
    )


def _unsigned(bits: int) -> tuple[Callable[[int], int], Callable[[Any], int]]:
    check = _in_range(0, (1 << bits) - 1)
    return check, lambda value: check(operator.index(value))


def _zigzag(bits: int) -> tuple[Callable[[int], int], Callable[[Any], int]]:
    check = _in_range(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)

    def make(value: Any) -> int:
        number = check(operator.index(value))
        return number << 1 if number >= 0 else (-number << 1) - 1

    return lambda raw: check((raw >> 1) ^ -(raw & 1)), make


def _fixed(form: str) -> tuple[Callable[[Any], Any], Callable[[Any], bytes]]:
    layout = struct.Struct(form)
    return lambda raw: layout.unpack(raw)[0], layout.pack


_bool = _unsigned(1)
KINDS: dict[str, Kind] = {
    "int32": Kind(0, 0, *_signed(32)),
    "int64": Kind(0, 0, *_signed(64)),
    "enum": Kind(0, 0, *_signed(32)),
    "uint32": Kind(0, 0, *_unsigned(32)),
    "uint64": Kind(0, 0, *_unsigned(64)),
    "sint32": Kind(0, 0, *_zigzag(32)),
    "sint64": Kind(0, 0, *_zigzag(64)),
    "bool": Kind(0, False, lambda raw: bool(_bool[0](raw)), lambda value: _bool[1](int(value))),
    "fixed32": Kind(5, 0, *_fixed("<I")),
    "sfixed32": Kind(5, 0, *_fixed("<i")),
    "float": Kind(5, 0.0, *_fixed("<f")),
    "fixed64": Kind(1, 0, *_fixed("<Q")),
    "sfixed64": Kind(1, 0, *_fixed("<q")),
    "double": Kind(1, 0.0, *_fixed("<d")),
    "string": Kind(2, "", lambda raw: str(raw, "utf-8"), lambda value: value.encode("utf-8")),
    "bytes": Kind(2, b"", lambda raw: raw, lambda value: value),
}
NUMERIC = frozenset(name for name, kind in KINDS.items() if kind.wire != 2)
ZERO = {name: kind.zero for name, kind in KINDS.items()}
WIDTH = {1: 8, 5: 4}
_LONG_DTYPE = {"bool": "?", "int32": "i4", "enum": "i4", "sint32": "i4", "uint32": "u4", "sint64": "i8"}
NUMPY = {"fixed32": "<u4", "sfixed32": "<i4", "float": "<f4", "fixed64": "<u8", "sfixed64": "<i8", "double": "<f8"}


def packed_varints(raw: memoryview, kind: Kind, name: str) -> Any:
    """Packed numbers as a list, or from LONG numbers on as an array. ValueError when they are malformed."""
    data = np.frombuffer(raw, np.uint8)
    if not len(data):
        return []
    ends = np.flatnonzero(data < 0x80)
    if not len(ends) or ends[-1] != len(data) - 1:
        raise ValueError("truncated number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > 10 or (longest == 10 and bool((data[ends[lengths == 10]] > 1).any())):
        raise ValueError("a number of more than 64 bits")
    numbers = np.zeros(len(ends), np.uint64)
    for i in range(longest):
        chosen = lengths > i
        numbers[chosen] |= (data[starts[chosen] + i] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * i)
    if len(numbers) < LONG:
        return [kind.read(raw) for raw in numbers.tolist()]
    if name == "int64":
        return numbers.view(np.int64)
    if name == "uint64":
        return numbers
    dtype = (
        np.bool_ if name == "bool" else np.uint32 if name == "uint32" else np.int64 if name == "sint64" else np.int32
    )
    return np.fromiter((kind.read(raw) for raw in map(int, numbers)), dtype, len(numbers))


def pack(values: Any, kind: Kind, name: str) -> bytes:
    if kind.wire == 0:
        return b"".join(varint(kind.make(value)) for value in plain(values))
    if isinstance(values, np.ndarray):
        return values.astype(NUMPY[name]).tobytes()
    return b"".join(map(kind.make, values))


def plain(values: Any) -> Iterable[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else values


def varint(value: int) -> bytes:
    if value < 0x80:
        return _BYTES[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
