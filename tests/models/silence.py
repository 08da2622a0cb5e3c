"""A provider that falls silent, and a loop whose time passes while it does: nobody waits for real.

The stand-in servers run in the loop of the test, so after some turns without a word there is
nothing under way, however slow the machine is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

from ray_agents.model import AnswerBroken, ModelEvent
from tests.virtual_time import let_pass

SILENCE = timedelta(seconds=30)
TURNS = 100  # in which all that was said is heard
LEAPS_MAX = 3


async def heard(
    stream: AsyncIterator[ModelEvent], *, silent: Callable[[list[ModelEvent]], object]
) -> list[ModelEvent]:
    """All events of a stream; ``SILENCE`` passes once ``silent`` says so of those heard till then.

    And again, if that was too early to be noticed, but not once an answer was given up.
    """
    events: list[ModelEvent] = []

    async def listen() -> None:
        async for event in stream:
            events.append(event)  # noqa: PERF401 - they are looked at meanwhile

    def given_up() -> bool:
        return any(isinstance(event, AnswerBroken) for event in events)

    listening, leaps = asyncio.create_task(listen()), 0
    while not listening.done():
        for _ in range(TURNS):
            await asyncio.sleep(0)
        if silent(events) and not given_up() and not listening.done():
            leaps += 1
            assert leaps <= LEAPS_MAX, "nobody minds the silence"
            let_pass(SILENCE)
    await listening
    return events
