"""A journal in memory, which can die at any call: for tests of agents and of the loop itself.

``crash_at=n`` raises :class:`Crashed` at the n-th append (commit or post, from 1) and at every
one after it, as a dead process would. With ``acknowledged_lost`` the n-th append reaches the log
and only its acknowledgement is lost; otherwise it never arrives. ``rows_kept`` afterwards is what
a new owner finds: posted rows that no commit followed may be missing from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from itertools import count
from typing import TypeVar

from ray_agents.approvals import ApprovalRecorded
from ray_agents.beside import is_alone
from ray_agents.cluster.toolthreads import in_thread
from ray_agents.events import Draft, Event
from ray_agents.interruption import Interruption
from ray_agents.runs import BUDGET, STEERED

T = TypeVar("T")


class Crashed(Exception):
    """The process that owned the journal is dead, as far as the test is concerned."""


_scope: ContextVar[str | None] = ContextVar("effect scope", default=None)


class MemoryJournal:
    """The :class:`~ray_agents.ports.Journal` of one run, over a list."""

    def __init__(
        self,
        run_key: str = "run-1",
        *,
        recorded: Sequence[Event] = (),
        history: Sequence[Event] = (),
        crash_at: int | None = None,
        acknowledged_lost: bool = False,
        used_up: bool = False,
        began: int = 1_000_000,
        steering: Sequence[Event] = (),
    ) -> None:
        self._run_key = run_key
        self._recorded = tuple(recorded)
        self._history = tuple(history)
        self._crash_at = crash_at
        self._acknowledged_lost = acknowledged_lost
        self._used_up = used_up
        self._ticks = count(began, 1_000)
        self._offset = 1 + max((e.offset for e in (*history, *recorded)), default=-1)
        self.rows: list[Event] = [*recorded]
        self.commits: list[Sequence[Draft]] = []
        self.appends = 0
        self._durable = len(self.rows)
        self._interruption = Interruption()
        self.inbox = list(steering)

    @property
    def run_key(self) -> str:
        """The key of the run."""
        return self._run_key

    def recorded(self) -> Sequence[Event]:
        """The rows it was given."""
        return self._recorded

    def history(self) -> Sequence[Event]:
        """The history it was given."""
        return self._history

    def is_alone(self, before: int | None) -> bool:
        """As an entity's journal tells, of the rows that are here."""
        return is_alone(self._run_key, self.rows, before=before)

    def now(self) -> int:
        """A millisecond later each time."""
        return next(self._ticks)

    async def commit(self, drafts: Sequence[Draft]) -> Sequence[Event]:
        """Append, and make durable all that was posted before."""
        events = self._append(drafts)
        self.commits.append(drafts)
        self._durable = len(self.rows)
        return events

    async def commit_waiting(self, drafts: Sequence[Draft]) -> Sequence[Event]:
        """The same: it is inside of no call."""
        return await self.commit(drafts)

    def post(self, drafts: Sequence[Draft]) -> None:
        """Append."""
        self._append(drafts)

    def steering(self) -> Sequence[Event]:
        """What is left of ``inbox``, to which a test may add."""
        taken = {e.value["offset"] for e in self.rows if e.type == STEERED}
        return [event for event in self.inbox if event.offset not in taken]

    def waiting(self) -> Sequence[Event]:
        """The same: all of it steers."""
        return self.steering()

    @property
    def interruption(self) -> Interruption:
        """For the test to set."""
        return self._interruption

    def used_up(self) -> str | None:
        """What it was told."""
        return BUDGET if self._used_up else None

    def approval(self, key: str) -> ApprovalRecorded | None:
        """The newest row of that key; a test may add one to ``rows``."""
        rows = [e for e in self.rows if (e.type, e.key) == (ApprovalRecorded.TYPE, key)]
        return ApprovalRecorded.of(rows[-1]) if rows else None

    def in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do it as an entity's journal does."""
        return in_thread(work)

    def effects_of(self, scope: str) -> MemoryScope:
        """Remember ``scope`` while it is entered; see :func:`current_scope`."""
        return MemoryScope(scope)

    def rows_kept(self, *, posts_lost: bool) -> list[Event]:
        """What the log holds after the crash."""
        return self.rows[: self._durable] if posts_lost else list(self.rows)

    def _append(self, drafts: Sequence[Draft]) -> list[Event]:
        self.appends += 1
        dead = self._crash_at is not None and self.appends >= self._crash_at
        if dead and not (self._acknowledged_lost and self.appends == self._crash_at):
            raise Crashed(f"append {self.appends}")
        events = [Event.at(self._offset + index, 0, draft) for index, draft in enumerate(drafts)]
        self._offset += len(events)
        self.rows.extend(events)
        if dead:
            self._durable = len(self.rows)
            raise Crashed(f"append {self.appends}, after it")
        return events


class MemoryScope:
    """Entered around a tool, by task."""

    def __init__(self, scope: str) -> None:
        self._name = scope

    def __enter__(self) -> None:
        self._token = _scope.set(self._name)

    def __exit__(self, *exc: object) -> None:
        _scope.reset(self._token)


def current_scope() -> str | None:
    """The tool call that is running here, by its key."""
    return _scope.get()
