"""One model's calls on one host: what becomes of a turn that nobody takes any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from ray_agents.lane import Lane
from ray_agents.pacing import Level
from ray_agents.sharing import ModelKey, Refused, Share
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


def share(calls: int, level: int = 1) -> Share:
    return Share(calls=calls, round=1, level=Level(calls=level))


async def begun(lane: Lane, calls: int) -> asyncio.Task[Share]:
    """So many calls in flight, and one that waits."""
    lane.take(share(calls))
    for _ in range(calls):
        await lane.admitted(Caller("/a/b"))
    waiting = asyncio.create_task(lane.admitted(Caller("/a/c")))
    await asyncio.sleep(0)
    return waiting


async def refused_before_the_centre_knows(lane: Lane) -> None:
    waiting = await begun(lane, 2)
    lane.refuse(Refused(round=1))
    lane.take(share(9))
    assert lane.report().waiting == 1
    lane.refuse(Refused(round=1, retry_after=30))
    lane.refuse(Refused(round=1))
    assert lane.pause_left == 30
    lane.take(share(9))
    assert lane.pause_left == 30
    waiting.cancel()


async def refused_with_more_in_flight_than_the_share(lane: Lane) -> None:
    waiting = await begun(lane, 4)
    lane.take(share(2))
    lane.refuse(Refused(round=1))
    for _ in range(2):
        lane.ended(Caller("/a/b"), share(4))
    assert (lane.report().in_flight, lane.report().waiting) == (2, 1)
    waiting.cancel()


async def alone_after_the_centre_had_spoken(lane: Lane) -> None:
    lane.told = share(9, level=20)
    lane.take(share(1, level=5))
    assert lane.report().level == Level(calls=20)


@pytest.mark.parametrize(
    "scene",
    [
        refused_before_the_centre_knows,
        refused_with_more_in_flight_than_the_share,
        alone_after_the_centre_had_spoken,
    ],
)
def test_a_lane_keeps_what_it_has_heard(
    scene: Callable[[Lane], Coroutine[None, None, None]],
) -> None:
    loop = VirtualLoop()
    loop.play(scene(Lane(ModelKey("test", "u", "m", ""), loop, lambda: None)))
