"""Approvals in handlers of all kinds: their effects happen once, however they call their agent."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from pydantic import BaseModel

from ray_agents.address import Address
from ray_agents.approvals import AwaitsApproval
from ray_agents.client import AsyncClient
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.model import ModelRequest
from ray_agents.models.scripted import Says
from ray_agents.requests import DecisionRequest, SendRequest
from ray_agents.testing import local_client
from ray_agents.tools import tool
from ray_agents.views import EntityView, Status
from tests.cluster import gates
from tests.cluster.clocks import ManualClock
from tests.cluster.conftest import ask, inbox_of, log_of, spawned, turn_until

APPROVE = DecisionRequest(decision="approve")
HOUR = timedelta(hours=1)
IDLE = timedelta(milliseconds=5)
ONCE = Limits(attempts_max=1)
registry = Registry()


class Row(BaseModel):
    key: str


@tool(approval="required", approval_timeout=HOUR)
async def act(what: str = "act") -> str:
    """Act."""
    gates.times[what] += 1
    return f"{what} done"


def says(*calls: tuple[str, dict[str, Any]]) -> list[Any]:
    return [Says(calls=calls), "Done."]


def one_of_two(what: str, asked: ModelRequest) -> Any:
    done = f"{what} done" in str(asked.messages[-1])
    return "Done." if done else Says(calls=[("act", {"what": what})])


@registry.entity("sink", idle_timeout=IDLE)
async def sink(ctx: Any, wake: Any) -> None:
    """Only receive."""


@registry.entity("busy", idle_timeout=IDLE, state={"rows": Row})
async def busy(ctx: Any, wake: Any) -> str:
    ctx.state.rows.insert({"key": "before"})
    await ctx.send("/sink/s", "before")
    ctx.use_agent(tools=[act], test_responses=says(("act", {})))
    text = (await ctx.agent.run()).text
    ctx.state.rows.insert({"key": "after"})
    await ctx.send("/sink/s", "after")
    return text


@registry.entity("two", idle_timeout=IDLE)
async def two(ctx: Any, wake: Any) -> list[str]:
    first = ctx.use_agent(tools=[act], test_responses=partial(one_of_two, "left"))
    second = ctx.use_agent(tools=[act], test_responses=partial(one_of_two, "right"))
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(agent.run()) for agent in (first, second)]
    return [run.result().tool_calls[0].result for run in runs]


@registry.entity("deaf", idle_timeout=IDLE)
async def deaf(ctx: Any, wake: Any) -> str:
    ctx.use_agent(tools=[act], test_responses=says(("act", {})))
    with suppress(AwaitsApproval):
        return (await ctx.agent.run()).text
    return "never recorded"


@registry.entity("closing", idle_timeout=IDLE)
async def closing(ctx: Any, wake: Any) -> str:
    ctx.use_agent(tools=[act], test_responses=says(("act", {})))
    said = "nothing"
    try:
        said = (await ctx.agent.run()).text
    finally:
        ctx.set_tag("said", said)
    return said


@registry.entity("failing", idle_timeout=IDLE, limits=ONCE)
async def failing(ctx: Any, wake: Any) -> str:
    ctx.use_agent(tools=[act], test_responses=says(("act", {})))
    try:
        return (await ctx.agent.run()).text
    finally:
        if gates.times["failing"] == 0:
            gates.times["failing"] += 1
            raise ValueError("on the way out")


@registry.entity("nested", idle_timeout=IDLE)
async def nested(ctx: Any, wake: Any) -> str:
    @tool(idempotent=True)
    async def delegate() -> str:
        """Have another agent act."""
        inner = ctx.use_agent(tools=[act], test_responses=partial(one_of_two, "inner"))
        return (await inner.run()).tool_calls[0].result

    agent = ctx.use_agent(tools=[delegate], test_responses=says(("delegate", {})))
    result = await agent.run("go")
    return result.tool_calls[0].result


@registry.entity("slow", idle_timeout=IDLE)
async def slow(ctx: Any, wake: Any) -> str:
    @tool(idempotent=True)
    async def think() -> str:
        """Think for long."""
        await gates.wait("thinking")
        return "thought"

    gates.times["slow"] += 1
    ctx.use_agent(tools=[act, think], test_responses=says(("act", {}), ("think", {})))
    return (await ctx.agent.run()).text


async def begun(runtime: LocalRuntime, address: str) -> Address:
    await runtime.register(registry)
    await spawned(runtime, "/sink/s")
    where = await spawned(runtime, address)
    await runtime.send(where, SendRequest(payload="go", id="m1"))
    return where


async def waiting(runtime: LocalRuntime, address: Address) -> EntityView:
    while True:
        view = await runtime.inspect(address)
        if view.status is Status.WAITING and view.approvals and view.waiting_for == "approval":
            return view
        await asyncio.sleep(0)


async def approve_all(runtime: LocalRuntime, address: Address) -> int:
    approvals = (await waiting(runtime, address)).approvals
    for approval in approvals:
        await runtime.decide(address, approval.key, APPROVE)
    return len(approvals)


async def test_what_the_handler_did_before_is_not_done_again() -> None:
    async with LocalRuntime("memory:") as runtime:
        b = await begun(runtime, "/busy/b")
        assert await approve_all(runtime, b) == 1
        assert (await ask(runtime, b, "go", "m1")).value == "Done."
        rows = [e.key for e in await log_of(runtime, b) if e.type == "state:rows"]
        assert rows == ["before", "after"]
        await turn_until(lambda: not any(e.busy for e in runtime.hosts.host.awake))
        assert await inbox_of(runtime, Address.parse("/sink/s")) == ["before", "after"]


async def test_agents_side_by_side_wait_together() -> None:
    async with LocalRuntime("memory:") as runtime:
        t = await begun(runtime, "/two/t")
        approved = 0
        while approved < 2:
            approved += await approve_all(runtime, t)
        assert (await ask(runtime, t, "go", "m1")).value == ["left done", "right done"]
    assert (gates.times["left"], gates.times["right"]) == (1, 1)


async def test_an_agent_in_an_idempotent_tool_may_wait() -> None:
    async with LocalRuntime("memory:") as runtime:
        n = await begun(runtime, "/nested/n")
        await approve_all(runtime, n)
        assert (await ask(runtime, n, "go", "m1")).value == "inner done"
    assert gates.times["inner"] == 1


async def test_a_handler_that_swallows_the_end_of_its_attempt_waits_all_the_same() -> None:
    async with LocalRuntime("memory:") as runtime:
        d = await begun(runtime, "/deaf/d")
        await approve_all(runtime, d)
        assert (await ask(runtime, d, "go", "m1")).value == "Done."


async def test_what_a_handler_does_on_its_way_into_waiting_never_happened() -> None:
    async with LocalRuntime("memory:") as runtime:
        c = await begun(runtime, "/closing/c")
        assert (await waiting(runtime, c)).tags == {}
        await approve_all(runtime, c)
        assert (await ask(runtime, c, "go", "m1")).value == "Done."
        assert (await runtime.inspect(c)).tags == {"said": "Done."}


async def test_a_handler_that_fails_while_it_waits_is_parked_and_waits_when_retried() -> None:
    async with LocalRuntime("memory:") as runtime:
        f = await begun(runtime, "/failing/f")
        await turn_until(lambda: any(e.state.parked for e in runtime.hosts.host.awake))
        view = await runtime.inspect(f)
        assert "on the way out" in view.parked[0].error
        assert len(view.approvals) == 1
        await runtime.retry(f)
        await approve_all(runtime, f)
        await turn_until(lambda: not any(e.busy for e in runtime.hosts.host.awake))
        ends = [e.value["status"] for e in await log_of(runtime, f) if e.type == "wake"]
        assert ends == ["started", "parked", "failed", "started", "waiting", "started", "handled"]


async def test_a_decision_that_comes_before_the_run_waits_is_taken_when_it_does() -> None:
    async with LocalRuntime("memory:") as runtime:
        s = await begun(runtime, "/slow/s")
        await gates.reached["thinking"].wait()
        (approval,) = (view := await runtime.inspect(s)).approvals
        assert view.status is Status.RUNNING
        await runtime.decide(s, approval.id, APPROVE)
        assert gates.times["act"] == 0
        gates.opened["thinking"].set()
        assert (await ask(runtime, s, "go", "m1")).value == "Done."
    assert gates.times == {"slow": 2, "thinking": 1, "act": 1}


async def test_a_sleeper_is_woken_when_its_approval_expires() -> None:
    clock = ManualClock()
    async with LocalRuntime("memory:", clock=clock) as runtime:
        b = await begun(runtime, "/busy/b")
        await turn_until(lambda: any(e.state.waiting for e in runtime.hosts.host.awake))
        await clock.advance(2 * IDLE)
        await turn_until(lambda: not runtime.hosts.host.owns(b))
        view = await waiting(runtime, b)
        assert (view.host, view.next_due) == (None, view.approvals[0].expires)
        await clock.advance(HOUR)
        assert (await ask(runtime, b, "go", "m1")).value == "Done."
        approvals = [e.value["status"] for e in await log_of(runtime, b) if e.type == "approval"]
        assert approvals == ["pending", "expired"]
    assert gates.times["act"] == 0


async def test_the_clients_approve_and_deny() -> None:
    runtime = LocalRuntime("memory:")
    async with AsyncClient(runtime) as client:
        b = await begun(runtime, "/busy/b")
        (approval,) = (await waiting(runtime, b)).approvals
        decided = await client.deny(str(b), approval.id, by="ann", reason="no")
        assert (decided.status, decided.by, decided.reason) == ("denied", "ann", "no")
        assert (await ask(runtime, b, "go", "m1")).value == "Done."


def test_the_blocking_client_does_so_too() -> None:
    with local_client() as client:
        client.register(registry)
        client.spawn("/sink/s")
        client.spawn("/busy/b", message="go")
        while not (approvals := client.inspect("/busy/b").approvals):
            pass
        assert client.approve("/busy/b", approvals[0].id).status == "approved"
        while client.inspect("/busy/b").backlog:
            pass
    assert gates.times["act"] == 1
