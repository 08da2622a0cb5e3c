"""Tools of coordination: what a model does with them happens once, and within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.budgets import Budget
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Definition, Registry
from ray_agents.errors import HandlerFailed, InvalidDefinition, RayAgentsError
from ray_agents.models.scripted import Says
from ray_agents.ports import Blobs
from ray_agents.requests import SendRequest, ShareRequest, SpawnRequest
from tests.cluster.conftest import SOON, ask, inbox_of, log_of, turn_until
from tests.cluster.stores import DyingBlobs, memory

BOSS = Address.parse("/boss/b")


async def boss(ctx: Any, wake: Any) -> Any:
    """Have a scripted model call tools; their names, and what each gave."""
    order: dict[str, Any] = wake.payload
    if "calls" not in order:  # its own reminder
        return None
    if order.get("goal"):
        ctx.set_goal(order["goal"])
    budget = Budget(tokens_max=order["budget"]) if "budget" in order else None
    tools = ctx.agent_tools(budget=budget, **order.get("options", {}))
    steps = [Says(calls=[tuple(call) for call in step]) for step in order["calls"]]
    ctx.use_agent(tools=tools, test_responses=[*steps, "Done."])
    result = await ctx.agent.run()
    return [
        [each.name for each in tools],
        [each.result or each.error for each in result.tool_calls],
    ]


async def worker(ctx: Any, wake: Any) -> None: ...


def both() -> Registry:
    registry = Registry()
    for name, handler in (("boss", boss), ("worker", worker)):
        registry.define(name, Definition(type=name, handler=handler, idle_timeout=timedelta(0)))
    return registry


@pytest.fixture
async def runtime() -> AsyncIterator[LocalRuntime]:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(both())
        yield runtime


async def told(runtime: LocalRuntime, *steps: Any, share: int | None = None, **more: Any) -> Any:
    budget = None if share is None else ShareRequest(tokens_max=share)
    await runtime.spawn(BOSS, SpawnRequest(budget=budget))
    return (await ask(runtime, BOSS, {"calls": list(steps), **more})).value


def spawn(name: str) -> Any:
    return ["spawn", {"type": "worker", "id": name, "text": f"Hello {name}"}]


WORKERS = {"spawns": ["worker"]}


async def test_a_model_spawns_with_a_first_message_and_sends(runtime: LocalRuntime) -> None:
    send = ["send", {"address": "/worker/w", "text": "more"}]
    _, results = await told(runtime, [spawn("w")], [send], options=WORKERS)
    assert results == ["/worker/w is created and has your message.", "Sent to /worker/w."]
    await turn_until(lambda: not runtime.hosts.host.awake)
    w = Address.parse("/worker/w")
    assert await inbox_of(runtime, w) == [{"text": "Hello w"}, {"text": "more"}]
    assert (await runtime.inspect(w)).parent == str(BOSS)


async def test_it_spawns_no_other_types_and_no_more_than_it_may(runtime: LocalRuntime) -> None:
    other = ["spawn", {"type": "boss", "id": "x", "text": "hi"}]
    calls = [spawn("a"), spawn("b"), spawn("c"), other]
    _, results = await told(runtime, calls, options={**WORKERS, "spawns_max": 2})
    refused = [text for text in results if "as many as you may" in text]
    assert len(refused) == 1
    assert "arguments of 'spawn' are not valid" in results[3]
    assert len([text for text in results if "is created" in text]) == 2


async def test_nothing_is_sent_to_a_type_that_does_not_exist(runtime: LocalRuntime) -> None:
    send = ["send", {"address": "/nosuch/x", "text": "hi"}]
    later = ["schedule", {"address": "/nosuch/x", "text": "hi", "after_seconds": 1}]
    _, results = await told(runtime, [send, later, ["send", {"address": "x", "text": "hi"}]])
    assert all("no definition of type 'nosuch' is registered" in text for text in results[:2])
    assert "'x'" in results[2]
    assert not [event for event in await log_of(runtime, BOSS) if event.type == "outbox"]


async def test_spawns_of_a_type_that_does_not_exist_are_refused_when_declared(
    runtime: LocalRuntime,
) -> None:
    await runtime.spawn(BOSS, SpawnRequest())
    order: dict[str, Any] = {"calls": [], "options": {"spawns": ["worker", "nosuch"]}}
    with pytest.raises(HandlerFailed, match="no definition of type 'nosuch'"):
        await runtime.ask(BOSS, SendRequest(payload=order), within=SOON)


async def test_what_a_model_may_not_do_it_is_not_offered(runtime: LocalRuntime) -> None:
    names, _ = await told(runtime, [])
    assert names == ["send", "schedule", "set_tag"]


async def test_each_child_of_a_model_has_the_share_that_the_handler_chose(
    runtime: LocalRuntime,
) -> None:
    calls = [spawn("a"), spawn("b")]
    _, results = await told(runtime, calls, options=WORKERS, budget=400, share=700)
    assert len([text for text in results if "OverBudget" in text]) == 1
    assert (await runtime.inspect(BOSS)).granted_tokens == 400


async def test_a_model_reminds_itself_and_tags(runtime: LocalRuntime) -> None:
    schedule = ["schedule", {"text": "look again", "after_seconds": 3600}]
    _, results = await told(runtime, [schedule, ["set_tag", {"key": "mood", "value": "fine"}]])
    assert results == ["/boss/b gets it in 3600 seconds.", "mood is 'fine' now."]
    await turn_until(lambda: not runtime.hosts.host.awake)
    view = await runtime.inspect(BOSS)
    assert (view.schedules, view.tags) == (1, {"mood": "fine"})


async def test_a_model_reads_its_goal_and_says_that_it_is_reached(runtime: LocalRuntime) -> None:
    done = ["mark_goal_complete", {"summary": "all tidy"}]
    names, results = await told(runtime, [["get_goal", {}]], [done], goal="tidy up")
    assert names[-2:] == ["get_goal", "mark_goal_complete"]
    assert '"objective":"tidy up","status":"active"' in results[0]
    assert results[1] == "Complete: tidy up"
    goal = (await runtime.inspect(BOSS)).goal
    assert goal is not None
    assert (goal.status, goal.summary) == ("complete", "all tidy")


async def test_a_bound_of_no_spawns_is_refused(runtime: LocalRuntime) -> None:
    await runtime.spawn(BOSS, SpawnRequest())
    order: dict[str, Any] = {"calls": [], "options": {**WORKERS, "spawns_max": 0}}
    with pytest.raises(HandlerFailed, match="at least 1"):
        await runtime.ask(BOSS, SendRequest(payload=order), within=SOON)
    assert InvalidDefinition.status == 422


async def until_dead(store: Blobs, order: Any, *, crash_at: int) -> int:
    """Carry out the order until the process dies at its n-th write; how many there were."""
    died, loop = asyncio.Event(), asyncio.get_running_loop()
    dying = DyingBlobs(store, crash_at=crash_at, died=lambda: loop.call_soon_threadsafe(died.set))
    runtime = LocalRuntime(dying)
    try:
        async with asyncio.TaskGroup() as group, runtime:
            work = group.create_task(runtime.ask(BOSS, order, within=SOON))
            death = group.create_task(died.wait())
            await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
            death.cancel()
            work.cancel()
            await runtime.crash()
    except* (RayAgentsError, asyncio.CancelledError):
        pass
    return dying.writes


@pytest.mark.slow
async def test_what_a_model_does_happens_once_whenever_the_process_dies() -> None:
    """At every write of a run that spawns, sends and schedules."""
    send = ["send", {"address": "/worker/w", "text": "more"}]
    later = ["schedule", {"address": "/worker/w", "text": "later", "after_seconds": 3600}]
    payload = {"calls": [[spawn("w")], [send, later]], "options": WORKERS}
    order, crash_at, writes = SendRequest(payload=payload, id="m1"), 0, 0
    while crash_at <= writes:
        crash_at, store = crash_at + 1, memory()
        async with LocalRuntime(store) as runtime:
            await runtime.register(both())
            await runtime.spawn(BOSS, SpawnRequest())
        writes = await until_dead(store, order, crash_at=crash_at)
        async with LocalRuntime(store) as runtime:
            await runtime.ask(BOSS, order, within=SOON)
            await turn_until(lambda: not runtime.hosts.host.awake)
            w = Address.parse("/worker/w")
            assert await inbox_of(runtime, w) == [{"text": "Hello w"}, {"text": "more"}]
            assert (await runtime.inspect(w)).schedules == 1
    assert crash_at > 10
