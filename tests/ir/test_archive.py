"""The guards of zip archives and JSON text, hostile inputs first."""

from __future__ import annotations

import contextlib
import json
import struct
import zipfile
import zlib

import pytest
from anyir.ir.archive import Archive, parse_json, read_zip_members
from anyir.ir.errors import AnyIRError, InvalidModel, LimitExceeded, Unsupported
from anyir.ir.storage import limits
from hypothesis import given, settings
from hypothesis import strategies as st

# ------------------------------------------------------------------------------------------------------ zip


def make_zip(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name) if method == 0 else name, data)
    return path


def test_members_are_read_by_name(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("b/w.bin", b"weights"), ("config.json", b"{}"), ("dir/", b"")])
    archive = Archive(path)
    assert archive.names == ["b/w.bin", "config.json"]
    assert bytes(archive.read("b/w.bin")) == b"weights"
    file, offset, length = archive.span("b/w.bin")
    assert bytes(file.view(offset, length)) == b"weights"
    with pytest.raises(InvalidModel, match="no member"):
        archive.read("w.bin")
    deflated = make_zip(tmp_path / "d.zip", [("x", b"abc" * 1000)], zipfile.ZIP_DEFLATED)
    assert bytes(read_zip_members(deflated)["x"]) == b"abc" * 1000
    with pytest.raises(Unsupported):
        Archive(deflated).span("x")
    with limits(json_bytes=10), pytest.raises(LimitExceeded, match="--limit json-bytes=N"):
        Archive(deflated).read("x", "json_bytes")


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "a\\b", "./x", "a//b", "..", "C:\\x"])
def test_unsafe_member_names(tmp_path, name):
    with pytest.raises(InvalidModel):
        Archive(make_zip(tmp_path / "a.zip", [(name, b"x")]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_broken_and_hostile_archives(tmp_path):
    path = tmp_path / "a.zip"
    with pytest.raises(InvalidModel, match="twice"):
        Archive(make_zip(path, [("x", b"1"), ("x", b"2")]))
    good = make_zip(path, [("x", b"0123456789"), ("y", b"abc")]).read_bytes()
    for bad in (b"", b"PK\3\4", good[:-1], good[: len(good) // 2], b"#!" + good, good.replace(b"x", b"z", 1)):
        path.write_bytes(bad)
        with pytest.raises(InvalidModel):
            Archive(path)
    path.write_bytes(good.replace(b"0123456789", b"0123456780"))
    with pytest.raises(InvalidModel, match="checksum"):
        Archive(path).read("x")
    with pytest.raises(Unsupported, match="compression"):
        Archive(make_zip(path, [("x", b"1" * 99)], zipfile.ZIP_BZIP2))


def test_every_flipped_bit_is_safe(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("x", b"0123456789" * 3), ("y", b"abc")], zipfile.ZIP_DEFLATED)
    good = path.read_bytes()
    for at in range(len(good) * 8):
        bad = bytearray(good)
        bad[at // 8] ^= 1 << at % 8
        path.write_bytes(bytes(bad))
        with contextlib.suppress(AnyIRError):
            read_zip_members(path)


def test_bombs(tmp_path):
    path = make_zip(tmp_path / "bomb.zip", [("x", b"\0" * (40 << 20))], zipfile.ZIP_DEFLATED)
    with pytest.raises(LimitExceeded, match="zip-ratio"):
        Archive(path).read("x")
    many = make_zip(tmp_path / "many.zip", [(f"{i}", b"\0" * (8 << 20)) for i in range(4)], zipfile.ZIP_DEFLATED)
    with limits(zip_total_bytes=20 << 20), pytest.raises(LimitExceeded, match="zip-total-bytes"):
        read_zip_members(many)
    lie = bytearray(make_zip(path, [("x", zlib.compress(b"q") * 9)], zipfile.ZIP_DEFLATED).read_bytes())
    at = lie.index(b"PK\1\2") + 24
    lie[at : at + 4] = struct.pack("<I", 5)
    path.write_bytes(bytes(lie))
    with pytest.raises(InvalidModel):
        Archive(path).read("x")


# ----------------------------------------------------------------------------------------------------- JSON


def test_json_reads_what_json_reads():
    text = json.dumps({"a": [1, 2.5, None, True, 'ü"\\ {[', {"b": []}], "c": "\U0001f600"})
    assert parse_json(text.encode()) == json.loads(text)
    assert parse_json(memoryview(b'{"a": "\\ud83d\\ude00"}')) == {"a": "\U0001f600"}


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"NaN", b"[Infinity]", b"-Infinity", b"1e999", b"[-1e999]", b'{"a":1,"a":2}', b'{"a":{"b":1,"b":1}}',
        b'"\\ud800"', b'["x", {"k": "\\udc00"}]', b"\xff", b"\xef\xbb\xbf{}", b"1" * 5000, b"{} {}", b"'a'", b"[1,]",
        b'"' + b'\\"' * 50_000, b'"\x00"',
    ],
)  # fmt: skip
def test_json_that_is_refused(text):
    with pytest.raises(InvalidModel):
        parse_json(text)


def test_deep_and_large_json():
    for deep in (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 65 + b"]" * 65):
        with pytest.raises(LimitExceeded, match="nested deeper than 64"):
            parse_json(deep)
    assert parse_json(b"[" * 64 + b"]" * 64)
    assert parse_json(b'"' + b"[" * 1000 + b'"') == "[" * 1000
    with limits(json_bytes=10), pytest.raises(LimitExceeded):
        parse_json(b"[1,2,3,4,5,6]")


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda t: st.lists(t) | st.dictionaries(st.text(), t)
    )
)
def test_json_agrees_with_the_standard_library(value):
    assert parse_json(json.dumps(value).encode()) == value
