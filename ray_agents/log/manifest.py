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


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a log, by its name below the log's folder.

    ``first`` is the offset of its first row, ``end`` the one after its last; offsets in between
    may be missing, so ``rows`` counts. ``digest`` is the chain of frame digests of a segment, or
    the digest of a sealed file's bytes; empty with 0 rows. ``keys`` is the digest of the index
    beside a sealed file, empty if there is none (:mod:`ray_agents.log.keyindex`).
    """

    name: str
    first: int = 0
    end: int = 0
    rows: int = 0
    digest: str = ""
    keys: str = ""

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
        return [*row, self.keys] if self.keys else row

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        """Read it back."""
        name, first, end, rows, digest, *keys = row
        return cls(name=name, first=first, end=end, rows=rows, digest=digest, keys="".join(keys))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The files of a log, oldest first; ``dropped`` are to be deleted, in this order.

    ``snapshot`` holds the rows that tell the wake state as of its ``end``
    (:mod:`ray_agents.log.tidying`); None if there is none.
    """

    epoch: int
    files: tuple[FileEntry, ...] = ()
    dropped: tuple[str, ...] = ()
    snapshot: FileEntry | None = None

    def value(self) -> dict[str, JSON]:
        """As JSON; each file is a list of name, first, end, rows, digest and maybe keys."""
        value: dict[str, JSON] = {
            "epoch": self.epoch,
            "files": [file.row() for file in self.files],
            "dropped": list(self.dropped),
        }
        if self.snapshot is not None:
            value["snapshot"] = self.snapshot.row()
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
        )


def deletion_order(names: Iterable[str]) -> tuple[str, ...]:
    """``names`` with segments first and ascending: a reader of epoch N knows N-1 went before."""
    return tuple(sorted(names, key=lambda name: (epoch_of(name) is None, name)))
