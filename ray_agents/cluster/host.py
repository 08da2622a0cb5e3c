"""A host: the process in which entities are awake. The composition root of log, models and core.

One mechanism for all placements: a host holds a set of entities; a dedicated host holds one. For
each call it finds the entity awake, or wakes it: reads who owns its log, asks the owner's host if
that is not us, claims the next epoch, folds, and serves. Whoever comes while an entity falls
asleep waits for the end of that and wakes it again; no caller sees the difference.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from copy import copy
from datetime import timedelta
from typing import Any

from ray_agents.address import Address
from ray_agents.cluster.awake import Services
from ray_agents.cluster.calls import (
    WAKING,
    Activate,
    Answer,
    Ask,
    Asked,
    Asleep,
    Call,
    Challenge,
    Decide,
    Deliver,
    Describe,
    Follow,
    Interrupt,
    Kill,
    Moved,
    Release,
    Resolve,
    Spawn,
    Waking,
    call_of,
)
from ray_agents.cluster.entity import Entity
from ray_agents.cluster.equipment import Equipment
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.following import followed, settled
from ray_agents.cluster.hostlog import HostLog
from ray_agents.cluster.interrupting import interrupt
from ray_agents.cluster.openings import Openings
from ray_agents.cluster.resuming import Resuming
from ray_agents.cluster.sealing import seal_all
from ray_agents.cluster.sleepers import Sleepers
from ray_agents.errors import Fenced, RayAgentsError, RuntimeUnavailable
from ray_agents.events import EffectStaged
from ray_agents.log.owner import LogOwner, read_head
from ray_agents.projection import State

CALL_TRIES_MAX = 8
IDLE_LOOK_MIN = 0.002
IDLE_LOOK_MAX = 0.05
OPEN_SHARE = 0.3  # of the deadline of a stop for those on their way: one that hangs keeps no other
SEAL_SHARE = 0.8  # of it, these included, for the entities; the rest is the host log's
LOGGER = logging.getLogger("ray_agents.host")


class Host:
    """Holds awake entities and answers calls about them."""

    def __init__(self, equipment: Equipment) -> None:
        self._equipment = equipment
        self._entities: dict[Address, Entity] = {}
        self._lives: dict[Address, asyncio.Task[None]] = {}
        self._resuming = Resuming(equipment.peers, equipment.clock, resumed=self.forget)
        self._sleepers = Sleepers(equipment.host)
        self._openings = Openings(
            equipment, log=self._own_log, begin=self._begin, sleepers=self._sleepers
        )
        self._calls: Counter[Address] = Counter()
        self._log: HostLog | None = None
        self._stopping = False
        self._vanished: list[Entity] = []
        self._services = Services(
            host=equipment.host,
            pid=equipment.pid,
            clock=equipment.clock,
            definitions=equipment.definitions,
            model_for=equipment.model_for,
            deliver=self._deliver,
            admit=equipment.admit,
            register=equipment.peers.register,
        )

    async def open(self) -> None:
        """Begin this host's log; call once, before any other call."""
        self._log = await HostLog.open(self._equipment)

    @property
    def opening(self) -> bool:
        """Whether an entity is about to be awake here."""
        return bool(self._openings)

    def entity(self, address: Address) -> Entity | None:
        """The entity, if it is awake here and stays."""
        entity = self._entities.get(address)
        return None if entity is None or entity.leaving else entity

    async def log_lost(self) -> None:
        """Return when this host's log cannot be written any more: it must leave."""
        if self._log is not None:
            await self._log.lost_for_good()

    def resume_later(self, address: Address) -> None:
        """See to it that somebody goes on with an entity that was not taken over."""
        self._resuming.later(address)

    def forget(self, address: Address) -> None:
        """Another host has taken the entity over: it is no concern of this one any more."""
        if self._log is not None and not self.owns(address):
            self._log.asleep(address)

    @property
    def awake(self) -> list[Entity]:
        """The entities awake here."""
        return list(self._entities.values())

    @property
    def size(self) -> int:
        """How many entities are awake here."""
        return len(self._entities)

    def vanish(self) -> None:
        """End as a killed process does: every task stops where it is, nothing more is written."""
        self._stopping = True
        self._resuming.cancel()
        self._openings.cancel()
        for task in self._lives.values():
            task.cancel()
        for entity in self.awake:
            entity.owner.give_up(RuntimeUnavailable("the host vanished"))
        self._vanished = self.awake

    async def buried(self) -> None:
        """After :meth:`vanish`: return when nothing of it runs any more and no file is open."""
        gone: list[asyncio.Task[Any]] = [*self._lives.values(), *self._openings.tasks]
        await asyncio.gather(*gone, *self._resuming.tasks, return_exceptions=True)
        for entity in self._vanished:
            await entity.drop()
        if self._log is not None:
            await self._log.abandon()

    def owns(self, address: Address) -> bool:
        """Whether the entity is awake here, or about to be; one whose log is taken is not."""
        entity = self._entities.get(address)
        lost = entity is None or entity.owner.lost.is_set()
        return address in self._openings or not lost

    # -- calls --------------------------------------------------------------------------------

    async def call(self, address: Address, call: Call) -> Answer:
        """Answer one call; ``Moved`` and ``Asleep`` say that it belongs elsewhere.

        Raises:
            RayAgentsError: what the entity answers; RuntimeUnavailable while this host leaves.
        """
        if not isinstance(call, WAKING):
            return await self._call(address, call)
        self._calls[address] += 1
        try:
            return await self._call(address, call)
        finally:
            self._calls[address] -= 1
            if not self._calls[address]:
                del self._calls[address]

    async def _call(self, address: Address, call: Call) -> Answer:
        for _ in range(CALL_TRIES_MAX):
            entity = self._entities.get(address)
            if entity is None or entity.leaving:
                if not isinstance(call, WAKING):
                    if not await self._opens(address):
                        return Asleep()
                    continue
                found = await self._wake(address, call)
                if isinstance(found, Moved):
                    return found
                entity = found
            if entity.leaving:
                continue
            try:
                return await self._serve(entity, call)
            except Fenced:
                if not entity.leaving:
                    raise
        message = f"{str(address)!r} changes hands too often on host {self._equipment.host!r}"
        raise RuntimeUnavailable(message, address=str(address))

    async def _serve(self, entity: Entity, call: Call) -> Answer:
        match call:  # what keeps nobody awake
            case Release():
                return await self._sleep(entity)
            case Challenge():
                return await self._recheck(entity)
            case Follow():
                return await followed(entity.owner, call)
            case Describe():
                return entity.view()
            case Ask():
                return await self._ask(entity, call)
            case Interrupt():
                with entity.serving():
                    return await interrupt(entity, call)
            case _:
                with entity.serving():
                    return await self._change(entity, call)

    async def _change(self, entity: Entity, call: Waking) -> Answer:
        match call:
            case Spawn(request=request):
                await entity.spawn(request)
                return entity.view()
            case Deliver(request=request):
                return await entity.deliver(request)
            case Kill(reason=reason, life=life):
                await entity.kill(reason, life=life)
                return entity.view()
            case Resolve(verb=verb, wake=wake):
                return await entity.resolve(verb, wake)
            case Decide(approval=approval, request=request):
                return await entity.decide(approval, request)
            case Activate(due=due):
                entity.wakeloop.advance()
                entity.outbox.advance()
                if due is not None:
                    await self._fire(entity, due)
                return entity.view()

    async def _fire(self, entity: Entity, due: int) -> None:
        """Let what is due happen, for the index, which forgets it after our answer.

        So nobody may answer who is no longer the owner: an append proves that we are, a look, if
        there is nothing to append.
        """
        entity.timers.called()
        if not await entity.timers.fire(due):
            await self._recheck(entity)
        if entity.leaving:
            raise Fenced(f"{entity.name} is leaving host {self._equipment.host!r}")

    async def _recheck(self, entity: Entity) -> None:
        """Give the entity up at once, handler and all, if its log has a newer owner."""
        e = self._equipment
        head = await read_head(e.blobs, entity_folder(entity.address), io=e.io)
        if head is None or head.epoch > entity.owner.epoch:
            taken = f"{entity.name} was taken over while host {e.host!r} was silent"
            entity.owner.give_up(Fenced(taken))

    async def _ask(self, entity: Entity, call: Ask) -> Asked:
        with entity.serving():
            receipt = await entity.deliver(call.request)
        event = await settled(entity.owner, receipt.offset, wait_seconds=call.wait_seconds)
        return Asked(receipt=receipt, settled=event)

    # -- waking -------------------------------------------------------------------------------

    async def _wake(self, address: Address, call: Call) -> Entity | Moved:
        """The entity, awake here, or where it is; one that falls asleep is awaited first."""
        await self._mend_log()
        self._own_log()
        life, entity = self._lives.get(address), self._entities.get(address)
        if life is not None and entity is not None and entity.leaving:
            await asyncio.wait([life])
        return await self._openings.open(address, call)

    async def _opens(self, address: Address) -> bool:
        """Whether the entity, on its way to be awake here for another caller, has come."""
        await self._openings.end_of(address)
        return self.entity(address) is not None

    async def _mend_log(self) -> None:
        """Begin this host's own log anew if the medium had refused it; raises what it says now."""
        if self._log is not None and self._log.broken and not self._stopping:
            with suppress(Fenced):
                await self._log.mend()

    def _own_log(self) -> HostLog:
        """This host's own log, while it takes entities in.

        Raises:
            RuntimeUnavailable: it leaves; or StoreUnavailable, StoreFull: its log is broken.
        """
        if self._log is not None and self._log.broken and self._log.cause and not self._stopping:
            raise copy(self._log.cause)
        if self._stopping or self._log is None or self._log.lost:
            message = f"host {self._equipment.host!r} is leaving; ask again"
            raise RuntimeUnavailable(message, host=self._equipment.host)
        return self._log

    def _begin(self, address: Address, owner: LogOwner, state: State) -> Entity:
        entity = Entity(address, owner, state=state, services=self._services)
        self._entities[address] = entity
        name = f"life:{address}"
        life = asyncio.get_running_loop().create_task(self._live(entity), name=name)
        self._lives[address] = life
        entity.wakeloop.advance()
        entity.outbox.advance()
        entity.timers.advance()
        return entity

    # -- sleeping -----------------------------------------------------------------------------

    async def _live(self, entity: Entity) -> None:
        """Wait until the entity is idle long enough, or lost; then let it go."""
        try:
            while not entity.leaving and not _is_full(entity):
                idle = self._idle_seconds(entity)
                quiet = self._equipment.clock.monotonic() - entity.last_active
                if quiet >= idle and self._is_idle(entity):
                    if not entity.owner.tidy:
                        await entity.owner.tidy_up()
                        continue  # much may have come meanwhile
                    if await entity.timers.agree():
                        if self._is_idle(entity):
                            break
                        continue
                wait = max(idle - quiet, min(idle, IDLE_LOOK_MAX), IDLE_LOOK_MIN)
                await _stirred(entity, wait)
            if entity.sealing:
                await entity.left.wait()
            else:
                await self._leave(entity)
                if entity.unfinished and entity.owner.full and not self._stopping:
                    self._resuming.later(entity.address)
        except RayAgentsError as error:
            LOGGER.warning("%s left without a clean end: %s", entity.name, error)
            if entity.unfinished and not self._stopping:
                self._resuming.later(entity.address)
        finally:
            self._entities.pop(entity.address, None)
            self._lives.pop(entity.address, None)
            self._equipment.departed()

    def _is_idle(self, entity: Entity) -> bool:
        return not entity.busy and entity.address not in self._calls

    def _idle_seconds(self, entity: Entity) -> float:
        try:
            seen = self._equipment.definitions.load_seen(entity.address.type)
            return seen.definition.idle_timeout.total_seconds()
        except RayAgentsError as error:  # a newest version that cannot be loaded keeps nobody awake
            LOGGER.warning("%s has no definition here: %s", entity.name, error)
            return IDLE_LOOK_MAX

    async def _leave(self, entity: Entity) -> None:
        if entity.owner.lost.is_set():
            LOGGER.warning("%s is lost: %s", entity.name, entity.owner.cause)
            await entity.drop()
            if entity.unfinished and not self._stopping:
                self._resuming.later(entity.address)
            return
        await entity.seal()
        if entity.owner.cause is None:
            self._sleepers.remember(entity)
        if self._log is not None and not entity.unfinished:
            self._log.asleep(entity.address)

    async def _sleep(self, entity: Entity) -> None:
        """Let an entity go now."""
        life = self._lives.get(entity.address)
        if not entity.sealing:
            await self._leave(entity)
            if life is not None:
                life.cancel()
        if life is not None:
            await asyncio.wait([life])

    async def stop(self, deadline: timedelta) -> None:
        """Seal everything, in good order, within ``deadline``; unfinished work stays recorded.

        Raises:
            RuntimeUnavailable: some entities could not be sealed and were given up, each with a
                line in the log; or the host's own log could not.
        """
        self._stopping = True
        self._resuming.cancel()
        loop, seconds = asyncio.get_running_loop(), deadline.total_seconds()
        end = loop.time() + seconds * SEAL_SHARE
        if self._openings:
            await asyncio.wait(self._openings.tasks, timeout=seconds * OPEN_SHARE)
        self._openings.cancel()
        left = timedelta(seconds=max(end - loop.time(), 0))
        failed = await seal_all(self.awake, self._sleep, within=left)
        if self._log is not None:
            try:
                async with asyncio.timeout(seconds * (1 - SEAL_SHARE)):
                    await self._log.seal()
            except TimeoutError:
                failed.append(f"the log of host {self._equipment.host!r}")
        if failed:
            raise RuntimeUnavailable(f"not sealed within {deadline}: {', '.join(failed)}")

    async def _deliver(self, effect: EffectStaged) -> None:
        """Carry an outbox row to its target; the row's key makes it happen once."""
        await self._equipment.peers.call(Address.parse(effect.target), call_of(effect))


def _is_full(entity: Entity) -> bool:
    """Whether its segment has become too large, for another wake or for the one that runs.

    An attempt that is cut short for that does not count, and what it had committed stands.
    """
    return entity.owner.overfull or (entity.owner.full and not entity.wakeloop.running)


async def _stirred(entity: Entity, seconds: float) -> None:
    """Return after ``seconds``, or as soon as the entity is lost or says that it may sleep."""
    entity.rested.clear()
    loop = asyncio.get_running_loop()
    either = [loop.create_task(event.wait()) for event in (entity.owner.lost, entity.rested)]
    try:
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in either:
            task.cancel()
