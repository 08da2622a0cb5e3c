"""Runtimes for the tests of entities and hosts, without Ray and with, and looks at a log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.cluster.sockets import free_ports
from ray_agents.errors import UnknownEntity
from ray_agents.events import Event
from ray_agents.ports import Blobs, Runtime
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.settings import Settings
from ray_agents.views import Reply
from tests.cluster import gates

if TYPE_CHECKING:
    from ray_agents.client import Client
    from tests.cluster.rig import Rig

SOON = timedelta(seconds=10)
Spawn = Callable[..., Awaitable[Address]]


@pytest.fixture(autouse=True)
def gates_are_shut() -> Iterator[None]:
    gates.reset()
    yield
    gates.reset()


@pytest.fixture(params=["memory", "directory"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str | Blobs:
    """Both media."""
    from ray_agents.log.store import open_blobs

    if request.param == "memory":
        return open_blobs("memory:")
    return open_blobs(str(tmp_path_factory.mktemp("store")))


@pytest.fixture
async def runtime() -> AsyncIterator[LocalRuntime]:
    async with LocalRuntime("memory:") as runtime:
        yield runtime


async def spawned(runtime: Runtime, address: str) -> Address:
    where = Address.parse(address)
    await runtime.spawn(where, SpawnRequest())
    return where


async def ask(runtime: Runtime, address: Address, payload: object, id: str | None = None) -> Reply:
    return await runtime.ask(address, SendRequest(payload=payload, id=id), within=SOON)


async def log_of(runtime: Runtime, address: Address) -> list[Event]:
    return [event async for event in runtime.observe(address, live=False)]


async def inbox_of(runtime: Runtime, address: Address) -> list[object]:
    """The payloads that ever reached an entity."""
    try:
        events = await log_of(runtime, address)
    except UnknownEntity:  # nobody there yet
        return []
    return [event.value["payload"] for event in events if event.type == "inbox"]


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A runtime with a pool of one; it may lose hosts, never its daemons."""
    from tests.cluster.rig import Rig

    settings = Settings(
        store=str(tmp_path_factory.mktemp("rig") / "store"),
        http_port=free_ports(1)[0],
        num_cpus=2,
        pool_size=1,
    )
    rig = Rig(settings)
    rig.start()
    yield rig
    rig.stop()


@pytest.fixture(scope="session")
def client(rig: Rig) -> Iterator[Client]:
    """A client of it."""
    with rig.joined() as client:
        yield client


async def turn_until(predicate: Callable[[], object]) -> None:
    """Give the loop turns until ``predicate`` holds: finer than any time to wait."""
    while not predicate():  # noqa: ASYNC110 - no event tells of these instants
        await asyncio.sleep(0)
