"""Tidying a log: small files into large ones, and a snapshot of what it takes to wake.

Theory of operation. An owner tidies in a thread, beside its work, the files that its own manifest
lists; these never change. The result is a manifest again: what the next owner may list instead of
them. It is handed over in the closing frame, and if that is lost, or the owner dies before, the
files it made are garbage and nothing else has happened. The next owner's manifest names the new
files and drops the old ones, and whoever appended behind a durable manifest deletes what it drops.
So no reader and no claim ever waits for a merge, and nothing goes before its replacement is
durable, was read back, and is named.

*Merging*: all segments become one sealed file, and with it those sealed files before them that are
not larger than what follows: so the number of files grows with the logarithm of the rows, and each
row is rewritten as often. An index of the message ids lies beside it.

*The snapshot* holds those rows from which ``essential`` comes to the same state as from all of
them. A new one is due when what has come since the last is half as long as it; so what a wake
reads is at most one and a half times the state, and some files that are not merged yet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from ray_agents.errors import CorruptLog
from ray_agents.log.files import LOGGER, LogFiles
from ray_agents.log.history import History
from ray_agents.log.manifest import FileEntry, Manifest, deletion_order
from ray_agents.log.rows import Rows
from ray_agents.log.sealed import FOLDER, SNAPSHOTS, write_sealed, write_snapshot

UNMERGED_SEGMENTS_MAX = 16
UNMERGED_ROWS_MAX = 16_384
OVERDUE_SEGMENTS_MAX = 4 * UNMERGED_SEGMENTS_MAX
SNAPSHOT_ROWS_MIN = 256  # fewer are folded as fast as a snapshot is opened
_EPOCH_IN_NAME = re.compile(r"(\d{10})-[0-9a-f]{16}\.arrow", re.ASCII)

Essential = Callable[[History], Collection[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """How a log is kept.

    ``essential`` gives the offsets of the rows that tell the wake state; without it there are no
    snapshots. ``latest_only`` is for a log that is only ever asked for the newest row of each key:
    older rows, and deleted keys, are dropped at each claim.
    """

    essential: Essential | None = None
    latest_only: bool = False


def is_due(manifest: Manifest) -> bool:
    """Whether the files of ``manifest`` are worth tidying."""
    segments = [entry for entry in manifest.files if entry.epoch]
    rows = sum(entry.rows for entry in segments)
    return len(segments) > UNMERGED_SEGMENTS_MAX or rows > UNMERGED_ROWS_MAX


def is_overdue(manifest: Manifest) -> bool:
    """Whether tidying has not come about for so long that a claim had better wait for it."""
    return sum(1 for entry in manifest.files if entry.epoch) > OVERDUE_SEGMENTS_MAX


def usable_snapshot(files: LogFiles, manifest: Manifest) -> Rows | None:
    """The rows of the snapshot; None if there is none, or none that can be used.

    Then the whole log tells the same. That a listed one cannot be used is told in the process's
    log; ``ray-agents log verify`` finds it, too.
    """
    if manifest.snapshot is None:
        return None
    try:
        rows = files.snapshot(manifest.snapshot)
    except CorruptLog as error:
        LOGGER.error("%s; the whole log is read instead", error.message)
        return None
    if rows is None:
        name = f"{files.folder}/{manifest.snapshot.name}"
        LOGGER.error("snapshot %r is gone; the whole log is read instead", name)
    return rows


def files_behind(manifest: Manifest, snapshot: Rows | None) -> list[FileEntry]:
    """The files with rows that ``snapshot``, if it can be used, does not tell of."""
    used = manifest.snapshot if snapshot is not None else None
    end = used.end if used else 0
    return [entry for entry in manifest.files if entry.rows and entry.first >= end]


def tidied(files: LogFiles, manifest: Manifest, *, upkeep: Upkeep, epoch: int) -> Manifest:
    """What ``manifest`` becomes, once its files are merged; blocks. ``epoch`` is that of the owner.

    Raises:
        CorruptLog: a file does not hold what the manifest says.
        Fenced, StoreUnavailable, StoreFull: it cannot be done now.
    """
    merged, replaced = _merged(files, manifest.files, epoch=epoch)
    after = replace(manifest, files=tuple(merged))
    snapshot = _snapshot(files, manifest, upkeep=upkeep, epoch=epoch)
    if snapshot is not None:
        replaced += [manifest.snapshot.name] if manifest.snapshot else []
        after = replace(after, snapshot=snapshot)
    return replace(after, dropped=deletion_order({*replaced, *_garbage(files, manifest, after)}))


def _merged(
    files: LogFiles, entries: Sequence[FileEntry], *, epoch: int
) -> tuple[list[FileEntry], list[str]]:
    """The files afterwards, and the names of those that are not among them any more."""
    segments = [index for index, entry in enumerate(entries) if entry.epoch]
    if not segments:
        return list(entries), []
    start = segments[0]
    while start > 0 and entries[start - 1].rows <= sum(entry.rows for entry in entries[start:]):
        start -= 1
    gone = entries[start:]
    parts = [files.read_listed(entry, epoch=epoch) for entry in gone if entry.rows]
    written: list[FileEntry] = []
    if parts:
        rows = Rows([part.batch for part in parts])
        written = [write_sealed(files.blobs, files.folder, rows=rows, epoch=epoch, indexed=True)]
        files.read_listed(written[0], epoch=epoch)  # it is read back before it replaces anything
    kept = {entry.name for entry in written}
    return [*entries[:start], *written], [
        name for entry in gone if entry.name not in kept for name in _names(entry)
    ]


def _names(entry: FileEntry) -> list[str]:
    return [entry.name, entry.keys_name] if entry.keys else [entry.name]


def _snapshot(
    files: LogFiles, manifest: Manifest, *, upkeep: Upkeep, epoch: int
) -> FileEntry | None:
    """A new snapshot, if one is due."""
    before = manifest.snapshot
    end = max((entry.end for entry in manifest.files), default=0)
    since = before.end if before else 0
    count = sum(entry.rows for entry in manifest.files if entry.first >= since)
    due = count >= max(SNAPSHOT_ROWS_MIN, (before.rows if before else 0) // 2)
    if upkeep.essential is None or not due:
        return None
    used = usable_snapshot(files, manifest)
    parts = [files.read_listed(entry, epoch=epoch) for entry in files_behind(manifest, used)]
    history = History(parts if used is None else [used, *parts])
    rows = history.taken(upkeep.essential(history))
    if rows is None:
        return None
    written = write_snapshot(files.blobs, files.folder, rows=rows, end=end, epoch=epoch)
    return written if files.snapshot(written) is not None else None


def _garbage(files: LogFiles, before: Manifest, after: Manifest) -> set[str]:
    """Files of this log that its owners up to us have made, and no manifest will ever name."""
    named = {name for each in (before, after) for entry in each.files for name in _names(entry)}
    named |= {entry.name for entry in (before.snapshot, after.snapshot) if entry}
    found: set[str] = set()
    for folder in (FOLDER, SNAPSHOTS):
        for last in files.blobs.names(f"{files.folder}/{folder}"):
            match = _EPOCH_IN_NAME.search(last)
            name = f"{folder}/{last}"
            if match and int(match[1]) <= after.epoch and name not in named:
                found.add(name)
    return found - set(before.dropped)
