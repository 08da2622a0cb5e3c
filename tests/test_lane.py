"""One model's calls on one host: what becomes of a turn that nobody takes any more."""

from __future__ import annotations

import asyncio

import pytest

from ray_agents.lane import Lane
from ray_agents.pacing import Level
from ray_agents.sharing import ModelKey, Share
from ray_agents.turns import Caller
from tests.virtual_time import VirtualLoop


async def cancelled_in_the_instant_of_its_turn(lane: Lane) -> None:
    waiting = asyncio.create_task(lane.admitted(Caller("/a/b")))
    await asyncio.sleep(0)
    lane.take(Share(calls=1, round=1, level=Level(calls=1)))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_a_call_that_is_cancelled_in_the_instant_of_its_turn_gives_it_back() -> None:
    loop = VirtualLoop()
    lane = Lane(ModelKey("test", "u", "m", ""), loop, lambda: None)
    loop.play(cancelled_in_the_instant_of_its_turn(lane))
    assert not lane.busy
