"""From a path, bytes or a ModelProto to a parsed ModelProto. Files are opened by ir/storage only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir import storage
from ...ir.errors import InvalidModel, UsageError, clean

if TYPE_CHECKING:
    from onnx import ModelProto

MAGIC = (
    (0, b"PK\x03\x04", "a zip archive (.keras, .pt, .pt2 ...)"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (4, b"TFL3", "a TFLite flatbuffer"),
    (4, b"ORTM", "an onnxruntime flatbuffer"),
    (0, b"\x80\x02", "a Python pickle"),
    (0, b"version https://git-lfs", "a Git LFS pointer instead of the file itself"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"<", "markup text"),
    (0, b"{", "JSON text"),
)


def load(source: str | os.PathLike | bytes | ModelProto) -> tuple[ModelProto, Path | None]:
    """The parsed model and its path (None: not a file, so no external data). Raises InvalidModel, LimitExceeded,
    SystemFailure."""
    import onnx

    if isinstance(source, onnx.ModelProto):
        return source, None
    if isinstance(source, bytes | bytearray | memoryview):
        return parse(bytes(source), "<bytes>"), None
    if not isinstance(source, str | os.PathLike):
        raise UsageError(f"cannot read ONNX from {type(source).__name__}", hint="pass a path, bytes or a ModelProto")
    path = Path(source)
    file = storage.map_file(path)
    model = parse(file.view(), str(path))
    file.recheck()
    return model, path


def parse(data: bytes | memoryview, where: str) -> ModelProto:
    """`data` as a ModelProto. Raises InvalidModel, naming the format that the bytes look like instead."""
    import onnx
    from google.protobuf.message import DecodeError

    if not data:
        raise InvalidModel("the file is empty (expected an ONNX protobuf)", where=where)
    storage.check_limit("file_bytes", len(data), "model size", where)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError) as e:
        raise _not_onnx(data, where, clean(e)) from None
    if not model.HasField("graph"):
        raise _not_onnx(data, where, "no graph in it")
    return model


def _not_onnx(data: bytes | memoryview, where: str, reason: str) -> InvalidModel:
    for offset, magic, what in MAGIC:
        if data[offset : offset + len(magic)] == magic:
            return InvalidModel(f"this looks like {what}, not ONNX", where=where)
    return InvalidModel(
        f"not an ONNX model: {reason}", where=where, hint="the file may be truncated, damaged, or nested too deeply"
    )


def text(value: str | bytes, where: str = "") -> str:
    """A string field. protobuf hands over as bytes what is not UTF-8; no name may be that. Raises InvalidModel."""
    if type(value) is not str:
        raise InvalidModel(f"a name is not UTF-8: {clean(value)}", where=where)
    return value
