"""The fold: it may stop anywhere and go on, and no message is lost or taken twice."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ray_agents.approvals import ApprovalRecorded
from ray_agents.events import Draft, Event, Operation, SendScheduled, WakeRecorded, WakeStatus
from ray_agents.projection import State, fold
from ray_agents.views import ApprovalStatus
from tests.cluster.logs import random_log

seeds, lengths = st.integers(0, 10_000), st.integers(0, 120)


@given(seed=seeds, steps=lengths, cut=st.floats(0, 1))
def test_a_fold_may_be_cut_anywhere(seed: int, steps: int, cut: float) -> None:
    events = random_log(seed, steps=steps)
    at = int(cut * len(events))
    assert fold(events[at:], fold(events[:at])) == fold(events)


@given(seed=seeds, steps=lengths, cuts=st.lists(st.floats(0, 1), max_size=6))
def test_a_fold_may_be_cut_into_any_pieces(seed: int, steps: int, cuts: list[float]) -> None:
    events = random_log(seed, steps=steps)
    bounds = sorted({0, len(events), *(int(cut * len(events)) for cut in cuts)})
    state = State()
    for start, stop in pairwise(bounds):
        state = fold(events[start:stop], state)
    assert state == fold(events)


@given(seed=seeds, steps=lengths)
def test_each_message_waits_is_taken_or_was_ended_with_its_life(seed: int, steps: int) -> None:
    events = random_log(seed, steps=steps)
    state = fold(events)
    wakes = [WakeRecorded.of(event) for event in events if event.type == "wake"]
    newest = {wake.key: wake for wake in wakes}.values()
    for event in events:
        if event.type == "inbox" and event.offset > state.life_offset and state.alive:
            taken = sum(wake.took(event.offset) for wake in newest)
            assert taken + (event in state.pending) == 1


@given(seed=seeds, steps=lengths)
def test_ranges_of_wakes_do_not_overlap(seed: int, steps: int) -> None:
    wakes = [e.value for e in random_log(seed, steps=steps) if e.type == "wake"]
    ranges = sorted({(wake["from_offset"], wake["to_offset"]) for wake in wakes})
    assert all(stop <= start for (_, stop), (start, _) in pairwise(ranges))


@given(seed=seeds, steps=lengths)
def test_a_row_that_a_failed_wake_committed_is_shown_when_it_ends(seed: int, steps: int) -> None:
    state = fold(random_log(seed, steps=steps))
    for key, effects in state.effects.items():
        shown = {effect.shown for effect in effects.values()}
        if state.wakes[key].status is WakeStatus.PARKED:
            assert shown <= {True}


@given(seed=seeds, steps=lengths)
def test_a_delayed_send_is_pending_until_it_is_sent_or_cancelled_or_its_life_ends(
    seed: int, steps: int
) -> None:
    events = random_log(seed, steps=steps)
    state = fold(events)
    life = [e for e in events if e.offset >= state.life_offset and state.alive]
    life = [e for e in life if e.type == SendScheduled.TYPE]
    scheduled = {e.key: e.offset for e in life if e.headers.get("status") == "pending"}
    sent = {e.key for e in life if e.headers.get("status") in ("sent", "cancelled")}
    pending = {key: offset for key, offset in scheduled.items() if key not in sent}
    assert {f"schedule:{k}": timer.offset for k, timer in state.timers.items()} == pending
    assert not any(key.startswith("schedule:") for key in state.rows.get("manifest", {}))


def test_rows_stand_in_the_order_of_first_writing() -> None:
    writes = [("a", "1"), ("b", "1"), ("a", "2"), ("b", None), ("b", "3")]
    events = [Event.at(n, 0, row(key, text)) for n, (key, text) in enumerate(writes)]
    assert list(fold(events).rows["state:r"].items()) == [("a", "2"), ("b", "3")]


def row(key: str, text: str | None) -> Draft:
    operation = Operation.UPSERT if text else Operation.DELETE
    return Draft(type="state:r", key=key, operation=operation, text=text or "")


def test_an_approval_of_a_wake_that_has_ended_is_nobodys() -> None:
    asked = ApprovalRecorded(
        key="wake-2-run-1:s1:tool:0",
        status=ApprovalStatus.PENDING,
        run_id="wake-2-run-1",
        tool_call_id="toolu_1",
        tool_name="act",
        args={},
        requested_at=0,
        wake="wake-2",
    )
    assert fold([Event.at(0, 0, asked.draft())]) == State()


def test_nobody_lives_in_an_empty_log() -> None:
    assert fold([]) == State()
    assert not State().alive
    assert State().tags == {}
