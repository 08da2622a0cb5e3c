"""What a handler notes down about its entity: tags, and texts that stay in the model's context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ray_agents.effects import Effects
from ray_agents.errors import MissingKey
from ray_agents.events import JSON, Draft, Operation, decode
from ray_agents.projection import CONTEXT_TYPE, TAGS_TYPE, State


class Attempt(Protocol):
    """What notes need of the attempt at a wake: the state as it began, and what it has staged."""

    state: State
    effects: Effects


class Notes:
    """The part of a handler's context that notes things down; staged, like all that it writes."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    @property
    def tags(self) -> Mapping[str, str]:
        """This entity's tags as the handler sees them now."""
        created = self._attempt.state.created
        tags = dict(created.tags) if created else {}
        for key, text in self._attempt.effects.rows(TAGS_TYPE).items():
            value = decode(text)["value"]
            if value is None:
                tags.pop(key, None)
            else:
                tags[key] = value
        return tags

    def set_tag(self, key: str, value: str) -> None:
        """Set a tag."""
        self.record((TAGS_TYPE, key), value={"key": key, "value": value})

    def remove_tag(self, key: str) -> None:
        """Remove a tag; absent is fine."""
        self.record((TAGS_TYPE, key), value={"key": key, "value": None})

    def insert_context(
        self, entry_id: str, *, name: str, content: str, attrs: Mapping[str, JSON] | None = None
    ) -> None:
        """Keep a text in the model's context from the next run on; an existing id is replaced."""
        value = {"id": entry_id, "name": name, "attrs": dict(attrs or {}), "content": content}
        self.record((CONTEXT_TYPE, entry_id), value=value)

    def remove_context(self, entry_id: str) -> None:
        """Drop a context entry.

        Raises:
            MissingKey: no such entry.
        """
        self.get_context(entry_id)
        self.record((CONTEXT_TYPE, entry_id), value=None, operation=Operation.DELETE)

    def get_context(self, entry_id: str) -> Any:
        """One context entry.

        Raises:
            MissingKey: no such entry.
        """
        text = self._attempt.effects.row(CONTEXT_TYPE, entry_id)
        if text is None:
            raise MissingKey(f"no context entry {entry_id!r}", key=entry_id)
        return decode(text)

    def list_context(self) -> list[Any]:
        """All context entries."""
        return [decode(text) for text in self._attempt.effects.rows(CONTEXT_TYPE).values()]

    def record(
        self, row: tuple[str, str], *, value: JSON, operation: Operation = Operation.UPSERT
    ) -> None:
        """Stage a row of a built-in type, ``row`` being its type and key."""
        type_name, key = row
        draft = Draft.of(type_name, key, value=value, operation=operation)
        content = [operation.value, value]
        self._attempt.effects.stage("record", f"{type_name}/{key}", content=content, drafts=[draft])
