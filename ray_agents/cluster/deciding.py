"""What people decide of an awake entity's wakes: the tool call they mean, or giving a wake up."""

from __future__ import annotations

from collections.abc import Sequence

from ray_agents import wakes
from ray_agents.approvals import ApprovalRecorded, named
from ray_agents.closing import ended_runs
from ray_agents.cluster.awake import Awake
from ray_agents.errors import UnknownApproval
from ray_agents.events import Draft, Event, WakeRecorded
from ray_agents.log.history import History
from ray_agents.runs import RUN_TYPES

GIVEN_UP = "the wake was skipped"


def approval_named(name: str, *, entity: Awake) -> ApprovalRecorded:
    """The approval of that id or key, of an open wake or of one that has ended in this life.

    The rows of this life must be ready.

    Raises:
        UnknownApproval: there is none.
    """
    state = entity.state
    found = named(state.approvals.values(), name)
    if found is None:
        history = entity.owner.history
        past = history.latest({ApprovalRecorded.TYPE}, start=state.life_offset)
        found = named(map(ApprovalRecorded.of, past), name)
    if found is None:
        waiting = ", ".join(each.tool_call_id for each in state.approvals.values() if each.pending)
        message = f"no tool call {name!r} of {entity.name!r} waits for approval; waiting: "
        raise UnknownApproval(message + (waiting or "none"), address=entity.name, id=name)
    return found


def given_up(chosen: Sequence[WakeRecorded], history: History, *, now: int) -> list[Draft]:
    """The rows that skip wakes, and end the runs that were going on in them."""
    skipped = [wakes.skipped(wake, now=now).draft() for wake in chosen]
    return [*ended_runs(runs_of(chosen, history), reason=GIVEN_UP, now=now), *skipped]


def runs_of(open_wakes: Sequence[WakeRecorded], history: History) -> list[Event]:
    """The newest rows, by key, of the agent runs of open wakes."""
    if not open_wakes:
        return []
    starts = tuple(f"{wake.key}-run-" for wake in open_wakes)
    first = min(wake.from_offset for wake in open_wakes)
    return history.latest(RUN_TYPES, start=first, skip=lambda _, key: not key.startswith(starts))
