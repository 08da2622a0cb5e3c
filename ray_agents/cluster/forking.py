"""Forks: a new entity that begins with the rows of another, as of an offset.

The whole is file work (:mod:`ray_agents.log.forking`) and a decision about what is left undone
(:mod:`ray_agents.closing`), so it happens in whatever process is asked, wakes nobody, and costs as
much as a look at the source. The source may be awake and go on meanwhile: the fork has its rows up
to an acknowledged offset, and neither sees the other from there on.
"""

from __future__ import annotations

from ray_agents.address import Address
from ray_agents.closing import closing_drafts
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.portrait import Ownership, describe
from ray_agents.cluster.waking import load
from ray_agents.errors import EntityExists, EntityGone, InvalidAddress, UnknownEntity, UnknownOffset
from ray_agents.events import Draft, Event
from ray_agents.log.forking import Beginning, Inheritance, begin_log, first_events
from ray_agents.log.history import History
from ray_agents.log.owner import Claim, LogIO
from ray_agents.log.reader import LogReader, Past
from ray_agents.origin import Cause, EntityForked
from ray_agents.ports import Blobs, Clock
from ray_agents.projection import State, fold
from ray_agents.requests import ForkRequest
from ray_agents.runs import RUN_TYPES
from ray_agents.views import EntityView

FORKER = "fork"  # the owner that a fork's first segment names; no host is called so
FIRST_EPOCH = 1


class Forks:
    """Makes forks in one store."""

    def __init__(self, blobs: Blobs, *, io: LogIO, clock: Clock) -> None:
        self._blobs = blobs
        self._io = io
        self._clock = clock

    async def fork(self, source: Address, request: ForkRequest) -> EntityView:
        """Make the entity ``request.to`` of the rows of ``source``; durable when this returns.

        Raises:
            UnknownEntity: nobody lives at ``source``, or nobody did at that offset.
            EntityGone: it was killed before that offset.
            UnknownOffset: the offset lies beyond the end of the log.
            EntityExists: the new address is taken.
            InvalidAddress: it is of another type, whose handler could not read the state.
        """
        target = Address.parse(request.to)
        if target.type != source.type:
            message = f"{str(source)!r} cannot become {str(target)!r}: a fork keeps its type"
            raise InvalidAddress(message, address=str(target))
        key = request.fork_id or self._clock.fresh_id()
        return await self._io.run(self._fork, source, target, at=request.at, key=key)

    def _fork(self, source: Address, target: Address, *, at: int | None, key: str) -> EntityView:
        known = self._made_before(target, key)
        if known is not None:
            return known
        past = LogReader(self._blobs, entity_folder(source), self._io).past_now()
        offset = offset_within(source, past, at)
        history = past.history.before(offset)
        state = load(history)
        self._check_forkable(source, state, offset)
        now = self._clock.now()
        origin = EntityForked(
            key=key,
            cause=Cause.FORK,
            source=str(source),
            offset=offset,
            life=state.created.life if state.created else 0,
            parent=None,
            timestamp=now,
        )
        folder = entity_folder(target)
        inheritance = Inheritance(self._blobs, entity_folder(source), folder, io=self._io)
        files = inheritance.taken(offset, epoch=FIRST_EPOCH)
        beginning = Beginning(
            epoch=FIRST_EPOCH, files=files, offset=offset, time=max(now, past.last_time)
        )
        events = first_events(beginning, first_drafts(origin, state, history, now=now))
        claim = Claim(host=FORKER, token=self._clock.fresh_id())
        if not begin_log(self._blobs, folder, events=events, claim=claim):
            raise _exists(target)
        return _described(target, fold(events, state), events)

    def _made_before(self, target: Address, key: str) -> EntityView | None:
        """The fork of that key, if it is there.

        Raises:
            EntityExists: another entity is, or is about to be.
        """
        past = LogReader(self._blobs, entity_folder(target), self._io).past_now()
        if past.head is None:
            return None
        state = load(past.history, tip=past.tip)
        if state.origin is None or state.origin.key != key:
            raise _exists(target)
        ownership = Ownership(epoch=past.head.epoch, events=past.tip, last_event=past.last_time)
        return describe(target, state, ownership)

    def _check_forkable(self, source: Address, state: State, offset: int) -> None:
        if state.created is None:
            message = f"there is no entity at {str(source)!r} as of offset {offset}"
            raise UnknownEntity(message, address=str(source))
        if state.stopped is not None:
            message = (
                f"{str(source)!r} was killed; fork it with an earlier offset "
                "(of its row entity_stopped, or before)"
            )
            raise EntityGone(message, address=str(source))


def offset_within(address: Address, past: Past, at: int | None) -> int:
    """``at``, or the end of the log if it is None.

    Raises:
        UnknownEntity: there is no log.
        UnknownOffset: ``at`` lies beyond its end.
    """
    if past.head is None:
        message = f"there is no entity at {str(address)!r}; spawn it first"
        raise UnknownEntity(message, address=str(address))
    if at is not None and at > past.tip:
        message = f"offset {at} lies beyond the end of {str(address)!r}, which is {past.tip}"
        raise UnknownOffset(message, address=str(address), offset=at, tip=past.tip)
    return past.tip if at is None else at


def first_drafts(origin: EntityForked, state: State, history: History, *, now: int) -> list[Draft]:
    """What a log says first that begins with the rows of ``history``, which give ``state``."""
    return [origin.draft(), *closing_drafts(state, _open_runs(state, history), now=now)]


def _open_runs(state: State, history: History) -> list[Event]:
    """The newest rows, by key, of the agent runs of open wakes."""
    if not state.wakes:
        return []
    starts = tuple(f"{key}-run-" for key in state.wakes)
    first = min(wake.from_offset for wake in state.wakes.values())
    return history.latest(RUN_TYPES, start=first, skip=lambda _, key: not key.startswith(starts))


def _described(target: Address, state: State, events: list[Event]) -> EntityView:
    last = events[-1]
    ownership = Ownership(epoch=FIRST_EPOCH, events=last.offset + 1, last_event=last.time)
    return describe(target, state, ownership)


def _exists(target: Address) -> EntityExists:
    message = f"{str(target)!r} exists already; fork to another address"
    return EntityExists(message, address=str(target))
