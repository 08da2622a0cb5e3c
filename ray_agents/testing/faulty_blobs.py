"""Blobs that refuse what a test tells them to refuse, and count what they are asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta

from ray_agents.ports import Appender, Blobs


class FaultyBlobs:
    """A wrapper around real blobs.

    ``refuse[operation] = error`` makes the next calls of that operation (a method's name, of
    blobs or of an open file) raise. ``calls`` counts all calls, ``deleted`` names
    what was, ``bytes_created`` sums up new files. ``meanwhile[operation]`` is called
    once, before the next call of that operation: what somebody else does in that instant.
    """

    def __init__(self, inner: Blobs) -> None:
        self.inner = inner
        self.refuse: dict[str, Exception] = {}
        self.calls: Counter[str] = Counter()
        self.deleted: list[str] = []
        self.bytes_created = 0
        self.meanwhile: dict[str, Callable[[], object]] = {}

    @property
    def prompt(self) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        return self.inner.prompt

    @property
    def linger(self) -> timedelta:
        """See :class:`ray_agents.ports.Blobs`."""
        return self.inner.linger

    def check(self, operation: str) -> None:
        """Count a call, and refuse it if so told."""
        self.calls[operation] += 1
        meanwhile = self.meanwhile.pop(operation, None)
        if meanwhile is not None:
            meanwhile()
        if operation in self.refuse:
            raise self.refuse[operation]

    def create(self, name: str, data: bytes) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        self.check("create")
        self.bytes_created += len(data)
        return self.inner.create(name, data)

    def link(self, source: str, name: str) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        self.check("link")
        return self.inner.link(source, name)

    def sync_names(self, name: str) -> None:
        """See :class:`ray_agents.ports.Blobs`."""
        self.check("sync_names")
        self.inner.sync_names(name)

    def exists(self, name: str) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        self.check("exists")
        return self.inner.exists(name)

    def read(self, name: str, start: int = 0) -> bytes | None:
        """See :class:`ray_agents.ports.Blobs`."""
        self.check("read")
        return self.inner.read(name, start)

    def append(self, name: str) -> Appender:
        """See :class:`ray_agents.ports.Blobs`."""
        self.check("append")
        return FaultyAppender(self, self.inner.append(name))

    def names(self, folder: str) -> list[str]:
        """See :class:`ray_agents.ports.Blobs`."""
        self.check("names")
        return self.inner.names(folder)

    def delete(self, name: str) -> None:
        """See :class:`ray_agents.ports.Blobs`."""
        self.check("delete")
        self.deleted.append(name)
        self.inner.delete(name)


class FaultyAppender:
    """An open file of :class:`FaultyBlobs`. A refused write still writes its first half."""

    def __init__(self, blobs: FaultyBlobs, inner: Appender) -> None:
        self._blobs = blobs
        self._inner = inner

    def write(self, data: bytes) -> None:
        """See :class:`ray_agents.ports.Appender`."""
        try:
            self._blobs.check("write")
        except Exception:
            self._inner.write(data[: len(data) // 2])
            raise
        self._inner.write(data)

    def sync(self) -> None:
        """See :class:`ray_agents.ports.Appender`."""
        self._blobs.check("sync")
        self._inner.sync()

    def close(self) -> None:
        """See :class:`ray_agents.ports.Appender`."""
        self._blobs.check("close")
        self._inner.close()
