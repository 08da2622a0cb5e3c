"""How many calls a model takes at once, found out from what it refuses; and budgets by the minute.

Nobody tells us the limit of a provider. :class:`Limit` begins with a guess and lets go of it when
calls are refused. Theory of operation:

- *Opening.* The first calls are not sent all at once: from :data:`OPENING` the limit opens in
  steps to where it begins (64), within a second. If the server takes fewer, few are refused.
- *Slower.* A refusal tells how many the server took: those that were in flight beside it. That
  is ``known``, and the limit falls to a part of it. One *round* is what was sent under one limit:
  more refusals of calls that were sent before the limit fell are the same news, and only correct
  ``known``; so do those of a limit before this one (of a centre that is gone, say), whose rounds
  are not ours. So a burst that is refused costs one step, not one for each call.
- *Pauses.* A server that asks for a pause gets it, from everybody. One that refuses although
  nothing is in flight, or more than :data:`FALLS_IN_A_ROW` rounds, gets pauses that double. Behind
  a pause the limit opens from one call.
- *Faster.* A round that was taken whole, while more was wanted, raises the limit by one, up to
  ``known``; beyond, only now and then, as every try may be refused. After a try in vain the next
  comes after twice the time; after a success at once, and twice as far.

What counts as taken is the first event of an answer, not its end: answers take minutes.
The scheme is additive increase and multiplicative decrease (Chiu and Jain 1989), with the
remembered level of CUBIC (RFC 9438) in place of its curve.

Time is handed in, as monotonic seconds.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self

START = 64
OPENING = 8
OPENING_EVERY = timedelta(milliseconds=125)
SLOWER = 0.9  # of the calls that the server took
PROBE_AFTER = timedelta(seconds=10)
PROBE_AFTER_MAX = timedelta(minutes=5)
FALLS_IN_A_ROW = 3
PAUSE = timedelta(milliseconds=500)
PAUSE_MAX = timedelta(seconds=8)
LIMIT_MAX = 10_000
MINUTE = 60
BURST_SHARE = 12  # a bucket holds at most this part of a minute's worth


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What an operator allows of one model, over the whole cluster; None for no limit.

    ``calls_start`` is where the search for the provider's own limit of calls at once begins.
    """

    calls_start: int = START
    calls_max: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def part(self, hosts: int) -> Allowance:
        """What one of so many hosts may do by itself."""
        return replace(
            self,
            calls_start=max(1, self.calls_start // max(1, hosts)),
            calls_max=_part(self.calls_max, hosts),
            requests_per_minute=_part(self.requests_per_minute, hosts),
            tokens_per_minute=_part(self.tokens_per_minute, hosts),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What is known of a model's limit, for whoever takes over: it was refused beyond ``known``."""

    calls: int
    known: int | None = None


class Limit:
    """How many calls of one model may be in flight; ``calls`` is the answer now.

    ``round`` is to be remembered with each call that is sent. ``paused_until`` is when calls may
    be sent again.
    """

    def __init__(self, *, start: int = START, most: int | None = None, now: float) -> None:
        self._most = min(most or LIMIT_MAX, LIMIT_MAX)
        self._start = self._goal = min(start, self._most)
        self.calls = min(OPENING, self._goal)
        self.known: int | None = None
        self.round = 0
        self.paused_until = -math.inf
        self._opened_at = now
        self._fell_in = 0
        self._floor = 1
        self._refused_in_a_row = 0
        self._taken = 0
        self._probing = False
        self._probe_step = 1
        self._probe_pause = PROBE_AFTER.total_seconds()
        self._probe_at = -math.inf

    @classmethod
    def at(cls, level: Level, *, start: int = START, most: int | None = None, now: float) -> Self:
        """One that goes on from what is known."""
        limit = cls(start=start, most=most, now=now)
        limit.calls = limit._goal = min(level.calls, limit._most)
        limit.known = level.known
        limit._probe_at = now + limit._probe_pause
        return limit

    @property
    def level(self) -> Level:
        """What is known, for whoever takes over."""
        return Level(calls=self._goal, known=self.known)

    def open(self, now: float, *, wanted: int) -> None:
        """Time has passed, and so many calls are in flight or wait."""
        opens_at = max(self._opened_at + OPENING_EVERY.total_seconds(), self.paused_until)
        if self.calls < self._goal and wanted > self.calls and now >= opens_at:
            self._opened_at = now
            self._set(min(self._goal, self.calls + OPENING))

    def accepted(self, count: int, *, round: int, now: float, wanted: int) -> None:
        """So many calls of a round were taken."""
        if self._is_news(round):
            self._refused_in_a_row = 0
        if round != self.round or wanted < self.calls or self.calls < self._goal:
            return
        self._taken += count
        if self._taken >= self.calls:
            self._faster(now)

    def _faster(self, now: float) -> None:
        """A whole round was taken."""
        self._taken = 0
        if self._probing:
            self._probing = False
            self.known = max(self.known or 0, self.calls)
            self._probe_step = self._probe_step * 2 if self.calls < self._start else 1
            self._probe_pause = PROBE_AFTER.total_seconds()
            self._probe_at = now
        if self.known is None or self.calls < self.known:
            self._raise(1)
        elif now >= self._probe_at:
            self._probing = True
            self._raise(self._probe_step)

    def _raise(self, step: int) -> None:
        self._goal = min(self._most, self._goal + step)
        self._set(self._goal)

    def refused(
        self, *, round: int, in_flight: int, now: float, retry_after: float | None = None
    ) -> None:
        """A call of a round was refused while so many others were in flight."""
        self.paused_until = max(self.paused_until, now + (retry_after or 0))
        if not self._is_news(round):
            self._correct(in_flight)
        else:
            self._fall(in_flight, now)
            if retry_after is None and (not in_flight or self._refused_in_a_row > FALLS_IN_A_ROW):
                pause = PAUSE.total_seconds() * 2.0 ** min(self._refused_in_a_row - 1, 10)
                self.paused_until = max(
                    self.paused_until, now + min(pause, PAUSE_MAX.total_seconds())
                )
        if self.paused_until > now and self.calls > 1:
            self._opened_at = now
            self._set(1)

    def _is_news(self, round: int) -> bool:
        """Whether what became of a call of that round says anything of the limit as it is now."""
        return self._fell_in <= round <= self.round

    def _correct(self, in_flight: int) -> None:
        """The same news again: the server took even fewer."""
        known = max(self._floor, min(self.known or in_flight, in_flight))
        if known < (self.known or LIMIT_MAX):
            self.known = known
            self._lower(known)

    def _fall(self, in_flight: int, now: float) -> None:
        self._refused_in_a_row += 1
        if self._probing:
            self._probing = False
            self._probe_pause = min(self._probe_pause * 2, PROBE_AFTER_MAX.total_seconds())
            self._floor = self.known = self.known or 1
            self._goal = self.known
            self.calls = min(self.calls, self._goal)
        else:
            self._floor = max(1, self.calls // 2)
            self.known = max(self._floor, min(in_flight, self.calls))
            self._lower(self.known)
        self._probe_step = 1
        self._probe_at = now + self._probe_pause
        self._set(self.calls)
        self._fell_in = self.round

    def _lower(self, known: int) -> None:
        self._goal = max(1, min(self._goal, int(known * SLOWER)))
        self.calls = min(self.calls, self._goal)

    def _set(self, calls: int) -> None:
        """Begin a round."""
        self.calls = calls
        self.round += 1
        self._taken = 0


class Bucket:
    """So much a minute, and never more in any minute; a part of it may be used at once.

    What is taken may turn out to have been more or less: ``take`` and ``give`` correct it.
    """

    def __init__(self, per_minute: int, *, now: float, full: bool = True) -> None:
        self.capacity = max(1, per_minute // BURST_SHARE)
        self._rate = (per_minute - self.capacity + 1) / MINUTE
        self._level = float(self.capacity) if full else 0.0
        self._at = now
        self._uses: deque[tuple[int, float]] = deque()  # by the second, those of the last minute

    def room(self, now: float) -> float:
        """What may be taken now; below zero while more was taken than there was."""
        if now > self._at:
            self._level = min(self.capacity, self._level + (now - self._at) * self._rate)
            self._at = now
        return self._level

    def times(self, amount: float, now: float) -> int:
        """How often ``amount`` may be taken now; once, if it is more than fits and all is there."""
        room = self.room(now)
        return max(int(room // max(amount, 1)), int(room >= self.capacity))

    def take(self, amount: float, now: float) -> None:
        """Use some, or more than there is."""
        self._level = self.room(now) - amount
        self._note(amount, now)

    def give(self, amount: float, now: float) -> None:
        """Take some back that was not used."""
        self._level = min(self.capacity, self.room(now) + amount)
        self._note(-amount, now)

    def used(self, now: float) -> float:
        """What was taken in the last minute, less what was given back in it."""
        self._note(0, now)
        return max(0.0, sum(amount for _, amount in self._uses))

    def _note(self, amount: float, now: float) -> None:
        second = int(now)
        if self._uses and self._uses[-1][0] == second:
            amount += self._uses.pop()[1]
        self._uses.append((second, amount))
        while self._uses[0][0] <= second - MINUTE:
            self._uses.popleft()


def _part(whole: int | None, hosts: int) -> int | None:
    return None if whole is None else max(1, whole // max(1, hosts))
