"""What a host is made with, and how it sees the other hosts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ray_agents.address import Address
from ray_agents.agent import AgentConfig
from ray_agents.cluster.awake import Awake
from ray_agents.cluster.calls import Answer, Call, Due
from ray_agents.cluster.definitions import Definitions
from ray_agents.log.owner import LogIO
from ray_agents.model import Model
from ray_agents.ports import Blobs, Clock


class Verdict(Enum):
    """What another host, or Ray, says of an entity's ownership."""

    OWNS = "owns"
    NOT_MINE = "not mine"
    DEAD = "dead"


class Peers(Protocol):
    """The other hosts, as a host sees them."""

    async def check(self, host: str, address: Address) -> Verdict:
        """Whether ``host`` lives and owns ``address``; answers within its bound (10 s)."""
        ...

    async def release(self, host: str, address: Address) -> None:
        """Ask ``host`` to seal ``address`` and let go."""
        ...

    def challenge(self, host: str, address: Address) -> None:
        """Tell ``host``, should it live after all, that ``address`` has another owner now."""
        ...

    async def register(self, due: Due) -> None:
        """Tell the index of due times when a sleeper is next due; durable when it returns.

        Raises:
            RuntimeUnavailable, StoreUnavailable, StoreFull: it does not know.
        """
        ...

    async def call(self, address: Address, call: Call) -> Answer:
        """Bring a call to whoever owns ``address``, waking it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """What a host is made with.

    ``admit`` may keep a wake from running here, saying why; ``place``, told of a sleeping entity
    and its last host, may name the one to which it is to go instead; ``departed`` is called when
    an entity has gone.
    """

    host: str
    pid: int
    blobs: Blobs
    io: LogIO
    clock: Clock
    definitions: Definitions
    peers: Peers
    model_for: Callable[[AgentConfig], Model]
    admit: Callable[[Awake], str | None]
    departed: Callable[[], None]
    place: Callable[[Address, str | None], str | None]
