"""Forks: a new entity that begins with the rows of another, as of an offset.

The whole is file work (:mod:`ray_agents.log.forking`) and a decision about what is left undone
(:mod:`ray_agents.closing`), so it happens in whatever process is asked, wakes nobody, and costs as
much as a look at the source. The source may be awake and go on meanwhile: the fork has its rows up
to an acknowledged offset, and neither sees the other from there on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from ray_agents.address import Address
from ray_agents.closing import closing_drafts
from ray_agents.cluster.asof import past_as_of, state_as_of
from ray_agents.cluster.deciding import runs_of
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.waking import load
from ray_agents.errors import (
    EntityExists,
    EntityGone,
    InvalidAddress,
    OffsetGone,
    RuntimeUnavailable,
)
from ray_agents.events import Draft, EntityStopped
from ray_agents.log.forking import Beginning, Inheritance, begin_log, first_events
from ray_agents.log.history import History
from ray_agents.log.owner import Claim, LogIO
from ray_agents.log.reader import LogReader, Past
from ray_agents.origin import Cause, EntityForked
from ray_agents.ports import Blobs, Clock
from ray_agents.projection import State
from ray_agents.requests import ForkRequest
from ray_agents.views import EntityView

FORKER = "fork"  # the owner that a fork's first segment names; no host is called so
FIRST_EPOCH = 1
LOOKS_MAX = 5
Describe = Callable[[Address], Awaitable[EntityView]]


class Fork(NamedTuple):
    """Who becomes whom, as of which offset, and the key that makes it be made once."""

    source: Address
    target: Address
    offset: int
    key: str

    def origin(self, state: State, now: int) -> EntityForked:
        """What the fork's log says of it; ``state`` is the source's as of the offset."""
        return EntityForked(
            key=self.key,
            cause=Cause.FORK,
            source=str(self.source),
            offset=self.offset,
            life=state.created.life if state.created else 0,
            parent=None,
            created=now,
            woken=state.woken or bool(state.wakes),
            timestamp=now,
        )


class Forks:
    """Makes forks in one store; ``describe`` tells how an entity looks from outside."""

    def __init__(self, blobs: Blobs, *, io: LogIO, clock: Clock, describe: Describe) -> None:
        self._blobs = blobs
        self._io = io
        self._clock = clock
        self._describe = describe

    async def fork(self, source: Address, request: ForkRequest) -> EntityView:
        """Make the entity ``request.to`` of the rows of ``source``; durable when this returns.

        Raises:
            UnknownEntity: nobody lives at ``source``, or nobody did at that offset.
            EntityGone: it was killed before that offset.
            UnknownOffset, OffsetGone: the log does not reach so far, or so far back.
            EntityExists: the new address is taken.
            InvalidAddress: it is of another type, whose handler could not read the state.
        """
        target = Address.parse(request.to)
        if target.type != source.type:
            message = f"{str(source)!r} cannot become {str(target)!r}: a fork keeps its type"
            raise InvalidAddress(message, address=str(target))
        key = request.fork_id or self._clock.fresh_id()
        if await made_before(self._blobs, target, key, io=self._io) is not None:
            return await self._describe(target)
        for _ in range(LOOKS_MAX):
            try:
                return await self._forked(source, target, at=request.at, key=key)
            except OffsetGone:
                if request.at is not None:
                    raise  # else what is now let go has a newer end: that is forked
        message = f"{str(source)!r} lets rows go faster than it can be forked; try again"
        raise RuntimeUnavailable(message, address=str(source))

    async def _forked(
        self, source: Address, target: Address, *, at: int | None, key: str
    ) -> EntityView:
        reader = LogReader(self._blobs, entity_folder(source), self._io)
        past, offset = await past_as_of(reader, source, at=at, clock=self._clock)
        await self._io.run(self._fork, Fork(source, target, offset, key), reader, past)
        return await self._describe(target)

    def _fork(self, fork: Fork, reader: LogReader, past: Past) -> None:
        offset, folder = fork.offset, entity_folder(fork.target)
        history = past.history.before(offset)
        state = state_as_of(fork.source, history, offset)
        if state.stopped is not None:
            killed = history.last(EntityStopped.TYPE)
            then = killed.offset if killed else offset
            message = (
                f"{str(fork.source)!r} was killed before offset {offset}; fork it as of {then}, "
                "when it still lived"
            )
            raise EntityGone(message, address=str(fork.source))
        if any(wake.from_offset < past.since for wake in state.wakes.values()):
            history = reader.everything().history.before(offset)  # its runs are not in the summary
        now, place = self._clock.now(), entity_folder(fork.source)
        beginning = Beginning(epoch=FIRST_EPOCH, offset=offset, time=max(now, history.last_time))
        inheritance = Inheritance(reader, self._blobs, source=place, folder=folder)
        beginning = inheritance.taken(beginning)
        events = first_events(beginning, first_drafts(fork.origin(state, now), state, history))
        claim = Claim(host=FORKER, token=fork.key)
        if not begin_log(self._blobs, folder, events=events, claim=claim):
            raise taken(fork.target)


async def made_before(blobs: Blobs, target: Address, key: str, *, io: LogIO) -> int | None:
    """The newest epoch of the fork, or import, of that key; None if the address is free.

    Raises:
        EntityExists: another entity is there, or is about to be.
    """
    past = await LogReader(blobs, entity_folder(target), io).summary()
    if past.head is None:
        return None
    state = await io.run(load, past.history, tip=past.tip)
    if state.origin is None or state.origin.key != key:
        raise taken(target)
    return past.head.epoch


def first_drafts(origin: EntityForked, state: State, history: History) -> list[Draft]:
    """What a log says first that begins with the rows of ``history``, which give ``state``."""
    runs = runs_of(list(state.wakes.values()), history)
    return [origin.draft(), *closing_drafts(state, runs, now=origin.timestamp)]


def taken(target: Address) -> EntityExists:
    """The error for an address at which there is a log."""
    message = f"{str(target)!r} exists already, or did; choose another address"
    return EntityExists(message, address=str(target))
