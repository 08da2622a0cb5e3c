"""An entity's events as server-sent events: live, resumable, and quick to let go.

Each event's SSE id is its offset; a client that reconnects with ``Last-Event-ID`` goes on behind
it. Where a stream begins it is told as an id, too, with no event: so one that began ``now`` and
breaks before the first misses nothing. Comments keep idle connections open. An ``end`` event says
that no more will come; a failure in mid-stream is an ``error`` event that holds a problem document.

When the client goes, the task that awaits the next event is cancelled and the iterator closed at
once, and nothing else: whatever several observers share below is the runtime's, which has to
shield it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from datetime import timedelta

from fastapi.responses import StreamingResponse
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from ray_agents.address import Address
from ray_agents.errors import RayAgentsError
from ray_agents.events import Event, wire_offset
from ray_agents.ports import Runtime
from serve.problem import problem_of

MEDIA_TYPE = "text/event-stream"
_BEAT = b":\n\n"
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class EventStream(StreamingResponse):
    """The events from ``offset`` on, until the client goes."""

    def __init__(
        self, runtime: Runtime, address: Address, *, offset: int, heartbeat: timedelta
    ) -> None:
        events = runtime.observe(address, offset=offset, live=True)
        self._chunks = _chunks(events, offset, heartbeat)
        super().__init__(self._chunks, media_type=MEDIA_TYPE, headers=_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send, and close the iterator however that ends: a cancelled ``send`` leaves it open."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._chunks.aclose()


async def _chunks(
    events: AsyncIterator[Event], offset: int, heartbeat: timedelta
) -> AsyncGenerator[bytes, None]:
    # The client learns at once that it is connected, and where.
    yield (b"id: " + wire_offset(offset - 1).encode() + b"\n" if offset else b"") + _BEAT
    try:
        async with aclosing(_with_beats(events, heartbeat)) as beating:
            async for event in beating:
                yield _BEAT if event is None else _chunk(event)
        yield b"event: end\ndata:\n\n"
    except RayAgentsError as error:
        yield b"event: error\ndata: " + to_json(problem_of(error), fallback=str) + b"\n\n"


async def _with_beats(
    events: AsyncIterator[Event], heartbeat: timedelta
) -> AsyncGenerator[Event | None, None]:
    """The events, and None whenever there was none for ``heartbeat``."""
    coming: asyncio.Task[Event | None] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(_next(events))
            done, _ = await asyncio.wait({coming}, timeout=heartbeat.total_seconds())
            if not done:
                yield None
                continue
            event, coming = coming.result(), None
            if event is None:
                return
            yield event
    finally:
        await _let_go(events, coming)


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


async def _let_go(events: AsyncIterator[Event], coming: asyncio.Task[Event | None] | None) -> None:
    if coming is not None and not coming.done():
        coming.cancel()
        with suppress(asyncio.CancelledError, RayAgentsError):
            await coming
    if isinstance(events, AsyncGenerator):
        await events.aclose()


def _chunk(event: Event) -> bytes:
    name = wire_offset(event.offset).encode()
    return b"id: " + name + b"\ndata: " + to_json(event.as_json()) + b"\n\n"
