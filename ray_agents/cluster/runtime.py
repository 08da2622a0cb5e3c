"""The verbs, answered by hosts and files: the runtime behind client, Serve and CLI.

What changes an entity goes to its owner, waking it. What only reads never wakes: a sleeper is read
from its files, and an observer at the end of a sleeper's log learns from the host logs that it
woke (one bounded look per host, never per entity).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Protocol, Self, TypeVar

from ray_agents.address import Address
from ray_agents.cluster.asof import view_as_of
from ray_agents.cluster.calls import (
    Activate,
    Answer,
    Ask,
    Asked,
    Asleep,
    Call,
    Decide,
    Deliver,
    Describe,
    Follow,
    Followed,
    Interrupt,
    Kill,
    Resolve,
    Spawn,
)
from ray_agents.cluster.carrying import Carrier
from ray_agents.cluster.catalog import Catalog
from ray_agents.cluster.definitions import Definitions
from ray_agents.cluster.feeds import Feeds
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.forking import Forks
from ray_agents.cluster.portrait import Ownership, describe
from ray_agents.cluster.wakewatch import WakeWatch
from ray_agents.cluster.waking import load
from ray_agents.definition import Registry
from ray_agents.errors import (
    AskTimedOut,
    HandlerFailed,
    InvalidPayload,
    RayAgentsError,
    RuntimeUnavailable,
    UnknownEntity,
    UnknownOffset,
)
from ray_agents.events import Event
from ray_agents.log.owner import LogIO, read_head
from ray_agents.log.reader import LogReader
from ray_agents.ports import Blobs, Clock
from ray_agents.replies import reply_of
from ray_agents.requests import (
    DecisionRequest,
    ForkRequest,
    ListQuery,
    SendRequest,
    SpawnRequest,
)
from ray_agents.views import (
    ApprovalView,
    EntityView,
    Interrupted,
    Page,
    Receipt,
    Reply,
    StateView,
    Status,
    TypeView,
)

FOLLOW_SECONDS = 15.0
LOOKS_MAX = 100
LOOK_DELAY = timedelta(milliseconds=100)
LOOK_WITHIN = timedelta(seconds=1)
LOOKS_AFTER_WAKE = 50
LOOK_AGAIN = timedelta(milliseconds=20)
WAIT_AT_OWNER = 0.5  # of an ask's time, for the answer with the acceptance; then it is known
T = TypeVar("T")


class Hosts(Protocol):
    """Brings calls to entities, wherever they are: a cluster's hosts, or that of this process."""

    async def call(self, address: Address, call: Call) -> Answer:
        """The owner's answer; ``Asleep`` if the call does not wake and nobody owns it."""
        ...

    async def close(self) -> None:
        """Let go of what this caller holds; hosts go on."""
        ...


class HostRuntime:
    """See ``ports.Runtime``."""

    def __init__(
        self,
        blobs: Blobs,
        *,
        hosts: Hosts,
        io: LogIO,
        clock: Clock,
        definitions: Definitions | None = None,
    ) -> None:
        self._blobs = blobs
        self._hosts = hosts
        self._io = io
        self._clock = clock
        self._definitions = definitions or Definitions(blobs)
        self._watch = WakeWatch(blobs, io=io, clock=clock)
        self._feeds = Feeds(self._tail)
        self._carrier = Carrier(blobs, io=io, clock=clock, describe=self.inspect)
        self._forks = Forks(blobs, io=io, clock=clock, describe=self.inspect)
        self._catalog = Catalog(blobs, io=io, describe=self.inspect)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._watch.close()
        await self._hosts.close()

    # -- types --------------------------------------------------------------------------------

    async def register(self, registry: Registry, *, source: str | None = None) -> list[TypeView]:
        """Make definitions known to all hosts.

        Raises:
            InvalidDefinition: one cannot be shipped.
        """
        return [
            await self._io.run(self._definitions.register, definition, source=source)
            for definition in registry
        ]

    async def types(self) -> list[TypeView]:
        """The newest version of every definition."""
        return await self._io.run(self._definitions.types)

    # -- writing ------------------------------------------------------------------------------

    async def spawn(self, address: Address, request: SpawnRequest) -> EntityView:
        """Create an entity; return once it is durable."""
        if request.spawn_id is None:
            request = request.model_copy(update={"spawn_id": self._clock.fresh_id()})
        answer = await self._hosts.call(address, Spawn(request=request))
        return _expect(answer, EntityView)

    async def send(self, address: Address, request: SendRequest) -> Receipt:
        """Put a message into an inbox; return once it is durable."""
        if request.id is None:
            request = request.model_copy(update={"id": self._clock.fresh_id()})
        answer = await self._hosts.call(address, Deliver(request=request))
        return _expect(answer, Receipt)

    async def fork(self, source: Address, request: ForkRequest) -> EntityView:
        """Make a new entity of the rows of another; return once it is durable."""
        return await self._forks.fork(source, request)

    async def import_(
        self, chunks: AsyncIterator[bytes], *, to: Address | None = None
    ) -> list[EntityView]:
        """Make the entities of an exported file; return once they are durable."""
        return await self._carrier.take_in(chunks, to=to)

    async def kill(
        self, address: Address, *, reason: str | None = None, life: int | None = None
    ) -> None:
        """End the entity's life: the one named, or that which goes on as this is asked."""
        if life is None:
            life = (await self.inspect(address)).life
        await self._hosts.call(address, Kill(reason=reason, life=life))

    async def interrupt(
        self,
        address: Address,
        *,
        wake: str | None = None,
        reason: str | None = None,
        signal_id: str | None = None,
    ) -> Interrupted:
        """Stop what runs; return once the log says so, after which it does not go on.

        A sleeper is not woken; one whose host has died is, as its wake would be resumed.
        """
        signal_id = signal_id or self._clock.fresh_id()
        call = Interrupt(signal_id=signal_id, wake=wake, reason=reason)
        for _ in range(LOOKS_MAX):
            answer = await self._hosts.call(address, call)
            if isinstance(answer, Interrupted):
                return answer
            view = await self.inspect(address)  # raises if nobody ever lived there
            if view.status in (Status.SLEEPING, Status.STOPPED):
                return Interrupted(address=str(address), interrupted=False)
            await self._hosts.call(address, Activate())
        message = f"{str(address)!r} changes hands too often to be interrupted; ask again"
        raise RuntimeUnavailable(message, address=str(address))

    async def retry(self, address: Address, *, wake: str | None = None) -> int:
        """Run parked wakes again; how many."""
        return _expect(await self._hosts.call(address, Resolve(verb="retry", wake=wake)), int)

    async def skip(self, address: Address, *, wake: str | None = None) -> int:
        """Give parked wakes up; how many."""
        return _expect(await self._hosts.call(address, Resolve(verb="skip", wake=wake)), int)

    async def decide(
        self, address: Address, approval: str, request: DecisionRequest
    ) -> ApprovalView:
        """Approve or deny a tool call that waits for it; return once it is durable."""
        call = Decide(approval=approval, request=request)
        return _expect(await self._hosts.call(address, call), ApprovalView)

    # -- reading ------------------------------------------------------------------------------

    async def ask(self, address: Address, request: SendRequest, *, within: timedelta) -> Reply:
        """Send, and return the reply to that message.

        Raises:
            InvalidPayload: the message is a delayed one.
            AskTimedOut: no reply in time; the message stays in the inbox.
            HandlerFailed: the wake that took it was parked or skipped.
            EntityGone: the entity was killed before it answered.
        """
        if request.after_seconds:
            message = "'after_seconds': who asks waits for the reply; send with a delay instead"
            raise InvalidPayload(message, field="after_seconds")
        if request.id is None:
            request = request.model_copy(update={"id": self._clock.fresh_id()})
        seconds = within.total_seconds()
        call = Ask(request=request, wait_seconds=min(FOLLOW_SECONDS, seconds * WAIT_AT_OWNER))
        receipt: Receipt | None = None
        try:
            async with asyncio.timeout(seconds):
                asked = _expect(await self._hosts.call(address, call), Asked)
                receipt = asked.receipt
                reply = asked.settled and reply_of(receipt, asked.settled)
                return reply or await self._reply(address, receipt)
        except TimeoutError as error:
            state = (
                "is in its inbox"
                if receipt
                else "may be in its inbox; the same id again is harmless"
            )
            message = (
                f"no reply from {str(address)!r} within {within}; message {request.id!r} {state}"
            )
            message += await self._awaited(address) if receipt else ""
            raise AskTimedOut(message, address=str(address), id=request.id) from error

    async def _awaited(self, address: Address) -> str:
        """What to add of an entity that has not answered as people are to decide first."""
        try:
            async with asyncio.timeout(LOOK_WITHIN.total_seconds()):
                waiting = (await self.inspect(address)).approvals
        except (TimeoutError, RayAgentsError):  # who asked is told of the silence all the same
            return ""
        if not waiting:
            return ""
        calls = ", ".join(f"{each.tool} ({each.id})" for each in waiting)
        verbs = f"ray-agents approve {address}, or deny {address}"
        return f"; {str(address)!r} waits for approval of {calls}: {verbs}"

    async def _reply(self, address: Address, receipt: Receipt) -> Reply:
        """Wait for it in the log, wherever the entity is."""
        reader = LogReader(self._blobs, entity_folder(address), self._io)
        async with aclosing(self._follow(address, reader, receipt.offset)) as events:
            async for event in events:
                reply = reply_of(receipt, event)
                if reply is not None:
                    return reply
        message = f"{str(address)!r} ended before it answered message {receipt.id!r}"
        raise HandlerFailed(message, address=str(address))

    async def observe(
        self, address: Address, *, offset: int = 0, live: bool = True
    ) -> AsyncGenerator[Event, None]:
        """The events from ``offset`` on, ``-1`` meaning from now; never wakes the entity.

        Raises:
            UnknownEntity: nobody ever lived there.
            UnknownOffset: the offset lies beyond the end of the log.
        """
        reader = LogReader(self._blobs, entity_folder(address), self._io)
        start = await self._start(address, reader, offset)
        async with aclosing(self._follow(address, reader, start, live=live)) as events:
            async for event in events:
                yield event

    async def _follow(
        self, address: Address, reader: LogReader, position: int, *, live: bool = True
    ) -> AsyncGenerator[Event, None]:
        """The events from ``position`` on, which lies in the log.

        Up to the end each observer reads by itself; from there on all of this process share one
        follower. Who falls too far behind it reads by itself again.
        """
        while True:
            found = await self._read(address, reader, position)
            for event in found.events:
                yield event
                position = event.offset + 1
            if found.events:
                continue
            position = begun = max(position, found.tip)  # there may be a gap
            if not live:
                return
            async with aclosing(self._feeds.events(address, position)) as events:
                async for event in events:
                    yield event
                    position = event.offset + 1
            if position == begun:  # the feed began with what we have yet to find
                await self._clock.sleep(LOOK_AGAIN)

    async def _read(self, address: Address, reader: LogReader, position: int) -> Followed:
        """What stands in the log from ``position`` on: nothing at its end."""
        answer = await self._hosts.call(address, Follow(offset=position, wait_seconds=0))
        if isinstance(answer, Followed):
            return answer
        found = await reader.read(position)
        return Followed(events=tuple(found.events), tip=found.tip)

    async def _tail(self, address: Address, position: int) -> AsyncGenerator[Followed, None]:
        """What comes to a log behind ``position``, for ever, answer by answer."""
        reader = LogReader(self._blobs, entity_folder(address), self._io)
        looks_left = 0
        while True:
            seen = self._watch.mark()
            answer = await self._hosts.call(
                address, Follow(offset=position, wait_seconds=FOLLOW_SECONDS)
            )
            asleep = isinstance(answer, Asleep)
            found = answer if isinstance(answer, Followed) else await reader.read(position)
            if found.events:
                position, looks_left = found.events[-1].offset + 1, 0
                yield Followed(events=tuple(found.events), tip=position)
                continue
            position = max(position, found.tip)  # there are gaps: where a segment was sealed
            if asleep and looks_left:  # a host says that it wakes before it has the log
                looks_left -= 1
                await self._clock.sleep(LOOK_AGAIN)
            elif asleep:
                await self._watch.woken(address, since=seen)
                looks_left = LOOKS_AFTER_WAKE

    async def _start(self, address: Address, reader: LogReader, offset: int) -> int:
        answer = await self._hosts.call(address, Follow(offset=0, wait_seconds=0, limit=0))
        if isinstance(answer, Followed):
            tip = answer.tip
        else:
            reading = await reader.read(0, limit=1)
            if reading.head is None:
                message = f"there is no entity at {str(address)!r}; spawn it first"
                raise UnknownEntity(message, address=str(address))
            tip = reading.tip
        if offset <= 0 and offset != -1:
            return 0
        if offset > tip:
            message = f"offset {offset} lies beyond the end of {str(address)!r}, which is {tip}"
            raise UnknownOffset(message, address=str(address), offset=offset, tip=tip)
        return tip if offset == -1 else offset

    async def inspect(self, address: Address) -> EntityView:
        """One entity as it is now; never wakes it.

        Raises:
            UnknownEntity: nobody ever lived there.
        """
        for _ in range(LOOKS_MAX):
            answer = await self._hosts.call(address, Describe())
            if isinstance(answer, EntityView):
                return answer
            try:
                return await self._describe_asleep(address)
            except UnknownEntity:
                # A log whose owner died may be read by nobody until the next owner has begun.
                head = await read_head(self._blobs, entity_folder(address), io=self._io)
                if head is None or head.sealed:
                    raise
                await self._clock.sleep(LOOK_DELAY)
        message = f"nobody has taken {str(address)!r} over from its last host yet; ask again"
        raise RuntimeUnavailable(message, address=str(address))

    async def _describe_asleep(self, address: Address) -> EntityView:
        past = await LogReader(self._blobs, entity_folder(address), self._io).summary()
        ownership = Ownership(
            epoch=past.head.epoch if past.head else 0,
            events=past.tip,
            first=past.first,
            last_event=past.last_time,
            durability=await self._io.run(self._definitions.durability, address.type),
            budget=await self._io.run(self._definitions.budget, address.type),
        )
        state = await self._io.run(load, past.history, tip=past.tip)
        return describe(address, state, ownership)

    async def export(
        self, address: Address, *, children: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a file with the entity, and all that descend from it; wakes nobody.

        Raises:
            UnknownEntity: nobody ever lived there.
        """
        addresses = await self._catalog.with_descendants(address) if children else [address]
        async with aclosing(self._carrier.export(addresses)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def state(self, address: Address, *, at: int | None = None) -> StateView:
        """One entity as of an offset, as the rows below it tell; never wakes it."""
        return await view_as_of(self._blobs, address, at=at, io=self._io, clock=self._clock)

    async def list(self, query: ListQuery) -> Page:
        """Some entities, by address; status is computed as they are read."""
        return await self._catalog.page(query)


def _expect(answer: Answer, kind: type[T]) -> T:
    if not isinstance(answer, kind):
        raise RuntimeUnavailable(f"a host answered {answer!r} where {kind.__name__} was expected")
    return answer
