"""Entity types that do what their messages say: insert, wait, block, die. Hosts import them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ray_agents.definition import Dedicated, Limits, Packed, Registry, Resources
from ray_agents.tools import tool

SOURCE = "tests.faults.kinds:registry"
GATE_LOOK_SECONDS = 0.02
BRIEF = timedelta(milliseconds=300)
registry = Registry()


class Note(BaseModel):
    """One handled message, by its id."""

    key: str
    attempt: int


async def obey(ctx: Any, wake: Any) -> dict[str, Any]:
    """Do what each message says, and note its id."""
    for event in ctx.events:
        await _obey(ctx, wake, event.value["payload"] or {})
        ctx.state.notes.insert({"key": event.key, "attempt": wake.attempt})
    return {"pid": os.getpid(), "attempt": wake.attempt}


async def _obey(ctx: Any, wake: Any, order: dict[str, Any]) -> None:
    match order.get("do"):
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "die once":
            if wake.attempt == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        case "block":
            threading.Event().wait(order["seconds"])
        case "exit":
            sys.exit(3)
        case "raise":
            raise ValueError("as told")
        case "hang":
            await asyncio.Event().wait()
        case "await":
            await _gate(ctx, Path(order["gate"]))
        case "pause":
            await _pause(order["seconds"])
        case "send":
            await ctx.send(order["to"], {"from": ctx.address})
        case _:
            return


async def _gate(ctx: Any, gate: Path) -> None:
    """Say that we wait, with our process id, and wait until somebody opens the gate."""
    gate.with_suffix(f".{os.getpid()}").touch()
    while not gate.exists():
        await _pause(GATE_LOOK_SECONDS)


async def _pause(seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()


SHORT = {"state": {"notes": Note}, "idle_timeout": BRIEF, "handler": obey}
registry.define("note", placement=Packed(hosts=2), **SHORT)
registry.define("lone", placement=Dedicated(), **SHORT)
registry.define("gpu", placement=Dedicated(resources=Resources(num_gpus=1)), **SHORT)
registry.define(
    "strange", placement=Dedicated(resources=Resources(custom={"unobtainium": 1})), **SHORT
)
registry.define(
    "hasty",
    placement=Packed(hosts=2),
    limits=Limits(handler_time_max=BRIEF, attempts_max=2, retry_delay=timedelta(milliseconds=20)),
    **SHORT,
)


@tool(idempotent=True)
def double(number: int) -> int:
    """Twice the number.

    Args:
        number: any
    """
    return 2 * number


async def work(ctx: Any, wake: Any) -> str:
    """Insert, send, run the agent with one tool, insert again: all that a crash could tear."""
    key = ctx.events[-1].key
    ctx.state.notes.insert({"key": f"{key}-before", "attempt": 1})
    await ctx.send("/note/other", {"from": key})
    ctx.use_agent("You double numbers.", tools=[double])
    result = await ctx.agent.run()
    ctx.state.notes.insert({"key": f"{key}-after", "attempt": 1})
    return result.text


registry.define(
    "worker",
    placement=Packed(hosts=2),
    state={"notes": Note},
    idle_timeout=BRIEF,
    handler=work,
    limits=Limits(attempts_max=10),
)
