"""What the owners and readers of one log have promised, to be held against what is found later."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ray_agents.events import Event
from ray_agents.log.reader import Reading


@dataclass(slots=True)
class Promises:
    """Acknowledged events and served ones, by offset; a reader saw everything below its tip."""

    acknowledged: dict[int, Event] = field(default_factory=dict[int, Event])
    served: dict[int, Event] = field(default_factory=dict[int, Event])
    served_tip: int = 0

    def acknowledge(self, events: Iterable[Event]) -> None:
        """An owner has said that these are durable."""
        for event in events:
            assert event.offset not in self.acknowledged, f"given out twice: {event.offset}"
            self.acknowledged[event.offset] = event

    def serve(self, reading: Reading) -> None:
        """A reader that has read all before was given these."""
        for event in reading.events:
            assert self.served.setdefault(event.offset, event) == event
        last = reading.events[-1].offset + 1 if reading.events else 0
        self.served_tip = max(self.served_tip, last)

    def check(self, history: list[Event]) -> None:
        """The one history holds what was acknowledged, and what was served and nothing between."""
        found = {event.offset: event for event in history}
        assert list(found) == sorted(found)
        assert len(found) == len(history)
        keys = [event.key for event in history if not event.type.startswith("log_")]
        assert len(set(keys)) == len(keys), "an event stands in the history twice"
        lost = {o: e for o, e in self.acknowledged.items() if found.get(o) != e}
        assert not lost, f"acknowledged and not in the history: {lost}"
        below = {offset: event for offset, event in found.items() if offset < self.served_tip}
        assert below == self.served, "what was served is not what stands there"
