"""The keeper: fills the pool, watches hosts, and has the work of dead ones resumed.

One detached actor that Ray restarts. It is never on the path of a send: without it, entities are
accepted and packed ones wake; only pool, placement, recovery and sleepers that are due wait for its
return. It keeps nothing that it cannot find again: hosts by their logs in the store, due times in
the log of the index, who waits by asking the front, which hosts are idle by asking them.

A host is dead when Ray says so. One that answers no control call for the bound of silence counts
as dead: its work is resumed elsewhere, and after a second bound it is ended.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError

from ray_agents.address import Address
from ray_agents.cluster.calls import Due
from ray_agents.cluster.clock import SystemClock
from ray_agents.cluster.definitions import Definitions
from ray_agents.cluster.directory import NOBODY, Directory, host_actor
from ray_agents.cluster.dueindex import DueIndex
from ray_agents.cluster.equipment import Verdict
from ray_agents.cluster.placement import FRONT, KEEPER, SOLO, actor_name, kind_of
from ray_agents.cluster.pool import Supply
from ray_agents.cluster.recovery import Recovery
from ray_agents.cluster.untyped import as_actor, import_ray
from ray_agents.definition import Resources
from ray_agents.errors import RayAgentsError
from ray_agents.log.owner import LogIO
from ray_agents.log.store import open_blobs
from ray_agents.settings import Settings

LOOK_AGAIN = timedelta(seconds=5)
FRONT_TRIES_MAX = 3
STOP_SHARE = 0.8  # of the deadline of a stop for the host itself; then it is ended
RAY = import_ray()
LOGGER = logging.getLogger("ray_agents.keeper")


def keeper_actor(settings: Settings) -> Any:
    """The keeper, made if there is none."""
    actor_class: Any = Keeper
    return actor_class.options(
        name=KEEPER,
        namespace=settings.namespace,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=1000,
    ).remote(settings)


@as_actor()
class Keeper:
    """See the module."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._io = LogIO()
        blobs = open_blobs(settings.store)
        self._directory = Directory(
            settings, blobs=blobs, io=self._io, definitions=Definitions(blobs)
        )
        self._recovery = Recovery(
            blobs, io=self._io, clock=SystemClock(), route=self._directory.call
        )
        self._index = DueIndex(
            blobs, io=self._io, clock=SystemClock(), route=self._directory.call, name=KEEPER
        )
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._resuming: set[str] = set()
        self._idle: set[str] = set()
        self._starting = 0
        self._waiting = 0
        self._placing: dict[str, str] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._running: asyncio.Task[None] | None = None
        self._stopping = False
        self._looked = asyncio.Event()
        # Ray restarts a keeper by this constructor alone: nobody else would tell it to begin.
        RAY.get_runtime_context().current_actor.start.remote()

    async def start(self) -> None:
        """Begin, and return when every host has been looked at; recovery goes on behind."""
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())
            self._later(self._keep_index())
        await self._looked.wait()

    async def _run(self) -> None:
        while not self._stopping:
            try:
                await self._look()
                self._looked.set()
                await self._ask_who_waits()
                self._fill()
                self._trim()
            except (RayError, RayAgentsError) as error:
                LOGGER.warning("the keeper cannot look at the hosts now: %s", error)
                self._looked.set()
            await asyncio.sleep(LOOK_AGAIN.total_seconds())

    async def _look(self) -> None:
        """Watch every living host, and have the work of the others resumed."""
        known = self._watched.keys() | self._resuming
        hosts = [host for host in await self._recovery.hosts() if host not in known]
        verdicts = await asyncio.gather(*(self._directory.check(host, NOBODY) for host in hosts))
        for host, verdict in zip(hosts, verdicts, strict=True):
            if verdict is Verdict.DEAD:
                self._later(self._resume(host))
            else:
                self._watch(host)

    async def _ask_who_waits(self) -> None:
        """What a keeper that was restarted cannot know: who waits at the front."""
        front = self._front_if_there()
        if front is not None:
            self._waiting = await front.waiting.remote()

    def _front_if_there(self) -> Any:
        living = any(kind_of(host) == FRONT for host in self._watched)
        return self._directory.front() if living else None

    async def _resume(self, host: str) -> None:
        """Have what ``host`` left undone resumed; what cannot be now is found again by a look."""
        if host in self._resuming:
            return
        self._resuming.add(host)
        try:
            resumed = await self._recovery.resume(host)
            if resumed:
                LOGGER.warning("resumed %s entities of host %s", resumed, host)
        finally:
            self._resuming.discard(host)

    # -- hosts --------------------------------------------------------------------------------

    async def announce(self, host: str) -> None:
        """A front or packed host has begun."""
        self._watch(host)
        if kind_of(host) == FRONT:
            self._waiting = 0
            self._directory.forget_host(FRONT)
            for name in [actor_name(each) for each in self._watched]:
                if name.startswith(SOLO) and not await self._directory.used(name):
                    await self._offer(name)

    def _watch(self, host: str) -> None:
        if host not in self._watched:
            self._watched[host] = self._later(self._follow(host))
            if kind_of(host) == SOLO:
                self._later(self._find_idle(actor_name(host)))

    async def _find_idle(self, name: str) -> None:
        if name not in self._idle and not await self._directory.used(name):
            await self._offer(name)

    async def _follow(self, host: str) -> None:
        """Wait for the host's end, then see to what it left."""
        name = actor_name(host)
        try:
            actor = RAY.get_actor(name, namespace=self._settings.namespace)
            await self._end_of(host, actor)
        except (ValueError, RayError):
            LOGGER.info("host %s has ended", host)
        self._watched.pop(host, None)
        self._idle.discard(name)
        self._directory.forget_host(name)
        if self._stopping:
            return
        if kind_of(host) == SOLO:
            await self._tell_front("withdraw", name)
        self._fill()
        await self._resume(host)

    async def _end_of(self, host: str, actor: Any) -> None:
        """Return when the host leaves; raise what Ray says when it dies.

        One that is silent for the bound has its work resumed, for twice the bound is killed.
        """
        ending: asyncio.Future[Any] = asyncio.wrap_future(actor.live.remote().future())
        name, silent = actor_name(host), False
        pause = self._settings.host_silence_max.total_seconds() / 4
        while not (await asyncio.wait({ending}, timeout=pause))[0]:
            if await self._directory.responds(name):
                silent = False
            elif silent:
                LOGGER.error("host %s stays silent; it is ended", host)
                RAY.kill(actor)
                break
            else:
                silent = True
                LOGGER.error("host %s is silent; its work is resumed elsewhere", host)
                self._later(self._resume(host))
        await ending

    # -- the pool -----------------------------------------------------------------------------

    async def taken(self, name: str) -> None:
        """The front has lent this host out."""
        self._idle.discard(name)
        self._fill()

    async def returned(self, name: str) -> None:
        """A lent host was never used: it is idle again."""
        if any(actor_name(host) == name for host in self._watched):
            await self._offer(name)

    async def want(self, waiting: int) -> None:
        """So many entities wait at the front."""
        self._waiting = waiting
        self._fill()

    @property
    def _supply(self) -> Supply:
        living = sum(1 for host in self._watched if kind_of(host) == SOLO)
        return Supply(living=living, idle=len(self._idle), starting=self._starting)

    def _trim(self) -> None:
        """Let hosts go that were started for who did not need them in the end."""
        count = self._supply.surplus(size=self._settings.pool_size, waiting=self._waiting)
        for name in sorted(self._idle)[:count]:
            self._idle.discard(name)
            self._later(self._retire(name))

    async def _retire(self, name: str) -> None:
        """End an idle host, unless the front has lent it out just now."""
        retired = await self._tell_front("retire", name)
        if retired:
            await self._stop_host(name, self._settings.stop_deadline)
        elif retired is None:
            self._idle.add(name)

    def _fill(self) -> None:
        """Start hosts until the pool is full and nobody waits, within the cap."""
        settings = self._settings
        count = self._supply.to_start(
            size=settings.pool_size, most=settings.pool_max, waiting=self._waiting
        )
        for _ in range(0 if self._stopping else count):
            self._starting += 1
            self._later(self._start_solo())

    async def _start_solo(self) -> None:
        name = _fresh_name()
        try:
            host = await self._begun(host_actor(name, self._settings))
            self._idle.add(name)
            self._watch(host)
        except (RayError, TimeoutError) as error:
            LOGGER.warning("a host could not be started, which is tried again: %s", error)
            return
        finally:
            self._starting -= 1
        await self._offer(name)
        self._fill()

    async def _begun(self, actor: Any) -> str:
        """The id of a host, once it has begun."""
        try:
            async with asyncio.timeout(self._settings.start_deadline.total_seconds()):
                return await actor.start.remote()
        except TimeoutError:
            RAY.kill(actor)
            raise

    async def _offer(self, name: str) -> None:
        self._idle.add(name)
        if await self._tell_front("offer", name):
            self._idle.discard(name)

    async def _tell_front(self, verb: str, name: str) -> Any:
        """Call the front, which is made if there is none; None if it cannot be reached.

        A front that begins later is offered every idle host anyway.
        """
        for _ in range(FRONT_TRIES_MAX):
            try:
                return await getattr(self._directory.front(), verb).remote(name)
            except (RayActorError, RayAgentsError) as error:
                self._directory.forget_host(FRONT)
                LOGGER.warning("the front does not answer now: %s", error)
        return None

    # -- due times ----------------------------------------------------------------------------

    async def _keep_index(self) -> None:
        """Open the index, whatever becomes of the look at the hosts; again if it is lost."""
        while not self._stopping:
            try:
                await self._index.open()
            except RayAgentsError as error:
                LOGGER.warning("the index of due times cannot be opened now: %s", error)
            await asyncio.sleep(LOOK_AGAIN.total_seconds())

    async def register(self, due: Due) -> None:
        """An entity is about to sleep, and is next due then."""
        await self._index.register(due)

    # -- hosts for one entity -----------------------------------------------------------------

    async def place(self, address: str, resources: Resources | None, accepted_by: str) -> None:
        """Make a host for one entity, with what it needs; it may take as long as it takes."""
        known, self._placing[address] = address in self._placing, accepted_by
        if not known:
            self._later(self._place(address, resources))

    async def _place(self, address: str, resources: Resources | None) -> None:
        actor, name = None, _fresh_name()
        try:
            actor = host_actor(name, self._settings, resources)
            begun = asyncio.ensure_future(actor.start.remote())
            while not (await asyncio.wait({begun}, timeout=LOOK_AGAIN.total_seconds()))[0]:
                if not await self._still_waits(address):
                    break
            if begun.done():
                self._watch(begun.result())
                acceptor = self._actor_of(self._placing[address])
                if await acceptor.hand_over.remote(name, Address.parse(address)):
                    return
            RAY.kill(actor)
        except (ValueError, RayError, RayAgentsError) as error:
            LOGGER.warning("%s could not be placed: %s", address, error)
            if actor is not None:
                RAY.kill(actor)
        finally:
            self._placing.pop(address, None)

    def _actor_of(self, host: str) -> Any:
        return RAY.get_actor(actor_name(host), namespace=self._settings.namespace)

    async def _still_waits(self, address: str) -> bool:
        try:
            return await self._actor_of(self._placing[address]).waits.remote(address)
        except (ValueError, RayError):
            return True  # whoever resumes what that host left will ask again

    # -- the end ------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """What the keeper sees, for ``ray-agents status``."""
        return {
            "hosts": sorted(self._watched),
            "idle": len(self._idle),
            "waiting": self._waiting,
            "starting": self._starting,
            "placing": sorted(self._placing),
            "sleepers due": len(self._index),
        }

    async def stop(self, deadline: timedelta) -> int:
        """Have every host seal and leave within ``deadline``; how many did."""
        await asyncio.wait({self._later(self.start())}, timeout=deadline.total_seconds() / 2)
        self._stopping = True
        self._index.call_nobody()
        if self._running is not None:
            self._running.cancel()
        hosts = list(self._watched)
        ends = await asyncio.gather(
            *(self._stop_host(host, deadline) for host in hosts), return_exceptions=False
        )
        try:
            await self._index.close()
        except RayAgentsError as error:
            LOGGER.warning("the index could not be sealed, which loses nothing: %s", error)
        return sum(ends)

    async def _stop_host(self, host: str, deadline: timedelta) -> bool:
        """Whether the host sealed all it held; one that cannot is ended: its log fences it off."""
        actor = None
        try:
            actor = RAY.get_actor(actor_name(host), namespace=self._settings.namespace)
            async with asyncio.timeout(deadline.total_seconds()):
                await actor.stop.remote(deadline * STOP_SHARE)
                await actor.leave.remote()
        except (RayTaskError, TimeoutError) as error:
            LOGGER.warning("host %s could not seal everything and is ended: %s", host, error)
            RAY.kill(actor)
            return False
        except (ValueError, RayError):
            return True  # gone: that is what was asked for
        return True

    def _later(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            LOGGER.error("the keeper: %s", error, exc_info=error)


def _fresh_name() -> str:
    return f"{SOLO}-{secrets.token_hex(6)}"
