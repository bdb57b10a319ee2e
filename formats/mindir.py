"""MindIR files: our own description of the protobuf messages, their enums and values. Knows no IR graph.

A `.mindir` file is one proto2 `ModelProto` without magic or checksum; `formats/protobuf` reads and writes its wire
format. Must not import MindSpore. Sources: MindSpore's `mind_ir.proto`, and what its 2.x loader reads.

    model = read("net.mindir")            # a MindirModel: the record, and tensors mapped from the file or beside it
    write("net.mindir", record, tensors)  # deterministic; weights go beside the model above EXTERNAL_LIMIT bytes

A value of a Constant node or an attribute is a Python int, bool, float, str, None, tuple, list, `Tensor`, `DtypeValue`
(a dtype as an object) or `Monad`; `encode_value` and `decode_value` are each other's inverse.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..ir.errors import InternalError, InvalidModel, LimitExceeded, Unsupported, clean
from ..ir.storage import LIMITS, MappedFile, OutputSet, check_limit, checked_range, map_file, open_beside
from ..ir.tensor import ArrayTensor, MappedTensor, Tensor
from ..ir.types import DType, dtype
from .protobuf import Codec, Field, Schema, write_chunks

# ------------------------------------------------------------------------------------------------- messages


def _schema(**fields: str) -> Schema:
    """`name="5 string*"`: number and kind, `*` for repeated. proto2 repeated scalars are not packed."""
    table = {}
    for name, text in fields.items():
        number, kind = text.split()
        table[int(number)] = Field(name, kind.rstrip("*"), repeated=kind.endswith("*"))
    return Schema(table)


SCHEMAS: dict[str, Schema] = {
    "ModelProto": _schema(
        ir_version="1 string", producer_name="2 string", producer_version="3 string", domain="4 string",
        model_version="5 string", doc_string="6 string", graph="7 GraphProto", functions="8 GraphProto*",
        preprocessor="9 bytes", little_endian="10 bool", parallel="11 bytes", primitives="12 PrimitiveProto*",
        mind_ir_version="13 int64", user_info="14 UserInfoEntry*",
    ),
    "UserInfoEntry": _schema(key="1 string", value="2 string"),
    "GraphProto": _schema(
        node="1 NodeProto*", name="2 string", parameter="3 TensorProto*", doc_string="4 string",
        input="5 ValueInfoProto*", output="6 ValueInfoProto*", bprop_hash="7 string", attribute="8 AttributeProto*",
        bprop_filepath="9 string", map_parameter="10 bytes*",
    ),
    "NodeProto": _schema(
        input="1 string*", output="2 string*", name="3 string", op_type="4 string", attribute="5 AttributeProto*",
        doc_string="6 string", domain="7 string", node_attr="8 AttributeProto*", primal_attr="9 AttributeProto*",
    ),
    "PrimitiveProto": _schema(
        name="1 string", op_type="2 string", attribute="3 AttributeProto*", instance_name="4 string", prim_type="5 enum",
    ),
    "ValueInfoProto": _schema(
        name="1 string", tensor="2 TensorProto*", doc_string="3 string", denotation="4 string", attr_info="5 AttributeProto",
    ),
    "TensorProto": _schema(
        dims="1 int64*", data_type="2 int32", float_data="3 float*", int32_data="4 int32*", string_data="5 bytes*",
        int64_data="6 int64*", name="7 string", doc_string="8 string", raw_data="9 bytes", double_data="10 double*",
        uint64_data="11 uint64*", external_data="12 ExternalDataProto", ref_key="13 string", min_dims="14 int64*",
        max_dims="15 int64*", compression_type="16 enum", quant_params="17 QuantParamProto*",
    ),
    "ExternalDataProto": _schema(location="1 string", offset="2 int64", length="3 int64"),
    "QuantParamProto": _schema(quant_algo_name="1 string", attribute="2 AttributeProto*"),
    "AttributeProto": _schema(
        name="1 string", f="2 float", i="3 int64", d="4 double", s="5 bytes", t="6 TensorProto", g="7 GraphProto",
        floats="8 float*", doubles="9 double*", ints="10 int64*", strings="11 bytes*", tensors="12 TensorProto*",
        graphs="13 GraphProto*", doc_string="14 string", ref_attr_name="15 string", type="16 enum",
        values="17 AttributeProto*", seq_info="18 SeqInfoProto", functor="19 bytes", graph_holder="20 bytes",
    ),
    "SeqInfoProto": _schema(is_dyn_len="1 bool", tuple_elem_item="2 AttributeProto"),
}  # fmt: skip

CODEC = Codec(SCHEMAS)

# ---------------------------------------------------------------------------------------------------- enums

#: AttributeProto.type
ATTRIBUTE_TYPES: dict[str, int] = {
    "FLOAT": 1, "UINT8": 2, "INT8": 3, "UINT16": 4, "INT16": 5, "INT32": 6, "INT64": 7, "STRING": 8, "BOOL": 9,
    "FLOAT16": 10, "DOUBLE": 11, "UINT32": 12, "UINT64": 13, "COMPLEX64": 14, "COMPLEX128": 15, "BFLOAT16": 16,
    "TENSOR": 17, "GRAPH": 18, "TENSORS": 19, "TUPLE": 20, "LIST": 21, "DICT": 22, "UMONAD": 23, "IOMONAD": 24,
    "NONE": 25, "PRIMITIVECLOSURE": 26, "FUNCGRAPHCLOSURE": 27, "PARTIALCLOSURE": 28, "UNIONFUNCCLOSURE": 29,
    "CSR_TENSOR": 30, "COO_TENSOR": 31, "ROW_TENSOR": 32, "CLASS_TYPE": 33, "NAME_SPACE": 34, "SYMBOL": 35,
    "TYPE_NULL": 36, "MAP_TENSOR": 37, "FUNCTOR": 38, "SCALAR": 39, "SCALAR_GRAPH_HOLDER": 40,
}  # fmt: skip

#: TensorProto.data_type of each dtype that both sides have.
TENSOR_CODES: dict[str, int] = {
    "f32": 1, "u8": 2, "i8": 3, "u16": 4, "i16": 5, "i32": 6, "i64": 7, "bool": 9, "f16": 10, "f64": 11, "u32": 12,
    "u64": 13, "c64": 14, "c128": 15, "bf16": 16,
}  # fmt: skip
_DTYPE_OF_CODE = {code: dtype(name) for name, code in TENSOR_CODES.items()} | {17: dtype("f64")}

#: The numbers that operators take for a dtype (`Cast`, `Argmax` ...): MindSpore's TypeId, another enum than the above.
TYPE_IDS: dict[str, int] = {
    "bool": 30, "i8": 32, "i16": 33, "i32": 34, "i64": 35, "u8": 37, "u16": 38, "u32": 39, "u64": 40, "f16": 42,
    "f32": 43, "f64": 44, "bf16": 45, "c64": 51, "c128": 52,
}  # fmt: skip
DTYPE_OF_TYPE_ID = {number: dtype(name) for name, number in TYPE_IDS.items()}

#: `mind_ir_version`: 2 and 3 carry former attributes of function primitives as inputs, 0 and 1 as attributes.
MODERN_VERSION, LEGACY_VERSION, NEWEST_VERSION = 3, 1, 3
MODERN_VERSIONS = (2, 3)

#: Weights above this many bytes in all go beside the model (a protobuf message must stay below 2 GiB).
EXTERNAL_LIMIT = 1 << 30
NEVER = 1 << 62
_HEADER = b"\x01" + bytes(63)  # the first byte says little endian
_ALIGN = 64


def tensor_code(kind: DType) -> int:
    """The `data_type` of a dtype. Raises Unsupported for one that MindIR has not."""
    code = TENSOR_CODES.get(kind.name)
    if code is None:
        raise Unsupported(f"MindIR has no dtype {kind}", code="U030", hint="cast to a float, int or bool type")
    return code


def dtype_of_code(code: int, where: str = "") -> DType:
    """The dtype of a `data_type`. Raises InvalidModel for an unknown number, Unsupported for a dtype that the IR has not."""
    found = _DTYPE_OF_CODE.get(code)
    if found is None:
        kind = Unsupported if code in (8, 18) else InvalidModel
        raise kind(f"tensor data type {code} is not known", where=where)
    return found


# --------------------------------------------------------------------------------------------------- values


class DtypeValue(NamedTuple):
    """A dtype as a value of its own."""

    dtype: DType


class Monad(NamedTuple):
    """The token that orders effects: `kind` is UMONAD (memory) or IOMONAD (input and output)."""

    kind: str


_SCALARS: dict[type, tuple[str, str, str]] = {  # type, field at the top, field inside a tuple
    bool: ("BOOL", "i", "ints"),
    int: ("INT64", "i", "ints"),
    float: ("FLOAT", "f", "floats"),
    str: ("STRING", "s", "strings"),
}
_SCALAR_OF_TYPE = {ATTRIBUTE_TYPES[name]: kind for kind, (name, _, _) in _SCALARS.items()} | {
    ATTRIBUTE_TYPES[name]: int for name in ("UINT8", "INT8", "UINT16", "INT16", "INT32", "UINT32", "UINT64")
}


def encode_value(name: str, value: Any, *, inside: bool = False) -> dict[str, Any]:
    """The AttributeProto of a value; `inside` a tuple, scalars live in the repeated fields. `name` "" is not written."""
    record: dict[str, Any] = {"name": name} if name else {}
    scalar = _SCALARS.get(type(value))
    if scalar is not None:
        kind, top, repeated = scalar
        raw = value.encode() if kind == "STRING" else int(value) if kind == "BOOL" else value
        return record | {"type": ATTRIBUTE_TYPES[kind], **({repeated: [raw]} if inside else {top: raw})}
    if isinstance(value, (tuple, list)) and not isinstance(value, (Monad, DtypeValue)):
        kind = "TUPLE" if isinstance(value, tuple) else "LIST"
        items = [encode_value("", item, inside=True) for item in value]
        return record | {"type": ATTRIBUTE_TYPES[kind], "values": items}
    if value is None:
        return record | {"type": ATTRIBUTE_TYPES["NONE"]}
    if isinstance(value, Monad):
        return record | {"type": ATTRIBUTE_TYPES[value.kind]}
    if isinstance(value, DtypeValue):
        return record | {"type": ATTRIBUTE_TYPES["TENSORS"], "tensors": [{"data_type": tensor_code(value.dtype)}]}
    if isinstance(value, (np.ndarray, np.generic)):
        value = ArrayTensor(np.asarray(value))
    if isinstance(value, Tensor):
        return record | {"type": ATTRIBUTE_TYPES["TENSORS"], "tensors": [tensor_record("value0", value)]}
    raise InternalError(f"a {type(value).__name__} is no MindIR value")


def tensor_record(name: str, tensor: Tensor) -> dict[str, Any]:
    """A TensorProto with its data in place."""
    return {"dims": list(tensor.shape), "data_type": tensor_code(tensor.dtype), "name": name, "raw_data": tensor}


def decode_value(record: Any, where: str = "") -> Any:
    """The Python value of an AttributeProto. Nesting is bounded by the codec. Raises InvalidModel or Unsupported."""
    kind = record.type
    if "ref_attr_name" in record:
        raise Unsupported("attributes of MindSpore 1.x (ref_attr_name) are not read", where=where)
    scalar = _SCALAR_OF_TYPE.get(kind)
    if scalar is not None:
        return _decode_scalar(record, scalar, where)
    if kind == ATTRIBUTE_TYPES["DOUBLE"]:
        return float(_single(record, "d", "doubles", where))
    if kind in (ATTRIBUTE_TYPES["TUPLE"], ATTRIBUTE_TYPES["LIST"]):
        items = [decode_value(item, where) for item in record.values]
        return tuple(items) if kind == ATTRIBUTE_TYPES["TUPLE"] else items
    if kind == ATTRIBUTE_TYPES["NONE"]:
        return None
    for monad in ("UMONAD", "IOMONAD"):
        if kind == ATTRIBUTE_TYPES[monad]:
            return Monad(monad)
    if kind == ATTRIBUTE_TYPES["TENSORS"] and len(record.tensors) == 1:
        tensor = record.tensors[0]
        if "raw_data" not in tensor and not tensor.dims:
            return DtypeValue(dtype_of_code(tensor.data_type, where))
        return inline_tensor(tensor, where)
    raise Unsupported(f"attribute {clean(record.name)!r} has a type ({kind}) that is not read", where=where)


def _single(record: Any, top: str, repeated: str, where: str) -> Any:
    """A scalar is in its own field, or alone in the repeated one (inside tuples)."""
    many = getattr(record, repeated)
    if len(many) > 1 or (len(many) == 1 and top in record):
        raise InvalidModel(f"attribute {clean(record.name)!r} holds several values", where=where)
    return many[0] if len(many) else getattr(record, top)


def _decode_scalar(record: Any, kind: type, where: str) -> Any:
    top, repeated = next((top, repeated) for k, (_, top, repeated) in _SCALARS.items() if k is kind)
    raw = _single(record, top, repeated, where)
    if kind is not str:
        return kind(raw)
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError as exc:
        raise InvalidModel(f"attribute {clean(record.name)!r} is no UTF-8 text", where=where) from exc


# -------------------------------------------------------------------------------------------------- tensors


def checked_shape(record: Any, where: str = "") -> tuple[DType, tuple[int, ...], int]:
    """Dtype, shape and byte count of a TensorProto that holds data. Plain Python ints; raises InvalidModel."""
    kind = dtype_of_code(record.data_type, where)
    check_limit("rank", len(record.dims), "tensor rank", where)
    shape, count = tuple(int(d) for d in record.dims), 1
    for dim in shape:
        if dim < 0:
            raise InvalidModel(f"tensor {clean(record.name)!r} has the dimension {dim}", where=where)
        count *= dim
    check_limit("tensor_bytes", count * kind.numpy.itemsize, "tensor bytes", where)
    return kind, shape, count * kind.numpy.itemsize


def inline_tensor(record: Any, where: str = "") -> Tensor:
    """The tensor of a TensorProto with raw_data, without a copy."""
    kind, shape, nbytes = checked_shape(record, where)
    raw = memoryview(record.raw_data)
    if record.compression_type:
        raise Unsupported("compressed tensors are not read", where=where)
    if raw.nbytes != nbytes:
        raise InvalidModel(
            f"tensor {clean(record.name)!r} holds {raw.nbytes} bytes, its type {kind}{list(shape)} needs {nbytes}",
            where=where,
        )
    return ArrayTensor(np.frombuffer(raw, kind.numpy).reshape(shape))


class MindirModel:
    """A file that was read: `record` (ModelProto) and its parameters' tensors, mapped where they are outside."""

    def __init__(self, record: Any, path: str) -> None:
        self.record = record
        self.path = path
        self._beside: dict[str, MappedFile] = {}

    def tensor(self, record: Any) -> Tensor:
        """The tensor of a parameter. Raises InvalidModel when its data is missing, short, or not where it says."""
        where = f"{clean(self.path)}: parameter {clean(record.name)!r}"
        if record.external_data is None:
            return inline_tensor(record, where)
        outside = record.external_data
        kind, shape, nbytes = checked_shape(record, where)
        if record.compression_type:
            raise Unsupported("compressed tensors are not read", where=where)
        if "length" in outside and outside.length != nbytes:
            raise InvalidModel(f"external data has {outside.length} bytes, the shape needs {nbytes}", where=where)
        file = self._file(outside.location)
        checked_range(outside.offset, nbytes, file.size, "external data", where)
        return MappedTensor(file, outside.offset, nbytes, kind, shape)

    def _file(self, location: str) -> MappedFile:
        if location not in self._beside:
            file = open_beside(self.path, location)
            if bytes(file.view(0, min(1, file.size))) != b"\x01":
                raise InvalidModel("not a little-endian MindIR data file", where=clean(file.path))
            self._beside[location] = file
        return self._beside[location]


def read(path: str | os.PathLike[str]) -> MindirModel:
    """Decode and check the frame of a `.mindir` file. Raises InvalidModel, Unsupported, LimitExceeded, SystemFailure."""
    where = clean(os.fspath(path))
    file = map_file(path)
    check_limit("file_bytes", file.size, "file size", where)
    try:
        record = CODEC.decode("ModelProto", file.view())
    except (InvalidModel, LimitExceeded) as error:
        raise error.at(where) from None
    if record.graph is None or not record.ir_version or "producer_name" not in record or "model_version" not in record:
        raise InvalidModel("this is no MindIR model (no graph, version or producer)", where=where)
    if "little_endian" in record and not record.little_endian:
        raise Unsupported("big-endian files are not read", where=where)
    if not 0 <= record.mind_ir_version <= NEWEST_VERSION:
        raise Unsupported(f"mind_ir_version {record.mind_ir_version} is newer than {NEWEST_VERSION}", where=where)
    return MindirModel(record, os.path.abspath(os.fspath(path)))


# -------------------------------------------------------------------------------------------------- writing


def write(
    path: str | os.PathLike[str],
    model: Mapping[str, Any],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    protect: Iterable[str | os.PathLike[str]] = (),
    external_limit: int = EXTERNAL_LIMIT,
    quantisation: Mapping[str, Mapping[str, Any]] = {},
) -> list[str]:
    """Write a ModelProto given as plain dicts; `tensors` become the parameters of its main graph, in order.

    `quantisation` has the QuantParamProto of parameters by name: a note for tools, which no kernel reads.

    When they have more than `external_limit` bytes in all, their data goes to `<file name>.data` beside the model, one
    tensor after the other. Returns the paths written, the model first. Raises Unsupported (a message of 2 GiB or more),
    UsageError or SystemFailure (see `OutputSet`).
    """
    weights = list(tensors)
    outside = sum(tensor.nbytes for _, tensor in weights) > external_limit
    target = os.fspath(path)
    data_name = os.path.basename(target) + ".data"
    graph = dict(model["graph"])
    records = _external_records(weights, data_name) if outside else _inline_records(weights)
    for record in records:
        if record["name"] in quantisation:
            record["quant_params"] = [quantisation[record["name"]]]
    graph["parameter"] = records
    chunks = CODEC.encode("ModelProto", {**model, "graph": graph})
    size = sum(memoryview(c).nbytes if isinstance(c, (bytes, bytearray, memoryview)) else c.nbytes for c in chunks)
    if size > LIMITS["file_bytes"]:
        raise Unsupported(f"the model message would have {size} bytes, MindIR allows less than 2 GiB", code="U030")
    with OutputSet(protect) as out:
        written = [target]
        if outside:
            written.append(target + ".data")
            _write_data(out.open(target + ".data"), [tensor for _, tensor in weights])
        write_chunks(out.open(target, main=True), chunks)
    return written


def _inline_records(weights: list[tuple[str, Tensor]]) -> list[dict[str, Any]]:
    return [{**tensor_record(name, tensor), "ref_key": short_name(name)} for name, tensor in weights]


def _external_records(weights: list[tuple[str, Tensor]], data_name: str) -> list[dict[str, Any]]:
    records, offset = [], len(_HEADER)
    for name, tensor in weights:
        place = {"location": data_name, "offset": offset, "length": tensor.nbytes}
        record = tensor_record(name, tensor) | {"external_data": place, "ref_key": short_name(name)}
        del record["raw_data"]
        records.append(record)
        offset += tensor.nbytes + -tensor.nbytes % _ALIGN
    return records


def _write_data(file: Any, tensors: list[Tensor]) -> None:
    file.write(_HEADER)
    for tensor in tensors:
        tensor.write(file)
        file.write(bytes(-tensor.nbytes % _ALIGN))


def short_name(name: str) -> str:
    """What a user sees of `graph:local`: the part after the first colon."""
    return name.partition(":")[2] or name
