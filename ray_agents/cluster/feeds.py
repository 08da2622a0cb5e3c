"""One follower per entity for all who observe it in this process, however many they are.

A feed follows the log and keeps a window of its newest events, bounded in number and size. Each
observer has a position of its own in it and takes what lies behind that at its own pace; so a slow
one holds up nobody, and costs no memory: what has left the window it reads from the log itself.
A feed begins with its first observer and ends with its last.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from contextvars import Context

from ray_agents.address import Address
from ray_agents.cluster.calls import Followed
from ray_agents.events import Event
from ray_agents.log.appending import again

EVENTS_MAX = 2_048
BYTES_MAX = 4 * 1024 * 1024
Follow = Callable[[Address, int], AsyncGenerator[Followed, None]]


class Feed:
    """The newest events of one entity, from ``start`` on at first."""

    def __init__(self, source: AsyncGenerator[Followed, None], *, start: int) -> None:
        self._first = self._tip = start
        self._events: list[Event] = []
        self._offsets: list[int] = []
        self._bytes = 0
        self._moved = asyncio.Event()
        self._failure: Exception | None = None
        self.observers = 0
        # It is not the first observer's own: what Ray cancels along with a task is told by context.
        following = self._run(source)
        self._task = asyncio.get_running_loop().create_task(
            following, name="feed", context=Context()
        )

    @property
    def ended(self) -> bool:
        """Whether it has failed; who still follows it is told."""
        return self._task.done()

    async def beyond(self, position: int) -> Followed | None:
        """The events from ``position`` on, once there are some; None if they left the window.

        Raises:
            RayAgentsError: the log cannot be followed any more.
        """
        while self._tip <= position:
            if self._failure is not None:
                raise again(self._failure)
            await self._moved.wait()
        if position < self._first:
            return None
        fresh = self._events[bisect_left(self._offsets, position) :]
        return Followed(events=tuple(fresh), tip=self._tip)

    async def _run(self, source: AsyncGenerator[Followed, None]) -> None:
        try:
            async with aclosing(source):
                async for found in source:
                    self._take(found)
        except Exception as error:  # noqa: BLE001 - whoever observes raises it
            self._failure = error
        finally:
            self._tell()

    def _take(self, found: Followed) -> None:
        self._events += found.events
        self._offsets += [event.offset for event in found.events]
        self._bytes += sum(_size(event) for event in found.events)
        self._tip = max(self._tip, found.tip)
        if len(self._events) > EVENTS_MAX or self._bytes > BYTES_MAX:
            self._drop_oldest()
        self._tell()

    def _drop_oldest(self) -> None:
        """Cut down to half of the bounds, so that a cut is rare."""
        count = max(0, len(self._events) - EVENTS_MAX // 2)
        left = self._bytes - sum(_size(event) for event in self._events[:count])
        while left > BYTES_MAX // 2:
            left -= _size(self._events[count])
            count += 1
        self._first = self._offsets[count - 1] + 1
        del self._events[:count], self._offsets[:count]
        self._bytes = left

    def _tell(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def end(self) -> None:
        """Stop following."""
        self._task.cancel()
        await asyncio.wait([self._task])


class Feeds:
    """The feeds of one process; ``follow`` yields what is new in a log, for ever."""

    def __init__(self, follow: Follow) -> None:
        self._follow = follow
        self._feeds: dict[Address, Feed] = {}

    async def events(self, address: Address, position: int) -> AsyncGenerator[Event, None]:
        """The events from ``position`` on; it ends when the observer has fallen behind the window.

        Raises:
            RayAgentsError: the log cannot be followed any more.
        """
        feed = self._feeds.get(address)
        if feed is None or feed.ended:
            feed = self._feeds[address] = Feed(self._follow(address, position), start=position)
        feed.observers += 1
        try:
            while (found := await feed.beyond(position)) is not None:
                for event in found.events:
                    yield event
                position = found.tip
        finally:
            feed.observers -= 1
            if not feed.observers:
                if self._feeds.get(address) is feed:
                    del self._feeds[address]
                await feed.end()


def _size(event: Event) -> int:
    return len(event.text)
