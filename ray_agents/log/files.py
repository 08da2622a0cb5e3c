"""Reading a log's files: the newest segment, and what a manifest lists; verified, then kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from ray_agents.errors import CorruptLog, Fenced
from ray_agents.events import JSON, decode
from ray_agents.log.arrow import Batch
from ray_agents.log.codec import VALUE_COLUMN, chain_digest
from ray_agents.log.keyindex import KeyIndex, decode_index
from ray_agents.log.listed import Listed
from ray_agents.log.manifest import FileEntry, Manifest
from ray_agents.log.rows import Rows, check_order
from ray_agents.log.sealed import decode_sealed
from ray_agents.log.segment import Ending, Head, Segment, epoch_of, parse_segment, segment_name
from ray_agents.log.threads import Kept
from ray_agents.ports import Blobs

TIDIED = "tidied"
LOGGER = logging.getLogger("ray_agents.log")


class LogFiles:
    """The files of the log in ``folder``. All methods block; call them in a thread."""

    def __init__(self, blobs: Blobs, folder: str, *, kept: Kept) -> None:
        self.blobs = blobs
        self.folder = folder
        self._kept = kept

    def newest_epoch(self) -> int:
        """The highest epoch there is; 0 if there is no log."""
        epochs = [epoch_of(name) for name in self.blobs.names(self.folder)]
        return max((epoch for epoch in epochs if epoch is not None), default=0)

    def stray(self, manifest: Manifest) -> set[str]:
        """The segments below the manifest's epoch that it does not list.

        They were merged away; a claim on an outdated head has made their names anew, in vain. To
        an owner of that epoch who was stopped for long it would look as if its segment stood.
        """
        names = self.blobs.names(self.folder)
        older = {name for name in names if 0 < (epoch_of(name) or 0) < manifest.epoch}
        return older.difference(manifest.names)

    def head(self) -> Head | None:
        """The newest segment's head; None if there is no log.

        Raises:
            CorruptLog: the newest segment is damaged.
        """
        epoch = self.newest_epoch()
        if epoch == 0:
            return None
        segment = self.segment(epoch)
        if segment is None:
            return self.head()
        if segment.ending is Ending.CORRUPT:
            raise segment.corruption()
        return segment.head

    def segment(self, epoch: int) -> Segment | None:
        """The intact part of a segment; None if there is no such file.

        A sealed one is read once: nothing is ever written behind a closing frame.
        """
        name = segment_name(self.folder, epoch)
        known: Segment | None = self._kept.get((self.blobs, name))
        if known is not None:
            return known
        data = self.blobs.read(name)
        if data is None:
            return None
        segment = parse_segment(name, data)
        if segment.sealed:
            self.keep(segment)
        return segment

    def keep(self, segment: Segment) -> None:
        """Keep a sealed segment that was read, or written, in this process."""
        self._kept.put((self.blobs, segment.name), segment, size=segment.position)

    def listed(self, entry: FileEntry) -> Rows | None:
        """The rows a manifest lists; None if the file is gone.

        Raises:
            CorruptLog: the file does not hold what the manifest says.
        """
        read = self._listed_segment if entry.epoch else self._listed_sealed
        return self._once(entry, read, lambda rows: rows.end == entry.end)

    def _once(
        self,
        entry: FileEntry,
        read: Callable[[FileEntry], Rows | None],
        ends_right: Callable[[Rows], bool],
    ) -> Rows | None:
        """What ``read`` gives, checked against its entry and kept; None if the file is gone."""
        known: Rows | None = self._kept.get(self._key(entry))
        if known is not None:
            return known
        rows = read(entry)
        if rows is None:
            return None
        if rows.count != entry.rows or rows.first != entry.first or not ends_right(rows):
            raise _not_as_listed(f"{self.folder}/{entry.name}", entry)
        return self.keep_rows(entry, rows)

    def read_listed(self, entry: FileEntry, *, epoch: int) -> Rows:
        """The rows a manifest lists, for the owner of ``epoch``, who deletes none of them.

        Raises:
            Fenced: the file is gone, for a newer owner has replaced it.
            CorruptLog: it is gone, or does not hold what the manifest says.
        """
        rows = self.listed(entry)
        if rows is None:
            name = f"{self.folder}/{entry.name}"
            if self.newest_epoch() > epoch:
                message = f"log {self.folder!r} has been taken over; look the owner up again"
                raise Fenced(message, segment=name)
            message = f"file {name!r} is listed by the manifest but gone; restore it from a backup"
            raise CorruptLog(message, segment=name, after_offset=entry.first - 1)
        return rows

    def part(self, entry: FileEntry, *, epoch: int) -> Listed:
        """The rows a manifest lists, to be read when they are asked for, by ``epoch``'s owner.

        The index of its message ids is read at once, if there is one. Without one each fresh id
        asks for the rows: those that are kept are there at once, and nobody waits for a thread.
        """
        read = partial(self.read_listed, epoch=epoch)
        kept: Rows | None = None if entry.keys else self._kept.get(self._key(entry))
        return Listed(entry, read=read, keys=self.keys(entry), rows=kept)

    def keep_rows(self, entry: FileEntry, rows: Rows) -> Rows:
        """Keep the rows of a file that somebody has in memory, as if they had been read.

        Raises:
            CorruptLog: they are out of order.
        """
        key = self._key(entry)
        known: Rows | None = self._kept.get(key)
        if known is not None:
            return known
        self._kept.put(key, check_order(key[1], rows, start=entry.first), size=rows.size)
        return rows

    def _key(self, entry: FileEntry) -> tuple[Blobs, str, str]:
        """Under which the rows of a file are kept."""
        return self.blobs, f"{self.folder}/{entry.name}", entry.digest

    def keys(self, entry: FileEntry) -> KeyIndex | None:
        """The index beside a sealed file; None if there is none, or none that can be used.

        Then the file itself is read for what the index would have told.
        """
        if not entry.keys:
            return None
        name = f"{self.folder}/{entry.keys_name}"
        known: KeyIndex | None = self._kept.get((self.blobs, name, entry.keys))
        if known is not None:
            return known
        data = self.blobs.read(name)
        if data is None:
            LOGGER.error("%r is listed but gone; run `ray-agents log verify`", name)
            return None
        try:
            index = decode_index(name, data, digest=entry.keys)
        except CorruptLog as error:
            LOGGER.error("%s; its sealed file is read instead", error.message)  # noqa: TRY400
            return None
        self._kept.put((self.blobs, name, entry.keys), index, size=len(data))
        return index

    def is_there(self, entry: FileEntry) -> bool:
        """Whether a listed file is there now."""
        return self.blobs.exists(f"{self.folder}/{entry.name}")

    def snapshot(self, entry: FileEntry) -> Rows | None:
        """The rows of a snapshot; None if the file is gone.

        Raises:
            CorruptLog: the file does not hold what the manifest says.
        """
        return self._once(entry, self._listed_sealed, lambda rows: rows.end <= entry.end)

    def _listed_sealed(self, entry: FileEntry) -> Rows | None:
        """The first rows of a sealed file, as many as are listed: a fork may use a part of it."""
        name = f"{self.folder}/{entry.name}"
        data = self.blobs.read(name)
        if data is None:
            return None
        rows = decode_sealed(name, data, digest=entry.digest)
        return rows.beginning(entry.rows)

    def _listed_segment(self, entry: FileEntry) -> Rows | None:
        segment = self.segment(entry.epoch or 0)
        if segment is None:
            return None
        count = rows = 0
        while rows < entry.rows and count < len(segment.batches):
            rows += segment.batches[count].num_rows
            count += 1
        if rows < entry.rows:
            raise segment.corruption()
        if rows > entry.rows or chain_digest(segment.digests[:count]) != entry.digest:
            raise _not_as_listed(segment.name, entry)
        return Rows(segment.batches[:count])


def _not_as_listed(name: str, entry: FileEntry) -> CorruptLog:
    message = (
        f"file {name!r} does not hold the {entry.rows} rows from offset {entry.first} "
        "that the manifest lists; restore it from a backup"
    )
    return CorruptLog(message, segment=name, after_offset=entry.first - 1)


def manifest_of(segment: Segment) -> Manifest:
    """The manifest in a begun segment's first row."""
    return Manifest.of_value(_value(segment.batches[0], 0))


def tidied_of(segment: Segment) -> Manifest | None:
    """What the owner of a segment has made of its manifest by its end, if anything."""
    if not segment.sealed:
        return None
    closing = segment.batches[-1]
    tidied = _value(closing, closing.num_rows - 1).get(TIDIED)
    return Manifest.of_value(tidied) if tidied else None


def listing_of(segment: Segment) -> Manifest:
    """The newest manifest in a begun segment."""
    return tidied_of(segment) or manifest_of(segment)


def _value(batch: Batch, row: int) -> JSON:
    """The value of one row; its other columns, which nobody asks for, take longer to decode."""
    return decode(batch.column(VALUE_COLUMN)[row].as_py())


def acknowledged(segment: Segment) -> FileEntry:
    """A sealed segment as a manifest lists it: without the closing frame, which was not synced."""
    batches = segment.batches[:-1]
    name = segment.name.rpartition("/")[2]
    if not batches:
        return FileEntry(name=name)
    return FileEntry(
        name=name,
        first=batches[0].column(0)[0].as_py(),
        end=batches[-1].column(0)[-1].as_py() + 1,
        rows=sum(batch.num_rows for batch in batches),
        digest=chain_digest(segment.digests[:-1]),
    )
