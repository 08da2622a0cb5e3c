"""A disk that becomes full under a runtime: every send is refused with 507, and on it goes."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.calls import Release
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.errors import StoreFull
from ray_agents.log import posix
from ray_agents.requests import SendRequest
from tests.cluster import gates
from tests.cluster.conftest import ask, inbox_of, log_of, spawned
from tests.faults.system import FailingSystem, Failure

FULL = Failure(at=0, error=errno.ENOSPC, lasting=True)
registry = Registry()


@registry.entity("calm", idle_timeout=timedelta(hours=1))
async def calm(ctx: Any, wake: Any) -> Any:
    return wake.payload


@registry.entity(
    "gated", idle_timeout=timedelta(hours=1), limits=Limits(retry_delay=timedelta(milliseconds=1))
)
async def gated(ctx: Any, wake: Any) -> Any:
    await gates.wait("gate")
    return wake.payload


@pytest.fixture(autouse=True)
def gates_are_shut() -> Any:
    gates.reset()
    yield
    gates.reset()


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> FailingSystem:
    system = FailingSystem()
    monkeypatch.setattr(posix, "os", system)
    return system


@pytest.fixture
async def runtime(tmp_path: Path, system: FailingSystem) -> AsyncIterator[LocalRuntime]:
    async with LocalRuntime(str(tmp_path)) as runtime:
        await runtime.register(registry)
        yield runtime


@pytest.mark.parametrize("awake", [True, False])
async def test_sends_are_refused_with_507_and_accepted_again(
    runtime: LocalRuntime, system: FailingSystem, awake: bool
) -> None:
    c = await spawned(runtime, "/calm/c")
    assert (await ask(runtime, c, 0)).value == 0
    if not awake:
        await runtime.hosts.call(c, Release())
    system.failure = FULL
    for number in (1, 2, 3):
        with pytest.raises(StoreFull) as refused:
            await runtime.send(c, SendRequest(payload=number))
        assert refused.value.status == 507
    system.failure = None
    assert (await ask(runtime, c, 4)).value == 4
    assert await inbox_of(runtime, c) == [0, 4]


async def test_a_wake_that_could_not_be_recorded_is_resumed_when_there_is_space(
    runtime: LocalRuntime, system: FailingSystem, wait_until: Any
) -> None:
    g = await spawned(runtime, "/gated/g")
    await runtime.send(g, SendRequest(payload=1, id="m1"))
    await gates.reached["gate"].wait()
    system.failure = FULL
    gates.opened["gate"].set()
    await wait_until(lambda: not runtime.hosts.host.awake)
    system.failure = None

    async def handled() -> bool:
        return await handled_once(runtime, g) == ["m1"]

    await wait_until(handled)


async def handled_once(runtime: LocalRuntime, address: Address) -> list[str]:
    """The messages that were handled; none twice."""
    events = await log_of(runtime, address)
    ends = [e.value for e in events if e.type == "wake" and e.value["status"] == "handled"]
    inbox = [event for event in events if event.type == "inbox"]
    keys = [
        event.key
        for event in inbox
        for end in ends
        if end["from_offset"] <= event.offset < end["to_offset"]
    ]
    assert len(set(keys)) == len(keys)
    assert len({event.key for event in inbox}) == len(inbox)
    return keys


@pytest.mark.parametrize("calls", range(1, 15, 2))
async def test_a_disk_that_is_full_for_a_while_loses_nothing_and_doubles_nothing(
    runtime: LocalRuntime, system: FailingSystem, wait_until: Any, calls: int
) -> None:
    """It becomes full at any call; who sent sends again until that is acknowledged."""
    addresses = [await spawned(runtime, f"/calm/c{number}") for number in range(3)]
    system.failure = replace(FULL, at=len(system.calls) + calls)
    sends = [
        asyncio.create_task(send_until_accepted(runtime, address, f"m{number}"))
        for address in addresses
        for number in range(4)
    ]
    await wait_until(lambda: system.failed or all(send.done() for send in sends))
    system.failure = None
    await asyncio.gather(*sends)
    for address in addresses:

        async def all_handled(address: Address = address) -> bool:
            return sorted(await handled_once(runtime, address)) == ["m0", "m1", "m2", "m3"]

        await wait_until(all_handled)


async def send_until_accepted(runtime: LocalRuntime, address: Address, id: str) -> None:
    while True:
        try:
            await runtime.send(address, SendRequest(payload=1, id=id))
        except StoreFull:
            await asyncio.sleep(0)
        else:
            return
