"""Messages of mode ``steer``: a running loop takes them in, once, and the log says where."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.events import WakeRecorded
from ray_agents.modes import Mode
from ray_agents.projection import fold
from ray_agents.replies import reply_of
from ray_agents.requests import SendRequest
from ray_agents.timeline import Timeline
from ray_agents.tools import tool
from ray_agents.views import Receipt
from tests.cluster import gates
from tests.cluster.conftest import SOON, ask, log_of, spawned
from tests.cluster.paced import Paced, words_of
from tests.cluster.stores import memory

AT_ONCE = Limits(retry_delay=timedelta(milliseconds=1), attempts_max=10)
registry = Registry()


@tool(idempotent=True)
async def look() -> str:
    """Look."""
    await gates.wait("looking")
    return "seen"


@registry.entity("clerk", limits=AT_ONCE)
async def clerk(ctx: Any, wake: Any) -> Any:
    """Run the agent; which messages caused this wake."""
    ctx.use_agent(tools=[look])
    await ctx.agent.run()
    return [event.value["payload"] for event in ctx.events]


@registry.entity("clumsy", limits=AT_ONCE)
async def clumsy(ctx: Any, wake: Any) -> None:
    """Run the agent, and fail at first."""
    ctx.use_agent(tools=[look])
    await ctx.agent.run()
    gates.times["attempts"] += 1
    if gates.times["attempts"] == 1:
        raise ValueError("once")


@registry.entity("boss")
async def boss(ctx: Any, wake: Any) -> None:
    """Hurry somebody up."""
    await ctx.send(wake.payload, "hurry", mode="steer")


@registry.entity("pair", limits=AT_ONCE)
async def pair(ctx: Any, wake: Any) -> None:
    """Two runs side by side, with a source that takes its time."""

    async def slow() -> str:
        await gates.wait("source")
        return "slowly"

    await gates.wait("begin")
    ctx.use_context(source_budget=1_000, sources={"slow": {"content": slow, "max": 100}})
    ctx.use_agent()
    await asyncio.gather(ctx.agent.run("one"), ctx.agent.run("two"))


def steering(payload: str) -> SendRequest:
    return SendRequest(payload=payload, mode=Mode.STEER)


async def working(runtime: LocalRuntime, address: str = "/clerk/a") -> Address:
    """A clerk whose agent has called a tool, which runs."""
    await runtime.register(registry)
    at = await spawned(runtime, address)
    await runtime.send(at, SendRequest(payload="go"))
    await gates.reached["looking"].wait()
    return at


async def wakes_of(runtime: LocalRuntime, at: Address) -> list[WakeRecorded]:
    """The wakes that have been handled."""
    events = await log_of(runtime, at)
    wakes = [WakeRecorded.of(event) for event in events if event.type == "wake"]
    return [wake for wake in wakes if wake.closed]


async def reply_to(runtime: LocalRuntime, at: Address, receipt: Receipt) -> Any:
    async for event in runtime.observe(at, offset=receipt.offset):
        if (reply := reply_of(receipt, event)) is not None:
            return reply
    raise AssertionError("the log ends")


async def test_a_steered_message_joins_the_run_behind_the_tools_results() -> None:
    model = Paced(["!look"], ["Done."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        at = await working(runtime)
        receipt = await runtime.send(at, steering("but quickly"))
        gates.opened["looking"].set()
        reply = await reply_to(runtime, at, receipt)
        (wake,) = await wakes_of(runtime, at)
        assert (await runtime.inspect(at)).backlog == 0
    assert words_of(model.requests[1])[-2:] == [("user", "seen"), ("user", "but quickly")]
    assert (reply.text, wake.joined) == ("Done.", (receipt.offset,))


async def test_a_queued_message_waits_for_the_next_wake() -> None:
    model = Paced(["!look"], ["Done."], ["More."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        at = await working(runtime)
        receipt = await runtime.send(at, SendRequest(payload="then that"))
        gates.opened["looking"].set()
        reply = await reply_to(runtime, at, receipt)
    assert words_of(model.requests[1])[-1] == ("user", "seen")
    assert (reply.text, reply.value) == ("More.", ["then that"])


async def test_one_that_finds_no_loop_is_a_message_like_any_other() -> None:
    model = Paced(["Hello."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/clerk/a")
        reply = await runtime.ask(at, steering("hi"), within=SOON)
    assert (reply.text, reply.value) == ("Hello.", ["hi"])


async def test_a_run_that_would_have_ended_goes_on_with_it() -> None:
    model = Paced(["All ", "@last", "done."], ["In French: fini."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/clerk/a")
        await runtime.send(at, SendRequest(payload="go"))
        await gates.reached["last"].wait()
        receipt = await runtime.send(at, steering("en français"))
        gates.opened["last"].set()
        reply = await reply_to(runtime, at, receipt)
        assert len(await wakes_of(runtime, at)) == 1
    assert reply.text == "In French: fini."
    assert words_of(model.requests[1])[-2:] == [("assistant", "All done."), ("user", "en français")]


async def test_what_waits_before_and_behind_it_is_for_the_next_wake_without_it() -> None:
    model = Paced(["!look"], ["Done."], ["More."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        at = await working(runtime)
        await runtime.send(at, SendRequest(payload="before"))
        await runtime.send(at, steering("between"))
        last = await runtime.send(at, SendRequest(payload="behind"))
        gates.opened["looking"].set()
        reply = await reply_to(runtime, at, last)
    assert reply.value == ["before", "behind"]
    assert words_of(model.requests[2])[-3:] == [
        ("assistant", "Done."),
        ("user", "before"),
        ("user", "behind"),
    ]


async def test_a_run_that_resumes_after_a_crash_reads_it_in_the_same_place() -> None:
    model, store = Paced(["!look"], ["@answer", "lost"], ["Done.", "@answer"]), memory()
    runtime = LocalRuntime(store, model_for=model.for_any)
    await runtime.__aenter__()
    at = await working(runtime)
    receipt = await runtime.send(at, steering("but quickly"))
    gates.opened["looking"].set()
    await gates.reached["answer"].wait()
    await runtime.crash()
    gates.opened["answer"].set()
    async with LocalRuntime(store, model_for=model.for_any) as again:
        reply = await reply_to(again, at, receipt)
        events = await log_of(again, at)
        (wake,) = await wakes_of(again, at)
    assert model.requests[2] == model.requests[1]
    assert (reply.text, wake.joined) == ("Done.", (receipt.offset,))
    assert Timeline(events).messages()[:3] == model.requests[1]
    assert not fold(events).pending


async def test_who_steered_an_attempt_that_fails_is_told_of_the_one_that_does_not() -> None:
    model = Paced(["!look"], ["Done."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        at = await working(runtime, "/clumsy/a")
        receipt = await runtime.send(at, steering("but quickly"))
        gates.opened["looking"].set()
        reply = await reply_to(runtime, at, receipt)
        (wake,) = await wakes_of(runtime, at)
    assert gates.times["attempts"] == 2
    assert (reply.text, wake.joined) == ("Done.", (receipt.offset,))


async def test_a_delayed_one_steers_when_it_is_due() -> None:
    model = Paced(["!look"], ["Done."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        at = await working(runtime)
        late = SendRequest(payload="late", mode=Mode.STEER, after_seconds=0.01)
        await runtime.send(at, late)
        async for event in runtime.observe(at):
            if event.type == "inbox" and event.value["payload"] == "late":
                break
        gates.opened["looking"].set()
        async for event in runtime.observe(at):
            if event.type == "wake" and event.value["status"] == "handled":
                break
    assert words_of(model.requests[1])[-1] == ("user", "late")


async def test_of_two_runs_side_by_side_one_takes_it_in() -> None:
    model = Paced(["First."], ["Second."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/pair/a")
        await runtime.send(at, SendRequest(payload="go"))
        await gates.reached["begin"].wait()
        receipt = await runtime.send(at, steering("once"))
        gates.opened["begin"].set()
        await gates.reached["source"].wait()
        gates.opened["source"].set()
        await reply_to(runtime, at, receipt)
        rows = [event for event in await log_of(runtime, at) if event.type == "steered"]
        (wake,) = await wakes_of(runtime, at)
    assert [row.value["offset"] for row in rows] == [receipt.offset] == list(wake.joined)
    said = [("user", "once") in words_of(request) for request in model.requests]
    assert sorted(said) == [False, True]


async def test_a_handler_may_steer_another_entity() -> None:
    model = Paced(["!look"], ["Done."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        at = await working(runtime)
        boss = await spawned(runtime, "/boss/b")
        await ask(runtime, boss, str(at))
        async for event in runtime.observe(at):
            if event.type == "inbox" and event.value.get("mode") == "steer":
                break
        gates.opened["looking"].set()
        async for event in runtime.observe(at):
            if event.type == "wake" and event.value["status"] == "handled":
                break
    assert words_of(model.requests[1])[-1] == ("user", "hurry")
