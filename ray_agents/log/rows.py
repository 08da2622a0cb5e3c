"""Some rows of a log as columns, in offset order; an event is decoded only when asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ray_agents.errors import CorruptLog
from ray_agents.events import Event
from ray_agents.log.arrow import Batch, pa, pc
from ray_agents.log.codec import to_events

SCANS_MAX = 16
VECTOR_ROWS_MIN = 512


class Rows:
    """One or more rows; immutable, so it may be shared by threads and owners."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batch: Batch = batches[0] if len(batches) == 1 else pa.concat_batches(list(batches))
        offsets: Any = self.batch.column(0)
        self.count: int = len(offsets)
        self.first: int = offsets[0].as_py()
        self.end: int = offsets[-1].as_py() + 1
        self.size: int = self.batch.get_total_buffer_size()
        self._scans = 0
        self._index: dict[tuple[str, str], int] | None = None

    def pick(self, rows: Sequence[int]) -> list[Event]:
        """The rows at these positions."""
        if len(rows) == 1:
            return to_events(self.batch.slice(rows[0], 1))
        return to_events(self.batch.take(pa.array(rows, pa.int64()))) if rows else []

    def last_of_keys(self, types: Collection[str]) -> Iterator[tuple[tuple[str, str], int]]:
        """For each (type, key) of these types the position of its last row."""
        if self.count < VECTOR_ROWS_MIN:
            return self._last_by_hand(types)
        return self._last_by_column(types)

    def _last_by_hand(self, types: Collection[str]) -> Iterator[tuple[tuple[str, str], int]]:
        found: dict[tuple[str, str], int] = {}
        keys: Any = None
        for row, name in enumerate(self.batch.column(2).to_pylist()):
            if name in types:
                keys = keys or self.batch.column(3).to_pylist()
                found[name, keys[row]] = row
        return iter(found.items())

    def _last_by_column(self, types: Collection[str]) -> Iterator[tuple[tuple[str, str], int]]:
        names: Any = self.batch.column(2)
        chosen = pc.indices_nonzero(pc.is_in(names, pa.array(list(types), pa.string())))
        wanted = pa.table(
            [names.take(chosen), self.batch.column(3).take(chosen), chosen], list("tkr")
        )
        last = wanted.group_by(["t", "k"]).aggregate([("r", "max")])
        pairs = zip(last["t"].to_pylist(), last["k"].to_pylist(), strict=True)
        return zip(pairs, last["r_max"].to_pylist(), strict=True)

    def find(self, type_name: str, key: str) -> Event | None:
        """The first row of (type, key).

        Few rows are indexed at once; many are scanned as a column until that has been done often.
        """
        row = self._row_of(type_name, key)
        return None if row is None else self.pick([row])[0]

    def _row_of(self, type_name: str, key: str) -> int | None:
        if self._index is None and self.count >= VECTOR_ROWS_MIN and self._scans < SCANS_MAX:
            self._scans += 1
            hits = pc.indices_nonzero(pc.equal(self.batch.column(3), key)).to_pylist()
            names: Any = self.batch.column(2)
            return next((row for row in hits if names[row].as_py() == type_name), None)
        if self._index is None:
            pairs = zip(*(self.batch.column(c).to_pylist()[::-1] for c in (2, 3)), strict=True)
            self._index = dict(zip(pairs, range(self.count - 1, -1, -1), strict=True))
        return self._index.get((type_name, key))

    def between(
        self, start: int, stop: int, *, limit: int | None, types: Collection[str] | None
    ) -> list[Event]:
        """The rows with ``start <= offset < stop`` of these types, at most ``limit``."""
        batch = self._slice(start, stop)
        if types is not None:
            batch = batch.filter(pc.is_in(batch.column(2), pa.array(list(types), pa.string())))
        return to_events(batch if limit is None else batch.slice(0, limit))

    def _slice(self, start: int, stop: int) -> Batch:
        if start <= self.first and stop >= self.end:
            return self.batch
        offsets: Any = self.batch.column(0).to_numpy()
        low = int(offsets.searchsorted(start))
        return self.batch.slice(low, max(0, int(offsets.searchsorted(stop)) - low))


def check_order(name: str, rows: Rows, *, start: int) -> Rows:
    """``rows`` of file ``name`` if its offsets rise strictly, from ``start`` at least.

    Raises:
        CorruptLog: they do not.
    """
    offsets: Any = rows.batch.column(0).to_numpy()
    if rows.first < start or not bool((offsets[1:] > offsets[:-1]).all()):
        message = f"file {name!r} holds offsets out of order; restore it from a backup"
        raise CorruptLog(message, segment=name, after_offset=start - 1)
    return rows
