"""Merging changes no row, whatever wakes there were, how they ended, and when files are merged."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_agents.events import Event
from ray_agents.log.memory import MemoryBlobs
from ray_agents.testing.log_suite import Log, message
from tests.faults.stage import StageIO

# How a wake ends: sealed, tidied and sealed, abandoned, idle, idle and tidied, never begun.
ENDINGS = "sstaaiIn"


class Told:
    """A log, and every row that was acknowledged or served so far."""

    def __init__(self) -> None:
        self.log = Log(MemoryBlobs(), io=StageIO(prompt=True))
        self.follower = self.log.reader()
        self.followed: list[Event] = []
        self.known: dict[int, Event] = {}

    async def wake(self, ending: str, rows: int) -> None:
        if ending == "n":
            await self.log.claim_only()
            return
        owner = await self.log.claim()
        if ending not in "iI":
            for _ in range(rows):
                events = await owner.append([message(f"{owner.tip}"), message(f"{owner.tip + 1}")])
                self.known |= {event.offset: event for event in events}
        if ending in "tI":
            await owner.tidy_up()
        await (owner.abandon() if ending == "a" else owner.seal())

    async def look(self) -> None:
        """A reader that follows, and one that comes anew, see the rows as they were."""
        start = self.followed[-1].offset + 1 if self.followed else 0
        self.followed += (await self.follower.read(start)).events
        afresh = (await self.log.reader().read(0, limit=10**6)).events
        assert afresh[: len(self.followed)] == self.followed[: len(afresh)]

    async def check(self) -> None:
        owner = await self.log.claim()
        await owner.append([message("last")])
        history = owner.history.read(0)
        found = {event.offset: event for event in history}
        assert {offset: found.get(offset) for offset in self.known} == self.known
        assert history[: len(self.followed)] == self.followed
        assert (await self.log.reader().read(0, limit=10**6)).events == history
        await owner.seal()


@given(st.lists(st.tuples(st.sampled_from(ENDINGS), st.integers(1, 3), st.booleans()), max_size=24))
@settings(max_examples=30)
def test_the_rows_before_a_merge_are_the_rows_after_it(
    wakes: list[tuple[str, int, bool]],
) -> None:
    async def run() -> None:
        told = Told()
        for ending, rows, looks in wakes:
            await told.wake(ending, rows)
            if looks:
                await told.look()
        await told.check()

    asyncio.run(run())
