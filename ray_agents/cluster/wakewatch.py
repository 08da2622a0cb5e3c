"""How an observer of a sleeper learns that it woke: one look per host and tick, none per entity.

While anybody waits, the names of host logs and the tips of those logs are read every few
milliseconds; a log that has grown names who woke in it. Soon after the last of them has gone,
nothing is read any more. The first look only learns where the logs end, so it lets everybody look
for themselves once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from datetime import timedelta

from ray_agents.address import Address
from ray_agents.cluster.folders import HOSTS, host_folder
from ray_agents.cluster.hostlog import AWAKE
from ray_agents.errors import OperatorError
from ray_agents.events import Operation
from ray_agents.log.owner import LogIO
from ray_agents.log.reader import LogReader
from ray_agents.ports import Blobs, Clock

TICK = timedelta(milliseconds=20)
LINGER_TICKS = 100
REMEMBERED_MAX = 10_000
LOGGER = logging.getLogger("ray_agents.wakewatch")


class WakeWatch:
    """Follows the host logs for everybody in this process who waits for a sleeper."""

    def __init__(self, blobs: Blobs, *, io: LogIO, clock: Clock) -> None:
        self._blobs = blobs
        self._io = io
        self._clock = clock
        self._offsets: dict[str, int] = {}
        self._readers: dict[str, LogReader] = {}
        self._woken: deque[tuple[int, str]] = deque(maxlen=REMEMBERED_MAX)
        self._count = 0
        self._waiting: dict[asyncio.Future[None], str] = {}
        self._task: asyncio.Task[None] | None = None

    def mark(self) -> int:
        """A point in time to be given to :meth:`woken`: what wakes after it is not missed."""
        return self._count

    async def woken(self, address: Address, *, since: int) -> None:
        """Return when the entity has woken since ``since``, or a while has passed."""
        name = str(address)
        if any(count >= since and who == name for count, who in self._woken):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = name
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="wakewatch")
        try:
            async with asyncio.timeout(60):
                await future
        except TimeoutError:
            return  # the caller looks again; a bound against a missed look
        finally:
            self._waiting.pop(future, None)

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        first, left = True, LINGER_TICKS
        while left or self._waiting:
            left = LINGER_TICKS if self._waiting else left - 1
            grown = await self._look(remember=not first)
            for future, name in self._waiting.items():
                if (first or grown is None or name in grown) and not future.done():
                    future.set_result(None)
            first = grown is None
            await self._clock.sleep(TICK)

    async def _look(self, *, remember: bool) -> set[str] | None:
        """Who has woken since the last look; None if that cannot be said: all look for themselves.

        The observers then meet the error that kept us from looking, if it lasts.
        """
        grown: set[str] = set()
        try:
            hosts = await self._io.run(self._blobs.names, HOSTS)
        except OperatorError as error:
            LOGGER.warning("the host logs cannot be read: %s", error)
            return None
        for host in hosts:
            try:
                grown |= await self._grown(host)
            except OperatorError:
                self._readers.pop(host, None)  # removed by recovery between two looks
        for gone in self._readers.keys() - set(hosts):
            del self._readers[gone]
            self._offsets.pop(gone, None)
        if remember:
            for name in grown:
                self._woken.append((self._count, name))
                self._count += 1
        return grown

    async def _grown(self, host: str) -> set[str]:
        reader = self._readers.setdefault(host, LogReader(self._blobs, host_folder(host), self._io))
        reading = await reader.read(self._offsets.get(host, 0))
        if reading.events:
            self._offsets[host] = reading.events[-1].offset + 1
        return {
            event.key
            for event in reading.events
            if event.type == AWAKE and event.operation is not Operation.DELETE
        }
