"""The one guarded door to the file system: limits, mapped reads, contained paths, whole-or-nothing writes.

Every byte that anyir reads from or writes to a file goes through this module; its writing half is `outputs` (offered
here too), zip archives and JSON text have their guards in `archive`. Declared sizes are compared with what a file holds
before anything is allocated, only regular files are opened, and a file that a model names is opened component by
component from the model's folder, never through a link. POSIX only. Imports the standard library and `errors` only, so
that the command line starts fast.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import mmap
import os
import re
import stat
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NoReturn

from .errors import InvalidModel, LimitExceeded, SystemFailure, UsageError, clean
from .outputs import OutputFile as OutputFile
from .outputs import OutputSet as OutputSet
from .outputs import atomic_write as atomic_write
from .outputs import scratch_folder as scratch_folder

# --------------------------------------------------------------------------------------------------- limits

MIB = 1 << 20

#: Every limit with its default. `--limit NAME=N` (dashes for underscores will do) or `limits(name=...)` changes one.
LIMITS: MappingProxyType[str, int] = MappingProxyType(
    {
        "file_bytes": (1 << 31) - 1,  # a protobuf, flatbuffer or text file that is parsed as one message
        "nesting": 64,  # subgraphs, types, JSON, text IR, pickle
        "items": 4_000_000,  # nodes, values and initializers together, functions inlined
        "call_depth": 32,  # functions that call functions
        "inlined_nodes": 1_000_000,
        "gradient_nodes": 50_000,  # made by derivatives: those of a derivative are several times as many
        "rank": 64,
        "dim": (1 << 63) - 1,
        "tensor_bytes": (1 << 63) - 1,  # as a type; data is limited by what the file holds
        "name_bytes": 16 * MIB,  # a name or an attribute string
        "header_bytes": 100_000_000,  # the JSON header of a safetensors file (the format's own bound)
        "zip_members": 1_000_000,
        "zip_ratio": 200,  # inflated over stored bytes of a member, above zip_free_bytes
        "zip_free_bytes": 16 * MIB,
        "zip_total_bytes": 1 << 30,  # inflated bytes of all members read, or zip_ratio x the archive if that is more
        "hdf5_bytes": 64 * MIB,  # declared bytes of all datasets, or hdf5_ratio x the stored bytes if that is more
        "hdf5_ratio": 1000,
        "json_bytes": 64 * MIB,
        "pickle_bytes": 64 * MIB,
        "pickle_objects": 1_000_000,
        "fold_bytes": 64 * MIB,  # one folded constant
        "fold_growth": 16,  # ... and at most this many times the bytes of its inputs + 1 MiB
        "fold_total_bytes": 256 * MIB,  # all of them, or twice the model's own constants if that is more
        "fold_spare": 1024,  # all of them may make a file longer by so much, or by a fiftieth of the model's own constants
        "fold_work": 100_000_000,  # scalar operations of one fold
        "fold_trips": 1000,  # of a loop that is folded
        "run_bytes": 512 * MIB,  # live at a time while a model is run to check it, and 4 x the model's weights
        "run_work": 200_000_000_000,  # multiply-adds of all runs of a check, and more for each node and parameter
    }
)

_overrides: ContextVar[MappingProxyType[str, int]] = ContextVar("limits", default=MappingProxyType({}))


def limit(name: str) -> int:
    """The limit `name` as it is in this context."""
    return _overrides.get().get(name, LIMITS[name])


@contextlib.contextmanager
def limits(**over: int) -> Iterator[None]:
    """Change limits inside a `with` block. Raises UsageError for an unknown name or a negative value."""
    for name, value in over.items():
        if name not in LIMITS:
            raise UsageError(f"there is no limit {clean(name)!r}", hint="limits: " + ", ".join(LIMITS))
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UsageError(f"limit {name} must be a non-negative int, not {clean(value)}")
    token = _overrides.set(MappingProxyType({**_overrides.get(), **over}))
    try:
        yield
    finally:
        _overrides.reset(token)


def check_limit(name: str, value: int, what: str, where: str = "") -> int:
    """`value` if it is within the limit `name`, else LimitExceeded that names the limit and its option."""
    if value > limit(name):
        option = f"--limit {name.replace('_', '-')}=N"
        raise LimitExceeded(
            f"{what}: {value} is above the limit {limit(name)}", where=where, hint=f"{option} raises it"
        )
    return value


def checked_range(offset: int, length: int, size: int, what: str = "data", where: str = "") -> range:
    """`range(offset, offset + length)` when it lies inside `size` bytes, else InvalidModel. Plain Python ints."""
    if offset < 0 or length < 0 or offset + length > size:
        raise InvalidModel(
            f"{what}: bytes {offset}..{offset + length} do not lie in the {size} bytes there", where=where
        )
    return range(offset, offset + length)


def parse_count(text: str, what: str = "number", where: str = "") -> int:
    """A non-negative int from a text field: 1 to 19 ASCII digits, nothing else (`int()` accepts far more)."""
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,19}", text):
        raise InvalidModel(f"{what}: {clean(text)!r} is not a plain decimal number", where=where)
    return int(text)


# -------------------------------------------------------------------------------------------------- opening

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # non-blocking: opening a FIFO must not hang


def _fail(exc: OSError, path: str | os.PathLike[str], doing: str = "read") -> NoReturn:
    raise SystemFailure(f"cannot {doing}: {exc.strerror or exc}", where=clean(os.fspath(path))) from exc


def _descriptors(action: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`action(...)`, once more with the soft limit of open files raised where it met that (a model of many files)."""
    try:
        return action(*args, **kwargs)
    except OSError as exc:
        if exc.errno != errno.EMFILE:
            raise
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return action(*args, **kwargs)


def _regular(fd: int, where: str, *, single_link: bool = False) -> os.stat_result:
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        kind = "a folder" if stat.S_ISDIR(info.st_mode) else "not a regular file"
        raise InvalidModel(f"is {kind}", where=where, code="F002", hint="name a model file")
    if single_link and info.st_nlink != 1:
        raise InvalidModel(f"has {info.st_nlink} hard links (one expected)", where=where, hint="copy the file")
    return info


@contextlib.contextmanager
def _descriptor(path: str | os.PathLike[str]) -> Iterator[tuple[int, os.stat_result]]:
    """An open descriptor of the regular file `path`, closed at the end, with its status."""
    where = clean(os.fspath(path))
    try:
        fd = _descriptors(os.open, os.fspath(path), _READ)
    except OSError as exc:
        _fail(exc, path)
    except ValueError as exc:  # an embedded NUL, or characters that no file name can have
        raise InvalidModel(f"not a file name: {exc}", where=where) from exc
    try:
        yield fd, _regular(fd, where)
    except OSError as exc:
        _fail(exc, path)
    finally:
        os.close(fd)


def read_bytes(path: str | os.PathLike[str], max_bytes: int | str = "file_bytes") -> bytes:
    """The whole regular file, at most `max_bytes` (a number, or the name of a limit).

    Raises SystemFailure (cannot read), InvalidModel (not a regular file, or it changed while it was read),
    LimitExceeded (too large; checked before reading).
    """
    where = clean(os.fspath(path))
    with _descriptor(path) as (fd, info):
        if isinstance(max_bytes, str):
            check_limit(max_bytes, info.st_size, "file size", where)
        elif info.st_size > max_bytes:
            raise LimitExceeded(f"the file has {info.st_size} bytes, at most {max_bytes} are read", where=where)
        chunks: list[bytes] = []
        left = info.st_size
        while left and (chunk := os.read(fd, min(left, 64 * MIB))):
            chunks.append(chunk)
            left -= len(chunk)
        if left or os.read(fd, 1):
            raise InvalidModel("the file changed while it was read", where=where)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _components(relative: str, where: str) -> list[str]:
    """The parts of a relative location from a file, or InvalidModel. `.` and empty parts vanish, `..` never passes."""
    bad = None
    if not isinstance(relative, str) or not relative:
        bad = "is empty"
    elif "\0" in relative or len(relative) > 4096:
        bad = "holds a NUL" if "\0" in relative else "is longer than 4096 characters"
    elif relative.startswith("/"):
        bad = "is an absolute path"
    parts = [] if bad else [part for part in relative.split("/") if part not in ("", ".")]
    if not bad and (".." in parts or not parts):
        bad = "leaves the model's folder" if parts else "names no file"
    if bad:
        raise InvalidModel(
            f"external data location {bad}", where=where, hint="only files below the model's folder are read"
        )
    return parts


_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL}


def _open_beside(model_path: str, relative: str) -> int:
    where = f"{clean(model_path)}: external data {clean(repr(relative))}"
    parts = _components(relative, where)
    fd = -1
    try:
        folder = os.path.dirname(model_path) or "."
        fd = _descriptors(os.open, folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for i, part in enumerate(parts):
            deeper = os.O_DIRECTORY if i + 1 < len(parts) else 0
            below = _descriptors(os.open, part, _READ | os.O_NOFOLLOW | deeper, dir_fd=fd)
            os.close(fd)
            fd = below
        _regular(fd, where, single_link=True)
        return fd
    except BaseException as exc:
        if fd >= 0:
            os.close(fd)
        if isinstance(exc, OSError):
            _refuse_beside(exc, model_path, parts, where)
        if isinstance(exc, ValueError):
            raise InvalidModel("external data location is not a file name", where=where) from exc
        raise


def _refuse_beside(exc: OSError, model_path: str, parts: list[str], where: str) -> NoReturn:
    folder = os.path.dirname(model_path)
    heads = (os.path.join(folder, *parts[: i + 1]) for i in range(len(parts)))
    if exc.errno == errno.ELOOP or any(os.path.islink(head) for head in heads):
        raise InvalidModel(
            "is or passes through a symbolic link", where=where, hint="copy the file to its place"
        ) from exc
    if exc.errno in _NOT_THERE:
        raise InvalidModel("there is no such file", where=where, hint="the data file belongs beside the model") from exc
    raise SystemFailure(f"cannot read: {exc.strerror}", where=where) from exc


# -------------------------------------------------------------------------------------------------- mapping


class MappedFile:
    """A read-only map of one regular file. Made by `map_file` and `open_beside`; each file is mapped once per process.

    Pickles as its location and is opened again, through the same guard, where it is unpickled; a file that is no
    longer the same is refused there. `recheck` must be called before mapped data goes into an output.
    """

    __slots__ = ("__weakref__", "_close", "_fd", "_map", "location", "path", "size", "stamp")

    def __init__(self, fd: int, location: tuple[str, ...]) -> None:
        info = os.fstat(fd)
        self._fd = fd
        self.location = location  # (path,) or (model path, relative)
        self.path = location[0] if len(location) == 1 else os.path.join(os.path.dirname(location[0]), location[1])
        self.size = info.st_size
        self.stamp = _stamp(info)
        self._map: mmap.mmap | bytes = (
            _descriptors(mmap.mmap, fd, self.size, access=mmap.ACCESS_READ) if self.size else b""
        )
        self._close = weakref.finalize(self, os.close, fd)

    def view(self, offset: int = 0, length: int | None = None) -> memoryview:
        """Read-only bytes `offset .. offset + length` without a copy. InvalidModel when they are not in the file."""
        length = self.size - offset if length is None else length
        span = checked_range(offset, length, self.size, where=clean(self.path))
        return memoryview(self._map)[span.start : span.stop]

    def recheck(self) -> None:
        """SystemFailure when size or modification time are no longer those of the moment it was mapped."""
        if _stamp(os.fstat(self._fd)) != self.stamp:
            raise SystemFailure("the file changed while it was in use", where=clean(self.path), hint="run again")

    def segments(self, offset: int, length: int) -> Iterator[tuple[bool, int, int]]:
        """Split a range into (is_data, offset, length) runs; a file system without holes gives one run of data."""
        end = checked_range(offset, length, self.size, where=clean(self.path)).stop
        while offset < end:
            try:
                data = min(os.lseek(self._fd, offset, os.SEEK_DATA), end)
                stop = min(os.lseek(self._fd, data, os.SEEK_HOLE), end) if data < end else end
            except OSError as exc:  # ENXIO: nothing but a hole up to the end; otherwise not supported here
                data, stop = (end, end) if exc.errno == errno.ENXIO else (offset, end)
            if data > offset:
                yield False, offset, data - offset
            if stop > data:
                yield True, data, stop - data
            offset = stop

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.location, self.stamp)


def _stamp(info: os.stat_result) -> tuple[int, int, int, int]:
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


_mapped: weakref.WeakValueDictionary[tuple[Any, ...], MappedFile] = weakref.WeakValueDictionary()


def _share(fd: int, location: tuple[str, ...]) -> MappedFile:
    """The live map of this very file under this location, or a new one that takes over `fd`."""
    try:
        key = (location, _stamp(os.fstat(fd)))
        found = _mapped.get(key)
        if found is None:
            found = _mapped[key] = MappedFile(fd, location)
            return found
    except OSError as exc:
        os.close(fd)
        _fail(exc, location[-1], "map")
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return found


def map_file(path: str | os.PathLike[str]) -> MappedFile:
    """Map the regular file `path` read-only. SystemFailure when it cannot be read, InvalidModel when not regular."""
    full = os.path.abspath(os.fspath(path))
    with _descriptor(full) as (fd, _):
        return _share(_descriptors(os.dup, fd), (full,))


def open_beside(model_path: str | os.PathLike[str], relative: str) -> MappedFile:
    """Map the file that a model names relative to its own folder; the only way to a file whose name came from a file.

    Each component is opened from the folder without following links; the file must be regular and have one hard link.
    Raises InvalidModel for a location that leaves the folder, is absent or no such file, SystemFailure otherwise.
    """
    full = os.path.abspath(os.fspath(model_path))
    return _share(_open_beside(full, relative), (full, relative))


def _reopen(location: tuple[str, ...], stamp: tuple[int, ...]) -> MappedFile:
    found = map_file(*location) if len(location) == 1 else open_beside(*location)
    if found.stamp != stamp:
        raise SystemFailure("the file changed since it was loaded", where=clean(found.path), hint="load it again")
    return found


# ------------------------------------------------------------------------------------------------- sniffing

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (4, b"TFL3", "tflite"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\x93NUMPY", "npy"),
    (0, b"\x7fELF", "elf"),
    (257, b"ustar", "tar"),
)


def sniff(path: str | os.PathLike[str]) -> str:
    """What a file is by its first bytes, never by its name.

    One of: empty, zip, hdf5, tflite, safetensors, gzip, npy, elf, tar, pickle, anyir (IR text), json, text,
    protobuf (ONNX or MindIR: plausible wire format), unknown. Raises as `read_bytes` does.
    """
    with _descriptor(path) as (fd, info):
        head = os.pread(fd, 4096, 0)
        if not head:
            return "empty"
        for offset, magic, kind in _MAGIC:
            if head[offset : offset + len(magic)] == magic:
                return kind
        block = 512  # an HDF5 superblock may follow a user block of 512, 1024, 2048 ... bytes
        while block < min(info.st_size, 16 * MIB):
            if os.pread(fd, 8, block) == b"\x89HDF\r\n\x1a\n":
                return "hdf5"
            block *= 2
    return _sniff_soft(head, info.st_size)


def _sniff_soft(head: bytes, size: int) -> str:
    """Formats without a magic number, the most telling first."""
    length = int.from_bytes(head[:8], "little")
    if len(head) > 8 and head[8:9] == b"{" and length + 8 <= size:
        return "safetensors"
    if head[0] == 0x80 and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "pickle"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, size <= len(head))
    except UnicodeDecodeError:
        text = "\0"
    if any(ord(c) < 32 and c not in "\t\r\n\f" for c in text):
        return "protobuf" if _wire_format(head, size) else "unknown"
    body = re.sub(r"\A(?:\s|//[^\n]*\n|#[^\n]*\n)*+", "", text)
    return "anyir" if re.match(r"anyir \d", body) else "json" if body[:1] in ("{", "[") else "text"


def _wire_format(head: bytes, size: int) -> bool:
    """Whether the first bytes can be the fields of a protobuf message with small field numbers."""
    at, seen = 0, 0
    while at < len(head):
        tag, at = _sniff_varint(head, at)
        number, wire = tag >> 3, tag & 7
        if not 1 <= number <= 63 or wire not in (0, 1, 2, 5):
            return False
        if wire == 0:
            _, at = _sniff_varint(head, at)
        elif wire == 2:
            length, at = _sniff_varint(head, at)
            at += length
        else:
            at += 8 if wire == 1 else 4
        seen += 1
    return seen > 0 and at <= size


def _sniff_varint(head: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(head) and shift < 64:
        byte = head[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at
