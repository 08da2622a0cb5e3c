"""What a new owner does with the older epochs: read them, make them durable, list them.

It runs after the claim, so whatever the older owners still write is behind what is read here and
is not in the new manifest. A cleanly sealed segment is listed as it stands. The rows of any other
are rewritten as a sealed file: its last writes may never have reached the disk, and syncing a file
again whose sync has failed proves nothing. When many segments have gathered they are merged into
one sealed file, so that the cost of a wake does not grow with the number of past wakes. Of a log
that is only asked for the newest row of each key, nothing else is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from ray_agents.errors import CorruptLog
from ray_agents.log.files import LogFiles, acknowledged, manifest_of
from ray_agents.log.manifest import FileEntry, Manifest, deletion_order
from ray_agents.log.rows import Rows, check_order
from ray_agents.log.sealed import write_sealed
from ray_agents.log.segment import Ending, Head, Segment, segment_name

UNMERGED_SEGMENTS_MAX = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """The log as a new owner takes it over: its manifest, its rows, and where it goes on."""

    manifest: Manifest
    parts: tuple[Rows, ...] = ()
    tip: int = 0
    last_time: int = 0


def adopt(files: LogFiles, *, epoch: int, head: Head | None, latest_only: bool = False) -> Adopted:
    """Read the epochs below ``epoch``, which is ours; ``head`` is the newest of them.

    ``latest_only`` drops every row but the newest of each key that is not deleted.

    Raises:
        CorruptLog: a row that belongs to the log cannot be read.
    """
    if head is None:
        return Adopted(manifest=Manifest(epoch=epoch, files=(), dropped=()))
    base = _newest_begun(files, head)
    first_unbegun = 1 if base is None else base.preamble.epoch + 1
    unbegun = [_empty(older) for older in range(first_unbegun, epoch)]
    if base is None:
        return Adopted(manifest=Manifest(epoch=epoch, files=tuple(unbegun), dropped=()))
    before = manifest_of(base)
    parts = [_read(files, entry) for entry in before.files if entry.rows]
    entries, own = _adopt_segment(files, base, epoch=epoch)
    parts += own
    reduce = _keep_latest if latest_only else _merge
    listed, parts, dropped = reduce(files, [*before.files, *entries, *unbegun], parts, epoch=epoch)
    undone = () if _has_deleted(base) else before.dropped
    return Adopted(
        manifest=Manifest(epoch=epoch, files=tuple(listed), dropped=(*undone, *dropped)),
        parts=tuple(parts),
        tip=base.batches[-1].column(0)[-1].as_py() + 1,
        last_time=base.batches[-1].column(1)[-1].value,
    )


def _empty(epoch: int) -> FileEntry:
    return FileEntry(name=segment_name("", epoch)[1:])


def _newest_begun(files: LogFiles, head: Head) -> Segment | None:
    """The newest segment that has a manifest; None if no epoch ever began."""
    for epoch in range(head.epoch, 0, -1):
        segment = files.segment(epoch)
        if segment is None:
            name = segment_name(files.folder, epoch)
            message = f"segment {name!r} is gone, and no newer one has a manifest; restore it"
            raise CorruptLog(message, segment=name, after_offset=None)
        if segment.ending is Ending.CORRUPT:
            raise segment.corruption()
        if segment.begun:
            return segment
    return None


def _read(files: LogFiles, entry: FileEntry) -> Rows:
    rows = files.listed(entry)
    if rows is None:
        name = f"{files.folder}/{entry.name}"
        message = f"file {name!r} is listed by the manifest but gone; restore it from a backup"
        raise CorruptLog(message, segment=name, after_offset=entry.first - 1)
    return rows


def _adopt_segment(
    files: LogFiles, base: Segment, *, epoch: int
) -> tuple[list[FileEntry], list[Rows]]:
    empty = _empty(base.preamble.epoch)
    if base.sealed:
        entry = acknowledged(base)
        return ([entry], [Rows(base.batches[:-1])]) if entry.rows else ([empty], [])
    rows = check_order(base.name, Rows(base.batches), start=0)
    entry = write_sealed(files.blobs, files.folder, rows=rows, epoch=epoch)
    return [entry, empty], [rows]


def _merge(
    files: LogFiles, entries: list[FileEntry], parts: list[Rows], *, epoch: int
) -> tuple[list[FileEntry], list[Rows], tuple[str, ...]]:
    """Replace the newest files by one, if there are too many segments.

    All segments go; of the sealed files before them, those that are not larger than what follows,
    so that their number grows with the logarithm of the rows, and each row is rewritten as often.
    """
    segments = [index for index, entry in enumerate(entries) if entry.epoch]
    if len(segments) <= UNMERGED_SEGMENTS_MAX:
        return entries, parts, ()
    start = segments[0]
    while start > 0 and entries[start - 1].rows <= sum(entry.rows for entry in entries[start:]):
        start -= 1
    kept = sum(1 for entry in entries[:start] if entry.rows)
    merged = [Rows([rows.batch for rows in parts[kept:]])] if parts[kept:] else []
    written, dropped = _replace(files, entries[start:], merged, epoch=epoch)
    return entries[:start] + written, parts[:kept] + merged, dropped


def _has_deleted(segment: Segment) -> bool:
    """Whether its owner has deleted what its manifest drops: at its clean end, had it appended."""
    return segment.sealed and len(segment.batches) > 1


def _keep_latest(
    files: LogFiles, entries: list[FileEntry], parts: list[Rows], *, epoch: int
) -> tuple[list[FileEntry], list[Rows], tuple[str, ...]]:
    """Replace all files by one that holds the newest row of each key."""
    latest = Rows([rows.batch for rows in parts]).latest() if parts else None
    merged = [] if latest is None else [latest]
    written, dropped = _replace(files, entries, merged, epoch=epoch)
    return written, merged, dropped


def _replace(
    files: LogFiles, gone: list[FileEntry], merged: list[Rows], *, epoch: int
) -> tuple[list[FileEntry], tuple[str, ...]]:
    written = [write_sealed(files.blobs, files.folder, rows=rows, epoch=epoch) for rows in merged]
    names = {entry.name for entry in gone} - {entry.name for entry in written}
    return written, deletion_order(tuple(names))
