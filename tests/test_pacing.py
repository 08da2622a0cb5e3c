"""How a limit is found out from refusals, and how much goes in a minute: without waiting."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ray_agents.pacing import (
    OPENING,
    OPENING_EVERY,
    PAUSE_MAX,
    PROBE_AFTER,
    Allowance,
    Bucket,
    Level,
    Limit,
)

PROBE = PROBE_AFTER.total_seconds()
LATER = OPENING_EVERY.total_seconds()


def opened(start: int = 64) -> Limit:
    """A limit that has opened, at time 100."""
    limit = Limit(start=start, now=0)
    for tick in range(1, 100):
        limit.open(tick, wanted=1000)
    return limit


def take_whole(limit: Limit, *, now: float, rounds: int = 1) -> None:
    for _ in range(rounds):
        limit.accepted(limit.calls, round=limit.round, now=now, wanted=1000)


def test_it_opens_to_its_start_within_a_second_while_more_is_wanted() -> None:
    limit = Limit(start=64, now=0)
    seen = [limit.calls]
    for tick in range(1, 9):
        limit.open(tick * LATER, wanted=1000)
        seen.append(limit.calls)
    assert seen == [8, 16, 24, 32, 40, 48, 56, 64, 64]


def test_it_does_not_open_while_nobody_wants_more() -> None:
    limit = Limit(start=64, now=0)
    limit.open(10, wanted=OPENING)
    assert limit.calls == OPENING


def test_a_burst_that_is_refused_is_one_piece_of_news() -> None:
    limit = opened()
    sent = limit.round
    for refused in range(1, 45):
        limit.refused(round=sent, in_flight=64 - refused, now=100)
    assert limit.known == 32  # half at most, from one burst
    limit.refused(round=limit.round, in_flight=20, now=101)
    assert (limit.known, limit.calls) == (20, 18)


def test_what_was_sent_before_the_limit_began_anew_is_one_piece_of_news_too() -> None:
    limit = Limit.at(Level(calls=20, known=20), now=0)
    for _ in range(10):
        limit.refused(round=50, in_flight=18, now=0)
    assert (limit.known, limit.calls) == (18, 16)
    assert limit.paused_until <= 0


def test_it_climbs_one_by_one_to_where_it_was_refused_and_then_tries_rarely() -> None:
    limit = opened(30)
    limit.refused(round=limit.round, in_flight=20, now=100)
    take_whole(limit, now=101, rounds=2)
    assert limit.calls == 20
    take_whole(limit, now=101, rounds=9)
    assert limit.calls == 20
    take_whole(limit, now=100 + PROBE)
    assert limit.calls == 21


def test_a_try_in_vain_costs_nothing_else_and_comes_back_after_twice_the_time() -> None:
    limit = Limit.at(Level(calls=20, known=20), now=0)
    take_whole(limit, now=PROBE)
    assert limit.calls == 21
    limit.refused(round=limit.round, in_flight=20, now=PROBE)
    assert (limit.calls, limit.known) == (20, 20)
    take_whole(limit, now=PROBE * 2.9)
    assert limit.calls == 20
    take_whole(limit, now=PROBE * 3)
    assert limit.calls == 21


def test_after_a_success_the_next_try_comes_at_once_and_goes_further() -> None:
    limit = Limit.at(Level(calls=5, known=5), start=64, now=0)
    seen: list[int] = []
    for _ in range(5):
        take_whole(limit, now=PROBE)
        seen.append(limit.calls)
    assert seen == [6, 8, 12, 20, 36]


def test_one_that_was_never_refused_goes_beyond_its_start_one_by_one() -> None:
    limit = opened(10)
    take_whole(limit, now=100, rounds=3)
    assert limit.calls == 13


def test_it_never_goes_beyond_what_the_operator_allows() -> None:
    limit = Limit(start=64, most=12, now=0)
    limit.open(1, wanted=100)
    take_whole(limit, now=100, rounds=100)
    assert limit.calls == 12


def test_all_wait_for_as_long_as_the_server_asks_and_then_begin_with_one() -> None:
    limit = opened()
    limit.refused(round=limit.round, in_flight=30, now=100, retry_after=7)
    assert (limit.paused_until, limit.calls) == (107, 1)
    limit.open(106.9, wanted=100)
    assert limit.calls == 1
    limit.open(107.2, wanted=100)
    assert limit.calls == 1 + OPENING


def test_pauses_double_while_everything_is_refused() -> None:
    limit, pauses, now = opened(), list[float](), 100.0
    for _ in range(8):
        limit.refused(round=limit.round, in_flight=0, now=now)
        pauses.append(limit.paused_until - now)
        now = limit.paused_until
    assert pauses == [0.5, 1, 2, 4, 8, 8, 8, 8]
    assert max(pauses) == PAUSE_MAX.total_seconds()


def test_a_refusal_while_others_are_answered_needs_no_pause() -> None:
    limit = opened()
    limit.refused(round=limit.round, in_flight=20, now=100)
    assert limit.paused_until <= 100


@given(
    steps=some.lists(
        some.tuples(
            some.sampled_from(["open", "taken", "refused", "old"]),
            some.integers(0, 100),
            some.floats(0, 20),
        )
    )
)
def test_whatever_happens_it_stays_between_one_and_the_most(
    steps: list[tuple[str, int, float]],
) -> None:
    limit, now = Limit(start=64, most=80, now=0), 0.0
    for what, count, seconds in steps:
        now += seconds
        match what:
            case "open":
                limit.open(now, wanted=count)
            case "taken":
                limit.accepted(count, round=limit.round, now=now, wanted=100)
            case "refused":
                limit.refused(round=limit.round, in_flight=count, now=now)
            case _:
                limit.refused(round=0, in_flight=count, now=now, retry_after=seconds)
        assert 1 <= limit.calls <= 80
        assert limit.known is None or 1 <= limit.known <= 100
        assert limit.calls <= limit.level.calls


# -- budgets by the minute ---------------------------------------------------------------------


@given(
    per_minute=some.integers(1, 500),
    waits=some.lists(some.floats(0, 90), min_size=1, max_size=60),
)
def test_no_minute_has_more_than_its_worth(per_minute: int, waits: list[float]) -> None:
    bucket, now, taken = Bucket(per_minute, now=0), 0.0, list[float]()
    for wait in waits:
        now += wait
        for _ in range(bucket.times(1, now)):
            bucket.take(1, now)
            taken.append(now)
    for index, begun in enumerate(taken):
        assert sum(1 for each in taken[index:] if each < begun + 60) <= per_minute


@pytest.mark.parametrize("per_minute", [1, 7, 60, 6000])
def test_hardly_less_goes_than_is_allowed(per_minute: int) -> None:
    bucket, taken = Bucket(per_minute, now=0), 0
    for tick in range(1, 60 * 60 * 10):
        count = bucket.times(1, tick / 10)
        bucket.take(count, tick / 10)
        taken += count
    assert taken >= 60 * per_minute * 0.9


def test_more_than_fits_goes_once_all_is_there_and_is_paid_for_later() -> None:
    bucket = Bucket(1200, now=0)
    assert bucket.times(500, 0) == 1
    bucket.take(500, 0)
    waits = [second for second in range(1, 60) if bucket.times(1, second)]
    assert 15 < waits[0] < 30


def test_it_tells_what_the_last_minute_has_used() -> None:
    bucket = Bucket(600, now=0)
    for second in range(50):
        bucket.take(4, second)
    bucket.give(20, 50)
    assert [bucket.used(at) for at in (50, 69, 200)] == [180, 140, 0]


def test_a_wrong_guess_is_corrected() -> None:
    bucket = Bucket(1200, now=0)
    bucket.take(100, 0)
    bucket.give(40, 0)
    assert bucket.room(0) == 40


def test_the_part_of_one_host_is_never_nothing() -> None:
    part = Allowance(calls_start=64, calls_max=3, requests_per_minute=50).part(8)
    assert (part.calls_start, part.calls_max, part.requests_per_minute) == (8, 1, 6)
    assert part.tokens_per_minute is None


def test_pauses_of_tries_grow_only_with_tries_in_vain() -> None:
    limit, at, tries = Limit.at(Level(calls=20, known=20), now=0), 0.0, list[float]()
    while at < 300:
        at += 1
        take_whole(limit, now=at)
        if limit.calls > 20:
            tries.append(at)
            limit.refused(round=limit.round, in_flight=20, now=at)
    assert [b - a for a, b in pairwise(tries)] == [20, 40, 80, 160][: len(tries) - 1]
