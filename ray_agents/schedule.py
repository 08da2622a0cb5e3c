"""Due times: what an entity waits for by the clock, and when the first of it is due.

All instants are microseconds since the epoch, UTC.
"""

from __future__ import annotations

from ray_agents.projection import State, Timer

MICROSECONDS = 1_000_000


def fire_at(now: int, *, after_seconds: float) -> int:
    """The instant that comes so long after now."""
    return now + round(after_seconds * MICROSECONDS)


def next_due(state: State) -> int | None:
    """The earliest instant at which something is due; None if nothing ever is by the clock."""
    if not state.alive:
        return None
    return min((timer.send.fire_at for timer in state.timers.values()), default=None)


def due_sends(state: State, *, now: int) -> list[Timer]:
    """The delayed sends whose time has come, oldest first; those of one instant as accepted."""
    ready = [timer for timer in state.timers.values() if timer.send.fire_at <= now]
    return sorted(ready, key=lambda timer: (timer.send.fire_at, timer.offset))
