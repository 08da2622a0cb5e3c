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
from ray_agents.errors import CallerError, Fenced, RayAgentsError
from ray_agents.log.owner import Claim, LogIO, LogOwner, read_head
from ray_agents.ports import Blobs, Clock

SEALED = "sealed"
RECOVERY = "recovery"  # who takes a dead host's log over
CONCURRENT_MAX = 16
LOGGER = logging.getLogger("ray_agents.recovery")
Route = Callable[[Address, Call], Awaitable[Answer]]


class Recovery:
    """Finds and resumes the unfinished work of hosts that are gone."""

    def __init__(self, blobs: Blobs, *, io: LogIO, clock: Clock, route: Route) -> None:
        self._blobs = blobs
        self._clock = clock
        self._io = io
        self._route = route

    async def hosts(self) -> list[str]:
        """The hosts that have left a log, alive or not."""
        return await self._io.run(self._blobs.names, HOSTS)

    async def left_awake(self, host: str) -> list[Address]:
        """The entities that were awake in ``host`` when it ended, oldest first.

        It takes the host's log over first: a host that was only silent is fenced off, so that
        everything it ever took in stands in the rows read here, and it leaves at its next one.
        """
        folder = host_folder(host)
        head = await read_head(self._blobs, folder, io=self._io)
        if head is None:
            return []  # everything was resumed, and the removal was cut off
        claim = Claim(host=RECOVERY, token=self._clock.fresh_id())
        log = await LogOwner.claim(
            self._blobs, folder, head=head, claim=claim, clock=self._clock, io=self._io
        )
        left = [Address.parse(event.key) for event in log.history.latest({AWAKE})]
        await log.seal()
        return left

    async def resume(self, host: str) -> int:
        """Activate what ``host`` left undone and remove its log; how many were resumed.

        An entity that cannot be activated keeps the log in place, for the next try.
        """
        try:
            addresses = await self.left_awake(host)
        except Fenced:
            return 0  # another recovery is at it
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
        """Newest segment first, so that what a crash leaves here is a whole, older log.

        Each is gone for good before the next, whatever a power failure does with their names.
        """
        folder = host_folder(host)
        for name in reversed(self._blobs.names(folder)):
            if name != SEALED:
                self._blobs.delete(f"{folder}/{name}")
                self._blobs.sync_names(f"{folder}/{name}")
        for name in self._blobs.names(f"{folder}/{SEALED}"):
            self._blobs.delete(f"{folder}/{SEALED}/{name}")
        self._blobs.delete(f"{folder}/{SEALED}")
        self._blobs.delete(folder)
