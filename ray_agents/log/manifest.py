"""The manifest: the row that says which files, and how many rows of each, make up the log.

It is the first row of every segment's first frame, and the newest intact one alone defines the
log up to its own offset. A file counts for exactly the rows its entry names, whatever stands
behind them in the file; a segment that never began, or whose rows were rewritten under
``sealed/``, is listed with 0 rows until a merge removes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ray_agents.events import Draft, Event, Operation
from ray_agents.log.segment import MANIFEST_ROW, epoch_of


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a log, by its name below the log's folder.

    ``first`` is the offset of its first row, ``end`` the one after its last; offsets in between
    may be missing, so ``rows`` counts. ``digest`` is the chain of frame digests of a segment, or
    the digest of a sealed file's bytes; empty with 0 rows.
    """

    name: str
    first: int = 0
    end: int = 0
    rows: int = 0
    digest: str = ""

    @property
    def epoch(self) -> int | None:
        """The epoch of a segment; None for a sealed file."""
        return epoch_of(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The files of a log, oldest first; ``dropped`` are to be deleted, in this order."""

    epoch: int
    files: tuple[FileEntry, ...]
    dropped: tuple[str, ...]

    def draft(self) -> Draft:
        """The row to append; files are lists of (name, first, end, rows, digest)."""
        value = {
            "epoch": self.epoch,
            "files": [
                [file.name, file.first, file.end, file.rows, file.digest] for file in self.files
            ],
            "dropped": self.dropped,
        }
        return Draft.of(MANIFEST_ROW, "manifest", value=value, operation=Operation.UPSERT)

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read the row back."""
        row = event.value
        files = [
            FileEntry(name=name, first=first, end=end, rows=rows, digest=digest)
            for name, first, end, rows, digest in row["files"]
        ]
        return cls(epoch=row["epoch"], files=tuple(files), dropped=tuple(row["dropped"]))


def deletion_order(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` with segments first and ascending: a reader of epoch N knows N-1 went before."""
    return tuple(sorted(names, key=lambda name: (epoch_of(name) is None, name)))
