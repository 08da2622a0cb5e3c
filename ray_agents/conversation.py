"""``ctx.timeline_messages()``: what a log says, as messages with their time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from ray_agents.contextplan import TimedMessage
from ray_agents.events import Event
from ray_agents.model import Message
from ray_agents.timeline import Timeline
from ray_agents.transcript import Kind, Turn, as_messages


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineItem:
    """One message of the inbox, one run, or one summary.

    ``key`` is its key, ``at`` the offset at which a run was told of it or it began, ``messages``
    what it says unless a projection says otherwise. A run's are its answers and the results of its
    tools, and what it was told beside the inbox.
    """

    kind: Kind
    key: str
    at: int
    messages: Sequence[Message]


Projection = Callable[[TimelineItem], Sequence[Message] | None]


def timed_messages(
    events: Iterable[Event],
    *,
    since: int = 0,
    projection: Projection | None = None,
    whole: bool = False,
) -> list[TimedMessage]:
    """The items from offset ``since`` on, as messages.

    ``projection`` may say another thing of an item; None from it means what stands there. A
    ``whole`` one passes over compactions.
    """
    timeline = Timeline(events, whole=whole)
    turns = [*timeline.turns(), *timeline.waiting()]
    first = next((each.at for each in turns if each.at is not None), 0)
    told: list[TimedMessage] = []
    for _, group in groupby(turns, key=lambda each: (each.kind, each.key)):
        item = _item(list(group), first)
        if item.at < since:
            continue
        chosen = projection(item) if projection else None
        for message in item.messages if chosen is None else chosen:
            said = TimedMessage(
                at=item.at, role=message["role"], content=message["content"], key=item.key
            )
            told.append(said)
    return told


def _item(turns: Sequence[Turn], first: int) -> TimelineItem:
    """What one tells; a summary that was read before what it stands for has its ``first`` place."""
    kind, key, at = turns[0].kind, turns[0].key, turns[0].at
    messages = as_messages(turns)
    return TimelineItem(kind=kind, key=key, at=first if at is None else at, messages=messages)
