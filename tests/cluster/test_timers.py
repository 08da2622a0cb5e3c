"""The one task that waits for what is due next: it is there whenever something is pending."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.requests import SendRequest, SpawnRequest
from tests.cluster.clocks import ManualClock
from tests.cluster.conftest import inbox_of, spawned

registry = Registry()


@registry.entity("note")
async def note(ctx: Any, wake: Any) -> None:
    """Only receive."""


def later(seconds: float) -> SendRequest:
    return SendRequest(payload=seconds, after_seconds=seconds)


async def test_a_life_that_begins_in_the_instant_another_ends_has_timers(wait_until: Any) -> None:
    clock = ManualClock()
    async with LocalRuntime("memory:", clock=clock) as runtime:
        await runtime.register(registry)
        n = await spawned(runtime, "/note/n")
        await runtime.send(n, later(0.5))
        again = runtime.spawn(n, SpawnRequest())
        await asyncio.gather(runtime.kill(n), again, runtime.send(n, later(1)))
        await clock.advance(timedelta(seconds=1))
        await wait_until(lambda: inbox_of(runtime, n))
        assert await inbox_of(runtime, n) == [1]
