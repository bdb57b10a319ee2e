"""The wire format against google's own parser (through onnx's messages) and against hostile bytes."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import onnx
import pytest
from anyir.formats.protobuf import Codec, Field, Record, Schema, chunk_size, write_chunks
from anyir.ir.errors import AnyIRError, InternalError, InvalidModel, LimitExceeded
from anyir.ir.storage import limits
from anyir.ir.tensor import SplatTensor, as_tensor
from anyir.ir.types import F32
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

SCALARS = {
    "int32": st.integers(-(1 << 31), (1 << 31) - 1),
    "int64": st.integers(-(1 << 63), (1 << 63) - 1),
    "uint32": st.integers(0, (1 << 32) - 1),
    "uint64": st.integers(0, (1 << 64) - 1),
    "sint32": st.integers(-(1 << 31), (1 << 31) - 1),
    "sint64": st.integers(-(1 << 63), (1 << 63) - 1),
    "bool": st.booleans(),
    "fixed32": st.integers(0, (1 << 32) - 1),
    "fixed64": st.integers(0, (1 << 64) - 1),
    "sfixed32": st.integers(-(1 << 31), (1 << 31) - 1),
    "sfixed64": st.integers(-(1 << 63), (1 << 63) - 1),
    "float": st.floats(width=32, allow_nan=False),
    "double": st.floats(allow_nan=False),
    "string": st.text(),
    "bytes": st.binary(),
}


def build():
    """The same message for us and for google's library: each kind singular, repeated and packed, and itself."""
    fields, number = {}, 0
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto2")
    message = file.message_type.add(name="Everything")

    def add(name, kind, repeated, packed):
        nonlocal number
        number += 1
        fields[number] = Field(name, "Everything" if kind == "message" else kind, repeated, packed)
        row = message.field.add(name=name, number=number, label=3 if repeated else 1)
        row.type = getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{kind.upper()}")
        if kind == "message":
            row.type_name = ".t.Everything"
        if packed:
            row.options.packed = True

    for kind in SCALARS:
        add(f"one_{kind}", kind, False, False)
        add(f"many_{kind}", kind, True, False)
        if kind not in ("string", "bytes"):
            add(f"packed_{kind}", kind, True, True)
    add("child", "message", False, False)
    add("children", "message", True, False)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    theirs = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Everything"))
    return Codec({"Everything": Schema(fields)}), theirs


CODEC, Theirs = build()


def _row(name, kind):
    return st.tuples(st.just(name), SCALARS[kind] if name.startswith("one") else st.lists(SCALARS[kind], max_size=5))


rows = st.one_of(*[_row(f"{form}_{kind}", kind) for kind in SCALARS for form in ("one", "many")])
packed = st.one_of(*[_row(f"packed_{kind}", kind) for kind in SCALARS if kind not in ("string", "bytes")])
flat = st.lists(st.one_of(rows, packed), max_size=8).map(dict)
messages = st.recursive(
    flat,
    lambda inner: st.tuples(flat, inner, st.lists(inner, max_size=3)).map(
        lambda t: t[0] | {"child": t[1], "children": t[2]}
    ),
)


def to_theirs(values):
    message = Theirs()
    for name, value in values.items():
        if name == "child":
            message.child.CopyFrom(to_theirs(value))
        elif name == "children":
            message.children.extend(map(to_theirs, value))
        elif isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return message


def joined(chunks):
    out = io.BytesIO()
    write_chunks(out, chunks)
    return out.getvalue()


@settings(max_examples=400)
@given(messages)
def test_agrees_with_google(values):
    expected = to_theirs(values).SerializeToString(deterministic=True)
    mine = joined(CODEC.encode("Everything", values))
    assert Theirs.FromString(mine) == to_theirs(values) and mine == expected
    assert CODEC.encoded_size("Everything", values) == len(mine)
    record = CODEC.decode("Everything", expected)
    assert joined(CODEC.encode("Everything", record)) == expected
    check_equal(record, values)


def check_equal(record, values):
    for name, value in values.items():
        found = getattr(record, name)
        if name == "child":
            check_equal(found, value)
        elif name == "children":
            assert len(found) == len(value)
            for one, other in zip(found, value, strict=True):
                check_equal(one, other)
        else:
            assert found == value or list(found) == list(value)


def test_defaults_presence_and_equality():
    record = CODEC.decode("Everything", b"")
    assert (record.one_int32, record.one_string, record.one_bytes, record.one_bool) == (0, "", b"", False)
    assert record.child is None and record.children == [] and "one_int32" not in record
    record.one_int32 = 0
    record.children.append(CODEC.new("Everything", one_string="x"))
    assert "one_int32" in record and "children" in record
    again = CODEC.decode("Everything", joined(CODEC.encode("Everything", record)))
    assert again == record and again.children[0].one_string == "x"
    schema = Schema({1: Field("version", "int64", default=7)})
    assert Record(schema).version == 7
    for wrong in (lambda: record.nothing, lambda: setattr(record, "nothing", 1)):
        with pytest.raises(AttributeError):
            wrong()


@pytest.mark.parametrize("kind", ["int64", "uint64", "int32", "uint32", "sint32", "sint64", "bool", "float", "double"])
def test_long_packed_numbers(kind):
    rng = np.random.default_rng(0)
    if kind in ("float", "double"):
        values = rng.standard_normal(10_000).astype("f4").tolist()
    else:
        bits = 1 if kind == "bool" else 32 if kind.endswith("32") else 64
        raw = [
            int(x) >> int(s) for x, s in zip(rng.integers(0, 1 << 62, 10_000), rng.integers(0, 62, 10_000), strict=True)
        ]
        values = [x % (1 << bits) - (0 if kind[0] in "ub" else 1 << (bits - 1)) for x in raw]
    message = Theirs()
    getattr(message, f"packed_{kind}").extend(values)
    record = CODEC.decode("Everything", message.SerializeToString())
    found = getattr(record, f"packed_{kind}")
    assert isinstance(found, np.ndarray) and found.tolist() == values
    assert joined(CODEC.encode("Everything", record)) == message.SerializeToString()


def test_both_forms_of_a_repeated_number_are_read():
    data = b"".join(m.SerializeToString() for m in (Theirs(many_int64=[1, -2]), Theirs(many_int64=[3])))
    swapped = bytes(Theirs(packed_int64=[5, 6]).SerializeToString())
    field = CODEC.schemas["Everything"].by_name
    number = {f.name: n for n, f in CODEC.schemas["Everything"].fields.items()}
    tag = (number["many_int64"] << 3 | 2).to_bytes(1, "little")
    assert field["many_int64"].packed is False
    record = CODEC.decode("Everything", data + tag + swapped[-3:])
    assert record.many_int64 == [1, -2, 3, 5, 6]


def test_large_bytes_are_passed_on_by_reference():
    array = np.arange(1 << 16, dtype=np.float32)
    tensor, splat = as_tensor(array), SplatTensor(1, F32, (1 << 20,))
    chunks = CODEC.encode("Everything", {"many_bytes": [tensor, splat, array, memoryview(b"xy"), b"z"]})
    assert any(chunk is tensor for chunk in chunks) and any(chunk is splat for chunk in chunks)
    data = joined(chunks)
    assert (
        len(data)
        == sum(map(chunk_size, chunks))
        == CODEC.encoded_size("Everything", {"many_bytes": [tensor, splat, array, b"xy", b"z"]})
    )
    found = CODEC.decode("Everything", data).many_bytes
    assert isinstance(found[0], memoryview) and found[0].readonly
    assert np.array_equal(np.frombuffer(found[0], np.float32), array) and [bytes(x) for x in found[3:]] == [b"xy", b"z"]


def test_a_real_onnx_model_round_trips_by_unknown_fields():
    model = onnx.helper.make_model(
        onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [], []), producer_name="p"
    )
    data = model.SerializeToString()
    codec = Codec(
        {
            "Model": Schema({1: Field("ir_version", "int64"), 7: Field("graph", "Graph")}),
            "Graph": Schema({2: Field("name", "string")}),
        }
    )
    with pytest.raises(InvalidModel, match="unknown field"):
        codec.decode("Model", data)
    assert codec.decode("Model", data, unknown="skip").graph.name == "g"
    record = codec.decode("Model", data, unknown="keep")
    again = onnx.ModelProto.FromString(joined(codec.encode("Model", record)))
    assert again == model


# -------------------------------------------------------------------------------------------------- hostile


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x08", "truncated number"), (b"\x80", "truncated number"), (b"\x0a\x05ab", "do not lie"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "more than 10 bytes"), (b"\x08" + b"\xff" * 9 + b"\x02", "64 bits"),
        (b"\x00\x00", "field number 0"), (b"\x0b", "wire type 3"), (b"\x0c", "wire type 4"), (b"\x0f", "wire type 7"),
        (b"\x08\x80\x80\x80\x80\x10", "not in"), (b"\x08\x01\x08\x02", "comes twice"), (b"\x0d\x00\x00", "do not lie"),
        (b"\x0a\x00", "wire type 2"), (b"\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00", "field number"),
        (b"\xf8\xff\xff\xff\x0f\x00", "unknown field"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "do not lie"),
    ],
)  # fmt: skip
def test_malformed_messages(data, why):
    with pytest.raises(InvalidModel, match=why) as error:
        CODEC.decode("Everything", data)
    assert "byte 0" in str(error.value) or "byte 2" in str(error.value)


def numbered(name):
    return next(n for n, f in CODEC.schemas["Everything"].fields.items() if f.name == name)


def length_delimited(name, data):
    tag = numbered(name) << 3 | 2
    head = bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])
    size = len(data)
    length = b""
    while True:
        length += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
        if not size:
            return head + length + data


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("one_string", b"\xff"), ("one_string", b"\xed\xa0\x80"), ("packed_int64", b"\x80"), ("packed_float", b"abc"),
        ("packed_int32", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), ("packed_bool", b"\x02"),
        ("packed_int64", b"\xff" * 11),
        ("packed_uint64", b"\xff" * 9 + b"\x03"), ("child", b"\x08"), ("child", b"\x0a\x05ab"),
    ],
)  # fmt: skip
def test_malformed_fields_name_their_place(name, data):
    with pytest.raises(InvalidModel, match="Everything"):
        CODEC.decode("Everything", length_delimited(name, data))


def test_a_submessage_cannot_reach_past_its_end():
    inner = length_delimited("one_bytes", b"abcd")
    data = length_delimited("child", inner[:-2]) + inner[-2:]
    with pytest.raises(InvalidModel):
        CODEC.decode("Everything", data)


def test_depth_and_count_are_limited():
    data = b""
    for _ in range(2000):
        data = length_delimited("child", data)
    with pytest.raises(LimitExceeded, match="nested deeper"):
        CODEC.decode("Everything", data)
    with limits(items=2), pytest.raises(LimitExceeded, match="--limit items=N"):
        CODEC.decode("Everything", length_delimited("children", b"") * 9)
    with limits(name_bytes=3), pytest.raises(LimitExceeded, match="--limit name-bytes=N"):
        CODEC.decode("Everything", length_delimited("one_string", b"abcd"))


def test_a_deep_record_is_written_without_recursion():
    record = {"one_int32": 1}
    for _ in range(5000):
        record = {"child": record}
    assert CODEC.encoded_size("Everything", record) > 10_000


@settings(max_examples=500)
@given(st.binary(max_size=200), st.sampled_from(["error", "skip", "keep"]))
def test_any_bytes_give_a_record_or_our_error(data, unknown):
    with contextlib.suppress(AnyIRError):
        once = joined(CODEC.encode("Everything", CODEC.decode("Everything", data, unknown=unknown)))
        assert joined(CODEC.encode("Everything", CODEC.decode("Everything", once, unknown="keep"))) == once


@settings(max_examples=100)
@given(messages, st.data())
def test_prefixes_and_flipped_bits_are_safe(values, data):
    good = to_theirs(values).SerializeToString(deterministic=True)
    if not good:
        return
    bad = bytearray(good)
    at = data.draw(st.integers(0, len(good) * 8 - 1))
    bad[at // 8] ^= 1 << at % 8
    for broken in (bytes(bad), good[: at // 8]):
        with contextlib.suppress(AnyIRError):
            CODEC.decode("Everything", broken)


@pytest.mark.parametrize(
    "record",
    [
        {"one_int32": 1 << 31}, {"one_uint32": -1}, {"one_bool": 2}, {"one_int64": 1.5}, {"one_string": 3},
        {"one_string": "\ud800"}, {"one_bytes": "text"}, {"packed_int32": [1 << 40]}, {"one_float": "x"},
        {"one_fixed32": -1},
    ],
)  # fmt: skip
def test_values_that_do_not_fit(record):
    with pytest.raises(InvalidModel, match="cannot hold"):
        CODEC.encode("Everything", record)


def test_mistakes_in_descriptions_are_ours():
    with pytest.raises(InternalError, match="unknown kind"):
        Codec({"A": Schema({1: Field("x", "int65")})})
    with pytest.raises(InternalError, match="same name"):
        Schema({1: Field("x", "int64"), 2: Field("x", "int64")})
    with pytest.raises(InternalError, match="no field"):
        CODEC.encode("Everything", {"nonsense": 1})
