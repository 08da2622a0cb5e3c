"""Which row of a log answers a message: the end of the wake that took it, or of the life."""

from __future__ import annotations

from ray_agents.errors import EntityGone, HandlerFailed
from ray_agents.events import EntityStopped, Event, WakeRecorded, WakeStatus
from ray_agents.views import Receipt, Reply

SETTLING_TYPES = frozenset({WakeRecorded.TYPE, EntityStopped.TYPE})
_OUTCOMES = frozenset({WakeStatus.HANDLED, WakeStatus.PARKED, WakeStatus.SKIPPED})


def settles(event: Event, offset: int) -> bool:
    """Whether ``event``, a later row, tells what became of the message at ``offset``."""
    if event.type == EntityStopped.TYPE:
        return True
    if event.type != WakeRecorded.TYPE or event.headers.get("status") not in _OUTCOMES:
        return False
    return WakeRecorded.of(event).took(offset)


def reply_of(receipt: Receipt, event: Event) -> Reply | None:
    """The reply that ``event`` holds for an accepted message, if it does.

    Raises:
        HandlerFailed: the wake that took the message was parked or skipped.
        EntityGone: the entity was killed before it answered.
    """
    if not settles(event, receipt.offset):
        return None
    if event.type == EntityStopped.TYPE:
        message = f"{receipt.address!r} was killed before it answered {receipt.id!r}"
        raise EntityGone(message, address=receipt.address, id=receipt.id)
    wake = WakeRecorded.of(event)
    if wake.status is not WakeStatus.HANDLED:
        message = (
            f"{receipt.address!r} could not handle message {receipt.id!r}: wake {wake.key!r} "
            f"is {wake.status.value} after {wake.attempt} attempts: {wake.error}"
        )
        raise HandlerFailed(message, address=receipt.address, wake=wake.key)
    return Reply(
        address=receipt.address,
        id=receipt.id,
        wake=wake.key,
        offset=event.offset,
        text=wake.text or "",
        value=wake.reply,
        interrupted=wake.interrupted,
        stop_reason=wake.stop_reason,
    )
