"""Tools of a real entity: what they do to its state from a thread, and what they tell meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from ray_agents.agent import AgentConfig
from ray_agents.cluster.local import LocalRuntime
from ray_agents.context import Context
from ray_agents.definition import Registry
from ray_agents.model import Model
from ray_agents.models.scripted import Says, ScriptedModel
from ray_agents.progress import ToolProgress
from ray_agents.tools import Tool, tool
from tests.cluster import gates
from tests.cluster.conftest import ask, log_of, spawned, turn_until
from tests.virtual_time import let_pass

registry = Registry()
WITHIN_SECONDS = 10
TIME = timedelta(seconds=5)  # which passes on the loop's clock, once the tool does nothing but wait
Calling = tuple[str, dict[str, Any]]


class Note(BaseModel):
    key: str
    text: str = ""


@tool
def note(key: str, ctx: Context) -> str:
    """Note something, in a thread."""
    ctx.state.notes.insert({"key": key})
    ctx.state.notes.update(key, text=f"of {len(ctx.state.notes.list())}")
    ctx.set_tag("last", key)
    return ctx.state.notes.get(key).text


@tool(timeout=TIME)
def too_slow(ctx: Context) -> str:
    """Note something before the time is up, and something after it."""
    ctx.state.notes.insert({"key": "in time"})
    gates.threads["waits"].set()
    gates.threads["go on"].wait(WITHIN_SECONDS)
    try:
        ctx.state.notes.insert({"key": "late"})
    finally:
        gates.threads["gone"].set()
    return "never told"


@tool
def let_go() -> str:
    """Let the thread of ``too_slow`` go on, and wait for its end."""
    gates.threads["go on"].set()
    return f"{gates.threads['gone'].wait(WITHIN_SECONDS)}"


def making(ctx: Any) -> list[Tool]:
    @tool
    def load(progress: ToolProgress) -> str:
        """Load."""
        progress("begun", total=2)
        ctx.progress("half", done=1, total=2)
        return "loaded"

    return [load]


@registry.entity("worker", state={"notes": Note})
async def worker(ctx: Any, wake: Any) -> list[str]:
    ctx.use_agent(tools=[note, too_slow, let_go, making])
    result = await ctx.agent.run()
    return [call.result or call.error for call in result.tool_calls]


def saying(*steps: list[Calling]) -> Callable[[AgentConfig], Model]:
    model = ScriptedModel([*(Says(calls=calls) for calls in steps), "Done."])

    def model_for(_: AgentConfig) -> Model:
        return model

    return model_for


async def test_many_threads_write_to_the_state_at_once() -> None:
    calls: list[Calling] = [("note", {"key": f"n{number}"}) for number in range(12)]
    async with LocalRuntime("memory:", model_for=saying(calls)) as runtime:
        await runtime.register(registry)
        w = await spawned(runtime, "/worker/w")
        told = (await ask(runtime, w, "go")).value
        rows = (await runtime.state(w)).collections["notes"]
    assert sorted(row["key"] for row in rows) == sorted(args["key"] for _, args in calls)
    assert [row["text"] for row in sorted(rows, key=lambda row: int(row["key"][1:]))] == told


async def test_of_two_threads_that_insert_one_key_one_is_told_so() -> None:
    calls: list[Calling] = [("note", {"key": "same"})] * 2
    async with LocalRuntime("memory:", model_for=saying(calls)) as runtime:
        await runtime.register(registry)
        w = await spawned(runtime, "/worker/w")
        told = (await ask(runtime, w, "go")).value
    assert sorted(text.partition(":")[0] for text in told) == ["DuplicateKey", "of 1"]


async def test_a_thread_that_outlives_its_call_writes_nothing_more() -> None:
    steps: list[list[Calling]] = [[("too_slow", {})], [("let_go", {})]]
    async with LocalRuntime("memory:", model_for=saying(*steps)) as runtime:
        await runtime.register(registry)
        w = await spawned(runtime, "/worker/w")
        asking = asyncio.create_task(ask(runtime, w, "go"))
        await turn_until(gates.threads["waits"].is_set)
        let_pass(TIME)
        told, gone = (await asking).value
        assert (told.partition(":")[0], gone) == ("Timed out", "True")
        assert (await runtime.state(w)).collections.get("notes", []) == []


async def test_progress_is_in_the_log_while_the_tool_runs() -> None:
    async with LocalRuntime("memory:", model_for=saying([("load", {})])) as runtime:
        await runtime.register(registry)
        w = await spawned(runtime, "/worker/w")
        assert (await ask(runtime, w, "go")).value == ["loaded"]
        events = await log_of(runtime, w)
    told = [event for event in events if event.type == "tool_progress"]
    assert [(row.value["message"], row.value["done"]) for row in told] == [
        ("begun", None),
        ("half", 1),
    ]
    (ended,) = (e.offset for e in events if e.type == "tool_call" and e.value["result"])
    assert told[-1].offset < ended
    assert told[-1].headers["wake"] == "wake-3"
