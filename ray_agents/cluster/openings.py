"""How an entity comes to be awake in a host: by a claim of its log, unless somebody owns it.

Callers of one address share one waking. It begins with what the host remembers of the entity, or
with a look at its log; asks the host that owns it, if that is another; and claims the next epoch
if nobody does. That the entity is about to be awake here is in the host's own log before the claim
is acknowledged, so that a crash of the host leaves it to be found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from ray_agents.address import Address
from ray_agents.cluster.calls import Activate, Call, Moved, Spawn
from ray_agents.cluster.entity import Entity
from ray_agents.cluster.equipment import Equipment, Verdict
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.hostlog import HostLog
from ray_agents.cluster.session import check_args
from ray_agents.cluster.sleepers import Sleepers
from ray_agents.cluster.waking import load, upkeep_of
from ray_agents.errors import RuntimeUnavailable, UnknownEntity
from ray_agents.log.owner import Claim, ClaimLost, Head, LogOwner, read_head
from ray_agents.projection import State

Begin = Callable[[Address, LogOwner, State], Entity]


class Openings:
    """The entities on their way to be awake in one host.

    ``log`` gives the host's own log, or raises RuntimeUnavailable if the host leaves; ``begin``
    makes an entity of a log that is ours.
    """

    def __init__(
        self, equipment: Equipment, *, log: Callable[[], HostLog], begin: Begin, sleepers: Sleepers
    ) -> None:
        self._equipment = equipment
        self._log = log
        self._begin = begin
        self._sleepers = sleepers
        self._tasks: dict[Address, asyncio.Task[Entity | Moved]] = {}
        self._cancelled = False

    def __contains__(self, address: Address) -> bool:
        return address in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def tasks(self) -> Iterable[asyncio.Task[Any]]:
        """What is under way."""
        return list(self._tasks.values())

    def cancel(self) -> None:
        """Open nothing any more; whoever waits for it is told to ask again."""
        self._cancelled = True
        for task in self._tasks.values():
            task.cancel()

    async def end_of(self, address: Address) -> None:
        """Return when the entity is not on its way any more, whatever became of it."""
        task = self._tasks.get(address)
        if task is not None:
            await asyncio.wait([task])

    async def open(self, address: Address, call: Call) -> Entity | Moved:
        """The entity, awake here, or where it is.

        Raises:
            UnknownEntity: nobody ever lived there, and ``call`` does not spawn.
            RuntimeUnavailable: this host leaves, or the owner cannot be asked.
        """
        task = self._tasks.get(address)
        if task is None:
            if isinstance(call, Spawn):
                self._check_spawn(address, call)
            name = f"open:{address}"
            task = asyncio.get_running_loop().create_task(self._open(address, call), name=name)
            self._tasks[address] = task
            task.add_done_callback(lambda _: self._tasks.pop(address, None))
            return await self._opened(task)
        try:
            return await self._opened(task)
        except UnknownEntity:
            if isinstance(call, Spawn):  # we shared the look of a call that does not create
                return await self.open(address, call)
            raise

    async def _opened(self, task: asyncio.Task[Entity | Moved]) -> Entity | Moved:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            cancelled_too = caller is not None and caller.cancelling()
            if cancelled_too or not (task.cancelled() and self._cancelled):
                raise
            message = f"host {self._equipment.host!r} vanished; ask again"
            raise RuntimeUnavailable(message, host=self._equipment.host) from None

    def _check_spawn(self, address: Address, call: Spawn) -> None:
        """Refuse before anything is made: an unknown type, arguments that do not fit."""
        check_args(self._equipment.definitions.load(address.type).definition, call.request)

    async def _open(self, address: Address, call: Call) -> Entity | Moved:
        e = self._equipment
        left = self._sleepers.recall(address)
        if left is not None:
            found = await self._placed(address, left.head, state=left.state)
            if isinstance(found, Entity):
                return found
        folder = entity_folder(address)
        head = await read_head(e.blobs, folder, io=e.io)
        if head is None and not isinstance(call, Spawn):
            message = f"there is no entity at {str(address)!r}; spawn it first"
            raise UnknownEntity(message, address=str(address))
        elsewhere = await self._owner_elsewhere(address, head, call)
        if elsewhere is not None:
            return elsewhere
        if isinstance(call, Activate) and call.release_from:
            head = await read_head(e.blobs, folder, io=e.io)
            elsewhere = await self._owner_elsewhere(address, head, Activate())
            if elsewhere is not None:
                return elsewhere
        return await self._placed(address, head)

    async def _placed(
        self, address: Address, head: Head | None, *, state: State | None = None
    ) -> Entity | Moved:
        better = self._equipment.place(address, head.host if head else None)
        if better is not None:
            return Moved(host=better)
        return await self._claim(address, head, state=state)

    async def _owner_elsewhere(
        self, address: Address, head: Head | None, call: Call
    ) -> Moved | None:
        """Where the entity is awake now, unless its owner is gone or lets go of it."""
        if head is None or head.sealed or head.host == self._equipment.host:
            return None
        if isinstance(call, Activate) and call.release_from == head.host:
            await self._equipment.peers.release(head.host, address)
            return None
        verdict = await self._equipment.peers.check(head.host, address)
        return Moved(host=head.host) if verdict is Verdict.OWNS else None

    async def _claim(
        self, address: Address, head: Head | None, *, state: State | None
    ) -> Entity | Moved:
        """Claim the epoch after ``head``, with the ``state`` it was left in if that is known."""
        e, log = self._equipment, self._log()
        epoch = head.epoch + 1 if head else 1
        definition = e.definitions.load(address.type).definition
        try:
            owner = await LogOwner.claim(
                e.blobs,
                entity_folder(address),
                head=head,
                claim=Claim(host=e.host, token=e.clock.fresh_id()),
                clock=e.clock,
                io=e.io,
                durability=definition.durability,
                beside=[log.awake(address, epoch=epoch)],
                upkeep=upkeep_of(definition),
                summarise=state is None,
            )
        except ClaimLost as lost:
            log.asleep(address)
            return Moved(host=lost.head.host)
        if head is not None and not head.sealed:
            e.peers.challenge(head.host, address)
        return self._begin(address, owner, state or load(owner.summary, tip=owner.tip))
