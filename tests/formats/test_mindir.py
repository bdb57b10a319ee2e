"""The MindIR description: field by field against MindSpore's own, values there and back, broken files."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from anyir.formats import mindir
from anyir.ir.errors import AnyIRError, InvalidModel, Unsupported
from anyir.ir.tensor import ArrayTensor, as_tensor
from anyir.ir.types import F32, dtype

KINDS = {1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 8: "bool", 9: "string", 12: "bytes", 13: "uint32",
         14: "enum"}  # fmt: skip
#: Fields of rarely used messages are kept as bytes.
OPAQUE = {"preprocessor", "parallel", "map_parameter", "functor", "graph_holder"}


@pytest.fixture(scope="module")
def generated():
    """MindSpore's generated protobuf module, loaded by its file: the package itself takes seconds."""
    pytest.importorskip("google.protobuf")
    try:
        files = importlib.metadata.files("mindspore") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("MindSpore is not installed")
    path = next(f for f in files if f.name == "mind_ir_pb2.py").locate()
    spec = importlib.util.spec_from_file_location("mind_ir_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(mindir.SCHEMAS))
def test_schema_is_mindspores(generated, name: str) -> None:
    if name in ("UserInfoEntry", "SeqInfoProto"):
        owner, field = {"UserInfoEntry": ("ModelProto", "user_info"), "SeqInfoProto": ("AttributeProto", "seq_info")}[
            name
        ]
        theirs = getattr(generated, owner).DESCRIPTOR.fields_by_name[field].message_type
    else:
        theirs = _find(generated, name)
    ours = mindir.SCHEMAS[name].fields
    assert {number: f.name for number, f in ours.items()} == {f.number: f.name for f in theirs.fields}
    for field in theirs.fields:
        mine = ours[field.number]
        assert mine.repeated == field.is_repeated, field.name
        if field.message_type is None:
            assert mine.kind == KINDS[field.type], field.name
        elif field.name not in OPAQUE:
            assert mine.kind in mindir.SCHEMAS, field.name


def _find(generated, name: str):
    for holder in (generated, generated.TensorProto, generated.AttributeProto, generated.ModelProto):
        found = getattr(holder, name, None)
        if found is not None:
            return found.DESCRIPTOR
    raise AssertionError(name)


def test_enums_are_mindspores(generated) -> None:
    attribute = generated.AttributeProto.AttributeType
    assert {name: mindir.ATTRIBUTE_TYPES[name] for name in mindir.ATTRIBUTE_TYPES} == {
        name: value for name, value in attribute.items() if name in mindir.ATTRIBUTE_TYPES
    }
    names = {"f32": "FLOAT", "u8": "UINT8", "i64": "INT64", "bf16": "BFLOAT16", "f64": "DOUBLE", "bool": "BOOL"}
    for ours, theirs in names.items():
        assert mindir.TENSOR_CODES[ours] == generated.TensorProto.DataType.Value(theirs)


VALUES = [0, -5, 1 << 40, True, False, 1.5, "text", "ünï", None, (), (1, 2), (1, (2.5, "a"), None), [True, 3],
          mindir.Monad("UMONAD"), mindir.DtypeValue(F32)]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_survive(value) -> None:
    wire = b"".join(bytes(c) for c in mindir.CODEC.encode("AttributeProto", mindir.encode_value("value", value)))
    back = mindir.decode_value(mindir.CODEC.decode("AttributeProto", wire))
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize("kind", sorted(mindir.TENSOR_CODES))
def test_tensors_survive(kind: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype(kind).numpy)
    record = mindir.CODEC.new("TensorProto", **mindir.tensor_record("t", as_tensor(array)))
    record.raw_data = array.tobytes()
    back = mindir.inline_tensor(record)
    assert back.dtype.name == kind and (back.numpy() == array).all()


def test_dtypes_without_a_number_are_refused() -> None:
    with pytest.raises(Unsupported, match="i4"):
        mindir.tensor_code(dtype("i4"))
    with pytest.raises(InvalidModel):
        mindir.dtype_of_code(99)


def skeleton() -> dict:
    node = {"op_type": "REF::ReLU:0", "input": ["main:x"], "output": ["main:y"], "name": "main:y"}
    slot = [{"dims": [2], "data_type": 1}]
    return {
        "ir_version": "1.1",
        "producer_name": "t",
        "model_version": "t",
        "mind_ir_version": 3,
        "primitives": [{"name": "ReLU:0", "op_type": "ReLU"}],
        "graph": {
            "name": "main",
            "node": [node],
            "input": [{"name": "main:x", "tensor": slot}],
            "output": [{"name": "main:y", "tensor": slot}],
        },
    }


WEIGHTS = [("main:a", ArrayTensor(np.arange(5, dtype=np.float32))), ("main:b", ArrayTensor(np.ones((2, 3), np.int8)))]


@pytest.mark.parametrize("limit", [1 << 30, -1], ids=["inside", "outside"])
def test_weights_come_back(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "m.mindir"
    files = mindir.write(path, skeleton(), WEIGHTS, external_limit=limit)
    assert len(files) == (2 if limit < 0 else 1) and all(Path(f).exists() for f in files)
    model = mindir.read(path)
    for record, (name, tensor) in zip(model.record.graph.parameter, WEIGHTS, strict=True):
        assert record.name == name and record.ref_key == name[5:]
        assert (model.tensor(record).numpy() == tensor.numpy()).all()
    again = [Path(f).read_bytes() for f in files]
    mindir.write(path, skeleton(), WEIGHTS, external_limit=limit)
    assert [Path(f).read_bytes() for f in files] == again


def test_external_layout(tmp_path: Path) -> None:
    """One byte 01, zeros up to 64, each tensor padded to 64."""
    mindir.write(tmp_path / "m.mindir", skeleton(), WEIGHTS, external_limit=-1)
    data = (tmp_path / "m.mindir.data").read_bytes()
    assert data[0] == 1 and not any(data[1:64]) and len(data) == 64 * 3
    assert np.frombuffer(data[64:84], np.float32).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("place", ["../m.mindir.data", "/etc/passwd", "", "absent", "m.mindir"])
def test_external_places_are_contained(tmp_path: Path, place: str) -> None:
    path = tmp_path / "m.mindir"
    model = skeleton()
    tensor = {
        "dims": [4],
        "data_type": 2,
        "name": "main:w",
        "external_data": {"location": place, "offset": 64, "length": 4},
    }
    model["graph"]["parameter"] = [tensor]
    path.write_bytes(b"".join(bytes(c) for c in mindir.CODEC.encode("ModelProto", model)))
    read = mindir.read(path)
    with pytest.raises(AnyIRError):
        read.tensor(read.record.graph.parameter[0])


@pytest.mark.parametrize(("field", "value"), [("dims", [3]), ("dims", [-5]), ("dims", [1 << 62, 4]), ("data_type", 99)])
def test_lying_tensors_are_refused(tmp_path: Path, field: str, value) -> None:
    path = tmp_path / "m.mindir"
    mindir.write(path, skeleton(), WEIGHTS[:1])
    model = mindir.read(path)
    record = model.record.graph.parameter[0]
    setattr(record, field, value)
    with pytest.raises(AnyIRError):
        model.tensor(record)


@pytest.mark.parametrize("missing", ["ir_version", "producer_name", "model_version", "graph"])
def test_required_fields(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "m.mindir"
    model = {k: v for k, v in skeleton().items() if k != missing}
    path.write_bytes(b"".join(bytes(c) for c in mindir.CODEC.encode("ModelProto", model)))
    with pytest.raises(InvalidModel):
        mindir.read(path)


def test_newer_and_big_endian_are_refused(tmp_path: Path) -> None:
    for change in ({"mind_ir_version": 4}, {"little_endian": False}):
        path = tmp_path / "m.mindir"
        path.write_bytes(b"".join(bytes(c) for c in mindir.CODEC.encode("ModelProto", skeleton() | change)))
        with pytest.raises(Unsupported):
            mindir.read(path)


def test_every_cut_is_refused_or_read(tmp_path: Path) -> None:
    path, whole = tmp_path / "m.mindir", tmp_path / "w.mindir"
    mindir.write(whole, skeleton(), WEIGHTS)
    data = whole.read_bytes()
    for cut in range(0, len(data), 7):
        path.write_bytes(data[:cut])
        try:
            model = mindir.read(path)
            for record in model.record.graph.parameter:
                model.tensor(record)
        except AnyIRError:
            continue
