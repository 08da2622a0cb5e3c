"""Blobs in this process: the twin for tests, to be shared by several owners."""

from __future__ import annotations

from datetime import timedelta
from threading import Lock

from ray_agents.errors import StoreUnavailable


class MemoryBlobs:
    """Blobs as a dictionary of byte arrays; nothing survives the process."""

    def __init__(self) -> None:
        self._files: dict[str, bytearray] = {}
        self._folders: dict[str, dict[str, None]] = {}
        self._lock = Lock()

    @property
    def prompt(self) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        return True

    @property
    def linger(self) -> timedelta:
        """See :class:`ray_agents.ports.Blobs`."""
        return timedelta(0)

    def create(self, name: str, data: bytes) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        with self._lock:
            if name in self._files:
                return False
            self._put(name, bytearray(data))
            return True

    def _put(self, name: str, file: bytearray) -> None:
        self._files[name] = file
        while name:
            folder, _, last = name.rpartition("/")
            self._folders.setdefault(folder, {})[last] = None
            name = folder

    def link(self, source: str, name: str) -> bool:
        """See :class:`ray_agents.ports.Blobs`; both names have the same bytes."""
        with self._lock:
            if name in self._files:
                return False
            file = self._files.get(source)
            if file is None:
                raise StoreUnavailable(f"{source!r} does not exist", path=source)
            self._put(name, file)
            return True

    def sync_names(self, name: str) -> None:
        """See :class:`ray_agents.ports.Blobs`."""

    def exists(self, name: str) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        return name in self._files

    def read(self, name: str, start: int = 0) -> bytes | None:
        """See :class:`ray_agents.ports.Blobs`."""
        with self._lock:
            file = self._files.get(name)
            return None if file is None else bytes(memoryview(file)[start:])

    def append(self, name: str) -> MemoryAppender:
        """See :class:`ray_agents.ports.Blobs`."""
        with self._lock:
            file = self._files.get(name)
        if file is None:
            raise StoreUnavailable(f"{name!r} does not exist", path=name)
        return MemoryAppender(name, file, lock=self._lock)

    def names(self, folder: str) -> list[str]:
        """See :class:`ray_agents.ports.Blobs`."""
        with self._lock:
            return sorted(self._folders.get(folder, ()))

    def delete(self, name: str) -> None:
        """See :class:`ray_agents.ports.Blobs`."""
        with self._lock:
            if self._files.pop(name, None) is not None:
                folder, _, last = name.rpartition("/")
                del self._folders[folder][last]
            elif name in self._folders and not self._folders[name]:
                folder, _, last = name.rpartition("/")
                del self._folders[name]
                self._folders[folder].pop(last, None)


class MemoryAppender:
    """One byte array open for appending; it outlives its name, as a file does."""

    def __init__(self, name: str, file: bytearray, *, lock: Lock) -> None:
        self._name = name
        self._file: bytearray | None = file
        self._lock = lock

    def write(self, data: bytes) -> None:
        """See :class:`ray_agents.ports.Appender`."""
        if self._file is None:
            raise StoreUnavailable(f"{self._name!r} is closed", path=self._name)
        with self._lock:
            self._file += data

    def sync(self) -> None:
        """See :class:`ray_agents.ports.Appender`."""
        if self._file is None:
            raise StoreUnavailable(f"{self._name!r} is closed", path=self._name)

    def close(self) -> None:
        """See :class:`ray_agents.ports.Appender`."""
        self._file = None
