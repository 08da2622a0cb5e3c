"""A stand-in server on an event loop in a thread of its own, for trials that have no loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager

from ray_agents.testing.messages_api import MessagesApi


@contextmanager
def serving(api: MessagesApi) -> Generator[MessagesApi]:
    """Serve while inside."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(api.__aenter__(), loop).result()
    try:
        yield api
    finally:
        asyncio.run_coroutine_threadsafe(api.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
