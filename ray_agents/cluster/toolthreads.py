"""The threads in which tools that are plain functions run: no other work's, for some never end.

A tool that takes too long cannot be stopped; it keeps its thread until it returns. So nothing else
may wait for one of these, and there are enough of them that a few do no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
THREADS_MAX = 64  # of a process; each is started when all others are busy
THREADS = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="ray_agents_tool")


def in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Do ``work`` in a thread as soon as one is free; not at all if it is cancelled before."""
    return asyncio.get_running_loop().run_in_executor(THREADS, work)
