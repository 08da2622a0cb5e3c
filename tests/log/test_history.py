"""Columns and events together answer as a plain list of events would."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ray_agents.errors import CorruptLog
from ray_agents.events import Event, Operation
from ray_agents.log.codec import to_batch
from ray_agents.log.history import History
from ray_agents.log.listed import Listed
from ray_agents.log.manifest import FileEntry
from ray_agents.log.rows import SCANS_MAX, VECTOR_ROWS_MIN, Rows, check_order

TYPES = ("inbox", "run", "wake")
row = st.tuples(st.sampled_from(TYPES), st.sampled_from("abcd"), st.sampled_from(Operation))


def events_of(rows: list[tuple[str, str, Operation]]) -> list[Event]:
    return [
        Event(offset=2 * n, time=n, type=name, key=key, operation=operation, text=f"{n}")
        for n, (name, key, operation) in enumerate(rows)
    ]


def history_of(events: list[Event], cuts: list[int]) -> History:
    """Some of the events adopted in parts, the rest our own."""
    bounds = sorted({0, *(min(cut, len(events)) for cut in cuts)})
    parts = [events[low:high] for low, high in pairwise(bounds)]
    history = History([Rows([to_batch(part)]) for part in parts])
    history.extend(events[bounds[-1] :])
    return history


def latest_of(events: list[Event], types: AbstractSet[str]) -> list[Event]:
    last: dict[tuple[str, str], Event] = {}
    for event in events:
        if event.type in types and event.operation is Operation.DELETE:
            last.pop((event.type, event.key), None)
        elif event.type in types:
            last[event.type, event.key] = event
    return list(last.values())


def newest_of(events: list[Event], name: str, key: str) -> Event | None:
    found = [event for event in events if (event.type, event.key) == (name, key)]
    return found[-1] if found else None


@given(st.lists(row, max_size=30), st.lists(st.integers(0, 30), max_size=4), st.data())
def test_a_history_answers_as_a_list_would(
    rows: list[tuple[str, str, Operation]], cuts: list[int], data: st.DataObject
) -> None:
    events = events_of(rows)
    history = history_of(events, cuts)
    types = data.draw(st.sets(st.sampled_from(TYPES)))
    assert history.latest(types) == latest_of(events, types)
    for name in TYPES:
        assert history.find(name, "a") == newest_of(events, name, "a")
    start, stop = data.draw(st.integers(0, 61)), data.draw(st.integers(0, 61))
    chosen = [event for event in events if start <= event.offset < stop and event.type in types]
    limit = data.draw(st.none() | st.integers(0, 10))
    assert history.read(start, stop=stop, types=types, limit=limit) == chosen[:limit]


@given(
    st.lists(row, min_size=1, max_size=30),
    st.lists(st.integers(0, 30), max_size=4),
    st.tuples(st.integers(0, 61), st.integers(0, 61), st.none() | st.integers(0, 10)),
)
@example(rows=[("run", "a", Operation.UPSERT)] * 9, cuts=[6], asked=(8, 61, 4))
def test_what_was_loaded_is_all_that_is_read(
    rows: list[tuple[str, str, Operation]], cuts: list[int], asked: tuple[int, int, int | None]
) -> None:
    start, stop, limit = asked
    events, read = events_of(rows), list[str]()
    bounds = sorted({0, len(events), *(min(cut, len(events)) for cut in cuts)})
    files = {f"{low}": events[low:high] for low, high in pairwise(bounds)}

    def rows_in(entry: FileEntry) -> Rows:
        read.append(entry.name)
        return Rows([to_batch(files[entry.name])])

    entries = [
        FileEntry(name=name, first=some[0].offset, end=some[-1].offset + 1, rows=len(some))
        for name, some in files.items()
    ]
    history = History([Listed(entry, read=rows_in) for entry in entries])
    history.load(start, stop=stop, limit=limit)
    assert history.loaded(start, stop=stop, limit=limit)
    loaded = [*read]
    chosen = [event for event in events if start <= event.offset < stop]
    assert history.read(start, stop=stop, limit=limit) == chosen[:limit]
    assert read == loaded


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12),
    st.lists(st.integers(0, 12), max_size=4),
)
@example(rows=[("a", True), ("a", False)], cuts=[1])
def test_what_has_not_ended_is_told_from_what_has(
    rows: list[tuple[str, bool]], cuts: list[int]
) -> None:
    events = [
        replace(event, headers={"status": "handled" if ends else "started"})
        for event, (_, ends) in zip(
            events_of([("wake", key, Operation.UPSERT) for key, _ in rows]), rows, strict=True
        )
    ]
    left, newest = history_of(events, cuts).unended("wake", header="status", ends=("handled",))
    over = [event for event in events if event.headers["status"] == "handled"]
    ended = {event.key for event in over}
    assert {event.key for event in left} == {event.key for event in events} - ended
    assert newest == (over[-1].offset if over else None)


def many_events(count: int, keys: int) -> list[Event]:
    chance = Random(7)
    operations = [Operation.INSERT] * 9 + [Operation.DELETE]
    return events_of(
        [
            (chance.choice(TYPES), f"k{chance.randrange(keys)}", chance.choice(operations))
            for _ in range(count)
        ]
    )


@pytest.mark.parametrize("adopted", [0, 100, VECTOR_ROWS_MIN, 5000])
def test_a_long_history_answers_as_a_list_would(adopted: int) -> None:
    events = many_events(5000, 300)
    history = history_of(events[:adopted], [adopted])
    for start in range(adopted, len(events), 7):
        history.extend(events[start : start + 7])
    assert history.latest({"inbox", "run"}) == latest_of(events, {"inbox", "run"})
    for number in range(2 * SCANS_MAX):
        assert history.find("inbox", f"k{number}") == newest_of(events, "inbox", f"k{number}")
    assert history.find("inbox", "never") is None
    assert history.read(0) == events
    assert history.read(4001, stop=8001, limit=100) == events[2001:2101]


def test_rows_out_of_order_are_corrupt() -> None:
    events = many_events(3, 3)
    for wrong in (events[::-1], [events[0], events[0]]):
        with pytest.raises(CorruptLog, match="order"):
            check_order("f", Rows([to_batch(wrong)]), start=0)
    with pytest.raises(CorruptLog, match="order"):
        check_order("f", Rows([to_batch(events)]), start=1)
