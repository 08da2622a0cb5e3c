"""Time travel: an entity as the rows below an offset tell of it. It reads, and wakes nobody.

A log is read by the readers' rule. While a new owner adopts it after a crash, rows that were
acknowledged may not be readable yet; so whoever wants "all there is" waits for the end of that.
"""

from __future__ import annotations

from datetime import timedelta

from ray_agents.address import Address
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.portrait import backlog_of, origin_of, parked_in
from ray_agents.cluster.waking import load
from ray_agents.errors import OffsetGone, RuntimeUnavailable, UnknownEntity, UnknownOffset
from ray_agents.events import decode
from ray_agents.log.history import History
from ray_agents.log.owner import LogIO
from ray_agents.log.reader import LogReader, Past
from ray_agents.ports import Blobs, Clock
from ray_agents.projection import CONTEXT_TYPE, USER_TYPE_PREFIX, State
from ray_agents.views import StateView

LOOKS_MAX = 100
LOOK_DELAY = timedelta(milliseconds=100)


async def settled(
    reader: LogReader, address: Address, *, clock: Clock, whole: bool = False
) -> Past:
    """All that was acknowledged in an entity's log by now, or what tells its state.

    Raises:
        UnknownEntity: there is no log.
        RuntimeUnavailable: it has been claimed, and its owner does not begin.
    """
    for _ in range(LOOKS_MAX):
        past = await (reader.past() if whole else reader.summary())
        if past.head is None:
            message = f"there is no entity at {str(address)!r}; spawn it first"
            raise UnknownEntity(message, address=str(address))
        if not past.held:
            return past
        await clock.sleep(LOOK_DELAY)
    message = f"nobody has taken {str(address)!r} over from its last host yet; ask again"
    raise RuntimeUnavailable(message, address=str(address))


def offset_within(address: Address, past: Past, at: int | None) -> int:
    """``at``, or the end of the log if it is None.

    Raises:
        UnknownOffset: ``at`` lies beyond that.
    """
    if at is not None and at > past.tip:
        message = f"offset {at} lies beyond the end of {str(address)!r}, which is {past.tip}"
        raise UnknownOffset(message, address=str(address), offset=at, tip=past.tip)
    return past.tip if at is None else at


async def past_as_of(
    reader: LogReader, address: Address, *, at: int | None, clock: Clock
) -> tuple[Past, int]:
    """What tells the state as of ``at``, or of now if it is None, and that offset.

    Raises:
        UnknownEntity, RuntimeUnavailable: as :func:`settled`.
        UnknownOffset: the log does not reach so far.
        OffsetGone: what led to the state as of then was let go.
    """
    past = await settled(reader, address, clock=clock)
    offset = offset_within(address, past, at)
    if past.first and offset < past.since:
        message = (
            f"the state of {str(address)!r} as of offset {offset} is not kept: its type's "
            f"retention let go what led to it; the first state that is kept is as of {past.since}"
        )
        raise OffsetGone(message, offset=offset, first=past.since)
    if offset < past.since:
        past = await settled(reader, address, clock=clock, whole=True)
    return past, offset


def state_as_of(address: Address, history: History, offset: int) -> State:
    """The state after the rows of ``history``, which are those with an offset below ``offset``.

    Raises:
        UnknownEntity: nobody lived there yet.
    """
    state = load(history)
    if state.created is None:
        message = f"nobody lived at {str(address)!r} before offset {offset}; ask for a later one"
        raise UnknownEntity(message, address=str(address), offset=offset)
    return state


async def view_as_of(
    blobs: Blobs, address: Address, *, at: int | None, io: LogIO, clock: Clock
) -> StateView:
    """What doors show of an entity as of the offset ``at``, or now.

    Raises:
        UnknownEntity: nobody lived there then.
        UnknownOffset: the log does not reach so far.
        RuntimeUnavailable: it has been claimed, and its owner does not begin.
    """
    reader = LogReader(blobs, entity_folder(address), io)
    past, offset = await past_as_of(reader, address, at=at, clock=clock)
    return await io.run(_view, address, past, offset)


def _view(address: Address, past: Past, offset: int) -> StateView:
    history = past.history.before(offset)
    state = state_as_of(address, history, offset)
    state.show_committed()
    created = state.created
    assert created is not None  # noqa: S101 - state_as_of has seen to it
    tables = {name: [decode(text) for text in rows.values()] for name, rows in state.rows.items()}
    return StateView(
        address=str(address),
        type=address.type,
        id=address.id,
        at=offset,
        tip=past.tip,
        time=history.last_time,
        created=created.timestamp,
        life=created.life,
        stopped=state.stopped is not None,
        args=created.args,
        tags=state.tags,
        parent=created.parent,
        forked_from=origin_of(state),
        collections={
            name.removeprefix(USER_TYPE_PREFIX): rows
            for name, rows in tables.items()
            if name.startswith(USER_TYPE_PREFIX)
        },
        context=tables.get(CONTEXT_TYPE, []),
        backlog=backlog_of(state),
        woken=state.woken,
        open_wakes=len(state.wakes),
        parked=parked_in(state),
        schedules=len(state.timers),
        outgoing=len(state.outbox),
    )
