"""An interrupt: what the log says of it, and what it cuts short.

An interrupt is one append: a ``signal`` row, for people to read, and the wake marked as
interrupted. From then on the wake does not go on, whoever owns the entity; that is why it may be
acknowledged at once. What runs in this process is cut short through an :class:`Interruption`: the
model's stream and the tools at once, the handler after a while. If the process dies before that
has been written down, the next owner finds the mark and ends the runs instead (``runends.py``).

The signal's fields are upstream's (``website/docs/agents/usage/signals.md`` in
electric-sql/electric), whose ``SIGINT`` it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from ray_agents.events import Draft, Event
from ray_agents.tools import Tool

CANCELLED = (
    "Interrupted: the run was told to stop while this tool ran, and the tool was cancelled. It may "
    "have done a part of its work."
)
LEFT_RUNNING = (
    "Interrupted: the run was told to stop while this tool ran. The tool could not be stopped and "
    "was left running; what comes of it is not known."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptReceived:
    """Somebody told a wake to stop; ``sender`` and ``reason`` are what they said of themselves."""

    key: str
    wake: str
    reason: str | None
    sender: str | None
    timestamp: int

    TYPE = "signal"
    SIGNAL = "SIGINT"

    def draft(self) -> Draft:
        """The row to append."""
        value = {
            "key": self.key,
            "signal": self.SIGNAL,
            "status": "handled",
            "outcome": "aborted",
            "wake": self.wake,
            "reason": self.reason,
            "sender": self.sender,
            "timestamp": self.timestamp,
        }
        return Draft.of(self.TYPE, self.key, value=value)

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read the row back."""
        row = event.value
        return cls(**{name: row.get(name) for name in cls.__dataclass_fields__})


class Interruption:
    """Whether one attempt at a wake was told to stop, and what ends when it is."""

    def __init__(self) -> None:
        self._is_set = False
        self._cut: dict[asyncio.Timeout, float] = {}

    @property
    def is_set(self) -> bool:
        """Whether the wake was told to stop."""
        return self._is_set

    def set(self) -> None:
        """The wake is told to stop; twice is harmless."""
        if not self._is_set:
            self._is_set = True
            for scope, seconds in self._cut.items():
                _end(scope, seconds)

    @contextmanager
    def cuts(self, scope: asyncio.Timeout, *, after: float = 0.0) -> Generator[None]:
        """While inside, an interrupt lets ``scope``, which is entered, expire ``after`` seconds."""
        if self._is_set:
            _end(scope, after)
        self._cut[scope] = after
        try:
            yield
        finally:
            del self._cut[scope]


def _end(scope: asyncio.Timeout, seconds: float) -> None:
    if scope.expired():
        return
    at, before = asyncio.get_running_loop().time() + seconds, scope.when()
    scope.reschedule(at if before is None else min(at, before))


def told_of(tool: Tool | None) -> str:
    """What the model reads of a tool that ran when the interrupt came."""
    return LEFT_RUNNING if tool is not None and tool.blocking else CANCELLED
