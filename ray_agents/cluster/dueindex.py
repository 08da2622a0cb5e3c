"""The index of due times: which sleeper is to be woken when, kept in a log of its own.

A sleeper has no process and no timer, so before it falls asleep its owner registers when it is
next due, and the index, which lives in the keeper, calls it then. The log holds one row for each
sleeper with something to wait for (address -> due time), so its cost follows those and not the
number of entities; superseded rows are dropped when it is claimed, at every start and after many.

Theory of operation. An entity is somebody's concern at every instant: while it is awake, its
host's log names it, and recovery finds it after a crash; while it sleeps, the index does. So an
entry may go as soon as the entity, called, has answered that it waits for nothing: it is awake
then, and registers again before it sleeps. An entity that answered and waits for more is not
called again until it registers; its entry stays in the log, so that a keeper that was restarted
calls it once more, in vain at worst. What cannot be reached is called again after a growing delay.
Registrations carry the epoch of their owner, so that a stale owner's cannot take back a newer one.
(That says more than the entity's life would: epochs rise across lives.)

The index can always be rebuilt from the entities' own logs, and is if its log is missing or cannot
be read: one bounded scan, in the background, that never replaces what was registered meanwhile. A
row marks the log as complete; without it the next keeper scans again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from heapq import heapify, heappop, heappush

from ray_agents.address import Address
from ray_agents.cluster.calls import Activate, Answer, Call, Due
from ray_agents.cluster.catalog import all_addresses
from ray_agents.cluster.folders import INDEX, entity_folder, index_folder
from ray_agents.errors import CorruptLog, EntityGone, RuntimeUnavailable, UnknownEntity
from ray_agents.events import Draft, Event, Operation
from ray_agents.log.owner import Claim, LogIO, LogOwner, Upkeep, read_head
from ray_agents.log.reader import LogReader
from ray_agents.ports import Blobs, Clock
from ray_agents.projection import State, fold
from ray_agents.schedule import next_due
from ray_agents.views import EntityView

DUE_ROW = "due"
COMPLETE_ROW = "index_complete"
KEEPER_ROW = "index_keeper"
CONCURRENT_MAX = 16
MICROSECOND = timedelta(microseconds=1)
CLOCK_LOOK_MAX = timedelta(minutes=1)  # a clock that is set is noticed after so long
CALL_AGAIN_FIRST = timedelta(seconds=1)
CALL_AGAIN_MAX = timedelta(minutes=5)
SCAN_AGAIN = 60.0  # seconds after a scan that failed
SUPERSEDED_ROWS_MAX = 10_000
LOGGER = logging.getLogger("ray_agents.index")
Route = Callable[[Address, Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """One registration; each is an object of its own, by which a later one is told from it.

    ``call_at`` is when the entity is to be called: at its due time, later if that has failed, never
    (None) once it has answered.
    """

    due: Due
    call_at: int | None
    tries: int = 0


class DueIndex:
    """Holds the due times of sleepers and calls them; ``name`` is who keeps it, in its log."""

    def __init__(self, blobs: Blobs, *, io: LogIO, clock: Clock, route: Route, name: str) -> None:
        self._blobs = blobs
        self._io = io
        self._clock = clock
        self._route = route
        self._name = name
        self._owner: LogOwner | None = None
        self._opening = asyncio.Lock()
        self._ended = self._silent = False
        self._appended = 0
        self._entries: dict[Address, Entry] = {}
        self._saved: dict[Address, int | None] = {}
        self._queue: list[tuple[int, int, Entry]] = []
        self._pushed = 0
        self._calling: dict[Address, asyncio.Task[None]] = {}
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at = 0
        self._rebuilding: asyncio.Task[None] | None = None
        self._complete = False
        self._scan_at = 0.0

    # -- its log ------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether this process keeps the index."""
        return self._owner is not None and not self._owner.lost.is_set() and not self._ended

    @property
    def next_due(self) -> int | None:
        """When the next sleeper is due, in microseconds since the epoch."""
        return min((e.call_at for e in self._entries.values() if e.call_at), default=None)

    def __len__(self) -> int:
        return len(self._entries)

    async def holder(self) -> str | None:
        """Who kept the index last; None if nobody did, or that cannot be read."""
        try:
            head = await read_head(self._blobs, index_folder(await self._newest()), io=self._io)
        except CorruptLog:
            return None
        return head.host if head else None

    async def open(self) -> None:
        """Take the index over, call what is overdue, and scan for what it does not know.

        It may be asked for again and again, and does what is left to do.

        Raises:
            StoreUnavailable, StoreFull: it cannot be read or written.
            Fenced: another keeper took it at the same time.
            RuntimeUnavailable: this one has ended.
        """
        async with self._opening:
            if self._ended:
                raise RuntimeUnavailable("the keeper of the index has ended; ask its successor")
            if not self.is_open:
                await self._take()
            if not self._complete and self._clock.monotonic() >= self._scan_at:
                await self._scan()

    async def _take(self) -> None:
        lost, self._owner = self._owner, None
        if lost is not None:
            await lost.abandon()
        number = await self._newest()
        try:
            owner = await self._claim(number)
        except CorruptLog as error:
            LOGGER.error(  # noqa: TRY400 - the damage is told by its message, not by our stack
                "the index of due times cannot be read: %s. A new one is made from the logs of "
                "the entities; the folder %r may be removed",
                error,
                index_folder(number),
            )
            owner = await self._claim(number + 1)
        # Without a row of its own a segment has no manifest, and what its claim wrote no name.
        kept = Draft.of(KEEPER_ROW, INDEX, value={"name": self._name}, operation=Operation.UPSERT)
        try:
            await owner.append([kept])
        except BaseException:
            await owner.abandon()
            raise
        self._load(owner)

    async def _newest(self) -> int:
        names = await self._io.run(self._blobs.names, INDEX)
        return max((int(name) for name in names if name.isdigit()), default=1)

    async def _claim(self, number: int) -> LogOwner:
        folder = index_folder(number)
        return await LogOwner.claim(
            self._blobs,
            folder,
            head=await read_head(self._blobs, folder, io=self._io),
            claim=Claim(host=self._name, token=self._clock.fresh_id()),
            clock=self._clock,
            io=self._io,
            upkeep=Upkeep(latest_only=True),
        )

    def _load(self, owner: LogOwner) -> None:
        rows = owner.history.latest({DUE_ROW, COMPLETE_ROW})
        self._owner, self._appended = owner, 0
        self._complete = any(row.type == COMPLETE_ROW for row in rows)
        self._entries = {due.address: _entry(due) for due in map(_due_of, rows) if due is not None}
        self._saved = {each.due.address: each.due.at for each in self._entries.values()}
        self._queue = []
        for entry in self._entries.values():
            self._push(entry)
        self._advance()

    async def register(self, due: Due) -> None:
        """Take note of when a sleeper is next due, or that it never is; durable when it returns.

        Raises:
            RayAgentsError: it is not noted; ask again.
        """
        await self.open()
        known = self._entries.get(due.address)
        if known is not None and known.due.epoch > due.epoch:
            return  # a newer owner has spoken, who knows better than this one
        if due.at is None:
            if known is None:
                return
            del self._entries[due.address]
        else:
            self._entries[due.address] = entry = _entry(due)
            self._push(entry)
            self._advance()
            if self._saved.get(due.address) == due.at:
                return  # the row that is there says so
        await self._save(due)

    async def _save(self, due: Due) -> None:
        """Write one entry, or its end; what was written of the address before counts no more."""
        self._saved.pop(due.address, None)
        owner = self._owner
        if owner is None:
            raise RuntimeUnavailable("the index of due times is closed; ask again")
        await owner.append([_draft_of(due)])
        self._appended += 1
        latest = self._entries.get(due.address)
        if due.at is not None and latest is not None and latest.due is due:
            self._saved[due.address] = due.at
        if self._appended > SUPERSEDED_ROWS_MAX + 2 * len(self._entries):
            await self._renew(owner)

    async def _renew(self, owner: LogOwner) -> None:
        """End the segment and claim the next one, without the rows that were superseded."""
        async with self._opening:
            if owner is self._owner and self.is_open:
                await owner.seal()
                await self._take()

    # -- calling ------------------------------------------------------------------------------

    def _push(self, entry: Entry) -> None:
        if entry.call_at is not None:
            self._pushed += 1  # of two that are due at once, the one pushed first
            heappush(self._queue, (entry.call_at, self._pushed, entry))
            if len(self._queue) > SUPERSEDED_ROWS_MAX + 2 * len(self._entries):
                self._queue = [each for each in self._queue if self._stands(each[-1])]
                heapify(self._queue)

    def _stands(self, entry: Entry) -> bool:
        return self._entries.get(entry.due.address) is entry

    def _advance(self) -> None:
        """Call whoever is due, oldest first, a bounded number at a time; then wait for the next."""
        while self._queue and not self._silent:
            call_at, _, entry = self._queue[0]
            address = entry.due.address
            if not self._stands(entry) or address in self._calling:
                heappop(self._queue)  # one that is being called looks again when that has ended
            elif len(self._calling) >= CONCURRENT_MAX:
                return
            elif call_at > self._clock.now():
                self._wait_until(call_at)
                return
            else:
                heappop(self._queue)
                task = asyncio.create_task(self._call(entry), name=f"index:{address}")
                self._calling[address] = task
                task.add_done_callback(partial(self._called, entry))

    def _wait_until(self, instant: int) -> None:
        if self._alarm is not None and not self._alarm.done():
            if self._alarm_at <= instant:
                return
            self._alarm.cancel()
        self._alarm_at = instant
        self._alarm = asyncio.create_task(self._wait(instant), name="index:alarm")

    async def _wait(self, instant: int) -> None:
        wait = (instant - self._clock.now()) * MICROSECOND
        await self._clock.sleep(min(max(wait, timedelta(0)), CLOCK_LOOK_MAX))
        self._alarm = None
        self._advance()

    async def _call(self, entry: Entry) -> None:
        address = entry.due.address
        try:
            answer = await self._route(address, Activate(due=self._clock.now()))
        except (UnknownEntity, EntityGone):
            answer = None  # nothing is owed to nobody
        if not self._stands(entry):
            return  # it has registered again meanwhile
        if isinstance(answer, EntityView) and answer.next_due is not None:
            self._entries[address] = replace(entry, call_at=None)
        else:
            del self._entries[address]
            await self._save(replace(entry.due, at=None))

    def _called(self, entry: Entry, task: asyncio.Task[None]) -> None:
        """Go on; what could not be called is called again after a delay."""
        address = entry.due.address
        del self._calling[address]
        if task.cancelled() or self._silent:
            return
        if (error := task.exception()) is not None:
            LOGGER.warning("%s is due and cannot be woken yet: %s", address, error)
            if self._stands(entry):
                self._entries[address] = _again(entry, now=self._clock.now())
        if (latest := self._entries.get(address)) is not None:
            self._push(latest)
        self._advance()

    # -- rebuilding ---------------------------------------------------------------------------

    async def _scan(self) -> None:
        """Begin to find out from every entity's own log when it is due; again, if that fails."""
        addresses = await self._io.run(all_addresses, self._blobs)
        self._scan_at = self._clock.monotonic() + SCAN_AGAIN
        if self._rebuilding is None or self._rebuilding.done():
            self._rebuilding = asyncio.create_task(self._rebuild(addresses), name="index:rebuild")
            self._rebuilding.add_done_callback(_told)

    async def _rebuild(self, addresses: Sequence[Address]) -> None:
        """Read all logs, a bounded number at a time."""
        if addresses:
            LOGGER.warning("the index of due times is made from %s logs", len(addresses))
        found = 0
        for start in range(0, len(addresses), CONCURRENT_MAX):
            some = addresses[start : start + CONCURRENT_MAX]
            for due in await asyncio.gather(*(self._read_due(address) for address in some)):
                if due is not None and due.address not in self._entries:
                    found += 1
                    await self.register(due)
        if self._owner is None:
            raise RuntimeUnavailable("the index of due times was closed while it was made")
        marker = Draft.of(COMPLETE_ROW, INDEX, value={}, operation=Operation.UPSERT)
        await self._owner.append([marker])
        self._complete = True
        if addresses:
            LOGGER.warning("the index of due times is whole again: %s sleepers wait", found)

    async def _read_due(self, address: Address) -> Due | None:
        """What the entity's own log says; any owner's registration is newer than that."""
        reader = LogReader(self._blobs, entity_folder(address), self._io)
        state, offset = State(), 0
        try:
            while events := (await reader.read(offset)).events:
                state, offset = fold(events, state), events[-1].offset + 1
        except CorruptLog as error:
            LOGGER.error("%s cannot be scanned for due times: %s", address, error)  # noqa: TRY400
            return None
        at = next_due(state)
        return None if at is None else Due(address=address, at=at, epoch=0)

    # -- the end ------------------------------------------------------------------------------

    def call_nobody(self) -> None:
        """Wake nobody any more, as hosts are about to leave; take note of what they register."""
        self._silent = True
        for task in (*self._calling.values(), self._alarm):
            if task is not None:
                task.cancel()

    async def close(self) -> None:
        """Call nobody any more, and end the log; twice is harmless."""
        await self._stop()
        if self._owner is not None:
            await self._owner.seal()

    def vanish(self) -> None:
        """Stop as a killed process does; :meth:`bury` then closes what is open."""
        self._ended = self._silent = True
        for task in self._tasks():
            task.cancel()

    async def bury(self) -> None:
        """Return when nothing is left of one that has vanished."""
        await self._stop()
        if self._owner is not None:
            await self._owner.abandon()

    async def _stop(self) -> None:
        self.vanish()
        if tasks := self._tasks():
            await asyncio.wait(tasks)

    def _tasks(self) -> list[asyncio.Task[None]]:
        tasks = [*self._calling.values(), self._alarm, self._rebuilding]
        return [task for task in tasks if task is not None and not task.done()]


def _entry(due: Due) -> Entry:
    return Entry(due=due, call_at=due.at)


def _again(entry: Entry, *, now: int) -> Entry:
    """The entry after a call that failed."""
    delay = min(CALL_AGAIN_FIRST * 2 ** min(entry.tries, 16), CALL_AGAIN_MAX)
    return replace(entry, call_at=now + delay // MICROSECOND, tries=entry.tries + 1)


def _draft_of(due: Due) -> Draft:
    value = {"due": due.at, "epoch": due.epoch}
    operation = Operation.DELETE if due.at is None else Operation.UPSERT
    return Draft.of(DUE_ROW, str(due.address), value=value, operation=operation)


def _due_of(row: Event) -> Due | None:
    if row.type != DUE_ROW:
        return None
    return Due(address=Address.parse(row.key), at=row.value["due"], epoch=row.value["epoch"])


def _told(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        LOGGER.warning("the index of due times: %s", error)
