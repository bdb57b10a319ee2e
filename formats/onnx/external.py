"""External data files as we write them: a header page with the data's digest, which the model repeats.

The digest tells a data file and a model of different runs apart: after a crash between the two renames, or when one
was copied without the other. Files that others wrote have no such header and are read without it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.errors import InvalidModel
from ...ir.storage import MappedFile

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

HEADER = 4096
MAGIC = b"anyir external data 1\n"
DIGEST_KEY = "anyir.external_data"
_CHUNK = 1 << 20
_ROW = 1024  # words; a full chunk has 128 rows


class Sink:
    """Counts and hashes what goes into the data file; holes stay holes.

    The digest covers the chunks of 1 MiB that are not all zero, so it does not depend on where the source has holes. It
    need not withstand anybody who wants two files to look alike, but it must not cost more than writing them: a chunk
    enters as a table of words, whose rows and columns are added up at the speed of memory. Their sums show any change of
    up to three words, wherever they move to.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._state = hashlib.blake2b(digest_size=16)
        self._chunk = bytearray()
        self._start = 0
        self.at = 0

    def begin(self, offset: int) -> None:
        """Zeros up to `offset`, from where chunks are counted anew: what lies whole in a source is hashed there, not copied."""
        self.skip(offset - self.at)
        self._flush()

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.at += len(view)
        done = 0
        while done < len(view):
            take = min(_CHUNK - len(self._chunk), len(view) - done)
            piece = view[done : done + take]
            done += take
            self._file.write(piece)  # piece by piece: what was written a moment ago is still in the processor's cache
            if take == _CHUNK:  # not copied
                self._add(piece)
                continue
            self._chunk += piece
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
        self._add(self._chunk)
        self._chunk = bytearray()

    def _add(self, chunk: Any) -> None:
        """Take a chunk, the last one perhaps a short one, into the digest."""
        words = _words(chunk)
        sums = np.concatenate([np.add.reduce(words, axis=axis) for axis in (0, 1)])  # mod 2^64
        if sums.any() or words.any():
            self._state.update(self._start.to_bytes(8, "little") + len(chunk).to_bytes(8, "little"))
            self._state.update(sums.astype("<u8").tobytes())
        self._start += len(chunk)

    def digest(self) -> str:
        """Of everything written so far, as hexadecimal text."""
        self._flush()
        return self._state.hexdigest()


def _words(chunk: Any) -> np.ndarray:
    """A chunk as rows of words; a short one is filled with zeros."""
    if len(chunk) < _CHUNK:
        chunk = bytes(chunk) + bytes(-len(chunk) % (8 * _ROW))
    return np.frombuffer(chunk, "<u8").reshape(-1, _ROW)


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
