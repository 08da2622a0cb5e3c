"""Whose call is next: fair between entities, not between calls.

Next is a call of the entity that has the fewest in flight, and among those of the one that came,
or was served, longest ago; its own calls go in the order in which they came. So an entity with a
hundred calls has as many turns as one with a single call at a time, and nobody starves: whoever
comes, or comes again, does so behind those who wait and have nothing in flight.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")
_Place = tuple[int, int]  # in flight, and since when: the order of turns


class Caller:
    """Who calls models, by name, and what it waits for right now."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._waits: dict[int, Callable[[], str | None]] = {}
        self._numbers = count()

    @property
    def waiting_for(self) -> str | None:
        """What the call that waits longest waits for, in words; None if none waits."""
        told = (words() for words in self._waits.values())
        return next((each for each in told if each is not None), None)

    @contextmanager
    def waiting(self, told: Callable[[], str | None]) -> Generator[None]:
        """While inside, a call waits for what ``told`` says; for nothing while that is None."""
        number = next(self._numbers)
        self._waits[number] = told
        try:
            yield
        finally:
            del self._waits[number]


# Every model call that is made in an entity's wake is its own, those of its tools, too, whatever
# code makes them; so the wake's context carries the name, and not each function between.
CALLER: ContextVar[Caller | None] = ContextVar("ray_agents_caller", default=None)


class _Member:
    """One entity that has calls waiting or in flight."""

    __slots__ = ("in_flight", "name", "since", "waiting")

    def __init__(self, name: str, since: int) -> None:
        self.name = name
        self.since = since
        self.in_flight = 0
        self.waiting: deque[object] = deque()

    @property
    def place(self) -> _Place:
        return (self.in_flight, self.since)


class Turns(Generic[T]):
    """The calls that wait, each a value of the caller's choice, with the entity it is of."""

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}
        self._heap: list[tuple[_Place, str]] = []
        self._numbers = count()
        self._ranks: dict[str, int] = {}
        self._ranked = False
        self.waiting = 0
        self.in_flight = 0

    def __len__(self) -> int:
        return self.waiting

    @property
    def entities(self) -> int:
        """How many entities have calls waiting or in flight."""
        return len(self._members)

    @property
    def remembered(self) -> int:
        """How many places in the order are kept, those that hold no more included."""
        return len(self._heap)

    def join(self, name: str, call: T) -> None:
        """Wait for a turn."""
        member = self._members.get(name)
        if member is None:
            member = self._members[name] = _Member(name, next(self._numbers))
        member.waiting.append(call)
        self.waiting += 1
        self._ranked = False
        self._offer(member)

    def leave(self, name: str, call: T) -> None:
        """Give up waiting."""
        member = self._members[name]
        member.waiting.remove(call)
        self.waiting -= 1
        self._ranked = False
        self._drop_if_done(member)

    def next(self) -> T:
        """Whose turn it is; the call is in flight from now on.

        Raises:
            IndexError: nobody waits.
        """
        while True:
            place, name = heapq.heappop(self._heap)
            member = self._members.get(name)
            if member is None or not member.waiting or member.place != place:
                continue  # things have changed since; there is a newer entry if it still waits
            call: object = member.waiting.popleft()
            member.in_flight += 1
            member.since = next(self._numbers)
            self.waiting -= 1
            self.in_flight += 1
            self._ranked = False
            if member.waiting:
                self._offer(member)
            return call  # pyright: ignore[reportReturnType]

    def done(self, name: str) -> None:
        """A call is in flight no more."""
        member = self._members[name]
        member.in_flight -= 1
        self.in_flight -= 1
        self._ranked = False
        if member.waiting:
            self._offer(member)
        self._drop_if_done(member)

    def ahead_of(self, name: str) -> int:
        """How many other entities have their turn before this one, which waits."""
        if not self._ranked:
            queue = sorted((m for m in self._members.values() if m.waiting), key=lambda m: m.place)
            self._ranks = {member.name: rank for rank, member in enumerate(queue)}
            self._ranked = True
        return self._ranks[name]

    def _offer(self, member: _Member) -> None:
        """Remember the place of a member that has calls waiting; forget those that hold no more.

        So there are never more than two for each member, however often callers come and leave.
        """
        heapq.heappush(self._heap, (member.place, member.name))
        if len(self._heap) > 2 * len(self._members):
            self._heap = [
                (each.place, name) for name, each in self._members.items() if each.waiting
            ]
            heapq.heapify(self._heap)

    def _drop_if_done(self, member: _Member) -> None:
        if not member.waiting and not member.in_flight:
            del self._members[member.name]
