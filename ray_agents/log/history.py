"""Everything acknowledged so far, adopted or our own: columns for the old, events for the new."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ray_agents.events import Event, Operation
from ray_agents.log.codec import to_batch
from ray_agents.log.rows import Rows

RECENT_EVENTS_MAX = 1024


class History:
    """The rows of a log up to its durable tip; what is not asked for is not decoded."""

    def __init__(self, parts: Sequence[Rows] = ()) -> None:
        self._parts = list(parts)
        self._recent: list[Event] = []
        self._first: dict[tuple[str, str], Event] = {}

    def extend(self, events: Sequence[Event]) -> None:
        """Add acknowledged events, in order."""
        self._recent.extend(events)
        for event in events:
            self._first.setdefault((event.type, event.key), event)
        if len(self._recent) > RECENT_EVENTS_MAX:
            self._parts.append(Rows([to_batch(self._recent)]))
            self._recent = []
            self._first = {}

    def latest(self, types: Collection[str]) -> list[Event]:
        """The last row of each (type, key) of these types, deleted keys left out, by offset."""
        wanted = frozenset(types)
        last: dict[tuple[str, str], tuple[Rows, int] | Event] = {}
        for part in self._parts:
            for pair, row in part.last_of_keys(wanted):
                last[pair] = (part, row)
        for event in self._recent:
            if event.type in wanted:
                last[event.type, event.key] = event
        return _alive(list(last.values()), self._parts)

    def find(self, type_name: str, key: str) -> Event | None:
        """The first row of (type, key), such as the message of an id; None if there is none."""
        for part in self._parts:
            found = part.find(type_name, key)
            if found is not None:
                return found
        return self._first.get((type_name, key))

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
        found += [
            event
            for event in self._recent
            if start <= event.offset < end and (types is None or event.type in types)
        ]
        return found if limit is None else found[:limit]


def _alive(last: list[tuple[Rows, int] | Event], parts: list[Rows]) -> list[Event]:
    events = [event for event in last if isinstance(event, Event)]
    chosen: dict[int, list[int]] = {}
    for place in last:
        if not isinstance(place, Event):
            chosen.setdefault(id(place[0]), []).append(place[1])
    for part in parts:
        events += part.pick(chosen.get(id(part), []))
    alive = [event for event in events if event.operation is not Operation.DELETE]
    return sorted(alive, key=lambda event: event.offset)
