"""Agents inside of tools, and side by side: what waits for people leaves the others alone."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.errors import ApprovalDecided, UnknownApproval
from ray_agents.events import Event
from ray_agents.model import ModelRequest
from ray_agents.models.scripted import Says
from ray_agents.requests import DecisionRequest, SendRequest
from ray_agents.tools import Tool, tool
from ray_agents.views import ApprovalView, Status
from tests.cluster import gates
from tests.cluster.conftest import ask, inbox_of, log_of, spawned, turn_until

APPROVE = DecisionRequest(decision="approve")
IDLE = timedelta(milliseconds=5)
Call = tuple[str, dict[str, Any]]
registry = Registry()


class Row(BaseModel):
    key: str


@tool(approval="required")
async def act(what: str = "act") -> str:
    """Act."""
    gates.times[what] += 1
    return f"{what} done"


@tool
async def charge() -> str:
    """Charge, which takes long."""
    await gates.wait("charging")
    gates.times["charged"] += 1
    return "charged"


def says(*calls: Call) -> list[Any]:
    return [Says(calls=calls), "Done."]


def acts(what: str, asked: ModelRequest) -> Any:
    done = f"{what} done" in str(asked.messages[-1])
    return f"{what}'s answer" if done else Says(calls=[("act", {"what": what})])


def notes(asked: ModelRequest) -> Any:
    return "noted" if "noted" in str(asked.messages[-1]) else Says(calls=[("note", {})])


def both(_: ModelRequest) -> Says:
    return Says(calls=[("act", {}), ("charge", {})])


def delegating(ctx: Any, *, idempotent: bool) -> Tool:
    @tool(idempotent=idempotent)
    async def delegate(who: str) -> str:
        """Have another agent act, or note something."""

        @tool
        async def note() -> str:
            """Note something."""
            ctx.state.rows.insert({"key": who})
            return "noted"

        try:
            model = partial(acts, who) if who.isupper() else notes
            return (await ctx.use_agent(tools=[act, note], test_responses=model).run("do")).text
        finally:
            gates.times["delegated"] += 1

    return delegate


async def delegates(ctx: Any, *, idempotent: bool) -> list[Any]:
    calls = [("delegate", {"who": who}) for who in ("a", "B", "C")]
    delegate = delegating(ctx, idempotent=idempotent)
    agent = ctx.use_agent(tools=[delegate], test_responses=says(*calls))
    result = await agent.run("go")
    noted = [row.key for row in ctx.state.rows.list()]
    return [*(call.result or call.error for call in result.tool_calls), noted]


@registry.entity("careless", idle_timeout=IDLE, state={"rows": Row})
async def careless(ctx: Any, wake: Any) -> list[Any]:
    return await delegates(ctx, idempotent=True)


@registry.entity("careful", idle_timeout=IDLE, state={"rows": Row})
async def careful(ctx: Any, wake: Any) -> list[Any]:
    return await delegates(ctx, idempotent=False)


@registry.entity("beside", idle_timeout=IDLE)
async def beside(ctx: Any, wake: Any) -> list[Any]:
    calls: list[Call] = [("charge", {}), ("delegate", {"who": "B"})]
    tools = [charge, delegating(ctx, idempotent=True)]
    agent = ctx.use_agent(tools=tools, test_responses=says(*calls))
    return [call.result or call.error for call in (await agent.run("go")).tool_calls]


@registry.entity("parallel", idle_timeout=IDLE)
async def parallel(ctx: Any, wake: Any) -> list[Any]:
    first = ctx.use_agent(tools=[act], test_responses=partial(acts, "LEFT"))
    second = ctx.use_agent(tools=[charge], test_responses=says(("charge", {})))
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(agent.run("go")) for agent in (first, second)]
    return [run.result().tool_calls[0].result for run in runs]


@registry.entity("leaving", idle_timeout=IDLE)
async def leaving(ctx: Any, wake: Any) -> str:
    agent = ctx.use_agent(tools=[act, charge], test_responses=says(("act", {}), ("charge", {})))
    run = asyncio.create_task(agent.run("go"))
    await gates.reached["charging"].wait()
    await gates.wait("leaving")
    run.cancel()
    with suppress(asyncio.CancelledError):
        await run
    return "gave up"


@registry.entity("fickle", idle_timeout=IDLE, limits=Limits(retry_delay=timedelta(milliseconds=1)))
async def fickle(ctx: Any, wake: Any) -> str:
    text = (await ctx.use_agent(test_responses=["Done."]).run(f"attempt {wake.attempt}")).text
    raise ValueError(text)


@registry.entity("hasty", idle_timeout=IDLE)
async def hasty(ctx: Any, wake: Any) -> Any:
    @tool(timeout=timedelta(milliseconds=20))
    async def delegate() -> str:
        """Have another agent do what takes long."""
        inner = ctx.use_agent(tools=[act, charge], test_responses=both)
        return (await inner.run("do")).text

    agent = ctx.use_agent(tools=[delegate], test_responses=says(("delegate", {})))
    result = await agent.run("go")
    await gates.wait("after")
    return result.tool_calls[0].error


@registry.entity("sink", idle_timeout=IDLE)
async def sink(ctx: Any, wake: Any) -> None:
    """Only receive."""


@registry.entity("stubborn", idle_timeout=IDLE)
async def stubborn(ctx: Any, wake: Any) -> str:
    @tool
    async def linger() -> str:
        """Take long to end."""
        await ctx.send("/sink/s", "early")
        try:
            return await gates.wait("lingering") or ""
        finally:
            await gates.wait("cleaning")
            gates.times["sending"] += 1
            await ctx.send("/sink/s", "late")

    await ctx.use_agent(tools=[linger], test_responses=says(("linger", {}))).run("go")
    await gates.wait("after")
    return "ended"


async def begun(runtime: LocalRuntime, address: str) -> Address:
    await runtime.register(registry)
    where = await spawned(runtime, address)
    await runtime.send(where, SendRequest(payload="go", id="m1"))
    return where


async def approvals_of(runtime: LocalRuntime, address: Address) -> tuple[ApprovalView, ...]:
    while not (found := (await runtime.inspect(address)).approvals):  # noqa: ASYNC110 - no event
        await asyncio.sleep(0)
    return tuple(found)


async def approve_all(runtime: LocalRuntime, address: Address) -> None:
    while (await runtime.inspect(address)).status is not Status.WAITING:  # noqa: ASYNC110
        await asyncio.sleep(0)
    for each in await approvals_of(runtime, address):
        await runtime.decide(address, each.key, APPROVE)


def newest(events: list[Event], type_name: str) -> dict[str, Any]:
    return {event.key: event.value for event in events if event.type == type_name}


@pytest.mark.parametrize("kind", ["careless", "careful"])
async def test_every_nested_agent_goes_on_with_its_own_run(kind: str) -> None:
    async with LocalRuntime("memory:") as runtime:
        where = await begun(runtime, f"/{kind}/n")
        await approve_all(runtime, where)
        told = (await ask(runtime, where, "go", "m1")).value
        assert told == ["noted", "B's answer", "C's answer", ["a"]]
        runs = newest(await log_of(runtime, where), "run")
        outer = next(iter(runs))
        assert outer.endswith("-run-1")
        assert sorted(runs)[1:] == [f"{outer}-s1-tool-{n}-run-1" for n in range(3)]
    assert (gates.times["B"], gates.times["C"]) == (1, 1)


async def test_a_tool_beside_an_agent_that_waits_runs_to_its_end() -> None:
    async with LocalRuntime("memory:") as runtime:
        where = await begun(runtime, "/beside/n")
        await gates.reached["charging"].wait()
        await turn_until(lambda: gates.times["delegated"] == 1)
        await approvals_of(runtime, where)
        gates.opened["charging"].set()
        await approve_all(runtime, where)
        assert (await ask(runtime, where, "go", "m1")).value == ["charged", "B's answer"]
    assert (gates.times["charging"], gates.times["charged"]) == (1, 1)


async def test_an_agent_beside_one_that_waits_runs_to_its_end() -> None:
    async with LocalRuntime("memory:") as runtime:
        where = await begun(runtime, "/parallel/n")
        await gates.reached["charging"].wait()
        await approvals_of(runtime, where)
        gates.opened["charging"].set()
        await approve_all(runtime, where)
        assert (await ask(runtime, where, "go", "m1")).value == ["LEFT done", "charged"]
    assert (gates.times["charging"], gates.times["charged"]) == (1, 1)


async def test_nobody_decides_on_a_call_whose_wake_has_ended_without_it() -> None:
    async with LocalRuntime("memory:") as runtime:
        where = await begun(runtime, "/leaving/n")
        await gates.reached["leaving"].wait()
        (approval,) = await approvals_of(runtime, where)
        gates.opened["leaving"].set()
        assert (await ask(runtime, where, "go", "m1")).value == "gave up"
        with pytest.raises((ApprovalDecided, UnknownApproval)):
            await runtime.decide(where, approval.key, APPROVE)
        events = await log_of(runtime, where)
        assert [row["status"] for row in newest(events, "run").values()] == ["completed"]
        assert [row["status"] for row in newest(events, "approval").values()] == ["withdrawn"]
        assert not (await runtime.inspect(where)).approvals


async def test_what_was_asked_inside_of_a_call_that_has_ended_waits_no_more() -> None:
    async with LocalRuntime("memory:") as runtime:
        where = await begun(runtime, "/hasty/n")
        await gates.reached["after"].wait()
        events = await log_of(runtime, where)
        assert [row["status"] for row in newest(events, "approval").values()] == ["withdrawn"]
        gates.opened["after"].set()
        told = (await ask(runtime, where, "go", "m1")).value
        assert str(told).startswith("Timed out")
        runs = newest(await log_of(runtime, where), "run").values()
        assert {row["finish_reason"] for row in runs} == {"interrupted", "end_turn"}


async def test_a_completed_run_is_not_taken_for_one_of_another_input() -> None:
    async with LocalRuntime("memory:") as runtime:
        where = await begun(runtime, "/fickle/n")
        await turn_until(lambda: any(e.state.parked for e in runtime.hosts.host.awake))
        (parked,) = (await runtime.inspect(where)).parked
        assert "'attempt 2'" in (parked.error or "")


async def test_a_tool_left_behind_by_an_interrupt_sends_nothing_any_more() -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        there = await spawned(runtime, "/sink/s")
        where = await begun(runtime, "/stubborn/n")
        await gates.reached["lingering"].wait()
        await runtime.interrupt(where)
        await gates.reached["after"].wait()
        gates.opened["cleaning"].set()
        await turn_until(lambda: gates.times["sending"] == 1)
        gates.opened["after"].set()
        assert (await ask(runtime, where, "go", "m1")).value == "ended"
        await turn_until(lambda: not any(e.busy for e in runtime.hosts.host.awake))
        assert await inbox_of(runtime, there) == []
