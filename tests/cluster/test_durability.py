"""What an acknowledgement is worth is said wherever an entity or a receipt is shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.definitions import Definitions
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.log.memory import MemoryBlobs
from ray_agents.ports import Blobs
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.views import Durability, Status

SOON = timedelta(seconds=5)


def registry(durability: Durability) -> Registry:
    types = Registry()

    @types.entity("echo", durability=durability, idle_timeout=timedelta(0))
    async def echo(ctx: Any, wake: Any) -> Any:
        return wake.payload

    return types


@pytest.fixture
def blobs() -> Blobs:
    return MemoryBlobs()


@pytest.fixture
async def runtime(blobs: Blobs) -> AsyncIterator[LocalRuntime]:
    async with LocalRuntime(blobs) as runtime:
        yield runtime


@pytest.mark.parametrize("durability", list(Durability))
async def test_a_receipt_and_a_view_name_the_durability_of_the_type(
    runtime: LocalRuntime, durability: Durability
) -> None:
    await runtime.register(registry(durability))
    ada = Address.of("echo", "ada")
    view = await runtime.spawn(ada, SpawnRequest())
    receipt = await runtime.send(ada, SendRequest(payload="x"))
    assert (view.durability, receipt.durability) == (durability, durability)


@pytest.mark.parametrize("durability", list(Durability))
async def test_a_sleeper_is_as_durable_as_its_type(blobs: Blobs, durability: Durability) -> None:
    ada = Address.of("echo", "ada")
    async with LocalRuntime(blobs) as runtime:
        await runtime.register(registry(durability))
        await runtime.spawn(ada, SpawnRequest())
        await runtime.ask(ada, SendRequest(payload="x"), within=SOON)
    async with LocalRuntime(blobs) as later:
        view = await later.inspect(ada)
    assert (view.status, view.durability) == (Status.SLEEPING, durability)


async def test_another_durability_is_another_version(runtime: LocalRuntime) -> None:
    (first,) = await runtime.register(registry(Durability.SYNC))
    (second,) = await runtime.register(registry(Durability.BATCH))
    assert (first.durability, second.durability) == (Durability.SYNC, Durability.BATCH)
    assert second.version == first.version + 1


def test_the_durability_of_a_version_is_read_once(blobs: Blobs) -> None:
    definitions = Definitions(blobs)
    for definition in registry(Durability.BATCH):
        definitions.register(definition)
    assert definitions.durability("echo") is Durability.BATCH
    blobs.delete("types/echo/000001.json")
    assert definitions.durability("echo") is Durability.BATCH


def test_who_lists_a_sleeper_of_no_known_type_is_not_told_of_that(blobs: Blobs) -> None:
    assert Definitions(blobs).durability("echo") is Durability.SYNC
    blobs.create("types/echo/000001.json", b"damaged")
    assert Definitions(blobs).durability("echo") is Durability.SYNC
