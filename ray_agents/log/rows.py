"""Some rows of a log as columns, in offset order; an event is decoded only when asked for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic_core import to_json

from ray_agents.errors import CorruptLog
from ray_agents.events import Event, Operation
from ray_agents.log.arrow import Batch, pa, pc
from ray_agents.log.codec import to_events

SCANS_MAX = 16
VECTOR_ROWS_MIN = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a key stands: offsets of its first row (since its last deletion) and its last one.

    ``fresh``: it was deleted somewhere among the rows looked at; ``gone``: it is deleted now.
    """

    first: int
    last: int
    fresh: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The keys of a type that have ended, the newest row that says so, and the rows of others."""

    keys: Any
    newest: int | None
    others: Sequence[Event]

    def has_ended(self, key: str) -> bool:
        """Whether ``key`` is among them."""
        return bool(pc.is_in(pa.scalar(key), self.keys).as_py())


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

    @property
    def last_time(self) -> int:
        """The time of the last row, in microseconds since the epoch."""
        return self.batch.column(1)[-1].value

    def behind(self, offset: int) -> Rows:
        """The rows from ``offset`` on, of which there must be some."""
        return self if offset <= self.first else Rows([self._slice(offset, self.end)])

    def without(self, types: Collection[str]) -> Rows | None:
        """The rows of other types; None if there are none."""
        if not types:
            return self
        mask = pc.invert(pc.is_in(self.batch.column(2), pa.array(list(types), pa.string())))
        batch = self.batch.filter(mask)
        return Rows([batch]) if batch.num_rows else None

    def pick(self, rows: Sequence[int]) -> list[Event]:
        """The rows at these positions."""
        if len(rows) == 1:
            return to_events(self.batch.slice(rows[0], 1))
        return to_events(self.batch.take(pa.array(rows, pa.int64()))) if rows else []

    @cached_property
    def types(self) -> frozenset[str]:
        """The types that have rows here."""
        return frozenset(self.batch.column(2).unique().to_pylist())

    def at(self, offsets: Sequence[int]) -> list[Event]:
        """The rows at these offsets, which must be here."""
        if not offsets:
            return []
        return self.pick(self.batch.column(0).to_numpy().searchsorted(offsets).tolist())

    def offsets(self, types: Collection[str], start: int, stop: int) -> list[int]:
        """The offsets of the rows of these types with ``start <= offset < stop``."""
        batch = self._slice(start, stop)
        mask = pc.is_in(batch.column(2), pa.array(list(types), pa.string()))
        return batch.column(0).filter(mask).to_pylist()

    def taken(self, offsets: Sequence[int]) -> Batch:
        """The rows at these offsets, which must be here, as columns."""
        rows: Any = self.batch.column(0).to_numpy().searchsorted(offsets)
        return self.batch.take(pa.array(rows, pa.int64()))

    def places(
        self, types: Collection[str], start: int, stop: int
    ) -> Iterable[tuple[tuple[str, str], Place]]:
        """Where the keys of these types stand, among the rows with ``start <= offset < stop``."""
        batch = self._slice(start, stop)
        if batch.num_rows < VECTOR_ROWS_MIN:
            return _places_by_hand(batch, types).items()
        batch = batch.filter(pc.is_in(batch.column(2), pa.array(list(types), pa.string())))
        return _places_by_column(batch)

    def latest(self) -> Rows | None:
        """The newest row of each (type, key) that is not deleted; None if there is none."""
        places = dict(self.places(self.types, self.first, self.end))
        offsets = sorted(place.last for place in places.values() if not place.gone)
        if not offsets:
            return None
        return Rows([self.taken(offsets)])

    def last(self, type_name: str) -> Event | None:
        """The newest row of a type; None if there is none."""
        rows = pc.indices_nonzero(pc.equal(self.batch.column(2), type_name))
        return self.pick([rows[-1].as_py()])[0] if len(rows) else None

    def ended(self, type_name: str, header: str, ends: Collection[str], start: int) -> Ended:
        """The keys of a type with a row from ``start`` on with one of ``ends`` in ``header``."""
        batch = self._slice(start, self.end)
        batch = batch.filter(pc.equal(batch.column(2), type_name))
        pattern = "|".join(re.escape(to_json({header: end}).decode()[1:-1]) for end in ends)
        mask = pc.match_substring_regex(batch.column(6), pattern)
        ended = batch.column(3).filter(mask)
        others = batch.filter(pc.invert(pc.is_in(batch.column(3), ended)))
        over: Any = batch.column(0).filter(mask)
        newest = over[-1].as_py() if len(over) else None
        return Ended(keys=ended, newest=newest, others=to_events(others))

    def find(self, type_name: str, key: str) -> Event | None:
        """The last row of (type, key).

        Few rows are indexed at once; many are scanned as a column until that has been done often.
        """
        row = self._row_of(type_name, key)
        return None if row is None else self.pick([row])[0]

    def _row_of(self, type_name: str, key: str) -> int | None:
        if self._index is None and self.count >= VECTOR_ROWS_MIN and self._scans < SCANS_MAX:
            self._scans += 1
            hits = pc.indices_nonzero(pc.equal(self.batch.column(3), key)).to_pylist()
            names: Any = self.batch.column(2)
            return next((row for row in reversed(hits) if names[row].as_py() == type_name), None)
        if self._index is None:
            pairs = zip(*(self.batch.column(c).to_pylist() for c in (2, 3)), strict=True)
            self._index = dict(zip(pairs, range(self.count), strict=True))
        return self._index.get((type_name, key))

    def between(
        self, start: int, stop: int, *, limit: int | None, types: Collection[str] | None
    ) -> list[Event]:
        """The rows with ``start <= offset < stop`` of these types, at most ``limit``."""
        batch = self._slice(start, stop)
        if types is not None:
            batch = batch.filter(pc.is_in(batch.column(2), pa.array(list(types), pa.string())))
        return to_events(batch if limit is None else batch.slice(0, limit))

    def beginning(self, count: int) -> Rows:
        """The first ``count`` rows, at least one, not copied; all of them if there are no more."""
        return self if count >= self.count else Rows([self.batch.slice(0, count)])

    def before(self, stop: int) -> Rows | None:
        """The rows with ``offset < stop``, not copied; None if there are none."""
        cut = self._slice(self.first, stop)
        return Rows([cut]) if cut.num_rows else None

    def cut(self, start: int, stop: int) -> Batch:
        """The rows with ``start <= offset < stop`` as columns, not copied."""
        return self._slice(start, stop)

    def _slice(self, start: int, stop: int) -> Batch:
        if start <= self.first and stop >= self.end:
            return self.batch
        offsets: Any = self.batch.column(0).to_numpy()
        low = int(offsets.searchsorted(start))
        return self.batch.slice(low, max(0, int(offsets.searchsorted(stop)) - low))


def _places_by_hand(batch: Batch, types: Collection[str]) -> dict[tuple[str, str], Place]:
    found: dict[tuple[str, str], Place] = {}
    names = batch.column(2).to_pylist()
    if not any(name in types for name in names):
        return found
    offsets, keys, operations = (batch.column(c).to_pylist() for c in (0, 3, 4))
    for row, name in enumerate(names):
        if name in types:
            pair, offset = (name, keys[row]), offsets[row]
            gone = operations[row] == Operation.DELETE.value
            before = found.get(pair)
            kept = before is not None and not before.gone
            found[pair] = Place(
                first=before.first if before is not None and kept else offset,
                last=offset,
                fresh=gone or (before is not None and before.fresh),
                gone=gone,
            )
    return found


def _places_by_column(batch: Batch) -> Iterable[tuple[tuple[str, str], Place]]:
    """As by hand; keys that were ever deleted are few, and are done by hand."""
    types = frozenset(batch.column(2).unique().to_pylist())
    deleted = batch.column(3).filter(pc.equal(batch.column(4), Operation.DELETE.value))
    once_gone = pc.is_in(batch.column(3), deleted)
    yield from _places_by_hand(batch.filter(once_gone), types).items()
    rest = batch.filter(pc.invert(once_gone))
    table = pa.table([rest.column(2), rest.column(3), rest.column(0)], list("tko"))
    spans = table.group_by(["t", "k"]).aggregate([("o", "min"), ("o", "max")])
    columns = (spans[name].to_pylist() for name in ("t", "k", "o_min", "o_max"))
    for name, key, first, last in zip(*columns, strict=True):
        yield (name, key), Place(first=first, last=last)


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
