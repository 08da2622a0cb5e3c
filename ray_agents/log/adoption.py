"""What a new owner does with the older epochs: make them durable, and list them.

It runs after the claim, so whatever the older owners still write is behind what is read here and
is not in the new manifest. A cleanly sealed segment is listed as it stands. The rows of any other
are rewritten as a sealed file: its last writes may never have reached the disk, and syncing a file
again whose sync has failed proves nothing. What older manifests list is listed again, unread, or as
the last owner has tidied it (:mod:`ray_agents.log.tidying`). Of a log that is only asked for the
newest row of each key, nothing else is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ray_agents.errors import CorruptLog, RayAgentsError
from ray_agents.log.files import LOGGER, LogFiles, acknowledged, manifest_of, tidied_of
from ray_agents.log.listed import Listed, Part
from ray_agents.log.manifest import FileEntry, Manifest, deletion_order
from ray_agents.log.rows import Rows, check_order
from ray_agents.log.sealed import write_sealed
from ray_agents.log.segment import Ending, Head, Segment, segment_name
from ray_agents.log.tidying import (
    Upkeep,
    files_behind,
    is_overdue,
    tidied,
    told_until,
    usable_snapshot,
)

PLAIN = Upkeep()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """The log as a new owner takes it over: its manifest, its rows, and where it goes on.

    ``summary`` is what it takes to know the state, if that was asked for. ``rescued``: some rows
    may be durable only where this manifest, once that is durable, says that they are.
    """

    manifest: Manifest
    parts: tuple[Part, ...] = ()
    ids: tuple[Listed, ...] = ()
    summary: tuple[Part, ...] = ()
    tip: int = 0
    last_time: int = 0
    rescued: bool = False


def adopt(
    files: LogFiles,
    *,
    epoch: int,
    head: Head | None,
    upkeep: Upkeep = PLAIN,
    summarise: bool = False,
    now: int = 0,
) -> Adopted:
    """Take over the epochs below ``epoch``, which is ours; ``head`` is the newest of them.

    Raises:
        CorruptLog: the newest segment, or what else has to be read now, is damaged.
    """
    if head is None:
        return Adopted(manifest=Manifest(epoch=epoch))
    base = _newest_begun(files, head)
    first_unbegun = 1 if base is None else base.preamble.epoch + 1
    unbegun = [_empty(older) for older in range(first_unbegun, epoch)]
    if base is None:
        return Adopted(manifest=Manifest(epoch=epoch, files=tuple(unbegun)))
    before = _as_left(base)
    entries, own = _adopt_segment(files, base, epoch=epoch)
    manifest = replace(before, epoch=epoch, files=(*before.files, *entries, *unbegun))
    if upkeep.latest_only:
        manifest, own = _keep_latest(files, manifest)
    elif is_overdue(manifest):
        manifest = _tidied_if_possible(files, manifest, upkeep=upkeep, epoch=epoch, now=now)
    return _adopted(files, manifest, own, base=base, summarise=summarise)


def _tidied_if_possible(
    files: LogFiles, manifest: Manifest, *, upkeep: Upkeep, epoch: int, now: int
) -> Manifest:
    """``manifest``, tidied; as it is if that fails, for nobody's wake depends on it."""
    try:
        after = tidied(files, manifest, upkeep=upkeep, epoch=epoch, now=now)
    except (ArithmeticError, RayAgentsError, ValueError) as error:  # pyarrow's own are ValueErrors
        LOGGER.warning("%s cannot be tidied: %s", files.folder, error, exc_info=True)
        return manifest
    return replace(after, dropped=(*manifest.dropped, *after.dropped))


def _adopted(
    files: LogFiles,
    manifest: Manifest,
    own: Mapping[str, Rows],
    *,
    base: Segment,
    summarise: bool,
) -> Adopted:
    """``own`` are the rows, by the name of their file, that are in memory already."""

    def part(entry: FileEntry) -> Part:
        return own.get(entry.name) or files.part(entry, epoch=manifest.epoch)

    summary: list[Part] = []
    if summarise:
        snapshot = usable_snapshot(files, manifest)
        summary += [] if snapshot is None else [snapshot]
        told = told_until(manifest, snapshot)
        summary += [
            (own.get(entry.name) or files.read_listed(entry, epoch=manifest.epoch)).behind(told)
            for entry in files_behind(manifest, snapshot)
        ]
    return Adopted(
        manifest=manifest,
        parts=tuple(part(entry) for entry in manifest.files if entry.rows),
        ids=tuple(files.part(entry, epoch=manifest.epoch) for entry in manifest.ids),
        summary=tuple(summary),
        tip=base.batches[-1].column(0)[-1].as_py() + 1,
        last_time=base.batches[-1].column(1)[-1].value,
        rescued=not base.sealed,
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


def _as_left(base: Segment) -> Manifest:
    """What the owner of ``base`` listed, or has made of that; ``dropped`` is what it left to do."""
    listed = manifest_of(base)
    undone = () if _has_deleted(base) else listed.dropped
    made = tidied_of(base)
    if made is None:
        return replace(listed, dropped=undone)
    return replace(made, dropped=(*undone, *made.dropped))


def _adopt_segment(
    files: LogFiles, base: Segment, *, epoch: int
) -> tuple[list[FileEntry], dict[str, Rows]]:
    """How ``base`` itself is listed from now on, and its rows by the name of their file."""
    empty = _empty(base.preamble.epoch)
    if base.sealed:
        entry = acknowledged(base)
        if not entry.rows:
            return [empty], {}
        return [entry], {entry.name: files.keep_rows(entry, Rows(base.batches[:-1]))}
    rows = check_order(base.name, Rows(base.batches), start=0)
    entry = write_sealed(files.blobs, files.folder, rows=rows, epoch=epoch)
    return [entry, empty], {entry.name: rows}


def _has_deleted(segment: Segment) -> bool:
    """Whether its owner has deleted what its manifest drops: at its clean end, had it appended."""
    return segment.sealed and len(segment.batches) > 1


def _keep_latest(files: LogFiles, manifest: Manifest) -> tuple[Manifest, dict[str, Rows]]:
    """Replace all files by one that holds the newest row of each key."""
    listed = [entry for entry in manifest.files if entry.rows]
    parts = [files.read_listed(entry, epoch=manifest.epoch) for entry in listed]
    latest = Rows([rows.batch for rows in parts]).latest() if parts else None
    written: list[FileEntry] = []
    if latest is not None:
        entry = write_sealed(files.blobs, files.folder, rows=latest, epoch=manifest.epoch)
        written.append(entry)
    gone = {entry.name for entry in manifest.files} | files.stray(manifest)
    gone -= {entry.name for entry in written}.union(manifest.dropped)
    dropped = (*manifest.dropped, *deletion_order(gone))
    own = {entry.name: latest for entry in written if latest is not None}
    return replace(manifest, files=tuple(written), dropped=dropped), own
