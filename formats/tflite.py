"""Reader and writer of TFLite files as plain records, driven by the tables in `tflite_schema`.

A `Record` is a dict with the slots of one schema table: scalars with their defaults, strings, records, lists of
records or strings, and numpy views for scalar vectors. Files are untrusted: every offset, vtable, vector length and
string is checked against the file before it is followed, and what can be made of one file is bounded. Only the writer
imports `flatbuffers`. Knows nothing of graphs and must not import the IR.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np

from ..ir.errors import InvalidModel, LimitExceeded, SystemFailure
from ..ir.storage import check_limit, limit
from .tflite_schema import ALIGNED, ENUMS, FILE_IDENTIFIER, SCALARS, SCHEMA_VERSION, TABLES, Slot

BUILDER_LIMIT = (1 << 31) - (1 << 20)
OUTSIDE_ABOVE = 512 << 20
OUTSIDE_ALIGNMENT = 64
_TAIL_PADDING = 64
_PLACEHOLDER = 1 << 62
_NUMPY = {"bool": np.bool_, "f32": np.float32} | {
    f"{kind}{bits}": np.dtype(f"{'u' if kind == 'u' else ''}int{bits}") for kind in "iu" for bits in (8, 16, 32, 64)
}


class Record(dict):
    """One table: `record["slot"]`, and `record.table`, the name of its schema table (it selects union members)."""

    __slots__ = ("table",)

    def __init__(self, table: str, values: Mapping[str, Any] = {}, **slots: Any) -> None:
        super().__init__(values, **slots)
        self.table = table


class Sink(Protocol):
    """What payloads are written to."""

    def write(self, data: Any, /) -> Any: ...


class Payload(Protocol):
    """The bytes of one buffer: `write` sends exactly `nbytes` of them to a sink, in as many pieces as it likes."""

    @property
    def nbytes(self) -> int: ...

    def write(self, file: Any, /) -> None: ...


# ---------------------------------------------------------------------------------------------------------- reading


def parse(data: memoryview | bytes) -> Record:
    """The `Model` record of a file's bytes. Raises InvalidModel, and LimitExceeded where the file repeats itself."""
    view = memoryview(data).cast("B")
    if len(view) < 8 or bytes(view[4:8]) != FILE_IDENTIFIER:
        raise InvalidModel("this is not a TFLite file (no TFL3 identifier)", code="F210", where="byte 4")
    model = _Reader(view).record("Model", _unpack(view, "I", 0))
    if model["version"] != SCHEMA_VERSION:
        raise InvalidModel(f"schema version {model['version']} (expected {SCHEMA_VERSION})", code="F211", where="Model")
    return model


def buffer_bytes(data: memoryview, buffer: Record) -> memoryview:
    """The content of a `Buffer` record, inside the flatbuffer or behind it (`offset`, `size`)."""
    inside = buffer["data"]
    if buffer["offset"] <= 1:
        return memoryview(b"") if inside is None else memoryview(inside).cast("B")
    start, size = buffer["offset"], buffer["size"]
    if start + size > len(data):
        raise InvalidModel(f"buffer of {size} bytes at {start} ends behind the file ({len(data)} bytes)", code="F213")
    return memoryview(data).cast("B")[start : start + size]


def buffer_range(data: memoryview, buffer: Record) -> tuple[int, int]:
    """Where the content of a `Buffer` record lies in the file: offset and length, (0, 0) without content."""
    content = buffer_bytes(data, buffer)
    if buffer["offset"] > 1:
        return buffer["offset"], buffer["size"]
    if not len(content):
        return 0, 0
    here, base = (np.frombuffer(v, np.uint8).__array_interface__["data"][0] for v in (content, data))
    return here - base, len(content)


def _unpack(view: memoryview, code: str, position: int) -> Any:
    if position < 0 or position + struct.calcsize("<" + code) > len(view):
        raise InvalidModel(f"offset {position} is outside the file ({len(view)} bytes)", code="F212")
    return struct.unpack_from("<" + code, view, position)[0]


class _Reader:
    """Follows offsets with checks. The nesting is the schema's, which has no cycles, so recursion is bounded by it."""

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.records = 0
        self.most = limit("items")
        self.strings: dict[int, str] = {}
        self.text_left = 4 * len(view) + (1 << 20)

    def record(self, table: str, position: int) -> Record:
        self.records += 1
        if self.records > self.most:
            check_limit("items", self.records, "records in one file", f"byte {position}")
        record = Record(table)
        for slot, place in zip(TABLES[table].slots, self.slot_positions(table, position), strict=True):
            if slot is not None:
                record[slot.name] = self._value(record, slot, place)
        return record

    def slot_positions(self, table: str, position: int) -> list[int]:
        """Absolute position of each slot of the table at `position`, 0 for an absent one."""
        vtable = position - _unpack(self.view, "i", position)
        length, size = _unpack(self.view, "H", vtable), _unpack(self.view, "H", vtable + 2)
        if length < 4 or length % 2 or vtable + length > len(self.view) or position + size > len(self.view) or size < 4:
            raise InvalidModel(f"broken vtable of a {table}", code="F212", where=f"byte {position}")
        places = []
        for index, slot in enumerate(TABLES[table].slots):
            offset = _unpack(self.view, "H", vtable + 4 + 2 * index) if 4 + 2 * index < length else 0
            if offset and slot is not None and offset + _inline_size(slot) > size:
                raise InvalidModel(f"slot {slot.name} lies outside its {table}", code="F212", where=f"byte {position}")
            places.append(position + offset if offset else 0)
        return places

    def _value(self, record: Record, slot: Slot, place: int) -> Any:
        if slot.vector:
            return self._vector(slot, self._follow(place)) if place else None
        if slot.kind in SCALARS:
            return _unpack(self.view, SCALARS[slot.kind][0], place) if place else slot.default
        if not place:
            return None
        target = self._follow(place)
        if slot.kind == "string":
            return self._string(target)
        return self.record(self._member(record, slot) if slot.union else slot.kind, target)

    def _member(self, record: Record, slot: Slot) -> str:
        """The table that the union's type byte, the slot before it, selects."""
        code = record[f"{slot.name}_type"]
        members = {value: name for name, value in ENUMS[slot.union].items()}
        if members.get(code, "NONE") == "NONE":
            raise InvalidModel(f"{slot.union} has no member {code}", code="F214", where=record.table)
        return members[code]

    def _follow(self, place: int) -> int:
        return place + _unpack(self.view, "I", place)

    def _vector(self, slot: Slot, position: int) -> Any:
        length = _unpack(self.view, "I", position)
        width = SCALARS[slot.kind][1] if slot.kind in SCALARS else 4
        start = position + 4
        if start + length * width > len(self.view):
            raise InvalidModel(
                f"vector {slot.name} of {length} elements ends behind the file", code="F212", where=f"byte {position}"
            )
        if slot.kind in SCALARS:
            return (
                np.frombuffer(self.view, _NUMPY[slot.kind], length, start) if length else np.empty(0, _NUMPY[slot.kind])
            )
        targets = [self._follow(start + 4 * index) for index in range(length)]
        if slot.kind == "string":
            return [self._string(target) for target in targets]
        return [self.record(slot.kind, target) for target in targets]

    def _string(self, position: int) -> str:
        if position not in self.strings:
            length = _unpack(self.view, "I", position)
            if position + 4 + length > len(self.view):
                raise InvalidModel(
                    f"string of {length} bytes ends behind the file", code="F212", where=f"byte {position}"
                )
            self.text_left -= length
            if self.text_left < 0:
                raise LimitExceeded("the strings of the file overlap", code="M211", where=f"byte {position}")
            self.strings[position] = bytes(self.view[position + 4 : position + 4 + length]).decode("utf-8", "replace")
        return self.strings[position]


def _inline_size(slot: Slot) -> int:
    return SCALARS[slot.kind][1] if slot.kind in SCALARS and not slot.vector else 4


# ---------------------------------------------------------------------------------------------------------- writing


def write(model: Record, payloads: Sequence[Payload | None], file: BinaryIO, *, outside: bool | None = None) -> None:
    """Write `model` to `file`; `payloads[i]` becomes the content of `model["buffers"][i]` (None: no data).

    `outside` puts the contents behind the flatbuffer, where they are streamed one at a time; the default does so above
    512 MB, and above 2 GB there is no other form. The bytes depend on the arguments only. A payload that appears
    under several indices is stored once in the outside form.
    """
    total = sum(payload.nbytes for payload in payloads if payload is not None)
    if outside is None:
        outside = total > OUTSIDE_ABOVE
    if not outside:
        if total > BUILDER_LIMIT:
            raise SystemFailure(
                f"{total} bytes of weights do not fit inside one flatbuffer", code="F220", hint="weights outside"
            )
        _fill(model["buffers"], payloads)
        file.write(build(model, total))
        return
    places = [None if payload is None or not payload.nbytes else payload for payload in payloads]
    for buffer, payload in zip(model["buffers"], places, strict=True):
        buffer.update(data=None, offset=_PLACEHOLDER if payload else 0, size=_PLACEHOLDER if payload else 0)
    head = build(model, 0)
    _stream(file, head, places)


def _fill(buffers: list[Record], payloads: Sequence[Payload | None]) -> None:
    for buffer, payload in zip(buffers, payloads, strict=True):
        if payload is not None and payload.nbytes:
            buffer["data"] = payload


def _stream(file: BinaryIO, head: memoryview, payloads: list[Payload | None]) -> None:
    """Patch the offsets into the built flatbuffer, then write it and every payload, aligned, one at a time."""
    offsets: dict[int, int] = {}
    end = len(head)
    for payload in payloads:
        if payload is not None and id(payload) not in offsets:
            offsets[id(payload)] = end = -(-end // OUTSIDE_ALIGNMENT) * OUTSIDE_ALIGNMENT
            end += payload.nbytes
    for places, payload in zip(_buffer_places(head), payloads, strict=True):
        if payload is not None:
            struct.pack_into("<Q", head, places[1], offsets[id(payload)])
            struct.pack_into("<Q", head, places[2], payload.nbytes)
    file.write(head)
    position = len(head)
    for payload in payloads:
        if payload is not None and id(payload) in offsets:
            start = offsets.pop(id(payload))
            file.write(bytes(start - position))
            payload.write(file)
            position = start + payload.nbytes
    file.write(bytes(_TAIL_PADDING))  # vector kernels may read past the end of the last buffer


def _buffer_places(head: memoryview) -> list[list[int]]:
    reader = _Reader(head)
    names = [slot.name for slot in TABLES["Model"].slots if slot]
    vector = reader._follow(reader.slot_positions("Model", _unpack(reader.view, "I", 0))[names.index("buffers")])
    count = _unpack(reader.view, "I", vector)
    return [reader.slot_positions("Buffer", reader._follow(vector + 4 + 4 * index)) for index in range(count)]


def build(model: Record, payload_bytes: int = 0) -> memoryview:
    """The flatbuffer of `model`, identifier included; deterministic. `payload_bytes` pre-sizes the builder."""
    import flatbuffers

    builder = flatbuffers.Builder(min(BUILDER_LIMIT, payload_bytes + payload_bytes // 64 + 1024))
    writer = _Writer(builder)
    builder.Finish(writer.record(model), file_identifier=FILE_IDENTIFIER)
    return memoryview(builder.Bytes)[builder.Head() :]


class _Writer:
    """Builds children first, as flatbuffers wants. Equal strings, arrays of numbers, and tables that a slot of another one
    holds (options, quantisation) are stored once; those in lists have an index, and stay apart."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.strings: dict[str, int] = {}
        self.arrays: dict[tuple[str, int, bytes], int] = {}
        self.tables: dict[tuple, int] = {}
        self.add = {
            "bool": builder.PrependBoolSlot,
            "i8": builder.PrependInt8Slot,
            "u8": builder.PrependUint8Slot,
            "i32": builder.PrependInt32Slot,
            "u32": builder.PrependUint32Slot,
            "u64": builder.PrependUint64Slot,
            "f32": builder.PrependFloat32Slot,
        }

    def record(self, record: Record) -> int:
        return self._table(record, *self._parts(record))

    def _shared(self, record: Record) -> int:
        children, numbers = self._parts(record)
        key = (record.table, *children.items(), *numbers.items())
        if key not in self.tables:
            self.tables[key] = self._table(record, children, numbers)
        return self.tables[key]

    def _parts(self, record: Record) -> tuple[dict[str, int], dict[str, Any]]:
        """Where the children of a table lie, and its numbers, by slot."""
        children: dict[str, int] = {}
        numbers: dict[str, Any] = {}
        for slot in filter(None, TABLES[record.table].slots):
            value = record.get(slot.name)
            if slot.kind in SCALARS and not slot.vector:
                numbers[slot.name] = slot.default if value is None else value
            elif value is not None:
                children[slot.name] = self._child(record.table, slot, value)
                if slot.union:
                    numbers[f"{slot.name}_type"] = ENUMS[slot.union][value.table]
        return children, numbers

    def _table(self, record: Record, children: Mapping[str, int], numbers: Mapping[str, Any]) -> int:
        slots = TABLES[record.table].slots
        self.builder.StartObject(len(slots))
        for index, slot in enumerate(slots):
            if slot is not None and slot.name in children:
                self.builder.PrependUOffsetTRelativeSlot(index, children[slot.name], 0)
            elif slot is not None and slot.name in numbers:
                self.add[slot.kind](index, numbers[slot.name], slot.default)
        return self.builder.EndObject()

    def _child(self, table: str, slot: Slot, value: Any) -> int:
        if not slot.vector:
            return self._string(value) if slot.kind == "string" else self._shared(value)
        if slot.kind in SCALARS:
            return self._scalars(slot, value, ALIGNED.get((table, slot.name), 1))
        offsets = [self._string(item) if slot.kind == "string" else self.record(item) for item in value]
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()

    def _string(self, text: str) -> int:
        if text not in self.strings:
            self.strings[text] = self.builder.CreateString(text)
        return self.strings[text]

    def _scalars(self, slot: Slot, value: Any, alignment: int) -> int:
        """A scalar vector, or a payload copied block by block; the library's own vector calls ignore `force_align`."""
        if hasattr(value, "write"):
            return self._payload(slot, value, alignment)
        array = np.ascontiguousarray(np.asarray(value), _NUMPY[slot.kind]).reshape(-1)
        key = (slot.kind, alignment, array.tobytes())
        if key not in self.arrays:
            self.arrays[key] = self._payload(slot, _Raw(array), alignment)
        return self.arrays[key]

    def _payload(self, slot: Slot, value: Payload, alignment: int) -> int:
        width = SCALARS[slot.kind][1]
        self.builder.StartVector(width, value.nbytes // width, max(width, alignment))
        self.builder.head = position = self.builder.Head() - value.nbytes
        value.write(_Into(self.builder.Bytes, position))
        return self.builder.EndVector()


class _Raw:
    """An array as a payload."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.nbytes = array.nbytes

    def write(self, file: Sink) -> None:
        file.write(self.array.view(np.uint8).data)


class _Into:
    """A sink that fills a place in the builder's memory."""

    def __init__(self, memory: bytearray, position: int) -> None:
        self.memory = memory
        self.position = position

    def write(self, data: Any) -> None:
        flat = memoryview(data).cast("B")
        self.memory[self.position : self.position + len(flat)] = flat
        self.position += len(flat)
