"""Names the handler that blocks a host's event loop, and ends the host if it does not let go.

A blocked loop stalls every entity of a packed host: none can append, answer or stop. A thread
looks at the loop's heartbeat. When it stands still for the bound, the thread writes who blocks and
where to the log file of the host, and ends the process; the entities wake elsewhere, and the
culprit's deaths make it run alone and, after the third, park it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from datetime import timedelta

BEAT_SECONDS = 0.5
LOGGER = logging.getLogger("ray_agents.watchdog")
EXIT_STATUS = 70


class Watchdog:
    """Watches one event loop from a thread; started once per host."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, host: str, bound: timedelta) -> None:
        self._loop = loop
        self._host = host
        self._bound = bound.total_seconds()
        self._beat = time.monotonic()
        self._thread_id = threading.get_ident()

    def start(self) -> None:
        """Begin to watch."""
        self._beat_once()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _beat_once(self) -> None:
        self._beat = time.monotonic()
        self._loop.call_later(BEAT_SECONDS, self._beat_once)

    def _watch(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            if time.monotonic() - self._beat > self._bound:
                self._end()

    def _end(self) -> None:
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the only way to see it
        where = "".join(traceback.format_stack(frame)) if frame else ""
        culprit = task.get_name() if task else "unknown"
        LOGGER.critical(
            "%s blocks host %s for more than %s s; ending the host\n%s",
            culprit,
            self._host,
            self._bound,
            where,
        )
        os._exit(EXIT_STATUS)
