"""Summaries in the log of an entity: what they leave for later runs, and for those that resume."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ray_agents.cluster.local import LocalRuntime
from ray_agents.compaction import Compaction
from ray_agents.definition import Registry
from ray_agents.model import ModelRequest
from ray_agents.models.scripted import Says
from ray_agents.requests import SendRequest
from ray_agents.tools import tool
from tests.cluster import gates
from tests.cluster.conftest import ask, spawned

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


async def test_a_message_that_came_before_a_summary_is_told_to_the_run_after_it() -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        where = await spawned(runtime, "/long/l")
        await runtime.send(where, SendRequest(payload="go", id="m1"))
        await gates.reached["looking"].wait()
        await runtime.send(where, SendRequest(payload="and this", id="m2"))
        gates.opened["looking"].set()
        assert "and this" in (await ask(runtime, where, "and this", "m2")).value
