"""One log, examined file by file: all that a reader would stumble over, and all it would not.

Theory of operation. A reader looks at the newest segment and at what its manifest lists, and
survives a damaged marker. An examination reads every file in the folder, whole: each segment's
schema message, every frame's digest and both of its markers, and each sealed file, index and
snapshot against the digest in its name, whether a manifest lists it or not; so no flipped bit is
missed. Then it holds
what the newest manifest says (epochs, row counts, digests, ranges of offsets) against the files.

Nothing is written, claimed or synced. The log may be in use meanwhile: files come and go, and the
newest segment may end in the middle of a frame. So a look that finds something is repeated until
two agree, and a torn tail is a fault only if nobody has the segment open for appending. In a
segment that was taken over it never is one: the newer manifest says where it ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from xxhash import xxh3_64_hexdigest

from ray_agents.errors import CorruptLog, StoreUnavailable
from ray_agents.findings import Fault, Finding, Verification
from ray_agents.log.arrow import Batch, pa
from ray_agents.log.codec import chain_digest
from ray_agents.log.files import listing_of
from ray_agents.log.keyindex import SUFFIX, digest_of, index_of
from ray_agents.log.manifest import FileEntry
from ray_agents.log.sealed import FOLDER, IDS, SNAPSHOTS, decode_sealed
from ray_agents.log.segment import (
    MANIFEST_ROW,
    SEALED_ROW,
    Ending,
    Segment,
    epoch_of,
    find_scars,
    parse_segment,
    segment_name,
)
from ray_agents.ports import Blobs

LOOKS_MAX = 5
RESTORE = (
    "restore the file from a backup; until then nothing in it is served, and the log is not woken "
    "if it is the newest segment"
)
HARMLESS = "no row of the log is damaged; the file goes with the next merge, or restore it"
STALE = "no manifest lists it, so no row of the log is damaged; it may be deleted"
SCARRED = "no row is damaged, for the frame's other marker stands; restore the file from a backup"
CUT = (
    "after a crash it was never acknowledged, and the next wake cuts it, or ray-agents log verify "
    "--repair does; if the file was copied or restored, take the whole one first"
)
UPGRADE = "see to it that the file can be read by this version of ray-agents"
DERIVED = "no row is damaged; the log is read without it until the next merge makes it anew"
_INDEX_NAME = re.compile(r"(.*\.arrow)\.([0-9a-f]{16})\.keys", re.ASCII)
_SNAPSHOT_NAME = re.compile(r"(\d{16})-(\d{10})-([0-9a-f]{16})\.arrow", re.ASCII)
_SEALED_NAME = re.compile(r"(\d{16})-(\d{16})-(\d{10})-([0-9a-f]{16})\.arrow", re.ASCII)
InUse = Callable[[str], bool]


def examine_log(blobs: Blobs, folder: str, *, in_use: InUse) -> Verification:
    """Everything that is wrong with the log in ``folder``; ``in_use`` tells who has a name open.

    Raises:
        StoreUnavailable: the medium refuses to list the folder.
    """
    look = _Look(blobs, folder, in_use=in_use)
    found = look.taken()
    for _ in range(LOOKS_MAX):
        if found.sound and not look.moved:
            break
        before, look = found, _Look(blobs, folder, in_use=in_use)
        found = look.taken()
        if before.findings == found.findings and not look.moved:
            break
    return found


@dataclass(slots=True)
class _Look:
    """One look at all files of a log.

    ``segments`` and ``sealed`` hold what each file has in it, by epoch and by name; None if it is
    too damaged to tell. ``base`` is the newest segment that has a manifest, ``listed`` what that
    lists, by name. ``moved``: a file went while it was looked at.
    """

    blobs: Blobs
    folder: str
    in_use: InUse = field(kw_only=True)
    segments: dict[int, Segment | None] = field(default_factory=dict[int, Segment | None])
    damaged: dict[int, CorruptLog] = field(default_factory=dict[int, CorruptLog])
    sealed: dict[str, FileEntry | None] = field(default_factory=dict[str, FileEntry | None])
    derived: set[str] = field(default_factory=set[str])
    snapshot: FileEntry | None = None
    base: Segment | None = None
    listed: dict[str, FileEntry] = field(default_factory=dict[str, FileEntry])
    moved: bool = False
    files: int = 0
    bytes: int = 0
    rows: int = 0
    findings: list[Finding] = field(default_factory=list[Finding])
    notes: list[str] = field(default_factory=list[str])

    def taken(self) -> Verification:
        """The outcome."""
        names = self.blobs.names(self.folder)
        self.notes += [
            f"{self.folder}/{name} is no file of a log"
            for name in names
            if epoch_of(name) is None and name not in (FOLDER, IDS, SNAPSHOTS)
        ]
        for epoch in sorted(epoch for epoch in map(epoch_of, names) if epoch is not None):
            self.segments[epoch] = self._segment(epoch)
        self.base = self._base()
        if self.base is not None:
            self._take_manifest(self.base)
        for place in (FOLDER, IDS):
            for last in self.blobs.names(f"{self.folder}/{place}"):
                name = f"{place}/{last}"
                if name.endswith(SUFFIX):
                    self._check_index(name)
                else:
                    self.sealed[name] = self._sealed(name)
        for name in self.blobs.names(f"{self.folder}/{SNAPSHOTS}"):
            self._check_snapshot(name)
        for entry in self.listed.values():
            self._check_entry(entry)
        self._check_derived()
        for epoch, segment in self.segments.items():
            self._check_end(epoch, segment)
        return Verification(
            logs=1,
            files=self.files,
            bytes=self.bytes,
            rows=self.rows,
            findings=tuple(self.findings),
            notes=tuple(self.notes),
        )

    def _find(self, fault: Fault, file: str, what: str, **facts: Any) -> None:
        remedy = facts.pop("remedy", RESTORE)
        self.findings.append(Finding(fault=fault, file=file, what=what, remedy=remedy, **facts))

    def _read(self, name: str) -> bytes | None:
        """A file's content; None if it cannot be read, or is gone by now."""
        try:
            data = self.blobs.read(name)
        except StoreUnavailable as error:
            self._find(Fault.UNREADABLE, name, error.message, remedy=UPGRADE)
            return None
        if data is None:
            self.moved = True
        else:
            self.files += 1
            self.bytes += len(data)
        return data

    # -- each file by itself ------------------------------------------------------------------

    def _segment(self, epoch: int) -> Segment | None:
        """The intact part of a segment, whose frames are in order; None if there is none."""
        name = segment_name(self.folder, epoch)
        data = self._read(name)
        if data is None:
            return None
        try:
            segment = parse_segment(name, data)
        except CorruptLog as error:
            self.damaged[epoch] = error
            return None
        except StoreUnavailable as error:
            self._find(Fault.UNREADABLE, name, error.message, remedy=UPGRADE)
            return None
        for byte in find_scars(segment.preamble, data, stop=segment.position):
            what = "one of the two markers of the frame that begins there is damaged"
            self._find(Fault.CORRUPT, name, what, remedy=SCARRED, byte=byte)
        if segment.begun:
            self._check_frames(segment)
        return segment

    def _check_frames(self, segment: Segment) -> None:
        """The first frame begins with the manifest, the closing one is the last, offsets rise."""
        if segment.batches[0].column(2)[0].as_py() != MANIFEST_ROW:
            self._find(Fault.DISORDERED, segment.name, "it does not begin with a manifest")
        if any(batch.column(2)[-1].as_py() == SEALED_ROW for batch in segment.batches[:-1]):
            self._find(Fault.DISORDERED, segment.name, "frames stand behind its closing frame")
        if not _rising(segment.batches):
            self._find(Fault.DISORDERED, segment.name, "its offsets do not rise strictly")

    def _sealed(self, name: str) -> FileEntry | None:
        """What a sealed file holds, if its bytes are those that its name was made of."""
        path = f"{self.folder}/{name}"
        match = _SEALED_NAME.fullmatch(name.rpartition("/")[2])
        if match is None:
            self.notes.append(f"{path} is no sealed file")
            return None
        data = self._read(path)
        if data is None:
            return None
        first, last, digest = int(match[1]), int(match[2]), match[4]
        if xxh3_64_hexdigest(data) != digest:
            known = self.base is not None and int(match[3]) <= self.base.preamble.epoch
            stale = known and name not in self.listed
            self._find(
                Fault.CORRUPT,
                path,
                f"its bytes, of the offsets {first} to {last}, are not those of its digest",
                remedy=STALE if stale else RESTORE,
                after_offset=first - 1,
            )
            return None
        rows = decode_sealed(path, data, digest=digest)
        if (rows.first, rows.end - 1) != (first, last) or not _rising([rows.batch]):
            self._find(Fault.DISORDERED, path, "its offsets are not those that its name says")
        listed = self.listed.get(name)
        indexed = listed is not None and listed.keys
        return FileEntry(
            name=name,
            first=rows.first,
            end=rows.end,
            rows=rows.count,
            digest=digest,
            keys=digest_of(index_of(rows.batch).encode()) if indexed else "",
            bytes=len(data),
            time=rows.last_time,
        )

    def _check_index(self, name: str) -> None:
        """An index of message ids: its bytes are those that its name was made of."""
        path = f"{self.folder}/{name}"
        match = _INDEX_NAME.fullmatch(name.rpartition("/")[2])
        if match is None:
            self.notes.append(f"{path} is no index of a sealed file")
            return
        data = self._read(path)
        if data is not None:
            self.derived.add(name)
            if digest_of(data) != match[2]:
                what = "its bytes are not those of its digest"
                self._find(Fault.CORRUPT, path, what, remedy=DERIVED)

    def _check_snapshot(self, name: str) -> None:
        """A snapshot: its bytes are those that its name was made of, and as they are listed."""
        path, match = f"{self.folder}/{SNAPSHOTS}/{name}", _SNAPSHOT_NAME.fullmatch(name)
        if match is None:
            self.notes.append(f"{path} is no snapshot")
            return
        data = self._read(path)
        if data is None:
            return
        self.derived.add(f"{SNAPSHOTS}/{name}")
        end, digest = int(match[1]), match[3]
        if xxh3_64_hexdigest(data) != digest:
            what = f"its bytes, of the state at {end}, are not those of its digest"
            self._find(Fault.CORRUPT, path, what, remedy=DERIVED)
            return
        rows, listed = decode_sealed(path, data, digest=digest), self.snapshot
        there = FileEntry(
            name=f"{SNAPSHOTS}/{name}",
            first=rows.first,
            end=end,
            rows=rows.count,
            digest=digest,
            bytes=len(data),
            time=rows.last_time,
        )
        wrong = listed is not None and listed.name == there.name and listed != there
        if wrong or rows.end > end or not _rising([rows.batch]):
            what = "its rows are not those that its name and the manifest say"
            self._find(Fault.DISORDERED, path, what, remedy=DERIVED)

    # -- the files together -------------------------------------------------------------------

    def _base(self) -> Segment | None:
        """The newest segment with a manifest; None if there is none, or that cannot be told."""
        for epoch in range(max(self.segments, default=0), 0, -1):
            if epoch not in self.segments:
                what = "it is gone, and no newer segment has a manifest"
                self._find(Fault.MISSING, segment_name(self.folder, epoch), what)
                return None
            segment = self.segments[epoch]
            if segment is None or (not segment.begun and segment.ending is Ending.CORRUPT):
                return None
            if segment.begun:
                return segment
        return None

    def _take_manifest(self, base: Segment) -> None:
        """Read what the newest manifest lists; it is in order, and the segment goes on behind."""
        try:
            manifest = listing_of(base)
        except (ValueError, TypeError, KeyError) as error:
            self._find(Fault.DISORDERED, base.name, f"its manifest is none ({error!r})")
            return
        epochs = [entry.epoch for entry in manifest.files if entry.epoch]
        newest = base.preamble.epoch
        if manifest.epoch != newest or epochs != list(range(newest - len(epochs), newest)):
            what = f"its manifest is one of epoch {manifest.epoch} and lists the epochs {epochs}"
            self._find(Fault.DISORDERED, base.name, what)
        self.listed = {entry.name: entry for entry in (*manifest.ids, *manifest.files)}
        self.snapshot = manifest.snapshot
        served = base.batches[:-1] if base.sealed else base.batches
        self.rows = sum(batch.num_rows for batch in served)
        end = 0
        for entry in (entry for entry in manifest.files if entry.rows):
            self.rows += entry.rows
            if entry.first < end or entry.end <= entry.first:
                what = f"its offsets, {entry.first} to {entry.end - 1}, are listed out of order"
                self._find(Fault.DISORDERED, f"{self.folder}/{entry.name}", what)
            end = max(end, entry.end)
        if base.batches[0].column(0)[0].as_py() < end:
            self._find(Fault.DISORDERED, base.name, f"offsets below {end} are used again in it")

    def _check_entry(self, entry: FileEntry) -> None:
        """A file as the manifest lists it; what is damaged in itself is told of elsewhere."""
        epoch = entry.epoch
        if (epoch not in self.segments) if epoch else (entry.name not in self.sealed):
            what = f"the manifest lists it, with {entry.rows} rows, and it is gone"
            remedy = RESTORE if entry.rows else HARMLESS
            name = f"{self.folder}/{entry.name}"
            self._find(Fault.MISSING, name, what, remedy=remedy, after_offset=entry.first - 1)
            return
        there = self._prefix(epoch, entry) if epoch else self._beginning(entry)
        if there is not None and there != entry:
            what = f"it does not hold the {entry.rows} rows from offset {entry.first} on "
            name = f"{self.folder}/{entry.name}"
            self._find(Fault.DISORDERED, name, what + "that the manifest lists")

    def _beginning(self, entry: FileEntry) -> FileEntry | None:
        """As many first rows of a sealed file as ``entry`` lists: a fork may list fewer."""
        whole = self.sealed[entry.name]
        if whole is None or whole.rows <= entry.rows or not entry.rows:
            return whole
        path = f"{self.folder}/{entry.name}"
        data = self.blobs.read(path)
        if data is None:
            self.moved = True
            return None
        rows = decode_sealed(path, data, digest=whole.digest).beginning(entry.rows)
        return replace(whole, end=rows.end, rows=rows.count, time=rows.last_time)

    def _check_derived(self) -> None:
        """The snapshot and the indexes that the manifest lists are there."""
        listed = [entry.keys_name for entry in self.listed.values() if entry.keys]
        listed += [self.snapshot.name] if self.snapshot else []
        for name in listed:
            if name not in self.derived:
                what = "the manifest lists it, and it is gone"
                self._find(Fault.MISSING, f"{self.folder}/{name}", what, remedy=DERIVED)

    def _prefix(self, epoch: int, entry: FileEntry) -> FileEntry | None:
        """As many first frames of a segment as have the rows of ``entry``."""
        segment = self.segments[epoch]
        if segment is None or not entry.rows or self._falls_short(segment):
            return None
        count = rows = 0
        while rows < entry.rows and count < len(segment.batches):
            rows += segment.batches[count].num_rows
            count += 1
        return FileEntry(
            name=entry.name,
            first=segment.batches[0].column(0)[0].as_py() if count else 0,
            end=segment.batches[count - 1].column(0)[-1].as_py() + 1 if count else 0,
            rows=rows,
            digest=chain_digest(segment.digests[:count]),
        )

    def _falls_short(self, segment: Segment) -> bool:
        """Whether damage in it has taken rows that count."""
        entry = self.listed.get(segment.name.rpartition("/")[2])
        rows = sum(batch.num_rows for batch in segment.batches)
        return segment.ending is Ending.CORRUPT and entry is not None and rows < entry.rows

    def _check_end(self, epoch: int, segment: Segment | None) -> None:
        """What stands behind the last whole frame of a segment, or in place of its first bytes."""
        base, entry = self.base, self.listed.get(segment_name("", epoch)[1:])
        taken_over = base is not None and epoch < base.preamble.epoch
        unused = HARMLESS if taken_over and (entry is None or not entry.rows) else RESTORE
        if segment is None:
            if epoch in self.damaged:
                what = "its schema message is damaged"
                name = segment_name(self.folder, epoch)
                self._find(Fault.CORRUPT, name, what, remedy=unused, byte=0)
            return
        where = segment.corruption().facts
        facts = {"byte": where["byte"], "after_offset": where["after_offset"]}
        if segment.ending is Ending.CORRUPT:
            what = "what stands there is no frame, neither whole nor torn"
            remedy = HARMLESS if taken_over and not self._falls_short(segment) else RESTORE
            self._find(Fault.CORRUPT, segment.name, what, remedy=remedy, **facts)
        elif segment.ending is Ending.TORN and segment.sealed:
            what = "something stands behind its closing frame"
            self._find(Fault.CORRUPT, segment.name, what, remedy=HARMLESS, **facts)
        elif segment.ending is Ending.TORN and not taken_over and not self.in_use(segment.name):
            what = "a torn tail, a frame cut short or zeros, and nobody is writing it"
            self._find(Fault.TORN, segment.name, what, remedy=CUT, **facts)


def _rising(batches: Sequence[Batch]) -> bool:
    """Whether the offsets of ``batches`` rise strictly, from 0 at least."""
    offsets: Any = pa.chunked_array([batch.column(0) for batch in batches]).to_numpy()
    return bool(offsets[0] >= 0 and (offsets[1:] > offsets[:-1]).all())
