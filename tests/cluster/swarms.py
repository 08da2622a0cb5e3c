"""Entities that only call a model, one call after another, and the model; hosts import them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from threading import Thread
from typing import Any

from ray_agents.definition import Packed, Registry
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.script import Answer, Body
from ray_agents.tools import tool

SOURCE = "tests.cluster.swarms:registry"
registry = Registry()


@tool
async def think_on(thought: str) -> str:
    """Think once more."""
    return thought


@registry.entity("member", placement=Packed(hosts=2))
async def member(ctx: Any, wake: Any) -> int:
    """Think until the model has nothing more to think; how often it was called."""
    ctx.use_agent(f"You are {ctx.address}.", tools=[think_on], turns_max=1_000)
    return (await ctx.agent.run()).steps


def thinker(calls: int, *, word_delay: timedelta) -> Callable[[Body], Answer]:
    """A script for the server: a member makes so many calls, each of which takes four words."""

    def answer(body: Body) -> Answer:
        made = sum(1 for message in body["messages"] if message["role"] == "assistant")
        thinks_on = [("think_on", {"thought": "more"})] if made + 1 < calls else []
        return Answer(text="that is a thought", calls=thinks_on, word_delay=word_delay)

    return answer


class ServerInThread:
    """The stand-in Messages API in a thread of its own, for tests that have no event loop."""

    def __init__(self, api: MessagesApi) -> None:
        self.api = api
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> MessagesApi:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.api.__aenter__(), self._loop).result()
        return self.api

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self.api.__aexit__(*exc), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
