"""One model's calls on one host: what becomes of a turn that nobody takes any more."""

from __future__ import annotations

import asyncio

import pytest

from ray_agents.lane import Lane
from ray_agents.pacing import Level
from ray_agents.sharing import ModelKey, Share
from ray_agents.turns import Caller
from tests.virtual_time import VirtualLoop


async def cancelled_in_the_instant_of_its_turn(
    lane: Lane, *, starts: int | None = None, reported: bool = False
) -> None:
    waiting = asyncio.create_task(lane.admitted(Caller("/a/b")))
    await asyncio.sleep(0)
    lane.take(Share(calls=1, round=1, level=Level(calls=1), starts=starts, tokens_each=100))
    waiting.cancel()
    if reported:
        lane.report()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def waiting_times(lane: Lane, loop: VirtualLoop) -> list[float]:
    """What is reported of the longest wait: while two wait, one, none."""
    calls = [asyncio.create_task(lane.admitted(Caller(name))) for name in ("/a/b", "/a/c")]
    await loop.pause(3)
    told = [lane.report().waited]
    calls[0].cancel()
    calls.append(asyncio.create_task(lane.admitted(Caller("/a/d"))))
    await loop.pause(1)
    lane.take(Share(calls=1, round=1, level=Level(calls=1)))
    await loop.pause(1)
    told.append(lane.report().waited)
    lane.take(Share(calls=2, round=1, level=Level(calls=2)))
    return [*told, lane.report().waited]


def test_reports_say_how_long_the_oldest_call_waits() -> None:
    loop = VirtualLoop()
    lane = Lane(ModelKey("test", "u", "m", ""), loop, lambda: None)
    assert loop.play(waiting_times(lane, loop)) == [3, 2, 0]


def test_a_call_that_is_cancelled_in_the_instant_of_its_turn_gives_it_back() -> None:
    loop = VirtualLoop()
    lane = Lane(ModelKey("test", "u", "m", ""), loop, lambda: None)
    loop.play(cancelled_in_the_instant_of_its_turn(lane))
    assert not lane.busy


@pytest.mark.parametrize(
    ("starts", "reported", "back"), [(None, False, 0), (1, False, 1), (3, False, 3), (3, True, 1)]
)
def test_and_its_start_of_the_minutes_budget_which_was_not_used(
    starts: int | None, reported: bool, back: int
) -> None:
    loop = VirtualLoop()
    lane = Lane(ModelKey("test", "u", "m", ""), loop, lambda: None)
    loop.play(cancelled_in_the_instant_of_its_turn(lane, starts=starts, reported=reported))
    report = lane.report()
    assert report.starts_back == back
    left = 0 if reported else max(0, (starts or 0) - 1)
    assert report.tokens_back + report.tokens_granted == 100 * (left + 1)
    assert lane.report().starts_back == 0
