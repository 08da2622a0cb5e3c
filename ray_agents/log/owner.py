"""The owner of a log: claims an epoch, gives out offsets, acknowledges what is durable, leaves.

``enqueue`` assigns offsets at once and never waits. What is enqueued while a write is under way
gathers in a group; each group is one frame, one write, one sync, one fence check, in one visit to
a thread. The first group carries the manifest in front. Any failure of a group ends the ownership:
nothing is written or synced after it, and every waiting append gets the error.

Grouping is bounded. In delay: an append that somebody waits for is never held back in the hope of
company; to an idle owner it is written at once, and one that comes while a sync is under way waits
for that one and its own. What nobody waits for lingers only where a write is dear
(``Blobs.linger``). In bytes: :data:`GROUP_BYTES_MAX`; what comes behind a full group goes into the
next.
With ``Durability.BATCH`` an acknowledgement waits for no sync, but one follows within
:data:`BATCH_SYNC_WITHIN`. Logs of one host share threads, and nothing else: a sync is of one file,
so a group across logs would cost as many, and make each log wait for the slowest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress

from ray_agents.errors import CorruptLog, Fenced, RayAgentsError
from ray_agents.events import JSON, Draft, Event, Operation
from ray_agents.log.adoption import PLAIN, Adopted, adopt
from ray_agents.log.appending import SETTLED, Appending, Group, again, size_of
from ray_agents.log.claiming import ClaimLost, superseded, take
from ray_agents.log.codec import encode_frame
from ray_agents.log.files import LOGGER, TIDIED, LogFiles
from ray_agents.log.history import FOREVER, History
from ray_agents.log.live import LiveSegment
from ray_agents.log.manifest import Manifest
from ray_agents.log.segment import SEALED_ROW, Claim, Head, segment_name
from ray_agents.log.threads import LogIO
from ray_agents.log.tidying import Upkeep, is_due, tidied
from ray_agents.ports import Blobs, Clock
from ray_agents.views import Durability

__all__ = [
    "PLAIN",
    "Appending",
    "Claim",
    "ClaimLost",
    "Head",
    "History",
    "LogIO",
    "LogOwner",
    "Upkeep",
    "read_head",
]

GROUP_BYTES_MAX = 8 * 1024 * 1024
SEGMENT_BYTES_MAX = 64 * 1024 * 1024
WAKE_BYTES_MAX = 1024 * 1024 * 1024  # of a segment: where not even a wake may go on in it
BATCH_SYNC_WITHIN = 0.05  # seconds between an acknowledgement and its sync with Durability.BATCH


async def read_head(blobs: Blobs, folder: str, *, io: LogIO) -> Head | None:
    """The newest segment of the log in ``folder``; None if there is no such log.

    Raises:
        CorruptLog: that segment is damaged.
    """
    return await io.run(LogFiles(blobs, folder, kept=io.kept).head)


class LogOwner:
    """One ownership of one log; make one with :meth:`claim`.

    ``tip`` is the next offset to be given out; every offset below ``durable_tip`` is acknowledged
    and in ``history``, where what was adopted is read when it is asked for; ``summary`` is as much
    of it as tells the state at the claim, if that was asked for. ``lost`` is set, and ``cause``
    says why, when the ownership ends by itself.
    """

    def __init__(
        self,
        live: LiveSegment,
        adopted: Adopted,
        *,
        files: LogFiles,
        upkeep: Upkeep,
        clock: Clock,
        io: LogIO,
        durability: Durability,
        now: int,
    ) -> None:
        self.epoch = adopted.manifest.epoch
        self.folder = files.folder
        self.tip = self.durable_tip = adopted.tip
        self.history = History(adopted.parts, ids=adopted.ids)
        self.summary = History(adopted.summary)
        self.lost = asyncio.Event()
        self.cause: Exception | None = None
        self._live = live
        self._linger_seconds = live.linger.total_seconds()
        self._files = files
        self._upkeep = upkeep
        self._manifest = adopted.manifest
        self._tidied: Manifest | None = None
        self._tidy = not is_due(adopted.manifest, upkeep, now=now)
        self._clock = clock
        self._io = io
        self._durability = durability
        self._last_time = adopted.last_time
        self._dropped = tuple(f"{self.folder}/{name}" for name in adopted.manifest.dropped)
        self._opening = list(self._assign([adopted.manifest.draft()]))
        self._groups: deque[Group] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._moved: asyncio.Event | None = None
        self._closing = False
        self._ending = asyncio.Lock()
        self._ended = False
        self._unsynced = False
        self._later: asyncio.TimerHandle | None = None
        self._syncing: asyncio.Task[None] | None = None

    @classmethod
    async def claim(
        cls,
        blobs: Blobs,
        folder: str,
        *,
        head: Head | None,
        claim: Claim,
        clock: Clock,
        io: LogIO,
        durability: Durability = Durability.SYNC,
        beside: Sequence[Awaitable[object]] = (),
        upkeep: Upkeep = PLAIN,
        summarise: bool = False,
    ) -> LogOwner:
        """Take the epoch after ``head`` (1 for a new log) and adopt the older ones.

        Whether the claim is allowed is the caller's to decide. ``beside`` is what has begun
        meanwhile and is awaited with it. ``summarise`` asks for the ``summary``.

        Raises:
            ClaimLost: somebody else took that epoch, or a newer one meanwhile.
            CorruptLog: an older epoch is damaged.
            StoreUnavailable, StoreFull: the medium refused.
        """
        files, now = LogFiles(blobs, folder, kept=io.kept), clock.now()
        try:
            live, adopted = await io.run(
                _take_and_adopt,
                files,
                io,
                claim=claim,
                head=head,
                durability=durability,
                upkeep=upkeep,
                summarise=summarise,
                now=now,
            )
        except BaseException:
            await asyncio.gather(*beside, return_exceptions=True)
            raise
        for each in beside:
            await each
        owner = cls(
            live,
            adopted,
            files=files,
            upkeep=upkeep,
            clock=clock,
            io=io,
            durability=durability,
            now=now,
        )
        if adopted.rescued:
            await owner._begin()
        return owner

    @property
    def durability(self) -> Durability:
        """What an acknowledgement of this owner means."""
        return self._durability

    @property
    def full(self) -> bool:
        """Whether the live segment is so large that it had better be sealed, and a new one begun.

        It still takes rows: a segment is read as a whole, which no reader can do above 2 GiB.
        """
        return self._live.size >= SEGMENT_BYTES_MAX

    @property
    def overfull(self) -> bool:
        """Whether it is so large that what writes to it had better be interrupted for that."""
        return self._live.size >= WAKE_BYTES_MAX

    @property
    def first(self) -> int:
        """The offset from which on there are rows: those below have been let go."""
        return self._manifest.first

    @property
    def last_time(self) -> int:
        """The time of the newest row, in microseconds since the epoch."""
        return self._last_time

    def give_up(self, cause: BaseException) -> None:
        """End the ownership for a reason that lies outside the log; the next owner resumes."""
        self._lose(cause)

    def enqueue(self, drafts: Sequence[Draft]) -> Appending:
        """Give ``drafts`` their offsets and time, and queue them as a whole.

        Raises:
            Fenced: the ownership has ended.
            StoreUnavailable, StoreFull: it ended by this failure of the medium.
            PayloadTooLarge, InvalidPayload: these drafts cannot be written; others can.
        """
        if self._closing or self.cause is not None:
            raise again(self.cause) if self.cause else self._ownership_ended()
        size = size_of(drafts)
        if not drafts:
            return Appending((), SETTLED)
        group = self._groups[-1] if self._groups else None
        if group is None or group.bytes + size > GROUP_BYTES_MAX:
            if group is not None:
                group.awaited.set()
            group = Group()
            self._groups.append(group)
        group.events += self._opening
        self._opening = []
        events = self._assign(drafts)
        group.events += events
        group.bytes += size
        if self._writing is None:
            self._writing = _in_background(self._write_groups())
        return Appending(events, group)

    async def append(self, drafts: Sequence[Draft]) -> tuple[Event, ...]:
        """Enqueue, and return the events once they are acknowledged; raises as both do."""
        return await self.enqueue(drafts).durable()

    async def _begin(self) -> None:
        """Make the manifest durable, before anybody is told of a row that only it makes durable."""
        group = Group()
        group.events, self._opening = self._opening, []
        self._groups.append(group)
        self._writing = _in_background(self._write_groups())
        try:
            await Appending((), group).durable()
        except BaseException as error:
            await self.abandon()
            lost = None
            if isinstance(error, Fenced):
                lost = await self._io.run(superseded, self._files, self.epoch)
            raise lost or error from error

    def _assign(self, drafts: Sequence[Draft]) -> tuple[Event, ...]:
        self._last_time = time = max(self._clock.now(), self._last_time)
        first = self.tip
        self.tip += len(drafts)
        return tuple(Event.at(first + n, time, draft) for n, draft in enumerate(drafts))

    async def _write_groups(self) -> None:
        try:
            while await self._gathered():
                group = self._groups.popleft()
                try:
                    await self._live.commit(encode_frame(group.events))
                except BaseException as error:  # even a cancelled write leaves its outcome unknown
                    self._lose(error, group)
                    raise
                self._publish(group)
        finally:
            self._writing = None

    async def _gathered(self) -> bool:
        """Whether there is a group to write; where writes are dear, one that could gather more."""
        if self._groups and self._linger_seconds and not self._closing:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._linger_seconds):
                    await self._groups[0].awaited.wait()
        return bool(self._groups)

    def _publish(self, group: Group) -> None:
        self.history.extend(group.events)
        self.durable_tip = group.events[-1].offset + 1
        group.settle(None)
        self._wake_followers()
        if self._durability is Durability.BATCH and not self._unsynced:
            self._unsynced = True
            self._later = asyncio.get_running_loop().call_later(BATCH_SYNC_WITHIN, self._start_sync)

    def _lose(self, error: BaseException, *groups: Group) -> None:
        cause = error if isinstance(error, Exception) else self._ownership_ended()
        if self.cause is None:
            self.cause = cause
        self.lost.set()
        for group in (*groups, *self._groups):
            group.settle(cause)
        self._groups.clear()
        self._wake_followers()

    def _wake_followers(self) -> None:
        moved, self._moved = self._moved, None
        if moved is not None:
            moved.set()

    def _ownership_ended(self) -> Fenced:
        message = f"log {self.folder!r}: epoch {self.epoch} has ended; look the owner up again"
        return Fenced(message, folder=self.folder, epoch=self.epoch)

    def _start_sync(self) -> None:
        """One at a time: the end waits for the one under way, and must not miss another."""
        self._later = None
        if self._syncing is None:
            self._syncing = _in_background(self._sync_batch())

    async def _sync_batch(self) -> None:
        self._unsynced = False
        try:
            await self._io.run(self._live.sync)
        except BaseException as error:
            self._lose(error)
            raise
        finally:
            self._syncing = None
            overdue = self._unsynced and self._later is None
            if overdue and not self._closing and self.cause is None:
                self._start_sync()

    async def ready(self, start: int = 0, *, stop: int = FOREVER, limit: int | None = None) -> None:
        """See to it that ``history`` can answer for these rows without waiting for the medium.

        Raises:
            CorruptLog, Fenced, StoreUnavailable: they cannot be had.
        """
        if not self.history.loaded(start, stop=stop, limit=limit):
            with self._noticing():
                await self._io.run(self.history.load, start, stop=stop, limit=limit)

    async def ready_to_find(self, type_name: str, key: str) -> None:
        """The same, for ``history.find``; raises as :meth:`ready`."""
        if not self.history.knows(type_name, key):
            with self._noticing():
                await self._io.run(self.history.find, type_name, key)

    @contextmanager
    def _noticing(self) -> Generator[None]:
        """End the ownership if what is done inside shows that it has ended."""
        try:
            yield
        except Fenced as error:
            self._lose(error)
            raise

    @property
    def tidy(self) -> bool:
        """Whether nothing is left to do for :meth:`tidy_up`."""
        return self._tidy

    async def tidy_up(self) -> None:
        """Merge small files, and renew the snapshot, for the next owner to list; once is enough.

        It may always be left undone, so whatever fails is told of in the process's log: the files
        stay as they are, and a later owner tries again.
        """
        self._tidy = True
        try:
            self._tidied = await self._io.run(
                tidied,
                self._files,
                self._manifest,
                upkeep=self._upkeep,
                epoch=self.epoch,
                now=self._clock.now(),
            )
        except Exception as error:  # noqa: BLE001 - nobody waits for it, and it is told
            LOGGER.warning("%s cannot be tidied: %s", self.folder, error, exc_info=True)

    async def wait_beyond(self, offset: int) -> None:
        """Return when ``durable_tip`` is greater than ``offset``, or the ownership has ended."""
        while self.durable_tip <= offset and not self._closing and self.cause is None:
            self._moved = self._moved or asyncio.Event()
            await self._moved.wait()

    async def seal(self) -> None:
        """Write what is queued, end the segment with a closing frame, close. Twice is harmless.

        If the ownership is lost, before or here, it only closes; ``cause`` says why.
        """
        await self._stop()
        async with self._ending:
            if self._ended:
                return
            self._ended = True
            if self.cause is not None:
                await self._io.run(self._live.close)
            else:
                await self._close_cleanly()

    async def _close_cleanly(self) -> None:
        dropped = () if self._opening else self._dropped
        replaced = None
        value: dict[str, JSON] = {"epoch": self.epoch}
        if self._tidied is not None:
            value[TIDIED] = self._tidied.value()
            if not self._opening:  # a reader that waits for the next owner does not believe us yet
                replaced = [f"{self.folder}/{name}" for name in self._tidied.dropped]
        closing = Draft.of(SEALED_ROW, "sealed", value=value, operation=Operation.UPSERT)
        frame = encode_frame([*self._opening, *self._assign([closing])])
        try:
            await self._live.finish(frame, sync=self._unsynced, dropped=dropped, replaced=replaced)
        except RayAgentsError as error:
            self._lose(error)
            raise

    async def abandon(self) -> None:
        """Close without sealing, as a crash would; what is queued is not written."""
        waiting = list(self._groups)
        self._groups.clear()
        for group in waiting:
            group.settle(self._ownership_ended())
        await self._stop()
        async with self._ending:
            self._ended = True
            await self._io.run(self._live.close)

    async def _stop(self) -> None:
        """Take no more appends, and wait for what is under way."""
        self._closing = True
        for group in self._groups:
            group.awaited.set()
        if self._writing is not None:
            await asyncio.wait([self._writing])
        if self._later is not None:
            self._later.cancel()
        if self._syncing is not None:
            await asyncio.wait([self._syncing])
        self._wake_followers()


def _in_background(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """A task whose failure is told elsewhere: it is the owner's ``cause``."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_take_note)
    return task


def _take_note(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


def _take_and_adopt(
    files: LogFiles,
    io: LogIO,
    *,
    claim: Claim,
    head: Head | None,
    durability: Durability,
    upkeep: Upkeep,
    summarise: bool,
    now: int,
) -> tuple[LiveSegment, Adopted]:
    preamble = take(files, head=head, claim=claim)
    named = None
    if durability is not Durability.MEMORY:
        name = segment_name(files.folder, preamble.epoch)
        named = io.start(files.blobs.sync_names, name)
    live = LiveSegment(files, preamble, durability=durability, named=named, io=io)
    try:
        adopted = adopt(
            files, epoch=preamble.epoch, head=head, upkeep=upkeep, summarise=summarise, now=now
        )
    except (CorruptLog, Fenced) as error:
        lost = superseded(files, preamble.epoch)
        raise lost or error from error
    return live, adopted
