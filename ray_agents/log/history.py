"""Everything acknowledged so far, adopted or our own: columns for the old, events for the new."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from operator import attrgetter

from ray_agents.events import Event, Operation
from ray_agents.log.codec import to_batch
from ray_agents.log.rows import Place, Rows

RECENT_EVENTS_MAX = 1024
_OFFSET = attrgetter("offset")


class History:
    """The rows of a log up to its durable tip; what is not asked for is not decoded."""

    def __init__(self, parts: Sequence[Rows] = ()) -> None:
        self._parts = list(parts)
        self._recent: list[Event] = []
        self._last: dict[tuple[str, str], Event] = {}

    def extend(self, events: Sequence[Event]) -> None:
        """Add acknowledged events, in order."""
        self._recent.extend(events)
        self._last.update(((event.type, event.key), event) for event in events)
        if len(self._recent) > RECENT_EVENTS_MAX:
            self._parts.append(Rows([to_batch(self._recent)]))
            self._recent = []
            self._last = {}

    def before(self, stop: int) -> History:
        """The rows with ``offset < stop``: this log as it was then."""
        parts = [cut for part in self._parts if (cut := part.before(stop)) is not None]
        history = History(parts)
        history.extend([event for event in self._recent if event.offset < stop])
        return history

    @property
    def last_time(self) -> int:
        """The time of the newest row, in microseconds since the epoch; 0 if there is none."""
        if self._recent:
            return self._recent[-1].time
        return self._parts[-1].batch.column(1)[-1].value if self._parts else 0

    def types(self) -> set[str]:
        """The types that have rows."""
        return {event.type for event in self._recent}.union(*(part.types for part in self._parts))

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
        wanted, end = frozenset(types), stop if stop is not None else 1 << 62
        places: dict[tuple[str, str], Place] = {}
        for part in self._parts:
            if part.end > start and part.first < end:
                _merge(places, part.places(wanted, start, end))
        for event in self._recent:
            if event.type in wanted and start <= event.offset < end:
                gone = event.operation is Operation.DELETE
                place = Place(first=event.offset, last=event.offset, fresh=gone, gone=gone)
                _merge(places, [((event.type, event.key), place)])
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
            found.update((event.offset, event) for event in part.at(inside))
        return [found[offset] for offset in offsets]

    def unended(
        self, type_name: str, *, header: str, ends: Collection[str], start: int = 0
    ) -> tuple[list[Event], int]:
        """Rows of a type from ``start`` on, by whether their key has come to an end.

        Returns:
            One row of each key none of whose rows has one of ``ends`` in ``header``; and the
            number of the rows that do.
        """
        recent = [e for e in self._recent if e.type == type_name and e.offset >= start]
        marks = [part.ended(type_name, header, ends, start) for part in self._parts]
        ended = {e.key for e in recent if e.headers.get(header) in ends}
        rows = {event.key: event for part in marks for event in part.others}
        rows |= {event.key: event for event in recent}
        left = [
            event
            for key, event in rows.items()
            if key not in ended and not any(part.has_ended(key) for part in marks)
        ]
        count = sum(1 for e in recent if e.headers.get(header) in ends)
        return left, count + sum(part.count for part in marks)

    def last(self, type_name: str) -> Event | None:
        """The newest row of a type; None if there is none."""
        for event in reversed(self._recent):
            if event.type == type_name:
                return event
        return next(filter(None, (part.last(type_name) for part in reversed(self._parts))), None)

    def find(self, type_name: str, key: str) -> Event | None:
        """The newest row of (type, key), such as the message of an id; None if there is none."""
        event = self._last.get((type_name, key))
        if event is not None:
            return event
        for part in reversed(self._parts):
            found = part.find(type_name, key)
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
        end = stop if stop is not None else 1 << 62
        for part in self._parts:
            if part.end > start and part.first < end and (limit is None or len(found) < limit):
                left = None if limit is None else limit - len(found)
                found += part.between(start, end, limit=left, types=types)
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
