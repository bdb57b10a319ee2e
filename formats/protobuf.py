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

import gc
import struct
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn, Protocol, runtime_checkable

import numpy as np

from ..ir.errors import InternalError, InvalidModel, LimitExceeded, clean
from ..ir.storage import check_limit, limit
from .wire import KINDS, LONG, NUMERIC, NUMPY, WIDTH, ZERO, Kind, pack, packed_varints, plain, varint

_SMALL = 1 << 16  # chunks below this many bytes are joined
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

    __slots__ = ("by_name", "fields", "tags")

    def __init__(self, fields: Mapping[int, Field]) -> None:
        self.fields = dict(sorted(fields.items()))
        self.by_name = {field.name: field for field in self.fields.values()}
        if len(self.by_name) != len(self.fields):
            raise InternalError("two fields of a message have the same name")
        #: (tag, field) in the order of writing, the tag of the form in which the field is written.
        self.tags = [(varint(number << 3 | _wire(field)), field) for number, field in self.fields.items()]


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
        return field.default if field.default is not None else ZERO.get(field.kind)

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
                if field.kind not in KINDS and field.kind not in self.schemas:
                    raise InternalError(f"{name}.{field.name} has the unknown kind {field.kind!r}")
                if field.packed and not (field.repeated and field.kind in NUMERIC):
                    raise InternalError(f"{name}.{field.name} cannot be packed")

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
        self.most_levels = _DEPTH_PER_LEVEL * limit("nesting")
        self.most_name = limit("name_bytes")
        self.records = 0

    def fail(self, why: str) -> NoReturn:
        path = ".".join(frame.name for frame in self.frames)
        place = f"{path}, byte {self.start}"
        raise InvalidModel(why, where=f"{self.where}: {place}" if self.where else place)

    def message(self, schema: str) -> Record:
        frames = self.frames
        root = Record(self.schemas[schema])
        frames.append(_Frame(self.schemas[schema], root, len(self.data), schema))
        collecting = gc.isenabled()
        gc.disable()  # nothing here can be garbage, and there may be millions of records
        try:
            while frames:
                frame = frames[-1]
                if self.at == frame.end:
                    frames.pop()
                else:
                    self.field(frame)
        finally:
            if collecting:
                gc.enable()
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
        elif wire in WIDTH:
            raw = self.span(WIDTH[wire], frame.end)
        else:
            self.fail(f"field {number} has wire type {wire}")
        if field is None:
            self.unknown_field(frame, number)
        elif field.kind in KINDS:
            self.scalar(frame, field, wire, raw)
        else:
            self.submessage(frame, field, wire, raw)

    def varint(self, end: int) -> int:
        data, at = self.data, self.at
        if at < end and data[at] < 0x80:  # nearly always
            self.at = at + 1
            return data[at]
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
                f"more than {self.most_records} messages", where=self.where, hint="--limit items=N raises it"
            )
        if len(self.frames) > self.most_levels:
            raise LimitExceeded(
                f"messages are nested deeper than {len(self.frames) - 1}",
                where=f"{self.where}: byte {self.start}",
                hint="--limit nesting=N raises it",
            )
        end, self.at = self.at, self.at - len(raw)
        schema = self.schemas[field.kind]
        record = Record(schema)
        self.store(frame, field, record)
        self.frames.append(_Frame(schema, record, end, field.name))

    def scalar(self, frame: _Frame, field: Field, wire: int, raw: Any) -> None:
        kind = KINDS[field.kind]
        try:
            if wire == kind.wire:
                if wire == 2 and len(raw) > self.most_name and field.kind == "string":
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
        values, name = frame.record._values, field.name
        if field.repeated:
            found = values.get(name)
            (found if type(found) is list else self.several(values, name)).append(value)
        elif name in values:
            self.fail(f"field {name} comes twice")
        else:
            values[name] = value

    @staticmethod
    def several(values: dict[str, Any], name: str) -> list[Any]:
        """The list of a repeated field, made one when it still is an array."""
        found = values.get(name)
        if not isinstance(found, list):
            found = values[name] = [] if found is None else found.tolist()
        return found

    def store_packed(self, frame: _Frame, field: Field, kind: Kind, raw: memoryview) -> None:
        found: Any
        if kind.wire == 0:
            found = packed_varints(raw, kind, field.kind)
        elif len(raw) % WIDTH[kind.wire]:
            raise ValueError(f"{len(raw)} bytes of packed numbers of {WIDTH[kind.wire]}")
        else:
            found = np.frombuffer(raw, NUMPY[field.kind])
            found = found.tolist() if len(found) < LONG else found
        values = frame.record._values
        if field.name not in values:
            values[field.name] = found
        else:
            self.several(values, field.name).extend(plain(found))


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
        stack: list[Any] = self.fields(schema, record)
        while stack:
            item = stack.pop()
            if isinstance(item, _Close):
                self.emit(item.tag + varint(self.total - item.total))
                continue
            tag, field, value = item
            if field is None:
                self.emit(value)
            elif field.kind in KINDS:
                self.scalar(tag, field, value)
            else:
                stack.append(_Close(tag, self.total))
                stack.extend(self.fields(self.schemas[field.kind], value))
        return self.pieces[::-1]

    def fields(self, schema: Schema, record: Record | Mapping[str, Any]) -> list[tuple[bytes, Field | None, Any]]:
        """(tag, field, value) in ascending order, what is repeated and not packed one by one, unknown fields last."""
        values = record._values if isinstance(record, Record) else record
        if not values.keys() <= schema.by_name.keys():
            stray = next(name for name in values if name not in schema.by_name)
            raise InternalError(f"a message has no field {clean(stray)!r}")
        rows: list[tuple[bytes, Field | None, Any]] = []
        for tag, field in schema.tags:
            value = values.get(field.name)
            if value is None:
                continue
            if not field.repeated:
                rows.append((tag, field, value))
            elif not field.packed:
                rows.extend([(tag, field, item) for item in value])
            elif len(value):
                rows.append((tag, field, value))
        if isinstance(record, Record) and record.unknown_:
            rows.append((b"", None, bytes(record.unknown_)))
        return rows

    def emit(self, piece: Chunk) -> None:
        self.pieces.append(piece)
        self.total += len(piece) if type(piece) is bytes else chunk_size(piece)

    def scalar(self, tag: bytes, field: Field, value: Any) -> None:
        kind = KINDS[field.kind]
        try:
            if field.packed:
                data: Chunk = pack(value, kind, field.kind)
            elif kind.wire == 2:
                data = _buffer(kind.make(value))
            else:
                made = kind.make(value)
                self.emit(tag + (varint(made) if kind.wire == 0 else made))
                return
        except (ValueError, TypeError, AttributeError, OverflowError, struct.error) as exc:
            raise InvalidModel(f"field {field.name} ({field.kind}) cannot hold {clean(repr(value))}: {exc}") from exc
        if type(data) is bytes and len(data) < _SMALL:
            self.emit(tag + varint(len(data)) + data)
        else:
            self.emit(data)
            self.emit(tag + varint(chunk_size(data)))


def _wire(field: Field) -> int:
    """The wire type in which a field is written; messages are length-delimited."""
    return 2 if field.packed or field.kind not in KINDS else KINDS[field.kind].wire


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
        if type(piece) is bytes and len(piece) < _SMALL:
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
