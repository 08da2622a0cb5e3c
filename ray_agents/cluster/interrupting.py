"""Interrupts of an awake entity: marked in the log, carried out, and finished by who owns it then.

The mark and what follows from it are apart on purpose. Who asks writes the mark (:func:`marks`);
the wake loop, which looks at the state whenever it has its turn, carries it out
(:meth:`WakeLoop.advance <ray_agents.cluster.wakeloop.WakeLoop.advance>`). So it is the same whether
the mark was written a moment ago or by an owner that died.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from ray_agents.approvals import undecided
from ray_agents.cluster.awake import Awake
from ray_agents.events import Draft, MessageReceived, WakeRecorded, WakeStatus, decode
from ray_agents.interruption import InterruptReceived, ends_of_runs
from ray_agents.ledger import Spent
from ray_agents.modes import Mode
from ray_agents.runs import RUN_TYPES, runs_inside
from ray_agents.views import Interrupted

BY_MESSAGE = "a message of mode 'immediate'"


class Advancing(Protocol):
    """A wake loop."""

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


async def interrupt(entity: Interruptible, *, wake: str | None, reason: str | None) -> Interrupted:
    """Stop the wake that has begun and not ended; return once the log says so.

    ``wake`` is the key of the only one that is meant, if that matters.

    Raises:
        UnknownEntity, EntityGone: nobody lives here.
    """
    entity.check_alive()
    current = entity.state.current
    if current is None or wake not in (None, current.key):
        return Interrupted(address=entity.name, interrupted=False)
    # A second interrupt of one wake is a second row: its own acknowledgement.
    appending = entity.enqueue(_rows(entity, current, reason=reason, sender=None))
    entity.wakeloop.advance()
    await appending.durable()
    offset = appending.events[0].offset
    return Interrupted(address=entity.name, interrupted=True, wake=current.key, offset=offset)


def marks(entity: Awake, message: MessageReceived) -> list[Draft]:
    """The rows that go with a message which interrupts what runs; none if it does not."""
    current = entity.state.current
    if message.mode is not Mode.IMMEDIATE or current is None or current.interrupted:
        return []
    if current.status is not WakeStatus.STARTED:  # it waits for its next attempt
        return []
    return _rows(entity, current, reason=BY_MESSAGE, sender=message.sender)


def _rows(
    entity: Awake, wake: WakeRecorded, *, reason: str | None, sender: str | None
) -> list[Draft]:
    clock = entity.services.clock
    signal = InterruptReceived(
        key=f"signal-{clock.fresh_id()}",
        wake=wake.key,
        reason=reason,
        sender=sender,
        timestamp=clock.now(),
    )
    return [signal.draft(), replace(wake, interrupted=True).draft()]


def left_open(entity: Awake, wake: WakeRecorded) -> list[Draft]:
    """The rows that end what a wake has left open that ends now, all of it being durable."""
    rows = entity.owner.history.read(wake.from_offset, types=RUN_TYPES)
    # What a handler that ends by itself has recorded, it ends by itself, too.
    interrupted = entity.state.wakes.get(wake.key, wake).interrupted
    its = f"{wake.key}-" if interrupted else runs_inside("", wake=wake.key)
    own = [event for event in rows if event.key.startswith(its)]
    ends = ends_of_runs(own, now=entity.services.clock.now())
    drafts = list(undecided(ends, entity.state.approvals))
    before = {event.key: event.value for event in own if event.type == "step" and event.text}
    added = Spent()
    for draft in drafts:
        if draft.type == "step":
            added += Spent.in_row(decode(draft.text)) - Spent.in_row(before[draft.key])
    if added != Spent():
        drafts.append((entity.state.spent + added).draft())
    return drafts
