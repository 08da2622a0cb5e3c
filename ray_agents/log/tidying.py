"""Tidying a log: small files into large ones, and a snapshot of what it takes to wake.

Theory of operation. An owner tidies in a thread, beside its work, the files that its own manifest
lists; these never change. The result is a manifest again, which stands in the closing frame of its
segment and counts from then on. That frame is synced, and the fence checked, before the files it
does not list any more are deleted; if the owner dies before, the files it made are garbage and
nothing else has happened. So no reader and no claim ever waits for a merge, and nothing goes before
its replacement is durable, was read back, and is named. What a death has left undeleted the next
owner's manifest drops again.

*Merging*: all segments become one sealed file, and with it those sealed files before them that are
not larger than what follows: so the number of files grows with the logarithm of the rows, and each
row is rewritten as often, up to files of :data:`MERGED_BYTES_MAX`, which are not merged again. An
index of the message ids lies beside it. Of a long one the newest rows become a file of their own: a
file is read and verified as a whole, and most who read a log want its end.

*The snapshot* holds those rows from which ``essential`` comes to the same state as from all of
them. A new one is due when what has come since the last is half as long as it, or was merged with
what came before; so what a wake reads is at most one and a half times the state, and some files
that are not merged yet.

*Retention* lets the oldest files go that no wake can need any more: all that counts of them is in
the snapshot, and the ids of their messages, which are good for an entity's whole life, go on in
files of their own (``ids/``: the rows without what they said). So that something can go, files are
then merged only up to an eighth of the age or the size that is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from ray_agents.errors import CorruptLog
from ray_agents.log.files import LOGGER, LogFiles
from ray_agents.log.history import History
from ray_agents.log.manifest import FileEntry, Manifest, deletion_order
from ray_agents.log.rows import Rows
from ray_agents.log.sealed import FOLDER, IDS, SNAPSHOTS, write_sealed, write_snapshot

UNMERGED_SEGMENTS_MAX = 16
MERGED_BYTES_MAX = 128 * 1024 * 1024  # of a file that is merged again, and of rows in one
UNMERGED_ROWS_MAX = 1_024
OVERDUE_SEGMENTS_MAX = 4 * UNMERGED_SEGMENTS_MAX
SNAPSHOT_ROWS_MIN = 256  # fewer are folded as fast as a snapshot is opened
RETAINED_PARTS = 8
TAIL_ROWS = 1024  # as many as are read at a time
SPLIT_ROWS_MIN = 4 * TAIL_ROWS
_EPOCH_IN_NAME = re.compile(r"(\d{10})-[0-9a-f]{16}\.arrow", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Essence:
    """The offsets of the rows that tell the state; those from ``held_from`` on must stay.

    What lies below may be let go by a retention: a wake looks for nothing there.
    """

    offsets: Collection[int]
    held_from: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """How a log is kept.

    ``essential`` tells what it takes to know the state, None if there is none yet; without it
    there are no snapshots and no retention. Rows of ``fleeting`` types are left out when files are
    merged. Files whose newest row is older than ``age``, and the oldest of more than ``bytes_max``
    in all, are let go; ``remember`` gives what is kept of their messages. ``latest_only`` is for a
    log that is only ever asked for the newest row of each key: older rows, and deleted keys, are
    dropped at each claim.
    """

    essential: Callable[[History], Essence | None] | None = None
    remember: Callable[[Rows], Rows | None] | None = None
    fleeting: frozenset[str] = frozenset()
    age: timedelta | None = None
    bytes_max: int | None = None
    latest_only: bool = False

    @property
    def lets_go(self) -> bool:
        """Whether anything ever goes."""
        return self.age is not None or self.bytes_max is not None

    def merges(self, entries: Sequence[FileEntry]) -> bool:
        """Whether these files may become one."""
        bytes_max = MERGED_BYTES_MAX
        if self.bytes_max is not None:
            bytes_max = min(bytes_max, self.bytes_max // RETAINED_PARTS)
        if sum(entry.bytes for entry in entries) > bytes_max:
            return False
        times = [entry.time for entry in entries if entry.time]
        if self.age is None or not times:
            return True
        return max(times) - min(times) <= self.age / timedelta(microseconds=1) / RETAINED_PARTS

    def expired(self, entries: Sequence[FileEntry], *, now: int) -> int:
        """How many of these files, from the oldest on, are not to be kept any longer."""
        count, left = 0, sum(entry.bytes for entry in entries)
        for entry in entries:
            old = self.age is not None and entry.time < now - self.age / timedelta(microseconds=1)
            large = self.bytes_max is not None and left > self.bytes_max
            if entry.epoch or not (old or large):
                break
            count += 1
            left -= entry.bytes
        return count


def is_due(manifest: Manifest, upkeep: Upkeep, *, now: int) -> bool:
    """Whether the files of ``manifest`` are worth tidying."""
    segments = [entry for entry in manifest.files if entry.epoch]
    rows = sum(entry.rows for entry in segments)
    many = len(segments) > UNMERGED_SEGMENTS_MAX or rows > UNMERGED_ROWS_MAX
    return many or upkeep.expired(manifest.files, now=now) > 0


def is_overdue(manifest: Manifest) -> bool:
    """Whether tidying has not come about for so long that a claim had better wait for it."""
    return sum(1 for entry in manifest.files if entry.epoch) > OVERDUE_SEGMENTS_MAX


def usable_snapshot(files: LogFiles, manifest: Manifest) -> Rows | None:
    """The rows of the snapshot; None if there is none, or none that can be used.

    Then the whole log tells the same. That a listed one cannot be used is told in the process's
    log; ``ray-agents log verify`` finds it, too.

    Raises:
        CorruptLog: it cannot be used, and what it tells of is in no other file any more.
    """
    listed = manifest.snapshot
    if listed is None:
        return None
    name = f"{files.folder}/{listed.name}"
    try:
        rows = files.snapshot(listed)
    except CorruptLog as error:
        if manifest.first:
            raise
        LOGGER.error("%s; the whole log is read instead", error.message)
        return None
    if rows is None:
        if manifest.first:
            message = f"snapshot {name!r} is gone; restore it from a backup"
            raise CorruptLog(message, segment=name, after_offset=None)
        LOGGER.error("snapshot %r is gone; the whole log is read instead", name)
    return rows


def files_behind(manifest: Manifest, snapshot: Rows | None) -> list[FileEntry]:
    """The files with rows that ``snapshot``, if it can be used, does not tell of."""
    end = told_until(manifest, snapshot)
    return [entry for entry in manifest.files if entry.rows and entry.end > end]


def told_until(manifest: Manifest, snapshot: Rows | None) -> int:
    """The offset up to which ``snapshot`` tells the state."""
    return manifest.snapshot.end if manifest.snapshot and snapshot is not None else 0


def tidied(
    files: LogFiles, manifest: Manifest, *, upkeep: Upkeep, epoch: int, now: int
) -> Manifest:
    """What ``manifest`` becomes, once its files are merged; blocks.

    ``epoch`` is that of the owner, ``now`` in microseconds since the epoch.

    Raises:
        CorruptLog: a file does not hold what the manifest says.
        Fenced, StoreUnavailable, StoreFull: it cannot be done now.
    """
    tidying = _Tidying(files, manifest, upkeep=upkeep, epoch=epoch, now=now)
    tidying.merge()
    tidying.renew_snapshot()
    tidying.let_go()
    return tidying.outcome()


def _portions(parts: Sequence[Rows]) -> list[Rows]:
    """The parts joined, but into no file that is too large: Arrow's texts end at 2 GiB."""
    found: list[list[Rows]] = []
    size = MERGED_BYTES_MAX
    for part in parts:
        if size + part.size > MERGED_BYTES_MAX:
            found.append([])
            size = 0
        found[-1].append(part)
        size += part.size
    return [Rows([part.batch for part in portion]) for portion in found]


def _split(rows: Rows) -> list[Rows]:
    """The rows as the files they become: of many, the newest apart."""
    if rows.count < SPLIT_ROWS_MIN:
        return [rows]
    cut = rows.count - TAIL_ROWS
    return [Rows([rows.batch.slice(0, cut)]), Rows([rows.batch.slice(cut)])]


class _Tidying:
    """One tidying of one log: ``after`` is what its manifest has become so far."""

    def __init__(
        self, files: LogFiles, manifest: Manifest, *, upkeep: Upkeep, epoch: int, now: int
    ) -> None:
        self.before = self.after = manifest
        self._files = files
        self._upkeep = upkeep
        self._epoch = epoch
        self._now = now
        self._held_from = 0

    def _rows(self, entry: FileEntry) -> Rows:
        return self._files.read_listed(entry, epoch=self._epoch)

    def merge(self) -> None:
        """Make one file of the segments, and of the sealed files before them that are no larger."""
        entries = self.after.files
        segments = [index for index, entry in enumerate(entries) if entry.epoch]
        if not segments:
            return
        start = segments[0]
        while start > 0 and entries[start - 1].rows <= sum(e.rows for e in entries[start:]):
            if not self._upkeep.merges(entries[start - 1 :]):
                break
            start -= 1
        parts = [self._rows(entry) for entry in entries[start:] if entry.rows]
        kept = [part.without(self._upkeep.fleeting) for part in parts]
        portions = _portions([part for part in kept if part is not None])
        pieces = [*portions[:-1], *(_split(portions[-1]) if portions else [])]
        written = [self._written(piece) for piece in pieces]
        self.after = replace(self.after, files=(*entries[:start], *written))

    def _written(self, rows: Rows, *, place: str = FOLDER) -> FileEntry:
        """A new sealed file, read back before it replaces anything."""
        files = self._files
        entry = write_sealed(
            files.blobs, files.folder, rows=rows, epoch=self._epoch, indexed=True, place=place
        )
        self._rows(entry)
        return entry

    def renew_snapshot(self) -> None:
        """Write a snapshot, if one is due."""
        if self._upkeep.essential is None:
            return
        before = self.before.snapshot
        since, merged = before.end if before else 0, self.after.files
        count = sum(entry.rows for entry in self.before.files if entry.end > since)
        due = count >= max(SNAPSHOT_ROWS_MIN, (before.rows if before else 0) // 2)
        straddles = any(entry.first < since < entry.end for entry in merged)
        goes = self._upkeep.expired(merged, now=self._now) > 0
        if not (due or straddles or goes):
            return
        used = usable_snapshot(self._files, self.before)
        told = told_until(self.before, used)
        parts = [self._rows(entry).behind(told) for entry in files_behind(self.before, used)]
        history = History(parts if used is None else [used, *parts])
        essence = self._upkeep.essential(history)
        rows = history.taken(essence.offsets) if essence else None
        if essence is None or rows is None:
            return
        self._held_from = essence.held_from
        end = max(entry.end for entry in self.before.files)
        files = self._files
        written = write_snapshot(files.blobs, files.folder, rows=rows, end=end, epoch=self._epoch)
        if files.snapshot(written) is not None:
            self.after = replace(self.after, snapshot=written)

    def let_go(self) -> None:
        """Let files go that are too old or too many, but for the ids of their messages."""
        snapshot = self.after.snapshot
        if snapshot is None or not self._upkeep.lets_go:
            return
        entries = self.after.files
        bound = min(snapshot.end, self._held_from)
        free = sum(1 for entry in entries if entry.end <= bound)
        gone = entries[: min(free, self._upkeep.expired(entries, now=self._now))]
        if not gone:
            return
        first = gone[-1].end
        ids = [*self.after.ids, *self._ids_of(gone)]
        while len(ids) > 1 and ids[-2].rows <= 2 * ids[-1].rows:
            last = ids.pop()
            rows = Rows([self._rows(ids[-1]).batch, self._rows(last).batch])
            ids[-1] = self._written(rows, place=IDS)
        self.after = replace(self.after, files=entries[len(gone) :], first=first, ids=tuple(ids))

    def _ids_of(self, gone: Sequence[FileEntry]) -> list[FileEntry]:
        remember = self._upkeep.remember
        found = [remember(self._rows(entry)) for entry in gone] if remember else []
        rows = [each.batch for each in found if each is not None]
        return [self._written(Rows(rows), place=IDS)] if rows else []

    def outcome(self) -> Manifest:
        """The new manifest, which drops whatever it does not list any more."""
        named = set(self.after.names)
        gone = (set(self.before.names) | self._garbage()) - named - set(self.before.dropped)
        return replace(self.after, dropped=deletion_order(gone))

    def _garbage(self) -> set[str]:
        """What owners up to us have made for manifests that never came to be, or claimed late."""
        found = self._files.stray(self.before)
        for folder in (FOLDER, SNAPSHOTS, IDS):
            for last in self._files.blobs.names(f"{self._files.folder}/{folder}"):
                match = _EPOCH_IN_NAME.search(last)
                if match and int(match[1]) <= self._epoch:
                    found.add(f"{folder}/{last}")
        return found
