"""Logs that begin whole: with the rows of another log, by reference, or with rows from elsewhere.

Theory of operation. A sealed file never changes, so another log may list it, too: under a hard
link in its own folder, which stays when the source merges, drops or deletes its name. A log that
is cut inside such a file lists fewer rows of it than it holds. What the source has not merged yet
(at most some sixteen segments) is rewritten as a sealed file, for a segment's name is its epoch.
So a fork costs as many links as the source has sealed files, which is the logarithm of its rows.
The indexes beside them are linked, too, and the snapshot, if it is not of a later state. What the
source has let go (its retention) the new log does not have either.

Its first segment is made in one piece: preamble, manifest, first rows and closing frame, created
under its name if that is free. So a crash leaves no log or a whole one, asleep; before it, only
files that no manifest lists. Nobody has to own a log to fork it, and nothing wakes.

Only rows that readers may be served are inherited (:mod:`ray_agents.log.reader`), at their
offsets: ``read(fork) == read(source)[:at]``, the log's own rows included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from ray_agents.errors import OffsetGone, StoreUnavailable
from ray_agents.events import Draft, Event, Operation
from ray_agents.log.codec import encode_frame
from ray_agents.log.manifest import FileEntry, Manifest
from ray_agents.log.reader import LogReader
from ray_agents.log.rows import Rows
from ray_agents.log.sealed import write_sealed
from ray_agents.log.segment import SEALED_ROW, Claim, epoch_of, new_preamble, segment_name
from ray_agents.ports import Blobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """A log that is about to be: which rows it begins with, and where it goes on.

    ``files`` and ``snapshot`` stand in its folder, durable. ``offset`` is that of its own first
    row; ``time`` is not before that of the last row it has, in microseconds since 1970. Rows below
    the offset ``first`` were let go before.
    """

    epoch: int
    offset: int
    time: int
    files: tuple[FileEntry, ...] = ()
    snapshot: FileEntry | None = None
    first: int = 0

    @property
    def manifest(self) -> Manifest:
        """The manifest that says all that."""
        return Manifest(
            epoch=self.epoch, files=self.files, snapshot=self.snapshot, first=self.first
        )


class Inheritance:
    """Files of the log in ``source``, referred to from ``folder``. All methods block."""

    def __init__(self, reader: LogReader, blobs: Blobs, *, source: str, folder: str) -> None:
        self._reader = reader  # the one that has seen the end: it takes back nothing it has served
        self._blobs = blobs
        self._source = source
        self._folder = folder

    def taken(self, beginning: Beginning) -> Beginning:
        """The same with the rows below its offset, which readers may be served.

        They are in files in ``folder``, and durable, when it returns.

        Raises:
            CorruptLog: a file that must be read for it is damaged.
            OffsetGone: what led to the state there was let go, meanwhile or before.
            StoreUnavailable, StoreFull: the medium refuses, or the log changes hands too fast.
        """
        at = beginning.offset
        (found,) = self._reader.referred(partial(self._refer, beginning), stop=at)
        for each in (*found.files[-1:], *([found.snapshot] if found.snapshot else [])):
            self._blobs.sync_names(f"{self._folder}/{each.name}")
        return found

    def _refer(
        self, beginning: Beginning, manifest: Manifest, newest: Rows | None
    ) -> list[Beginning] | FileEntry:
        """What the new log lists; or a file that is gone.

        A snapshot or an index that is gone is a file that is gone: its log is listed anew.
        """
        at, epoch, snapshot = beginning.offset, beginning.epoch, manifest.snapshot
        if manifest.first and snapshot is not None:  # it alone tells of what was let go
            OffsetGone.check(at, first=snapshot.end, log=self._source)
        found: list[FileEntry] = []
        gathered: list[Rows] = []
        for entry in manifest.files:
            if not entry.rows or entry.first >= at:
                continue
            cut = entry
            if entry.epoch is not None or entry.end > at:
                rows = self._reader.rows_of(entry)
                if rows is None:
                    return entry
                kept = rows.before(at) or rows
                if entry.epoch is not None:
                    gathered.append(kept)
                    continue
                cut = replace(entry, end=kept.end, rows=kept.count, time=kept.last_time)
            if not self._link(entry):
                return entry
            found += [*self._rewritten(gathered, epoch), cut]
        kept = newest.before(at) if newest is not None else None
        gathered += [kept] if kept else []
        found += self._rewritten(gathered, epoch)
        if snapshot is not None and snapshot.end > at:
            snapshot = None
        if snapshot is not None and not self._link(snapshot):
            return snapshot
        return [replace(beginning, files=tuple(found), snapshot=snapshot, first=manifest.first)]

    def _link(self, entry: FileEntry) -> bool:
        """Whether the file is there; it is, too, if an attempt that broke off has linked it."""
        for name in entry.names:
            source = f"{self._source}/{name}"
            try:
                self._blobs.link(source, f"{self._folder}/{name}")
            except StoreUnavailable:
                if self._blobs.exists(source):
                    raise
                return False
        return True

    def _rewritten(self, gathered: list[Rows], epoch: int) -> list[FileEntry]:
        """The gathered rows as one file of the new log, and none gathered any more."""
        if not gathered:
            return []
        rows = Rows([rows.batch for rows in gathered])
        gathered.clear()
        return [write_sealed(self._blobs, self._folder, rows=rows, epoch=epoch, indexed=True)]


def first_events(beginning: Beginning, drafts: Sequence[Draft]) -> list[Event]:
    """The rows of a log's first frame: its manifest, then ``drafts``."""
    return [
        Event.at(beginning.offset + n, beginning.time, draft)
        for n, draft in enumerate([beginning.manifest.draft(), *drafts])
    ]


def begin_log(blobs: Blobs, folder: str, *, events: Sequence[Event], claim: Claim) -> bool:
    """Make the log whose first frame holds ``events``, as of an owner that has left. Blocks.

    Durable when it returns; False if somebody has begun a log there before, or meanwhile.

    Raises:
        StoreUnavailable, StoreFull: the medium refuses; the log is there or not.
    """
    epoch = Manifest.of(events[0]).epoch
    if _epochs(blobs, folder):
        return False
    name = segment_name(folder, epoch)
    if not blobs.create(name, _segment(events, claim, epoch)):
        return False
    blobs.sync_names(name)
    if min(_epochs(blobs, folder), default=epoch) == epoch:
        return True
    # Who claimed an earlier epoch in this instant has not seen ours: it is theirs.
    if not blobs.exists(segment_name(folder, epoch + 1)):
        blobs.delete(name)
    return False


def _segment(events: Sequence[Event], claim: Claim, epoch: int) -> bytes:
    closing = Draft.of(SEALED_ROW, "sealed", value={"epoch": epoch}, operation=Operation.UPSERT)
    last = Event.at(events[-1].offset + 1, events[-1].time, closing)
    frames = encode_frame(events).data + encode_frame([last]).data
    return new_preamble(epoch, claim).data + frames


def _epochs(blobs: Blobs, folder: str) -> list[int]:
    found = [epoch_of(name) for name in blobs.names(folder)]
    return [epoch for epoch in found if epoch is not None]
