"""A store whose process dies at its n-th write, before or after the write reached the medium."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from ray_agents.errors import StoreUnavailable
from ray_agents.log.memory import MemoryBlobs
from ray_agents.ports import Appender, Blobs


class DyingBlobs:
    """Blobs over ``inner`` for one process; ``died`` may be called from a thread.

    Whoever holds ``writing`` holds up every write. Those that are ``far`` are not prompt, whatever
    ``inner`` is.
    """

    def __init__(
        self,
        inner: Blobs,
        *,
        crash_at: int | None = None,
        after: bool = False,
        died: Callable[[], object] = lambda: None,
        far: bool = False,
    ) -> None:
        self.inner = inner
        self.prompt = inner.prompt and not far
        self.linger = inner.linger
        self.writes = 0
        self.dead = False
        self.crash_at: int | None = crash_at
        self._after = after
        self.died = died
        self.writing = Lock()

    def mutate(self, change: Callable[[], object]) -> object:
        """Do ``change``, or die."""
        with self.writing:
            if not self.dead:
                self.writes += 1
                self.dead = self.writes == self.crash_at
                if not self.dead:
                    return change()
                if self._after:
                    change()
                self.died()
        raise StoreUnavailable("the process is dead")

    def create(self, name: str, data: bytes) -> bool:
        return bool(self.mutate(lambda: self.inner.create(name, data)))

    def link(self, source: str, name: str) -> bool:
        return bool(self.mutate(lambda: self.inner.link(source, name)))

    def sync_names(self, name: str) -> None:
        self.inner.sync_names(name)

    def exists(self, name: str) -> bool:
        return self.inner.exists(name)

    def read(self, name: str, start: int = 0) -> bytes | None:
        return self.inner.read(name, start)

    def append(self, name: str) -> Appender:
        return DyingAppender(self, self.inner.append(name))

    def names(self, folder: str) -> list[str]:
        return self.inner.names(folder)

    def delete(self, name: str) -> None:
        self.mutate(lambda: self.inner.delete(name))


class DyingAppender:
    """An appender of a process that may die."""

    def __init__(self, blobs: DyingBlobs, inner: Appender) -> None:
        self._blobs = blobs
        self._inner = inner

    def write(self, data: bytes) -> None:
        self._blobs.mutate(lambda: self._inner.write(data))

    def sync(self) -> None:
        if self._blobs.dead:
            raise StoreUnavailable("the process is dead")
        self._inner.sync()

    def close(self) -> None:
        self._inner.close()


def memory() -> Blobs:
    """A store that outlives the runtimes of a test."""
    return MemoryBlobs()
