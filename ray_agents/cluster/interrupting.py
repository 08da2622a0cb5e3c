"""Interrupts of an awake entity: marked in the log, carried out, and finished by who owns it then.

The mark and what follows from it are apart on purpose. Who asks writes the mark (:func:`marks`);
the wake loop, which looks at the state whenever it has its turn, carries it out
(:meth:`WakeLoop.advance <ray_agents.cluster.wakeloop.WakeLoop.advance>`). So it is the same whether
the mark was written a moment ago or by an owner that died.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from ray_agents.cluster.awake import Awake
from ray_agents.cluster.calls import Interrupt
from ray_agents.cluster.deciding import runs_of
from ray_agents.events import Draft, Event, MessageReceived, WakeRecorded, WakeStatus
from ray_agents.interruption import InterruptReceived
from ray_agents.log.owner import Appending
from ray_agents.modes import Mode
from ray_agents.runends import STOPPED, ended_in
from ray_agents.runs import runs_inside
from ray_agents.views import Interrupted

BY_MESSAGE = "a message of mode 'immediate'"
SIGNALS = frozenset({InterruptReceived.TYPE})
LOOKED_BACK_MAX = 20_000  # rows: more than come within the minute for which a call is made again


class Advancing(Protocol):
    """A wake loop; ``signals`` are those that the log may not have yet, by key."""

    signals: dict[str, Appending]

    def advance(self) -> None:
        """Look what is to be done."""
        ...


class Interruptible(Awake, Protocol):
    """An entity that can be interrupted; :class:`ray_agents.cluster.entity.Entity` is it."""

    @property
    def wakeloop(self) -> Advancing:
        """What runs its wakes."""
        ...

    def check_alive(self) -> None:
        """Raise UnknownEntity or EntityGone if nobody lives here."""
        ...


async def interrupt(entity: Interruptible, call: Interrupt) -> Interrupted:
    """Stop the wake that has begun and not ended; return once the log says so.

    The same interrupt again, from whom the answer was lost, stops nothing more. One that found
    nothing to stop leaves no row, so that made again it is a new one.

    Raises:
        UnknownEntity, EntityGone: nobody lives here.
    """
    entity.check_alive()
    key = f"signal-{call.signal_id}"
    start = max(entity.state.life_offset, entity.owner.tip - LOOKED_BACK_MAX)
    await entity.owner.ready(start)
    entity.check_alive()  # what went on meanwhile
    earlier = [e for e in entity.owner.history.read(start, types=SIGNALS) if e.key == key]
    if earlier:
        return _stopped(entity, earlier[0])
    signals = _being_written(entity)
    appending = signals.get(key)
    if appending is None:
        current = entity.state.current
        if current is None or call.wake not in (None, current.key):
            running = current.key if current else None
            return Interrupted(address=entity.name, interrupted=False, running=running)
        # A second interrupt of one wake is a second row: its own acknowledgement.
        rows = _rows(entity, current, key=key, reason=call.reason, sender=None)
        appending = signals[key] = entity.enqueue(rows)
        entity.wakeloop.advance()
    await appending.durable()
    return _stopped(entity, appending.events[0])


def _being_written(entity: Interruptible) -> dict[str, Appending]:
    """The signals that the history may not have yet, whatever became of who sent them."""
    signals, tip = entity.wakeloop.signals, entity.owner.durable_tip
    for key in [key for key, each in signals.items() if each.events[0].offset < tip]:
        del signals[key]
    return signals


def _stopped(entity: Awake, signal: Event) -> Interrupted:
    wake = InterruptReceived.of(signal).wake
    return Interrupted(address=entity.name, interrupted=True, wake=wake, offset=signal.offset)


def marks(entity: Awake, message: MessageReceived) -> list[Draft]:
    """The rows that go with a message which interrupts what runs; none if it does not."""
    current = entity.state.current
    if message.mode is not Mode.IMMEDIATE or current is None or current.interrupted:
        return []
    if current.status is not WakeStatus.STARTED:  # it waits for its next attempt
        return []
    key = f"signal-{entity.services.clock.fresh_id()}"
    return _rows(entity, current, key=key, reason=BY_MESSAGE, sender=message.sender)


def _rows(
    entity: Awake, wake: WakeRecorded, *, key: str, reason: str | None, sender: str | None
) -> list[Draft]:
    signal = InterruptReceived(
        key=key,
        wake=wake.key,
        reason=reason,
        sender=sender,
        timestamp=entity.services.clock.now(),
    )
    return [signal.draft(), replace(wake, interrupted=True).draft()]


def left_open(entity: Awake, wake: WakeRecorded, last: Sequence[Draft] = ()) -> list[Draft]:
    """The rows that end what a wake has left open that ends now, all of it being durable.

    ``last`` are the rows that its handler leaves: a run that they end is not open.
    """
    ended = {draft.key for draft in last if draft.type == "run"}
    # What a handler that ends by itself has recorded, it ends by itself, too.
    interrupted = entity.state.wakes.get(wake.key, wake).interrupted
    its = "" if interrupted else runs_inside("", wake=wake.key)
    runs = runs_of([wake], entity.owner.history)
    own = [event for event in runs if event.key.startswith(its) and event.key not in ended]
    return ended_in(entity.state, own, STOPPED, now=entity.services.clock.now())
