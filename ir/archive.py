"""Guarded zip archives and JSON text: what `storage` is to files, for the containers inside them.

Members of an archive are read by exact name into memory or as views of the mapped file, never extracted. Every declared
size is a claim that is checked while inflating. Imports the standard library, `errors` and `storage` only.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from .errors import InvalidModel, LimitExceeded, Unsupported, clean
from .storage import MappedFile, check_limit, checked_range, limit, map_file

# ------------------------------------------------------------------------------------------------------ zip

_LOCAL = struct.Struct("<4s5H3I2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 0x1 | 0x40 | 0x2000


class Member(NamedTuple):
    """One file of an archive: where its stored bytes lie in the archive, and what they claim to inflate to."""

    name: str
    offset: int
    stored: int
    size: int
    crc: int
    deflated: bool


class Archive:
    """A zip archive whose directory has been checked: names unique and plain, members inside the file and apart.

    Folder entries are left out. Raises InvalidModel (not a zip, inconsistent, unsafe names), Unsupported (encryption,
    compression other than deflate), LimitExceeded, SystemFailure.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.file: MappedFile = map_file(path)
        self.where = clean(self.file.path)
        self.members: dict[str, Member] = {}
        self._inflated = 0
        for info in self._directory():
            if not info.filename.endswith("/"):
                self._add(info)
        self._check_apart()

    def _directory(self) -> list[zipfile.ZipInfo]:
        if bytes(self.file.view(0, min(4, self.file.size))) not in (b"PK\x03\x04", b"PK\x05\x06"):
            raise InvalidModel("this is not a zip archive", where=self.where)
        try:
            with zipfile.ZipFile(_Cursor(self.file)) as archive:  # type: ignore[arg-type]
                infos = archive.infolist()
        except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, EOFError, OSError) as exc:
            raise InvalidModel(f"a broken zip archive: {clean(exc)}", where=self.where) from exc
        check_limit("zip_members", len(infos), "members of the archive", self.where)
        return infos

    def _fail(self, name: str, why: str) -> InvalidModel:
        return InvalidModel(why, where=f"{self.where}: member {clean(repr(name))}")

    def _add(self, info: zipfile.ZipInfo) -> None:
        name = info.orig_filename
        if "\0" in name or "\\" in name or name.startswith("/") or not name or {"..", ".", ""} & set(name.split("/")):
            raise self._fail(name, "the name is not a plain relative path")
        if name in self.members:
            raise self._fail(name, "the name comes twice")
        if info.flag_bits & _ENCRYPTED:
            raise Unsupported("an encrypted member", where=f"{self.where}: member {clean(repr(name))}")
        if info.compress_type not in (_STORED, _DEFLATED):
            raise Unsupported(
                f"compression method {info.compress_type}", where=f"{self.where}: member {clean(repr(name))}"
            )
        deflated = info.compress_type == _DEFLATED
        if not deflated and info.compress_size != info.file_size:
            raise self._fail(name, f"stored in {info.compress_size} bytes but {info.file_size} bytes long")
        offset = self._data_offset(info, name)
        checked_range(offset, info.compress_size, self.file.size, "member", f"{self.where}: {clean(repr(name))}")
        self.members[name] = Member(name, offset, info.compress_size, info.file_size, info.CRC, deflated)

    def _data_offset(self, info: zipfile.ZipInfo, name: str) -> int:
        """Where the data begins, from the local header, which must say the same as the directory."""
        checked_range(info.header_offset, _LOCAL.size, self.file.size, "local header", self.where)
        fields = _LOCAL.unpack(self.file.view(info.header_offset, _LOCAL.size))
        magic, _, flags, method = fields[:4]
        name_length, extra_length = fields[9:]
        start = info.header_offset + _LOCAL.size
        checked_range(start, name_length + extra_length, self.file.size, "local header", self.where)
        local_name = bytes(self.file.view(start, name_length))
        encoding = "utf-8" if flags & 0x800 else "cp437"
        if magic != b"PK\x03\x04" or method != info.compress_type or local_name != name.encode(encoding, "replace"):
            raise self._fail(name, "the local header contradicts the directory")
        return start + name_length + extra_length

    def _check_apart(self) -> None:
        at = 0
        for member in sorted(self.members.values(), key=lambda m: (m.offset, m.stored)):
            if member.offset < at:
                raise self._fail(member.name, "overlaps another member")
            at = member.offset + member.stored

    @property
    def names(self) -> list[str]:
        """All member names in the order of the directory."""
        return list(self.members)

    def member(self, name: str) -> Member:
        """The member of that exact name, or InvalidModel."""
        found = self.members.get(name)
        if found is None:
            raise InvalidModel(f"there is no member {clean(repr(name))}", where=self.where)
        return found

    def read(self, name: str, limit_name: str | None = None) -> memoryview:
        """The member's bytes: a view of the file when stored, inflated under the limits else; CRC checked either way.

        `limit_name` names one more limit on its size, such as "json_bytes".
        """
        member = self.member(name)
        where = f"{self.where}: member {clean(repr(name))}"
        if limit_name:
            check_limit(limit_name, member.size, "member size", where)
        stored = self.file.view(member.offset, member.stored)
        data = self._inflate(member, stored, where) if member.deflated else stored
        if zlib.crc32(data) != member.crc:
            raise InvalidModel("the checksum differs", where=where)
        return data

    def _inflate(self, member: Member, stored: memoryview, where: str) -> memoryview:
        free, ratio = limit("zip_free_bytes"), limit("zip_ratio")
        if member.size > max(free, ratio * member.stored):
            what = f"{member.stored} bytes inflate to {member.size}, more than {ratio} times as much"
            raise LimitExceeded(what, where=where, hint="--limit zip-ratio=N raises it")
        self._inflated += member.size
        most = max(limit("zip_total_bytes"), ratio * self.file.size)
        if self._inflated > most:
            raise LimitExceeded(
                f"the members inflate to more than {most} bytes",
                where=where,
                hint="--limit zip-total-bytes=N raises it",
            )
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflater.decompress(stored, member.size + 1)
        except zlib.error as exc:
            raise InvalidModel(f"cannot be inflated: {exc}", where=where) from exc
        if len(data) != member.size or not inflater.eof or inflater.unused_data:
            raise InvalidModel(f"does not inflate to the {member.size} bytes that the directory says", where=where)
        return memoryview(data)

    def span(self, name: str) -> tuple[MappedFile, int, int]:
        """(file, offset, length) of a stored member, for mapping; its checksum goes unread. Unsupported if deflated."""
        member = self.member(name)
        if member.deflated:
            raise Unsupported("a compressed member cannot be mapped", where=f"{self.where}: member {clean(repr(name))}")
        return self.file, member.offset, member.stored


def read_zip_members(
    path: str | os.PathLike[str], names: Iterable[str] | None = None, limit_name: str | None = None
) -> dict[str, memoryview]:
    """Members by exact name, or all of them. Raises as `Archive` and its `read` do."""
    archive = Archive(path)
    return {name: archive.read(name, limit_name) for name in (archive.names if names is None else names)}


class _Cursor:
    """A mapped file as the seekable file that `zipfile` wants; it reads the directory only."""

    def __init__(self, file: MappedFile) -> None:
        self.file, self.at = file, 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self.at, self.file.size)[whence]
        if at < 0:
            raise OSError("negative seek")
        self.at = at
        return at

    def tell(self) -> int:
        return self.at

    def read(self, count: int = -1) -> bytes:
        left = max(self.file.size - self.at, 0)
        count = left if count is None or count < 0 else min(count, left)
        data = bytes(self.file.view(self.at, count)) if count else b""
        self.at += len(data)
        return data


# ----------------------------------------------------------------------------------------------------- JSON

_NESTED = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)  # a string as a whole, or a bracket
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(data: Any, what: str = "JSON", *, where: str = "", limit_name: str = "json_bytes") -> Any:
    """The value of JSON text (bytes, UTF-8). Size and depth are checked first; NaN, infinities, numbers out of a
    double's range, repeated keys, lone surrogates and very long numbers are InvalidModel, as is anything malformed."""
    check_limit(limit_name, len(data), f"{what} size", where)
    _check_depth(data, what, where)
    try:
        text = str(data, "utf-8")
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)
        if _SURROGATE.search(text):
            _check_encodable(value)
    except UnicodeError as exc:
        raise InvalidModel(f"{what} is not UTF-8 text", where=where) from exc
    except ValueError as exc:
        raise InvalidModel(f"{what} is malformed: {clean(exc)}", where=where) from exc
    return value


def _check_depth(data: Any, what: str, where: str) -> None:
    depth, deepest = 0, limit("nesting")
    for match in _NESTED.finditer(data):
        mark = data[match.start()]
        if mark in b"[{":
            depth += 1
            if depth > deepest:
                raise LimitExceeded(
                    f"{what} is nested deeper than {deepest} (byte {match.start()})",
                    where=where,
                    hint="--limit nesting=N raises it",
                )
        elif mark in b"]}":
            depth -= 1


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is out of range")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} comes twice")
    return made


def _check_encodable(value: Any) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            item.encode("utf-8")
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())
