"""An event loop whose time passes by itself: whoever waits has waited as soon as nobody is busy."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")


class _Leaping(selectors.SelectSelector):
    """Nothing comes from outside, so the time until the next timer is over at once."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for somebody who never comes"
        self.seconds += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module; ``monotonic`` and ``sleep`` make it a clock (``ports.Clock``)."""

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.seconds

    def now(self) -> int:
        return int(self.time() * 1_000_000)

    def monotonic(self) -> float:
        return self.time()

    def fresh_id(self) -> str:
        raise NotImplementedError

    async def sleep(self, duration: timedelta) -> None:
        await self.pause(duration.total_seconds())

    async def pause(self, seconds: float) -> None:
        """Let time pass."""
        future: asyncio.Future[None] = self.create_future()
        timer = self.call_later(seconds, _finish, future)
        try:
            await future
        finally:
            timer.cancel()

    def play(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` returns, at the end of all time that it takes."""
        try:
            return self.run_until_complete(work)
        finally:
            self.close()


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
