"""After a crash: find what was left undone, and have it done.

Only host logs are read. Each names the entities that were awake in a host; those of a host that is
gone and did not say ``asleep`` are activated, oldest first, a bounded number at a time, so that
new sends are not starved. Then the log of the dead host is removed: the activation of each entity
has put it into another host's log before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ray_agents.address import Address
from ray_agents.cluster.calls import Activate, Answer, Call
from ray_agents.cluster.folders import HOSTS, host_folder
from ray_agents.cluster.hostlog import AWAKE
from ray_agents.errors import CallerError, RayAgentsError
from ray_agents.events import Event
from ray_agents.log.owner import LogIO
from ray_agents.log.reader import LogReader
from ray_agents.ports import Blobs
from ray_agents.records import latest_rows

CONCURRENT_MAX = 16
LOGGER = logging.getLogger("ray_agents.recovery")
Route = Callable[[Address, Call], Awaitable[Answer]]


class Recovery:
    """Finds and resumes the unfinished work of hosts that are gone."""

    def __init__(self, blobs: Blobs, *, io: LogIO, route: Route) -> None:
        self._blobs = blobs
        self._io = io
        self._route = route

    async def hosts(self) -> list[str]:
        """The hosts that have left a log, alive or not."""
        return await self._io.run(self._blobs.names, HOSTS)

    async def left_awake(self, host: str) -> list[Address]:
        """The entities that were awake in ``host`` when it ended, oldest first."""
        reader = LogReader(self._blobs, host_folder(host), self._io)
        offset, events = 0, list[Event]()
        while True:
            reading = await reader.read(offset)
            if not reading.events:
                break
            events.extend(event for event in reading.events if event.type == AWAKE)
            offset = reading.events[-1].offset + 1
        return [Address.parse(key) for key in latest_rows(events)]

    async def resume(self, host: str) -> int:
        """Activate what ``host`` left undone and remove its log; how many were resumed.

        An entity that cannot be activated keeps the log in place, for the next try.
        """
        addresses = await self.left_awake(host)
        slots = asyncio.Semaphore(CONCURRENT_MAX)
        done = await asyncio.gather(*(self._activate(address, slots) for address in addresses))
        if all(done):
            await self._io.run(self._remove, host)
        return sum(done)

    async def _activate(self, address: Address, slots: asyncio.Semaphore) -> bool:
        async with slots:
            try:
                await self._route(address, Activate())
            except CallerError:
                return True  # nobody was ever made there, or its life is over: nothing is owed
            except RayAgentsError as error:
                LOGGER.warning("%s cannot be resumed yet: %s", address, error)
                return False
            return True

    def _remove(self, host: str) -> None:
        folder = host_folder(host)
        for name in self._blobs.names(folder):
            self._blobs.delete(f"{folder}/{name}")
