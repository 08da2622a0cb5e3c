"""The keeper: fills the pool, watches hosts, and has the work of dead ones resumed.

One detached actor that Ray restarts. It is never on the path of a send: without it, entities are
accepted and packed ones wake; only pool, placement and recovery wait for its return. It keeps
nothing that it cannot find again: hosts by their logs in the store, who waits by asking the front.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from datetime import timedelta
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from ray_agents.address import Address
from ray_agents.cluster.definitions import Definitions
from ray_agents.cluster.directory import Directory, host_actor
from ray_agents.cluster.placement import KEEPER, SOLO, actor_name
from ray_agents.cluster.recovery import Recovery
from ray_agents.definition import Resources
from ray_agents.errors import RayAgentsError
from ray_agents.log.owner import LogIO
from ray_agents.log.store import open_blobs
from ray_agents.settings import Settings

STARTING_MAX = 2
LOOK_AGAIN = timedelta(seconds=5)
LOGGER = logging.getLogger("ray_agents.keeper")


def keeper_actor(settings: Settings) -> Any:
    """The keeper, made if there is none."""
    return Keeper.options(
        name=KEEPER,
        namespace=settings.namespace,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=1000,
    ).remote(settings)


@ray.remote
class Keeper:
    """See the module."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._io = LogIO()
        blobs = open_blobs(settings.store)
        self._directory = Directory(
            settings, blobs=blobs, io=self._io, definitions=Definitions(blobs)
        )
        self._recovery = Recovery(blobs, io=self._io, route=self._directory.call)
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._idle: set[str] = set()
        self._starting = 0
        self._wanted = 0
        self._placing: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._running: asyncio.Task[None] | None = None
        self._stopping = False
        self.recovered = asyncio.Event()

    async def start(self) -> None:
        """Begin: find the hosts there are, resume what dead ones left, fill the pool."""
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())
        await self.recovered.wait()

    async def _run(self) -> None:
        while not self._stopping:
            await self._look()
            self.recovered.set()
            self._fill()
            await asyncio.sleep(LOOK_AGAIN.total_seconds())

    async def _look(self) -> None:
        """Watch every living host, and have the work of the others resumed."""
        try:
            for host in await self._recovery.hosts():
                if host in self._watched:
                    continue
                if await self._lives(host):
                    self._watch(host)
                else:
                    self._spawn_task(self._resume(host))
        except RayAgentsError as error:
            LOGGER.warning("the keeper cannot look at the hosts now: %s", error)

    async def _lives(self, host: str) -> bool:
        try:
            actor = ray.get_actor(actor_name(host), namespace=self._settings.namespace)
            there, _ = await actor.check.remote(Address("none", "none"))
        except (ValueError, RayActorError):
            return False
        return there == host

    async def _resume(self, host: str) -> None:
        if host in self._watched:
            return
        self._watched[host] = asyncio.current_task() or asyncio.get_running_loop().create_task(
            asyncio.sleep(0)
        )
        try:
            resumed = await self._recovery.resume(host)
            if resumed:
                LOGGER.warning("resumed %s entities of host %s", resumed, host)
        finally:
            self._watched.pop(host, None)

    # -- hosts --------------------------------------------------------------------------------

    async def announce(self, host: str) -> None:
        """A front or packed host has begun."""
        self._watch(host)
        if host.startswith("front"):
            for idle in list(self._idle):
                await self._offer(idle)
        await self.start()

    def _watch(self, host: str) -> None:
        if host not in self._watched:
            self._watched[host] = self._spawn_task(self._follow(host))

    async def _follow(self, host: str) -> None:
        """Wait for the host's end, then see to what it left."""
        name = actor_name(host)
        try:
            actor = ray.get_actor(name, namespace=self._settings.namespace)
            await actor.live.remote()
        except (ValueError, RayError):
            LOGGER.info("host %s has ended", host)
        self._watched.pop(host, None)
        self._idle.discard(name)
        if self._stopping:
            return
        if host.startswith(SOLO):
            await self._directory.front().withdraw.remote(name)
        await self._resume(host)
        self._fill()

    # -- the pool -----------------------------------------------------------------------------

    async def taken(self, name: str) -> None:
        """The front has lent this host out."""
        self._idle.discard(name)
        self._fill()

    async def returned(self, name: str) -> None:
        """A lent host was never used: it is idle again."""
        self._idle.add(name)
        await self._offer(name)

    async def want(self) -> None:
        """An entity waits at the front and there is no idle host."""
        self._wanted += 1
        self._fill()

    def _fill(self) -> None:
        """Start hosts until the pool is full and nobody waits, within the cap."""
        solos = sum(1 for host in self._watched if host.startswith(SOLO))
        room = self._settings.pool_max - solos - self._starting
        missing = self._settings.pool_size + self._wanted - len(self._idle) - self._starting
        for _ in range(max(0, min(missing, room, STARTING_MAX - self._starting))):
            if self._stopping:
                return
            self._starting += 1
            self._spawn_task(self._start_solo())

    async def _start_solo(self) -> None:
        name = f"{SOLO}-{secrets.token_hex(6)}"
        try:
            host = await host_actor(name, self._settings).start.remote()
            self._watch(host)
            self._idle.add(name)
            await self._offer(name)
        except RayError as error:
            LOGGER.warning("a host could not be started: %s", error)
        finally:
            self._starting -= 1
        self._fill()

    async def _offer(self, name: str) -> None:
        taken = await self._directory.front().offer.remote(name)
        if taken:
            self._idle.discard(name)
            self._wanted = max(0, self._wanted - 1)

    async def place(self, address: str, resources: Resources | None, accepted_by: str) -> None:
        """Make a host for one entity, with what it needs; it may take as long as it takes."""
        if address in self._placing:
            return
        self._placing.add(address)
        self._spawn_task(self._place(Address.parse(address), resources, accepted_by))

    async def _place(self, address: Address, resources: Resources | None, accepted_by: str) -> None:
        name = f"{SOLO}-{secrets.token_hex(6)}"
        try:
            host = await host_actor(name, self._settings, resources).start.remote()
            self._watch(host)
            await self._directory.activate(name, address, release_from=accepted_by)
        except (RayError, RayAgentsError) as error:
            LOGGER.warning("%s could not be placed: %s", address, error)
        finally:
            self._placing.discard(str(address))

    # -- the end ------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """What the keeper sees, for ``ray-agents status``."""
        return {
            "hosts": sorted(self._watched),
            "idle": len(self._idle),
            "starting": self._starting,
            "placing": sorted(self._placing),
        }

    async def stop(self, deadline: timedelta) -> int:
        """Have every host seal and leave within ``deadline``; how many did."""
        self._stopping = True
        if self._running is not None:
            self._running.cancel()
        hosts = list(self._watched)
        ends = await asyncio.gather(
            *(self._stop_host(host, deadline) for host in hosts), return_exceptions=False
        )
        return sum(ends)

    async def _stop_host(self, host: str, deadline: timedelta) -> bool:
        try:
            actor = ray.get_actor(actor_name(host), namespace=self._settings.namespace)
            async with asyncio.timeout(deadline.total_seconds()):
                await actor.stop.remote(deadline)
                await actor.leave.remote()
        except (ValueError, RayError):
            return True  # gone: that is what was asked for
        except TimeoutError:
            return False
        return True

    def _spawn_task(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
