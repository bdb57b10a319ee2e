"""Whole-or-nothing file writing, the writing half of `storage` (import it from there).

An output is written to a hidden temporary file in its own folder, flushed, synced and renamed over the target; an error
or a signal leaves the old file as it was and removes what was begun. Imports the standard library and `errors` only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import shutil
import signal
import stat
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, NoReturn

from .errors import InternalError, SystemFailure, UsageError, clean

_PREFIX, _SUFFIX = ".anyir-", ".tmp"
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_DEADLY = (signal.SIGTERM, signal.SIGHUP)
_live: set[str] = set()  # temporary files of this process, for the signal handler; order never matters


class OutputFile(io.BufferedWriter):
    """A binary file under a temporary name. `skip(n)` writes n zero bytes as a hole."""

    def __init__(self, fd: int) -> None:
        super().__init__(io.FileIO(fd, "w"), buffer_size=1 << 18)  # longer pieces are written as they lie
        self._least = 0

    def close(self) -> None:
        """Flush only: the output set closes the file when it is in its place."""
        if not self.raw.closed:
            self.flush()

    def abandon(self) -> None:
        """Close without writing what is still buffered, so that nothing is ever written to a reused descriptor."""
        with contextlib.suppress(OSError):
            self.raw.close()

    def skip(self, n: int) -> None:
        """Advance by `n` bytes that read as zero, without storing them where the file system knows holes."""
        self._least = max(self._least, self.seek(n, io.SEEK_CUR))

    def settle(self) -> None:
        """Everything on the disk, a hole at the end included."""
        self.flush()
        if os.fstat(self.fileno()).st_size < self._least:
            os.ftruncate(self.fileno(), self._least)
        os.fsync(self.fileno())


class _Pending:
    """One output on its way: temporary file, target, and what it takes to undo the rename."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.folder = os.path.dirname(path)
        self.temporary = _temporary(self.folder)
        self.backup = ""
        self.renamed = False
        self.file: OutputFile | None = None

    def begin(self) -> OutputFile:
        _live.add(self.temporary)  # before it exists: a signal between the two lines must find it
        return self.take(os.open(self.temporary, _CREATE, 0o666))

    def take(self, fd: int) -> OutputFile:
        _lock(fd)  # marks it as alive for `_sweep` of other processes, whatever their pid namespace
        self.file = OutputFile(fd)
        return self.file

    def keep_old(self) -> None:
        """A second name for the file that is about to be replaced, so that a later failure can put it back."""
        backup = _temporary(self.folder)
        _live.add(backup)
        with contextlib.suppress(OSError):  # no old file, or a file system without hard links: nothing to put back
            os.link(self.path, backup, follow_symlinks=False)
            self.backup = backup
        if not self.backup:
            _live.discard(backup)

    def rename(self) -> None:
        os.rename(self.temporary, self.path)
        self.renamed = True

    def undo(self) -> None:
        with contextlib.suppress(OSError):
            if self.renamed and self.backup:
                os.rename(self.backup, self.path)
            elif self.renamed:
                os.unlink(self.path)

    def close(self) -> None:
        for name in (self.temporary, self.backup):
            if name and not (name == self.temporary and self.renamed):
                _remove(name)
            _live.discard(name)
        if self.file:
            self.file.abandon()


class OutputSet:
    """Several files that appear together: all are written under temporary names and renamed at the end, `main` last.

    >>> with OutputSet(protect=inputs) as out:
    ...     data, model = out.open("net.onnx.data"), out.open("net.onnx", main=True)

    `protect` are paths that must not be overwritten (the input and every file it refers to). Leaving the block with an
    exception, SIGINT, SIGTERM or SIGHUP removes the temporary files and leaves old outputs untouched. Raises UsageError
    (a target is protected, given twice, or not a regular file) and SystemFailure (cannot write).
    """

    def __init__(self, protect: Iterable[str | os.PathLike[str]] = ()) -> None:
        self._protected = {key for path in protect if (key := _identity(path))}
        self._pending: list[_Pending] = []
        self._main: _Pending | None = None
        self._signals = contextlib.ExitStack()

    def __enter__(self) -> OutputSet:
        self._signals.enter_context(_signals_clean_up())
        return self

    def open(self, path: str | os.PathLike[str], *, main: bool = False) -> OutputFile:
        """A new binary file that becomes `path` when the block ends. `main` is renamed after all others."""
        pending = _Pending(self._target(path))
        if main and self._main:
            raise InternalError("an output set has one main file")
        try:
            if not self._pending:
                _sweep(pending.folder)
            self._pending.append(pending)
            self._main = pending if main else self._main
            return pending.begin()
        except OSError as exc:
            _fail(exc, path)

    def adopt(self, written: str | os.PathLike[str], path: str | os.PathLike[str], *, main: bool = False) -> None:
        """A finished file on the same file system that becomes `path` when the block ends, as if written here."""
        pending = _Pending(self._target(path))
        pending.temporary = os.fspath(written)
        self._pending.append(pending)
        self._main = pending if main else self._main
        try:
            pending.take(os.open(pending.temporary, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
        except OSError as exc:
            _fail(exc, written)

    def _target(self, path: str | os.PathLike[str]) -> str:
        where = clean(os.fspath(path))
        try:
            full = os.path.abspath(os.fspath(path))
            full = os.path.join(os.path.realpath(os.path.dirname(full)), os.path.basename(full))
            mode = os.lstat(full).st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
        except ValueError as exc:
            raise UsageError(f"not a file name: {exc}", where=where) from exc
        except OSError as exc:
            _fail(exc, path)
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise UsageError("the output exists and is not a regular file", where=where, hint="choose another name")
        if _identity(full) in self._protected:
            raise UsageError("the output would overwrite an input", where=where, hint="choose another name")
        if any(pending.path == full for pending in self._pending):
            raise UsageError("two outputs have the same name", where=where, hint="choose another name")
        return full

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> None:
        with self._signals:
            try:
                if kind is None:
                    self._commit()
            finally:
                for pending in self._pending:
                    pending.close()
        if isinstance(exc, OSError) and self._pending:
            _fail(exc, (self._main or self._pending[0]).path)

    def _commit(self) -> None:
        ordered = sorted(self._pending, key=lambda pending: pending is self._main)
        at = ordered[0] if ordered else None
        try:
            for at in ordered:
                if at.file:
                    at.file.settle()
            with _signals_wait():
                for at in ordered:
                    at.keep_old()
                    at.rename()
            for at in {pending.folder: pending for pending in ordered}.values():
                _sync_folder(at.folder)
        except BaseException as exc:
            for pending in reversed(ordered):
                pending.undo()
            if isinstance(exc, OSError) and at:
                _fail(exc, at.path)
            raise


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str], *, protect: Iterable[str | os.PathLike[str]] = ()
) -> Iterator[OutputFile]:
    """A binary file that replaces `path` whole when the block ends without an error. Raises as `OutputSet` does."""
    with OutputSet(protect) as out:
        yield out.open(path, main=True)


@contextlib.contextmanager
def scratch_folder(beside: str | os.PathLike[str]) -> Iterator[str]:
    """A hidden folder in the folder of the output `beside`, for files that are checked before they are adopted.

    Removed with all that is in it at the end, on errors and signals, and by the next run after a kill. Raises
    SystemFailure when it cannot be made.
    """
    parent = os.path.realpath(os.path.dirname(os.path.abspath(os.fspath(beside))))
    path, fd = _temporary(parent), -1
    with _signals_clean_up():
        try:
            _sweep(parent)
            _live.add(path)
            os.mkdir(path, 0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            _fail(exc, beside)
        _lock(fd)
        try:
            yield path
        finally:
            _remove(path)
            os.close(fd)
            _live.discard(path)


# ------------------------------------------------------------------------------------------------- helpers


def _fail(exc: OSError, path: str | os.PathLike[str]) -> NoReturn:
    raise SystemFailure(f"cannot write: {exc.strerror or exc}", where=clean(os.fspath(path))) from exc


def _temporary(folder: str) -> str:
    return os.path.join(folder, f"{_PREFIX}{os.urandom(8).hex()}{_SUFFIX}")


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return None
    return info.st_dev, info.st_ino


def _remove(name: str) -> None:
    """A file, or a folder with all that is in it; never what a link leads to."""
    with contextlib.suppress(OSError):
        if os.path.isdir(name) and not os.path.islink(name):
            shutil.rmtree(name, ignore_errors=True)
        else:
            os.unlink(name)


def _lock(fd: int) -> None:
    with contextlib.suppress(OSError):  # a file system without locks: leftovers simply stay there
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(fd)


def _sweep(folder: str) -> None:
    """Remove temporary files whose process is dead: nobody holds their lock."""
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(folder) if name.startswith(_PREFIX) and name.endswith(_SUFFIX)]
        for name in sorted(names):
            path = os.path.join(folder, name)
            if path not in _live:
                with contextlib.suppress(OSError):
                    _remove_if_dead(path)


def _remove_if_dead(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its process lives
        _remove(path)
    finally:
        os.close(fd)


def _die(number: int, frame: FrameType | None) -> None:
    """Remove temporary files, then die of the same signal."""
    for name in list(_live):
        _remove(name)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Signals that come between two renames are delivered after the last one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_DEADLY, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _signals_clean_up() -> Iterator[None]:
    """While a file is being written, signals that would kill the process at once clean up first.

    Handlers that somebody installed are left alone: they raise, or they end the process, and then it is their call.
    """
    changed: list[tuple[signal.Signals, Any]] = []
    if threading.current_thread() is threading.main_thread():
        for number in _DEADLY:
            if signal.getsignal(number) == signal.SIG_DFL:
                changed.append((number, signal.signal(number, _die)))
    try:
        yield
    finally:
        for one, old in changed:
            signal.signal(one, old)
