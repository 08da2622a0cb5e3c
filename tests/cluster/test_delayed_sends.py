"""A delayed send enters the inbox once, when it is due and not before, whoever sleeps or dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from ray_agents.address import Address
from ray_agents.cluster.calls import Activate, Answer, Call, Due, Moved
from ray_agents.cluster.folders import HOSTS, INDEX
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.errors import (
    BacklogFull,
    EntityGone,
    InvalidPayload,
    MessageConflict,
    PayloadTooLarge,
    RayAgentsError,
    RuntimeUnavailable,
    UnknownEntity,
)
from ray_agents.ports import Blobs
from ray_agents.projection import fold
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.views import Status
from tests.cluster.clocks import BEGIN, ManualClock
from tests.cluster.conftest import inbox_of, log_of, spawned, turn_until
from tests.cluster.stores import DyingBlobs, memory

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
IDLE = timedelta(milliseconds=20)
Sleep = Callable[..., Awaitable[None]]
registry = Registry()


class Order(BaseModel):
    n: int


@registry.entity("note", idle_timeout=IDLE)
async def note(ctx: Any, wake: Any) -> None:
    """Only receive."""


@registry.entity(
    "strict",
    inbox_schemas={"order": Order},
    limits=Limits(schedules_max=2, message_bytes_max=100, backlog_max=3),
)
async def strict(ctx: Any, wake: Any) -> None:
    """Only receive."""


@registry.entity("relay", limits=Limits(retry_delay=timedelta(0)))
async def relay(ctx: Any, wake: Any) -> None:
    """Send on with a delay; the first attempt fails after it has committed that."""
    await ctx.send("/note/n", "later", after=timedelta(seconds=wake.payload))
    await ctx.commit()
    if wake.attempt == 1:
        raise ValueError("not yet")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def runtime(clock: ManualClock) -> AsyncIterator[LocalRuntime]:
    async with LocalRuntime("memory:", clock=clock) as runtime:
        await runtime.register(registry)
        yield runtime


def later(after: timedelta, payload: object = "later", id: str = "m1") -> SendRequest:
    return SendRequest(payload=payload, id=id, after_seconds=after.total_seconds())


async def asleep(runtime: LocalRuntime, clock: ManualClock, address: Address) -> None:
    """Let the idle timeout pass, and the entity fall asleep."""
    await turn_until(lambda: not any(entity.busy for entity in runtime.hosts.host.awake))
    await clock.advance(2 * IDLE)
    await turn_until(lambda: not runtime.hosts.host.owns(address))


# -- while it is awake -------------------------------------------------------------------------


async def test_it_enters_the_inbox_when_it_is_due_and_not_before(
    runtime: LocalRuntime, clock: ManualClock, wait_until: Any
) -> None:
    n = await spawned(runtime, "/note/n")
    receipt = await runtime.send(n, later(3 * SECOND))
    assert receipt.fire_at == BEGIN + 3_000_000
    await clock.advance(3 * SECOND - timedelta(microseconds=1))
    assert await inbox_of(runtime, n) == []
    await clock.advance(timedelta(microseconds=1))
    await wait_until(lambda: inbox_of(runtime, n))
    assert await inbox_of(runtime, n) == ["later"]
    assert (await runtime.inspect(n)).next_due is None


async def test_many_come_in_the_order_of_their_due_times(
    runtime: LocalRuntime, clock: ManualClock, wait_until: Any
) -> None:
    n = await spawned(runtime, "/note/n")
    for seconds in (4, 2, 3, 1, 2):
        await runtime.send(n, later(seconds * SECOND, seconds, id=f"m{clock.fresh_id()}"))
    assert len([task for task in asyncio.all_tasks() if task.get_name() == f"timers:{n}"]) == 1
    await clock.advance(2 * SECOND)
    await wait_until(lambda: inbox_of(runtime, n))
    assert await inbox_of(runtime, n) == [1, 2, 2]
    await clock.advance(2 * SECOND)
    await wait_until(lambda: not runtime.hosts.host.awake[0].state.timers)
    await wait_until(lambda: not runtime.hosts.host.awake[0].busy)
    assert await inbox_of(runtime, n) == [1, 2, 2, 3, 4]


async def test_inbox_row_and_end_of_the_schedule_stand_side_by_side(
    runtime: LocalRuntime, clock: ManualClock, wait_until: Any
) -> None:
    n = await spawned(runtime, "/note/n")
    receipt = await runtime.send(n, later(SECOND))
    await clock.advance(SECOND)
    await wait_until(lambda: inbox_of(runtime, n))
    events = await log_of(runtime, n)
    (row,) = [event for event in events if event.type == "inbox"]
    pending, sent = [event for event in events if event.type == "manifest"]
    assert (row.key, sent.offset) == ("m1", row.offset + 1)
    assert (pending.offset, pending.key) == (receipt.offset, "schedule:m1")
    assert {**pending.value, "status": "sent", "sent_at": clock.now()} == {
        **sent.value,
        "payload": "later",
    }
    assert pending.value["schedule_type"] == "future_send"


async def test_the_same_id_is_the_same_message_before_and_after_it_is_due(
    runtime: LocalRuntime, clock: ManualClock, wait_until: Any
) -> None:
    n = await spawned(runtime, "/note/n")
    first = await runtime.send(n, later(SECOND))
    for _ in range(2):
        again = await runtime.send(n, later(9 * HOUR))
        at_once = await runtime.send(n, SendRequest(payload="later", id="m1"))
        assert {again.offset, at_once.offset} == {first.offset}
        assert again.duplicate
        assert at_once.duplicate
        with pytest.raises(MessageConflict):
            await runtime.send(n, later(SECOND, "other"))
        await clock.advance(SECOND)
        await wait_until(lambda: inbox_of(runtime, n))
    assert await inbox_of(runtime, n) == ["later"]


async def test_the_same_id_is_known_while_its_row_is_being_written(
    runtime: LocalRuntime, clock: ManualClock
) -> None:
    n = await spawned(runtime, "/note/n")
    first = await runtime.send(n, later(SECOND))
    entity = runtime.hosts.host.entity(n)
    assert entity is not None
    firing = asyncio.create_task(entity.timers.fire(clock.now() + 1_000_000))
    await turn_until(lambda: not entity.state.timers)
    assert (await runtime.send(n, SendRequest(payload="later", id="m1"))).offset == first.offset
    await firing
    assert await inbox_of(runtime, n) == ["later"]


async def test_what_does_not_fit_is_refused_at_once(runtime: LocalRuntime) -> None:
    s = await spawned(runtime, "/strict/s")
    with pytest.raises(InvalidPayload, match="order"):
        await runtime.send(s, SendRequest(payload={}, type="order", after_seconds=1))
    with pytest.raises(PayloadTooLarge):
        await runtime.send(s, later(SECOND, "x" * 100))
    for number in range(2):
        await runtime.send(s, later(HOUR, number, id=str(number)))
    with pytest.raises(BacklogFull, match="schedules_max"):
        await runtime.send(s, later(HOUR))
    with pytest.raises(UnknownEntity):
        await runtime.send(Address.parse("/strict/nobody"), later(HOUR))
    with pytest.raises(InvalidPayload, match="after_seconds"):
        await runtime.ask(s, later(HOUR), within=SECOND)


async def test_the_end_of_a_life_is_the_end_of_its_timers(
    runtime: LocalRuntime, clock: ManualClock, wait_until: Any
) -> None:
    n = await spawned(runtime, "/note/n")
    await runtime.send(n, later(SECOND))
    await runtime.kill(n)
    assert (await runtime.inspect(n)).schedules == 0
    with pytest.raises(EntityGone):
        await runtime.send(n, later(SECOND))
    await runtime.spawn(n, SpawnRequest())
    await runtime.send(n, later(2 * SECOND, "of the new life"))
    await clock.advance(HOUR)
    await wait_until(lambda: inbox_of(runtime, n))
    assert await inbox_of(runtime, n) == ["of the new life"]


# -- while it sleeps ---------------------------------------------------------------------------


async def test_a_sleeper_costs_nothing_and_is_woken_when_it_is_due(
    runtime: LocalRuntime, clock: ManualClock, wait_until: Any
) -> None:
    n = await spawned(runtime, "/note/n")
    await runtime.send(n, later(HOUR))
    await asleep(runtime, clock, n)
    assert not [task for task in asyncio.all_tasks() if str(n) in task.get_name()]
    view = await runtime.inspect(n)
    assert (view.status, view.schedules, view.next_due) == (
        Status.SLEEPING,
        1,
        BEGIN + 3_600_000_000,
    )
    assert len(runtime.hosts.index) == 1
    await clock.advance(HOUR - SECOND)
    assert not runtime.hosts.host.owns(n)
    await clock.advance(SECOND)
    await wait_until(lambda: inbox_of(runtime, n))
    await wait_until(lambda: not len(runtime.hosts.index))
    await asleep(runtime, clock, n)
    assert await inbox_of(runtime, n) == ["later"]


async def test_an_earlier_one_moves_the_due_time_of_a_sleeper(
    runtime: LocalRuntime, clock: ManualClock, wait_until: Any
) -> None:
    n = await spawned(runtime, "/note/n")
    for after, name in ((HOUR, "second"), (HOUR / 2, "first")):
        await runtime.send(n, later(after, name, id=name))
        await asleep(runtime, clock, n)
    await clock.advance(HOUR / 2)
    await wait_until(lambda: inbox_of(runtime, n))
    await asleep(runtime, clock, n)
    assert await inbox_of(runtime, n) == ["first"]
    await clock.advance(HOUR / 2)
    await wait_until(lambda: not len(runtime.hosts.index))
    assert await inbox_of(runtime, n) == ["first", "second"]


async def test_a_killed_sleeper_is_forgotten(runtime: LocalRuntime, clock: ManualClock) -> None:
    n = await spawned(runtime, "/note/n")
    await runtime.send(n, later(HOUR))
    await asleep(runtime, clock, n)
    await runtime.kill(n)
    await asleep(runtime, clock, n)
    assert len(runtime.hosts.index) == 0


async def test_an_entity_whose_index_is_out_of_reach_stays_awake_and_fires_by_itself(
    runtime: LocalRuntime,
    clock: ManualClock,
    wait_until: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[Due] = []

    async def out_of_reach(due: Due) -> None:
        asked.append(due)
        raise RuntimeUnavailable("no keeper")

    n = await spawned(runtime, "/note/n")
    entity = runtime.hosts.host.entity(n)
    assert entity is not None
    register = entity.services.register
    object.__setattr__(entity.services, "register", out_of_reach)
    await runtime.send(n, later(HOUR))
    with caplog.at_level(logging.WARNING):
        for second in range(1, 17):
            await clock.advance(SECOND)
            await wait_until(lambda when=second: len(asked) >= when.bit_length())
    assert runtime.hosts.host.owns(n)
    assert len(asked) == 5  # it asked again after 1, 2, 4 and 8 seconds
    assert "stays awake" in caplog.text
    await clock.advance(HOUR)
    await wait_until(lambda: inbox_of(runtime, n))
    await runtime.send(n, later(HOUR, id="m2"))
    object.__setattr__(entity.services, "register", register)
    await clock.advance(timedelta(minutes=2))
    await wait_until(lambda: not runtime.hosts.host.owns(n))
    assert len(runtime.hosts.index) == 1


async def test_an_owner_of_the_past_does_not_answer_the_index() -> None:
    store, clock = memory(), ManualClock()
    async with LocalRuntime(store, clock=clock) as old:
        await old.register(registry)
        n = await spawned(old, "/note/n")
        old.hosts.isolate()
        async with LocalRuntime(store, clock=clock) as new:
            await new.send(n, later(HOUR))
            answer = await old.hosts.host.call(n, Activate(due=clock.now()))
            assert answer == Moved(host=new.hosts.id)
            await old.hosts.crash()


# -- from a handler ----------------------------------------------------------------------------


async def test_a_handler_sends_with_a_delay_once(
    runtime: LocalRuntime, clock: ManualClock, wait_until: Any
) -> None:
    n, r = await spawned(runtime, "/note/n"), await spawned(runtime, "/relay/r")
    await runtime.send(r, SendRequest(payload=3600))
    await wait_until(lambda: not any(entity.busy for entity in runtime.hosts.host.awake))
    view = await runtime.inspect(n)
    assert (view.schedules, view.next_due) == (1, BEGIN + 3_600_000_000)
    assert (await runtime.inspect(r)).parked == ()
    await clock.advance(HOUR)
    await wait_until(lambda: inbox_of(runtime, n))
    assert await inbox_of(runtime, n) == ["later"]


# -- crashes -----------------------------------------------------------------------------------


async def test_after_the_loss_of_everything_what_was_missed_fires_oldest_first(
    store: Blobs, clock: ManualClock, wait_until: Any
) -> None:
    before = LocalRuntime(store, clock=clock)
    async with before:
        await before.register(registry)
        notes = [await spawned(before, f"/note/n{number}") for number in range(20)]
        for number, n in enumerate(notes):
            await before.send(n, later(HOUR - number * SECOND, number))
        await clock.advance(2 * IDLE)
        await turn_until(lambda: not before.hosts.host.awake)
        assert len(before.hosts.index) == 20
        await before.crash()
    await clock.advance(2 * HOUR)
    after = LocalRuntime(store, clock=clock)
    woken: list[Address] = []
    answer = after.hosts.host.call

    async def seen(address: Address, call: Call) -> Answer:
        if isinstance(call, Activate) and call.due is not None:
            woken.append(address)
        return await answer(address, call)

    after.hosts.host.call = seen
    async with after:
        await wait_until(lambda: not len(after.hosts.index))
        assert woken == notes[::-1]
        for number, n in enumerate(notes):
            assert await inbox_of(after, n) == [number]


async def test_an_entity_that_was_awake_is_taken_up_with_its_timers(
    store: Blobs, clock: ManualClock, wait_until: Any
) -> None:
    before = LocalRuntime(store, clock=clock)
    async with before:
        await before.register(registry)
        n = await spawned(before, "/note/n")
        await before.send(n, later(HOUR))
        await before.crash()
    async with LocalRuntime(store, clock=clock) as after:
        assert after.hosts.host.owns(n)
        await asleep(after, clock, n)
        await clock.advance(HOUR)
        await wait_until(lambda: inbox_of(after, n))
        assert await inbox_of(after, n) == ["later"]


async def test_an_entity_that_was_sealed_before_the_index_knew_is_taken_up(
    store: Blobs, clock: ManualClock
) -> None:
    async with LocalRuntime(store, clock=clock) as before:
        await before.register(registry)
        n = await spawned(before, "/note/n")
        await before.send(n, later(HOUR))
    async with LocalRuntime(store, clock=clock) as after:
        assert after.hosts.host.owns(n)
        await asleep(after, clock, n)
        assert len(after.hosts.index) == 1
    async with LocalRuntime(store, clock=clock) as third:
        assert not third.hosts.host.awake
        assert len(third.hosts.index) == 1


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after it"])
async def test_a_delayed_send_that_is_cut_off_at_any_write_fires_once(after: bool) -> None:
    crash_at = 0
    while True:
        crash_at += 1
        store, clock = memory(), ManualClock()
        async with LocalRuntime(store, clock=clock) as runtime:
            await runtime.register(registry)
            n = await spawned(runtime, "/note/n")
        writes = await crash_once(store, clock, crash_at=crash_at, after=after)
        async with LocalRuntime(store, clock=clock) as runtime:
            await runtime.send(n, later(HOUR))
            await clock.advance(2 * HOUR)
            await turn_until(lambda: not any(each.busy for each in runtime.hosts.host.awake))
            assert await inbox_of(runtime, n) == ["later"]
            assert not fold(await log_of(runtime, n)).timers
        if writes < crash_at:
            break
    assert crash_at > 8


async def crash_once(store: Blobs, clock: ManualClock, *, crash_at: int, after: bool) -> int:
    """A delayed send, a sleep, a firing, a sleep; dead at the n-th write. How many there were."""
    died, loop, n = asyncio.Event(), asyncio.get_running_loop(), Address.parse("/note/n")
    dying = DyingBlobs(
        store, crash_at=crash_at, after=after, died=lambda: loop.call_soon_threadsafe(died.set)
    )
    runtime = LocalRuntime(dying, clock=clock)

    async def live() -> None:
        await runtime.send(n, later(HOUR))
        await asleep(runtime, clock, n)
        await clock.advance(HOUR)
        await turn_until(lambda: not len(runtime.hosts.index))
        await asleep(runtime, clock, n)

    try:
        async with asyncio.TaskGroup() as group, runtime:
            work, death = group.create_task(live()), group.create_task(died.wait())
            await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
            death.cancel()
            work.cancel()
            await runtime.crash()
    except* (RayAgentsError, asyncio.CancelledError):
        pass
    return dying.writes


async def test_an_index_that_is_lost_is_made_anew(
    store: Blobs, clock: ManualClock, wait_until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with LocalRuntime(store, clock=clock) as before:
        await before.register(registry)
        n = await spawned(before, "/note/n")
        await spawned(before, "/note/other")
        await before.send(n, later(HOUR))
        await asleep(before, clock, n)
    remove(store, INDEX)
    remove(store, HOSTS)
    with caplog.at_level(logging.WARNING):
        async with LocalRuntime(store, clock=clock) as after:
            await wait_until(lambda: len(after.hosts.index) == 1)
            await clock.advance(HOUR)
            await wait_until(lambda: inbox_of(after, n))
            assert await inbox_of(after, n) == ["later"]
    assert "made from 2 logs" in caplog.text


async def test_an_index_that_is_damaged_is_told_and_made_anew(
    store: Blobs, clock: ManualClock, wait_until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with LocalRuntime(store, clock=clock) as before:
        await before.register(registry)
        n = await spawned(before, "/note/n")
        await before.send(n, later(HOUR))
        await asleep(before, clock, n)
        await before.crash()
    damage(store, f"{INDEX}/0001")
    remove(store, HOSTS)
    with caplog.at_level(logging.WARNING):
        async with LocalRuntime(store, clock=clock) as after:
            await wait_until(lambda: len(after.hosts.index) == 1)
            await clock.advance(HOUR)
            await wait_until(lambda: inbox_of(after, n))
    assert "'index/0001'" in caplog.text


def remove(store: Blobs, folder: str) -> None:
    for name in store.names(folder):
        remove(store, f"{folder}/{name}")
    store.delete(folder)


def damage(store: Blobs, folder: str) -> None:
    """Change a byte in the middle of every segment."""
    for name in store.names(folder):
        data = store.read(f"{folder}/{name}")
        if data:
            middle = len(data) // 2
            store.delete(f"{folder}/{name}")
            wrong = bytes([data[middle] ^ 0xFF])
            store.create(f"{folder}/{name}", data[:middle] + wrong + data[middle + 1 :])
