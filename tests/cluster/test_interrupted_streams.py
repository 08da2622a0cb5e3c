"""A stream of the real SDK is stopped within 200 ms of the request, as the log tells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from time import time_ns
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.model import ModelSettings
from ray_agents.models import anthropic
from ray_agents.models.anthropic import close_clients
from ray_agents.models.choice import chooser
from ray_agents.requests import SendRequest
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.script import Answer
from tests.cluster.conftest import ask, log_of, spawned

WITHIN = timedelta(milliseconds=200)
registry = Registry()


@registry.entity("clerk")
async def clerk(ctx: Any, wake: Any) -> None:
    """Run the agent."""
    ctx.use_agent()
    await ctx.agent.run()


@pytest.fixture
async def clients() -> AsyncIterator[None]:
    anthropic.preload()  # importing the SDK holds the event loop up for seconds
    yield
    await close_clients()


@pytest.mark.usefixtures("clients")
@pytest.mark.parametrize(
    "answer",
    [
        Answer(text="word " * 2000, word_delay=timedelta(milliseconds=10)),
        Answer(thinking="hm " * 5, text="word " * 20, stalls_after=9),
    ],
    ids=["speaking", "stalled"],
)
async def test_the_end_of_the_run_is_in_the_log(answer: Answer, store: Any) -> None:
    async with MessagesApi([answer, "Again."]) as api:
        settings = ModelSettings(base_url=api.url, api_key="any")
        async with LocalRuntime(store, model_for=chooser(settings)) as runtime:
            await runtime.register(registry)
            at = await spawned(runtime, "/clerk/a")
            await runtime.send(at, SendRequest(payload="go"))
            async for event in runtime.observe(at):
                if event.type in ("text_delta", "reasoning_delta"):
                    break
            asked = time_ns() // 1000
            assert (await runtime.interrupt(at)).interrupted
            took = await interrupted_at(runtime, at) - asked
            print(f"stopped after {took / 1000:.1f} ms")
            assert took < WITHIN / timedelta(microseconds=1)
            assert (await ask(runtime, at, "and now?")).text == "Again."
            steps = [e.value for e in await log_of(runtime, at) if e.type == "step"]
    assert {step["status"] for step in steps if step["finish_reason"]} <= {"completed", "failed"}


async def interrupted_at(runtime: LocalRuntime, at: Address) -> int:
    """The time of the row that ends the run, in microseconds since 1970."""
    async for event in runtime.observe(at):
        if event.type == "run" and event.value["finish_reason"] == "interrupted":
            return event.time
    raise AssertionError("no run was interrupted")
