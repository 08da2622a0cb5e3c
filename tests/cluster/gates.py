"""Places where a handler under test waits until the test lets it go, and where it leaves marks.

Handlers travel by value, so what they share with a test must live in a module of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, defaultdict

reached: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
opened: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
times: Counter[str] = Counter()
threads: defaultdict[str, threading.Event] = defaultdict(threading.Event)


async def wait(name: str) -> None:
    """Say that the gate is reached, and wait until it is opened."""
    times[name] += 1
    reached[name].set()
    await opened[name].wait()


def reset() -> None:
    """Forget everything, before each test."""
    reached.clear()
    opened.clear()
    times.clear()
    threads.clear()
