"""Summaries in the log of an entity: what they leave for later runs, and for those that resume."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from ray_agents.cluster.local import LocalRuntime
from ray_agents.compaction import Compaction
from ray_agents.definition import Limits, Registry
from ray_agents.errors import ModelUnavailable
from ray_agents.model import Message, ModelRequest
from ray_agents.models.scripted import FunctionModel, Says
from ray_agents.requests import SendRequest
from ray_agents.tools import tool
from tests.cluster import gates
from tests.cluster.conftest import ask, log_of, spawned

IDLE = timedelta(milliseconds=5)
LONG = "word " * 80  # 100 tokens
STEPS = 9
registry = Registry()


@tool
async def look() -> str:
    """Look, which takes long the first time."""
    gates.times["looks"] += 1
    if gates.times["looks"] == 1:
        await gates.wait("looking")
    return LONG


def looks(asked: ModelRequest) -> Any:
    done = gates.times["looks"] >= STEPS
    return f"Heard: {asked.messages[-1]}" if done else Says(calls=[("look", {})])


@registry.entity("long", idle_timeout=IDLE)
async def long(ctx: Any, wake: Any) -> str:
    compaction = Compaction(threshold=300, keep_last=2, max_tokens=50)
    agent = ctx.use_agent(tools=[look], compaction=compaction, test_responses=looks)
    return (await agent.run()).text


@registry.entity("outer", idle_timeout=IDLE, limits=Limits(retry_delay=timedelta(milliseconds=1)))
async def outer(ctx: Any, wake: Any) -> str:
    @tool
    async def delegate() -> str:
        """Have another agent look."""
        compaction = Compaction(threshold=300, keep_last=2, max_tokens=50)
        await ctx.use_agent("Inner.", tools=[look], compaction=compaction).run("look")
        return "looked"

    return (await ctx.use_agent("Outer.", tools=[delegate]).run()).text


@registry.entity("beside", idle_timeout=IDLE, limits=Limits(retry_delay=timedelta(milliseconds=1)))
async def beside(ctx: Any, wake: Any) -> str:
    compaction = Compaction(threshold=300, keep_last=2, max_tokens=50)
    looker = ctx.use_agent("Looker.", tools=[look], compaction=compaction)
    if wake.payload == "tell":
        return (await looker.run()).text
    teller = ctx.use_agent("Teller.")

    async def tell() -> None:
        await gates.reached["looking"].wait()
        await teller.run("tell")
        gates.opened["looking"].set()

    await asyncio.gather(looker.run("look"), tell())
    return "looked"


class BesideEachOther:
    """One looks and sums up for long, while the other has said a word at its beginning."""

    def __init__(self) -> None:
        self.failing: list[Sequence[Message]] = []

    def __call__(self, asked: ModelRequest) -> Any:
        knows = "the word is BETA" if "BETA" in str(asked.messages) else "no word"
        if asked.system == "Teller.":
            return "BETA."
        if asked.system != "Looker.":
            return f"Summed up: {knows}."
        if gates.times["looks"] == STEPS - 1 and len(self.failing) < 2:
            self.failing.append(asked.messages)
            if len(self.failing) == 1:
                raise ModelUnavailable("for a test")
        return knows if gates.times["looks"] >= STEPS else Says(calls=[("look", {})])


class Delegating:
    """Looks inside, is not to be reached once outside, and keeps what it is asked there."""

    def __init__(self) -> None:
        self.asked: list[Sequence[Message]] = []

    def __call__(self, asked: ModelRequest) -> Any:
        if asked.system == "Inner.":
            return "Done." if gates.times["looks"] >= STEPS else Says(calls=[("look", {})])
        if asked.system != "Outer.":
            return "Summed up."
        self.asked.append(asked.messages)
        if len(self.asked) == 1:
            return Says(calls=[("delegate", {})])
        if len(self.asked) == 2:
            raise ModelUnavailable("for a test")
        return "Over."


async def test_a_run_that_goes_on_takes_no_summary_of_a_run_inside_of_it() -> None:
    model = Delegating()
    gates.opened["looking"].set()
    async with LocalRuntime("memory:", model_for=lambda _: FunctionModel(model)) as runtime:
        await runtime.register(registry)
        where = await spawned(runtime, "/outer/o")
        assert (await ask(runtime, where, "go")).value == "Over."
        assert "compaction" in {event.type for event in await log_of(runtime, where)}
    begun, before, after = model.asked
    assert after == before
    assert after[: len(begun)] == begun


async def test_a_summary_takes_nothing_away_that_a_run_beside_has_said() -> None:
    model = BesideEachOther()
    async with LocalRuntime("memory:", model_for=lambda _: FunctionModel(model)) as runtime:
        await runtime.register(registry)
        where = await spawned(runtime, "/beside/b")
        assert (await ask(runtime, where, "go")).value == "looked"
        log = await log_of(runtime, where)
        assert any("compaction" in event.type for event in log)
        before, after = model.failing
        assert after == before
        assert "Summed up: no word." in str(after)
        assert (await ask(runtime, where, "tell")).value == "the word is BETA"


async def test_a_message_that_came_before_a_summary_is_told_to_the_run_after_it() -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        where = await spawned(runtime, "/long/l")
        await runtime.send(where, SendRequest(payload="go", id="m1"))
        await gates.reached["looking"].wait()
        await runtime.send(where, SendRequest(payload="and this", id="m2"))
        gates.opened["looking"].set()
        assert "and this" in (await ask(runtime, where, "and this", "m2")).value
