"""Where a process dies by SIGKILL: at an append, in the middle of a stream, at a tool.

A point of a stream at which the server stalls, and one that only the clock knows, are met from
outside, by whoever watches the process (``bank.py``).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from ray_agents.address import Address
from ray_agents.cluster.folders import entity_folder
from ray_agents.log.codec import Frame
from ray_agents.log.live import LiveSegment
from ray_agents.models.answers import AnswerInParts

KINDS = ("append", "event", "tool", "frame", "clock")
APPEND_HOWS = ("before", "torn", "after")
_tool: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much there is of a run that nothing disturbs."""

    appends: int
    events: list[int]  # of the stream of each call
    milliseconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where to die.

    ``append`` *number* before, torn, after; ``event`` *number* of call *of*, as the host reads it;
    ``frame`` *number* of call *of*, the server falling silent there, and then *after* milliseconds;
    ``tool`` *number*, begun or done; ``clock``: *after* milliseconds from the first call.
    """

    kind: str
    number: int = 0
    how: str = ""
    of: int = 0
    after: int = 0

    def __str__(self) -> str:
        words = (self.kind, self.number or "", self.how, self.of and f"of call {self.of}")
        told = [str(word) for word in words if word]
        return " ".join(told + [f"after {self.after} ms"] * bool(self.after))

    @property
    def inside(self) -> bool:
        """Whether the process itself sees to it."""
        return self.kind in ("append", "event", "tool")


def drawn(chance: Random, extent: Extent) -> Point:
    """Any point, each kind as likely as the others."""
    kind = chance.choice(KINDS)
    call = chance.randrange(len(extent.events))
    match kind:
        case "append":
            number = chance.randint(1, extent.appends)
            return Point(kind=kind, number=number, how=chance.choice(APPEND_HOWS))
        case "event":
            return Point(kind=kind, number=chance.randint(1, extent.events[call]), of=call + 1)
        case "frame":
            number = chance.randrange(extent.events[call])
            return Point(kind=kind, number=number, of=call + 1, after=chance.randint(0, 60))
        case "tool":
            how = chance.choice(("begun", "done"))
            return Point(kind=kind, number=chance.randrange(15), how=how)
        case _:
            return Point(kind=kind, after=chance.randint(0, extent.milliseconds))


def die() -> None:
    """End this process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(facts: dict[str, Any] | None) -> None:
    """From now on this process dies at that point, a :class:`Point` as a dict; None is nowhere."""
    global _tool  # noqa: PLW0603 - a process has one fate
    if facts is None:
        return
    point = Point(**facts)
    match point.kind:
        case "append":
            _die_at_append(entity_folder(Address.parse("/clerk/one")), point)
        case "event":
            _die_at_event(point)
        case "tool":
            _tool = (point.number, point.how)
        case _:
            return


def reached_tool(number: int, word: str) -> None:
    """A tool has come so far."""
    if (number, word) == _tool:
        die()


def _die_at_append(folder: str, point: Point) -> None:
    commit, count = LiveSegment.commit, 0

    async def counted(self: LiveSegment, frame: Frame) -> None:
        nonlocal count
        own = vars(self)
        if not own["_name"].startswith(f"{folder}/"):
            return await commit(self, frame)
        count += 1
        if count != point.number:
            return await commit(self, frame)
        if point.how == "torn":
            file = own["_file"] or own["_blobs"].append(own["_name"])
            file.write(frame.data[: len(frame.data) // 2])
        elif point.how == "after":
            await commit(self, frame)
        return die()

    LiveSegment.commit = counted  # pyright: ignore[reportAttributeAccessIssue]


def _die_at_event(point: Point) -> None:
    take: Callable[..., Any] = AnswerInParts.take
    call = count = 0

    def counted(self: AnswerInParts, event: dict[str, Any]) -> Any:
        nonlocal call, count
        if event["type"] == "message_start":
            call, count = call + 1, 0
        count += 1
        if (call, count) == (point.of, point.number):
            die()
        return take(self, event)

    AnswerInParts.take = counted
