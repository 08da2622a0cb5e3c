"""Spans of time are written as people write them, and read back."""

from datetime import timedelta

import pytest

from ray_agents.terminal.spans import MICROSECONDS, ago, duration, lasting, until

DAY = 86_400


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "just now"), (3, "3s ago"), (60, "1m ago"), (7_200, "2h ago"), (3 * DAY, "3d ago")],
)
def test_a_moment_is_told_by_its_distance(seconds: int, words: str) -> None:
    now = 1_000 * DAY * MICROSECONDS
    assert ago(now - seconds * MICROSECONDS, now=now) == words


def test_what_never_happened_was_never() -> None:
    assert ago(0, now=5) == "never"


def test_a_clock_that_runs_ahead_is_just_now() -> None:
    assert ago(6 * MICROSECONDS, now=5 * MICROSECONDS) == "just now"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "now"),
        (0.5, "now"),
        (30, "in 30.0 s"),
        (90, "in 1 min 30 s"),
        (7_300, "in 2h"),
        (3 * DAY, "in 3d"),
        (12 * 3600 - 0.01, "in 12h"),
        (4.99, "in 5.0 s"),
    ],
)
def test_what_is_to_come_is_told_by_its_distance(seconds: float, words: str) -> None:
    assert until(5 + round(seconds * MICROSECONDS), now=5) == words


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(4.4, "4 ms"), (120, "0.12 s"), (3_400, "3.4 s"), (120_000, "2 min"), (125_000, "2 min 5 s")],
)
def test_a_duration_has_the_digits_that_matter(milliseconds: float, words: str) -> None:
    assert lasting(milliseconds) == words


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("500ms", 0.5), ("1.5m", 90), ("2h", 7_200), ("1d", DAY)],
)
def test_a_typed_duration_is_read(text: str, seconds: float) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "-3s", "3 weeks", "1e3"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration(text)
