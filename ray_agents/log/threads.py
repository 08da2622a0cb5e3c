"""Where blocking file work happens: a bounded set of threads, and what may stay in memory.

A visit to a thread and back costs more than most file operations, nearly all of it in waking
somebody up. So results travel in bulk: a thread that finishes while the event loop has not yet
fetched the last results only adds to them. In a burst, with 16 logs at a time, that brings a visit
from 40 µs down to 15 (measured).

Syncs are per file, and one that waits for the disk keeps its thread: so the number of threads is
that of the files a host syncs at once. There are more of them than processors need, for disks that
take long and many at a time, as volumes in a cloud do: where a sync takes 4 ms, 64 appenders on 64
logs came to 200 appends a second with one thread, 800 with 4, 3,200 with 16 and no more with 64; on
a disk that takes 0.2 ms the processors are the limit, with 4 threads as with 16 (measured, the slow
disk by a sync that sleeps). They are started one by one, when all others are busy.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
THREADS_MAX = 16
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


class _Returns:
    """Results on their way from the threads to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._results: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._coming = False

    def work(self, waiting: asyncio.Future[Any], fn: Callable[[], Any]) -> None:
        """Call ``fn``, in a thread, and send back what it gives or raises."""
        result, raised = None, None
        try:
            result = fn()
        except BaseException as error:
            raised = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._send(waiting, result, raised)

    def _send(
        self, waiting: asyncio.Future[Any], result: object, raised: BaseException | None
    ) -> None:
        self._results.append((waiting, result, raised))
        if not self._coming:
            self._coming = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self.loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        self._coming = False  # first: what is added from here on is found here or sent for anew
        while self._results:
            waiting, result, raised = self._results.popleft()
            if waiting.cancelled():
                continue
            if raised is None:
                waiting.set_result(result)
            else:
                waiting.set_exception(raised)


class LogIO:
    """A bounded pool of threads for file work, shared by all logs of a process."""

    def __init__(
        self, *, threads_max: int = THREADS_MAX, kept_bytes_max: int = KEPT_BYTES_MAX
    ) -> None:
        self.kept = Kept(bytes_max=kept_bytes_max)
        self._threads_max = threads_max
        self._threads: list[Thread] = []
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._unfinished = 0
        self._closed = False
        self._lock = Lock()
        self._returns: _Returns | None = None

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``fn`` in a thread; the loop goes on meanwhile."""
        loop = asyncio.get_running_loop()
        returns = self._returns
        if returns is None or returns.loop is not loop:
            returns = self._returns = _Returns(loop)
        waiting: asyncio.Future[T] = loop.create_future()
        self._put(partial(returns.work, waiting, partial(fn, *args, **kwargs)))
        return await waiting

    def start(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn`` in a thread without waiting; work put in later begins later."""
        future: Future[T] = Future()
        self._put(partial(_fulfil, future, partial(fn, *args, **kwargs)))
        return future

    def _put(self, job: Callable[[], None]) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("file work after its threads have ended")
            self._unfinished += 1
            self._jobs.put(job)
            if len(self._threads) < min(self._unfinished, self._threads_max):
                name = f"log-io_{len(self._threads)}"
                thread = Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            finally:
                with self._lock:
                    self._unfinished -= 1

    def close(self) -> None:
        """Wait for running work and end the threads; twice is harmless."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()


def _fulfil(future: Future[T], fn: Callable[[], T]) -> None:
    try:
        future.set_result(fn())
    except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
        future.set_exception(error)
