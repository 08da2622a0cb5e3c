"""The manifest: the row that says which files, and how many rows of each, make up the log.

It is the first row of every segment's first frame, and the newest intact one alone defines the
log up to its own offset. A file counts for exactly the rows its entry names, whatever stands
behind them in the file; a segment that never began, or whose rows were rewritten under
``sealed/``, is listed with 0 rows until a merge removes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ray_agents.events import JSON, Draft, Event, Operation
from ray_agents.log.keyindex import SUFFIX
from ray_agents.log.segment import MANIFEST_ROW, epoch_of

_FIELDS = ("name", "first", "end", "rows", "digest", "keys", "bytes", "time")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a log, by its name below the log's folder.

    ``first`` is the offset of its first row, ``end`` the one after its last; offsets in between
    may be missing, so ``rows`` counts. ``digest`` is the chain of frame digests of a segment, or
    the digest of a sealed file's bytes; empty with 0 rows. ``keys`` is the digest of the index
    beside a sealed file, empty if there is none (:mod:`ray_agents.log.keyindex`). Of a sealed file
    ``bytes`` is the size and ``time`` that of its newest row, in microseconds since the epoch.
    """

    name: str
    first: int = 0
    end: int = 0
    rows: int = 0
    digest: str = ""
    keys: str = ""
    bytes: int = 0
    time: int = 0

    @property
    def epoch(self) -> int | None:
        """The epoch of a segment; None for a sealed file."""
        return epoch_of(self.name)

    @property
    def keys_name(self) -> str:
        """The name of the index beside it."""
        return f"{self.name}.{self.keys}{SUFFIX}"

    def row(self) -> list[JSON]:
        """As it stands in a manifest."""
        row: list[JSON] = [self.name, self.first, self.end, self.rows, self.digest]
        return row if self.epoch else [*row, self.keys, self.bytes, self.time]

    @property
    def names(self) -> list[str]:
        """Its own name, and that of its index."""
        return [self.name, self.keys_name] if self.keys else [self.name]

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        """Read it back."""
        return cls(**dict(zip(_FIELDS, row, strict=False)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The files of a log, oldest first; ``dropped`` are to be deleted, in this order.

    ``snapshot`` holds the rows that tell the wake state as of its ``end``
    (:mod:`ray_agents.log.tidying`); None if there is none. Rows below the offset ``first`` have
    been let go; ``ids`` are files that hold what is left of their messages.
    """

    epoch: int
    files: tuple[FileEntry, ...] = ()
    dropped: tuple[str, ...] = ()
    snapshot: FileEntry | None = None
    first: int = 0
    ids: tuple[FileEntry, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of all files it lists, below the log's folder."""
        listed = [*self.files, *self.ids, *([self.snapshot] if self.snapshot else [])]
        return [name for entry in listed for name in entry.names]

    def value(self) -> dict[str, JSON]:
        """As JSON; each file is a list of its fields, in their order."""
        value: dict[str, JSON] = {
            "epoch": self.epoch,
            "files": [file.row() for file in self.files],
            "dropped": list(self.dropped),
        }
        if self.snapshot is not None:
            value["snapshot"] = self.snapshot.row()
        if self.first:
            value["first"] = self.first
            value["ids"] = [file.row() for file in self.ids]
        return value

    def draft(self) -> Draft:
        """The row to append."""
        return Draft.of(MANIFEST_ROW, "manifest", value=self.value(), operation=Operation.UPSERT)

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read the row back."""
        return cls.of_value(event.value)

    @classmethod
    def of_value(cls, row: Mapping[str, Any]) -> Self:
        """Read the JSON back."""
        snapshot = row.get("snapshot")
        return cls(
            epoch=row["epoch"],
            files=tuple(FileEntry.of(file) for file in row["files"]),
            dropped=tuple(row["dropped"]),
            snapshot=FileEntry.of(snapshot) if snapshot else None,
            first=row.get("first", 0),
            ids=tuple(FileEntry.of(file) for file in row.get("ids", ())),
        )


def deletion_order(names: Iterable[str]) -> tuple[str, ...]:
    """``names`` with segments first and ascending: a reader of epoch N knows N-1 went before."""
    return tuple(sorted(names, key=lambda name: (epoch_of(name) is None, name)))
