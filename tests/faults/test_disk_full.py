"""A disk that becomes full under a runtime: every send is refused with 507, and on it goes."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
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
from ray_agents.requests import SendRequest, SpawnRequest
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


async def test_sends_to_an_awake_entity_are_refused_and_accepted_again(
    runtime: LocalRuntime, system: FailingSystem
) -> None:
    c = await spawned(runtime, "/calm/c")
    assert (await ask(runtime, c, 0)).value == 0
    system.failure = FULL
    for number in (1, 2, 3):
        with pytest.raises(StoreFull) as refused:
            await runtime.send(c, SendRequest(payload=number))
        assert refused.value.status == 507
    system.failure = None
    assert (await ask(runtime, c, 4)).value == 4
    assert await inbox_of(runtime, c) == [0, 4]
