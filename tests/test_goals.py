"""Goals: one an entity, counted from the ledger, at whose budget runs end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Definition, Limits, Registry
from ray_agents.errors import HandlerFailed
from ray_agents.goals import TOKEN_BUDGET
from ray_agents.model import ModelRequest, Usage
from ray_agents.models.scripted import Says
from ray_agents.requests import DecisionRequest, ForkRequest, SendRequest
from ray_agents.tools import tool
from tests.cluster import gates
from tests.cluster.conftest import SOON, ask, log_of, spawned, turn_until

STEP = 120
USAGE = Usage(input_tokens=100, output_tokens=20)
failures: list[str] = []


@tool(approval="required")
async def pay() -> str:
    """Pay."""
    return "paid"


def well(_: ModelRequest) -> Says:
    return Says(text="Well.", usage=USAGE)


async def do(ctx: Any, wake: Any) -> Any:
    """Do each of the message's words with its arguments; what the last one gave."""
    said: Any = None
    for word, *args in wake.payload:
        if word == "run":
            ctx.use_agent(test_responses=well)
            said = (await ctx.agent.run()).stop_reason
        elif word == "pay":
            ctx.use_agent(tools=[pay], test_responses=[Says(calls=[("pay", {})]), "Paid."])
            said = (await ctx.agent.run()).text
        elif word == "wait":
            await ctx.commit()
            await gates.wait(args[0])
        elif word == "fail":
            if not failures:
                failures.append(word)
                raise ValueError("once")
        elif word == "set":
            said = ctx.set_goal(args[0], **args[1])
        else:
            said = getattr(ctx, word)(*args)
    return said if isinstance(said, str | bool | None) else asdict(said)


@pytest.fixture
async def runtime() -> AsyncIterator[LocalRuntime]:
    failures.clear()
    gates.reset()
    registry = Registry()
    limits = Limits(attempts_max=2, retry_delay=timedelta(milliseconds=1))
    registry.define("t", Definition(type="t", handler=do, limits=limits, idle_timeout=timedelta(0)))
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        yield runtime


@pytest.fixture
async def t(runtime: LocalRuntime) -> Address:
    return await spawned(runtime, "/t/a")


async def said(runtime: LocalRuntime, t: Address, *words: Any) -> Any:
    return (await ask(runtime, t, list(words))).value


SET = ("set", "tidy up", {"token_budget": 200})
GET = ("get_goal",)
RUN = ("run",)


async def test_runs_count_against_the_goal_and_end_at_its_budget(
    runtime: LocalRuntime, t: Address
) -> None:
    assert await said(runtime, t, RUN, SET, RUN, RUN, RUN) == "goal_budget"
    goal = await said(runtime, t, GET)
    assert (goal["tokens_used"], goal["status"]) == (2 * STEP, "budget_limited")
    assert await said(runtime, t, RUN) == "goal_budget"
    assert (await runtime.inspect(t)).spent.tokens == 3 * STEP


async def test_the_same_objective_with_more_tokens_goes_on_and_another_begins_anew(
    runtime: LocalRuntime, t: Address
) -> None:
    await said(runtime, t, SET, RUN, RUN)
    more = ("set", "tidy up", {"token_budget": 400})
    goal = await said(runtime, t, more)
    assert (goal["tokens_used"], goal["status"]) == (2 * STEP, "active")
    assert await said(runtime, t, RUN, RUN, RUN) == "goal_budget"
    other = await said(runtime, t, ("set", "rest", {}))
    assert (other["tokens_used"], other["token_budget"]) == (0, TOKEN_BUDGET)


async def test_a_goal_that_is_complete_counts_nothing_and_stops_nobody(
    runtime: LocalRuntime, t: Address
) -> None:
    await said(runtime, t, SET, RUN, ("mark_goal_complete", "  done  "))
    assert await said(runtime, t, RUN, RUN) == "end_turn"
    goal = await said(runtime, t, GET)
    assert (goal["status"], goal["summary"], goal["tokens_used"]) == ("complete", "done", STEP)


async def test_what_is_said_of_usage_counts_and_never_shrinks(
    runtime: LocalRuntime, t: Address
) -> None:
    await said(runtime, t, SET, RUN)
    assert (await said(runtime, t, ("update_goal_usage", 50)))["tokens_used"] == STEP
    goal = await said(runtime, t, ("update_goal_usage", 199))
    assert (goal["tokens_used"], goal["status"]) == (199, "active")
    assert await said(runtime, t, ("update_goal_usage", 200), RUN) == "goal_budget"


async def test_a_goal_that_is_cleared_is_none(runtime: LocalRuntime, t: Address) -> None:
    assert await said(runtime, t, SET, ("clear_goal",)) is True
    assert await said(runtime, t, ("clear_goal",)) is False
    for verb in ("get_goal", "mark_goal_complete"):
        assert await said(runtime, t, (verb,)) is None
    assert await said(runtime, t, ("update_goal_usage", 5)) is None
    assert (await runtime.inspect(t)).goal is None


async def test_a_wake_that_runs_again_has_the_goal_it_had(
    runtime: LocalRuntime, t: Address
) -> None:
    assert await said(runtime, t, SET, RUN, ("fail",), RUN) == "end_turn"
    goal = await said(runtime, t, GET)
    assert goal["tokens_used"] == 2 * STEP
    rows = [event for event in await log_of(runtime, t) if event.type == "manifest"]
    assert [(row.key, row.value["tokens_used"]) for row in rows] == [("goal", 0)]


async def test_a_fork_goes_on_from_what_the_goals_row_says(
    runtime: LocalRuntime, t: Address
) -> None:
    await said(runtime, t, SET, RUN, ("update_goal_usage", 1))
    fork = await runtime.fork(t, ForkRequest(to="/t/b"))
    assert fork.goal is not None
    assert fork.goal.tokens_used == STEP
    assert await said(runtime, Address.parse("/t/b"), RUN, RUN) == "goal_budget"


async def test_a_sleeper_shows_its_goal(runtime: LocalRuntime, t: Address) -> None:
    await said(runtime, t, SET, RUN)
    await turn_until(lambda: not runtime.hosts.host.awake)
    goal = (await runtime.inspect(t)).goal
    assert goal is not None
    assert (goal.objective, goal.status, goal.tokens_used) == ("tidy up", "active", STEP)


async def test_the_goal_of_a_first_wake_that_waits_for_approval_is_shown(
    runtime: LocalRuntime, t: Address
) -> None:
    paying = SendRequest(payload=[SET, ("wait", "set"), ("pay",)], id="paying")
    await runtime.send(t, paying)  # who asks keeps it awake for a while
    await gates.reached["set"].wait()
    gates.opened["set"].set()
    await turn_until(lambda: not runtime.hosts.host.awake)
    view = await runtime.inspect(t)
    assert view.goal is not None
    assert (view.goal.objective, view.goal.status) == ("tidy up", "active")
    assert view.goal.tokens_used == view.spent.tokens > 0
    await runtime.decide(t, view.approvals[0].id, DecisionRequest(decision="approve"))
    assert (await ask(runtime, t, paying.payload, id=paying.id)).value == "Paid."
    assert (await runtime.inspect(t)).goal is not None


@pytest.mark.parametrize("earlier", [(), (SET,)])
async def test_the_newest_goal_of_a_wake_that_runs_is_shown(
    runtime: LocalRuntime, t: Address, earlier: tuple[Any, ...]
) -> None:
    await said(runtime, t, *earlier)
    first, second, none = ("wait", "first"), ("wait", "second"), ("wait", "none")
    words: list[Any] = [SET, first, ("set", "rest", {}), second, ("clear_goal",), none]
    running = asyncio.create_task(said(runtime, t, *words))
    for name, objective in ("first", "tidy up"), ("second", "rest"), ("none", None):
        await gates.reached[name].wait()
        goal = (await runtime.inspect(t)).goal
        assert (goal and goal.objective) == objective
        gates.opened[name].set()
    await running
    assert (await runtime.inspect(t)).goal is None


@pytest.mark.parametrize(
    "wrong",
    [
        ("set", "", {}),
        ("set", "x" * 10_001, {}),
        ("set", "x", {"token_budget": 0}),
    ],
)
async def test_what_is_no_goal_is_refused(
    runtime: LocalRuntime, t: Address, wrong: tuple[Any, ...]
) -> None:
    with pytest.raises(HandlerFailed):
        await runtime.ask(t, SendRequest(payload=[wrong]), within=SOON)
