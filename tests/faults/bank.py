"""The provider's side of a trial: what it answers, what each call costs, and deaths from outside.

Every call costs another amount and every answer names its call, so that a ledger tells which calls
it has counted, and the log which of them were recorded.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from ray_agents.model import Usage
from ray_agents.testing.script import OVERLOADED, Answer, Body, Step
from tests.faults.fifteen import CALLS, LAST_WORDS, STEPS, name_of
from tests.faults.points import Point

TROUBLE = 0.2  # of the calls, where there is any
FRAMES_MIN = 15  # of any call


@dataclass(slots=True, kw_only=True)
class Bill:
    """One call that was answered, in the order of their coming; ``life`` is who made it."""

    step: int
    life: int
    usage: Usage
    breaks_after: int | None = None
    frames: int = 0

    @property
    def seen(self) -> Usage:
        """What its stream says of it when it begins."""
        return replace(self.usage, output_tokens=1)


@dataclass(slots=True)
class Bank:
    """Answers by the script of the fifteen, and bills; ``kill`` ends a process.

    With ``trouble`` some calls are refused as overloaded, and some answers break off.
    """

    trouble: Random | None = None
    kill: Callable[[int], None] = field(default=lambda pid: os.kill(pid, signal.SIGKILL))
    bills: list[Bill] = field(default_factory=list[Bill])
    life: int = -1
    _pid: int = 0
    _point: Point | None = None
    _timer: asyncio.TimerHandle | None = None

    def watch(self, pid: int, point: Point | None) -> None:
        """The next life has begun, in that process; ``point`` is where it is to die."""
        self.life += 1
        self._pid, self._point = pid, point

    def unwatch(self) -> None:
        """That process has ended: nobody is killed any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._point = None

    def answer(self, body: Body) -> Step:
        """Answer a call by its step, and write the bill."""
        dice = self.trouble.random() if self.trouble else 1
        if dice < TROUBLE / 2:
            return OVERLOADED
        step = 1 + sum(message["role"] == "assistant" for message in body["messages"])
        number = len(self.bills)
        usage = Usage(
            input_tokens=10_000 * step + number,
            output_tokens=100 + number,
            cache_read_tokens=1_000 * step,
            cache_write_tokens=7 * step,
        )
        bill = Bill(step=step, life=self.life, usage=usage)
        if self.trouble and dice < TROUBLE:
            bill.breaks_after = self.trouble.randint(0, FRAMES_MIN)
        self.bills.append(bill)
        self._look()
        said = LAST_WORDS if step == STEPS else f"Step {step} of {STEPS}, and there is more to do."
        calls = CALLS[step - 1] if step < STEPS else []
        return Answer(
            thinking=f"Which of the fifteen for step {step}?" if step % 3 == 1 else "",
            text=f"This is call {number}. {said}",
            calls=[(name_of(each), {"wish": f"wish {step}-{each}"}) for each in calls],
            usage=usage,
            stalls_after=self._stalls(),
            breaks_after=bill.breaks_after,
        )

    def _stalls(self) -> int | None:
        point = self._point
        if point is None or point.kind != "frame" or self._calls_of_this_life() != point.of:
            return None
        return point.number

    def _calls_of_this_life(self) -> int:
        return sum(bill.life == self.life for bill in self.bills)

    def wrote(self, _: dict[str, Any]) -> None:
        """The server is about to write an event of the newest answer."""
        self.bills[-1].frames += 1
        self._look()

    def _look(self) -> None:
        """Begin to count the time that the process has left, if it is time for that."""
        point = self._point
        if point is None or point.inside or self._timer is not None:
            return
        in_the_call = self._calls_of_this_life() == point.of
        if point.kind == "clock" or (in_the_call and self.bills[-1].frames >= point.number):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(point.after / 1000, self._strike, self._pid)

    def _strike(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            self.kill(pid)

    @property
    def total(self) -> Usage:
        """All bills."""
        return sum((bill.usage for bill in self.bills), Usage())
