"""Entity types that do what their messages say: insert, wait, block, die. Hosts import them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ray_agents.definition import Dedicated, Limits, Packed, Placement, Registry, Resources
from ray_agents.log.codec import Frame
from ray_agents.log.live import LiveSegment
from ray_agents.tools import tool

PLAN = "FAULTS_PLAN"
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


async def _obey(ctx: Any, wake: Any, order: dict[str, Any]) -> None:  # noqa: C901, PLR0912 - a list of deeds
    match order.get("do"):
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "die once":
            if wake.attempt == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        case "block":
            threading.Event().wait(order["seconds"])
        case "block once":
            if wake.attempt == 1:
                await _pause(order["after"])  # its sender is told meanwhile that it is accepted
                _touch(Path(order["gate"]).with_suffix(f".{os.getpid()}"))
                threading.Event().wait(order["seconds"])
        case "exit":
            sys.exit(3)
        case "warn":
            logging.getLogger("somebody").warning("a word of %s", order["of"])
            await _gate(ctx, Path(order["gate"]))
        case "raise":
            raise ValueError("as told")
        case "hang":
            await asyncio.Event().wait()
        case "hang once":
            if wake.attempt == 1:
                await _hang(Path(order["gate"]))
        case "await":
            await _gate(ctx, Path(order["gate"]))
        case "await, a thread at work":
            threading.Thread(target=threading.Event().wait, args=(60,)).start()
            await _gate(ctx, Path(order["gate"]))
        case "pause":
            await _pause(order["seconds"])
        case "send":
            await ctx.send(order["to"], {"from": ctx.address})
        case _:
            return


async def _hang(gate: Path) -> None:
    """Say that we wait, for ever, and say when we are cancelled."""
    _touch(gate.with_suffix(f".{os.getpid()}"))
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        _touch(gate.with_suffix(".cancelled"))
        raise


async def _gate(ctx: Any, gate: Path) -> None:
    """Say that we wait, with our process id, and wait until somebody opens the gate."""
    _touch(gate.with_suffix(f".{os.getpid()}"))
    while not gate.exists():  # noqa: ASYNC240 - a look at a file is what opens it
        await _pause(GATE_LOOK_SECONDS)


def _touch(path: Path) -> None:
    path.touch()


async def _pause(seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()


def define(name: str, *, placement: Placement, limits: Limits | None = None) -> None:
    """A type that obeys, and sleeps soon."""
    registry.define(
        name,
        handler=obey,
        state={"notes": Note},
        idle_timeout=BRIEF,
        placement=placement,
        limits=limits or Limits(),
    )


define("note", placement=Packed(hosts=2))
define("lone", placement=Dedicated())
define("gpu", placement=Dedicated(resources=Resources(num_gpus=1)))
define("strange", placement=Dedicated(resources=Resources(custom={"unobtainium": 1})))
define(
    "hasty",
    placement=Packed(hosts=2),
    limits=Limits(handler_time_max=BRIEF, attempts_max=2, retry_delay=timedelta(milliseconds=20)),
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


# -- a process that dies at a chosen append -----------------------------------------------------


def die_at_append(plan: Path) -> None:
    """From now on this process dies at the append of ``/worker/…`` that the plan file names.

    The plan says ``<entity folder> <number> <before|after>``: which append of this and earlier
    processes counts, and whether it dies before the frame is written or after it is durable, but
    not acknowledged. It dies once: the plan is taken away first. Appends are counted in the file
    ``count`` beside it.
    """
    commit = LiveSegment.commit

    def fate(name: str) -> str:
        """When this process dies: ``before`` or ``after`` this append, or ``later``."""
        words = plan.read_text().split() if plan.exists() else []
        if not words or not name.startswith(words[0] + "/"):
            return "later"
        tally = plan.with_suffix(".count")
        number = (int(tally.read_text()) if tally.exists() else 0) + 1
        tally.write_text(str(number))
        return words[2] if number == int(words[1]) else "later"

    def die() -> None:
        plan.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    async def counted(self: LiveSegment, frame: Frame) -> None:
        when = fate(vars(self)["_name"])
        if when == "before":
            die()
        await commit(self, frame)
        if when == "after":
            die()

    LiveSegment.commit = counted  # pyright: ignore[reportAttributeAccessIssue]


if PLAN in os.environ:
    die_at_append(Path(os.environ[PLAN]))

registry.define(
    "worker",
    placement=Packed(hosts=2),
    state={"notes": Note},
    idle_timeout=BRIEF,
    handler=work,
    limits=Limits(attempts_max=10),
)
