"""The way of every model call of a host: a turn first, then the call.

:class:`Gateway` keeps a queue for each model (:mod:`ray_agents.turns`), and lets calls go as far as
the host's share of the model's limit reaches. Shares come from a centre, if there is one that
serves all hosts (:mod:`ray_agents.cluster.gateway`); a host alone shares with itself, by the same
rules (:mod:`ray_agents.sharing`).

The centre is not on the way of a call. Reports go to it by a task that runs while there are calls,
and a call that finds a free place in the share goes at once. Only the first call after a while
(``lane.LINGER``) waits for an answer, no longer than :data:`FIRST_ANSWER_MAX`. A centre that is
gone, or silent for :data:`ANSWER_MAX`, is done without: the host goes on with the share it had, and
finds its limit out from there; it asks again every :data:`ASK_AGAIN`. A centre that has never
answered is done without as if :data:`HOSTS_GUESSED` hosts shared the limit.

Time is handed in; nothing runs while there are no calls.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

from ray_agents.lane import Lane, Turn
from ray_agents.pacing import Allowance, Level
from ray_agents.ports import Clock
from ray_agents.sharing import REPORTS_PER_SECOND_MAX, ModelKey, Report, Share, Sharing
from ray_agents.turns import CALLER, Caller

FIRST_ANSWER_MAX = timedelta(milliseconds=500)
ANSWER_MAX = timedelta(seconds=2)
GOODBYE_MAX = timedelta(milliseconds=500)  # then the lease runs out by itself
ASK_AGAIN = timedelta(seconds=1)
HOSTS_GUESSED = 8
HURRY_MIN = timedelta(milliseconds=20)  # between two reports, whatever the hurry
TICK_MIN = timedelta(milliseconds=5)
NOBODY = Caller("")
LOGGER = logging.getLogger("ray_agents.gateway")


class Centre(Protocol):
    """Shares the limits between hosts."""

    async def report(
        self, host: str, reports: Mapping[ModelKey, Report]
    ) -> Mapping[ModelKey, Share]:
        """Take a host's reports; its shares.

        Raises:
            RayAgentsError: there is no centre now.
        """
        ...


class Gateway:
    """The models as one host may call them.

    ``allowance_of`` a model, by name, is what the operator allows of it in the whole cluster.
    """

    def __init__(
        self,
        host: str,
        *,
        clock: Clock,
        allowance_of: Callable[[str], Allowance] = lambda _: Allowance(),
        centre: Centre | None = None,
    ) -> None:
        self._host = host
        self._clock = clock
        self._allowance_of = allowance_of
        self._centre = centre
        self._lanes: dict[ModelKey, Lane] = {}
        self._alone = centre is None
        self._own = Sharing(allowance_of if centre is None else self._part)
        self._own_at = self._asked_at = -math.inf
        self._again = ASK_AGAIN.total_seconds()
        self._trip: asyncio.Task[Mapping[ModelKey, Share]] | None = None
        self._reports: dict[ModelKey, Report] = {}
        self._running: asyncio.Task[None] | None = None
        self._awoken: asyncio.Future[None] | None = None

    @property
    def alone(self) -> bool:
        """Whether this host does without a centre."""
        return self._alone

    def turn(self, key: ModelKey) -> Turn:
        """A turn for one attempt at a call."""
        return Turn(partial(self._lane, key), CALLER.get() or NOBODY)

    def _lane(self, key: ModelKey) -> Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key, self._clock, self._hurry)
        return lane

    async def close(self) -> None:
        """Give back what the centre had lent; twice is harmless."""
        lanes, self._lanes = self._lanes, {}
        both: tuple[asyncio.Task[Any] | None, ...] = (self._running, self._trip)
        tasks: list[asyncio.Task[Any]] = [task for task in both if task is not None]
        self._running = self._trip = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._centre is not None and lanes and not self._alone:
            reports = {key: lane.report(leaving=True) for key, lane in lanes.items()}
            try:
                async with asyncio.timeout(GOODBYE_MAX.total_seconds()):
                    await self._centre.report(self._host, reports)
            except Exception as error:  # noqa: BLE001 - a courtesy: it is free after a while anyway
                LOGGER.info("host %s could not give its turns back: %r", self._host, error)

    # -- while there are calls ----------------------------------------------------------------

    def _hurry(self) -> None:
        """Calls have come, or something has happened that cannot wait."""
        urgent = any(lane.urgent for lane in self._lanes.values())
        if self._alone:
            self._ask_ourselves(whole=False)
        if self._running is None or self._running.done():
            # Nobody's own: neither the wake that began it nor its Ray task may end it.
            loop = asyncio.get_running_loop()
            self._running = loop.create_task(self._run(), name="gateway", context=Context())
        elif urgent:
            self._wake()

    def _wake(self) -> None:
        if self._awoken is not None and not self._awoken.done():
            self._awoken.set_result(None)

    async def _run(self) -> None:
        while self._lanes:
            self._land()
            self._depart()
            self._do_without()
            await self._nap()

    async def _nap(self) -> None:
        """Until something happens, or is due."""
        self._awoken = asyncio.get_running_loop().create_future()
        seconds = max(TICK_MIN.total_seconds(), self._seconds_to_wait())
        sleeping = asyncio.ensure_future(self._clock.sleep(timedelta(seconds=seconds)))
        try:
            await asyncio.wait({self._awoken, sleeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._awoken = None
            sleeping.cancel()
        for lane in self._lanes.values():
            lane.pump()  # a pause may be over

    def _seconds_to_wait(self) -> float:
        now = self._clock.monotonic()
        waits = [self._again, *(lane.pause_left for lane in self._lanes.values())]
        if self._centre is not None and self._trip is None:
            waits.append(self._depart_at - now)
        if self._alone:
            waits.append(self._own_at - now)
        elif self._waits_for_first_answer:
            waits.append(self._asked_at + FIRST_ANSWER_MAX.total_seconds() - now)
        return min(waits)

    # -- the centre ---------------------------------------------------------------------------

    @property
    def _depart_at(self) -> float:
        if self._alone:
            return self._asked_at + ASK_AGAIN.total_seconds()
        urgent = any(lane.urgent for lane in self._lanes.values())
        return self._asked_at + (HURRY_MIN.total_seconds() if urgent else self._again)

    def _depart(self) -> None:
        """Send a report, if one is due and none is on its way."""
        centre, now = self._centre, self._clock.monotonic()
        if centre is None or self._trip is not None or now < self._depart_at:
            return
        self._asked_at = now
        self._reports = {key: lane.report() for key, lane in self._lanes.items()}
        self._trip = asyncio.ensure_future(self._ask(centre, self._reports))
        self._trip.add_done_callback(lambda _: self._wake())

    async def _ask(
        self, centre: Centre, reports: Mapping[ModelKey, Report]
    ) -> Mapping[ModelKey, Share]:
        async with asyncio.timeout(ANSWER_MAX.total_seconds()):
            return await centre.report(self._host, reports)

    def _land(self) -> None:
        """Take what a report has brought."""
        trip = self._trip
        if trip is None or not trip.done():
            return
        self._trip = None
        try:
            shares = trip.result()
        except Exception as error:  # noqa: BLE001 - whatever it is: calls wait, and it is told
            self._go_alone(error)
            return
        if self._alone:
            LOGGER.warning("host %s shares the limits of models with the others again", self._host)
        self._alone = False
        soonest = min((share.again for share in shares.values()), default=self._again)
        hosts = max((share.hosts for share in shares.values()), default=0)
        self._again = max(soonest, hosts / REPORTS_PER_SECOND_MAX)  # one report tells of all models
        for key, share in shares.items():
            if key not in self._reports:
                continue  # it was let go of meanwhile
            lane = self._lanes[key]
            lane.told = share
            lane.take(share)
            if self._reports[key].leaving and not lane.lingers:
                del self._lanes[key]

    # -- without it ---------------------------------------------------------------------------

    def _part(self, model: str) -> Allowance:
        """Our part of what is allowed of a model."""
        told = [lane.told.hosts for lane in self._lanes.values() if lane.told is not None]
        return self._allowance_of(model).part(max(told, default=HOSTS_GUESSED))

    def _go_alone(self, error: Exception) -> None:
        """Nobody answers: go on by ourselves, with what the report had said, too."""
        if not self._alone:
            never = all(lane.told is None for lane in self._lanes.values())
            LOGGER.log(
                logging.INFO if never else logging.WARNING,  # it takes a while to be made
                "nobody shares the limits of models now (%s: %s); host %s goes on with its part",
                type(error).__name__,
                error,
                self._host,
            )
            self._own = Sharing(self._part)
        self._alone = True
        for key, report in self._reports.items():
            self._tell_ourselves(self._lanes[key], key, report)
        self._own_at = self._clock.monotonic()

    @property
    def _waits_for_first_answer(self) -> bool:
        return self._trip is not None and any(
            lane.share is None and lane.busy for lane in self._lanes.values()
        )

    def _do_without(self) -> None:
        """Share with ourselves, while there is no centre, or its first answer is late."""
        now = self._clock.monotonic()
        if self._alone:
            self._ask_ourselves(whole=now >= self._own_at)
            for key in [key for key, lane in self._lanes.items() if not lane.lingers]:
                del self._lanes[key]  # what a centre has lent for it runs out by itself
                self._reports.pop(key, None)
        elif (
            self._waits_for_first_answer
            and now >= self._asked_at + FIRST_ANSWER_MAX.total_seconds()
        ):
            for key, lane in self._lanes.items():
                if lane.share is None:
                    self._tell_ourselves(lane, key, lane.report())

    def _ask_ourselves(self, *, whole: bool) -> None:
        """Share out what cannot wait; and the rest, too, when that is due: it is not put off."""
        if whole:
            self._own_at = math.inf
        for key, lane in self._lanes.items():
            if whole or lane.urgent:
                self._tell_ourselves(lane, key, lane.report())

    def _tell_ourselves(self, lane: Lane, key: ModelKey, report: Report) -> None:
        calls = lane.told.calls if lane.told else 0
        level = Level(calls=max(1, calls), known=max(1, calls)) if lane.told else None
        told = replace(report, level=level, leaving=False)
        share = self._own.report(self._host, {key: told}, now=self._clock.monotonic())[key]
        self._own_at = min(self._own_at, self._clock.monotonic() + share.again)
        lane.take(share)
