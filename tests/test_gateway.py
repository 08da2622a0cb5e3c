"""Swarms that call a model through gateways: in virtual time, with a server that refuses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from ray_agents.errors import ModelUnavailable, RuntimeUnavailable
from ray_agents.gateway import ASK_AGAIN, Gateway
from ray_agents.model import (
    Answered,
    CallQueued,
    CallSent,
    ModelEvent,
    ModelSettings,
    TextDelta,
    Usage,
)
from ray_agents.models.retrying import CallFailed, Retrying
from ray_agents.pacing import Allowance
from ray_agents.sharing import ModelKey, Report, Share, Sharing
from ray_agents.turns import CALLER, Caller
from tests.virtual_time import VirtualLoop

KEY = ModelKey("test", "u", "m", "")
WAY = 0.004  # seconds to the server, and to the centre


class Server:
    """Takes so many calls at once, refuses the rest, and answers in ``seconds`` give or take."""

    def __init__(self, loop: VirtualLoop, *, takes: int, seconds: float = 0.3) -> None:
        self._loop = loop
        self.takes = takes
        self._seconds = seconds
        self._chance = random.Random(4)
        self.retry_after: float | None = None
        self.in_flight = self.most = self.refused = self.answered = 0
        self.sent: list[float] = []
        self.tokens = 100

    async def attempt(self) -> AsyncGenerator[ModelEvent, None]:
        self.sent.append(self._loop.time())
        await self._loop.pause(WAY)
        if self.in_flight >= self.takes:
            self.refused += 1
            raise CallFailed(
                "refused",
                kind="rate_limit_error",
                may_help=True,
                advice="wait",
                http_status=429,
                retry_after=self.retry_after,
            )
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            yield TextDelta(block=0, text="so")
            await self._loop.pause(self._seconds * self._chance.uniform(0.5, 1.5))
        finally:
            self.in_flight -= 1
        self.answered += 1
        usage = Usage(input_tokens=self.tokens)
        yield Answered(content=[], stop_reason="end_turn", usage=usage)


class Centre:
    """A centre at a distance; it may be gone, or begin anew."""

    def __init__(self, loop: VirtualLoop, allowance: Allowance) -> None:
        self._loop = loop
        self._allowance = allowance
        self.gone = False
        self.silent = 0.0  # seconds until it answers
        self.asked = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        self.sharing = Sharing(lambda _: self._allowance)

    async def report(
        self, host: str, reports: Mapping[ModelKey, Report]
    ) -> Mapping[ModelKey, Share]:
        self.asked += 1
        await self._loop.pause(WAY + self.silent)
        if self.gone:
            raise RuntimeUnavailable("gone")
        return self.sharing.report(host, reports, now=self._loop.time())


class Swarm:
    """Entities on hosts, each of which makes calls one after another."""

    def __init__(
        self, *, takes: int, hosts: int, allowance: Allowance | None = None, seconds: float = 0.3
    ) -> None:
        self.loop = VirtualLoop()
        self.server = Server(self.loop, takes=takes, seconds=seconds)
        allowed = allowance or Allowance()
        self.centre = Centre(self.loop, allowed)
        centre = self.centre if hosts > 1 else None
        self.gateways = [
            Gateway(str(number), clock=self.loop, allowance_of=lambda _: allowed, centre=centre)
            for number in range(hosts)
        ]
        self.callers: list[Caller] = []
        self.took: list[float] = []
        self.made: list[int] = []  # calls, by entity

    async def call(self, gateway: Gateway, model_settings: ModelSettings | None = None) -> None:
        retrying = Retrying(
            settings=model_settings or ModelSettings(), sleep=self.loop.pause, gateway=gateway
        )
        events = retrying.events(self.server.attempt, model="m", base_url="u", key=KEY)
        async with aclosing(events):
            async for _ in events:
                pass

    async def entity(self, number: int, calls: int) -> None:
        self.made.append(0)
        self.callers.append(Caller(f"/swarm/{number}"))
        CALLER.set(self.callers[-1])
        begun = self.loop.time()
        for _ in range(calls):
            await self.call(self.gateways[number % len(self.gateways)])
            self.made[number] += 1
        self.took.append(self.loop.time() - begun)

    async def run(self, entities: int, calls: int) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(entities):
                group.create_task(self.entity(number, calls))
        await self.close()

    async def close(self) -> None:
        for gateway in self.gateways:
            await gateway.close()

    @property
    def refused_share(self) -> float:
        return self.server.refused / len(self.server.sent)

    @property
    def unfairness(self) -> float:
        """The longest that an entity took, in shares of the mean."""
        return max(self.took) / (sum(self.took) / len(self.took))


@pytest.mark.parametrize("hosts", [1, 2, pytest.param(8, marks=pytest.mark.slow)])
def test_a_swarm_finds_the_limit_with_few_refusals_and_is_fair(hosts: int) -> None:
    swarm = Swarm(takes=20, hosts=hosts)
    swarm.loop.play(swarm.run(200, 20))
    server = swarm.server
    assert server.answered == 4000
    assert swarm.refused_share < 0.02
    assert swarm.unfairness < 2
    assert max(swarm.took) < 1.25 * 4000 * 0.3 / 20


@pytest.mark.parametrize("hosts", [1, 3])
def test_half_way_everybody_is_half_way(hosts: int) -> None:
    swarm = Swarm(takes=20, hosts=hosts)

    async def play() -> list[int]:
        running = asyncio.ensure_future(swarm.run(100, 20))
        await swarm.loop.pause(0.5 * 2000 * 0.3 / 20)
        made = list(swarm.made)
        await running
        return made

    made = swarm.loop.play(play())
    assert max(made) - min(made) <= 4, made


def test_pauses_that_the_server_asks_for_at_each_refusal_keep_refusals_few() -> None:
    swarm = Swarm(takes=20, hosts=2)
    swarm.server.retry_after = 1.0
    swarm.loop.play(swarm.run(200, 20))
    assert swarm.server.answered == 4000
    assert swarm.refused_share < 0.02
    assert max(swarm.took) < 1.5 * 4000 * 0.3 / 20


@settings(max_examples=10)
@given(
    takes=some.integers(1, 80),
    hosts=some.integers(1, 6),
    entities=some.integers(1, 60),
    seconds=some.sampled_from([0.05, 0.5, 5.0]),
)
def test_every_swarm_ends(takes: int, hosts: int, entities: int, seconds: float) -> None:
    swarm = Swarm(takes=takes, hosts=hosts, seconds=seconds)
    swarm.loop.play(swarm.run(entities, 4))
    assert swarm.server.answered == entities * 4


@pytest.mark.slow
def test_many_hosts_with_one_entity_each_take_turns() -> None:
    swarm = Swarm(takes=20, hosts=60)
    swarm.loop.play(swarm.run(60, 20))
    assert swarm.server.answered == 1200
    assert swarm.refused_share < 0.02
    assert swarm.unfairness < 1.5


def test_a_swarm_goes_on_without_its_centre_and_comes_back_to_it() -> None:
    swarm = Swarm(takes=20, hosts=2)

    async def play() -> None:
        running = asyncio.ensure_future(swarm.run(200, 20))
        await swarm.loop.pause(15)
        swarm.centre.gone = True
        await swarm.loop.pause(15)
        assert all(gateway.alone for gateway in swarm.gateways)
        swarm.centre.begin_anew()
        swarm.centre.gone = False
        await swarm.loop.pause(ASK_AGAIN.total_seconds() * 2)
        assert not any(gateway.alone for gateway in swarm.gateways)
        await running

    swarm.loop.play(play())
    assert swarm.server.answered == 4000
    assert swarm.refused_share < 0.02
    assert swarm.unfairness < 2


def test_a_centre_that_never_was_there_is_done_without() -> None:
    swarm = Swarm(takes=20, hosts=2)
    swarm.centre.gone = True
    swarm.loop.play(swarm.run(40, 10))
    assert swarm.server.answered == 400
    assert swarm.refused_share < 0.05


def test_few_calls_ask_nobody_on_their_way() -> None:
    swarm = Swarm(takes=20, hosts=2, seconds=0.01)

    async def play() -> list[float]:
        await swarm.call(swarm.gateways[0])
        waited: list[float] = []
        for _ in range(100):
            asked = swarm.loop.time()
            await swarm.call(swarm.gateways[0])
            waited.append(swarm.server.sent[-1] - asked)
        await swarm.close()
        return waited

    assert max(swarm.loop.play(play())) == 0
    assert swarm.centre.asked < 10


def test_all_callers_wait_for_as_long_as_the_server_asks() -> None:
    swarm = Swarm(takes=0, hosts=2)
    swarm.server.retry_after = 30.0

    async def play() -> None:
        running = asyncio.ensure_future(swarm.run(50, 2))
        await swarm.loop.pause(10)
        swarm.server.takes, refused = 20, swarm.server.refused
        assert refused <= 2 * 8  # what had been sent until the first was refused
        await running
        later = [at for at in swarm.server.sent if at > 1]
        assert min(later) >= 30

    swarm.loop.play(play())
    assert swarm.server.answered == 100


def test_a_server_that_refuses_everything_is_hardly_asked_and_no_call_fails() -> None:
    swarm = Swarm(takes=0, hosts=2)

    async def play() -> None:
        running = asyncio.ensure_future(swarm.run(100, 1))
        await swarm.loop.pause(120)
        assert swarm.server.refused < 80
        swarm.server.takes = 50
        await running

    swarm.loop.play(play())
    assert swarm.server.answered == 100


def test_a_call_that_is_refused_too_often_fails_and_says_so() -> None:
    swarm = Swarm(takes=0, hosts=1)
    bounded = ModelSettings(refusals_max=3)

    async def play() -> None:
        with pytest.raises(ModelUnavailable, match="4 attempts"):
            await swarm.call(swarm.gateways[0], bounded)
        await swarm.close()

    swarm.loop.play(play())


def test_a_call_that_has_no_turn_for_too_long_fails_and_says_so() -> None:
    swarm = Swarm(takes=1, hosts=1, allowance=Allowance(calls_max=1), seconds=60)
    bounded = ModelSettings(turn_wait_max=timedelta(seconds=5))

    async def play() -> None:
        first = asyncio.ensure_future(swarm.call(swarm.gateways[0]))
        await swarm.loop.pause(0.1)
        with pytest.raises(ModelUnavailable, match="no turn"):
            await swarm.call(swarm.gateways[0], bounded)
        await first
        await swarm.close()

    swarm.loop.play(play())


def test_a_call_that_is_cancelled_leaves_its_place_to_others() -> None:
    swarm = Swarm(takes=1, hosts=1, allowance=Allowance(calls_max=1))

    async def play() -> None:
        calls = [asyncio.ensure_future(swarm.call(swarm.gateways[0])) for _ in range(9)]
        await swarm.loop.pause(0.01)
        for call in calls[:8]:
            call.cancel()
        await calls[8]
        await swarm.close()

    swarm.loop.play(play())
    assert swarm.server.answered == 1


def test_what_the_operator_allows_is_never_exceeded() -> None:
    allowance = Allowance(calls_max=7, requests_per_minute=120)
    swarm = Swarm(takes=100, hosts=3, allowance=allowance)
    swarm.loop.play(swarm.run(30, 6))
    sent = swarm.server.sent
    assert swarm.server.most <= 7
    for index, begun in enumerate(sent):  # a report and its answer may lie between
        assert sum(1 for each in sent[index:] if each < begun + 59.5) <= 120
    assert sent[-1] < 1.3 * 180 / 120 * 60


def test_tokens_by_the_minute_are_kept_though_they_are_known_afterwards() -> None:
    swarm = Swarm(takes=100, hosts=2, allowance=Allowance(tokens_per_minute=60_000))
    swarm.server.tokens = 1_000
    swarm.loop.play(swarm.run(30, 4))
    assert 0.8 * 120 < swarm.server.sent[-1] < 1.3 * 120


def test_who_waits_says_for_what_and_how_many_are_ahead() -> None:
    swarm = Swarm(takes=1, hosts=1, allowance=Allowance(calls_max=1))

    async def play() -> list[str | None]:
        running = asyncio.ensure_future(swarm.run(4, 1))
        await swarm.loop.pause(0.1)
        told = [caller.waiting_for for caller in swarm.callers]
        await running
        return told

    assert swarm.loop.play(play()) == [
        None,
        "model m (0 ahead)",
        "model m (1 ahead)",
        "model m (2 ahead)",
    ]
    assert [caller.waiting_for for caller in swarm.callers] == [None] * 4


def test_who_has_just_got_its_turn_waits_for_nothing() -> None:
    loop, caller = VirtualLoop(), Caller("/a/b")

    async def play() -> list[str | None]:
        gateway = Gateway("here", clock=loop, allowance_of=lambda _: Allowance(calls_max=1))
        async with gateway.turn(KEY):
            CALLER.set(caller)
            turn = gateway.turn(KEY)
            begun = asyncio.ensure_future(turn.begin())
            await loop.pause(0.1)
            told = [caller.waiting_for]
        told.append(caller.waiting_for)  # before the waiting task has had its step
        await begun
        async with turn:
            await gateway.close()
        return told

    assert loop.play(play()) == ["model m (0 ahead)", None]


def test_a_call_says_that_it_waits_and_that_it_is_sent() -> None:
    swarm = Swarm(takes=1, hosts=1, allowance=Allowance(calls_max=1))

    async def play() -> Sequence[tuple[type[object], float]]:
        first = asyncio.ensure_future(swarm.call(swarm.gateways[0]))
        await swarm.loop.pause(0.001)
        gateway = swarm.gateways[0]
        retrying = Retrying(settings=ModelSettings(), sleep=swarm.loop.pause, gateway=gateway)
        events = retrying.events(swarm.server.attempt, model="m", base_url="u", key=KEY)
        async with aclosing(events):
            told = [(type(event), swarm.loop.time()) async for event in events]
        await first
        await swarm.close()
        return told

    told = swarm.loop.play(play())
    assert [kind for kind, _ in told] == [CallQueued, CallSent, TextDelta, Answered]
    assert told[0][1] < 0.1 < told[1][1] == swarm.server.sent[1]


def test_nothing_runs_when_there_have_been_no_calls_for_a_while() -> None:
    swarm = Swarm(takes=20, hosts=2)

    async def play() -> set[asyncio.Task[object]]:
        await swarm.call(swarm.gateways[0])
        await swarm.loop.pause(60)
        return asyncio.all_tasks()

    assert len(swarm.loop.play(play())) == 1


@pytest.mark.parametrize("seconds", [None, 3600.0])
def test_nothing_runs_then_without_a_centre_that_answers_either(seconds: float | None) -> None:
    swarm = Swarm(takes=20, hosts=2)
    swarm.centre.gone, swarm.centre.silent = seconds is None, seconds or 0.0

    async def play() -> int:
        await swarm.call(swarm.gateways[0])
        await swarm.loop.pause(60)
        left = len(asyncio.all_tasks())
        await swarm.call(swarm.gateways[0])
        swarm.centre.gone, swarm.centre.silent = False, 0.0
        await swarm.loop.pause(4)
        assert not swarm.gateways[0].alone
        await swarm.close()
        return left

    assert swarm.loop.play(play()) == 1
