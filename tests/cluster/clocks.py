"""A clock that stands still until a test lets time pass: nothing sleeps, everything is exact."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import count

BEGIN = 1_000_000_000  # microseconds since the epoch
TURNS = 20


class ManualClock:
    """See ``ports.Clock``; ``sleepers`` are the instants for which somebody waits."""

    def __init__(self) -> None:
        self._now = BEGIN
        self._names = count(1)
        self.sleepers: dict[asyncio.Future[None], int] = {}

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._now / 1_000_000

    def fresh_id(self) -> str:
        return f"{next(self._names):020d}"

    async def sleep(self, duration: timedelta) -> None:
        until = self._now + duration // timedelta(microseconds=1)
        if until > self._now:
            future = asyncio.get_running_loop().create_future()
            self.sleepers[future] = until
            try:
                await future
            finally:
                del self.sleepers[future]

    async def advance(self, duration: timedelta) -> None:
        """Let time pass, and those who waited for less have their turns."""
        self._now += duration // timedelta(microseconds=1)
        for future, until in list(self.sleepers.items()):
            if until <= self._now and not future.done():
                future.set_result(None)
        for _ in range(TURNS):
            await asyncio.sleep(0)
