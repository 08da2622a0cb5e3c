"""One model on one host: the calls that wait for their turn, and the share by which they go.

A :class:`Lane` lets calls go as far as its share reaches, and keeps account for the next report;
who asks for shares, and when, is :mod:`ray_agents.gateway`'s.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from ray_agents.ports import Clock
from ray_agents.sharing import ModelKey, Refused, Report, Share
from ray_agents.turns import Caller, Turns

LINGER = timedelta(seconds=5)


class Turn:
    """One attempt at a call: ``await turn.begin()``, then ``async with turn``.

    Inside the call is made. Say ``accepted`` at the first event, ``used`` when the provider
    has counted, ``refused`` if it has refused for want of capacity.
    """

    def __init__(self, lane_of: Callable[[], Lane], caller: Caller) -> None:
        self._lane_of = lane_of  # one that had no calls for a while is let go of
        self._caller = caller
        self._held: tuple[Lane, Share] | None = None
        self._taken = False
        self._tokens = 0

    async def begin(self) -> None:
        """Wait until the call may be made. Whoever has begun enters, without awaiting between."""
        lane = self._lane_of()
        self._held = lane, await lane.admitted(self._caller)

    async def __aenter__(self) -> Self:
        if self._held is None:
            await self.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._held is not None:
            (lane, share), self._held = self._held, None
            lane.ended(self._caller, share, tokens=self._tokens, taken=self._taken)

    def accepted(self) -> None:
        """The server has begun to answer."""
        if self._held is not None and not self._taken:
            lane, share = self._held
            self._taken = True
            lane.accepted[share.round] += 1

    def used(self, tokens: int) -> None:
        """The answer has cost so many tokens."""
        self._tokens = tokens

    def refused(self, retry_after: float | None) -> None:
        """The server has refused for want of capacity; the pause in seconds it asks for."""
        if self._held is not None:
            lane, share = self._held
            lane.refuse(Refused(round=share.round, retry_after=retry_after))


@dataclass(slots=True, eq=False)
class _Ticket:
    """A call that waits."""

    caller: Caller
    go: asyncio.Future[Share]
    since: float
    taken: bool = False


class Lane:
    """One model on this host: its queue, its share, and what is to be reported."""

    def __init__(self, key: ModelKey, clock: Clock, hurry: Callable[[], None]) -> None:
        self._key = key
        self._clock = clock
        self._hurry = hurry
        self._turns: Turns[_Ticket] = Turns()
        self._tickets: dict[_Ticket, None] = {}  # those that wait, the oldest first
        self.share: Share | None = None
        self.told: Share | None = None  # by the centre
        self.accepted: Counter[int] = Counter()
        self._refused: list[Refused] = []
        self._calls = 0  # what may be in flight now
        self._starts: int | None = None
        self._unsent = 0  # calls that had a start, and were cancelled before they were sent
        self._tokens = self._tokens_granted = self._ended = 0
        self._paused_until = -math.inf
        self._used_at = clock.monotonic()
        self._news = False

    # -- calls --------------------------------------------------------------------------------

    async def admitted(self, caller: Caller) -> Share:
        """Wait for a turn; the share under which the call goes."""
        self._used_at = now = self._clock.monotonic()
        ticket = _Ticket(caller, asyncio.get_running_loop().create_future(), since=now)
        self._turns.join(caller.name, ticket)
        self._tickets[ticket] = None
        self.pump()
        if not ticket.go.done() and (self._turns.waiting == 1 or self.share is None):
            self._news = True
        self._hurry()
        if ticket.go.done():
            return ticket.go.result()
        try:
            with caller.waiting(lambda: None if ticket.taken else self._words(caller)):
                return await ticket.go
        except asyncio.CancelledError:
            if not ticket.taken:
                self._turns.leave(caller.name, ticket)
                del self._tickets[ticket]
            elif not ticket.go.cancelled():
                share = ticket.go.result()
                self._unsent += share.starts is not None
                self.ended(caller, share)
            raise

    def _words(self, caller: Caller) -> str:
        pause = self._paused_until - self._clock.monotonic()
        paused = f", paused for {pause:.0f} s" if pause >= 1 else ""
        return f"model {self._key.model} ({self._turns.ahead_of(caller.name)} ahead{paused})"

    def pump(self) -> None:
        """Let calls go, as far as the share reaches."""
        while self._turns.waiting and self._may_start():
            ticket = self._turns.next()
            del self._tickets[ticket]
            ticket.taken = True
            if ticket.go.done():  # cancelled, and about to leave
                self._turns.done(ticket.caller.name)
                continue
            if self._starts is not None:
                self._starts -= 1
            assert self.share is not None  # noqa: S101 - or nothing may start
            ticket.go.set_result(self.share)

    def _may_start(self) -> bool:
        if self._starts is not None and self._starts <= 0:
            return False
        room = self._turns.in_flight < self._calls
        return room and self._clock.monotonic() >= self._paused_until

    def ended(self, caller: Caller, share: Share, *, tokens: int = 0, taken: bool = False) -> None:
        """A call is over, whatever became of it.

        One that was ``taken`` and has not said how many ``tokens`` it used has used what was set
        aside for it.
        """
        self._turns.done(caller.name)
        self._used_at = self._clock.monotonic()
        if tokens or not taken:
            self._tokens_granted += share.tokens_each
        if tokens:
            self._ended += 1
            self._tokens += tokens
        self.pump()
        if self.urgent:
            self._hurry()

    def refuse(self, refused: Refused) -> None:
        """Stand still where we are, and for as long as is asked, until the centre takes note."""
        until = self._clock.monotonic() + (refused.retry_after or 0)
        self._paused_until = max(self._paused_until, until)
        self._refused.append(refused)
        self._news = True
        self._calls = min(self._calls, self._turns.in_flight - 1)

    # -- reports ------------------------------------------------------------------------------

    @property
    def urgent(self) -> bool:
        """Whether the centre is to know something at once."""
        return self._news

    @property
    def busy(self) -> bool:
        """Whether calls wait or are in flight."""
        return bool(self._turns.waiting or self._turns.in_flight)

    @property
    def lingers(self) -> bool:
        """Whether there are calls, or were not long ago."""
        idle = self._clock.monotonic() - self._used_at
        return self.busy or idle < LINGER.total_seconds()

    @property
    def _waited(self) -> float:
        """Seconds for which the call waits that has waited longest; 0 if none does."""
        oldest = next(iter(self._tickets), None)
        return 0.0 if oldest is None else self._clock.monotonic() - oldest.since

    def report(self, *, leaving: bool = False) -> Report:
        """What has happened; that is off our mind, and so is a share that is given back."""
        leaving = leaving or not self.lingers
        tokens_each = self.share.tokens_each if self.share else 0
        left = max(0, self._starts or 0)
        report = Report(
            in_flight=self._turns.in_flight,
            waiting=self._turns.waiting,
            waited=self._waited,
            entities=self._turns.entities,
            share=self.share.calls if self.share else 0,
            accepted=dict(self.accepted),
            refused=tuple(self._refused),
            ended=self._ended,
            tokens=self._tokens,
            tokens_granted=self._tokens_granted,
            starts_back=left + self._unsent,
            tokens_back=left * tokens_each,  # those of unsent calls are in tokens_granted
            level=self.told.level if self.told else None,
            leaving=leaving,
        )
        if leaving:  # the centre may give it to others before we hear
            self.share, self._calls = None, 0
        self._news = False
        self.accepted.clear()
        self._refused.clear()
        self._ended = self._tokens = self._tokens_granted = self._unsent = 0
        if self._starts is not None:
            self._starts = 0
        return report

    def take(self, share: Share) -> None:
        """Go by a new share."""
        self.share = share
        self._calls = share.calls
        self._starts = share.starts
        until = self._clock.monotonic() + share.pause
        if self._refused:  # since the report: we stand still until the next
            self._calls = min(self._calls, self._turns.in_flight)
            until = max(until, self._paused_until)
        self._paused_until = until
        self.pump()

    @property
    def pause_left(self) -> float:
        """Seconds until a pause ends, if calls wait for that."""
        left = self._paused_until - self._clock.monotonic()
        return left if self._turns.waiting and left > 0 else math.inf
