"""Everything acknowledged so far, adopted or our own: columns for the old, events for the new.

Adopted files are read when something of them is asked for. That blocks, so on an event loop
:meth:`History.load` comes first, in a thread; :meth:`History.loaded` tells whether that is needed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from ray_agents.events import Event, Operation
from ray_agents.log.arrow import Batch
from ray_agents.log.codec import to_batch
from ray_agents.log.keyindex import INDEXED_TYPE, KeyIndex
from ray_agents.log.listed import Listed, Part, rows_of
from ray_agents.log.rows import Place, Rows

RECENT_EVENTS_MAX = 1024
FOREVER = 1 << 62
_OFFSET = attrgetter("offset")


class History:
    """The rows of a log up to its durable tip; what is not asked for is not decoded."""

    def __init__(self, parts: Sequence[Part] = (), *, ids: Sequence[Listed] = ()) -> None:
        self._parts: list[Part] = list(parts)
        self._ids = tuple(ids)
        self._adopted = len(self._parts)
        self._own_keys = KeyIndex()
        self._recent: list[Event] = []
        self._last: dict[tuple[str, str], Event] = {}

    def extend(self, events: Sequence[Event]) -> None:
        """Add acknowledged events, in order."""
        self._recent.extend(events)
        self._last.update(((event.type, event.key), event) for event in events)
        if len(self._recent) > RECENT_EVENTS_MAX:
            self._own_keys.add([e.key for e in self._recent if e.type == INDEXED_TYPE])
            self._parts.append(Rows([to_batch(self._recent)]))
            self._recent = []
            self._last = {}

    # -- what is in memory --------------------------------------------------------------------

    def loaded(self, start: int = 0, *, stop: int = FOREVER, limit: int | None = None) -> bool:
        """Whether the first ``limit`` rows with ``start <= offset < stop`` are in memory."""
        return not any(self._missing(start, stop, limit))

    def load(self, start: int = 0, *, stop: int = FOREVER, limit: int | None = None) -> None:
        """Read from the medium what :meth:`loaded` finds missing. Blocks.

        Raises:
            CorruptLog, Fenced, StoreUnavailable: it cannot be had.
        """
        for part in self._missing(start, stop, limit):
            rows_of(part)

    def _missing(self, start: int, stop: int, limit: int | None) -> Iterator[Listed]:
        left = FOREVER if limit is None else limit
        for part in self._overlapping(start, stop):
            if left <= 0:
                return
            if isinstance(part, Listed) and not part.loaded:
                yield part
            if part.first >= start:
                left -= part.count

    def knows(self, type_name: str, key: str) -> bool:
        """Whether :meth:`find` can answer from memory."""
        return (type_name, key) in self._last or all(
            part.loaded or not part.may_hold(type_name, key)
            for part in (*self._ids, *self._parts)
            if isinstance(part, Listed)
        )

    # -- reading ------------------------------------------------------------------------------

    def _overlapping(self, start: int, stop: int) -> list[Part]:
        return [part for part in self._parts if part.end > start and part.first < stop]

    def before(self, stop: int) -> History:
        """The rows with ``offset < stop``: this log as it was then. It may block."""
        parts = (rows_of(part).before(stop) for part in self._overlapping(0, stop))
        history = History([part for part in parts if part is not None])
        history.extend([event for event in self._recent if event.offset < stop])
        return history

    def batches(self) -> Iterator[Batch]:
        """All rows, as columns; it may block."""
        yield from (rows_of(part).batch for part in self._parts)
        if self._recent:
            yield to_batch(self._recent)

    @property
    def last_time(self) -> int:
        """The time of the newest row, in microseconds since 1970; 0 if there is none."""
        if self._recent:
            return self._recent[-1].time
        return rows_of(self._parts[-1]).batch.column(1)[-1].value if self._parts else 0

    def types(self) -> set[str]:
        """The types that have rows."""
        found = {event.type for event in self._recent}
        return found.union(*(rows_of(part).types for part in self._parts))

    def places(
        self, types: Collection[str], *, start: int = 0, stop: int = FOREVER
    ) -> dict[tuple[str, str], Place]:
        """Where each (type, key) of these types stands among ``start <= offset < stop``."""
        wanted = frozenset(types)
        places: dict[tuple[str, str], Place] = {}
        for part in self._overlapping(start, stop):
            _merge(places, rows_of(part).places(wanted, start, stop))
        for event in self._recent:
            if event.type in wanted and start <= event.offset < stop:
                gone = event.operation is Operation.DELETE
                place = Place(first=event.offset, last=event.offset, fresh=gone, gone=gone)
                _merge(places, [((event.type, event.key), place)])
        return places

    def latest(
        self,
        types: Collection[str],
        *,
        start: int = 0,
        stop: int | None = None,
        skip: Callable[[str, str], bool] = lambda _type, _key: False,
    ) -> list[Event]:
        """The last row with ``start <= offset < stop`` of each (type, key) of these types.

        Deleted keys, and those that ``skip`` names, are left out, undecoded. The order is that of
        first writing, since the last deletion.
        """
        places = self.places(types, start=start, stop=FOREVER if stop is None else stop)
        alive = sorted(
            (place for pair, place in places.items() if not place.gone and not skip(*pair)),
            key=lambda place: place.first,
        )
        return self._at([place.last for place in alive])

    def _at(self, offsets: Sequence[int]) -> list[Event]:
        """The rows at these offsets, in their order."""
        found: dict[int, Event] = {event.offset: event for event in self._recent}
        wanted = sorted(offset for offset in offsets if offset not in found)
        for part in self._parts:
            inside = wanted[bisect_left(wanted, part.first) : bisect_left(wanted, part.end)]
            found.update((event.offset, event) for event in rows_of(part).at(inside))
        return [found[offset] for offset in offsets]

    def offsets(self, types: Collection[str], *, start: int = 0, stop: int = FOREVER) -> list[int]:
        """The offsets of the rows of these types with ``start <= offset < stop``."""
        parts = self._overlapping(start, stop)
        found = [each for part in parts for each in rows_of(part).offsets(types, start, stop)]
        recent = [event for event in self._recent if start <= event.offset < stop]
        return found + [event.offset for event in recent if event.type in types]

    def taken(self, offsets: Collection[int]) -> Rows | None:
        """The rows at these offsets as columns, in the log's order; None if there are none."""
        wanted = sorted(set(offsets))
        batches: list[Any] = []
        for part in self._parts:
            inside = wanted[bisect_left(wanted, part.first) : bisect_left(wanted, part.end)]
            if inside:
                batches.append(rows_of(part).taken(inside))
        recent = [event for event in self._recent if event.offset in set(wanted)]
        if recent:
            batches.append(to_batch(recent))
        return Rows(batches) if batches else None

    def unended(
        self, type_name: str, *, header: str, ends: Collection[str], start: int = 0
    ) -> tuple[list[Event], int | None]:
        """Rows of a type from ``start`` on, by whether their key has come to an end.

        Returns:
            One row of each key none of whose rows has one of ``ends`` in ``header``; and the
            offset of the newest row that does, None if none does.
        """
        recent = [e for e in self._recent if e.type == type_name and e.offset >= start]
        parts = self._overlapping(start, FOREVER)
        marks = [rows_of(part).ended(type_name, header, ends, start) for part in parts]
        over = [event for event in recent if event.headers.get(header) in ends]
        ended = {event.key for event in over}
        rows = {event.key: event for part in marks for event in part.others}
        rows |= {event.key: event for event in recent}
        left = [
            event
            for key, event in rows.items()
            if key not in ended and not any(part.has_ended(key) for part in marks)
        ]
        newest = [event.offset for event in over]
        newest += [part.newest for part in marks if part.newest is not None]
        return left, max(newest, default=None)

    def last(self, type_name: str) -> Event | None:
        """The newest row of a type; None if there is none."""
        for event in reversed(self._recent):
            if event.type == type_name:
                return event
        found = (rows_of(part).last(type_name) for part in reversed(self._parts))
        return next(filter(None, found), None)

    def find(self, type_name: str, key: str) -> Event | None:
        """The newest row of (type, key), such as the message of an id; None if there is none.

        Of a message that was let go it is what is remembered of it.
        """
        event = self._last.get((type_name, key))
        if event is not None:
            return event
        own = type_name != INDEXED_TYPE or self._own_keys.may_hold(key)
        parts = [*self._ids, *(self._parts if own else self._parts[: self._adopted])]
        for part in reversed(parts):
            if isinstance(part, Listed) and not part.may_hold(type_name, key):
                continue
            found = rows_of(part).find(type_name, key)
            if found is not None:
                return found
        return None

    def read(
        self,
        start: int,
        *,
        stop: int | None = None,
        limit: int | None = None,
        types: Collection[str] | None = None,
    ) -> list[Event]:
        """The rows with ``start <= offset < stop`` of these types, at most ``limit``."""
        found: list[Event] = []
        end = FOREVER if stop is None else stop
        for part in self._overlapping(start, end):
            if limit is not None and len(found) >= limit:
                break
            left = None if limit is None else limit - len(found)
            found += rows_of(part).between(start, end, limit=left, types=types)
        recent = self._recent
        low = bisect_left(recent, start, key=_OFFSET)
        high = len(recent) if stop is None else bisect_left(recent, end, lo=low, key=_OFFSET)
        found += [event for event in recent[low:high] if types is None or event.type in types]
        return found if limit is None else found[:limit]


def _merge(
    places: dict[tuple[str, str], Place], later: Iterable[tuple[tuple[str, str], Place]]
) -> None:
    """Take later places into account: a key keeps its first place unless it was deleted since."""
    for pair, place in later:
        before = places.get(pair)
        if before is not None and not before.gone and not place.fresh:
            place = replace(place, first=before.first)  # noqa: PLW2901 - the same place, corrected
        places[pair] = place
