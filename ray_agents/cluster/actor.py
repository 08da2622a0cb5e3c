"""The detached Ray actor in which entities are awake, in three kinds.

*packed* hosts hold many entities. The *front* accepts for dedicated entities that have no host
yet, and never runs a handler. A *solo* host holds one dedicated entity and leaves when it sleeps.

The ``control`` concurrency group has a thread and an event loop of its own: whether this host
lives and what it owns can be asked while a handler blocks the other loop. Ray has no fencing and
no order between calls; the log has both, so nothing here depends on either.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import sys
from datetime import timedelta
from typing import Any

import ray

from ray_agents.address import Address
from ray_agents.cluster.calls import Answer, Call
from ray_agents.cluster.clock import SystemClock
from ray_agents.cluster.definitions import Definitions
from ray_agents.cluster.directory import Directory, Refused
from ray_agents.cluster.entity import Entity
from ray_agents.cluster.host import Equipment, Host
from ray_agents.cluster.placement import FRONT, PACKED, SOLO, kind_of
from ray_agents.cluster.pool import LEASE_MAX, Pool
from ray_agents.cluster.watchdog import Watchdog
from ray_agents.definition import Dedicated, Packed
from ray_agents.errors import RayAgentsError
from ray_agents.log.owner import LogIO
from ray_agents.log.store import open_blobs
from ray_agents.model import ModelSettings
from ray_agents.models.choice import chooser
from ray_agents.settings import Settings
from ray_agents.wakes import must_be_alone

PACKED_LINGER = timedelta(seconds=60)
SWITCH_SECONDS = 0.0005  # with Python's 5 ms, file threads wait that long for a busy loop
LEAVE_BOUND = timedelta(seconds=2)


@ray.remote(concurrency_groups={"control": 1000})
class EntityHost:
    """One host process. ``name`` is the actor's; the host's id adds a suffix of its own."""

    def __init__(self, name: str, settings: Settings) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        self._name = name
        self._kind = kind_of(name)
        self._id = f"{name}.{secrets.token_hex(6)}"
        self._settings = settings
        self._clock = SystemClock()
        self._pool = Pool()
        self._used = False
        self._left = asyncio.Event()
        self._opening: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        blobs, self._io = open_blobs(settings.store), LogIO()
        definitions = Definitions(blobs)
        self._definitions = definitions
        self._directory = Directory(settings, blobs=blobs, io=self._io, definitions=definitions)
        models = ModelSettings(
            api_key=settings.anthropic_api_key, base_url=settings.anthropic_base_url
        )
        self._host = Host(
            Equipment(
                host=self._id,
                pid=os.getpid(),
                blobs=blobs,
                io=self._io,
                clock=self._clock,
                definitions=definitions,
                peers=self._directory,
                model_for=chooser(models),
                admit=self._admit,
                emptied=self._emptied,
                place=self._place,
            )
        )

    async def start(self) -> str:
        """Begin; the host's id. Twice is harmless."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._start())
        await asyncio.shield(self._opening)
        return self._id

    async def _start(self) -> None:
        await self._host.open()
        gc.freeze()  # what Ray and Arrow have made lives as long as we: no need to look through it
        Watchdog(asyncio.get_running_loop(), host=self._id).start()
        if self._kind != SOLO:
            self._later(self._directory.keeper().announce.remote(self._id))

    async def call(self, address: Address, call: Call) -> Answer | Refused:
        """Answer one call about one entity."""
        if self._opening is None or not self._opening.done():
            await self.start()
        self._used = True
        try:
            return await self._host.call(address, call)
        except RayAgentsError as error:
            return Refused(error=error)

    @ray.method(concurrency_group="control")
    async def check(self, address: Address) -> tuple[str, bool]:
        """This host's id, and whether it owns ``address``."""
        return self._id, self._host.owns(address)

    @ray.method(concurrency_group="control")
    async def status(self) -> dict[str, Any]:
        """What this host holds, for ``ray-agents status``."""
        return {
            "host": self._id,
            "kind": self._kind,
            "pid": os.getpid(),
            "used": self._used,
            "entities": [entity.name for entity in self._host.awake],
            "waiting": [str(address) for address in self._pool.waiting],
            "idle_hosts": len(self._pool.idle),
        }

    @ray.method(concurrency_group="control")
    async def live(self) -> None:
        """Return when this host leaves in good order; never otherwise. Its death is the answer."""
        while not self._left.is_set():
            await asyncio.sleep(0.05)

    async def stop(self, deadline: timedelta) -> None:
        """Seal everything within ``deadline``; then call :meth:`leave`."""
        await self._host.stop(deadline)
        self._left.set()

    async def leave(self) -> None:
        """End the process. Everything is synced, and callers look the entity up again."""
        self._left.set()
        self._io.close()
        ray.actor.exit_actor()

    # -- the front ----------------------------------------------------------------------------

    async def offer(self, host: str) -> bool:
        """An idle solo host, from the keeper; whether it was taken at once."""
        await self.start()
        address = self._pool.offer(host, now=self._clock.monotonic())
        if address is None:
            return False
        self._later(self._hand_over(host, address))
        return True

    async def withdraw(self, host: str) -> None:
        """A solo host has died."""
        self._pool.drop(host)

    async def _hand_over(self, name: str, address: Address) -> None:
        await self._directory.activate(name, address, release_from=self._id)

    def _place(self, address: Address) -> str | None:
        """Where a sleeping entity is to wake, if not here."""
        if self._kind != FRONT:
            return None
        placement = self._definitions.placement(address.type)
        if isinstance(placement, Packed) or placement.resources:
            return None
        host = self._pool.lend(address, now=self._clock.monotonic())
        if host is not None:
            self._later(self._directory.keeper().taken.remote(host))
            self._later(self._reclaim(host))
        return host

    async def _reclaim(self, host: str) -> None:
        """Take a lent host back into the pool if its borrower never came."""
        await asyncio.sleep(LEASE_MAX.total_seconds())
        if not await self._directory.used(host):
            await self._directory.keeper().returned.remote(host)

    def _admit(self, entity: Entity) -> str | None:
        """What a wake must wait for before it runs here."""
        if self._kind == SOLO:
            return None
        current = entity.state.current
        if self._kind == PACKED and (current is None or not must_be_alone(current)):
            return None
        placement = self._definitions.placement(entity.address.type)
        resources = placement.resources if isinstance(placement, Dedicated) else None
        if self._kind == FRONT and not resources:
            self._pool.wait(entity.address)
            self._later(self._directory.keeper().want.remote())
            return "a free host"
        self._later(self._directory.keeper().place.remote(str(entity.address), resources, self._id))
        return str(resources) if resources else "a host of its own"

    # -- leaving ------------------------------------------------------------------------------

    def _emptied(self) -> None:
        if self._kind == SOLO and self._used:
            self._later(self._leave_soon(timedelta()))
        if self._kind == PACKED:
            self._later(self._leave_soon(PACKED_LINGER))

    async def _leave_soon(self, linger: timedelta) -> None:
        await asyncio.sleep(linger.total_seconds())
        if not self._host.awake and not self._host.opening:
            await self.stop(LEAVE_BOUND)
            ray.get_runtime_context().current_actor.leave.remote()

    def _later(self, work: Any) -> None:
        async def run() -> None:
            await work

        task = asyncio.get_running_loop().create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
