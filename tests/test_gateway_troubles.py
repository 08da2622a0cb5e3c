"""Gateways when others are slow, late or wrong: in virtual time; see ``test_gateway.py``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest

from ray_agents.gateway import FIRST_ANSWER_MAX, GOODBYE_MAX, Gateway
from ray_agents.pacing import Allowance
from ray_agents.sharing import ModelKey, Report, Share, Sharing
from tests.test_gateway import KEY, WAY, Swarm
from tests.virtual_time import VirtualLoop

OTHER = KEY._replace(model="other")


class Centre:
    """A centre at a distance that serves any model, or raises what it is given."""

    def __init__(self, loop: VirtualLoop, error: Exception | None = None) -> None:
        self._loop = loop
        self._sharing = Sharing(lambda _: Allowance(calls_max=1))
        self.error = error
        self.asked: list[float] = []

    async def report(
        self, host: str, reports: Mapping[ModelKey, Report]
    ) -> Mapping[ModelKey, Share]:
        self.asked.append(self._loop.time())
        await self._loop.pause(WAY)
        if self.error is not None:
            raise self.error
        return self._sharing.report(host, reports, now=self._loop.time())


async def call(gateway: Gateway, loop: VirtualLoop, key: ModelKey, seconds: float = 0.01) -> None:
    async with gateway.turn(key) as turn:
        turn.accepted()
        await loop.pause(seconds)


async def end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_the_first_call_waits_for_a_silent_centre_no_longer_than_it_says() -> None:
    swarm = Swarm(takes=3, hosts=2)
    swarm.centre.silent = 30

    async def play() -> None:
        await swarm.call(swarm.gateways[0])
        await swarm.close()

    swarm.loop.play(play())
    assert swarm.server.sent == [FIRST_ANSWER_MAX.total_seconds()]


@pytest.mark.parametrize("error", [OSError("no route"), IndexError("a fault of ours")])
def test_whatever_the_centre_raises_calls_go_on_without_it(error: Exception) -> None:
    loop = VirtualLoop()
    gateway = Gateway("here", clock=loop, centre=Centre(loop, error))

    async def play() -> float:
        async with asyncio.timeout(100):
            await call(gateway, loop, KEY)
        await gateway.close()
        return loop.time()

    assert loop.play(play()) < 1
    assert gateway.alone


def test_whatever_the_centre_raises_at_the_end_keeps_no_host_from_leaving() -> None:
    loop = VirtualLoop()
    centre = Centre(loop)
    gateway = Gateway("here", clock=loop, centre=centre)

    async def play() -> int:
        await call(gateway, loop, KEY)
        centre.error = OSError("no route")
        asked = len(centre.asked)
        await gateway.close()
        return len(centre.asked) - asked

    assert loop.play(play()) == 1


def test_a_host_that_leaves_waits_for_a_silent_centre_no_longer_than_it_says() -> None:
    swarm = Swarm(takes=3, hosts=2)

    async def play() -> float:
        await swarm.call(swarm.gateways[0])
        swarm.centre.silent, begun = 30, swarm.loop.time()
        await swarm.close()
        return swarm.loop.time() - begun

    assert swarm.loop.play(play()) == pytest.approx(GOODBYE_MAX.total_seconds())


def test_a_host_that_has_given_its_share_back_sends_nothing_by_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    swarm, leaves = Swarm(takes=100, hosts=2, allowance=Allowance(calls_max=4)), asyncio.Event()
    one, two = swarm.gateways
    report = swarm.centre.report

    async def watched(host: str, reports: Mapping[ModelKey, Report]) -> Mapping[ModelKey, Share]:
        if reports[KEY].leaving:
            leaves.set()
        return await report(host, reports)

    async def play() -> None:
        await swarm.call(one)
        await leaves.wait()
        calls = [asyncio.create_task(swarm.call(gateway)) for gateway in [two, one] * 4]
        await asyncio.gather(*calls)
        await swarm.close()

    monkeypatch.setattr(swarm.centre, "report", watched)
    swarm.loop.play(play())
    assert swarm.server.answered == 9
    assert swarm.server.most <= 4


def test_a_host_keeps_a_pause_that_a_server_asks_for_before_the_centre_knows_of_it() -> None:
    swarm = Swarm(takes=3, hosts=2)
    swarm.server.retry_after = 30.0

    async def play() -> Sequence[float]:
        calls = [asyncio.create_task(swarm.call(swarm.gateways[0])) for _ in range(40)]
        await swarm.loop.pause(1.5 * WAY)
        swarm.centre.silent = 1.9
        await swarm.loop.pause(20)
        sent = list(swarm.server.sent)
        await end(*calls)
        await swarm.close()
        return sent

    assert max(swarm.loop.play(play())) < 0.1


def test_a_turn_that_is_begun_long_after_it_was_made_comes() -> None:
    loop = VirtualLoop()
    gateway = Gateway("here", clock=loop, centre=Centre(loop))

    async def play() -> float:
        await call(gateway, loop, KEY)
        turn = gateway.turn(KEY)
        await loop.pause(60)
        begun = loop.time()
        async with asyncio.timeout(100), turn:
            waited = loop.time() - begun
        await gateway.close()
        return waited

    assert loop.play(play()) < 1


def test_calls_go_as_soon_as_a_pause_is_over_on_a_host_alone() -> None:
    swarm = Swarm(takes=0, hosts=1)
    swarm.server.retry_after = 0.02

    async def play() -> Sequence[float]:
        running = asyncio.create_task(swarm.call(swarm.gateways[0]))
        await swarm.loop.pause(0.2)
        await end(running)
        await swarm.close()
        return swarm.server.sent

    sent = swarm.loop.play(play())
    assert max(after - before for before, after in pairwise(sent)) < 0.02 + 2 * WAY


def test_a_quiet_model_does_not_slow_the_reports_of_a_busy_one() -> None:
    loop = VirtualLoop()
    centre = Centre(loop)
    gateway = Gateway("here", clock=loop, centre=centre)

    async def play() -> int:
        async with gateway.turn(KEY):
            waiting = asyncio.create_task(call(gateway, loop, KEY))
            await call(gateway, loop, OTHER)
            await loop.pause(1)
            begun = len(centre.asked)
            await loop.pause(1)
            asked = len(centre.asked) - begun
        await waiting
        await gateway.close()
        return asked

    assert loop.play(play()) > 15


def test_a_brisk_model_does_not_keep_another_waiting_on_a_host_alone() -> None:
    loop = VirtualLoop()
    allowed = {KEY.model: Allowance(calls_max=1), OTHER.model: Allowance(requests_per_minute=600)}
    gateway = Gateway("here", clock=loop, allowance_of=lambda name: allowed[name])

    async def again_and_again() -> None:
        while True:
            await call(gateway, loop, KEY)

    async def play() -> float:
        brisk = [asyncio.create_task(again_and_again()) for _ in range(2)]
        async with asyncio.timeout(100):
            await asyncio.gather(*[call(gateway, loop, OTHER) for _ in range(100)])
        took = loop.time()
        await end(*brisk)
        await gateway.close()
        return took

    assert loop.play(play()) < 12
