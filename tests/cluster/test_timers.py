"""The one task that waits for what is due next: it is there whenever something is pending."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from ray_agents.address import Address
from ray_agents.cluster.calls import Due
from ray_agents.cluster.local import LocalRuntime
from ray_agents.cluster.timers import Timers
from ray_agents.definition import Registry
from ray_agents.projection import State
from ray_agents.requests import SendRequest, SpawnRequest
from tests.cluster.clocks import BEGIN, ManualClock
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


def timers_of(outbox: Any, **services: Any) -> Timers:
    """The timers of an entity for which only its outbox has anything due."""
    entity: Any = SimpleNamespace(
        address=Address.of("note", "n"),
        name="/note/n",
        leaving=False,
        state=State(),
        owner=SimpleNamespace(epoch=1),
        services=SimpleNamespace(**services),
    )
    nobody: Any = None
    return Timers(entity, arrives=nobody, fired=nobody, outbox=outbox)


async def test_a_clock_that_is_set_is_noticed_within_a_minute() -> None:
    clock = ManualClock()
    outbox = SimpleNamespace(next_due=BEGIN + 3_600_000_000)
    timers = timers_of(outbox, clock=clock)
    timers.advance()
    await clock.advance(timedelta(0))
    assert [*clock.sleepers.values()] == [BEGIN + 60_000_000]
    outbox.next_due = None
    await timers.stop()


async def test_a_time_that_changes_while_the_index_is_told_is_told_anew() -> None:
    told: list[int | None] = []
    outbox = SimpleNamespace(next_due=2_000)

    async def register(due: Due) -> None:
        told.append(due.at)
        outbox.next_due = 1_000

    timers = timers_of(outbox, clock=ManualClock(), register=register)
    assert [await timers.agree(), timers.agreed] == [False, False]
    assert [await timers.agree(), timers.agreed] == [True, True]
    assert told == [2_000, 1_000]
    timers.called()
    assert not timers.agreed  # the index calls nobody twice who has not told it anew
