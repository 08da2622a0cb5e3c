"""Calls to one host and their answers, many of them on one trip.

A call of an actor costs about a millisecond of processor time at both ends together, whatever it
carries: as much as all the file work of a wake. So what a caller asks of a host in one turn of its
loop leaves together, and answers that are ready together come back together.

Theory of operation. A *trip* is one call of the actor. It brings calls along, waits at the host,
and takes home whatever answers are ready by then, to whichever calls of its caller. Each end goes
by one rule. The caller: while an answer is missing, a trip is under way. The host: an answer leaves
at once, with the longest waiting trip; but when many are missing and a trip left a moment ago, it
waits for others for the rest of that moment. So whoever asks one thing at a time waits for nothing,
and a swarm travels in crowds.

If a trip fails, so do all calls whose answers are missing: what became of them is not known, as
with any call of an actor.

A trip is nobody's own. Ray takes what is called in the context of an actor's task for a child of
that task, and cancels it along with it (so does Serve with a request whose client has gone). So
trips, and the answering of calls, begin in an empty context.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from datetime import timedelta

from ray_agents.errors import RuntimeUnavailable

MOMENT = timedelta(milliseconds=10)
CROWD_MIN = 8  # so many answers must be missing before one waits for others
WAITING_TRIPS_MAX = 8
TRIP_BYTES_MAX = 8 * 1024 * 1024
STAY_MAX = timedelta(seconds=30)
LINGER = timedelta(seconds=60)  # at least so long a desk stays of which no trip comes

Trip = Sequence[tuple[int, bytes]]  # calls, or answers, by number


class Line:
    """A caller's end: carries calls to one host. ``travel(line, calls)`` makes a trip."""

    def __init__(self, name: str, travel: Callable[[str, Trip], asyncio.Future[Trip]]) -> None:
        self._name = name
        self._travel = travel
        self._numbers = itertools.count()
        self._leaving: list[tuple[int, bytes]] = []
        self._missing: dict[int, asyncio.Future[bytes]] = {}
        self._trips = 0
        self._departing = False

    def ask(self, call: bytes) -> asyncio.Future[bytes]:
        """The answer to a call, which leaves with the others of this turn of the loop.

        It raises what the trip raises, if that fails.
        """
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._missing[number] = answer
        self._leaving.append((number, call))
        self._depart_soon()
        return answer

    def _depart_soon(self) -> None:
        if not self._departing:
            self._departing = True
            asyncio.get_running_loop().call_soon(self._depart, context=Context())

    def _depart(self) -> None:
        self._departing = False
        if not self._missing:
            return  # all has failed meanwhile: an empty trip would wait at the host for nothing
        calls, self._leaving = _portion(self._leaving)
        if self._leaving:
            self._depart_soon()
        self._trips += 1
        try:
            self._travel(self._name, calls).add_done_callback(self._back)
        except Exception as error:  # noqa: BLE001 - whoever waits for an answer raises it
            self._trips -= 1
            self._fail(error)

    def _back(self, trip: asyncio.Future[Trip]) -> None:
        self._trips -= 1
        if trip.cancelled():
            self._fail(RuntimeUnavailable("a trip to a host was cancelled"))
            return
        error = trip.exception()
        if error is not None:
            self._fail(error)
            return
        for number, answer in trip.result():
            missing = self._missing.pop(number, None)
            if missing is not None and not missing.done():
                missing.set_result(answer)
        if self._missing and not self._trips:
            self._depart_soon()

    def _fail(self, error: BaseException) -> None:
        missing, self._missing, self._leaving = self._missing, {}, []
        for answer in missing.values():
            if not answer.done():
                answer.set_exception(error)


class Desk:
    """A host's end of one line: trips that wait, and answers that are ready."""

    def __init__(self) -> None:
        self.missing = 0
        self.used = False
        self.answers: list[tuple[int, bytes]] = []
        self._trips: deque[asyncio.Future[Trip]] = deque()
        self._left_at = 0.0
        self._due: asyncio.Handle | None = None

    @property
    def waited_for(self) -> bool:
        """Whether anything comes or goes here."""
        return bool(self.missing or self._trips)

    async def wait(self) -> Trip:
        """Let a trip wait for what it is to take home; empty if there is none for long."""
        trip: asyncio.Future[Trip] = asyncio.get_running_loop().create_future()
        self._trips.append(trip)
        if len(self._trips) > WAITING_TRIPS_MAX:
            _send_home(self._trips.popleft())
        self._leave_in_time()
        timer = trip.get_loop().call_later(STAY_MAX.total_seconds(), _send_home, trip)
        try:
            return await trip
        finally:
            timer.cancel()
            if trip in self._trips:
                self._trips.remove(trip)

    def put(self, number: int, answer: bytes) -> None:
        """An answer is ready."""
        self.missing -= 1
        self.answers.append((number, answer))
        self._leave_in_time()

    def _leave_in_time(self) -> None:
        """See that what is ready leaves: at once, or at the end of the moment."""
        if not self.answers or not self._trips or self._due is not None:
            return
        loop = asyncio.get_running_loop()
        end = self._left_at + MOMENT.total_seconds()
        if self.missing < CROWD_MIN or loop.time() >= end:
            self._due = loop.call_soon(self._leave)
        else:
            self._due = loop.call_at(end, self._leave)

    def _leave(self) -> None:
        """A trip takes all that is ready; if more is missing another waits; the rest go home."""
        self._due = None
        self._left_at = asyncio.get_running_loop().time()
        waiting = 1 if self.missing else 0
        while self._trips and (self.answers or len(self._trips) > waiting):
            trip = self._trips.popleft()
            if not trip.done():
                answers, self.answers = _portion(self.answers)
                trip.set_result(answers)


class Desks:
    """A host's end of all lines; ``answer`` gives the answer to one call and never raises.

    A caller that goes away does not take its calls along: half a delivery is none.
    """

    def __init__(self, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._answer = answer
        self._desks: dict[str, Desk] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def serve(self, line: str, calls: Trip) -> Trip:
        """Take the calls a trip brings, and give it the answers to take home."""
        loop = asyncio.get_running_loop()
        desk = self._desks.get(line)
        if desk is None:
            desk = self._desks[line] = Desk()
            loop.call_later(LINGER.total_seconds(), self._look, line)
        desk.used = True
        for number, call in calls:
            desk.missing += 1
            task = loop.create_task(self._serve(desk, number, call), context=Context())
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        return await desk.wait()

    async def _serve(self, desk: Desk, number: int, call: bytes) -> None:
        desk.put(number, await self._answer(call))

    def _look(self, line: str) -> None:
        """Clear a desk at which nothing has come or gone for long."""
        desk = self._desks[line]
        if desk.waited_for or desk.used:
            desk.used = False
            asyncio.get_running_loop().call_later(LINGER.total_seconds(), self._look, line)
        else:
            del self._desks[line]


def _portion(
    parcels: list[tuple[int, bytes]],
) -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]:
    """As many of the first as one trip carries, at least one; and the rest."""
    size = 0
    for count, (_, data) in enumerate(parcels):
        size += len(data)
        if count and size > TRIP_BYTES_MAX:
            return parcels[:count], parcels[count:]
    return parcels, []


def _send_home(trip: asyncio.Future[Trip]) -> None:
    if not trip.done():
        trip.set_result([])
