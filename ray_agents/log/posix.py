"""Blobs in a directory: every guarantee is one of POSIX's own, named where it is used.

A new file is written under a temporary name, synced, and then *linked* to its final name:
``link`` fails if the name exists, so creating is atomic, exclusive and never half-done. The
temporary name is in the same folder: in one folder for all, many that create stand in line for it.
Names that begin so are shown to nobody; what a creator that died has left goes with its folder.
"""

# Paths are strings here: making a Path takes longer than the call it is for.
# ruff: noqa: PTH103, PTH106, PTH108, PTH116, PTH120, PTH208
from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from stat import S_ISDIR
from uuid import uuid4

from ray_agents.errors import StoreFull, StoreUnavailable

TEMPORARY = ".tmp"
KNOWN_FOLDERS_MAX = 100_000
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_READ = os.O_RDONLY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_APPEND = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC  # NFS gives a shared lock to readers only


class DirectoryBlobs:
    """Blobs below one directory, which must exist; safe for many threads and processes.

    ``prompt`` says that it is on a disk of this machine, whose cache answers at once.
    """

    def __init__(self, root: Path, *, prompt: bool = False) -> None:
        self._root = str(root)
        self._prompt = prompt
        self._mark = uuid4().hex
        self._serial = count()
        self._durable: set[str] = set()

    def __repr__(self) -> str:
        return f"DirectoryBlobs({self._root!r})"

    @property
    def prompt(self) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        return self._prompt

    @property
    def linger(self) -> timedelta:
        """See :class:`ray_agents.ports.Blobs`."""
        return timedelta(0)

    def create(self, name: str, data: bytes) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        path = f"{self._root}/{name}"
        folder = path.rpartition("/")[0]
        temporary = f"{folder}/{TEMPORARY}-{self._mark}-{os.getpid()}-{next(self._serial)}"
        with _Naming(path):
            _write_new(temporary, data)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
        return True

    def link(self, source: str, name: str) -> bool:
        """See :class:`ray_agents.ports.Blobs`: a hard link; its content was synced when created.

        A file system allows a file so many links (65,000 on ext4); the next one is a copy.
        """
        path, whole = f"{self._root}/{name}", f"{self._root}/{source}"
        with _Naming(path):
            try:
                _link(whole, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
            else:
                return True
        content = self.read(source)
        if content is None:
            raise StoreUnavailable(f"{whole!r} has gone", path=whole)
        return self.create(name, content)

    def sync_names(self, name: str) -> None:
        """See :class:`ray_agents.ports.Blobs`; folders known to be durable are not synced again."""
        folder = name.rpartition("/")[0]
        with _Naming(f"{self._root}/{folder}"):
            self._sync_folder(folder)
            while folder and folder not in self._durable:
                above = folder.rpartition("/")[0]
                self._sync_folder(above)
                if len(self._durable) >= KNOWN_FOLDERS_MAX:
                    self._durable.clear()
                self._durable.add(folder)
                folder = above

    def _sync_folder(self, folder: str) -> None:
        descriptor = os.open(f"{self._root}/{folder}", _READ | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def exists(self, name: str) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        path = f"{self._root}/{name}"
        with _Naming(path):
            try:
                os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def read(self, name: str, start: int = 0) -> bytes | None:
        """See :class:`ray_agents.ports.Blobs`."""
        path = f"{self._root}/{name}"
        with _Naming(path):
            try:
                descriptor = os.open(path, _READ)
            except (FileNotFoundError, NotADirectoryError):
                return None
            try:
                return _read_all(descriptor, start)
            finally:
                os.close(descriptor)

    def append(self, name: str) -> FileAppender:
        """See :class:`ray_agents.ports.Blobs`."""
        return FileAppender(f"{self._root}/{name}")

    def in_use(self, name: str) -> bool:
        """Whether some process has the name open for appending, or that cannot be told.

        Every appender holds a shared lock on its file, which the kernel takes back when the last
        descriptor is closed, by the process or by its death. So an exclusive one is to be had (for
        an instant) only if nobody is left who could write. On NFS that is true of all machines, if
        the mount does not say ``nolock``; without locks the answer is yes.
        """
        path = f"{self._root}/{name}"
        with _Naming(path):
            try:
                descriptor = _open_to_lock(path)
            except FileNotFoundError:
                return False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
            finally:
                os.close(descriptor)
        return False

    def names(self, folder: str) -> list[str]:
        """See :class:`ray_agents.ports.Blobs`."""
        path = f"{self._root}/{folder}"
        with _Naming(path):
            try:
                found = os.listdir(path)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(name for name in found if not name.startswith(TEMPORARY))

    def delete(self, name: str) -> None:
        """See :class:`ray_agents.ports.Blobs`."""
        path = f"{self._root}/{name}"
        with _Naming(path), suppress(FileNotFoundError):
            if not S_ISDIR(os.stat(path).st_mode):
                os.unlink(path)
            elif not self.names(name):
                for left in os.listdir(path):
                    if left.startswith(TEMPORARY):  # any other has come since we looked
                        os.unlink(f"{path}/{left}")
                os.rmdir(path)


class FileAppender:
    """One file open for appending, with a shared lock for :meth:`DirectoryBlobs.in_use` to see."""

    def __init__(self, path: str) -> None:
        self._path = path
        with _Naming(path):
            self._descriptor: int | None = os.open(path, _APPEND)
        with suppress(OSError):  # the lock is only to be seen: what protects the log is the fence
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _open(self) -> int:
        if self._descriptor is None:
            raise StoreUnavailable(f"{self._path!r} is closed", path=self._path)
        return self._descriptor

    def write(self, data: bytes) -> None:
        """See :class:`ray_agents.ports.Appender`."""
        with _Naming(self._path):
            _write_all(self._open(), data)

    def sync(self) -> None:
        """See :class:`ray_agents.ports.Appender`."""
        with _Naming(self._path):
            os.fdatasync(self._open())

    def close(self) -> None:
        """See :class:`ray_agents.ports.Appender`."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with _Naming(self._path):
                os.close(descriptor)


class _Naming:
    """A failure inside names its path and says what to do.

    A class, for it is entered twenty times in a wake: a generator takes 0.6 µs more each time.
    """

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        path, reason = self._path, error.strerror or str(error)
        if error.errno in _FULL:
            message = f"no room for {path!r} ({reason}); free some space or raise the quota"
            raise StoreFull(message, path=path, reason=reason) from error
        message = f"{path!r} cannot be used ({reason}); check that it is there and writable"
        raise StoreUnavailable(message, path=path, reason=reason) from error


def _link(source: str, path: str) -> None:
    try:
        os.link(source, path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.link(source, path)


def _open_to_lock(path: str) -> int:
    """For writing, as NFS wants it for an exclusive lock; but a copy may be read-only."""
    try:
        return os.open(path, _APPEND)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        return os.open(path, _READ)


def _write_new(path: str, data: bytes) -> None:
    try:
        descriptor = os.open(path, _NEW, 0o644)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor = os.open(path, _NEW, 0o644)
    try:
        _write_all(descriptor, data)
        os.fdatasync(descriptor)
    except OSError:
        with suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


def _read_all(descriptor: int, start: int) -> bytes:
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, max(0, size - start), start)
    pieces = [data]
    position = start + len(data)
    while data and position < size:
        data = os.pread(descriptor, size - position, position)
        pieces.append(data)
        position += len(data)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
