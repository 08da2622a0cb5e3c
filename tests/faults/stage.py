"""A stage on which several processes act at once, one step at a time, in an order that is chosen.

Each actor is a coroutine in a thread and an event loop of its own. It says before every step that
it is about to make one; there, and only there, another may come on instead. So blocking code is
interleaved at its calls to the medium, and the same choices give the same play. Threads and loops
are kept from play to play: a change of actors costs some ten microseconds.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any, ParamSpec, TypeVar

from ray_agents.log.threads import LogIO

P = ParamSpec("P")
T = TypeVar("T")
Act = Callable[[], Coroutine[Any, Any, None]]
Choose = Callable[[int, Sequence[int]], int]


class _Restless(selectors.SelectSelector):
    """Never waits: on the stage nothing comes from outside."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("an actor waits for somebody who never comes")
        return []


class _Actor:
    """One thread with its event loop; it plays when its gate is opened."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self.gate = Lock()
        self.gate.acquire()
        self.act: Act | None = None
        self.error: BaseException | None = None
        self._ended = ended
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        loop = asyncio.SelectorEventLoop(_Restless())
        while True:
            self.gate.acquire()
            if self.act is None:
                break
            try:
                loop.run_until_complete(self.act())
            except BaseException as error:  # noqa: BLE001 - the stage raises it
                self.error = error
            self._ended()
        loop.close()

    def close(self) -> None:
        """End the thread."""
        self.act = None
        self.gate.release()
        self._thread.join()


class Stage:
    """At most ``actors_max`` actors; ``step`` is called by whoever is on."""

    def __init__(self, actors_max: int) -> None:
        self._actors = [_Actor(self._go_off) for _ in range(actors_max)]
        self._curtain = Lock()
        self._curtain.acquire()
        self._on = 0
        self._left: list[int] = []
        self._choose: Choose = lambda on, _: on
        self.steps = 0

    def play(self, acts: Sequence[Act], choose: Choose) -> None:
        """Return when all have ended; ``choose(who is on, who may go on)`` before every step."""
        self.steps, self._choose = 0, choose
        self._left = list(range(len(acts)))
        for actor, act in zip(self._actors, acts, strict=False):
            actor.act, actor.error = act, None
        self._on = choose(0, self._left)
        self._actors[self._on].gate.release()
        self._curtain.acquire()
        for actor in self._actors[: len(acts)]:
            if actor.error is not None:
                raise actor.error

    def step(self) -> None:
        """Whoever is on is about to make a step; somebody else may go on first."""
        self.steps += 1
        on = self._on
        following = self._choose(on, self._left)
        if following != on:
            self._on = following
            self._actors[following].gate.release()
            self._actors[on].gate.acquire()

    def _go_off(self) -> None:
        self._left.remove(self._on)
        if self._left:
            self._on = self._choose(self._on, self._left)
            self._actors[self._on].gate.release()
        else:
            self._curtain.release()

    def close(self) -> None:
        """End the threads."""
        for actor in self._actors:
            actor.close()


class _Whenever(Future[T]):
    """Work that is done when somebody waits for it, and not before."""

    def __init__(self, fn: Callable[[], T]) -> None:
        super().__init__()
        self._fn = fn

    def result(self, timeout: float | None = None) -> T:
        if not self.done():
            self.set_result(self._fn())
        return super().result(timeout)


class StageIO(LogIO):
    """File work done where it is asked for, by whoever is on; ``prompt`` does all of it at once."""

    def __init__(self, *, prompt: bool, kept_bytes_max: int = 0) -> None:
        super().__init__(kept_bytes_max=kept_bytes_max)
        self._prompt = prompt

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return fn(*args, **kwargs)

    def start(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future = _Whenever(lambda: fn(*args, **kwargs))
        if self._prompt:
            future.result()
        return future
