"""Which event loop this code runs on, and doing something on another: for tools in threads.

What belongs to an entity is touched on its host's event loop only, where what stands between two
awaits is atomic. A plain function that is a tool runs in a thread; what it does to the context is
done on the loop, while the thread waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop on which this code runs; None in a thread that has none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def on_loop(loop: asyncio.AbstractEventLoop | None, work: Callable[[], T]) -> T:
    """What ``work`` gives, done on ``loop`` in the caller's context; here, if there is no loop.

    Raises whatever ``work`` raises; RuntimeError if the loop is closed.
    """
    if loop is None or running_loop() is loop:
        return work()

    async def there() -> T:
        return work()

    return asyncio.run_coroutine_threadsafe(there(), loop).result()
