"""Wakes: what comes of each attempt, as a table; nothing lost, nothing tried for ever."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from ray_agents import wakes
from ray_agents.definition import Limits
from ray_agents.events import EntityCreated, Event, MessageReceived, WakeRecorded, WakeStatus
from ray_agents.projection import State, fold

LIMITS = Limits(
    attempts_max=3, retry_delay=timedelta(seconds=1), retry_delay_max=timedelta(seconds=3)
)
NOW = wakes.Attempt(host="h2", definition_version=2, now=1_000_000)
CREATED = EntityCreated(
    entity_type="t", args={}, tags={}, parent=None, life=0, spawn_id="s", timestamp=0
)


def message(key: str, payload: object = None) -> MessageReceived:
    return MessageReceived(key=key, payload=payload, message_type="m", sender="/a/b", timestamp=0)


def with_messages(*keys: str) -> State:
    drafts = [CREATED.draft(), *(message(key).draft() for key in keys)]
    return fold(Event.at(10 + n, 0, draft) for n, draft in enumerate(drafts))


def started(attempt: int = 1, deaths: int = 0) -> WakeRecorded:
    wake = wakes.begin(with_messages("a"), NOW)
    return replace(wake, attempt=attempt, deaths=deaths, host="h1", definition_version=1)


def test_a_wake_takes_all_that_waits() -> None:
    state = with_messages("a", "b", "c")
    assert wakes.due(state)
    wake = wakes.begin(state, NOW)
    assert (wake.from_offset, wake.to_offset, wake.event_count) == (11, 14, 3)
    state.apply(Event.at(14, 0, wake.draft()))
    assert not wakes.due(state)
    assert state.pending == []


def test_nothing_is_due_for_nobody_for_the_dead_or_while_a_wake_is_open() -> None:
    assert not wakes.due(State())
    assert not wakes.due(with_messages())
    state = with_messages("a")
    state.apply(Event.at(12, 0, wakes.begin(state, NOW).draft()))
    state.apply(Event.at(13, 0, message("b").draft()))
    assert not wakes.due(state)


@pytest.mark.parametrize(
    ("status", "attempt", "deaths", "then"),
    [
        (WakeStatus.STARTED, 1, 0, (WakeStatus.STARTED, 2, 1)),
        (WakeStatus.STARTED, 2, 1, (WakeStatus.STARTED, 3, 2)),
        (WakeStatus.STARTED, 3, 2, (WakeStatus.PARKED, 3, 3)),
        (WakeStatus.STARTED, 3, 0, (WakeStatus.PARKED, 3, 1)),
        (WakeStatus.FAILED, 1, 0, (WakeStatus.STARTED, 2, 0)),
        (WakeStatus.FAILED, 0, 0, (WakeStatus.STARTED, 1, 0)),
        (WakeStatus.FAILED, 2, 1, (WakeStatus.STARTED, 3, 1)),
    ],
)
def test_the_next_attempt_or_its_parking(
    status: WakeStatus, attempt: int, deaths: int, then: tuple[WakeStatus, int, int]
) -> None:
    wake = replace(started(attempt, deaths), status=status)
    after = wakes.again(wake, NOW, LIMITS)
    assert (after.status, after.attempt, after.deaths) == then
    assert after.definition_version == 1


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1), (2, 2)])
def test_a_failure_is_tried_again_after_a_growing_delay(attempt: int, seconds: int) -> None:
    wake = wakes.failed(started(attempt), "no", now=0, limits=LIMITS)
    assert (wake.status, wake.retry_at, wake.error) == (
        WakeStatus.FAILED,
        seconds * 1_000_000,
        "no",
    )


def test_the_delay_has_a_bound() -> None:
    limits = replace(LIMITS, attempts_max=1000)
    assert wakes.failed(started(500), "no", now=0, limits=limits).retry_at == 3_000_000


def test_the_last_failure_parks() -> None:
    assert wakes.failed(started(3), "no", now=0, limits=LIMITS).status is WakeStatus.PARKED


@pytest.mark.parametrize(
    ("wake", "alone"),
    [
        (started(1, 0), False),
        (started(2, 1), True),
        (replace(started(2, 1), status=WakeStatus.FAILED), False),
        (replace(started(3, 2), status=WakeStatus.FAILED), True),
    ],
)
def test_after_two_deaths_a_wake_is_tried_alone(wake: WakeRecorded, alone: bool) -> None:
    assert wakes.must_be_alone(wake) is alone


def test_an_interruption_costs_no_attempt() -> None:
    wake = wakes.interrupted(started(2), now=5)
    assert wakes.again(wake, NOW, LIMITS).attempt == 2


def test_a_retried_wake_begins_anew_with_the_newest_version() -> None:
    parked = wakes.parked(started(3, 2), "no", now=5)
    again = wakes.again(wakes.retried(parked, now=6, version=9), NOW, LIMITS)
    assert (again.attempt, again.deaths, again.definition_version) == (1, 0, 9)


def test_one_that_was_interrupted_before_it_was_parked_is_run_when_it_is_retried() -> None:
    parked = wakes.parked(replace(started(3, 2), interrupted=True), "no", now=5)
    retried = wakes.retried(parked, now=6, version=9)
    assert not retried.interrupted
    assert wakes.again(retried, NOW, LIMITS).definition_version == 9


def test_handled_and_skipped_are_the_ends() -> None:
    handled = wakes.handled(started(), now=5, reply={"a": 1}, text="t")
    assert handled.closed
    assert (handled.reply, handled.text, handled.error) == ({"a": 1}, "t", None)
    assert wakes.skipped(started(), now=5).closed


def test_an_exponent_without_end_does_not_overflow() -> None:
    limits = replace(LIMITS, attempts_max=10**9)
    assert wakes.failed(started(10**6), "no", now=0, limits=limits).retry_at == 3_000_000


def test_the_handler_sees_the_newest_message() -> None:
    rows = [Event.at(11 + n, 0, message(k, n).draft()) for n, k in enumerate("ab")]
    wake = wakes.as_seen(started(), rows)
    assert (wake.payload, wake.message_type, wake.source, wake.attempt) == (1, "m", "/a/b", 1)


def test_a_wait_is_never_negative() -> None:
    assert wakes.until(5, now=9) == timedelta(0)
    assert wakes.until(9, now=5) == timedelta(microseconds=4)
