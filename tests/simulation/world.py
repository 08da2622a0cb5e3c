"""A world in one thread, whose time passes only when nothing is left to do, ruled by one seed."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import timedelta
from random import Random
from typing import Any, ParamSpec, TypeVar

from ray_agents.log.threads import LogIO

P = ParamSpec("P")
T = TypeVar("T")


class Skipping(selectors.SelectSelector):
    """Instead of waiting for a while, lets that while have passed."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everybody waits for somebody: the world stands still")
        self.passed += max(0.0, timeout)
        return super().select(0)


class World(asyncio.SelectorEventLoop):
    """An event loop with its own time."""

    def __init__(self) -> None:
        self.skipping = Skipping()
        super().__init__(self.skipping)

    def time(self) -> float:
        return self.skipping.passed


class SeededClock:
    """The clock of a world: its time, and names by number."""

    def __init__(self) -> None:
        self._names = 0

    def now(self) -> int:
        return 1_000_000_000 + int(self.monotonic() * 1_000_000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def fresh_id(self) -> str:
        self._names += 1
        return f"{self._names:020d}"

    async def sleep(self, duration: timedelta) -> None:
        passed = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(duration.total_seconds(), _set, passed)
        await passed


def _set(passed: asyncio.Future[None]) -> None:
    if not passed.done():
        passed.set_result(None)


class SeededIO(LogIO):
    """File work done at once, some turns of the loop before or after others by chance."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await self._turns()
        try:
            return fn(*args, **kwargs)
        finally:
            await self._turns()

    async def _turns(self) -> None:
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)

    def start(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        done: Future[T] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def options(random: Random, clock: SeededClock) -> Mapping[str, Any]:
    """What makes a LocalRuntime a part of the world."""
    return {"clock": clock, "io": SeededIO(random)}
