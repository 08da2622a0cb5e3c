"""What a fork, or an import, does not inherit: the rows that end what its source had left to do.

A log that begins with another's rows begins with its open ends, too: messages nobody has handled,
wakes begun or parked, effects on their way out, delayed sends, a run in the middle of a step. They
are the source's to finish, and doing them twice would be wrong. So the rows that end them stand
right behind the row that says where the log comes from, and every reader, SQL included, finds them
ended without knowing of forks. What an open wake had committed is data and stays.

A message that was not handled yet stays in the inbox and in the transcript, as said; its wake is
recorded as skipped.
"""

from __future__ import annotations

from collections.abc import Iterable

from ray_agents import wakes
from ray_agents.events import Draft, Event, WakeRecorded, WakeStatus
from ray_agents.projection import State
from ray_agents.runends import End, ended_runs

REASON = "what came after was not inherited"


def closing_drafts(state: State, runs: Iterable[Event], *, now: int) -> list[Draft]:
    """The rows that leave ``state`` without an obligation; ``now`` in microseconds since the epoch.

    ``runs`` are the newest rows, by key, of :data:`ray_agents.runs.RUN_TYPES` in open wakes.
    """
    ended = sorted(state.wakes.values(), key=lambda wake: wake.to_offset)
    return [
        *ended_runs(runs, End.of(REASON), now=now),
        *(wakes.skipped(wake, now=now).draft() for wake in ended),
        *(_untaken(state, now=now) if state.pending else ()),
        *(row.effect.delivered() for row in state.outbox.values()),
        *(each.ended() for each in state.deferred.values()),
        *(timer.send.cancelled() for timer in state.timers.values()),
    ]


def _untaken(state: State, *, now: int) -> Iterable[Draft]:
    """A wake that takes the messages no wake has taken, and has ended."""
    first, last = state.pending[0], state.pending[-1]
    wake = WakeRecorded(
        key=f"wake-{last.offset + 1}",
        status=WakeStatus.SKIPPED,
        source="inbox",
        from_offset=first.offset,
        to_offset=last.offset + 1,
        event_count=len(state.pending),
        attempt=0,
        deaths=0,
        host="",
        definition_version=0,
        timestamp=now,
        error=REASON,
        apart=wakes.apart_from(state),
    )
    yield wake.draft()
