"""Where an entity comes from that was not spawned: a fork of another, or a file that was imported.

Its log begins with rows it has inherited, at the offsets they had at their source; the row of
:class:`EntityForked` ends them. Data is inherited, obligations are not (``closing.py``): rows of
collections, tags, context, arguments and the conversation are the new entity's own from here on.

Message ids begin anew behind that row: an id that the source has seen is a fresh one here, as it
is another inbox. So do the ids of what the entity sends and spawns: they name this origin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self, cast

from ray_agents.events import Draft, EntityCreated, Event, Operation


class Cause(StrEnum):
    """How a log came to begin with the rows of another."""

    FORK = "fork"
    IMPORT = "import"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityForked:
    """The rows before this one are those of ``source`` with an offset below ``offset``.

    ``key`` is unique for each fork or import, so that a repeated one is known. ``life`` is that of
    the source and goes on here. ``parent`` and ``created`` are the entity's from here on. ``woken``
    tells that it had been awake before. ``digest`` is that of the imported file, None for a fork.
    Times are microseconds since 1970.
    """

    key: str
    cause: Cause
    source: str
    offset: int
    life: int
    parent: str | None
    created: int
    woken: bool
    timestamp: int
    digest: str | None = None

    TYPE = "entity_forked"

    def draft(self) -> Draft:
        """The row to append; its key is always the same, for the newest one counts."""
        value = {name: getattr(self, name) for name in _FIELDS}
        return Draft.of(self.TYPE, "entity", value=value, operation=Operation.UPSERT)

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read the row back."""
        row = cast("dict[str, Any]", event.value)
        row["cause"] = Cause(row["cause"])
        return cls(**row)

    def creation(self, before: EntityCreated) -> EntityCreated:
        """The entity's creation as it is seen from here on.

        Its ``spawn_id`` is this origin's key, so that the source's spawn repeated is not this one.
        """
        return replace(before, parent=self.parent, spawn_id=self.key, timestamp=self.created)


_FIELDS = tuple(EntityForked.__dataclass_fields__)
