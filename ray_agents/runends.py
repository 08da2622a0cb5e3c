"""The ends of runs that nobody goes on with: interrupted, given up, or not inherited.

Whoever ends a wake in its handler's place ends its runs, too. An answer that was coming is void,
for nobody is left who knows all of it, and a tool call without a result gets one that says why, so
that the transcript stays whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from ray_agents.approvals import undecided
from ray_agents.events import Draft, Event
from ray_agents.ledger import Spent, added_by, billed_in
from ray_agents.projection import State
from ray_agents.runs import AWAITING, BEGUN, INTERRUPTED, RunRecord
from ray_agents.timeline import INTERRUPTED as DIED
from ray_agents.timeline import NOT_RUN

LOST = (
    "Interrupted: the run was told to stop while this tool ran, and its result was not recorded. "
    "It may or may not have taken effect."
)
WAITED = (
    "Not finished: {reason} while people were still to approve what an agent inside of this tool "
    "had asked for. What the tool had done before that may have taken effect."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What a model reads of the tool calls of a run that ends so, by how far they had come.

    ``failure`` is why the run has failed; without one it counts as completed, being interrupted.
    """

    begun: str
    awaiting: str
    unbegun: str
    failure: str | None = None

    @classmethod
    def of(cls, reason: str) -> End:
        """Nobody goes on with the run, for that reason."""
        failure = f"the run was interrupted: {reason}"
        return cls(
            begun=DIED,
            awaiting=WAITED.format(reason=reason),
            unbegun=NOT_RUN.format(reason=reason),
            failure=failure,
        )


def unbegun(stop_reason: str) -> str:
    """What a model reads of a tool call that was not made before its run stopped."""
    return NOT_RUN.format(reason=f"the run stopped ({stop_reason})")


def waited(stop_reason: str) -> str:
    """What a model reads of a tool call inside of which an agent waited when its run stopped."""
    return WAITED.format(reason=f"the run stopped ({stop_reason})")


STOPPED = End(begun=LOST, awaiting=waited(INTERRUPTED), unbegun=unbegun(INTERRUPTED))


def ended_runs(rows: Iterable[Event], end: End, *, now: int) -> list[Draft]:
    """The rows that end every run which is open by ``rows``, those of runs in a log's order."""

    def told(status: str | None) -> str:
        if status == AWAITING:
            return end.awaiting
        return end.begun if status in BEGUN else end.unbegun

    return [
        draft
        for key, its in groupby(sorted(rows, key=_run_of), key=_run_of)
        for draft in RunRecord(key, list(its)).run_ended(told, failure=end.failure, now=now)
    ]


def ended_in(state: State, rows: Sequence[Event], end: End, *, now: int) -> list[Draft]:
    """The same for an entity that lives on: its ledger knows of them, what was decided stands."""
    drafts = list(undecided(ended_runs(rows, end, now=now), state.approvals))
    added = added_by(billed_in(drafts), billed_in(rows))
    return drafts if added == Spent() else [*drafts, (state.spent + added).draft()]


def _run_of(event: Event) -> str:
    return event.key.partition(":")[0]
