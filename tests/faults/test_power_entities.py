"""Power fails under entities: what their senders were told stands in their logs afterwards."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from threading import Event
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.errors import StoreUnavailable
from ray_agents.ports import Appender, Blobs
from ray_agents.requests import SendRequest
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.testing.lossy_blobs import LossyBlobs
from ray_agents.views import Receipt
from tests.cluster.conftest import log_of, spawned
from tests.faults.test_log_unsynced import Worst

BROKEN = StoreUnavailable("the process dies here", path="")
MESSAGE = SendRequest(payload=1, id="m1")
registry = Registry()


@registry.entity("calm", idle_timeout=timedelta(hours=1))
async def calm(ctx: Any, wake: Any) -> Any:
    return wake.payload


async def sent_in_vain(disk: LossyBlobs) -> Address:
    """A message whose row is written and not synced, by a process that dies then."""
    blobs = FaultyBlobs(disk)
    async with LocalRuntime(blobs) as runtime:
        await runtime.register(registry)
        c = await spawned(runtime, "/calm/c")
        blobs.refuse["sync"] = BROKEN
        with pytest.raises(StoreUnavailable):
            await runtime.send(c, MESSAGE)
        await runtime.crash()
    return c


async def sent_again(blobs: Blobs, address: Address) -> Receipt:
    """The same message to the next owner, in a process that dies as soon as it has answered."""
    async with LocalRuntime(blobs) as runtime:
        try:
            return await runtime.send(address, MESSAGE)
        finally:
            await runtime.crash()


async def offsets_of_the_message(disk: LossyBlobs, address: Address) -> list[int]:
    async with LocalRuntime(disk) as runtime:
        events = await log_of(runtime, address)
        return [event.offset for event in events if (event.type, event.key) == ("inbox", "m1")]


class Hanging(FaultyBlobs):
    """A process of which every sync of an entity's log hangs until it is ``over``, and fails."""

    def __init__(self, inner: Blobs) -> None:
        super().__init__(inner)
        self.hangs, self.over = Event(), Event()

    def append(self, name: str) -> Appender:
        file = super().append(name)
        return HangingFile(self, file) if name.startswith("entities/") else file


class HangingFile:
    def __init__(self, blobs: Hanging, file: Appender) -> None:
        self._blobs = blobs
        self.write, self.close = file.write, file.close

    def sync(self) -> None:
        self._blobs.hangs.set()
        self._blobs.over.wait()
        raise BROKEN


async def test_a_retry_that_the_next_owner_answers_from_the_log_survives_a_power_failure() -> None:
    disk = LossyBlobs()
    c = await sent_in_vain(disk)
    receipt = await sent_again(disk, c)
    assert receipt.duplicate
    assert await offsets_of_the_message(disk.after_power_loss(Worst()), c) == [receipt.offset]


async def test_a_retry_is_not_answered_before_what_was_taken_over_is_durable(
    wait_until: Any,
) -> None:
    disk = LossyBlobs()
    c = await sent_in_vain(disk)
    blobs = Hanging(disk)
    runtime = LocalRuntime(blobs)
    await runtime.hosts.open(recover=False)
    retry = asyncio.create_task(runtime.send(c, MESSAGE))
    await wait_until(blobs.hangs.is_set)
    for _ in range(100):
        await asyncio.sleep(0)
    answered = retry.done()
    blobs.over.set()
    await asyncio.gather(retry, return_exceptions=True)
    await runtime.crash()
    assert not answered
    assert await offsets_of_the_message(disk.after_power_loss(Worst()), c) == []
