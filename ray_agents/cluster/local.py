"""Hosts without Ray: entities as asyncio tasks of this process, for tests and the simulator.

The same host, log and wakes as on a cluster; only placement is missing: every definition runs
here. Several may share one store in one process, as the tests of take-over do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Self

from ray_agents.address import Address
from ray_agents.agent import AgentConfig
from ray_agents.cluster.calls import Answer, Asleep, Call, Due, Moved, Release
from ray_agents.cluster.clock import SystemClock
from ray_agents.cluster.definitions import Definitions
from ray_agents.cluster.dueindex import DueIndex
from ray_agents.cluster.equipment import Equipment, Verdict
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.host import Host
from ray_agents.cluster.recovery import Recovery
from ray_agents.cluster.runtime import HostRuntime
from ray_agents.errors import RuntimeUnavailable
from ray_agents.gateway import Gateway
from ray_agents.log.owner import LogIO, read_head
from ray_agents.log.store import open_blobs
from ray_agents.model import Model, ModelSettings
from ray_agents.models.choice import chooser
from ray_agents.ports import Blobs, Clock

HOPS_MAX = 8
STOP_DEADLINE = timedelta(seconds=10)
_LIVE: dict[str, LocalHosts] = {}


def _nowhere_else(address: Address, host: str | None) -> None:  # noqa: ARG001 - the shape of `place`
    return None


class LocalHosts:
    """One host in this process, and the way to it."""

    def __init__(
        self,
        blobs: Blobs,
        *,
        io: LogIO,
        clock: Clock,
        model_for: Callable[[AgentConfig], Model],
    ) -> None:
        self._blobs = blobs
        self._io = io
        self.definitions = Definitions(blobs)
        self.id = f"local-{os.getpid()}-{clock.fresh_id()}"
        self._closed = False
        self._recovery = Recovery(blobs, io=io, clock=clock, route=self.call)
        self.index = DueIndex(blobs, io=io, clock=clock, route=self.call, name=self.id)
        self.host = Host(
            Equipment(
                host=self.id,
                pid=os.getpid(),
                blobs=blobs,
                io=io,
                clock=clock,
                definitions=self.definitions,
                peers=self,
                model_for=model_for,
                admit=lambda _: None,
                departed=lambda: None,
                place=_nowhere_else,
            )
        )

    @property
    def gone(self) -> bool:
        """Whether this host has ended, in whatever way."""
        return self._closed

    async def open(self, *, recover: bool = True) -> None:
        """Begin, and resume what dead hosts left undone."""
        await self.host.open()
        _LIVE[self.id] = self
        if recover:
            for host in await self._recovery.hosts():
                if host not in _LIVE:
                    await self._recovery.resume(host)
        await self._index_of_the_store()

    async def register(self, due: Due) -> None:
        """Tell the index, which one of the hosts of this process keeps."""
        index = await self._index_of_the_store()
        await index.register(due)

    async def _index_of_the_store(self) -> DueIndex:
        """The index that a live host of this process keeps, or our own, taken over if need be."""
        if not self.index.is_open:
            holder = _LIVE.get(await self.index.holder() or "")
            if holder is not None and holder.index.is_open:
                return holder.index
        await self.index.open()
        return self.index

    async def call(self, address: Address, call: Call) -> Answer:
        """Answer a call here, or by the live host of this process that owns the entity.

        Raises:
            RuntimeUnavailable: the entity changes hands faster than it can be found.
        """
        asked = self.host
        for _ in range(HOPS_MAX):
            answer = await asked.call(address, call)
            if isinstance(answer, Asleep):
                return await self._elsewhere(address, call, answer)
            if not isinstance(answer, Moved):
                return answer
            owner = _LIVE.get(answer.host)
            asked = owner.host if owner is not None and owner.host is not asked else self.host
        message = f"{str(address)!r} changes hands too often; ask again"
        raise RuntimeUnavailable(message, address=str(address))

    async def _elsewhere(self, address: Address, call: Call, asleep: Asleep) -> Answer:
        """The answer of the live host that owns the entity, by the log: stores share addresses."""
        others = [each for each in _LIVE.values() if each is not self and each.host.owns(address)]
        head = await read_head(self._blobs, entity_folder(address), io=self._io) if others else None
        for other in others:
            if head is not None and head.host == other.id:
                return await other.host.call(address, call)
        return asleep

    async def check(self, host: str, address: Address) -> Verdict:
        """Whether a host of this process lives and owns the entity."""
        if host not in _LIVE:
            return Verdict.DEAD
        return Verdict.OWNS if _LIVE[host].host.owns(address) else Verdict.NOT_MINE

    def challenge(self, host: str, address: Address) -> None:
        """Hosts of one process are never silent."""

    async def release(self, host: str, address: Address) -> None:
        """Ask a host of this process to let go."""
        if host in _LIVE:
            await _LIVE[host].host.call(address, Release())

    async def close(self) -> None:
        """Seal everything; twice is harmless."""
        _LIVE.pop(self.id, None)
        if not self._closed:
            self._closed = True
            try:
                await self.host.stop(STOP_DEADLINE)
            finally:
                await self.index.close()

    def isolate(self) -> None:
        """Become a host that nobody reaches and that runs on, as one that was stopped too long."""
        _LIVE.pop(self.id, None)

    def vanish(self) -> None:
        """Stop as a killed process does: nothing is sealed, nothing is said."""
        _LIVE.pop(self.id, None)
        self._closed = True
        self.index.vanish()
        self.host.vanish()

    async def crash(self) -> None:
        """Vanish, and return when no task and no open file is left of it."""
        self.vanish()
        await self.index.bury()
        await self.host.buried()


class LocalRuntime(HostRuntime):
    """The whole runtime in this process: ``async with LocalRuntime("memory:") as runtime``.

    Args:
        store: a directory, or ``memory:``, or blobs shared with another runtime.
        clock: its time and names; this machine's if not given.
        model_for: what answers agents; Claude, or their ``test_responses``, if not given.
        gateway: closed with the runtime; a new one serves Claude if ``model_for`` is not given.
        io: how it does file work; in threads if not given. The runtime closes it.
    """

    def __init__(
        self,
        store: str | Blobs = "memory:",
        *,
        clock: Clock | None = None,
        model_for: Callable[[AgentConfig], Model] | None = None,
        io: LogIO | None = None,
        gateway: Gateway | None = None,
    ) -> None:
        self._gateway = gateway or Gateway("local", clock=clock or SystemClock())
        self.blobs = open_blobs(store) if isinstance(store, str) else store
        self._own_io = io or LogIO()
        self.hosts = LocalHosts(
            self.blobs,
            io=self._own_io,
            clock=clock or SystemClock(),
            model_for=model_for or chooser(ModelSettings(), gateway=self._gateway),
        )
        super().__init__(
            self.blobs,
            hosts=self.hosts,
            io=self._own_io,
            clock=clock or SystemClock(),
            definitions=self.hosts.definitions,
        )

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as failing:
            failing.push_async_callback(self.crash)  # half open, it would pass for a live host
            await self.hosts.open()
            failing.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await super().__aexit__(*exc)
        await self._gateway.close()
        self._own_io.close()

    async def crash(self) -> None:
        """End as a killed process does; the store keeps what was durable."""
        await self.hosts.crash()
        await self._gateway.close()
        await self._watch.close()
        self._own_io.close()
