"""What people decide of an awake entity's wakes: the tool call they mean, or giving a wake up."""

from __future__ import annotations

from collections.abc import Sequence

from ray_agents import wakes
from ray_agents.approvals import ApprovalRecorded, named
from ray_agents.cluster.awake import Awake
from ray_agents.errors import NothingParked, UnknownApproval
from ray_agents.events import Draft, Event, WakeRecorded
from ray_agents.log.history import History
from ray_agents.projection import State
from ray_agents.runends import End, ended_in
from ray_agents.runs import RUN_TYPES

GIVEN_UP = "the wake was skipped"


def approval_named(name: str, *, entity: Awake) -> ApprovalRecorded:
    """The approval of that key or id, of an open wake or of one that has ended in this life.

    The rows of this life must be ready, for an id counts only if no other call has it.

    Raises:
        UnknownApproval: there is none, or its wake has ended and nobody has decided on it.
        AmbiguousApproval: it is an id that several have.
    """
    state, history = entity.state, entity.owner.history
    past = history.latest({ApprovalRecorded.TYPE}, start=state.life_offset)
    known = {event.key: ApprovalRecorded.of(event) for event in past} | state.approvals
    found = named(known.values(), name)
    if found is not None and found.pending and found.key not in state.approvals:
        message = (
            f"the tool call {name!r} of {entity.name!r} waits for approval no more: wake "
            f"{found.wake!r}, in which it did, has ended"
        )
        raise UnknownApproval(message, address=entity.name, id=name)
    if found is None:
        waiting = ", ".join(each.tool_call_id for each in state.approvals.values() if each.pending)
        message = f"no tool call {name!r} of {entity.name!r} waits for approval; waiting: "
        raise UnknownApproval(message + (waiting or "none"), address=entity.name, id=name)
    return found


def left_to_people(entity: Awake, verb: str, wake_key: str | None) -> list[WakeRecorded]:
    """The wakes that ``retry`` or ``skip`` is for: those parked, or the one of that key.

    Raises:
        NothingParked: there is none.
    """
    chosen = [wake for wake in entity.state.parked if wake_key in (None, wake.key)]
    current = entity.state.current
    if verb == "skip" and entity.state.waiting and current and current.key == wake_key:
        chosen = [current]
    if not chosen:
        which = f"wake {wake_key!r} is not" if wake_key else "no wake is"
        message = f"{which} parked at {entity.name!r}; `inspect` lists the parked ones"
        raise NothingParked(message, address=entity.name, wake=wake_key)
    return chosen


def given_up(
    chosen: Sequence[WakeRecorded], state: State, history: History, *, now: int
) -> list[Draft]:
    """The rows that skip wakes, and end the runs that were going on in them, all being durable."""
    runs = ended_in(state, runs_of(chosen, history), End.of(GIVEN_UP), now=now)
    return [*runs, *(wakes.skipped(wake, now=now).draft() for wake in chosen)]


def runs_of(open_wakes: Sequence[WakeRecorded], history: History) -> list[Event]:
    """The newest rows, by key, of the runs of open wakes, those that handlers record included."""
    if not open_wakes:
        return []
    starts = tuple(f"{wake.key}-" for wake in open_wakes)
    first = min(wake.from_offset for wake in open_wakes)
    return history.latest(RUN_TYPES, start=first, skip=lambda _, key: not key.startswith(starts))
