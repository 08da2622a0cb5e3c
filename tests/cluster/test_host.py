"""Hosts: falling asleep and waking under fire, two hosts on one store, and an owner of the past."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster import wakeloop
from ray_agents.cluster.calls import Activate, Describe, Release
from ray_agents.cluster.entity import Entity
from ray_agents.cluster.folders import entity_folder, host_folder
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.effects import Effects
from ray_agents.errors import (
    Fenced,
    InvalidDefinition,
    RayAgentsError,
    RuntimeUnavailable,
    StoreUnavailable,
)
from ray_agents.events import Draft, Event
from ray_agents.log import owner
from ray_agents.log.codec import to_events
from ray_agents.log.owner import read_head
from ray_agents.ports import Blobs
from ray_agents.requests import ListQuery, SendRequest
from ray_agents.views import EntityView, Receipt
from tests.cluster import gates
from tests.cluster.conftest import ask, inbox_of, log_of, spawned, turn_until
from tests.cluster.stores import DyingBlobs, memory
from tests.simulation.world import SeededClock, World, options

SENDS, SENDS_MANY = 200, 10_000
ENTITIES = 10
registry = Registry()


@registry.entity("hasty", idle_timeout=timedelta(0))
async def hasty(ctx: Any, wake: Any) -> Any:
    return wake.payload


@registry.entity("brief", idle_timeout=timedelta(milliseconds=20))
@registry.entity("calm")
async def calm(ctx: Any, wake: Any) -> Any:
    return wake.payload


@registry.entity("curt", idle_timeout=timedelta(hours=1))
async def curt(ctx: Any, wake: Any) -> None:
    ctx.sleep()
    await ctx.send("/calm/c", "bye")


@registry.entity("gated", limits=Limits(retry_delay=timedelta(milliseconds=1)))
async def gated(ctx: Any, wake: Any) -> Any:
    await gates.wait("gate")
    return f"attempt {wake.attempt}"


@registry.entity("sender")
async def sender(ctx: Any, wake: Any) -> None:
    await ctx.send("/calm/c", "once")
    await ctx.commit()
    await gates.wait("gate")


@registry.entity("deaf", limits=Limits(retry_delay=timedelta(milliseconds=1)))
async def deaf(ctx: Any, wake: Any) -> Any:
    while not gates.opened["deaf"].is_set():
        try:
            await gates.wait("deaf")
        except asyncio.CancelledError:
            gates.reached["cancelled"].set()
    try:
        await ctx.commit()
    except Fenced:
        gates.reached["fenced"].set()
    return wake.attempt


async def test_an_entity_that_says_so_falls_asleep_at_once(wait_until: Any) -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        await spawned(runtime, "/calm/c")
        c = await spawned(runtime, "/curt/c")
        await ask(runtime, c, "go")
        await wait_until(lambda: entity_of(runtime, c) is None)
        await wait_until(lambda: inbox_of(runtime, Address.parse("/calm/c")))


def entity_of(runtime: LocalRuntime, address: Address) -> Entity | None:
    return next((e for e in runtime.hosts.host.awake if e.address == address), None)


def handled_once(events: list[Event], receipts: list[Receipt]) -> bool:
    """Whether each message stands once in the log, in one wake that was handled once."""
    offsets = sorted(event.offset for event in events if event.type == "inbox")
    ends = [e.value for e in events if e.type == "wake" and e.value["status"] == "handled"]
    covered = [o for o in offsets for end in ends if end["from_offset"] <= o < end["to_offset"]]
    return offsets == sorted(receipt.offset for receipt in receipts) == covered


async def test_a_full_segment_gives_way_to_a_new_one_while_messages_come(
    store: Blobs, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    monkeypatch.setattr(owner, "SEGMENT_BYTES_MAX", 10_000)
    async with LocalRuntime(store) as runtime:
        await runtime.register(registry)
        c = await spawned(runtime, "/calm/c")
        sends = (runtime.send(c, SendRequest(payload=n)) for n in range(100))
        receipts = await asyncio.gather(*sends)

        async def handled() -> bool:
            return handled_once(await log_of(runtime, c), receipts)

        await wait_until(handled)
        for n in range(20):
            await ask(runtime, c, n, f"one-{n}")
            receipts.append(await runtime.send(c, SendRequest(payload=n, id=f"one-{n}")))
        assert handled_once(await log_of(runtime, c), receipts)
        assert (await runtime.inspect(c)).epoch > 3


async def send_at_the_worst_moment(
    runtime: LocalRuntime, address: Address, random: Random
) -> tuple[Receipt, bool]:
    """Send when the entity seals, or near it; whether it was sealing indeed."""
    await turn_until(lambda: (e := entity_of(runtime, address)) is None or e.sealing)
    for _ in range(random.choice([0, 0, 1, 2, 3, 5, 8])):
        await asyncio.sleep(0)
    entity = entity_of(runtime, address)
    hit = entity is not None and entity.sealing
    return await runtime.send(address, SendRequest(payload=1)), hit


async def send_many(runtime: LocalRuntime, number: int, *, sends: int) -> int:
    """Send to one entity at the worst moments; how many sends met a sealing entity."""
    random, address = Random(number), await spawned(runtime, f"/hasty/h{number}")
    sent = [await send_at_the_worst_moment(runtime, address, random) for _ in range(sends)]
    await ask(runtime, address, "last", "last")
    last = await runtime.send(address, SendRequest(payload="last", id="last"))
    receipts = [*(receipt for receipt, _ in sent), last]
    assert handled_once(await log_of(runtime, address), receipts)
    return sum(hit for _, hit in sent)


async def test_sends_in_the_instant_of_falling_asleep_are_neither_lost_nor_doubled(
    store: Blobs,
) -> None:
    async with LocalRuntime(DyingBlobs(store, far=True)) as runtime:  # a long instant
        await runtime.register(registry)
        each = SENDS // ENTITIES
        hits = await asyncio.gather(*(send_many(runtime, n, sends=each) for n in range(ENTITIES)))
    assert sum(hits) > SENDS / 10


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_ten_thousand_such_sends(store: Blobs) -> None:
    """Acceptance 7, in this process."""
    async with LocalRuntime(DyingBlobs(store, far=True)) as runtime:
        await runtime.register(registry)
        each = SENDS_MANY // ENTITIES
        hits = await asyncio.gather(*(send_many(runtime, n, sends=each) for n in range(ENTITIES)))
    assert sum(hits) > SENDS_MANY / 5


async def test_two_runtimes_on_one_store_take_turns(store: Blobs) -> None:
    async with LocalRuntime(store) as a, LocalRuntime(store) as b:
        await a.register(registry)
        h = await spawned(a, "/hasty/h")
        replies = [await ask((a, b)[n % 2], h, n) for n in range(100)]
        assert [reply.value for reply in replies] == list(range(100))
        assert [e.offset for e in await log_of(a, h)] == [e.offset for e in await log_of(b, h)]
        hosts = {e.value["host"] for e in await log_of(a, h) if e.type == "wake"}
        assert hosts <= {a.hosts.id, b.hosts.id}


async def test_sends_from_two_sides_at_once_find_the_one_owner(store: Blobs) -> None:
    async with LocalRuntime(store) as a, LocalRuntime(store) as b:
        await a.register(registry)
        h = await spawned(a, "/calm/h")
        await a.hosts.call(h, Release())
        sends = [(a, b)[n % 2].send(h, SendRequest(payload=n)) for n in range(200)]
        receipts = await asyncio.gather(*sends)
        await ask(a, h, "last", "last")
        receipts.append(await b.send(h, SendRequest(payload="last", id="last")))
        assert handled_once(await log_of(b, h), receipts)
        assert (await a.inspect(h)).epoch == 2


async def test_an_owner_of_the_past_appends_nothing(store: Blobs) -> None:
    """Acceptance 6, in this process: stopped while another takes over, then continued."""
    async with LocalRuntime(store) as old:
        await old.register(registry)
        g = await spawned(old, "/gated/g")
        await old.send(g, SendRequest(payload=1, id="m1"))
        await gates.reached["gate"].wait()
        zombie = entity_of(old, g)
        assert zombie is not None
        old.hosts.isolate()
        async with LocalRuntime(store) as new:
            await new.inspect(g)
            with pytest.raises(Fenced):
                await zombie.enqueue([Draft.of("text", "t", value="late")]).durable()
            gates.opened["gate"].set()
            assert (await ask(new, g, 1, "m1")).value == "attempt 2"
            assert (await ask(old, g, 1, "m1")).value == "attempt 2"
            events = await log_of(new, g)
            assert handled_once(events, [await new.send(g, SendRequest(payload=1, id="m1"))])
            assert all(event.type != "text" for event in events)


async def test_a_host_that_lost_an_entity_finds_the_new_owner(store: Blobs) -> None:
    async with LocalRuntime(store) as old:
        await old.register(registry)
        c = await spawned(old, "/calm/c")
        old.hosts.isolate()
        async with LocalRuntime(store) as new:
            assert (await ask(new, c, 1)).value == 1
            assert (await ask(old, c, 2)).value == 2
            assert (await old.inspect(c)).host == new.hosts.id


async def test_what_only_looks_wakes_nobody(runtime: LocalRuntime) -> None:
    await runtime.register(registry)
    c = await spawned(runtime, "/calm/c")
    await runtime.hosts.call(c, Release())
    await runtime.inspect(c)
    await log_of(runtime, c)
    await runtime.hosts.call(c, Describe())
    assert not runtime.hosts.host.awake


async def test_a_sleeper_that_woke_often_looks_as_it_did_awake(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    """Offsets have gaps where segments were sealed; nothing is read twice."""
    await runtime.register(registry)
    g = await spawned(runtime, "/gated/g")
    for _ in range(4):
        await runtime.send(g, SendRequest(payload=1))
        await runtime.hosts.call(g, Release())
    awake = await runtime.hosts.call(g, Activate())
    await runtime.hosts.call(g, Release())
    asleep = await runtime.inspect(g)
    assert isinstance(awake, EntityView)
    assert asleep.backlog == awake.backlog == 4
    assert len({e.offset for e in await log_of(runtime, g)}) == len(await log_of(runtime, g))


async def test_a_look_at_a_sleeper_costs_its_state_not_its_history(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    await runtime.register(registry)
    c = await spawned(runtime, "/calm/c")
    entity = entity_of(runtime, c)
    assert entity is not None
    rows = [Draft.of("text_delta", f"t{number}", value="word") for number in range(3000)]
    await entity.enqueue(rows).durable()
    await ask(runtime, c, 1)
    awake = await runtime.inspect(c)
    await runtime.hosts.call(c, Release())
    decoded: list[Event] = []

    def counted(batch: Any) -> list[Event]:
        events = to_events(batch)
        decoded.extend(events)
        return events

    monkeypatch.setattr("ray_agents.log.rows.to_events", counted)
    asleep = await runtime.inspect(c)
    assert len(decoded) < 50
    assert (asleep.events, asleep.last_event) == (awake.events, awake.last_event)
    assert (asleep.backlog, asleep.created) == (awake.backlog, awake.created)
    assert (await runtime.list(ListQuery())).items == (asleep,)


async def test_an_observer_at_a_gap_waits_as_at_any_end(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The offset of a closing row is never served; to ask for it again at once would spin."""
    await runtime.register(registry)
    c = await spawned(runtime, "/calm/c")
    await runtime.hosts.call(c, Release())
    await runtime.hosts.call(c, Activate())
    asked: list[object] = []
    answer = runtime.hosts.call

    async def counted(address: Address, call: Any) -> object:
        asked.append(call)
        assert len(asked) < 20
        return await answer(address, call)

    monkeypatch.setattr(runtime.hosts, "call", counted)
    seen = await anext(e async for e in runtime.observe(c) if e.type == "entity_created")
    later = asyncio.ensure_future(anext(runtime.observe(c, offset=seen.offset + 1)))
    await turn_until(lambda: len(asked) >= 3)
    await runtime.send(c, SendRequest(payload=1))
    assert (await later).offset > seen.offset


async def test_an_observer_of_a_sleeper_learns_that_it_woke(runtime: LocalRuntime) -> None:
    await runtime.register(registry)
    h = await spawned(runtime, "/hasty/h")
    seen: list[object] = []

    async def observe() -> None:
        async for event in runtime.observe(h):
            if event.type == "inbox":
                seen.append(event.value["payload"])
                if len(seen) == 5:
                    return

    async with asyncio.TaskGroup() as group:
        group.create_task(observe())
        for n in range(5):
            await turn_until(lambda n=n: not runtime.hosts.host.awake and len(seen) == n)
            await runtime.send(h, SendRequest(payload=n))
    assert seen == [0, 1, 2, 3, 4]


async def test_a_crash_ends_every_call_with_a_clear_error() -> None:
    store = memory()
    runtime = LocalRuntime(store)
    async with runtime:
        await runtime.register(registry)
        c = await spawned(runtime, "/calm/c")
        sends = [asyncio.create_task(runtime.send(c, SendRequest(payload=n))) for n in range(50)]
        asks = [asyncio.create_task(ask(runtime, c, n)) for n in range(5)]
        await asyncio.sleep(0)
        await runtime.crash()
        results: list[object] = []
        results += await asyncio.gather(*sends, return_exceptions=True)
        results += await asyncio.gather(*asks, return_exceptions=True)
    assert all(isinstance(r, RayAgentsError | Receipt) for r in results)


async def test_a_store_that_fails_ends_the_ownership_and_says_so() -> None:
    dying = DyingBlobs(memory())
    runtime = LocalRuntime(dying)
    async with runtime:
        await runtime.register(registry)
        c = await spawned(runtime, "/calm/c")
        dying.dead = True
        with pytest.raises(RayAgentsError, match="dead"):
            await runtime.send(c, SendRequest(payload=1))
        dying.dead = False
        assert (await ask(runtime, c, 2)).value == 2
        await runtime.crash()


async def test_a_wake_whose_end_could_not_be_written_is_resumed(wait_until: Any) -> None:
    dying = DyingBlobs(memory())
    async with LocalRuntime(dying) as runtime:
        await runtime.register(registry)
        g = await spawned(runtime, "/gated/g")
        await runtime.send(g, SendRequest(payload=1))
        await gates.reached["gate"].wait()
        entity = entity_of(runtime, g)
        assert entity is not None
        dying.dead = True
        gates.opened["gate"].set()
        await entity.owner.lost.wait()
        dying.dead = False

        async def handled() -> bool:
            wakes = [event for event in await log_of(runtime, g) if event.type == "wake"]
            return wakes[-1].value["status"] == "handled"

        await wait_until(handled)


async def test_a_wake_that_a_tool_caused_is_not_in_its_scope(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    """Run again in another scope, it would not know its own effects."""
    await runtime.register(registry)
    c, s = await spawned(runtime, "/calm/c"), await spawned(runtime, "/sender/s")
    with Effects("wake", {}, {}).within("call"):
        await runtime.send(s, SendRequest(payload=1))
    await gates.reached["gate"].wait()
    await wait_until(lambda: inbox_of(runtime, c))
    await runtime.hosts.call(s, Release())
    gates.opened["gate"].set()
    await runtime.hosts.call(s, Activate())
    await wait_until(lambda: not any(entity.busy for entity in runtime.hosts.host.awake))
    assert await inbox_of(runtime, c) == ["once"]


async def waits_for_ever(host: str, address: Address) -> None:
    await gates.wait("check")


def test_an_entity_whose_waking_hangs_keeps_no_other_from_being_sealed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, world = memory(), options(Random(4), SeededClock())

    async def stopped() -> bool | None:
        async with LocalRuntime(store, **world) as old, LocalRuntime(store, **world) as runtime:
            await old.register(registry)
            c, g = await spawned(runtime, "/calm/c"), await spawned(old, "/gated/g")
            monkeypatch.setattr(runtime.hosts, "check", waits_for_ever)
            hanging = asyncio.create_task(runtime.send(g, SendRequest(payload=1)))
            await gates.reached["check"].wait()
            await runtime.hosts.host.stop(timedelta(seconds=1))
            with pytest.raises(RuntimeUnavailable):
                await hanging
            head = await read_head(store, entity_folder(c), io=world["io"])
            return head and head.sealed

    with asyncio.Runner(loop_factory=World) as runner:
        assert runner.run(stopped())


async def test_a_stopped_host_refuses_new_calls(runtime: LocalRuntime) -> None:
    await runtime.register(registry)
    c = await spawned(runtime, "/calm/c")
    await runtime.hosts.close()
    with pytest.raises(RuntimeUnavailable, match="is leaving"):
        await runtime.hosts.host.call(c, Activate())


async def test_a_handler_that_ignores_its_cancellation_holds_up_nobody(
    store: Blobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wakeloop, "CANCELLED_MAX", timedelta(milliseconds=50))
    async with LocalRuntime(store) as runtime:
        await runtime.register(registry)
        d = await spawned(runtime, "/deaf/d")
        await runtime.send(d, SendRequest(payload=1, id="m1"))
        await gates.reached["deaf"].wait()
        async with asyncio.timeout(5):
            await runtime.hosts.call(d, Release())
        assert "/deaf/d: its handler was cancelled and does not end" in caplog.text
        gates.opened["deaf"].set()
        async with asyncio.timeout(5):
            await gates.reached["fenced"].wait()
        assert (await ask(runtime, d, 1, "m1")).value == 1  # the attempt did not count


def test_an_entity_that_cannot_be_sealed_keeps_no_other_from_it(
    store: Blobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def stopped() -> None:
        world = options(Random(4), SeededClock())
        async with LocalRuntime(store, **world) as runtime:
            await runtime.register(registry)
            calm = [await spawned(runtime, f"/calm/{name}") for name in ("fails", "hangs", "seals")]
            fails, hangs = (entity_of(runtime, address) for address in calm[:2])
            assert fails is not None
            assert hangs is not None
            monkeypatch.setattr(fails.owner, "seal", _raise)
            monkeypatch.setattr(hangs.owner, "seal", asyncio.Event().wait)
            async with asyncio.timeout(1):
                with pytest.raises(RuntimeUnavailable, match="/calm/fails, /calm/hangs"):
                    await runtime.hosts.host.stop(timedelta(seconds=1))
            folders = [*map(entity_folder, calm), host_folder(runtime.hosts.id)]
            heads = [await read_head(runtime.blobs, each, io=world["io"]) for each in folders]
            assert [head and head.sealed for head in heads] == [False, False, True, True]
            with pytest.raises(RayAgentsError):
                hangs.owner.enqueue([Draft.of("text", "t", value="late")])
            assert "/calm/hangs is given up, not sealed" in caplog.text
            monkeypatch.undo()
            for each in (fails, hangs):
                await each.owner.abandon()
        world["io"].close()

    with asyncio.Runner(loop_factory=World) as runner:
        runner.run(stopped())


async def _raise() -> None:
    raise StoreUnavailable("the disk is gone")


async def test_a_newest_version_that_cannot_be_loaded_keeps_nobody_awake(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    await runtime.register(registry)
    b = await spawned(runtime, "/brief/b")
    entity = entity_of(runtime, b)
    assert entity is not None

    def broken(*_: object) -> None:
        raise InvalidDefinition("it cannot be loaded here")

    monkeypatch.setattr(entity.services.definitions, "load", broken)
    await wait_until(lambda: not runtime.hosts.host.awake)
