"""Due times: what an entity waits for by the clock, and when the first of it is due.

All instants are microseconds since the epoch, UTC.
"""

from __future__ import annotations

from datetime import timedelta

from ray_agents.approvals import ApprovalRecorded
from ray_agents.deferral import DeliveryDeferred
from ray_agents.projection import Outgoing, State
from ray_agents.views import ApprovalStatus

MICROSECONDS = 1_000_000
MICROSECOND = timedelta(microseconds=1)
DEFERRED_FIRST = timedelta(minutes=1)
DEFERRED_MAX = timedelta(hours=1)
DOUBLINGS_MAX = 16  # more would outgrow any delay there is
OUTBOX_AGE_MAX = timedelta(days=7)  # what could not be delivered for so long is given up


def fire_at(now: int, *, after_seconds: float) -> int:
    """The instant that comes so long after now."""
    return now + round(after_seconds * MICROSECONDS)


def next_due(state: State) -> int | None:
    """The earliest instant at which something is due; None if nothing ever is by the clock."""
    if not state.alive:
        return None
    sends = (timer.send.fire_at for timer in state.timers.values())
    targets = {row.effect.target for row in state.outbox.values()} if state.deferred else ()
    tries = (each.retry_at for each in state.deferred.values() if each.target in targets)
    return min((*sends, *tries, *expiries(state)), default=None)


def expiries(state: State) -> list[int]:
    """When the approvals that are bounded in time expire, if nobody decides."""
    if not state.approvals:
        return []
    return [a.expires_at for a in state.approvals.values() if a.pending and a.expires_at]


def expired(state: State, *, now: int) -> list[ApprovalRecorded]:
    """The approvals on which nobody has decided in time, as they are to be recorded."""
    late = [a for a in state.approvals.values() if a.pending and a.expires_at]
    return [
        each.decided(ApprovalStatus.EXPIRED, now=now)
        for each in late
        if each.expires_at is not None and each.expires_at <= now
    ]


def deferred(
    earlier: DeliveryDeferred | None, target: str, *, error: str, now: int
) -> DeliveryDeferred:
    """When to try again what could not be delivered: after a delay that doubles."""
    tries = earlier.tries + 1 if earlier else 1
    delay = min(DEFERRED_FIRST * 2 ** min(tries - 1, DOUBLINGS_MAX), DEFERRED_MAX)
    return DeliveryDeferred(
        target=target, retry_at=now + delay // MICROSECOND, tries=tries, error=error
    )


def is_given_up(row: Outgoing, *, now: int) -> bool:
    """Whether an outbox row has been undeliverable for too long."""
    return now - row.time > OUTBOX_AGE_MAX // MICROSECOND
