"""Entities that were lost in mid-work: called again until somebody owns them, a bounded time."""

from __future__ import annotations

import asyncio
import logging
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
    """Sees to it that somebody goes on with what one host could not finish."""

    def __init__(self, peers: Peers, clock: Clock) -> None:
        self._peers = peers
        self._clock = clock
        self.tasks: set[asyncio.Task[None]] = set()

    def later(self, address: Address) -> None:
        """Have an entity called, soon and until it answers."""
        name = f"resume:{address}"
        task = asyncio.get_running_loop().create_task(self._resume(address), name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def cancel(self) -> None:
        """Call nobody any more: whoever recovers this host's log will."""
        for task in self.tasks:
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
                return
