"""What a host does for an entity that left it in mid-work: have somebody go on with it, soon.

Its own log still names the entity, so that recovery finds it should the host die first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from ray_agents.address import Address
from ray_agents.cluster.calls import Activate
from ray_agents.cluster.equipment import Peers
from ray_agents.errors import RayAgentsError
from ray_agents.ports import Clock

TRIES_MAX = 60
DELAY_FIRST = timedelta(milliseconds=100)
DELAY_MAX = timedelta(seconds=30)
LOGGER = logging.getLogger("ray_agents.host")


class Resuming:
    """Activates entities until somebody has them; ``resumed`` is told of each that is."""

    def __init__(self, peers: Peers, clock: Clock, *, resumed: Callable[[Address], object]) -> None:
        self._peers = peers
        self._clock = clock
        self._resumed = resumed
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What is under way."""
        return list(self._tasks)

    def later(self, address: Address) -> None:
        """See to it that somebody goes on with an entity."""
        name = f"resume:{address}"
        task = asyncio.get_running_loop().create_task(self._resume(address), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Call nobody any more: whoever recovers this host's log will."""
        for task in self._tasks:
            task.cancel()

    async def _resume(self, address: Address) -> None:
        delay = DELAY_FIRST
        for _ in range(TRIES_MAX):
            await self._clock.sleep(delay)
            try:
                await self._peers.call(address, Activate())
            except RayAgentsError as error:
                LOGGER.warning("%s cannot be resumed yet: %s", address, error)
                delay = min(delay * 2, DELAY_MAX)
            else:
                self._resumed(address)
                return
