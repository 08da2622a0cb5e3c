"""When a handler is invoked, and what becomes of it: pure decisions over the state.

A wake takes every message that is waiting: those that arrive while it runs coalesce into the
next one. Its key is made of the offset it reaches to, so it never repeats. An attempt that fails
is repeated after a growing delay, a bounded number of times; then the wake is *parked* for people
to ``retry`` or ``skip``, and later messages go on. An attempt whose host died counts as a death;
after two of them the wake is tried alone, on a host of its own, for it may be the culprit.

A wake whose agent has called a tool that people must approve *waits*: it stays open, is not due,
and holds back the wakes after it, for their runs would meet a tool call without a result. When
every such call is decided on, the attempt goes on; that it waited counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from ray_agents.definition import Limits
from ray_agents.events import JSON, Event, MessageReceived, WakeRecorded, WakeStatus
from ray_agents.projection import State

DEATHS_BEFORE_ALONE = 2
INTERRUPTED = "interrupted: the host was stopped"
DOUBLINGS_MAX = 63  # more would outgrow any delay there is
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """Why the handler is invoked now, as handlers see it (upstream's ``WakeEvent``).

    ``from_offset`` is inclusive, ``to_offset`` exclusive. For an inbox wake ``payload`` and
    ``message_type`` are those of the newest message; ``ctx.events`` has them all.
    """

    type: str
    source: str
    from_offset: int
    to_offset: int
    event_count: int
    payload: JSON = None
    message_type: str | None = None
    key: str = ""
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Who tries, with which definition, and when (microseconds since the epoch)."""

    host: str
    definition_version: int
    now: int


def due(state: State) -> bool:
    """Whether messages wait that no wake has taken."""
    return state.alive and state.current is None and bool(state.pending)


def ready(state: State) -> bool:
    """Whether an attempt is due: messages wait, or a wake is open that waits for nobody."""
    return due(state) if state.current is None else not state.waiting


def begin(state: State, attempt: Attempt) -> WakeRecorded:
    """The wake that takes all waiting messages. Only call it when :func:`due`."""
    first, last = state.pending[0], state.pending[-1]
    return WakeRecorded(
        key=f"wake-{last.offset + 1}",
        status=WakeStatus.STARTED,
        source="inbox",
        from_offset=first.offset,
        to_offset=last.offset + 1,
        event_count=len(state.pending),
        attempt=1,
        deaths=0,
        host=attempt.host,
        definition_version=attempt.definition_version,
        timestamp=attempt.now,
        apart=apart_from(state),
    )


def apart_from(state: State) -> tuple[int, ...]:
    """The offsets, between those that wait, of messages that an earlier wake has taken in."""
    first, last = state.pending[0].offset, state.pending[-1].offset
    return tuple(sorted(offset for offset in state.steered if first < offset < last))


def again(wake: WakeRecorded, attempt: Attempt, limits: Limits) -> WakeRecorded:
    """The next attempt at a wake that was begun before, or its parking.

    A wake found ``started`` by a new owner has lost its host: that attempt failed by a death. One
    that waited goes on with the same attempt; one that was interrupted is begun only to be ended.
    The version recorded at its first start is kept.
    """
    if wake.interrupted:
        return replace(
            wake,
            status=WakeStatus.STARTED,
            attempt=max(wake.attempt, 1),
            host=attempt.host,
            timestamp=attempt.now,
            retry_at=0,
        )
    if wake.status is WakeStatus.STARTED:
        lost = f"its host {wake.host!r} died while the handler ran"
        wake = replace(wake, deaths=wake.deaths + 1, error=lost)
        if wake.attempt >= limits.attempts_max:
            return replace(wake, status=WakeStatus.PARKED, timestamp=attempt.now)
    return replace(
        wake,
        status=WakeStatus.STARTED,
        attempt=wake.attempt + (wake.status is not WakeStatus.WAITING),
        host=attempt.host,
        timestamp=attempt.now,
        retry_at=0,
    )


def must_be_alone(wake: WakeRecorded) -> bool:
    """Whether the next attempt must not share a host with others."""
    deaths = wake.deaths + (wake.status is WakeStatus.STARTED)
    return deaths >= DEATHS_BEFORE_ALONE and not wake.interrupted


def failed(wake: WakeRecorded, error: str, *, now: int, limits: Limits) -> WakeRecorded:
    """A handler raised: try again after a delay that doubles, or park."""
    if wake.attempt >= limits.attempts_max:
        return replace(wake, status=WakeStatus.PARKED, error=error, timestamp=now)
    first, longest = (d // MICROSECOND for d in (limits.retry_delay, limits.retry_delay_max))
    delay = min(first << min(wake.attempt - 1, DOUBLINGS_MAX), longest)
    return replace(wake, status=WakeStatus.FAILED, error=error, timestamp=now, retry_at=now + delay)


def parked(wake: WakeRecorded, error: str, *, now: int) -> WakeRecorded:
    """A failure that repeating cannot mend."""
    return replace(wake, status=WakeStatus.PARKED, error=error, timestamp=now)


def waiting(wake: WakeRecorded, *, now: int) -> WakeRecorded:
    """A run has come to tool calls that people must approve: nothing is done until they have."""
    return replace(wake, status=WakeStatus.WAITING, timestamp=now, error=None)


def interrupted(wake: WakeRecorded, *, now: int) -> WakeRecorded:
    """The host leaves in good order in mid-handler: the attempt does not count."""
    return replace(
        wake,
        status=WakeStatus.FAILED,
        attempt=wake.attempt - 1,
        error=INTERRUPTED,
        timestamp=now,
        retry_at=now,
    )


def handled(
    wake: WakeRecorded, *, now: int, reply: JSON, text: str | None, stop_reason: str | None = None
) -> WakeRecorded:
    """The handler returned; ``stop_reason`` is why its agent's last run ended."""
    return replace(
        wake,
        status=WakeStatus.HANDLED,
        timestamp=now,
        reply=reply,
        text=text,
        stop_reason=stop_reason,
        error=None,
        retry_at=0,
    )


def retried(wake: WakeRecorded, *, now: int, version: int) -> WakeRecorded:
    """A parked wake is to run again, with fresh attempts and the newest definition.

    That it was told to stop was before: whoever retries it wants its handler to run.
    """
    return replace(
        wake,
        status=WakeStatus.FAILED,
        attempt=0,
        deaths=0,
        definition_version=version,
        timestamp=now,
        retry_at=now,
        interrupted=False,
    )


def skipped(wake: WakeRecorded, *, now: int) -> WakeRecorded:
    """A parked wake is given up."""
    return replace(wake, status=WakeStatus.SKIPPED, timestamp=now, retry_at=0)


def until(instant: int, *, now: int) -> timedelta:
    """How long until ``instant``; both in microseconds since the epoch; never negative."""
    return timedelta(microseconds=max(0, instant - now))


def as_seen(wake: WakeRecorded, events: Sequence[Event]) -> Wake:
    """The wake as its handler sees it; ``events`` are the messages of its range."""
    newest = MessageReceived.of(events[-1]) if events else None
    return Wake(
        type=wake.source,
        source=(newest.sender if newest else None) or "",
        from_offset=wake.from_offset,
        to_offset=wake.to_offset,
        event_count=wake.event_count,
        payload=newest.payload if newest else None,
        message_type=newest.message_type if newest else None,
        key=wake.key,
        attempt=wake.attempt,
    )
