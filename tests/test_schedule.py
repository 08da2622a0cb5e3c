"""Due times: what comes first, how delays grow, and when something is given up."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ray_agents import schedule
from ray_agents.deferral import DeliveryDeferred
from ray_agents.events import (
    Draft,
    EffectStaged,
    EntityCreated,
    EntityStopped,
    Event,
    OutboxKind,
    SendScheduled,
)
from ray_agents.projection import State, fold

CREATED = EntityCreated(
    entity_type="t", args={}, tags={}, parent=None, life=0, spawn_id="s", timestamp=0
)
STAGED = EffectStaged(key="o", kind=OutboxKind.SEND, target="/t/x", body={})
DEFERRED = DeliveryDeferred(target="/t/x", retry_at=50, tries=1, error="away")
MINUTE = 60_000_000


def send(key: str, fire_at: int) -> SendScheduled:
    return SendScheduled(
        key=key,
        fire_at=fire_at,
        payload=None,
        message_type="m",
        sender=None,
        target="/t/a",
        life=0,
        timestamp=0,
    )


def after(*drafts: Draft) -> State:
    rows = [CREATED.draft(), *drafts]
    return fold(Event.at(number, 0, draft) for number, draft in enumerate(rows))


def test_the_first_of_all_that_waits_is_due_next() -> None:
    assert schedule.next_due(after()) is None
    assert schedule.next_due(after(send("a", 90).draft(), send("b", 70).draft())) == 70
    state = after(send("a", 90).draft(), STAGED.draft({}), DEFERRED.draft())
    assert schedule.next_due(state) == 50
    assert not state.undelivered


def test_what_was_sent_or_delivered_or_ended_with_its_life_is_not_due() -> None:
    sent = send("a", 90)
    assert schedule.next_due(after(sent.draft(), sent.sent(now=95))) is None
    delivered = [STAGED.draft({}), DEFERRED.draft(), STAGED.delivered()]
    assert schedule.next_due(after(*delivered)) is None
    stopped = EntityStopped(reason=None, life=0, timestamp=0).draft()
    assert (
        schedule.next_due(after(sent.draft(), STAGED.draft({}), DEFERRED.draft(), stopped)) is None
    )


@pytest.mark.parametrize(
    ("seconds", "instant"), [(0.0000014, 101), (1.5, 1_500_100), (1e8, 10**14 + 100)]
)
def test_a_delay_is_counted_in_microseconds(seconds: float, instant: int) -> None:
    assert schedule.fire_at(100, after_seconds=seconds) == instant


def test_the_delay_of_what_is_out_of_reach_doubles_up_to_an_hour() -> None:
    waits, delays = None, list[int]()
    for _ in range(9):
        waits = schedule.deferred(waits, "/t/x", error="away", now=0)
        delays.append(waits.retry_at // MINUTE)
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_row_is_given_up_after_seven_days() -> None:
    (row,) = after(STAGED.draft({})).outbox.values()
    week = timedelta(days=7) // timedelta(microseconds=1)
    assert not schedule.is_given_up(row, now=week)
    assert schedule.is_given_up(row, now=week + 1)
