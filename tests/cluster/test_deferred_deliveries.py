"""A target that is out of reach keeps its source neither awake nor waiting for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.calls import Answer, Call, Deliver
from ray_agents.cluster.local import LocalRuntime
from ray_agents.deferral import DeliveryDeferred
from ray_agents.definition import Registry
from ray_agents.errors import RuntimeUnavailable
from ray_agents.events import Operation
from ray_agents.ports import Blobs
from ray_agents.requests import SendRequest
from ray_agents.views import Status
from tests.cluster.clocks import ManualClock
from tests.cluster.conftest import inbox_of, log_of, spawned
from tests.cluster.stores import memory

SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
registry = Registry()
Make = Callable[..., LocalRuntime]


@registry.entity("source", idle_timeout=timedelta(milliseconds=20))
async def source(ctx: Any, wake: Any) -> None:
    for event in ctx.events:
        await ctx.send("/target/t", event.value["payload"])


@registry.entity("target", idle_timeout=timedelta(milliseconds=20))
async def target(ctx: Any, wake: Any) -> None:
    """Only receive."""


class Away:
    """Whether the target is out of reach, and how often it was tried meanwhile."""

    def __init__(self) -> None:
        self.now = True
        self.tries = 0

    def between(self, runtime: LocalRuntime) -> None:
        """Stand between the hosts and the target."""
        call = runtime.hosts.call

        async def tried(address: Address, what: Call) -> Answer:
            if isinstance(what, Deliver) and address.type == "target" and self.now:
                self.tries += 1
                raise RuntimeUnavailable("it is away")
            return await call(address, what)

        object.__setattr__(runtime.hosts, "call", tried)


@pytest.fixture
def away() -> Away:
    return Away()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store() -> Blobs:
    return memory()


@pytest.fixture
async def runtime(store: Blobs, clock: ManualClock, away: Away) -> AsyncIterator[LocalRuntime]:
    async with LocalRuntime(store, clock=clock) as runtime:
        await runtime.register(registry)
        await spawned(runtime, "/target/t")
        away.between(runtime)
        yield runtime


async def deferred(
    runtime: LocalRuntime, clock: ManualClock, wait_until: Any, *, step: timedelta = SECOND
) -> DeliveryDeferred:
    """Let time pass until the source sleeps and waits for its next try; what its log says."""
    s = Address.parse("/source/s")

    async def sleeps() -> bool:
        await clock.advance(step)
        return not runtime.hosts.host.owns(s) and bool(len(runtime.hosts.index))

    await wait_until(sleeps)
    events = [e for e in await log_of(runtime, s) if e.type == DeliveryDeferred.TYPE]
    return DeliveryDeferred.of(events[-1])


async def until_due(clock: ManualClock, waits: DeliveryDeferred) -> None:
    await clock.advance((waits.retry_at - clock.now()) * timedelta(microseconds=1))


async def test_the_source_sleeps_and_tries_again_after_a_growing_delay(
    runtime: LocalRuntime, clock: ManualClock, wait_until: Any, away: Away
) -> None:
    s = await spawned(runtime, "/source/s")
    for text in ("1", "2"):
        await runtime.send(s, SendRequest(payload=text))
    waits = await deferred(runtime, clock, wait_until)
    view = await runtime.inspect(s)
    assert (view.status, view.next_due) == (Status.SLEEPING, waits.retry_at)
    assert (away.tries, waits.tries) == (8, 1)
    before = waits.retry_at
    await until_due(clock, waits)
    await wait_until(lambda: away.tries == 9)
    waits = await deferred(runtime, clock, wait_until)
    assert waits.tries == 2
    assert 2 * MINUTE <= (waits.retry_at - before) * timedelta(microseconds=1) <= 3 * MINUTE
    away.now = False
    await until_due(clock, waits)
    t = Address.parse("/target/t")

    async def arrived() -> bool:
        return len(await inbox_of(runtime, t)) == 2

    await wait_until(arrived)
    assert await inbox_of(runtime, t) == ["1", "2"]
    assert (await runtime.inspect(s)).next_due is None
    await wait_until(lambda: forgotten(runtime, s))


async def forgotten(runtime: LocalRuntime, s: Address) -> bool:
    """Whether the source's log says that it waits for its target no more."""
    rows = [row for row in await log_of(runtime, s) if row.type == DeliveryDeferred.TYPE]
    return rows[-1].operation is Operation.DELETE


async def test_a_target_for_which_nothing_is_left_is_waited_for_no_more(
    runtime: LocalRuntime, clock: ManualClock, wait_until: Any
) -> None:
    s = await spawned(runtime, "/source/s")
    await runtime.send(s, SendRequest(payload="1"))
    await deferred(runtime, clock, wait_until)
    await clock.advance(8 * DAY)
    await wait_until(lambda: forgotten(runtime, s))


async def test_new_messages_to_it_wait_behind_the_old_ones(
    runtime: LocalRuntime, clock: ManualClock, wait_until: Any, away: Away
) -> None:
    s = await spawned(runtime, "/source/s")
    await runtime.send(s, SendRequest(payload="1"))
    first = await deferred(runtime, clock, wait_until)
    await runtime.send(s, SendRequest(payload="2"))
    assert await deferred(runtime, clock, wait_until, step=SECOND / 10) == first
    assert away.tries == 8


async def test_what_is_too_old_is_given_up_and_said(
    runtime: LocalRuntime, clock: ManualClock, wait_until: Any, away: Away
) -> None:
    s = await spawned(runtime, "/source/s")
    await runtime.send(s, SendRequest(payload="1"))
    await deferred(runtime, clock, wait_until)
    await clock.advance(7 * DAY - MINUTE)
    await runtime.send(s, SendRequest(payload="2"))
    await deferred(runtime, clock, wait_until)
    await clock.advance(MINUTE * 59)

    async def said() -> list[str]:
        events = await log_of(runtime, s)
        return [e.value["message"] for e in events if e.type == "error"]

    await wait_until(said)
    (message,) = await said()
    assert "could not be delivered for 7 days: it is away" in message
    await deferred(runtime, clock, wait_until)
    away.now = False
    await clock.advance(timedelta(hours=1))
    t = Address.parse("/target/t")
    await wait_until(lambda: inbox_of(runtime, t))
    assert await inbox_of(runtime, t) == ["2"]


async def test_the_end_of_the_source_is_the_end_of_its_tries(
    runtime: LocalRuntime, clock: ManualClock, wait_until: Any, away: Away
) -> None:
    s = await spawned(runtime, "/source/s")
    await runtime.send(s, SendRequest(payload="1"))
    await wait_until(lambda: away.tries)
    await runtime.kill(s)
    for _ in range(20):
        await clock.advance(SECOND)
    await wait_until(lambda: not runtime.hosts.host.owns(s))
    assert (await runtime.inspect(s)).next_due is None
    assert len(runtime.hosts.index) == 0


async def test_a_crash_loses_neither_the_message_nor_its_next_try(
    runtime: LocalRuntime, store: Blobs, clock: ManualClock, wait_until: Any
) -> None:
    s = await spawned(runtime, "/source/s")
    await runtime.send(s, SendRequest(payload="1"))
    waits = await deferred(runtime, clock, wait_until)
    await runtime.crash()
    async with LocalRuntime(store, clock=clock) as after:
        t = Address.parse("/target/t")
        await clock.advance(SECOND)
        assert await inbox_of(after, t) == []
        await until_due(clock, waits)
        await wait_until(lambda: inbox_of(after, t))
        assert await inbox_of(after, t) == ["1"]


def test_the_row_of_a_target_takes_the_place_of_the_one_before() -> None:
    row = DeliveryDeferred(target="/a/b", retry_at=1, tries=1, error="gone")
    assert (row.draft().key, row.ended().key) == ("/a/b", "/a/b")
    assert (row.draft().operation, row.ended().operation) == (Operation.UPSERT, Operation.DELETE)
