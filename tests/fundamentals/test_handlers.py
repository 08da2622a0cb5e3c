"""Fundamentals, part two: what a handler may do, and what happens when it fails."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.errors import HandlerFailed
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.tools import tool

SOON = timedelta(seconds=5)
QUICKLY = Limits(retry_delay=timedelta(milliseconds=1))

registry = Registry()


class Note(BaseModel):
    key: str
    text: str


@registry.entity("notes", state={"notes": Note})
async def notes(ctx: Any, wake: Any) -> list[str]:
    """Keep each message, and say what is kept."""
    for event in ctx.events:
        ctx.state.notes.upsert({"key": event.key, "text": event.value["payload"]})
    return [note.text for note in ctx.state.notes.list()]


@registry.entity("courier")
async def courier(ctx: Any, wake: Any) -> None:
    """Pass a message on to an entity that is there already."""
    await ctx.send("/notes/book", f"{ctx.address} says {wake.payload}")


@registry.entity("parent")
async def parent(ctx: Any, wake: Any) -> str:
    """Make a child, with a first message and a tag."""
    child = await ctx.spawn("notes", "child", initial_message=wake.payload, tags={"kind": "child"})
    await child.send("and more")
    return child.address


@registry.entity("stubborn", limits=QUICKLY)
async def stubborn(ctx: Any, wake: Any) -> str:
    """Refuse one word."""
    if wake.payload == "no":
        raise ValueError("not that word")
    return f"gladly: {wake.payload}"


@registry.entity("mathematician")
async def mathematician(ctx: Any, wake: Any) -> int:
    """Ask a model that may call a tool; here the model's answers are given."""

    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    says = [("Let me see.", [("add", {"a": 2, "b": 3})]), "It is 5."]
    ctx.use_agent("You add numbers.", tools=[add], test_responses=says)
    result = await ctx.agent.run()
    return int(result.tool_calls[0].result)


@pytest.fixture(autouse=True)
async def registered(runtime: LocalRuntime) -> None:
    await runtime.register(registry)


async def spawned(runtime: LocalRuntime, address: str) -> Address:
    where = Address.parse(address)
    await runtime.spawn(where, SpawnRequest())
    return where


async def test_a_handler_sends_to_another_entity(runtime: LocalRuntime, wait_until: Any) -> None:
    book, ann = await spawned(runtime, "/notes/book"), await spawned(runtime, "/courier/ann")
    await runtime.ask(ann, SendRequest(payload="hi"), within=SOON)

    async def delivered() -> bool:
        types = [event.type async for event in runtime.observe(book, live=False)]
        return "inbox" in types

    await wait_until(delivered)
    reply = await runtime.ask(book, SendRequest(payload="last"), within=SOON)
    assert reply.value == ["/courier/ann says hi", "last"]


async def test_a_handler_spawns_a_child(runtime: LocalRuntime, wait_until: Any) -> None:
    pa = await spawned(runtime, "/parent/pa")
    reply = await runtime.ask(pa, SendRequest(payload="welcome"), within=SOON)
    child = Address.parse(reply.value)

    async def has_both() -> bool:
        return child_messages(await runtime.ask(child, SendRequest(payload="?"), within=SOON)) >= 2

    def child_messages(reply: Any) -> int:
        return len([text for text in reply.value if text != "?"])

    await wait_until(lambda: exists(runtime, child))
    await wait_until(has_both)
    view = await runtime.inspect(child)
    assert view.parent == "/parent/pa"
    assert view.tags == {"kind": "child"}


async def exists(runtime: LocalRuntime, address: Address) -> bool:
    return any(view.address == str(address) for view in (await list_all(runtime)))


async def list_all(runtime: LocalRuntime) -> Any:
    from ray_agents.requests import ListQuery

    return (await runtime.list(ListQuery())).items


async def test_a_wake_that_keeps_failing_is_parked_and_later_ones_go_on(
    runtime: LocalRuntime,
) -> None:
    sam = await spawned(runtime, "/stubborn/sam")
    with pytest.raises(HandlerFailed, match="not that word"):
        await runtime.ask(sam, SendRequest(payload="no"), within=SOON)
    (parked,) = (await runtime.inspect(sam)).parked
    assert parked.attempts == 3
    reply = await runtime.ask(sam, SendRequest(payload="yes"), within=SOON)
    assert reply.value == "gladly: yes"
    assert await runtime.skip(sam) == 1
    assert (await runtime.inspect(sam)).parked == ()


async def test_a_new_version_applies_from_the_next_wake_and_heals_a_parked_one(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    sam = await spawned(runtime, "/stubborn/sam")
    with pytest.raises(HandlerFailed):
        await runtime.ask(sam, SendRequest(payload="no", id="m1"), within=SOON)
    mended = Registry()

    @mended.entity("stubborn", limits=QUICKLY)
    async def polite(ctx: Any, wake: Any) -> str:
        return f"v{ctx.definition_version}: {wake.payload}"

    (view,) = await runtime.register(mended)
    assert view.version == 2
    assert await runtime.retry(sam) == 1
    await wait_until(lambda: nothing_parked(runtime, sam))
    reply = await runtime.ask(sam, SendRequest(payload="hello"), within=SOON)
    assert reply.value == "v2: hello"


async def nothing_parked(runtime: LocalRuntime, address: Address) -> bool:
    view = await runtime.inspect(address)
    return view.parked == () and view.backlog == 0


async def test_an_agent_thinks_calls_a_tool_and_answers(runtime: LocalRuntime) -> None:
    gauss = await spawned(runtime, "/mathematician/gauss")
    reply = await runtime.ask(gauss, SendRequest(payload="2 + 3?"), within=SOON)
    assert reply.text == "It is 5."
    assert reply.value == 5
    types = {event.type async for event in runtime.observe(gauss, live=False)}
    assert {"run", "step", "tool_call", "text", "text_delta"} <= types
