"""An append under way: events that share a frame, and who waits for it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence

from ray_agents.errors import InvalidPayload, PayloadTooLarge
from ray_agents.events import Draft, Event

ROW_BYTES = 64  # what a row takes besides its text, about
APPEND_BYTES_MAX = 64 * 1024 * 1024


class Group:
    """Events that become one frame, and whoever waits for it (``awaited``: somebody does)."""

    __slots__ = ("awaited", "bytes", "error", "events", "settled")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.bytes = 0
        self.settled = asyncio.Event()
        self.awaited = asyncio.Event()
        self.error: Exception | None = None

    def settle(self, error: Exception | None) -> None:
        """Tell whoever waits that it is acknowledged, or why not."""
        self.error = error
        self.awaited.set()
        self.settled.set()


SETTLED = Group()
SETTLED.settle(None)


class Appending:
    """An append under way; ``events`` have their offsets and times already."""

    __slots__ = ("_group", "events")

    def __init__(self, events: tuple[Event, ...], group: Group) -> None:
        self.events = events
        self._group = group

    async def durable(self) -> tuple[Event, ...]:
        """Return the events once they are acknowledged.

        Raises:
            Fenced, StoreUnavailable, StoreFull: they are not, and the ownership has ended.
        """
        self._group.awaited.set()
        await self._group.settled.wait()
        if self._group.error is not None:
            raise again(self._group.error) from self._group.error
        return self.events


def again(error: Exception) -> Exception:
    """``error`` as a new object: each of those who wait raises its own."""
    return copy.copy(error)


def size_of(drafts: Sequence[Draft]) -> int:
    """The bytes of text in ``drafts``; it also proves that they can be written."""
    size = 0
    for draft in drafts:
        try:
            texts = f"{draft.type}{draft.key}{draft.text}"
            for name, value in draft.headers.items():
                texts += name + value
            size += ROW_BYTES + len(texts.encode())
        except (UnicodeEncodeError, TypeError) as error:
            message = f"{draft.type!r} {draft.key!r} is not text that can be written: {error}"
            raise InvalidPayload(message, field=draft.type) from error
    if size > APPEND_BYTES_MAX:
        message = f"an append of {size} bytes; at most {APPEND_BYTES_MAX} are allowed"
        raise PayloadTooLarge(message, bytes=size, bytes_max=APPEND_BYTES_MAX)
    return size
