"""One awake entity: what it accepts, what it refuses, and what becomes of a handler that fails."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.errors import (
    AskTimedOut,
    BacklogFull,
    EntityExists,
    EntityGone,
    HandlerFailed,
    InvalidAddress,
    InvalidPayload,
    MessageConflict,
    NothingParked,
    PayloadTooLarge,
    UnknownEntity,
    UnknownOffset,
    UnknownType,
)
from ray_agents.log import appending
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.views import Status
from tests.cluster import gates
from tests.cluster.conftest import SOON, ask, log_of, spawned, turn_until
from tests.cluster.stores import DyingBlobs, memory

QUICK = Limits(
    retry_delay=timedelta(milliseconds=1),
    handler_time_max=timedelta(milliseconds=50),
    message_bytes_max=1000,
    backlog_max=5,
)
registry = Registry()


class Row(BaseModel):
    key: str
    n: int = 0


class Args(BaseModel):
    size: int


class Order(BaseModel):
    n: int


@registry.entity("worker", limits=QUICK, state={"rows": Row})
async def worker(ctx: Any, wake: Any) -> Any:  # noqa: C901, PLR0912 - a list of ways to fail
    """Do what the message says."""
    match wake.payload:
        case "raise":
            raise ValueError("as told")
        case "surrogate":
            raise ValueError("\ud800")
        case "unprintable":
            raise Unprintable
        case "not json":
            return object()
        case "lone surrogate":
            return "\ud800"
        case "exit":
            sys.exit(3)
        case "cancel":
            raise asyncio.CancelledError
        case "too long":
            await asyncio.Event().wait()
        case "twice at once":
            ctx.state.rows.insert({"key": "a"})
            ctx.state.rows.insert({"key": "a"})
        case "write and raise":
            ctx.state.rows.insert({"key": "a"})
            raise ValueError("after a write")
        case "commit and raise":
            ctx.state.rows.upsert({"key": "n", "n": rows_n(ctx) + 1})
            await ctx.commit()
            if not gates.opened["mended"].is_set():
                raise ValueError("not mended")
            return rows_n(ctx)
        case "swallow":
            ctx.state.rows.insert({"key": "x" * 40_000})
            with contextlib.suppress(PayloadTooLarge):
                await ctx.commit()
        case "count":
            return len(ctx.state.rows)
        case payload:
            return payload
    return None


def rows_n(ctx: Any) -> int:
    return ctx.state.rows.get("n").n if "n" in ctx.state.rows else 0


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@registry.entity("gated", limits=Limits(backlog_max=3))
async def gated(ctx: Any, wake: Any) -> Any:
    await gates.wait("gate")
    return wake.event_count


@registry.entity("deaf")
async def deaf(ctx: Any, wake: Any) -> Any:
    """Ignore being cancelled, once, and try to leave something behind."""
    if wake.payload != "hang":
        return wake.payload
    try:
        await gates.wait("deaf")
    except asyncio.CancelledError:
        await ctx.send("/worker/w", "from the dead")
        await gates.wait("still deaf")
        await ctx.commit()
    return "late"


@registry.entity("strict", creation_schema=Args, inbox_schemas={"order": Order, "*": Args})
async def strict(ctx: Any, wake: Any) -> Any:
    return ctx.args.size


@pytest.fixture(autouse=True)
async def registered(runtime: LocalRuntime) -> None:
    await runtime.register(registry)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ("raise", "ValueError: as told"),
        ("surrogate", "ValueError: .ud800"),
        ("unprintable", "cannot be printed"),
        ("not json", "cannot be written as JSON"),
        ("lone surrogate", "cannot be written as JSON"),
        ("exit", "SystemExit: 3"),
        ("cancel", "CancelledError"),
        ("too long", "longer than 0.05 s"),
        ("twice at once", "DuplicateKey"),
    ],
)
async def test_a_handler_that_fails_is_told_and_the_next_message_is_handled(
    runtime: LocalRuntime, payload: str, error: str
) -> None:
    w = await spawned(runtime, "/worker/w")
    with pytest.raises(HandlerFailed, match=error):
        await ask(runtime, w, payload)
    errors = [event.value for event in await log_of(runtime, w) if event.type == "error"]
    assert len(errors) == 3
    assert all(row["traceback"] for row in errors)
    assert (await ask(runtime, w, "fine")).value == "fine"
    assert await runtime.skip(w) == 1


async def test_a_failed_attempt_leaves_no_state(runtime: LocalRuntime) -> None:
    w = await spawned(runtime, "/worker/w")
    with pytest.raises(HandlerFailed):
        await ask(runtime, w, "write and raise")
    assert (await ask(runtime, w, "count")).value == 0


async def test_a_retried_wake_does_not_repeat_what_it_had_committed(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    w = await spawned(runtime, "/worker/w")
    with pytest.raises(HandlerFailed):
        await ask(runtime, w, "commit and raise", "m1")
    gates.opened["mended"].set()
    assert (await ask(runtime, w, "commit and raise")).value == 2
    await runtime.retry(w)
    await wait_until(lambda: not runtime.hosts.host.awake[0].state.wakes)
    writes = [e.value["n"] for e in await log_of(runtime, w) if e.type == "state:rows"]
    assert writes == [1, 2]


async def test_a_full_backlog_refuses_and_later_takes_again(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    g = await spawned(runtime, "/gated/g")
    await runtime.send(g, SendRequest(payload=0))
    await gates.reached["gate"].wait()
    receipts = [await runtime.send(g, SendRequest(payload=n, id=f"m{n}")) for n in range(3)]
    with pytest.raises(BacklogFull, match="backlog_max"):
        await runtime.send(g, SendRequest(payload=4))
    again = await runtime.send(g, SendRequest(payload=2, id="m2"))
    assert again.offset == receipts[2].offset
    gates.opened["gate"].set()
    await wait_until(lambda: not runtime.hosts.host.awake[0].state.pending)
    assert (await ask(runtime, g, 5)).value == 1


async def test_a_message_over_its_limit_is_refused(runtime: LocalRuntime) -> None:
    w = await spawned(runtime, "/worker/w")
    with pytest.raises(PayloadTooLarge, match="message_bytes_max"):
        await runtime.send(w, SendRequest(payload="x" * 1000))
    assert (await runtime.send(w, SendRequest(payload="x" * 998))).offset


async def test_a_first_message_and_arguments_have_the_same_limit(runtime: LocalRuntime) -> None:
    big = SpawnRequest(message=SendRequest(payload="x" * 1000))
    for request in (big, SpawnRequest(args={"a": "x" * 1000})):
        with pytest.raises(PayloadTooLarge):
            await runtime.spawn(Address.parse("/worker/w"), request)
    with pytest.raises(UnknownEntity):
        await runtime.inspect(Address.parse("/worker/w"))


@pytest.mark.parametrize("payload", [object(), "\ud800", {"a": b"\xff"}])
async def test_a_payload_that_is_not_json_is_refused(runtime: LocalRuntime, payload: Any) -> None:
    w = await spawned(runtime, "/worker/w")
    with pytest.raises(InvalidPayload, match="JSON"):
        await runtime.send(w, SendRequest(payload=payload))
    assert (await ask(runtime, w, 1)).value == 1


async def test_arguments_and_payloads_must_fit_their_schemas(runtime: LocalRuntime) -> None:
    where = Address.parse("/strict/s")
    with pytest.raises(InvalidPayload, match="'size'"):
        await runtime.spawn(where, SpawnRequest(args={"size": "big"}))
    message = SendRequest(payload={}, type="order")
    with pytest.raises(InvalidPayload, match="'n'"):
        await runtime.spawn(where, SpawnRequest(args={"size": 1}, message=message))
    await runtime.spawn(where, SpawnRequest(args={"size": 1}))
    with pytest.raises(InvalidPayload, match="'n'"):
        await runtime.send(where, SendRequest(payload={"n": "many"}, type="order"))
    with pytest.raises(InvalidPayload, match="'size'"):
        await runtime.send(where, SendRequest(payload={"n": 1}, type="other"))


async def test_a_spawn_repeated_by_its_id_is_the_same_entity(runtime: LocalRuntime) -> None:
    where = Address.parse("/worker/w")
    first = await runtime.spawn(where, SpawnRequest(spawn_id="s1"))
    assert (await runtime.spawn(where, SpawnRequest(spawn_id="s1"))).created == first.created
    with pytest.raises(EntityExists):
        await runtime.spawn(where, SpawnRequest(spawn_id="s2"))


async def test_many_spawns_at_once_make_one_entity(runtime: LocalRuntime) -> None:
    where = Address.parse("/worker/w")
    spawns = [runtime.spawn(where, SpawnRequest()) for _ in range(20)]
    results = await asyncio.gather(*spawns, return_exceptions=True)
    assert sum(isinstance(result, EntityExists) for result in results) == 19


async def test_a_send_that_comes_too_early_does_not_hurt_the_spawn(runtime: LocalRuntime) -> None:
    where = Address.parse("/worker/w")
    results = await asyncio.gather(
        runtime.send(where, SendRequest(payload=1)),
        runtime.spawn(where, SpawnRequest()),
        return_exceptions=True,
    )
    assert isinstance(results[0], UnknownEntity)
    assert not isinstance(results[1], BaseException)


async def test_the_first_message_has_its_id_from_the_start(runtime: LocalRuntime) -> None:
    where = Address.parse("/worker/w")
    first = SendRequest(payload="hi", id="m1")
    spawn = asyncio.create_task(runtime.spawn(where, SpawnRequest(message=first)))
    await turn_until(lambda: any(e.state.alive for e in runtime.hosts.host.awake))
    assert (await runtime.send(where, first)).duplicate
    await spawn
    rows = [event for event in await log_of(runtime, where) if event.type == "inbox"]
    assert len(rows) == 1


async def test_one_message_id_means_one_message(runtime: LocalRuntime) -> None:
    w = await spawned(runtime, "/worker/w")
    message = SendRequest(payload={"a": 1, "b": 2}, id="m1")
    receipts = await asyncio.gather(*(runtime.send(w, message) for _ in range(50)))
    assert len({receipt.offset for receipt in receipts}) == 1
    assert sum(not receipt.duplicate for receipt in receipts) == 1
    turned = SendRequest(payload={"b": 2, "a": 1}, id="m1")
    assert (await runtime.send(w, turned)).duplicate
    with pytest.raises(MessageConflict, match="m1"):
        await runtime.send(w, SendRequest(payload={"a": 2}, id="m1"))


async def test_a_message_whose_sender_left_before_the_answer_is_known_by_its_id(
    wait_until: Any,
) -> None:
    store = DyingBlobs(memory(), far=True)
    async with LocalRuntime(store) as runtime:
        await runtime.register(registry)
        w = await spawned(runtime, "/worker/w")
        (entity,) = runtime.hosts.host.awake
        request = SendRequest(payload="count", id="m1")
        with store.writing:
            first = asyncio.create_task(entity.deliver(request))
            await wait_until(lambda: entity.busy)
            first.cancel()
            await asyncio.wait([first])
            again = asyncio.create_task(entity.deliver(request))
            await asyncio.wait([again], timeout=0)
        receipt = await again
        assert receipt.duplicate
        rows = [event.offset for event in await log_of(runtime, w) if event.type == "inbox"]
        assert rows == [receipt.offset]


async def test_effects_that_do_not_fit_into_one_append_fail_the_wake(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = await spawned(runtime, "/worker/w")
    monkeypatch.setattr(appending, "APPEND_BYTES_MAX", 30_000)
    with pytest.raises(HandlerFailed, match="at most 30000"):
        await ask(runtime, w, "swallow")


async def test_a_new_life_is_free_of_the_old_one(runtime: LocalRuntime) -> None:
    w = await spawned(runtime, "/worker/w")
    old = await runtime.send(w, SendRequest(payload="count", id="m1"))
    await runtime.kill(w)
    await runtime.kill(w)
    view = await runtime.spawn(w, SpawnRequest())
    assert view.life == 1
    new = await runtime.send(w, SendRequest(payload="other", id="m1"))
    assert not new.duplicate
    assert new.offset > old.offset
    assert (await runtime.send(w, SendRequest(payload="other", id="m1"))).duplicate


async def test_a_handler_that_outlives_its_entity_leaves_nothing_behind(
    runtime: LocalRuntime,
) -> None:
    w, d = await spawned(runtime, "/worker/w"), await spawned(runtime, "/deaf/d")
    await runtime.send(d, SendRequest(payload="hang"))
    await gates.reached["deaf"].wait()
    await runtime.kill(d)
    await gates.reached["still deaf"].wait()
    await runtime.spawn(d, SpawnRequest(message=SendRequest(payload="new", id="n")))
    gates.opened["still deaf"].set()
    assert (await ask(runtime, d, "new", "n")).value == "new"
    types = [event.type for event in await log_of(runtime, d)]
    assert "outbox" not in types
    assert all(event.type != "inbox" for event in await log_of(runtime, w))


async def test_killing_ends_a_running_handler_and_an_ask(runtime: LocalRuntime) -> None:
    g = await spawned(runtime, "/gated/g")
    asking = asyncio.create_task(ask(runtime, g, 1))
    await gates.reached["gate"].wait()
    await runtime.kill(g)
    with pytest.raises(EntityGone):
        await asking
    assert (await runtime.inspect(g)).status is Status.STOPPED


async def test_an_ask_without_an_answer_says_that_the_message_stays(runtime: LocalRuntime) -> None:
    g = await spawned(runtime, "/gated/g")
    with pytest.raises(AskTimedOut, match="in its inbox"):
        await runtime.ask(g, SendRequest(payload=1), within=timedelta(milliseconds=20))
    assert (await runtime.inspect(g)).status is Status.RUNNING
    gates.opened["gate"].set()


async def test_every_verb_names_an_entity_that_is_not_there(runtime: LocalRuntime) -> None:
    nobody, message = Address.parse("/worker/nobody"), SendRequest()
    for verb in (
        runtime.send(nobody, message),
        runtime.ask(nobody, message, within=SOON),
        runtime.kill(nobody),
        runtime.inspect(nobody),
        runtime.retry(nobody),
        runtime.skip(nobody),
        log_of(runtime, nobody),
    ):
        with pytest.raises(UnknownEntity, match="/worker/nobody"):
            await verb


async def test_every_verb_knows_an_entity_that_is_gone(runtime: LocalRuntime) -> None:
    w = await spawned(runtime, "/worker/w")
    await runtime.kill(w)
    message = SendRequest()
    for verb in (
        runtime.send(w, message),
        runtime.ask(w, message, within=SOON),
        runtime.retry(w),
        runtime.skip(w),
    ):
        with pytest.raises(EntityGone, match="/worker/w"):
            await verb


async def test_an_unknown_type_is_refused_by_name(runtime: LocalRuntime) -> None:
    with pytest.raises(UnknownType, match="'nothing'"):
        await runtime.spawn(Address.parse("/nothing/n"), SpawnRequest())
    with pytest.raises(InvalidAddress):
        Address.parse("/../etc")


async def test_retry_and_skip_need_something_parked(runtime: LocalRuntime) -> None:
    w = await spawned(runtime, "/worker/w")
    for verb in (runtime.retry(w), runtime.skip(w), runtime.retry(w, wake="wake-99")):
        with pytest.raises(NothingParked):
            await verb


async def test_an_observer_cannot_start_beyond_the_end(runtime: LocalRuntime) -> None:
    w = await spawned(runtime, "/worker/w")
    with pytest.raises(UnknownOffset, match="99"):
        async for _ in runtime.observe(w, offset=99):
            pass


async def test_a_refused_message_does_not_keep_an_entity_awake(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    soon = Registry()
    soon.define("brief", handler=worker, idle_timeout=timedelta(milliseconds=10))
    await runtime.register(soon)
    b = await spawned(runtime, "/brief/b")
    await runtime.kill(b)
    await wait_until(lambda: not runtime.hosts.host.awake)
    with pytest.raises(EntityGone):
        await runtime.send(b, SendRequest())
    await runtime.kill(b)
    await wait_until(lambda: not runtime.hosts.host.awake)


async def test_runtimes_of_two_stores_in_one_process_do_not_answer_for_each_other() -> None:
    async with LocalRuntime("memory:") as one, LocalRuntime("memory:") as other:
        for each in (one, other):
            await each.register(registry)
        awake = await spawned(one, "/worker/same")
        with pytest.raises(UnknownEntity):
            await other.inspect(awake)


async def test_an_image_that_is_none_is_refused_at_the_door(runtime: LocalRuntime) -> None:
    w = await spawned(runtime, "/worker/w")
    source = {"type": "base64", "media_type": "image/png", "data": "/9j/4AAQ"}
    message = SendRequest(payload={"content": ["see", {"type": "image", "source": source}]})
    with pytest.raises(InvalidPayload, match="but like image/jpeg"):
        await runtime.send(w, message)
    with pytest.raises(InvalidPayload, match="but like image/jpeg"):
        await runtime.spawn(Address.parse("/worker/x"), SpawnRequest(message=message))
