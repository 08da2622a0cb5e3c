"""An awake entity as its parts see it: what wake loop, outbox, session, portrait may ask of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ray_agents.address import Address
from ray_agents.agent import AgentConfig
from ray_agents.cluster.calls import Due
from ray_agents.cluster.definitions import Definitions
from ray_agents.definition import Definition, Limits
from ray_agents.events import Draft, EffectStaged, WakeRecorded
from ray_agents.log.owner import Appending, LogOwner
from ray_agents.model import Model
from ray_agents.ports import Clock
from ray_agents.projection import State
from ray_agents.turns import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What an entity needs of its host.

    ``admit`` says what a wake must wait for before it may run here, or None; ``deliver`` carries
    an outbox row to its target; ``register`` tells the index when an entity is next due.
    """

    host: str
    pid: int
    clock: Clock
    definitions: Definitions
    model_for: Callable[[AgentConfig], Model]
    deliver: Callable[[EffectStaged], Awaitable[None]]
    admit: Callable[[Awake], str | None]
    register: Callable[[Due], Awaitable[None]]


class Awake(Protocol):
    """One awake entity; :class:`ray_agents.cluster.entity.Entity` is it."""

    address: Address
    owner: LogOwner
    state: State
    services: Services
    waiting_for: str | None
    caller: Caller

    @property
    def name(self) -> str:
        """The address as text."""
        ...

    @property
    def definition(self) -> Definition:
        """The newest definition of this entity's type."""
        ...

    @property
    def leaving(self) -> bool:
        """Whether it is being sealed here, or its log is another owner's."""
        ...

    @property
    def handling(self) -> bool:
        """Whether a handler runs right now."""
        ...

    def limits_of(self, wake: WakeRecorded) -> Limits:
        """The limits of the version that handles a wake."""
        ...

    def enqueue(self, drafts: Sequence[Draft]) -> Appending:
        """Queue rows and apply them to the state; raises Fenced when leaving."""
        ...

    def write(self, drafts: Sequence[Draft]) -> Appending:
        """As :meth:`enqueue`, also while sealing: for the last rows."""
        ...

    def rest(self) -> None:
        """Be idle from now on, as if for long; anything that comes is a reason to stay."""
        ...

    def outbox_grew(self) -> None:
        """Effects have become durable: what leaves through the outbox may leave."""
        ...
