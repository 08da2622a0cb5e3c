"""Agent runs whose host dies: the next owner goes on with them."""

from __future__ import annotations

from typing import Any

from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.requests import SendRequest
from ray_agents.tools import tool
from tests.cluster.conftest import ask, log_of, spawned
from tests.cluster.paced import Paced
from tests.cluster.stores import memory

registry = Registry()


@tool
async def look() -> str:
    """Look."""
    return "seen"


@registry.entity("clerk")
async def clerk(ctx: Any, wake: Any) -> None:
    """Run the agent."""
    ctx.use_agent(tools=[look])
    await ctx.agent.run()


async def test_one_that_was_in_the_middle_of_calling_a_tool_is_begun_anew() -> None:
    model, store = Paced(["Well. ", "!look", "@calling"], ["Done."], ["Again."]), memory()
    runtime = LocalRuntime(store, model_for=model.for_any)
    await runtime.__aenter__()
    await runtime.register(registry)
    at = await spawned(runtime, "/clerk/a")
    await runtime.send(at, SendRequest(payload="go"))
    async for event in runtime.observe(at):
        if event.type == "tool_call":
            break
    await runtime.crash()
    async with LocalRuntime(store, model_for=model.for_any) as again:
        assert (await ask(again, at, "and now?")).text == "Again."
        rows = await log_of(again, at)
    assert {row.type: row.operation for row in rows}["tool_call"] == "delete"
    assert not [row for row in rows if row.type == "error"]
