"""Waking reads little of a log, and comes to the state that the whole log tells."""

from __future__ import annotations

from dataclasses import fields
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ray_agents import wakes
from ray_agents.cluster import waking
from ray_agents.events import Draft, Event
from ray_agents.ledger import Spent
from ray_agents.log.codec import to_batch
from ray_agents.log.history import History
from ray_agents.log.rows import Rows
from ray_agents.projection import State, fold
from tests.cluster.logs import LogMaker, random_log

seeds = st.integers(0, 10_000)


def history_of(events: list[Event], *, seed: int) -> History:
    """The events as some adopted parts, and recent ones behind them."""
    random = Random(seed)
    cuts = sorted(random.randint(0, len(events)) for _ in range(random.randint(0, 4)))
    pieces = [events[a:b] for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    history = History([Rows([to_batch(piece)]) for piece in pieces[:-1] if piece])
    history.extend(pieces[-1])
    return history


def in_order(rows: dict[str, dict[str, str]]) -> dict[str, list[tuple[str, str]]]:
    return {name: list(table.items()) for name, table in rows.items() if table}


def assert_same(left: State, right: State) -> None:
    for field in fields(State):
        mine: Any = getattr(left, field.name)
        other: Any = getattr(right, field.name)
        if field.name == "rows":
            mine, other = in_order(mine), in_order(other)
        elif field.name in ("wakes", "outbox", "effects", "timers", "deferred", "approvals"):
            mine, other = list(mine.items()), list(other.items())
        assert mine == other, field.name


@given(seed=seeds, steps=st.integers(0, 150))
@example(seed=1, steps=150)
def test_the_state_at_waking_is_the_fold_of_the_whole_log(seed: int, steps: int) -> None:
    events = random_log(seed, steps=steps)
    assert_same(waking.load(history_of(events, seed=seed)), fold(events))


@pytest.mark.parametrize("seed", range(3))
def test_it_is_so_for_long_logs_which_are_read_by_column(seed: int) -> None:
    events = random_log(seed, steps=5000, kill_chance=0.0003)
    assert len(events) > 1500
    assert_same(waking.load(history_of(events, seed=seed)), fold(events))


@given(seed=seeds, steps=st.integers(0, 150))
def test_the_ledger_is_the_sum_of_this_lifes_own_steps(seed: int, steps: int) -> None:
    events = random_log(seed, steps=steps)
    own: list[Event] = []
    for event in events:
        own = [] if event.type in ("entity_created", "entity_forked") else own
        own += [event] if event.type == "step" else []
    assert fold(events).spent == sum((Spent.in_row(step.value) for step in own), Spent())


def test_what_was_spent_is_known_from_a_snapshot_that_holds_no_step() -> None:
    events = random_log(3, steps=5000, kill_chance=0)
    snapshot = snapshot_of(events)
    assert snapshot is not None
    assert "step" not in snapshot.types
    assert waking.load(History([snapshot])).spent == fold(events).spent != Spent()


def snapshot_of(events: list[Event], *, before: Rows | None = None) -> Rows | None:
    """The rows that tell the state after ``before`` and ``events``."""
    history = History([] if before is None else [before])
    history.extend(events)
    essence = waking.essential(history)
    return history.taken(essence.offsets) if essence else None


@given(seed=seeds, steps=st.integers(0, 150), data=st.data())
@example(seed=1, steps=150, data=None)
def test_a_snapshot_and_what_comes_later_tell_the_same_state(
    seed: int, steps: int, data: st.DataObject | None
) -> None:
    events = random_log(seed, steps=steps)
    count = len(events)
    cuts = st.lists(st.integers(0, count), max_size=3).map(sorted)
    snapshot, done = None, 0
    for cut in data.draw(cuts) if data else [count // 3, count // 2]:
        snapshot = snapshot_of(events[done:cut], before=snapshot) or snapshot
        done = cut if snapshot is not None else done
    history = History([] if snapshot is None else [snapshot])
    history.extend(events[done:])
    state, essence = fold(events), waking.essential(history)
    assert_same(waking.load(history), state)
    looked_for = [row.offset for row in state.pending]
    looked_for += [wake.from_offset for wake in state.wakes.values()]
    assert essence is None or all(essence.held_from <= offset for offset in looked_for)


def test_a_fork_of_one_whose_only_wake_is_to_be_retried_has_been_awake() -> None:
    maker = LogMaker(Random(1))
    maker.spawn()
    maker.message()
    maker.wake()
    wake = maker.state.current
    assert wake is not None
    maker.write(wakes.retried(wake, now=0, version=1).draft())  # its attempts count from 0 again
    maker.fork()
    assert fold(maker.events).woken
    assert_same(waking.load(history_of(maker.events, seed=1)), fold(maker.events))


def test_a_snapshot_keeps_the_order_in_which_keys_were_first_written() -> None:
    maker = LogMaker(Random(1))
    maker.spawn()
    maker.write(*(Draft.of("state:rows", key, value=0) for key in "abcab"))
    maker.message()
    maker.wake()
    wake = maker.state.current
    assert wake is not None
    maker.write(wakes.handled(wake, now=0, reply=None, text=None).draft())
    snapshot = snapshot_of(maker.events)
    assert snapshot is not None
    assert snapshot.count < len(maker.events)
    assert list(waking.load(History([snapshot])).rows["state:rows"]) == list("abc")


def test_a_snapshot_is_as_long_as_the_state_and_not_as_the_log() -> None:
    short, long = random_log(7, steps=1000), random_log(7, steps=8000)
    few, many = snapshot_of(short), snapshot_of(long)
    assert few is not None
    assert many is not None
    assert len(long) > 7 * len(short)
    assert many.count < 2 * few.count


@given(seed=seeds, steps=st.integers(0, 100), start=st.integers(0, 100), stop=st.integers(0, 100))
def test_the_latest_rows_are_found_in_their_order(
    seed: int, steps: int, start: int, stop: int
) -> None:
    events = random_log(seed, steps=steps)
    types = {"state:rows", "outbox", "wake"}
    expected: dict[tuple[str, str], Event] = {}
    for event in events:
        if event.type in types and start <= event.offset < stop:
            if event.operation == "delete":
                expected.pop((event.type, event.key), None)
            else:
                expected[event.type, event.key] = event
    found = history_of(events, seed=seed).latest(types, start=start, stop=stop)
    assert found == list(expected.values())


@given(seed=seeds)
def test_find_gives_the_newest_row_of_a_key(seed: int) -> None:
    events = random_log(seed, steps=100)
    history = history_of(events, seed=seed)
    newest = {(event.type, event.key): event for event in events}
    assert all(history.find(*pair) == event for pair, event in newest.items())
    assert history.find("inbox", "no such message") is None
