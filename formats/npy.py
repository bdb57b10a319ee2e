""".npy arrays, alone or as members of an .npz: a bounded header, then rows that are read in slices.

    for name, array in open_npz("data.npz").items():
        array.shape, array.dtype, array.read(0, 32)

Stored members are slices of the mapped file; deflated ones are inflated as reading goes on, so that neither is ever in
memory as a whole. Only plain numeric arrays: a header that asks for a pickle or for records is refused. Imports numpy and
the file guards only.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.archive import Archive, Member
from ..ir.errors import InvalidData, LimitExceeded, clean
from ..ir.storage import MappedFile, limit, map_file

_MAGIC = b"\x93NUMPY"
#: Longest header that is read: that of a plain array takes about a hundred bytes.
_LONGEST_HEADER = 1 << 16
_HEADER = re.compile(
    r"\{'descr': '([<>=|][a-zA-Z][0-9]{1,4})', 'fortran_order': (True|False), 'shape': \(((?:[0-9]{1,19}L?,? ?)*)\),? ?\}\s*"
)
_PIECE = 1 << 18


class Header:
    """What a .npy header says: dtype, shape, element order, and where the elements begin."""

    __slots__ = ("dtype", "fortran", "offset", "shape")

    def __init__(self, dtype: np.dtype, shape: tuple[int, ...], fortran: bool, offset: int) -> None:
        self.dtype, self.shape, self.fortran, self.offset = dtype, shape, fortran, offset

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def parse_header(head: bytes, where: str) -> Header:
    """The header at the begin of `head` (at least its first 64 KiB, or all there is). InvalidData for anything but a
    plain array of numbers."""
    if head[:6] != _MAGIC or len(head) < 10 or head[6] not in (1, 2, 3):
        raise InvalidData("this is not a .npy array", where=where, hint="numpy.save(path, array)")
    wide = head[6] > 1
    start = 12 if wide else 10
    length = int(struct.unpack_from("<I" if wide else "<H", head.ljust(12, b"\0"), 8)[0])
    if length > _LONGEST_HEADER - start or start + length > len(head):
        raise InvalidData("the .npy header is cut off or longer than any plain array's", where=where)
    text = head[start : start + length].decode("latin-1")
    found = _HEADER.fullmatch(text)
    if found is None:
        raise InvalidData(_unreadable(text), where=where, hint="save plain numeric arrays")
    dtype = np.dtype(found[1])
    if dtype.kind not in "biufc":
        raise InvalidData(_unreadable(text), where=where, hint="save plain numeric arrays")
    shape = tuple(int(part.rstrip("L")) for part in found[3].replace(" ", "").split(",") if part)
    if len(shape) > limit("rank"):
        raise InvalidData(f"an array of rank {len(shape)}", where=where)
    return Header(dtype, shape, found[2] == "True", start + length)


def _unreadable(text: str) -> str:
    if re.search(r"'descr': '\|?O", text):
        return "the array holds Python objects: pickles are never read"
    kind = re.match(r"\{'descr': (.{0,40}?),? 'fortran_order'", text)
    if kind and re.fullmatch(r"'[<>|=]?[biufc]\d{1,2}'", kind[1]):
        return "the .npy header declares no plain shape"
    return f"not an array of numbers but of {clean(kind[1])}" if kind else "a malformed .npy header"


class Npy:
    """An array in a file; `read(start, stop)` copies rows of its first axis into memory, `whole()` all of it."""

    def __init__(self, header: Header, where: str, rows: Callable[[int, int], Any]) -> None:
        self.header, self.where, self._rows = header, where, rows
        self.shape, self.dtype = header.shape, header.dtype

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start .. stop` as a new array."""
        data = self._rows(start, stop)
        if isinstance(data, np.ndarray):
            return data
        return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:]).copy()

    def whole(self) -> np.ndarray:
        return self.read(0, self.shape[0]) if self.shape else self.read(0, 1).reshape(())


def open_npy(path: str | os.PathLike[str]) -> Npy:
    """The array of one .npy file. Raises InvalidData, InvalidModel (not a regular file), SystemFailure."""
    return npy_in(map_file(path), clean(os.fspath(path)))


def npy_in(file: MappedFile, where: str, offset: int = 0, length: int | None = None) -> Npy:
    """The array in a part of a mapped file."""
    size = file.size - offset if length is None else length
    header = parse_header(bytes(file.view(offset, min(size, _LONGEST_HEADER))), where)
    _check_size(header, size, where)
    at, row = offset + header.offset, math.prod(header.shape[1:]) * header.dtype.itemsize
    if header.fortran and len(header.shape) > 1:
        elements = np.frombuffer(file.view(at, header.nbytes), header.dtype).reshape(header.shape, order="F")
        return Npy(header, where, lambda start, stop: np.ascontiguousarray(elements[start:stop]))
    return Npy(header, where, lambda start, stop: file.view(at + start * row, (stop - start) * row))


def _check_size(header: Header, size: int, where: str) -> None:
    if header.offset + header.nbytes != size:
        raise InvalidData(
            f"the header declares {list(header.shape)} of {header.dtype}, {header.nbytes} bytes; there are "
            f"{max(size - header.offset, 0)}",
            where=where,
            hint="the file is cut off or damaged: save it again",
        )


def open_npz(path: str | os.PathLike[str]) -> dict[str, Npy]:
    """The arrays of an .npz by name. Raises InvalidData, InvalidModel (no zip archive, no regular file), Unsupported,
    LimitExceeded, SystemFailure."""
    archive = Archive(path)
    made: dict[str, Npy] = {}
    for name in archive.names:
        member = archive.member(name)
        where = f"{archive.where}: array {clean(repr(name.removesuffix('.npy')))}"
        if not name.endswith(".npy"):
            raise InvalidData("this is not a .npy array", where=where, hint="numpy.savez(path, name=array)")
        made[name.removesuffix(".npy")] = (
            _deflated(archive, member, where) if member.deflated else _stored(archive, member, where)
        )
    return made


def _stored(archive: Archive, member: Member, where: str) -> Npy:
    """Slices of the mapped file. The checksum is held against the directory's when all rows have been read in order."""
    made = npy_in(archive.file, where, member.offset, member.size)
    header, rows = made.header, made._rows
    if not header.shape or (header.fortran and len(header.shape) > 1):
        if zlib.crc32(archive.file.view(member.offset, member.size)) != member.crc:
            raise _damaged(where)
        return made
    begin = zlib.crc32(archive.file.view(member.offset, header.offset))
    state = [0, begin]  # rows read in order so far, and the checksum up to there

    def read(start: int, stop: int) -> memoryview:
        data = rows(start, stop)
        if start == 0:
            state[:] = 0, begin
        if start == state[0]:
            state[:] = stop, zlib.crc32(data, state[1])
            if stop == header.shape[0] and state[1] != member.crc:
                raise _damaged(where)
        return data

    return Npy(header, where, read)


def _damaged(where: str) -> InvalidData:
    return InvalidData("the checksum differs", where=where, hint="the file is damaged: save it again")


def _deflated(archive: Archive, member: Member, where: str) -> Npy:
    most = max(limit("zip_free_bytes"), limit("zip_ratio") * member.stored)
    if member.size > most:
        raise LimitExceeded(
            f"{member.stored} bytes inflate to {member.size}", where=where, hint="--limit zip-ratio=N raises it"
        )
    stream = _Inflated(archive.file, member, where)
    header = parse_header(stream.read(0, min(member.size, _LONGEST_HEADER)), where)
    _check_size(header, member.size, where)
    if header.fortran and len(header.shape) > 1:  # its rows are not together: all of it, within the archive's limits
        view = archive.read(member.name)[header.offset :]
        elements = np.frombuffer(view, header.dtype).reshape(header.shape, order="F")
        return Npy(header, where, lambda start, stop: np.ascontiguousarray(elements[start:stop]))
    row = math.prod(header.shape[1:]) * header.dtype.itemsize
    return Npy(header, where, lambda start, stop: stream.read(header.offset + start * row, header.offset + stop * row))


class _Inflated:
    """Bytes of a deflated member in rising order; going back begins anew. The checksum is held against the directory's
    whenever the end is reached."""

    def __init__(self, file: MappedFile, member: Member, where: str) -> None:
        self.file, self.member, self.where = file, member, where
        self._rewind()

    def _rewind(self) -> None:
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._taken = 0  # stored bytes given to the inflater
        self._at = 0  # where in the inflated bytes `_ahead` begins
        self._ahead = bytearray()
        self._crc = 0

    def read(self, start: int, stop: int) -> bytes:
        if start < self._at:
            self._rewind()
        while self._at + len(self._ahead) < stop:
            keep = min(max(start - self._at, 0), len(self._ahead))
            del self._ahead[:keep]
            self._at += keep
            self._more()
        made = bytes(self._ahead[start - self._at : stop - self._at])
        del self._ahead[: start - self._at]
        self._at = start
        return made

    def _more(self) -> None:
        """Inflate one more piece of bounded size."""
        data: bytes | memoryview = self._inflater.unconsumed_tail
        if not data:
            count = min(_PIECE, self.member.stored - self._taken)
            data = self.file.view(self.member.offset + self._taken, count)
            self._taken += count
        try:
            piece = self._inflater.decompress(data, _PIECE)
        except zlib.error as error:
            raise InvalidData(f"cannot be inflated: {error}", where=self.where) from None
        drained = self._taken == self.member.stored and not self._inflater.unconsumed_tail
        if not piece and (self._inflater.eof or drained):
            raise InvalidData("does not inflate to as many bytes as the directory says", where=self.where)
        self._crc = zlib.crc32(piece, self._crc)
        self._ahead += piece
        if self._at + len(self._ahead) >= self.member.size and self._crc != self.member.crc:
            raise _damaged(self.where)
