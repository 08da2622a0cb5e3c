"""The run of the trials: ten steps, fifteen tools, and what each tool did, written outside the log.

Every third tool is idempotent, every second one a plain function, which runs in a thread. Each
appends a line when it begins and one when it is done to the file that ``FIFTEEN_DEEDS`` names: two
that begin are two executions, whatever the log says of them.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Packed, Registry
from ray_agents.events import WakeRecorded, WakeStatus
from ray_agents.model import ModelSettings
from ray_agents.models import anthropic
from ray_agents.models.choice import chooser
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.tools import Tool, tool
from tests.faults import breaking, points

DEEDS = "FIFTEEN_DEEDS"
SOURCE = "tests.faults.fifteen:registry"
CLERK = Address.parse("/clerk/one")
BEGUN, DONE = "begun", "done"
TOOL_SECONDS = 0.005
LAST_WORDS = "All fifteen are done."
CALLS: list[list[int]] = [[0, 1], [2], [3, 4, 5], [6], [7, 8], [9], [10, 11], [12], [13, 14]]
ENDED = frozenset({WakeStatus.HANDLED, WakeStatus.PARKED})
STEPS = len(CALLS) + 1  # the last one only speaks
TOOLS = sum(map(len, CALLS))
registry = Registry()


def is_idempotent(number: int) -> bool:
    """Whether the tool of that number may be run again."""
    return number % 3 == 0


def name_of(number: int) -> str:
    """What the model calls it."""
    return f"tool_{number}"


def _deed(number: int, word: str) -> None:
    """Tell the file, and die here if that was the plan."""
    file = os.open(os.environ[DEEDS], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, f"{number} {word} {os.getpid()}\n".encode())
    finally:
        os.close(file)
    points.reached_tool(number, word)


def deeds(file: Path) -> Counter[tuple[int, str]]:
    """How often each tool began, and was done."""
    lines = file.read_text().splitlines() if file.exists() else []
    return Counter((int(number), word) for number, word, _ in map(str.split, lines))


def _tool(number: int) -> Tool:
    async def act(wish: str) -> str:
        """Do as wished."""
        _deed(number, BEGUN)
        with suppress(TimeoutError):
            async with asyncio.timeout(TOOL_SECONDS):
                await asyncio.Event().wait()
        _deed(number, DONE)
        return f"{number} did {wish}"

    def act_in_a_thread(wish: str) -> str:
        """Do as wished."""
        _deed(number, BEGUN)
        threading.Event().wait(TOOL_SECONDS)
        _deed(number, DONE)
        return f"{number} did {wish}"

    plain = number % 2 == 0
    make: Any = tool(name=name_of(number), idempotent=is_idempotent(number))
    return make(act_in_a_thread if plain else act)


ALL_TOOLS = [_tool(number) for number in range(TOOLS)]


@registry.entity(
    "clerk",
    limits=Limits(retry_delay=timedelta(milliseconds=1), attempts_max=10),
    idle_timeout=timedelta(milliseconds=50),
    placement=Packed(hosts=2),
)
async def clerk(ctx: Any, wake: Any) -> str:
    """Run the agent; what it said last."""
    ctx.use_agent("You have fifteen tools.", tools=ALL_TOOLS)
    return (await ctx.agent.run()).text


def preload() -> None:
    """Import what a life needs, before it begins."""
    anthropic.preload()


def live(order: dict[str, Any]) -> None:
    """One life of a host without Ray: make the clerk and tell it to go, or go on with it.

    ``order`` has a store, the provider's ``url``, the file of ``deeds``, whether this is the
    ``first`` life that counts, the ``point`` at which to die, and how the package is ``broken``.
    """
    os.environ[DEEDS] = order["deeds"]
    breaking.break_it(order["broken"])
    points.die_at(order["point"])
    asyncio.run(_live(order))


async def _live(order: dict[str, Any]) -> None:
    settings = ModelSettings(base_url=order["url"], api_key="stand-in", retry_delay=timedelta(0))
    async with LocalRuntime(order["store"], model_for=chooser(settings)) as runtime:
        await runtime.register(registry, source=SOURCE)
        if order["first"]:
            await runtime.spawn(CLERK, SpawnRequest(spawn_id="one"))
            await runtime.send(CLERK, SendRequest(payload="Go.", id="go"))
        async for event in runtime.observe(CLERK):
            if event.type == WakeRecorded.TYPE and WakeRecorded.of(event).status in ENDED:
                return
