"""Fundamentals, part one: an entity, its messages, its state, its sleep. Read from the top."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.errors import EntityGone, MessageConflict, UnknownEntity
from ray_agents.events import Event
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.views import Status

SOON = timedelta(seconds=5)
AT_ONCE = timedelta(milliseconds=20)

registry = Registry()


class Note(BaseModel):
    key: str
    text: str


@registry.entity("echo")
async def echo(ctx: Any, wake: Any) -> Any:
    return wake.payload


@registry.entity("notes", state={"notes": Note}, idle_timeout=AT_ONCE)
async def notes(ctx: Any, wake: Any) -> list[str]:
    ctx.state.notes.insert({"key": str(len(ctx.state.notes)), "text": wake.payload})
    return [note.text for note in ctx.state.notes.list()]


@registry.entity("counter")
async def count_messages(ctx: Any, wake: Any) -> int:
    await asyncio.sleep(0)
    return wake.event_count


@pytest.fixture(autouse=True)
async def registered(runtime: LocalRuntime) -> None:
    await runtime.register(registry)


async def test_a_type_is_a_name_and_an_async_function(runtime: LocalRuntime) -> None:
    views = await runtime.types()
    assert [view.type for view in views] == ["counter", "echo", "notes"]
    assert views[2].collections == ("notes",)


async def test_an_entity_is_spawned_at_an_address(runtime: LocalRuntime) -> None:
    request = SpawnRequest(args={"lang": "en"}, tags={"team": "a"})
    view = await runtime.spawn(Address.parse("/echo/ada"), request)
    assert view.address == "/echo/ada"
    assert view.args == {"lang": "en"}
    assert view.tags == {"team": "a"}


async def test_a_message_is_acknowledged_with_its_place_in_the_log(runtime: LocalRuntime) -> None:
    ada = Address.parse("/echo/ada")
    await runtime.spawn(ada, SpawnRequest())
    receipt = await runtime.send(ada, SendRequest(payload="hello"))
    events = [event async for event in runtime.observe(ada, offset=receipt.offset, live=False)]
    assert events[0].type == "inbox"
    assert events[0].value["payload"] == "hello"


async def test_what_the_handler_returns_is_the_reply(runtime: LocalRuntime) -> None:
    ada = Address.parse("/echo/ada")
    await runtime.spawn(ada, SpawnRequest())
    reply = await runtime.ask(ada, SendRequest(payload={"n": 1}), within=SOON)
    assert reply.value == {"n": 1}


async def test_state_is_rows_by_key_that_stay(runtime: LocalRuntime) -> None:
    book = Address.parse("/notes/book")
    await runtime.spawn(book, SpawnRequest())
    await runtime.ask(book, SendRequest(payload="one"), within=SOON)
    reply = await runtime.ask(book, SendRequest(payload="two"), within=SOON)
    assert reply.value == ["one", "two"]


async def test_an_entity_with_nothing_to_do_sleeps_and_remembers(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    book = Address.parse("/notes/book")
    await runtime.spawn(book, SpawnRequest())
    await runtime.ask(book, SendRequest(payload="one"), within=SOON)

    async def asleep() -> bool:
        return (await runtime.inspect(book)).status is Status.SLEEPING

    await wait_until(asleep)
    assert (await runtime.inspect(book)).host is None
    reply = await runtime.ask(book, SendRequest(payload="two"), within=SOON)
    assert reply.value == ["one", "two"]


async def test_a_delayed_message_waits_in_the_log_and_comes_when_it_is_due(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    book = Address.parse("/notes/book")
    await runtime.spawn(book, SpawnRequest())
    await runtime.send(book, SendRequest(payload="later", after_seconds=0.1))
    await runtime.ask(book, SendRequest(payload="at once"), within=SOON)
    assert (await runtime.inspect(book)).schedules == 1

    async def came() -> bool:
        return (await runtime.inspect(book)).schedules == 0

    await wait_until(came)
    reply = await runtime.ask(book, SendRequest(payload="last"), within=SOON)
    assert reply.value == ["at once", "later", "last"]


async def test_messages_that_come_together_are_one_wake(runtime: LocalRuntime) -> None:
    counter = Address.parse("/counter/c")
    await runtime.spawn(counter, SpawnRequest())
    asks = [runtime.ask(counter, SendRequest(payload=n), within=SOON) for n in range(20)]
    replies = await asyncio.gather(*asks)
    assert len({reply.wake for reply in replies}) < 20
    counts = {reply.wake: reply.value for reply in replies}
    assert sum(counts.values()) == 20


async def test_a_repeated_send_with_the_same_id_counts_once(runtime: LocalRuntime) -> None:
    ada = Address.parse("/echo/ada")
    await runtime.spawn(ada, SpawnRequest())
    first = await runtime.send(ada, SendRequest(payload="pay 5", id="payment-1"))
    again = await runtime.send(ada, SendRequest(payload="pay 5", id="payment-1"))
    assert again.duplicate
    assert again.offset == first.offset
    with pytest.raises(MessageConflict):
        await runtime.send(ada, SendRequest(payload="pay 6", id="payment-1"))


async def test_anybody_may_follow_the_log_from_any_offset(runtime: LocalRuntime) -> None:
    ada = Address.parse("/echo/ada")
    await runtime.spawn(ada, SpawnRequest())
    receipt = await runtime.send(ada, SendRequest(payload="hello"))
    seen: list[Event] = []
    async for event in runtime.observe(ada, offset=receipt.offset):
        seen.append(event)
        if event.type == "wake" and event.value["status"] == "handled":
            break
    assert [event.type for event in seen] == ["inbox", "wake", "wake"]


async def test_a_killed_entity_takes_no_messages_but_its_log_stays(runtime: LocalRuntime) -> None:
    ada = Address.parse("/echo/ada")
    await runtime.spawn(ada, SpawnRequest())
    await runtime.kill(ada, reason="done")
    with pytest.raises(EntityGone):
        await runtime.send(ada, SendRequest(payload="hello?"))
    assert (await runtime.inspect(ada)).status is Status.STOPPED
    last = [event async for event in runtime.observe(ada, live=False)][-1]
    assert last.value["reason"] == "done"


async def test_nobody_lives_where_nobody_was_spawned(runtime: LocalRuntime) -> None:
    with pytest.raises(UnknownEntity, match="spawn it first"):
        await runtime.send(Address.parse("/echo/nobody"), SendRequest(payload="hello?"))
