"""Where blocking file work happens: a bounded pool of threads, and what it may keep in memory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
THREADS_MAX = 8
KEPT_BYTES_MAX = 64 * 1024 * 1024


class Kept:
    """Immutable content that was read and verified once, by key, up to a bound in bytes."""

    def __init__(self, *, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._items: OrderedDict[object, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: object) -> Any:
        """What is kept under ``key``; None if nothing is."""
        with self._lock:
            found = self._items.get(key)
            if found is None:
                return None
            self._items.move_to_end(key)
            return found[0]

    def put(self, key: object, item: object, *, size: int) -> None:
        """Keep ``item``, which takes about ``size`` bytes; the least recently used ones go."""
        if size > self._bytes_max // 4:
            return
        with self._lock:
            _, before = self._items.pop(key, (None, 0))
            self._items[key] = (item, size)
            self._bytes += size - before
            while self._bytes > self._bytes_max:
                _, (_, gone) = self._items.popitem(last=False)
                self._bytes -= gone

    def drop(self, key: object) -> None:
        """Forget ``key``."""
        with self._lock:
            _, size = self._items.pop(key, (None, 0))
            self._bytes -= size


class LogIO:
    """A bounded pool of threads for file work, shared by all logs of a process."""

    def __init__(
        self, *, threads_max: int = THREADS_MAX, kept_bytes_max: int = KEPT_BYTES_MAX
    ) -> None:
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix="log-io")
        self.kept = Kept(bytes_max=kept_bytes_max)

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``fn`` in a thread; the loop goes on meanwhile."""
        future = self._pool.submit(fn, *args, **kwargs)
        return await asyncio.wrap_future(future)

    def start(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn`` in a thread without waiting."""
        return self._pool.submit(fn, *args, **kwargs)

    def close(self) -> None:
        """Wait for running work and end the threads; twice is harmless."""
        self._pool.shutdown(wait=True)
