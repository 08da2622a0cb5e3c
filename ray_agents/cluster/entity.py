"""An awake entity: its log owned, its state folded, its requests answered.

Everything happens on one event loop, so what stands between two awaits is atomic. The order of a
message: append ``inbox`` and, if nothing runs, ``wake started`` beside it; sync; check the fence;
acknowledge; then the handler runs (``wakeloop.py``). Only :meth:`Entity.enqueue` writes, and it
applies what it writes to the state at once, so that state and log never part.

A delayed message is a schedule in this log until it is due (``timers.py``). Its offset is that of
the schedule, then and later, and its id is taken from its acceptance on.

An entity that finds its log taken (``owner.lost``) stops where it is; its host forgets it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import NamedTuple

from ray_agents import schedule, wakes
from ray_agents.address import Address
from ray_agents.cluster.awake import Services
from ray_agents.cluster.deciding import approval_named, given_up, left_to_people
from ray_agents.cluster.interrupting import marks
from ray_agents.cluster.outbox import Outbox
from ray_agents.cluster.portrait import portrait
from ray_agents.cluster.session import check_args, check_message
from ray_agents.cluster.timers import Timers
from ray_agents.cluster.wakeloop import WakeLoop
from ray_agents.cluster.waking import digest_of_message
from ray_agents.definition import Definition, Limits
from ray_agents.errors import (
    BacklogFull,
    EntityExists,
    EntityGone,
    Fenced,
    InvalidDefinition,
    MessageConflict,
    PayloadTooLarge,
    UnknownEntity,
)
from ray_agents.events import (
    JSON,
    Draft,
    EntityCreated,
    EntityStopped,
    MessageReceived,
    SendScheduled,
    WakeRecorded,
    encode,
)
from ray_agents.log.owner import Appending, LogOwner
from ray_agents.projection import State
from ray_agents.requests import DecisionRequest, SendRequest, SpawnRequest
from ray_agents.turns import Caller
from ray_agents.views import ApprovalView, EntityView, Receipt

__all__ = ["Entity", "Services"]


class Arriving(NamedTuple):
    """A message whose row is being written, and the offset at which it was accepted."""

    message: MessageReceived
    row: int
    accepted: int


class Entity:
    """One awake entity on this host; :class:`ray_agents.cluster.host.Host` makes and drops it."""

    def __init__(
        self, address: Address, owner: LogOwner, *, state: State, services: Services
    ) -> None:
        self.address = address
        self.owner = owner
        self.state = state
        self.services = services
        self.sealing = False
        self.left = asyncio.Event()
        self.rested = asyncio.Event()
        self.waiting_for: str | None = None
        self.caller = Caller(str(address))
        self.last_active = services.clock.monotonic()
        self.wakeloop = WakeLoop(self)
        self._requests = 0
        self._written = -1
        self._arriving: dict[str, Arriving] = {}
        self.outbox = Outbox(self, deferred=self._deferred)
        self.timers = Timers(
            self, arrives=self._arrives, fired=self.wakeloop.advance, outbox=self.outbox
        )

    @property
    def name(self) -> str:
        """The address as text."""
        return str(self.address)

    @property
    def definition(self) -> Definition:
        """The newest definition of this entity's type."""
        return self.services.definitions.load(self.address.type).definition

    @property
    def leaving(self) -> bool:
        """Whether it is being sealed here, or its log is another owner's."""
        return self.sealing or self.owner.lost.is_set()

    @property
    def handling(self) -> bool:
        """Whether a handler runs right now."""
        return self.wakeloop.handling

    def limits_of(self, wake: WakeRecorded) -> Limits:
        """The limits of the version that handles a wake; the default ones if it cannot be loaded.

        (Then the attempt itself fails with what is wrong, and parks the wake.)
        """
        definitions = self.services.definitions
        try:
            return definitions.load(self.address.type, wake.definition_version).definition.limits
        except InvalidDefinition:
            return Limits()

    @property
    def busy(self) -> bool:
        """Whether anything is in flight or left to do here."""
        return bool(
            self._requests
            or self.waiting_for
            or wakes.ready(self.state)
            or self.wakeloop.running
            or self.outbox.running
            or self.timers.imminent
            or self.owner.durable_tip <= self._written
        )

    @property
    def unfinished(self) -> bool:
        """Whether a later owner would have something to do, or would have to be told when."""
        if self.owner.durable_tip <= self._written:  # the state is ahead of the log, for good
            return True
        state = self.state
        return state.unfinished or (state.alive and not self.timers.agreed)

    # -- writing ------------------------------------------------------------------------------

    def enqueue(self, drafts: Sequence[Draft]) -> Appending:
        """Queue rows and apply them to the state.

        Raises:
            Fenced: this host no longer owns the log, or is about to seal it.
        """
        if self.leaving:
            raise Fenced(f"{self.name} is leaving host {self.services.host!r}")
        self.last_active = self.services.clock.monotonic()
        return self.write(drafts)

    def write(self, drafts: Sequence[Draft]) -> Appending:
        """As :meth:`enqueue`, also while sealing, and no sign of life: for what ends by itself."""
        appending = self.owner.enqueue(drafts)
        for event in appending.events:
            self.state.apply(event)
        self._written = appending.events[-1].offset
        if self.owner.overfull:
            self.rest()
        return appending

    def outbox_grew(self) -> None:
        """Effects have become durable: what leaves through the outbox may leave."""
        self.outbox.advance()
        if self.state.approvals:
            self.timers.advance()

    def rest(self) -> None:
        """Be idle from now on, as if for long; anything that comes is a reason to stay."""
        self.last_active = -math.inf
        self.rested.set()

    def _deferred(self) -> None:
        """Something in the outbox waits for its next try."""
        self.timers.advance()

    @contextmanager
    def serving(self) -> Generator[None]:
        """While inside, the entity is busy with a request."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            self.last_active = self.services.clock.monotonic()

    # -- requests -----------------------------------------------------------------------------

    async def spawn(self, request: SpawnRequest) -> None:
        """Begin a life here, unless this very spawn already did.

        Raises:
            EntityExists: another spawn made it.
            InvalidPayload, PayloadTooLarge: arguments or first message do not fit.
        """
        spawn_id = request.spawn_id or self.services.clock.fresh_id()
        created = self.state.created
        if self.state.alive and created is not None:
            if created.spawn_id != spawn_id:
                message = f"{self.name!r} exists already; send to it, or choose another id"
                raise EntityExists(message, address=self.name)
            await self._acknowledged(self.state.life_offset)
            return
        check_args(self.definition, request)
        self._check_size("arguments", request.args, self.definition.limits)
        event = EntityCreated(
            entity_type=self.address.type,
            args=request.args,
            tags=request.tags,
            parent=request.parent,
            life=created.life + 1 if created else 0,
            spawn_id=spawn_id,
            timestamp=self.services.clock.now(),
            budget=request.share and request.share.as_row(),
        )
        first = self._first_message(request, spawn_id)
        drafts = [event.draft(), *(message.draft() for message in first)]
        appending = self.enqueue(drafts)
        for message in first:
            self._arrives(message, appending.events[1].offset)
        self.wakeloop.advance()
        await appending.durable()

    def _first_message(self, request: SpawnRequest, spawn_id: str) -> list[MessageReceived]:
        if request.message is None:
            return []
        self._check_size("message", request.message.payload, self.definition.limits)
        return [self._message(request.message, request.message.id or f"{spawn_id}-initial")]

    async def deliver(self, request: SendRequest) -> Receipt:
        """Put a message into the inbox; acknowledged when durable.

        Raises:
            UnknownEntity, EntityGone: nobody lives here.
            InvalidPayload, PayloadTooLarge, BacklogFull, MessageConflict: it is refused.
        """
        self.check_alive()
        message_id = request.id or self.services.clock.fresh_id()
        await self.owner.ready_to_find(MessageReceived.TYPE, message_id)
        self.check_alive()  # what went on meanwhile
        message = self._message(request, message_id)
        earlier = self._find(message_id)
        if earlier is not None:
            return await self._duplicate(message, *earlier)
        self._check_fits(message)
        if request.after_seconds:
            return await self._schedule(message, request.after_seconds)
        appending = self.enqueue([message.draft(), *marks(self, message)])
        offset = appending.events[0].offset
        self._arrives(message, offset)
        self.wakeloop.advance()
        await appending.durable()
        return self._receipt(message_id, offset, duplicate=False)

    async def _schedule(self, message: MessageReceived, after_seconds: float) -> Receipt:
        """Keep a message until it is due; acknowledged when that is durable."""
        state, limits = self.state, self.definition.limits
        if len(state.timers) >= limits.schedules_max:
            text = (
                f"{self.name!r} has {len(state.timers)} delayed messages pending, as many as it "
                "may (Limits.schedules_max); send again later"
            )
            raise BacklogFull(text, address=self.name)
        send = SendScheduled(
            key=message.key,
            fire_at=schedule.fire_at(message.timestamp, after_seconds=after_seconds),
            payload=message.payload,
            message_type=message.message_type,
            sender=message.sender,
            target=self.name,
            life=state.created.life if state.created else 0,
            timestamp=message.timestamp,
            mode=message.mode,
        )
        appending = self.enqueue([send.draft()])
        self.timers.added(send)
        await appending.durable()
        return self._receipt(send.key, appending.events[0].offset, duplicate=False)

    async def _acknowledged(self, offset: int) -> None:
        """Return when the row at ``offset``, written for somebody else, is durable.

        Raises:
            Fenced: it may never be; the next owner knows.
        """
        await self.owner.wait_beyond(offset)
        if self.owner.durable_tip <= offset:
            raise Fenced(f"{self.name} is leaving host {self.services.host!r}")

    def _message(self, request: SendRequest, message_id: str) -> MessageReceived:
        return MessageReceived(
            key=message_id,
            payload=request.payload,
            message_type=request.type,
            sender=request.from_,
            timestamp=self.services.clock.now(),
            mode=request.mode,
        )

    def _arrives(
        self, message: MessageReceived, offset: int, *, accepted: int | None = None
    ) -> None:
        """Know a message before its row is durable, whatever becomes of who sent it.

        ``accepted`` is the offset its sender was told, if that is not the row's own.
        """
        while self._arriving:
            oldest = next(iter(self._arriving))
            if self._arriving[oldest].row >= self.owner.durable_tip:
                break
            del self._arriving[oldest]  # the history has it
        first = offset if accepted is None else accepted
        self._arriving[message.key] = Arriving(message, offset, first)

    def _find(self, message_id: str) -> tuple[str, int] | None:
        """The digest of that id's message in this life, durable or on its way, and its offset."""
        arriving = self._arriving.get(message_id)
        if arriving is not None and arriving.row >= self.state.ids_offset:
            return arriving.message.digest, arriving.accepted
        timer = self.state.timers.get(message_id)
        if timer is not None:
            return timer.send.message(now=timer.send.timestamp).digest, timer.offset
        event = self.owner.history.find(MessageReceived.TYPE, message_id)
        if event is None or event.offset < self.state.ids_offset:
            return None
        scheduled = event.headers.get(SendScheduled.OFFSET_HEADER)
        return digest_of_message(event), int(scheduled) if scheduled else event.offset

    async def _duplicate(self, message: MessageReceived, digest: str, offset: int) -> Receipt:
        if digest != message.digest:
            text = (
                f"message id {message.key!r} was used before, at offset {offset} of {self.name}, "
                "with another payload; use a fresh id for a new message"
            )
            raise MessageConflict(text, address=self.name, id=message.key, offset=offset)
        await self._acknowledged(offset)
        return self._receipt(message.key, offset, duplicate=True)

    def _receipt(self, message_id: str, offset: int, *, duplicate: bool) -> Receipt:
        timer = self.state.timers.get(message_id)
        return Receipt(
            address=self.name,
            id=message_id,
            offset=offset,
            fire_at=timer.send.fire_at if timer else None,
            duplicate=duplicate,
            durability=self.owner.durability,
        )

    def check_alive(self) -> None:
        """Raise UnknownEntity or EntityGone if nobody lives here."""
        if self.state.stopped is not None:
            message = f"{self.name!r} was killed; its log stays readable, spawn it to begin anew"
            raise EntityGone(message, address=self.name)
        if self.state.created is None:
            message = f"there is no entity at {self.name!r}; spawn it first"
            raise UnknownEntity(message, address=self.name)

    def _check_fits(self, message: MessageReceived) -> None:
        definition = self.definition
        limits = definition.limits
        check_message(definition, message.message_type, message.payload)
        self._check_size("message", message.payload, limits)
        if len(self.state.pending) >= limits.backlog_max:
            text = (
                f"{self.name!r} has {len(self.state.pending)} unhandled messages, as many as it "
                "may (Limits.backlog_max); send again later"
            )
            raise BacklogFull(text, address=self.name)

    def _check_size(self, what: str, value: JSON, limits: Limits) -> None:
        size = len(encode(value, what).encode())
        bytes_max = limits.message_bytes_max
        if size > bytes_max:
            text = (
                f"the {what} for {self.name!r}: {size} bytes; "
                f"at most {bytes_max} are allowed (Limits.message_bytes_max)"
            )
            raise PayloadTooLarge(text, address=self.name, bytes=size)

    async def kill(self, reason: str | None, *, life: int | None = None) -> None:
        """End this life, if it is the one meant, and cancel its handler; twice is harmless.

        Raises:
            UnknownEntity: nobody ever lived here, or nobody that life.
        """
        created = self.state.created
        if created is None:
            self.check_alive()
            return
        meant = created.life if life is None else life
        if meant > created.life:
            message = f"life {meant} of {self.name!r} has not begun; it is in life {created.life}"
            raise UnknownEntity(message, address=self.name)
        if self.state.stopped is not None or meant < created.life:
            await self._acknowledged(self._written)
            return
        stopped = EntityStopped(
            reason=reason,
            life=created.life,
            timestamp=self.services.clock.now(),
        )
        appending = self.enqueue([stopped.draft()])
        self.wakeloop.cancel()
        self.timers.cancel()
        await appending.durable()

    async def resolve(self, verb: str, wake_key: str | None) -> int:
        """``retry`` or ``skip`` one parked wake, or all of them; how many.

        A wake that waits for approval is skipped if it is named.

        Raises:
            NothingParked: there is no such wake.
        """
        self.check_alive()
        chosen = left_to_people(self, verb, wake_key)
        now = self.services.clock.now()
        if verb == "retry":
            version = self.services.definitions.newest_version(self.address.type)
            drafts = [wakes.retried(wake, now=now, version=version).draft() for wake in chosen]
        else:
            before = None
            while chosen != before:  # what it ends with is read from the log, so it must be there
                before = chosen
                await self.owner.ready(min(wake.from_offset for wake in chosen))
                await self._acknowledged(self._written)  # the last rows of their runs among it
                chosen = left_to_people(self, verb, wake_key)  # what went on meanwhile
            drafts = given_up(chosen, self.state, self.owner.history, now=now)
        appending = self.enqueue(drafts)
        self.wakeloop.advance()
        await appending.durable()
        return len(chosen)

    async def decide(self, approval: str, request: DecisionRequest) -> ApprovalView:
        """Approve or deny a tool call; if no other waits, the wake goes on. The same again is fine.

        Raises:
            UnknownApproval, AmbiguousApproval: no such call waits, or ever did in this life, or
                several by that id do.
            ApprovalDecided: it was decided otherwise.
        """
        self.check_alive()
        known = self.state.approvals.get(approval)
        if known is None:
            await self.owner.ready(self.state.life_offset)
            self.check_alive()  # what went on meanwhile
            known = approval_named(approval, entity=self)
        now = self.services.clock.now()
        decided = known.decided(request.status, now=now, by=request.by, reason=request.reason)
        if decided is known:
            await self._acknowledged(self._written)
        else:
            appending = self.enqueue([decided.draft()])
            self.wakeloop.advance()
            await appending.durable()
        return decided.view()

    def view(self) -> EntityView:
        """This entity as doors show it.

        Raises:
            UnknownEntity: nobody ever lived here.
        """
        return portrait(self)

    # -- leaving ------------------------------------------------------------------------------

    async def seal(self) -> None:
        """Stop what runs, record the interruption, end the segment."""
        await self._leave(self.owner.seal)

    async def drop(self) -> None:
        """Stop what runs and leave the log as it is: it is another owner's now."""
        await self._leave(self.owner.abandon)

    async def _leave(self, end: Callable[[], Awaitable[None]]) -> None:
        """Stop the parts, each whatever becomes of the others, then ``end`` the ownership."""
        self.sealing = True
        try:
            async with AsyncExitStack() as parts:
                parts.push_async_callback(end)
                parts.push_async_callback(self.timers.stop)
                parts.push_async_callback(self.outbox.stop)
                parts.push_async_callback(self.wakeloop.stop)
        finally:
            self.left.set()
