"""External data files as we write them: a header page with the data's digest, which the model repeats.

The digest tells a data file and a model of different runs apart: after a crash between the two renames, or when one
was copied without the other. Files that others wrote have no such header and are read without it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ...ir.errors import InvalidModel
from ...ir.storage import MappedFile

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

HEADER = 4096
MAGIC = b"anyir external data 1\n"
DIGEST_KEY = "anyir.external_data"
_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)


class Sink:
    """Counts and hashes what goes into the data file; holes stay holes.

    The digest covers the chunks of 1 MiB that are not all zero, so it does not depend on where the source has holes.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._state = hashlib.blake2b(digest_size=16)
        self._chunk = bytearray()
        self._start = 0
        self.at = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._file.write(view)
        self.at += len(view)
        done = 0
        while done < len(view):
            take = min(_CHUNK - len(self._chunk), len(view) - done)
            self._chunk += view[done : done + take]
            done += take
            if len(self._chunk) == _CHUNK:
                self._flush()
        return done

    def skip(self, count: int) -> None:
        """`count` zero bytes."""
        self._file.skip(count)
        self.at += count
        if self._chunk:
            fill = min(_CHUNK - len(self._chunk), count)
            self._chunk += bytes(fill)
            count -= fill
            if len(self._chunk) == _CHUNK:
                self._flush()
        self._start += count - count % _CHUNK
        self._chunk += bytes(count % _CHUNK)

    def _flush(self) -> None:
        if self._chunk != _ZEROS[: len(self._chunk)]:
            self._state.update(self._start.to_bytes(8, "little"))
            self._state.update(self._chunk)
        self._start += len(self._chunk)
        self._chunk.clear()

    def digest(self) -> str:
        """Of everything written so far, as hexadecimal text."""
        self._flush()
        return self._state.hexdigest()


def write_header(file: Any, digest: str) -> None:
    """Fill the first page, which was skipped, and go back to the end."""
    end = file.tell()
    file.seek(0)
    file.write(MAGIC + digest.encode() + b"\n")
    file.seek(end)


def check_header(model: ModelProto, file: MappedFile, where: str) -> None:
    """A model that states a digest gets the data that belongs to it. Raises InvalidModel otherwise."""
    stated = [entry.value for entry in model.metadata_props if entry.key == DIGEST_KEY]
    if not stated:
        return
    head = bytes(file.view(0, min(file.size, HEADER)))
    if head.startswith(MAGIC) and head[len(MAGIC) :].split(b"\n", 1)[0] != stated[0].encode():
        raise InvalidModel(
            "the data file belongs to another version of the model", where=where, hint="write both again, or copy both"
        )


def point(proto: TensorProto, location: str, offset: int, length: int) -> None:
    """Make an initializer refer to bytes of the data file."""
    import onnx

    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        entry = proto.external_data.add()
        entry.key, entry.value = key, value
