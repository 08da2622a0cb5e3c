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
import logging
import os
import pickle
import secrets
import sys
from collections.abc import Awaitable
from datetime import timedelta
from functools import partial
from typing import Any

import psutil
from ray.exceptions import RayError

from ray_agents.address import Address
from ray_agents.cluster.awake import Awake
from ray_agents.cluster.calls import Answer, Call, Moved, Waking
from ray_agents.cluster.clock import SystemClock
from ray_agents.cluster.definitions import Definitions
from ray_agents.cluster.directory import Directory, Refused
from ray_agents.cluster.equipment import Equipment
from ray_agents.cluster.exchange import Desks, Trip
from ray_agents.cluster.gateway import RayCentre, allowance_of
from ray_agents.cluster.host import Host
from ray_agents.cluster.nameplate import Nameplate
from ray_agents.cluster.placement import FRONT, PACKED, SOLO, actor_name, kind_of
from ray_agents.cluster.pool import LEASE_MAX, Pool
from ray_agents.cluster.signals import Loading, when_told_to_end
from ray_agents.cluster.untyped import as_actor, import_ray, in_group
from ray_agents.cluster.watchdog import EXIT_STATUS, Watchdog
from ray_agents.definition import Dedicated, Packed
from ray_agents.errors import RayAgentsError, RuntimeUnavailable
from ray_agents.events import WakeRecorded, WakeStatus
from ray_agents.gateway import Gateway
from ray_agents.log.owner import LogIO
from ray_agents.log.store import open_blobs
from ray_agents.model import ModelSettings
from ray_agents.models.choice import chooser
from ray_agents.settings import Settings
from ray_agents.wakes import must_be_alone

SWITCH_SECONDS = 0.0005  # with Python's 5 ms, file threads wait that long for a busy loop
LEAVE_BOUND = timedelta(seconds=2)
ASK_AGAIN = timedelta(seconds=5)
SIGTERM_SHARE = 0.5  # of the stop deadline; then the process ends, and those who wait may kill
SEAL_SHARE = 0.8  # of that, for sealing
LEAVE_LINGER = timedelta(milliseconds=250)
PRELOAD_AFTER = timedelta(seconds=1)
PRELOAD_LOOKS_MAX = 30
PRELOAD_BELOW_PERCENT = 50  # of the machine's processors: it costs two CPU seconds
RAY = import_ray()
LOGGER = logging.getLogger("ray_agents.host")


@as_actor(concurrency_groups={"control": 1000})
class EntityHost:
    """One host process. ``name`` is the actor's; the host's id adds a suffix of its own."""

    _loading = Loading()

    def __init__(self, name: str, settings: Settings) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        self._plate = Nameplate(name)
        self._name = name
        self._kind = kind_of(name)
        self._id = f"{name}.{secrets.token_hex(6)}"
        self._settings = settings
        self._clock = SystemClock()
        self._pool = Pool()
        self._desks = Desks(self._unpacked)
        self._tenant: Address | None = None
        self._used_at = self._clock.monotonic()
        self._emptying: asyncio.Task[Any] | None = None
        self._left = asyncio.Event()
        self._asking: asyncio.Task[Any] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        blobs, self._io = open_blobs(settings.store), LogIO()
        definitions = Definitions(blobs)
        self._definitions = definitions
        self._directory = Directory(settings, blobs=blobs, io=self._io, definitions=definitions)
        self._gateway = Gateway(
            self._id,
            clock=self._clock,
            allowance_of=partial(allowance_of, settings),
            centre=RayCentre(settings),
        )
        models = ModelSettings(
            api_key=settings.anthropic_api_key, base_url=settings.anthropic_base_url
        )
        openai = ModelSettings(api_key=settings.openai_api_key, base_url=settings.openai_base_url)
        self._host = Host(
            Equipment(
                host=self._id,
                pid=os.getpid(),
                blobs=blobs,
                io=self._io,
                clock=self._clock,
                definitions=definitions,
                peers=self._directory,
                model_for=chooser(models, openai=openai, gateway=self._gateway),
                admit=self._admit,
                departed=self._changed,
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
        loop, bound = asyncio.get_running_loop(), self._settings.blocked_loop_max
        Watchdog(loop, host=self._id, bound=bound).start()
        within = self._settings.stop_deadline * SIGTERM_SHARE
        told = partial(self._told_to_end, within)
        when_told_to_end(partial(loop.call_soon_threadsafe, told), within=within)
        self._show()
        self._later(self._leave_when_lost())
        if self._kind != SOLO:
            self._later(self._directory.ask_keeper("announce", self._id))
        if self._kind != FRONT:
            self._later(self._preload())

    async def call(self, address: Address, call: Call) -> Answer | Refused:
        """Answer one call about one entity, which does not wake it."""
        if self._opening is None or not self._opening.done():
            await self.start()
        return await self._answer(address, call)

    async def exchange(self, line: str, calls: Trip) -> Trip:
        """Take calls that wake, and give back answers; see ``exchange.py``."""
        return await self._desks.serve(line, calls)

    async def _unpacked(self, call: bytes) -> bytes:
        try:
            return pickle.dumps(await self._wake(*pickle.loads(call)))  # noqa: S301 - a client's
        except Exception as error:
            LOGGER.exception("host %s cannot answer a call", self._id)
            words = f"host {self._id!r} cannot answer: {type(error).__name__}: {error}"
            return pickle.dumps(Refused(error=RayAgentsError(words)))

    async def _wake(self, address: Address, call: Waking) -> Answer | Refused:
        if self._opening is None or not self._opening.done():
            await self.start()
        if self._kind == SOLO and self._tenant not in (None, address):
            message = f"host {self._id!r} is taken; ask for another"
            return Refused(error=RuntimeUnavailable(message, host=self._id))
        self._tenant, self._used_at = address, self._clock.monotonic()
        self._show()
        return await self._answer(address, call)

    async def _answer(self, address: Address, call: Call) -> Answer | Refused:
        try:
            return await self._host.call(address, call)
        except RayAgentsError as error:
            return Refused(error=error)
        finally:
            self._changed()

    @in_group("control")
    async def check(self, address: Address) -> tuple[str, bool]:
        """This host's id, and whether it owns ``address``."""
        return self._id, self._host.owns(address)

    @in_group("control")
    async def status(self) -> dict[str, Any]:
        """What this host holds, for ``ray-agents status``."""
        return {
            "host": self._id,
            "kind": self._kind,
            "pid": os.getpid(),
            "used": self._used,
            "tenant": str(self._tenant) if self._kind == SOLO and self._tenant else None,
            "entities": [entity.name for entity in self._host.awake],
            "waiting": [str(address) for address in self._pool.waiting],
            "idle_hosts": len(self._pool.idle),
        }

    @in_group("control")
    async def live(self) -> None:
        """Return when this host leaves in good order; never otherwise. Its death is the answer."""
        while not self._left.is_set():  # noqa: ASYNC110 - it is set in another thread's loop
            await asyncio.sleep(0.05)

    async def stop(self, deadline: timedelta) -> None:
        """Seal everything within ``deadline``; then call :meth:`leave`."""
        await self._host.stop(deadline)
        await self._gateway.close()
        self._left.set()

    async def leave(self) -> None:
        """End the process. Everything is synced, and callers look the entity up again.

        Whoever calls now is refused at once and asks elsewhere; a call that meets the end of the
        process is told so only when Ray has noticed, up to a second later. ``exit_actor`` would
        end it seconds later: it waits for calls that this actor has made, and then for every
        thread, for an import that has just begun as for a tool that hangs.
        """
        self._left.set()
        await asyncio.sleep(LEAVE_LINGER.total_seconds())
        closing = asyncio.get_running_loop().run_in_executor(None, self._io.close)
        if (await asyncio.wait({closing}, timeout=LEAVE_BOUND.total_seconds()))[0]:
            sys.stdout.flush()
            RAY.kill(RAY.get_runtime_context().current_actor)
            await asyncio.sleep(LEAVE_BOUND.total_seconds())
            LOGGER.error("Ray does not end host %s, so it ends itself", self._id)
        else:
            LOGGER.error("the file work of host %s does not end; it ends all the same", self._id)
        os._exit(EXIT_STATUS)

    # -- the front ----------------------------------------------------------------------------

    async def offer(self, host: str) -> bool:
        """An idle solo host, from the keeper; whether it was taken at once."""
        await self.start()
        address = self._pool.offer(host, now=self._clock.monotonic(), waits=self._waits)
        if address is None:
            return False
        self._later(self._give(host, address))
        return True

    async def withdraw(self, host: str) -> None:
        """A solo host has died."""
        self._pool.drop(host)

    async def retire(self, host: str) -> bool:
        """Whether a solo host is lent to nobody, now and later."""
        return self._pool.retire(host)

    async def waiting(self) -> int:
        """How many entities wait here for a host."""
        return len(self._pool.waiting)

    async def _give(self, name: str, address: Address) -> None:
        if not await self.hand_over(name, address):
            self._pool.drop(name)
            await self._directory.ask_keeper("returned", name)
        await self._directory.ask_keeper("want", len(self._pool.waiting))

    async def hand_over(self, name: str, address: Address) -> bool:
        """Let the new host ``name`` take over what was accepted here; whether it had to."""
        if not self._waits(address):
            return False
        try:
            answer = await self._directory.activate(name, address, release_from=self._id)
        except (RayError, RayAgentsError) as error:
            LOGGER.warning("%s could not be handed to %s: %s", address, name, error)
            self._host.resume_later(address)
        else:
            if isinstance(answer, Moved):
                self._host.resume_later(address)
            else:
                self._host.forget(address)
        return True

    async def waits(self, address: str) -> bool:
        """Whether the entity waits here for a host."""
        return self._waits(Address.parse(address))

    def _waits(self, address: Address) -> bool:
        entity = self._host.entity(address)
        return entity is not None and entity.waiting_for is not None

    def _place(self, address: Address, last_host: str | None) -> str | None:
        """Where a sleeping entity is to wake, if not here."""
        if self._kind != FRONT:
            return None
        placement = self._definitions.placement(address.type)
        if isinstance(placement, Packed) or placement.resources:
            return None
        spent = actor_name(last_host) if last_host else None
        host = self._pool.lend(address, now=self._clock.monotonic(), spent=spent)
        if host is not None:
            self._later(self._directory.ask_keeper("taken", host))
            self._later(self._reclaim(host))
        return host

    async def _reclaim(self, host: str) -> None:
        """Take a lent host back into the pool if its borrower never came."""
        await asyncio.sleep(LEASE_MAX.total_seconds())
        if not await self._directory.used(host):
            self._pool.drop(host)
            await self._directory.ask_keeper("returned", host)

    def _admit(self, entity: Awake) -> str | None:
        """What a wake must wait for before it runs here."""
        if self._kind == SOLO:
            return None
        if self._asking is None or self._asking.done():
            self._asking = self._later(self._ask_again())
        current = entity.state.current
        if self._kind == PACKED and (current is None or not self._needs_own_host(entity, current)):
            return None
        placement = self._definitions.placement(entity.address.type)
        resources = placement.resources if isinstance(placement, Dedicated) else None
        if self._kind == FRONT and not resources:
            if self._pool.wait(entity.address):
                waiting = len(self._pool.waiting)
                self._later(self._directory.ask_keeper("want", waiting))
            return "a free host"
        self._later(self._directory.ask_keeper("place", str(entity.address), resources, self._id))
        return str(resources) if resources else "a host of its own"

    async def _ask_again(self) -> None:
        """Ask for the hosts that entities here wait for, in case a keeper forgot; then stop."""
        await asyncio.sleep(ASK_AGAIN.total_seconds())
        while waiting := [each for each in self._host.awake if each.waiting_for]:
            for entity in waiting:
                if entity.waiting_for and not entity.leaving:
                    entity.wakeloop.advance()
            await asyncio.sleep(ASK_AGAIN.total_seconds())

    def _needs_own_host(self, entity: Awake, wake: WakeRecorded) -> bool:
        """Whether the wake is to run alone; one that has had all its attempts is parked here."""
        started = wake.status is WakeStatus.STARTED
        spent = started and wake.attempt >= entity.limits_of(wake).attempts_max
        return must_be_alone(wake) and not spent

    # -- leaving ------------------------------------------------------------------------------

    def _show(self) -> None:
        if self._kind == SOLO:
            self._plate.say(str(self._tenant) if self._tenant else "idle")
        else:
            self._plate.say(f"({self._host.size} awake)")

    def _changed(self) -> None:
        """Leave when nobody has been here for a while; the front stays."""
        self._show()
        if self._kind == FRONT or (self._kind == SOLO and not self._used) or not self._empty:
            return
        if self._emptying is None or self._emptying.done():
            linger = timedelta() if self._kind == SOLO else self._settings.packed_linger
            self._emptying = self._later(self._leave_after(linger.total_seconds()))

    @property
    def _empty(self) -> bool:
        return not self._host.size and not self._host.opening

    @property
    def _used(self) -> bool:
        return self._tenant is not None

    async def _leave_after(self, linger: float) -> None:
        left = linger
        while left > 0:
            await asyncio.sleep(left)
            left = self._used_at + linger - self._clock.monotonic()
        if self._empty:
            await self._leave_now()

    async def _leave_when_lost(self) -> None:
        """A host whose own log is lost cannot take anybody in: its name is better free."""
        await self._host.log_lost()
        LOGGER.error("the log of host %s is lost; the host leaves", self._id)
        await self._leave_now()

    def _told_to_end(self, within: timedelta) -> None:
        LOGGER.warning("a SIGTERM: the host seals what it holds and leaves within %s", within)
        self._later(self._leave_now(within * SEAL_SHARE))

    async def _leave_now(self, within: timedelta = LEAVE_BOUND) -> None:
        await asyncio.wait({self._later(self.stop(within))})  # what it raises is in the log
        await self.leave()

    # -- the rest -----------------------------------------------------------------------------

    async def _preload(self) -> None:
        """Import what a first agent run needs, while nobody waits for this host."""
        psutil.cpu_percent()
        for _ in range(PRELOAD_LOOKS_MAX):
            await asyncio.sleep(PRELOAD_AFTER.total_seconds())
            if psutil.cpu_percent() < PRELOAD_BELOW_PERCENT:
                await asyncio.get_running_loop().run_in_executor(None, _preload)
                return

    def _later(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        async def run() -> Any:
            return await work

        task = asyncio.get_running_loop().create_task(run())
        self._background.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            LOGGER.warning("host %s: %s", self._id, error)


def _preload() -> None:
    from ray_agents.models.anthropic import preload

    preload()
