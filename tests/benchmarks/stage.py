"""A runtime to be measured: a private Ray on a fresh store, and entities that do next to nothing.

The types are shipped by value, as from a notebook. ``nap`` in a name means that the entity falls
asleep at once; the others stay awake until they are told otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import psutil

from ray_agents.address import Address
from ray_agents.cluster.attach import Attachment, ClusterRuntime
from ray_agents.cluster.clock import SystemClock
from ray_agents.cluster.launch import join_ray, start_ray, stop_ray
from ray_agents.cluster.processes import trees_of
from ray_agents.cluster.running import RunningRay
from ray_agents.cluster.sockets import free_ports
from ray_agents.cluster.untyped import import_ray
from ray_agents.definition import Dedicated, Packed, Registry
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.settings import Settings
from ray_agents.views import Reply, Status

T = TypeVar("T")
R = TypeVar("R")
PATIENCE = timedelta(seconds=60)
POLL = timedelta(milliseconds=20)
STAY = timedelta(minutes=30)
NAP = timedelta(milliseconds=50)
PACKED_HOSTS = 2
POOL_SIZE = 2

registry = Registry()


async def handler_began(ctx: Any, wake: Any) -> int:
    """Return when it began: nanoseconds since the epoch."""
    return time.time_ns()


for _name, _placement, _idle in (
    ("packed", Packed(hosts=PACKED_HOSTS), STAY),
    ("packed-nap", Packed(hosts=PACKED_HOSTS), NAP),
    ("dedicated", Dedicated(), STAY),
    ("dedicated-nap", Dedicated(), NAP),
):
    registry.define(_name, handler=handler_began, idle_timeout=_idle, placement=_placement)


@dataclass(frozen=True, slots=True)
class Stage:
    """The runtime under measurement and what is needed to look at it from outside."""

    settings: Settings
    runtime: ClusterRuntime
    running: RunningRay

    async def spawn(self, address: Address) -> None:
        """Create an entity."""
        await self.runtime.spawn(address, SpawnRequest())

    async def ask(self, address: Address) -> Reply:
        """One message, sent to handled."""
        return await self.runtime.ask(address, SendRequest(payload="x"), within=PATIENCE)

    async def asleep(self, address: Address) -> None:
        """Return when the entity sleeps."""
        await until(lambda: self._status_is(address, Status.SLEEPING), f"{address} asleep")

    async def _status_is(self, address: Address, status: Status) -> bool:
        return (await self.runtime.inspect(address)).status is status

    async def pool_filled(self) -> None:
        """Return when the pool holds as many idle hosts as it should and starts none."""
        await until(self._is_pool_filled, "the pool filled")

    async def _is_pool_filled(self) -> bool:
        status: dict[str, Any] = await self.runtime.keeper_status()
        return status["idle"] >= POOL_SIZE and not status["starting"]

    async def awake(self) -> list[str]:
        """The names of all entities awake in the packed hosts."""
        names, namespace = list[str](), self.runtime.namespace
        for number in range(PACKED_HOSTS):
            with contextlib.suppress(ValueError):  # a host that has left holds nobody
                host = import_ray().get_actor(f"packed-{number}", namespace=namespace)
                names += (await host.status.remote())["entities"]
        return names

    def cpu_seconds(self) -> float:
        """The processor time that all our living processes have used."""
        used = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
        return used

    def processes(self) -> list[psutil.Process]:
        """Every process of ours: this one, Ray's daemons and all hosts."""
        return [psutil.Process(), *trees_of(self.running.processes)]


async def until(true: Callable[[], Awaitable[bool]], what: str) -> None:
    """Return when ``true`` is; a measurement may wait for its start by polling.

    Raises:
        TimeoutError: it takes longer than a minute.
    """
    end = time.monotonic() + PATIENCE.total_seconds()
    while not await true():
        if time.monotonic() > end:
            message = f"not within {PATIENCE}: {what}"
            raise TimeoutError(message)
        await SystemClock().sleep(POLL)


async def at_once(
    work: Callable[[T], Awaitable[R]], items: Iterable[T], *, concurrent_max: int
) -> list[R]:
    """``work`` on every item, a bounded number at a time; the results in the items' order."""
    slots = asyncio.Semaphore(concurrent_max)

    async def one(item: T) -> R:
        async with slots:
            return await work(item)

    return await asyncio.gather(*(one(item) for item in items))


@contextlib.asynccontextmanager
async def staged(store: str, *, model_url: str) -> AsyncGenerator[Stage]:
    """A runtime on a new store, ended with everything it started; its model is at ``model_url``."""
    settings = Settings(
        store=store,
        http_port=free_ports(1)[0],
        pool_size=POOL_SIZE,
        packed_hosts=PACKED_HOSTS,
        anthropic_base_url=model_url,
        anthropic_api_key="stand-in",
    )
    running = start_ray(settings)
    try:
        join_ray(running)
        async with ClusterRuntime(settings, Attachment()) as runtime:
            await runtime.register(registry)
            stage = Stage(settings=settings, runtime=runtime, running=running)
            await stage.pool_filled()
            yield stage
            await runtime.stop_hosts()
    finally:
        import_ray().shutdown()
        stop_ray(settings)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))
