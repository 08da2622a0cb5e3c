"""What the commands need from the rest of the package, as two small protocols.

``cli.py`` brings the real thing and tests a stand-in; nothing here knows of either.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from ray_agents.budgets import Budget
from ray_agents.events import JSON, Event
from ray_agents.findings import Verification
from ray_agents.modes import Mode
from ray_agents.terminal.screen import Screen
from ray_agents.views import (
    ApprovalView,
    CostBy,
    CostLine,
    EntityView,
    ExportView,
    Interrupted,
    Page,
    Receipt,
    Reply,
    StateView,
    Status,
    TypeView,
)

Description = Mapping[str, JSON]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which runtime is meant: as typed, None where the environment or a default decides."""

    url: str | None = None
    token: str | None = None
    store: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a query gives: the names of its columns, and its rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


class Client(Protocol):
    """The part of :class:`ray_agents.client.Client` that the commands use."""

    def spawn(
        self,
        address: str,
        *,
        args: Mapping[str, JSON] | None = None,
        tags: Mapping[str, str] | None = None,
        message: JSON = None,
        budget: Budget | None = None,
    ) -> EntityView:
        """Create an entity, with a first message if one is given."""
        ...

    def send(
        self,
        address: str,
        payload: JSON,
        *,
        type: str = "message",
        from_: str | None = None,
        id: str | None = None,
        after: timedelta | None = None,
        mode: Mode | str = Mode.QUEUED,
    ) -> Receipt:
        """Put a message into an inbox, now or later."""
        ...

    def ask(
        self, address: str, payload: JSON, *, within: timedelta, mode: Mode | str = Mode.QUEUED
    ) -> Reply:
        """Send, and wait for the reply to that message."""
        ...

    def observe(self, address: str, *, offset: int = 0, live: bool = True) -> Iterator[Event]:
        """The events from ``offset`` on; -1 means from now."""
        ...

    def inspect(self, address: str) -> EntityView:
        """One entity."""
        ...

    def list(
        self,
        *,
        type: str | None = None,
        status: Status | None = None,
        parent: str | None = None,
        tag: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Some entities."""
        ...

    def state(self, address: str, *, at: int | None = None) -> StateView:
        """One entity as of an offset, or now."""
        ...

    def fork(self, address: str, to: str, *, at: int | None = None) -> EntityView:
        """Make a new entity of the rows of another."""
        ...

    def export(self, address: str, path: Path, *, children: bool = False) -> ExportView:
        """Write an entity, and all that descend from it if asked, into a file."""
        ...

    def import_(self, path: Path, *, to: str | None = None) -> builtins.list[EntityView]:
        """Make the entities of an exported file."""
        ...

    def types(self) -> builtins.list[TypeView]:
        """The registered types."""
        ...

    def kill(self, address: str, *, reason: str | None = None) -> None:
        """End an entity's life."""
        ...

    def interrupt(
        self, address: str, *, wake: str | None = None, reason: str | None = None
    ) -> Interrupted:
        """Stop what runs."""
        ...

    def retry(self, address: str, *, wake: str | None = None) -> int:
        """Run parked wakes again; how many."""
        ...

    def skip(self, address: str, *, wake: str | None = None) -> int:
        """Give parked wakes up; how many."""
        ...

    def approve(
        self, address: str, call_id: str, *, by: str | None = None, reason: str | None = None
    ) -> ApprovalView:
        """Have a tool call run that waits for approval."""
        ...

    def deny(
        self, address: str, call_id: str, *, by: str | None = None, reason: str | None = None
    ) -> ApprovalView:
        """Have it not run."""
        ...


class Installation(Protocol):
    """Everything outside the terminal: the client, and the runtime's start and stop."""

    def connect(self, target: Target) -> AbstractContextManager[Client]:
        """A client of the runtime that is meant.

        Raises:
            RuntimeUnavailable: there is none.
        """
        ...

    def start(
        self,
        target: Target,
        *,
        app: str | None,
        http_port: int | None,
        report: Callable[[str], None],
    ) -> Description:
        """Start a runtime here; return when it is ready, with what was started and where.

        ``report`` is told of each step.
        """
        ...

    def stop(self, target: Target, *, within: timedelta | None) -> Description:
        """Seal everything and stop, within the settings' deadline or another; what was stopped."""
        ...

    def status(self, target: Target) -> Description:
        """What runs, and where."""
        ...

    def demo(self, target: Target, *, screen: Screen) -> None:
        """Show the main job from end to end."""
        ...

    def verify(
        self,
        target: Target,
        *,
        address: str | None,
        repair: bool,
        progress: Callable[[int, int], None],
    ) -> Verification:
        """Read every file of an entity's log, or of the whole store; needs no runtime.

        ``progress`` is told of logs done, and of all.

        Raises:
            UnknownEntity: the address has no log.
            StoreUnavailable: there is no such store.
        """
        ...

    def query(
        self, target: Target, sql: str, *, on_corrupt: Callable[[str], None] | None
    ) -> Answer:
        """Ask the logs of the store; ``on_corrupt`` is told of logs that are left out."""
        ...

    def cost(
        self,
        target: Target,
        *,
        by: CostBy,
        since: timedelta | None,
        on_corrupt: Callable[[str], None] | None,
    ) -> builtins.list[CostLine]:
        """What was spent in the store, as far back as ``since``; ``on_corrupt`` as above."""
        ...

    def now(self) -> int:
        """Microseconds since the epoch."""
        ...
