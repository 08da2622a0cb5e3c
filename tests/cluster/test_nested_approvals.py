"""People asked by an agent inside of a tool: the call it is inside of waits with it, come what may.

The calls are of tools that are not idempotent, so a crash that finds one at work ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.events import Event
from ray_agents.model import ModelRequest
from ray_agents.models.scripted import Says
from ray_agents.ports import Blobs
from ray_agents.requests import DecisionRequest, SendRequest
from ray_agents.timeline import INTERRUPTED
from ray_agents.tools import Tool, tool
from tests.cluster import gates
from tests.cluster.clocks import ManualClock
from tests.cluster.conftest import SOON, log_of, spawned, turn_until
from tests.cluster.crashing import crash_during
from tests.cluster.stores import memory

APPROVE = DecisionRequest(decision="approve")
MINUTE = timedelta(minutes=1)
DEEP = Address.parse("/deep/d")
registry = Registry()


@tool(approval="required")
async def act() -> str:
    """Act."""
    gates.times["act"] += 1
    return "acted"


@tool
async def look() -> str:
    """Look."""
    return "seen"


def calls(names: Sequence[str], asked: ModelRequest) -> Any:
    """Call these tools, then say what came of it."""
    last = asked.messages[-1]["content"]
    if last[-1]["type"] == "text":
        return Says(calls=[(name, {}) for name in names])
    return " ".join(str(block["content"]) for block in last)


def delegating(ctx: Any, name: str, tools: Sequence[Tool], **limits: Any) -> Tool:
    async def delegate() -> str:
        model = partial(calls, [each.name for each in tools])
        return (await ctx.use_agent(tools=tools, test_responses=model, **limits).run("do")).text

    delegate.__name__, delegate.__doc__ = name, "Have another agent do it."
    return tool(delegate)


@registry.entity("deep", limits=Limits(retry_delay=timedelta(milliseconds=1)))
async def deep(ctx: Any, wake: Any) -> str:
    inner = delegating(ctx, "inner", [act])
    outer = delegating(ctx, "outer", [inner])
    agent = ctx.use_agent(tools=[outer, look], test_responses=partial(calls, ["outer", "look"]))
    return (await agent.run("go")).text


@registry.entity("timed", idle_timeout=timedelta(milliseconds=5))
async def timed(ctx: Any, wake: Any) -> str:
    inner = delegating(ctx, "inner", [act])
    outer = delegating(ctx, "outer", [inner], time_max=MINUTE)
    model = partial(calls, ["outer"])
    result = await ctx.use_agent(tools=[outer], test_responses=model, time_max=MINUTE).run("go")
    return f"{result.text}, {result.stop_reason}"


async def prepared() -> Blobs:
    store = memory()
    async with LocalRuntime(store) as runtime:
        await runtime.register(registry)
        await spawned(runtime, str(DEEP))
    return store


async def through(runtime: LocalRuntime) -> str:
    """From the message to the answer; whoever is asked approves."""
    asking = SendRequest(payload="go", id="m1")
    await runtime.send(DEEP, asking)
    replied = asyncio.create_task(runtime.ask(DEEP, asking, within=SOON))
    try:
        while not replied.done():
            for approval in (await runtime.inspect(DEEP)).approvals:
                await runtime.decide(DEEP, approval.key, APPROVE)
            await asyncio.sleep(0)
        return (await replied).value
    finally:
        replied.cancel()


def asked(events: Sequence[Event]) -> list[str]:
    return [event.value["status"] for event in events if event.type == "approval"]


def outside(events: Sequence[Event]) -> list[set[str]]:
    """What became of the calls inside of which people are asked."""
    rows = [event.value for event in events if event.type == "tool_call" and event.text]
    ways = {
        name: {row["status"] for row in rows if row["tool_name"] == name}
        for name in ("inner", "outer")
    }
    return list(ways.values())


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after it"])
async def test_who_was_asked_is_not_asked_in_vain_wherever_the_host_dies(after: bool) -> None:
    crash_at, died, told = 0, True, ""
    while died:
        crash_at += 1
        gates.reset()
        store = await prepared()
        writes = await crash_during(through, store, crash_at=crash_at, after=after)
        died = writes >= crash_at
        async with LocalRuntime(store) as runtime:
            told = await through(runtime)
            events = await log_of(runtime, DEEP)
        assert asked(events) in ([], ["pending", "approved"])
        assert all("awaiting" in ways for ways in outside(events)) == bool(asked(events)), crash_at
        assert told == "acted seen" or INTERRUPTED in told
        assert gates.times["act"] <= 1
    assert (crash_at > 10, told) == (True, "acted seen")


async def test_the_time_that_people_take_inside_of_a_call_is_nobodys() -> None:
    clock = ManualClock()
    async with LocalRuntime("memory:", clock=clock) as runtime:
        await runtime.register(registry)
        there, asking = await spawned(runtime, "/timed/t"), SendRequest(payload="go", id="m1")
        await runtime.send(there, asking)
        await turn_until(lambda: any(e.state.waiting for e in runtime.hosts.host.awake))
        (approval,) = (await runtime.inspect(there)).approvals
        await clock.advance(60 * MINUTE)
        await runtime.decide(there, approval.key, APPROVE)
        assert (await runtime.ask(there, asking, within=SOON)).value == "acted, end_turn"
