"""Calls travel together and answers come back as they are ready; nobody waits for a slow one."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from ray_agents.cluster import exchange
from ray_agents.cluster.exchange import CROWD_MIN, LINGER, Desks, Line, Trip
from ray_agents.errors import RuntimeUnavailable
from tests.cluster.conftest import turn_until


class Host:
    """Desks behind a wire: answers each call with itself, once its gate is open."""

    def __init__(self) -> None:
        self.shut: dict[bytes, asyncio.Event] = {}
        self.trips: list[Trip] = []
        self.under_way: list[asyncio.Future[Trip]] = []
        self.broken: Exception | None = None
        self.desks = Desks(self.answer)

    async def answer(self, call: bytes) -> bytes:
        if call in self.shut:
            await self.shut[call].wait()
        return call

    def shut_gate(self, call: bytes) -> asyncio.Event:
        return self.shut.setdefault(call, asyncio.Event())

    def travel(self, line: str, calls: Trip) -> asyncio.Future[Trip]:
        broken, self.broken = self.broken, None  # for one trip
        if broken is not None:
            raise broken
        self.trips.append(calls)
        self.under_way.append(asyncio.ensure_future(self.desks.serve(line, calls)))
        return self.under_way[-1]


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def line(host: Host) -> Line:
    return Line("line", host.travel)


async def test_a_call_is_answered(line: Line) -> None:
    assert await line.ask(b"x") == b"x"


async def test_calls_of_one_turn_travel_together(line: Line, host: Host) -> None:
    asked = [line.ask(b"%d" % n) for n in range(50)]
    assert await asyncio.gather(*asked) == [b"%d" % n for n in range(50)]
    assert len(host.trips[0]) == 50


async def test_what_is_too_much_for_one_trip_takes_several(
    line: Line, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "TRIP_BYTES_MAX", 10)
    asked = [line.ask(b"%d" % n * 4) for n in range(5)]
    assert await asyncio.gather(*asked) == [b"%d" % n * 4 for n in range(5)]
    assert [len(trip) for trip in host.trips[:3]] == [2, 2, 1]


async def test_nobody_waits_for_the_slow_answer_of_another(line: Line, host: Host) -> None:
    gate = host.shut_gate(b"slow")
    slow, quick = line.ask(b"slow"), line.ask(b"quick")
    assert await quick == b"quick"
    assert [await line.ask(b"%d" % n) for n in range(20)] == [b"%d" % n for n in range(20)]
    assert not slow.done()
    gate.set()
    assert await slow == b"slow"


async def test_in_a_crowd_answers_wait_for_each_other_a_moment(line: Line, host: Host) -> None:
    gates = [host.shut_gate(b"%d" % n) for n in range(4 * CROWD_MIN)]
    asked = [line.ask(b"%d" % n) for n in range(4 * CROWD_MIN)]
    first = line.ask(b"first")
    assert await first == b"first"
    before = len(host.trips)
    for gate, answer in zip(gates, asked, strict=True):
        gate.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if answer is asked[CROWD_MIN]:
            assert not answer.done()
    await asyncio.gather(*asked)
    assert len(host.trips) - before < len(asked) / 2


async def test_a_call_that_nobody_waits_for_any_more_is_done_all_the_same(
    line: Line, host: Host
) -> None:
    gate = host.shut_gate(b"left")
    left = line.ask(b"left")
    await asyncio.sleep(0)
    left.cancel()
    gate.set()
    assert await line.ask(b"x") == b"x"
    assert host.trips[0] == [(0, b"left")]


async def test_a_trip_that_fails_fails_the_calls_that_are_missing_and_no_later_one(
    line: Line, host: Host
) -> None:
    gate = host.shut_gate(b"slow")
    slow = line.ask(b"slow")
    await asyncio.sleep(0)
    host.broken = ConnectionError("gone")
    lost = line.ask(b"lost")
    for answer in (slow, lost):
        with pytest.raises(ConnectionError):
            await answer
    gate.set()
    assert await line.ask(b"x") == b"x"
    gate = host.shut_gate(b"later")
    later = line.ask(b"later")
    assert await line.ask(b"y") == b"y"
    gate.set()
    assert await asyncio.wait_for(later, 5) == b"later"  # fetched by a trip of its own


async def test_what_was_to_follow_a_trip_that_failed_does_not_travel_empty(
    line: Line, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "TRIP_BYTES_MAX", 1)
    host.broken = OSError("no way")
    asked = [line.ask(b"one"), line.ask(b"two")]
    assert all(await asyncio.gather(*asked, return_exceptions=True))
    for _ in range(5):
        await asyncio.sleep(0)
    assert host.trips == []
    assert await line.ask(b"three") == b"three"  # and what was told to have failed does not leave
    assert [call for trip in host.trips for _, call in trip] == [b"three"]


async def test_a_trip_that_is_cancelled_may_be_made_again(line: Line, host: Host) -> None:
    host.shut_gate(b"x")
    asked = line.ask(b"x")
    await turn_until(lambda: host.trips)
    host.under_way[0].cancel()
    with pytest.raises(RuntimeUnavailable):
        await asked


async def test_a_trip_and_its_answers_are_nobodys_own() -> None:
    """Ray cancels what was called in the context of a task together with that task."""
    asker = ContextVar("asker", default="nobody")
    seen: list[str] = []

    async def answer(call: bytes) -> bytes:
        seen.append(asker.get())
        return call

    desks = Desks(answer)

    def travel(line: str, calls: Trip) -> asyncio.Future[Trip]:
        seen.append(asker.get())
        asker.set("the trip")
        return asyncio.ensure_future(desks.serve(line, calls))

    asker.set("the first")
    assert await Line("line", travel).ask(b"x") == b"x"
    assert seen == ["nobody", "nobody"]


async def test_a_desk_at_which_nobody_comes_any_more_is_cleared(
    line: Line, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "LINGER", LINGER / 100_000)
    await line.ask(b"x")
    desks: dict[str, object] = vars(host.desks)["_desks"]
    assert list(desks) == ["line"]
    await turn_until(lambda: not desks)


async def test_a_trip_goes_home_empty_when_nothing_is_ready_for_long(
    line: Line, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "STAY_MAX", LINGER / 100_000)
    gate = host.shut_gate(b"slow")
    slow = line.ask(b"slow")
    await turn_until(lambda: len(host.trips) > 3)
    gate.set()
    assert await slow == b"slow"
