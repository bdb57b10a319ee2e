"""The protobuf wire format, table-driven: what MindIR and ONNX files are made of. Knows no message but the given ones.

    SCHEMAS = {
        "Tensor": Schema({1: Field("dims", "int64", repeated=True, packed=True), 9: Field("raw_data", "bytes")}),
        "Graph": Schema({1: Field("name", "string"), 5: Field("tensors", "Tensor", repeated=True)}),
    }
    codec = Codec(SCHEMAS)
    record = codec.decode("Graph", buffer)                     # bytes, memoryview, mmap; nothing is copied
    record.name; record.tensors[0].raw_data; "name" in record  # attribute access; `in`: was it in the file?
    codec.encode("Graph", record) -> list[Chunk]               # buffers in file order: b"".join(chunks) is the message
    codec.encoded_size("Graph", record) -> int

- Kinds: int32 int64 uint32 uint64 sint32 sint64 bool enum fixed32 fixed64 sfixed32 sfixed64 float double string bytes,
  or the name of another schema (a message). There is no map kind: a map is a repeated message of key and value.
- A missing singular scalar reads as its zero value (`0`, `0.0`, `False`, `""`, `b""`), a missing message as None, a
  repeated field as a list (numbers that are packed in the file and many: a numpy array). `Field(default=...)` overrides
  it (proto2 defaults).
- Records are made with `codec.new("Tensor", dims=[1, 2], raw_data=buffer)` or given as plain dicts: encode takes both.
  Only what was set (`None` counts as not set) is written, by ascending field number: equal records give equal bytes.
- A `bytes` field may hold any buffer (bytes, memoryview, C-contiguous numpy array) or a `Payload` (an object with
  `nbytes` and `write(file)`, as tensors have): it is passed on by reference as its own chunk.
  `write_chunks(file, chunks)` streams them.
- decode(..., unknown="error" | "skip" | "keep"): unknown field numbers are refused, dropped, or kept as raw wire bytes
  in `record.unknown_` and written back after the known ones.
- Errors: InvalidModel (truncated, bad wire type, bad UTF-8, overlong varint, a singular field twice ...; with the byte
  offset and the path of fields), LimitExceeded (nesting, number of records).
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn, Protocol, runtime_checkable

import numpy as np

from ..ir.errors import InternalError, InvalidModel, LimitExceeded, clean
from ..ir.storage import check_limit, limit

_LONG = 4096  # packed numbers from this count on stay a numpy array
_DEPTH_PER_LEVEL = 4  # messages that one nesting level of a model takes (graph, node, attribute)


@runtime_checkable
class Payload(Protocol):
    """Bytes that are produced when they are written; tensors are such."""

    @property
    def nbytes(self) -> int: ...

    def write(self, file: Any, /) -> None: ...


Chunk = bytes | memoryview | Payload


class Field(NamedTuple):
    """One field of a message: its attribute name, kind (see the module), and how often it comes."""

    name: str
    kind: str
    repeated: bool = False
    packed: bool = False  # how it is written; both forms are read
    default: Any = None  # of a missing singular field, instead of the kind's zero value


class Schema:
    """A message: fields by number."""

    __slots__ = ("by_name", "fields")

    def __init__(self, fields: Mapping[int, Field]) -> None:
        self.fields = dict(sorted(fields.items()))
        self.by_name = {field.name: field for field in self.fields.values()}
        if len(self.by_name) != len(self.fields):
            raise InternalError("two fields of a message have the same name")


class Record:
    """A message as a value: attributes by field name. Reading a missing field gives its default; `in` asks for it."""

    __slots__ = ("_schema", "_values", "unknown_")
    _schema: Schema
    _values: dict[str, Any]
    unknown_: bytes | bytearray

    def __init__(self, schema: Schema, values: Mapping[str, Any] | None = None) -> None:
        object.__setattr__(self, "_schema", schema)
        object.__setattr__(self, "_values", {})
        object.__setattr__(self, "unknown_", b"")
        for name, value in (values or {}).items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        values = self._values
        if name in values:
            return values[name]
        field = self._schema.by_name.get(name)
        if field is None:
            raise AttributeError(f"the message has no field {name!r}")
        if field.repeated:
            return values.setdefault(name, [])
        return field.default if field.default is not None else _ZERO.get(field.kind)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "unknown_":
            object.__setattr__(self, name, value)
        elif name in self._schema.by_name:
            self._values[name] = value
        else:
            raise AttributeError(f"the message has no field {name!r}")

    def __contains__(self, name: object) -> bool:
        value = self._values.get(name)  # type: ignore[call-overload]
        return value is not None and not (isinstance(value, list | tuple) and not value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return self._schema is other._schema and _present(self) == _present(other) and self.unknown_ == other.unknown_

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<message {', '.join(name for name in self._values if name in self)}>"


def _present(record: Record) -> dict[str, Any]:
    values = {name: value for name, value in record._values.items() if name in record}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


# ---------------------------------------------------------------------------------------------------- kinds


class _Kind(NamedTuple):
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
_KINDS: dict[str, _Kind] = {
    "int32": _Kind(0, 0, *_signed(32)),
    "int64": _Kind(0, 0, *_signed(64)),
    "enum": _Kind(0, 0, *_signed(32)),
    "uint32": _Kind(0, 0, *_unsigned(32)),
    "uint64": _Kind(0, 0, *_unsigned(64)),
    "sint32": _Kind(0, 0, *_zigzag(32)),
    "sint64": _Kind(0, 0, *_zigzag(64)),
    "bool": _Kind(0, False, lambda raw: bool(_bool[0](raw)), lambda value: _bool[1](int(value))),
    "fixed32": _Kind(5, 0, *_fixed("<I")),
    "sfixed32": _Kind(5, 0, *_fixed("<i")),
    "float": _Kind(5, 0.0, *_fixed("<f")),
    "fixed64": _Kind(1, 0, *_fixed("<Q")),
    "sfixed64": _Kind(1, 0, *_fixed("<q")),
    "double": _Kind(1, 0.0, *_fixed("<d")),
    "string": _Kind(2, "", lambda raw: str(raw, "utf-8"), lambda value: value.encode("utf-8")),
    "bytes": _Kind(2, b"", lambda raw: raw, lambda value: value),
}
_ZERO = {name: kind.zero for name, kind in _KINDS.items()}
_WIDTH = {1: 8, 5: 4}
_LONG_DTYPE = {"bool": "?", "int32": "i4", "enum": "i4", "sint32": "i4", "uint32": "u4", "sint64": "i8"}
_NUMPY = {"fixed32": "<u4", "sfixed32": "<i4", "float": "<f4", "fixed64": "<u8", "sfixed64": "<i8", "double": "<f8"}


# ------------------------------------------------------------------------------------------------- decoding


class _Frame(NamedTuple):
    """A message that is being read, and where the surrounding one goes on."""

    schema: Schema
    record: Record
    end: int
    name: str


class Codec:
    """Reads and writes the messages of `schemas`, which name each other in their fields. Raises InternalError when a
    field has a kind that is neither a scalar nor a schema."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self.schemas = dict(schemas)
        for name, schema in self.schemas.items():
            for field in schema.fields.values():
                if field.kind not in _KINDS and field.kind not in self.schemas:
                    raise InternalError(f"{name}.{field.name} has the unknown kind {field.kind!r}")

    def new(self, schema: str, /, **values: Any) -> Record:
        """A record with these fields."""
        return Record(self.schemas[schema], values)

    def decode(self, schema: str, buffer: Any, *, unknown: str = "error", where: str = "") -> Record:
        """The message in `buffer`; `bytes` fields are read-only views of it. Errors: see the module."""
        return _Reader(self, memoryview(buffer).toreadonly().cast("B"), unknown, where).message(schema)

    def encode(self, schema: str, record: Record | Mapping[str, Any]) -> list[Chunk]:
        """The wire form as a list of chunks. InvalidModel for a value that its field cannot hold."""
        return _merged(_Writer(self).message(self.schemas[schema], record))

    def encoded_size(self, schema: str, record: Record | Mapping[str, Any]) -> int:
        """Bytes of the wire form."""
        return sum(map(chunk_size, _Writer(self).message(self.schemas[schema], record)))


class _Reader:
    def __init__(self, codec: Codec, data: memoryview, unknown: str, where: str) -> None:
        if unknown not in ("error", "skip", "keep"):
            raise InternalError(f"unknown={unknown!r}")
        self.schemas, self.data, self.unknown, self.where = codec.schemas, data, unknown, where
        self.at = 0
        self.start = 0  # of the field that is being read
        self.frames: list[_Frame] = []
        self.most_records = 4 * limit("items")
        self.records = 0

    def fail(self, why: str) -> NoReturn:
        path = ".".join(frame.name for frame in self.frames)
        place = f"{path}, byte {self.start}"
        raise InvalidModel(why, where=f"{self.where}: {place}" if self.where else place)

    def message(self, schema: str) -> Record:
        frames = self.frames
        root = Record(self.schemas[schema])
        frames.append(_Frame(self.schemas[schema], root, len(self.data), schema))
        while frames:
            frame = frames[-1]
            if self.at == frame.end:
                frames.pop()
            else:
                self.field(frame)
        return root

    def field(self, frame: _Frame) -> None:
        """Read one field; a message field only pushes its frame."""
        self.start = self.at
        tag = self.varint(frame.end)
        number, wire = tag >> 3, tag & 7
        if not 1 <= number < 1 << 29:
            self.fail(f"field number {number}")
        field = frame.schema.fields.get(number)
        if wire == 0:
            raw: Any = self.varint(frame.end)
        elif wire == 2:
            raw = self.span(self.varint(frame.end), frame.end)
        elif wire in _WIDTH:
            raw = self.span(_WIDTH[wire], frame.end)
        else:
            self.fail(f"field {number} has wire type {wire}")
        if field is None:
            self.unknown_field(frame, number)
        elif field.kind in _KINDS:
            self.scalar(frame, field, wire, raw)
        else:
            self.submessage(frame, field, wire, raw)

    def varint(self, end: int) -> int:
        data, at = self.data, self.at
        value = shift = 0
        while True:
            if at >= end:
                self.fail("truncated number")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                self.fail("a number of more than 10 bytes")
        if value >> 64:
            self.fail("a number of more than 64 bits")
        self.at = at
        return value

    def span(self, length: int, end: int) -> memoryview:
        start, self.at = self.at, self.at + length
        if self.at > end:
            self.fail(f"{length} bytes do not lie in the {end - start} bytes there")
        return self.data[start : self.at]

    def unknown_field(self, frame: _Frame, number: int) -> None:
        if self.unknown == "error":
            self.fail(f"unknown field {number}")
        if self.unknown == "keep":
            kept = frame.record.unknown_ = frame.record.unknown_ or bytearray()
            kept += self.data[self.start : self.at]

    def submessage(self, frame: _Frame, field: Field, wire: int, raw: Any) -> None:
        if wire != 2:
            self.fail(f"field {field.name} has wire type {wire}, expected a message")
        self.records += 1
        if self.records > self.most_records:
            raise LimitExceeded(
                f"more than {self.most_records} messages", where=self.where, hint="--limit-items raises it"
            )
        if len(self.frames) > _DEPTH_PER_LEVEL * limit("nesting"):
            raise LimitExceeded(
                f"messages are nested deeper than {len(self.frames) - 1}",
                where=f"{self.where}: byte {self.start}",
                hint="--limit-nesting raises it",
            )
        end, self.at = self.at, self.at - len(raw)
        schema = self.schemas[field.kind]
        record = Record(schema)
        self.store(frame, field, record)
        self.frames.append(_Frame(schema, record, end, field.name))

    def scalar(self, frame: _Frame, field: Field, wire: int, raw: Any) -> None:
        kind = _KINDS[field.kind]
        try:
            if wire == kind.wire:
                if field.kind == "string":
                    check_limit("name_bytes", len(raw), f"length of {field.name}", self.where)
                self.store(frame, field, kind.read(raw))
            elif wire == 2 and field.repeated and kind.wire != 2:
                self.store_packed(frame, field, kind, raw)
            else:
                self.fail(f"field {field.name} has wire type {wire}, expected {kind.wire}")
        except UnicodeDecodeError:
            self.fail(f"field {field.name} is not UTF-8")
        except ValueError as exc:
            self.fail(f"field {field.name}: {exc}")

    def store(self, frame: _Frame, field: Field, value: Any) -> None:
        values = frame.record._values
        if not field.repeated:
            if field.name in values:
                self.fail(f"field {field.name} comes twice")
            values[field.name] = value
            return
        self.several(values, field.name).append(value)

    @staticmethod
    def several(values: dict[str, Any], name: str) -> list[Any]:
        """The list of a repeated field, made one when it still is an array."""
        found = values.get(name)
        if not isinstance(found, list):
            found = values[name] = [] if found is None else found.tolist()
        return found

    def store_packed(self, frame: _Frame, field: Field, kind: _Kind, raw: memoryview) -> None:
        found: Any
        if kind.wire == 0:
            found = _packed_varints(raw, kind, field.kind)
        elif len(raw) % _WIDTH[kind.wire]:
            raise ValueError(f"{len(raw)} bytes of packed numbers of {_WIDTH[kind.wire]}")
        else:
            found = np.frombuffer(raw, _NUMPY[field.kind])
            found = found.tolist() if len(found) < _LONG else found
        values = frame.record._values
        if field.name not in values:
            values[field.name] = found
        else:
            self.several(values, field.name).extend(_plain(found))


def _packed_varints(raw: memoryview, kind: _Kind, name: str) -> Any:
    """Packed numbers as a list, or from _LONG numbers on as an array. ValueError when they are malformed."""
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
    if len(numbers) < _LONG:
        return [kind.read(raw) for raw in numbers.tolist()]
    if name == "int64":
        return numbers.view(np.int64)
    if name == "uint64":
        return numbers
    dtype = (
        np.bool_ if name == "bool" else np.uint32 if name == "uint32" else np.int64 if name == "sint64" else np.int32
    )
    return np.fromiter((kind.read(raw) for raw in map(int, numbers)), dtype, len(numbers))


# ------------------------------------------------------------------------------------------------- encoding


class _Close(NamedTuple):
    """Write the tag and length of a message whose content began at this total."""

    tag: bytes
    total: int


class _Writer:
    """Builds the message from its end to its start, so that each length is known when it is needed."""

    def __init__(self, codec: Codec) -> None:
        self.schemas = codec.schemas
        self.pieces: list[Chunk] = []
        self.total = 0

    def message(self, schema: Schema, record: Record | Mapping[str, Any]) -> list[Chunk]:
        stack: list[Any] = list(self.fields(schema, record))
        while stack:
            item = stack.pop()
            if isinstance(item, _Close):
                self.emit(item.tag + _varint(self.total - item.total))
                continue
            number, field, value = item
            if field is None:
                self.emit(value)
            elif field.kind in self.schemas:
                stack.append(_Close(_varint(number << 3 | 2), self.total))
                stack.extend(self.fields(self.schemas[field.kind], value))
            else:
                self.scalar(number, field, value)
        return self.pieces[::-1]

    def fields(self, schema: Schema, record: Record | Mapping[str, Any]) -> Iterator[tuple[int, Field | None, Any]]:
        """(number, field, value) in ascending order, repeated messages and strings one by one, raw bytes last."""
        values = record._values if isinstance(record, Record) else record
        if stray := [name for name in values if name not in schema.by_name]:
            raise InternalError(f"a message has no field {clean(stray[0])!r}")
        for number, field in schema.fields.items():
            value = values.get(field.name)
            if value is None:
                continue
            if not field.repeated or (field.packed and len(value)):
                yield number, field, value
            else:
                single = field._replace(packed=False)
                yield from ((number, single, item) for item in value)
        if isinstance(record, Record) and record.unknown_:
            yield 0, None, bytes(record.unknown_)

    def emit(self, piece: Chunk) -> None:
        self.pieces.append(piece)
        self.total += chunk_size(piece)

    def scalar(self, number: int, field: Field, value: Any) -> None:
        kind = _KINDS[field.kind]
        try:
            if field.packed and kind.wire != 2:
                data: Chunk = _pack(value, kind, field.kind)
            elif kind.wire == 2:
                data = _buffer(kind.make(value))
            else:
                made = kind.make(value)
                self.emit(_varint(number << 3 | kind.wire) + (_varint(made) if kind.wire == 0 else made))
                return
        except (ValueError, TypeError, AttributeError, OverflowError, struct.error) as exc:
            raise InvalidModel(f"field {field.name} ({field.kind}) cannot hold {clean(repr(value))}: {exc}") from exc
        self.emit(data)
        self.emit(_varint(number << 3 | 2) + _varint(chunk_size(data)))


def _pack(values: Any, kind: _Kind, name: str) -> bytes:
    if kind.wire == 0:
        return b"".join(_varint(kind.make(value)) for value in _plain(values))
    if isinstance(values, np.ndarray):
        return values.astype(_NUMPY[name]).tobytes()
    return b"".join(map(kind.make, values))


def _plain(values: Any) -> Iterable[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else values


def _varint(value: int) -> bytes:
    if value < 0x80:
        return value.to_bytes(1, "little")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _buffer(value: Any) -> Chunk:
    """A bytes field's value as a flat buffer; numpy's extension types have none of their own, so by their bytes."""
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    if isinstance(value, bytes | memoryview):
        return value if isinstance(value, bytes) else value.cast("B")
    return value if isinstance(value, Payload) else memoryview(value).cast("B")


def _merged(pieces: list[Chunk]) -> list[Chunk]:
    """Neighbouring `bytes` as one; what was given by reference stays so."""
    out: list[Chunk] = []
    run: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, bytes) and len(piece) < 1 << 16:
            run.append(piece)
            continue
        if run:
            out.append(b"".join(run))
            run = []
        out.append(piece)
    return [*out, b"".join(run)] if run else out


def chunk_size(chunk: Chunk) -> int:
    """Bytes of a chunk."""
    return len(chunk) if isinstance(chunk, bytes) else chunk.nbytes


def write_chunks(file: Any, chunks: Iterable[Chunk]) -> None:
    """Stream what `encode` gave. InternalError when a payload does not write what it announced."""
    for chunk in chunks:
        if isinstance(chunk, bytes | memoryview):
            file.write(chunk)
            continue
        before = file.tell()
        chunk.write(file)
        if file.tell() - before != chunk.nbytes:
            raise InternalError(f"a payload of {chunk.nbytes} bytes wrote {file.tell() - before}")
