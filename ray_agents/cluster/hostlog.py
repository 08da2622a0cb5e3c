"""A host's own small log: who is awake in it.

``awake(address, life, epoch)`` is durable before an entity is claimed (beside the claim's own
sync, many in one); ``asleep`` after it is sealed with nothing left to do needs no sync, for a
needless look at a sleeper costs little. After a crash the difference of the two is all that
recovery reads: its cost follows the work that was open, not the number of entities.

A medium that refuses, such as a full disk, ends an ownership for good. The host then claims its log
anew when it is next to take somebody in; what was durable in it still stands. It leaves only if
somebody else has taken the log: who recovers what it left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Self

from ray_agents.address import Address
from ray_agents.cluster.equipment import Equipment
from ray_agents.cluster.folders import host_folder
from ray_agents.errors import Fenced
from ray_agents.events import Draft, Operation
from ray_agents.log.owner import Claim, Head, LogOwner, read_head

AWAKE = "awake"


class HostLog:
    """Writes the log of the host with this ``equipment``; make one with :meth:`open`."""

    def __init__(self, equipment: Equipment, owner: LogOwner) -> None:
        self._equipment = equipment
        self._owner = owner
        self._taken = False
        self._mending = asyncio.Lock()
        self._mended = asyncio.Event()

    @classmethod
    async def open(cls, equipment: Equipment) -> Self:
        """Begin the log of a new host.

        Raises:
            StoreUnavailable, StoreFull: the medium refused.
        """
        return cls(equipment, await _claim(equipment, None))

    async def mend(self) -> None:
        """Claim the log anew if it was lost to the medium.

        Raises:
            Fenced: somebody else has it; it is lost for good.
            StoreUnavailable, StoreFull: the medium still refuses.
        """
        async with self._mending:
            if not self.broken:
                return
            e = self._equipment
            await self._owner.abandon()
            try:
                head = await read_head(e.blobs, host_folder(e.host), io=e.io)
                self._owner = await _claim(e, _still_ours(head, e.host))
            except Fenced:
                self._taken = True
                raise
            finally:
                self._mended.set()
                self._mended = asyncio.Event()

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
        """Whether the host log cannot be written, for good or until it is mended."""
        return self._owner.lost.is_set()

    @property
    def broken(self) -> bool:
        """Whether the host log was lost to the medium, and may be mended."""
        return self.lost and not self._taken and not isinstance(self.cause, Fenced)

    @property
    def cause(self) -> Exception | None:
        """Why it was lost."""
        return self._owner.cause

    async def lost_for_good(self) -> None:
        """Return when somebody else has the host log; its host must leave."""
        await self._owner.lost.wait()
        while self.broken or not self.lost:
            await self._mended.wait()
            await self._owner.lost.wait()

    async def seal(self) -> None:
        """End the log; a clean end lets nobody look for this host."""
        await self._owner.seal()

    async def abandon(self) -> None:
        """Close the log as a crash would leave it."""
        await self._owner.abandon()


def _still_ours(head: Head | None, host: str) -> Head:
    if head is None or head.host != host:
        raise Fenced(f"the log of host {host!r} was taken over")
    return head


async def _claim(e: Equipment, head: Head | None) -> LogOwner:
    claim = Claim(host=e.host, token=e.clock.fresh_id())
    folder = host_folder(e.host)
    return await LogOwner.claim(e.blobs, folder, head=head, claim=claim, clock=e.clock, io=e.io)
