"""Writes a run's rows: staged as things become known, committed together before the next effect.

What is staged is in the transcript at once and in the log with the next commit.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray_agents.events import Draft, Event
from ray_agents.ports import Journal
from ray_agents.prices import Prices
from ray_agents.runs import RunRecord
from ray_agents.timeline import Timeline


class RunWriter:
    """The rows of one run, those in the log and those on their way there, and what they say."""

    def __init__(self, journal: Journal, *, prices: Prices) -> None:
        recorded = journal.recorded()
        self.journal = journal
        self.record = RunRecord(journal.run_key, recorded, prices=prices)
        self.timeline = Timeline((*journal.history(), *recorded), run=journal.run_key)
        self._staged: list[Draft] = []

    def stage(self, type_name: str, *drafts: Draft) -> None:
        """Keep rows for the next commit, and let the transcript know those of ``type_name``."""
        self._staged.extend(drafts)
        for draft in drafts:
            row = self.record.row(type_name, draft.key)
            if draft.type == type_name and row is not None:
                self.timeline.take(type_name, draft.key, row)

    def hear(self, messages: Sequence[Event]) -> None:
        """Let the transcript know messages that came after the run had begun."""
        for message in messages:
            self.timeline.see(message)

    def stage_unsaid(self, drafts: Sequence[Draft]) -> None:
        """Keep rows for the next commit that no transcript is made of."""
        self._staged.extend(drafts)

    async def commit(self) -> None:
        """Make what is staged durable, with the effects that the handler has staged."""
        staged, self._staged = self._staged, []
        for event in await self.journal.commit(staged):
            self.timeline.placed(event.type, event.key, event.offset)

    async def commit_waiting(self) -> None:
        """The same for a run that waits for people and comes to its end here."""
        staged, self._staged = self._staged, []
        await self.journal.commit_waiting(staged)
