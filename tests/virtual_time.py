"""An event loop whose time passes by itself: whoever waits has waited as soon as nobody is busy."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
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


def let_pass(duration: timedelta) -> None:
    """Let the running loop's clock leap; what waited for less than that is due."""
    loop = asyncio.get_running_loop()
    before, seconds = loop.time, duration.total_seconds()
    vars(loop)["time"] = lambda: before() + seconds


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """The test in a loop of its own: how busy the machine is decides nothing in it."""

    @wraps(test)
    def played(*args: P.args, **kwargs: P.kwargs) -> None:
        VirtualLoop().play(_alone(test(*args, **kwargs)))

    return played


async def _alone(work: Coroutine[Any, Any, None]) -> None:
    await work
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"asyncio tasks left running: {left}"


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
