"""Agents to be measured, the same work by the bare SDK, and a model that says when it spoke.

All of them live on packed hosts; the model answers from the measuring process, whose clock stamps
what it writes and when it is asked.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any

from ray_agents.definition import Packed, Registry
from ray_agents.model import DEFAULT_MODEL
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.script import Answer, Body
from ray_agents.tools import tool

SOURCE = "tests.benchmarks.agents:registry"
SYSTEM = "You work step by step."
STEPS = 10
CALLS = (2, 1, 3, 1, 2, 1, 2, 1, 2)  # of tools in the steps but the last: fifteen
STEP_WORDS = 20
STEP_DELAY = timedelta(milliseconds=2)
SPEECH_DELAY = timedelta(milliseconds=10)  # 100 tokens a second
MAX_TOKENS = 16_000
registry = Registry()


@tool
async def look(at: str) -> str:
    """Look at something.

    Args:
        at: what to look at
    """
    return f"{at} is there"


@registry.entity("worker", placement=Packed(hosts=1), idle_timeout=timedelta(minutes=30))
async def worker(ctx: Any, wake: Any) -> None:
    """Run the agent."""
    ctx.use_agent(SYSTEM, tools=[look])
    await ctx.agent.run()


@registry.entity("bare", placement=Packed(hosts=1), idle_timeout=timedelta(minutes=30))
async def bare(ctx: Any, wake: Any) -> None:
    """The same by the SDK alone, as fast as it can be done: nothing is recorded."""
    messages: list[Any] = [{"role": "user", "content": wake.payload}]
    while True:
        content = await _bare_answer(messages)
        calls = [block for block in content if block["type"] == "tool_use"]
        if not calls:
            return
        results = await asyncio.gather(*(_bare_call(call) for call in calls))
        messages.append({"role": "assistant", "content": content})
        messages.append({"role": "user", "content": results})


async def _bare_call(call: Any) -> Any:
    content = await look(call["input"]["at"])
    return {"type": "tool_result", "tool_use_id": call["id"], "content": content}


async def _bare_answer(messages: list[Any]) -> list[Any]:
    blocks: dict[int, Any] = {}
    arguments: dict[int, str] = {}
    async with await _client().messages.create(
        model=DEFAULT_MODEL,
        max_tokens=MAX_TOKENS,
        system=SYSTEM,
        tools=[look.spec.as_json()],
        messages=messages,
        cache_control={"type": "ephemeral"},
        stream=True,
    ) as stream:
        async for event in stream:
            if event.type == "content_block_start":
                blocks[event.index] = event.content_block.to_dict()
            elif event.type == "content_block_delta" and event.delta.type == "text_delta":
                blocks[event.index]["text"] += event.delta.text
            elif event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                so_far = arguments.get(event.index, "")
                arguments[event.index] = so_far + event.delta.partial_json
    for index, text in arguments.items():
        blocks[index]["input"] = json.loads(text)
    return [blocks[index] for index in sorted(blocks)]


@cache
def _client() -> Any:
    from anthropic import AsyncAnthropic

    return AsyncAnthropic(api_key="stand-in", max_retries=0)  # ANTHROPIC_BASE_URL says where


@dataclass(slots=True)
class Clocked:
    """The model. ``words`` are what it said, each with the second at which it was written.

    ``gaps`` are the seconds between the end of an answer and the next call: all that a loop does
    between two calls, the way there and back included. They make sense while one run goes on.
    """

    words: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    gaps: list[float] = field(default_factory=list[float])
    _stopped: float | None = None

    def begin(self) -> None:
        """Another run begins: its first call ends no gap."""
        self._stopped = None
        self.words, self.gaps = [], []

    def api(self) -> MessagesApi:
        """Its server."""
        return MessagesApi(self._answer, written=self._wrote)

    def _answer(self, body: Body) -> Answer:
        if self._stopped is not None:
            self.gaps.append(time.perf_counter() - self._stopped)
        asked = str(body["messages"][0]["content"])
        if speech := re.search(r"say (\d+)", asked):
            text = "".join(f"word-{number} " for number in range(int(speech[1])))
            return Answer(text=text, word_delay=SPEECH_DELAY)
        step = sum(message["role"] == "assistant" for message in body["messages"])
        count = CALLS[step] if step < len(CALLS) else 0
        return Answer(
            text=" ".join(f"{step}-{number}" for number in range(STEP_WORDS)),
            calls=[("look", {"at": f"thing {step}-{number}"}) for number in range(count)],
            word_delay=STEP_DELAY,
        )

    def _wrote(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "message_stop":
            self._stopped = time.perf_counter()
        elif frame["type"] == "content_block_delta" and frame["delta"]["type"] == "text_delta":
            self.words.append((time.perf_counter(), frame["delta"]["text"]))
