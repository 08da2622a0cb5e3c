"""A host's own small log: who is awake in it.

``awake(address, life, epoch)`` is durable before an entity is claimed (beside the claim's own
sync, many in one); ``asleep`` after it is sealed with nothing left to do needs no sync, for a
needless look at a sleeper costs little. After a crash the difference of the two is all that
recovery reads: its cost follows the work that was open, not the number of entities.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from ray_agents.address import Address
from ray_agents.events import Draft, Operation
from ray_agents.log.owner import LogOwner

AWAKE = "awake"


class HostLog:
    """Writes the host log; ``owner`` has claimed it."""

    def __init__(self, owner: LogOwner) -> None:
        self._owner = owner

    def awake(self, address: Address, *, epoch: int) -> Awaitable[object]:
        """Record that the entity is about to be owned here; what it returns waits for the disk."""
        draft = Draft.of(AWAKE, str(address), value={"epoch": epoch}, operation=Operation.UPSERT)
        return self._owner.enqueue([draft]).durable()

    def asleep(self, address: Address) -> None:
        """Record that the entity has nothing left to do; durable with the next sync."""
        if not self._owner.lost.is_set():
            self._owner.enqueue([Draft.of(AWAKE, str(address), operation=Operation.DELETE)])

    @property
    def lost(self) -> bool:
        """Whether the host log cannot be written any more; its host must leave."""
        return self._owner.lost.is_set()

    async def lost_for_good(self) -> None:
        """Return when the host log is lost."""
        await self._owner.lost.wait()

    async def seal(self) -> None:
        """End the log; a clean end lets nobody look for this host."""
        await self._owner.seal()

    async def abandon(self) -> None:
        """Close the log as a crash would leave it."""
        await self._owner.abandon()


def still_awake(rows: Sequence[str]) -> list[Address]:
    """The addresses left awake, oldest first."""
    return [Address.parse(row) for row in rows]
