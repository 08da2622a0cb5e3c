"""The built-in collections: what a log says of messages, runs, steps, texts, errors…, by key.

They are read from the log when asked for; a wake does not fold them. Names, keys and fields, those
of ``approvals`` apart, are upstream's (``website/docs/agents/reference/built-in-collections.md`` in
electric-sql/electric). An inbox row's ``status`` is derived: ``processed`` once a wake that took
it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ray_agents.errors import MissingKey
from ray_agents.events import Event, MessageReceived, Operation, WakeRecorded

TYPE_OF = {
    "runs": "run",
    "steps": "step",
    "texts": "text",
    "text_deltas": "text_delta",
    "tool_calls": "tool_call",
    "reasoning": "reasoning",
    "reasoning_deltas": "reasoning_delta",
    "errors": "error",
    "inbox": "inbox",
    "wakes": "wake",
    "entity_created": "entity_created",
    "entity_stopped": "entity_stopped",
    "signals": "signal",
    "child_status": "child_status",
    "slash_commands": "slash_command",
    "manifests": "manifest",
    "replay_watermarks": "replay_watermark",
    "tags": "tags",
    "context_inserted": "context_inserted",
    "context_removed": "context_removed",
    "approvals": "approval",  # ours
}

ReadTypes = Callable[[frozenset[str]], Sequence[Event]]


def latest_rows(events: Iterable[Event]) -> dict[str, dict[str, Any]]:
    """The newest value of each key, in the order of first writing; deleted keys are left out."""
    rows: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.operation is Operation.DELETE:
            rows.pop(event.key, None)
        else:
            value = event.value
            rows[event.key] = value if isinstance(value, dict) else {"value": value}
            rows[event.key].setdefault("key", event.key)
    return rows


def inbox_rows(events: Sequence[Event]) -> dict[str, dict[str, Any]]:
    """Inbox rows with their derived status, from inbox and wake events."""
    wakes = [WakeRecorded.of(event) for event in events if event.type == WakeRecorded.TYPE]
    ends = {wake.key: wake for wake in wakes if wake.closed}.values()
    rows: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.type == MessageReceived.TYPE:
            taken = any(wake.took(event.offset) for wake in ends)
            rows[event.key] = event.value | {"status": "processed" if taken else "pending"}
    return rows


class BuiltIn:
    """One built-in collection, read-only."""

    def __init__(self, name: str, read: ReadTypes) -> None:
        self.name = name
        self._read = read

    def _rows(self) -> dict[str, dict[str, Any]]:
        if self.name == "inbox":
            return inbox_rows(self._read(frozenset({MessageReceived.TYPE, WakeRecorded.TYPE})))
        return latest_rows(self._read(frozenset({TYPE_OF[self.name]})))

    def list(self) -> list[dict[str, Any]]:
        """All rows, oldest first."""
        return list(self._rows().values())

    def get(self, key: str) -> dict[str, Any]:
        """One row.

        Raises:
            MissingKey: no such row.
        """
        rows = self._rows()
        if key not in rows:
            raise MissingKey(f"{self.name!r} has no row {key!r}", collection=self.name, key=key)
        return rows[key]

    def __len__(self) -> int:
        return len(self._rows())


class Records:
    """``ctx.records``: the built-in collections by name."""

    def __init__(self, read: ReadTypes) -> None:
        self._read = read

    def __getattr__(self, name: str) -> BuiltIn:
        if name not in TYPE_OF:
            known = ", ".join(sorted(TYPE_OF))
            raise AttributeError(f"no built-in collection {name!r}; there are: {known}")
        return BuiltIn(name, self._read)

    def __dir__(self) -> list[str]:
        return sorted(TYPE_OF)
