"""The capture in the README: what ``ray-agents view`` shows of an entity's work, in 80 columns.

    python -m tests.terminal.capture            the block as it stands in the README
    python -m tests.terminal.capture --here     in this terminal, in colour, or into a pipe

The entity lives in this process, its model is the stand-in server behind the real SDK, and the
command is the real one.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

from ray_agents.agent import AgentConfig
from ray_agents.cli import Installed, main
from ray_agents.client import Client
from ray_agents.definition import Registry
from ray_agents.model import ModelSettings
from ray_agents.models.anthropic import AnthropicModel, preload
from ray_agents.terminal.installation import Target
from ray_agents.testing import local_client
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.script import Answer
from ray_agents.tools import tool
from ray_agents.views import EntityView, Status

CLERK = "/clerk/ada"
LOOKS_MAX = 10_000
ORDERS = {17: {"item": "lamp", "paid": 25.5}}
registry = Registry()


@tool(idempotent=True)
async def look_up(order: int) -> dict[str, Any]:
    """What was ordered, and what was paid."""
    if order not in ORDERS:
        raise LookupError(f"there is no order {order}")
    return ORDERS[order]


@tool(approval="required")
async def refund(order: int, amount: float) -> str:
    """Pay money back."""
    return f"{amount:.2f} paid back for order {order}"


@registry.entity("clerk", idle_timeout=timedelta(0))
async def clerk(ctx: Any, wake: Any) -> None:
    """Look orders up, and pay back."""
    ctx.set_goal("every customer is content", token_budget=20_000)
    ctx.use_agent("You are a clerk.", tools=[look_up, refund], thinking=2_000)
    await ctx.agent.run()


SCRIPT = [
    Answer(
        thinking="Two orders. I look both up before I pay anything back.",
        text="Let me look at both of them.",
        calls=[("look_up", {"order": 17}), ("look_up", {"order": 99})],
    ),
    Answer(
        thinking="Order 99 does not exist; 17 was a lamp.",
        calls=[("refund", {"order": 17, "amount": 25.5})],
    ),
    Answer(text="The 25.50 for your lamp are paid back. Order 99 is unknown to us: is it 9 or 19?"),
]


class Here(Installed):
    """The installation whose runtime is this process."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def connect(self, target: Target) -> AbstractContextManager[Client]:
        """The client there is."""
        return nullcontext(self._client)


async def show() -> None:
    """Have the clerk work, and view it."""
    async with MessagesApi(SCRIPT) as api:
        await asyncio.to_thread(_work_and_view, api.url)


def _work_and_view(url: str) -> None:
    preload()  # so that the first step does not take the seconds of an import
    settings = ModelSettings(base_url=url, api_key="any")

    def model_for(_: AgentConfig) -> AnthropicModel:
        return AnthropicModel(settings)

    with local_client(model_for=model_for) as client:
        client.register(registry)
        client.spawn(CLERK)
        client.send(CLERK, {"text": "Please refund orders 17 and 99."})
        asleep = _once(client, lambda entity: bool(entity.approvals) and entity.host is None)
        (refunding,) = asleep.approvals
        client.approve(CLERK, refunding.id, by="grace", reason="it came broken")
        _once(client, lambda entity: not entity.backlog and entity.status is Status.SLEEPING)
        main(["view", CLERK], Here(client))


def _once(client: Client, is_so: Callable[[EntityView], bool]) -> EntityView:
    """The entity, once that can be said of it."""
    looks = (client.inspect(CLERK) for _ in range(LOOKS_MAX))
    return next(entity for entity in looks if is_so(entity))


def capture(*, columns: int = 80) -> str:
    """The screen of a terminal of that many columns, without its colours."""
    terminal = {"FORCE_COLOR": "1", "COLUMNS": str(columns), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "tests.terminal.capture", "--here"]
    environment = {**os.environ, **terminal}
    done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=100)
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", done.stdout.decode())


if __name__ == "__main__":
    if "--here" in sys.argv:
        asyncio.run(show())
    else:
        sys.stdout.write(capture())
