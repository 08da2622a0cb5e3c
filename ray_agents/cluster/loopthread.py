"""An event loop in a thread of its own, for callers that have none or whose own is running."""

from __future__ import annotations

import asyncio
import atexit
import importlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")
CANCEL_WITHIN = timedelta(seconds=5)
SIGNALS_LOOK = timedelta(seconds=1)  # how late Ctrl-C may be noticed by a thread that waits

# Logs are sealed on threads of executors, which end before `atexit` begins. What is registered
# with them, and after them, comes before their end; should that private way be closed one day,
# the end of a process is what a crash is: the next start takes up what was left.
importlib.import_module("concurrent.futures.thread")
before_exit: Callable[[Callable[[], None]], object] = getattr(
    threading, "_register_atexit", atexit.register
)


class LoopThread:
    """The loop and its thread, which runs from the beginning until :meth:`close`."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether the caller is on this very thread, and so cannot wait for it."""
        return threading.current_thread() is self._thread

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """The answer of ``work``, done on the loop; Ctrl-C cancels it and waits for its end."""
        ended = threading.Event()

        async def doing() -> T:
            try:
                return await work
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(doing(), self.loop)
        try:
            while not wait([future], timeout=SIGNALS_LOOK.total_seconds()).done:
                pass  # not every signal ends a wait: one that comes just before it does not
            return future.result()
        except BaseException:
            if future.cancel():
                ended.wait(CANCEL_WITHIN.total_seconds())
            raise

    def close(self) -> None:
        """End what still runs, the loop, and the thread; once."""
        asyncio.run_coroutine_threadsafe(_wind_up(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _wind_up() -> None:
    """End what still runs on this loop: abandoned iterators, and what they wait for."""
    ours = asyncio.current_task()
    left = [task for task in asyncio.all_tasks() if task is not ours]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
