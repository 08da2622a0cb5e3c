"""Reading a log that somebody else owns: only rows that will never be taken back.

Theory of operation. Rows that a durable manifest lists are safe, and so are the rows of a sealed
segment before its closing frame. Rows of a live segment are safe once the reader has synced them
itself and then seen that there is still no newer epoch: whoever claims after that reads them, too.
While the newest segment has no manifest its owner is still adopting. Then only what it is certain
to find counts: of the segment below it all frames but the last, which may come too late for it
unless it was confirmed here before; and if nothing is left of that one, the same of the next. The
closing row is never served, as it was never synced: a log that was sealed and woken again has a gap
there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from ray_agents.errors import CorruptLog, OffsetGone, StoreUnavailable
from ray_agents.events import Event
from ray_agents.log.arrow import Batch
from ray_agents.log.files import LogFiles, listing_of
from ray_agents.log.history import History
from ray_agents.log.manifest import FileEntry, Manifest
from ray_agents.log.rows import Rows, check_order
from ray_agents.log.segment import Ending, Head, Segment, parse_frames, segment_name
from ray_agents.log.threads import LogIO
from ray_agents.log.tidying import files_behind, told_until, usable_snapshot
from ray_agents.ports import Blobs

LOOKS_MAX = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Some events, oldest first; ``tip`` is the end of what may be read now.

    Ask again from the last event's offset plus one, or from ``tip`` if there are none.
    """

    events: list[Event]
    tip: int
    head: Head | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """All that may be read now, as columns; ``last_time`` is that of the newest row.

    Rows below the offset ``first`` have been let go. Of those below ``since`` there are only the
    ones that tell the state from there on. ``held``: a new owner is still adopting, so rows that
    were acknowledged may be missing yet.
    """

    history: History
    tip: int
    first: int
    last_time: int
    head: Head | None
    held: bool = False
    since: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What may be served: files that a manifest lists, then rows of one segment."""

    manifest: Manifest = Manifest(epoch=0)  # noqa: RUF009 - it is frozen
    rows: Rows | None = None
    head: Head | None = None
    held: bool = False
    begun_at: int = 0  # the offset of the manifest, which is behind all that it lists, or listed

    @property
    def tip(self) -> int:
        return self.begun_at if self.rows is None else self.rows.end


class LogReader:
    """A follower of the log in ``folder``; it keeps its place, so that little is read twice."""

    def __init__(self, blobs: Blobs, folder: str, io: LogIO) -> None:
        self._files = LogFiles(blobs, folder, kept=io.kept)
        self._io = io
        self._newest: Segment | None = None
        self._page: tuple[FileEntry, Rows] | None = None  # the file that is being read
        self._view = _View()
        self._missed: FileEntry | None = None

    async def read(self, offset: int, *, limit: int = 1000) -> Reading:
        """At most ``limit`` events from ``offset`` on; 0 is the beginning, wherever that is now.

        Raises:
            OffsetGone: that part of the log was let go; it names the first offset that exists.
            CorruptLog: a row that should be served is damaged.
            StoreUnavailable: the store cannot be read, or the log changes hands too fast.
        """
        return await self._io.run(self._read, offset, limit)

    async def past(self) -> Past:
        """Everything up to the end; raises as :meth:`read`. No row is decoded for it."""
        return await self._io.run(self._past, self._parts)

    async def summary(self) -> Past:
        """As much of it as tells the state at the end; raises as :meth:`read`."""
        past = await self._io.run(self._past, self._summary)
        snapshot = self._view.manifest.snapshot
        return past if snapshot is None else replace(past, since=snapshot.end)

    @property
    def first(self) -> int:
        """The offset below which rows have been let go, at the last look."""
        return self._view.manifest.first

    def everything(self) -> Past:
        """As :meth:`past`, for who is in a thread already. Blocks."""
        return self._past(self._parts)

    def rows_of(self, entry: FileEntry) -> Rows | None:
        """The rows that a manifest of this log lists in a file; None if it is gone. Blocks."""
        return self._files.listed(entry)

    def referred(
        self, refer: Callable[[Manifest, Rows | None], list[T] | FileEntry], stop: int
    ) -> list[T]:
        """What ``refer`` makes of the manifest and newest rows in which all before ``stop`` is.

        Blocks. ``stop`` is at most where an earlier reading ended. ``refer`` is called again when
        it gives a file back: that was listed but is gone.

        Raises:
            CorruptLog, StoreUnavailable: as :meth:`read`.
        """
        view, found = self._taken(lambda view: refer(view.manifest, view.rows))
        if view.tip < stop:
            raise self._too_fast()
        return found

    def _read(self, offset: int, limit: int) -> Reading:
        view, events = self._taken(lambda view: self._collect(view, offset, limit))
        OffsetGone.check(offset, first=view.manifest.first, log=self._files.folder)
        return Reading(events=events, tip=view.tip, head=view.head)

    def _past(self, take: Callable[[_View], list[Rows] | FileEntry]) -> Past:
        view, parts = self._taken(take)
        last_time = parts[-1].batch.column(1)[-1].value if parts else 0
        return Past(
            history=History(parts),
            tip=view.tip,
            first=view.manifest.first,
            last_time=last_time,
            head=view.head,
            held=view.held,
        )

    def _taken(self, take: Callable[[_View], list[T] | FileEntry]) -> tuple[_View, list[T]]:
        """What may be served now, and what ``take`` finds in it, unless a listed file is gone."""
        missing: FileEntry | None = None
        for _ in range(LOOKS_MAX):
            view = self._look()
            if view is None:
                continue
            found = take(view)
            if not isinstance(found, FileEntry):
                self._view = view
                return view, found
            missing = self._gone(found, view, before=missing)
        raise self._too_fast()

    def batches(self, offset: int = 0) -> Iterator[Batch]:
        """The rows from ``offset`` to the end as it is now, as columns, a batch for each file.

        Blocks. One file at a time is in memory; what is appended meanwhile is left for the next
        call. When a listed file is gone, the log is listed again and read on from there.

        Raises:
            CorruptLog, StoreUnavailable: as :meth:`read`, once the rows before are given out.
        """
        stop: int | None = None
        missing: FileEntry | None = None
        looks = 0
        while looks < LOOKS_MAX:
            looks += 1
            view = self._look()
            if view is None:
                continue
            self._view = view
            stop = view.tip if stop is None else stop
            for part in self._parts_from(view, offset):
                if isinstance(part, FileEntry):
                    missing = self._gone(part, view, before=missing)
                    break
                batch = part.cut(offset, stop)
                if batch.num_rows:
                    offset, looks = part.end, 0
                    yield batch
            else:
                return
        raise self._too_fast()

    def _gone(self, entry: FileEntry, view: _View, *, before: FileEntry | None) -> FileEntry:
        """``entry``, which is listed but gone; to be looked for once more if it is not ``before``.

        Raises:
            CorruptLog: it was missed before, and no newer owner has replaced it. While the newest
                one has not begun, an older one may have, which cannot be seen here.
        """
        unchanged = self._files.newest_epoch() == (view.head or _NONE).epoch
        if before == entry and unchanged and not view.held:
            name = f"{self._files.folder}/{entry.name}"
            message = f"file {name!r} is listed but gone; restore it from a backup"
            raise CorruptLog(message, segment=name, after_offset=entry.first - 1)
        return entry

    def _too_fast(self) -> StoreUnavailable:
        folder = self._files.folder
        message = f"log {folder!r} changes hands faster than it can be read; try again"
        return StoreUnavailable(message, path=folder)

    def _look(self) -> _View | None:
        """What may be served now; None if the log changed hands meanwhile."""
        epoch = self._files.newest_epoch()
        if epoch == 0:
            return _View()
        newest = self._load(epoch)
        if newest is None:
            return None
        if newest.ending is Ending.CORRUPT:
            raise newest.corruption()
        if not newest.begun:
            view = self._hold(newest.head)
            return None if view is None else replace(view, held=True)
        acknowledged = newest.sealed and len(newest.batches) > 1  # what is behind the last frame
        if not acknowledged and not self._confirm(newest):
            return None
        return self._serve(newest, newest.batches, head=newest.head)

    def _load(self, epoch: int) -> Segment | None:
        """The newest segment; of one that was read before only what is new."""
        known = self._newest
        if known is None or known.preamble.epoch != epoch:
            self._newest = self._files.segment(epoch)
            return self._newest
        if known.sealed:
            return known
        data = self._files.blobs.read(known.name, known.position)
        if data is None:
            return None
        more = parse_frames(known.name, known.preamble, data, at=known.position)
        self._newest = known.followed_by(more)
        return self._newest

    def _confirm(self, segment: Segment) -> bool:
        """Make what was read durable; whether its owner was still the newest after that."""
        known = self._view.head == segment.head
        if known and (segment.sealed or self._view.tip == _end_of(segment)):
            return True
        following = segment_name(self._files.folder, segment.preamble.epoch + 1)
        return self._sync(segment) and not self._files.blobs.exists(following)

    def _sync(self, segment: Segment) -> bool:
        """Make durable what was read of somebody else's segment; False if it is gone by now."""
        blobs = self._files.blobs
        try:
            file = blobs.append(segment.name)
        except StoreUnavailable:
            if blobs.exists(segment.name):
                raise
            return False
        try:
            file.sync()
        finally:
            file.close()
        blobs.sync_names(segment.name)
        return True

    def _serve(self, segment: Segment, batches: tuple[Batch, ...], *, head: Head) -> _View:
        batches = batches[:-1] if segment.sealed and batches is segment.batches else batches
        rows = check_order(segment.name, Rows(batches), start=0) if batches else None
        begun_at = segment.batches[0].column(0)[0].as_py()
        return _View(manifest=listing_of(segment), rows=rows, head=head, begun_at=begun_at)

    def _hold(self, head: Head) -> _View | None:
        """The view while the newest owner has not begun: what it is certain to have adopted."""
        for epoch in range(head.epoch - 1, 0, -1):
            segment = self._files.segment(epoch)
            if segment is None:
                return None
            if segment.ending is Ending.CORRUPT:
                raise segment.corruption()
            certain = self._certain(segment)
            if certain:
                return self._serve(segment, certain, head=head) if self._sync(segment) else None
        return _View(head=head)

    def _certain(self, segment: Segment) -> tuple[Batch, ...]:
        """The frames that whoever claimed after their owner has found.

        A frame is written when the one before it is acknowledged. The last one, if it was not
        confirmed here before, may have been written after the newest owner had looked; if it is
        the only one, so may be the manifest.
        """
        last, tip = len(segment.batches) - 1, self._view.tip
        return tuple(
            batch
            for number, batch in enumerate(segment.batches)
            if number < last or (not segment.sealed and batch.column(0)[-1].as_py() < tip)
        )

    def _parts(self, view: _View) -> list[Rows] | FileEntry:
        """All rows, file by file; or a listed file that is gone."""
        found: list[Rows] = []
        for part in self._parts_from(view, 0):
            if isinstance(part, FileEntry):
                return part
            found.append(part)
        return found

    def _summary(self, view: _View) -> list[Rows] | FileEntry:
        """The rows that tell the state; or a listed file that is gone."""
        listed = view.manifest.snapshot
        if listed and self._files.newest_epoch() != (view.head or _NONE).epoch:
            return listed  # it may be gone for a good reason: look again
        try:
            snapshot = usable_snapshot(self._files, view.manifest)
        except CorruptLog:
            if listed is None or not self._just_missed(listed):
                raise
            return listed
        found = [] if snapshot is None else [snapshot]
        for entry in files_behind(view.manifest, snapshot):
            rows = self._files.listed(entry)
            if rows is None:
                return entry
            found.append(rows.behind(told_until(view.manifest, snapshot)))
        return found if view.rows is None else [*found, view.rows]

    def _just_missed(self, listed: FileEntry) -> bool:
        """Whether a file is gone, for the first time: its owner may just have replaced it."""
        fresh = listed != self._missed and not self._files.is_there(listed)
        self._missed = listed if fresh else self._missed
        return fresh

    def _collect(self, view: _View, offset: int, limit: int) -> list[Event] | FileEntry:
        """The events; or a listed file that is gone."""
        found: list[Event] = []
        for part in self._parts_from(view, offset):
            if isinstance(part, FileEntry):
                return part
            found += part.between(offset, part.end, limit=limit - len(found), types=None)
            if len(found) >= limit:
                break
        return found

    def _parts_from(self, view: _View, offset: int) -> Iterator[Rows | FileEntry]:
        """The rows of each file that has some from ``offset`` on; or the first that is gone."""
        for entry in view.manifest.files:
            if entry.rows and entry.end > offset:
                yield self._listed(entry)
        self._page = None
        if view.rows is not None and view.rows.end > offset:
            yield view.rows

    def _listed(self, entry: FileEntry) -> Rows | FileEntry:
        """The rows of a file; or the file, which is gone.

        Whoever reads page by page asks for the same file again and again, and it may be too large
        to be kept for all.
        """
        if self._page is None or self._page[0] != entry:
            self._page = None
            rows = self._files.listed(entry)
            if rows is None:
                return entry
            self._page = (entry, rows)
        return self._page[1]


_NONE = Head(epoch=0, host="", token="", sealed=False)


def _end_of(segment: Segment) -> int:
    return segment.batches[-1].column(0)[-1].as_py() + 1
