"""Many observers of one entity: one follower for all, none held up by another, nothing missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from contextvars import ContextVar
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster import feeds
from ray_agents.cluster.calls import Follow, Followed, Release
from ray_agents.cluster.feeds import Feed, Feeds
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.errors import StoreUnavailable
from ray_agents.events import Draft, Event
from ray_agents.requests import SendRequest
from tests.cluster.conftest import ask, log_of, spawned, turn_until

ADDRESS = Address("calm", "c")
registry = Registry()


@registry.entity("hasty", idle_timeout=timedelta(0))
@registry.entity("calm")
async def calm(ctx: Any, wake: Any) -> None: ...


async def inbox(runtime: LocalRuntime, address: Address, count: int, **options: Any) -> list[int]:
    """The payloads that an observer sees until it has seen ``count``."""
    seen: list[int] = []
    async with aclosing(runtime.observe(address, **options)) as events:
        async for event in events:
            if event.type == "inbox":
                seen.append(event.value["payload"])
            if len(seen) == count:
                break
    return seen


async def test_any_number_of_observers_costs_one_follower(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    await runtime.register(registry)
    c = await spawned(runtime, "/calm/c")
    answer, following, most = runtime.hosts.call, 0, 0

    async def counted(address: Address, call: Any) -> object:
        nonlocal following, most
        waits = isinstance(call, Follow) and call.wait_seconds > 0
        following += waits
        most = max(most, following)
        try:
            return await answer(address, call)
        finally:
            following -= waits

    monkeypatch.setattr(runtime.hosts, "call", counted)
    observers = [asyncio.create_task(inbox(runtime, c, 20)) for _ in range(100)]
    for number in range(20):
        await runtime.send(c, SendRequest(payload=number))
    assert await asyncio.gather(*observers) == [list(range(20))] * 100
    assert most == 1


async def test_a_slow_observer_holds_nobody_up_and_misses_nothing(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "EVENTS_MAX", 8)
    await runtime.register(registry)
    c = await spawned(runtime, "/calm/c")
    slow = runtime.observe(c)
    async with aclosing(slow):
        seen = [await anext(slow)]
        quick = asyncio.create_task(inbox(runtime, c, 50))
        for number in range(50):
            await runtime.send(c, SendRequest(payload=number))
        assert await quick == list(range(50))
        end = (await runtime.inspect(c)).events
        while seen[-1].offset < end - 1:
            seen.append(await anext(slow))
    assert [e.offset for e in seen] == [e.offset for e in await log_of(runtime, c)][: len(seen)]


async def test_observers_of_an_entity_that_comes_and_goes_see_each_event_once(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "EVENTS_MAX", 4)
    await runtime.register(registry)
    h, random = await spawned(runtime, "/hasty/h"), Random(7)

    async def observe(start: int) -> list[Event]:
        seen: list[Event] = []
        async with aclosing(runtime.observe(h, offset=start)) as events:
            async for event in events:
                seen.append(event)
                for _ in range(random.choice([0, 0, 0, 1, 50])):
                    await asyncio.sleep(0)
                if event.type == "inbox" and event.value["payload"] == "last":
                    return seen
        return seen

    observers: dict[asyncio.Task[list[Event]], int] = {}
    for number in range(40):
        start = random.choice([0, (await runtime.inspect(h)).events])
        observers[asyncio.create_task(observe(start))] = start
        await ask(runtime, h, number)
        if random.random() < 0.3:
            await turn_until(lambda: not runtime.hosts.host.awake)
    await runtime.send(h, SendRequest(payload="last"))
    await asyncio.wait(observers)
    log = [event.offset for event in await log_of(runtime, h)]
    for task, start in observers.items():
        offsets = [event.offset for event in task.result()]
        assert offsets == [o for o in log if start <= o <= offsets[-1]]


async def test_the_window_is_bounded_by_number_and_by_size(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, most, size in (("EVENTS_MAX", 10, 1), ("BYTES_MAX", 1000, 98)):
        with monkeypatch.context() as patch:
            patch.setattr(feeds, name, most)
            feed = Feed(_given([_events(n, 1, size=size) for n in range(50)]), start=0)
            found = await feed.beyond(45)
            assert found is not None
            await turn_until(lambda feed=feed: vars(feed)["_tip"] == 50)
            assert 3 <= len(vars(feed)["_events"]) <= 10
            assert await feed.beyond(0) is None
            assert [e.offset for e in (await feed.beyond(49) or found).events] == [49]
            await feed.end()


async def test_a_follower_that_fails_tells_everybody_and_is_replaced() -> None:
    lives = 0

    async def follow(address: Address, position: int) -> AsyncGenerator[Followed, None]:
        nonlocal lives
        lives += 1
        yield _events(position, 1)
        raise StoreUnavailable("the disk is gone")

    shared = Feeds(follow)

    async def observe() -> None:
        async for event in shared.events(ADDRESS, 0):
            assert event.offset == 0

    ends = await asyncio.gather(*(observe() for _ in range(5)), return_exceptions=True)
    assert [type(end) for end in ends] == [StoreUnavailable] * 5
    assert len({id(end) for end in ends}) == 5
    assert lives == 1
    with pytest.raises(StoreUnavailable):
        await observe()
    assert lives == 2


async def test_who_waits_is_told_of_a_failure_and_who_comes_then_shares_a_new_follower() -> None:
    lives, broken = 0, asyncio.Event()

    async def follow(address: Address, position: int) -> AsyncGenerator[Followed, None]:
        nonlocal lives
        lives += 1
        yield _events(position, 1)
        await broken.wait()
        raise StoreUnavailable("the disk is gone")

    shared = Feeds(follow)
    waits, stays, comes, joins = (shared.events(ADDRESS, 0) for _ in range(4))
    await asyncio.gather(anext(waits), anext(stays))
    waiting = asyncio.ensure_future(anext(waits))
    await asyncio.sleep(0)
    broken.set()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(waiting, 5)
    broken.clear()
    await anext(comes)
    await stays.aclose()
    await anext(joins)
    assert lives == 2
    await comes.aclose()
    await joins.aclose()


async def test_a_feed_is_not_its_first_observers_own() -> None:
    """Ray cancels what was called in the context of a task together with that task."""
    observer = ContextVar("observer", default="nobody")

    async def follow(address: Address, position: int) -> AsyncGenerator[Followed, None]:
        assert observer.get() == "nobody"
        yield _events(position, 1)

    observer.set("the first")
    async with aclosing(Feeds(follow).events(ADDRESS, 0)) as events:
        assert (await anext(events)).offset == 0


async def test_the_follower_ends_with_its_last_observer(runtime: LocalRuntime) -> None:
    await runtime.register(registry)
    c = await spawned(runtime, "/calm/c")
    first, second = (asyncio.create_task(inbox(runtime, c, 1)) for _ in range(2))
    await turn_until(lambda: any(task.get_name() == "feed" for task in asyncio.all_tasks()))
    first.cancel()
    await runtime.send(c, SendRequest(payload=1))
    assert await second == [1]
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "feed"]


async def test_an_observer_before_the_start_of_a_feed_finds_its_place(
    runtime: LocalRuntime,
) -> None:
    """In the gap of a closing row: a feed may begin behind it, an observer before it."""
    await runtime.register(registry)
    c = await spawned(runtime, "/calm/c")
    end = (await runtime.inspect(c)).events
    await runtime.hosts.call(c, Release())
    early = asyncio.create_task(inbox(runtime, c, 1, offset=end))
    await turn_until(lambda: any(task.get_name() == "feed" for task in asyncio.all_tasks()))
    await runtime.send(c, SendRequest(payload=1))
    assert await early == [1]
    late = asyncio.create_task(inbox(runtime, c, 1, offset=-1))
    earlier = asyncio.create_task(inbox(runtime, c, 2, offset=end))
    await runtime.send(c, SendRequest(payload=2))
    assert (await late, await earlier) == ([2], [1, 2])


def _events(offset: int, count: int, *, size: int = 1) -> Followed:
    draft = Draft.of("text", "t", value="x" * size)
    events = tuple(Event.at(offset + n, 0, draft) for n in range(count))
    return Followed(events=events, tip=offset + count)


async def _given(answers: list[Followed]) -> AsyncGenerator[Followed, None]:
    for answer in answers:
        yield answer
    await asyncio.Event().wait()
