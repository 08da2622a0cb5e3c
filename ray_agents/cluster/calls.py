"""What is asked of a host about one entity, and the ways a host may answer that it is not there."""

from __future__ import annotations

from dataclasses import dataclass

from ray_agents.address import Address
from ray_agents.events import EffectStaged, Event, OutboxKind
from ray_agents.requests import DecisionRequest, SendRequest, SpawnRequest
from ray_agents.views import EntityView, Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    """Create the entity. Answered by its EntityView."""

    request: SpawnRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Put a message, with its id, into the inbox. Answered by a Receipt."""

    request: SendRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """As ``Deliver``, and wait up to ``wait_seconds`` for what becomes of it. -> Asked."""

    request: SendRequest
    wait_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """End the ``life`` that is meant, or whichever goes on. Answered by the entity's EntityView.

    Asked again, as its answer was lost, it does not end one that was begun since.
    """

    reason: str | None = None
    life: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupt:
    """Stop what runs, or the wake of that key if it runs. Wakes nobody. -> Interrupted.

    ``signal_id`` is what tells it from every other, so that it is carried out once.
    """

    signal_id: str
    wake: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """Retry or skip parked wakes, one or all. Answered by their number."""

    verb: str
    wake: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide:
    """Approve or deny a tool call that waits for it. Answered by its ApprovalView."""

    approval: str
    request: DecisionRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate:
    """Own the entity and do what it has left to do. Answered by its EntityView.

    ``release_from`` names a host that accepted for it and lets go when asked. ``due`` is the time
    by the index's clock, in microseconds since the epoch, when the index is who calls: everything
    that is due by then happens before the answer.
    """

    release_from: str | None = None
    due: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Describe:
    """Describe the entity if it is awake here. Answered by its EntityView."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """Durable events from ``offset``; waits up to ``wait_seconds`` for the first. -> Followed."""

    offset: int
    wait_seconds: float
    limit: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Seal the entity so that another host may take it. Answered by None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """Somebody has claimed the entity, for this host was silent: look, and let go. -> None."""


Waking = Spawn | Deliver | Kill | Resolve | Decide | Activate
Call = Waking | Ask | Interrupt | Describe | Follow | Release | Challenge
WAKING = (Spawn, Deliver, Ask, Kill, Resolve, Decide, Activate)


def call_of(effect: EffectStaged) -> Deliver | Spawn:
    """The call that carries an outbox row to its target; the row's key makes it happen once."""
    match effect.kind:
        case OutboxKind.SEND:
            request = SendRequest.model_validate(effect.body | {"id": effect.key})
            return Deliver(request=request)
        case OutboxKind.SPAWN:
            spawn = SpawnRequest.model_validate(effect.body | {"spawn_id": effect.key})
            return Spawn(request=spawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """When an entity that is about to sleep is next due, as its owner tells the index.

    ``at`` is microseconds since the epoch, None for never; ``epoch`` is the owner's.
    """

    address: Address
    at: int | None
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The message is accepted; ``settled`` is the row that tells what became of it, if it is there.

    If it is not, the time was up or the entity changed hands: follow the log.
    """

    receipt: Receipt
    settled: Event | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """Events of an entity that is awake here; ``tip`` is the next durable offset."""

    events: tuple[Event, ...]
    tip: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The entity is awake on another host; ask there."""

    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asleep:
    """The entity is not awake here and this call does not wake it; its files tell all."""


Answer = EntityView | int | None | Followed | Moved | Asleep | object
