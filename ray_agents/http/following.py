"""Following an entity's events over HTTP: one stream after the other, none of them missed.

A stream that breaks is taken up again behind the last event seen. Attempts are counted as long as
they bring nothing: an event, or a connection that held for a while, starts the count afresh.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
from httpx_sse import EventSource

from ray_agents.errors import RuntimeUnavailable
from ray_agents.events import Event, decode
from ray_agents.http.answers import error_of, problem_error, unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long this end waits: to connect, for an answer, for a sign of life in a stream.

    ``silence`` is longer than the server's heartbeat. A broken stream is taken up again
    ``attempts`` times in a row, ``pause`` apart at first, then twice that, up to ``pause_max``:
    36 s by default, in which Serve has replaced a dead HAProxy or replica (10 s, measured).
    """

    connect: timedelta = timedelta(seconds=5)
    answer: timedelta = timedelta(seconds=30)
    silence: timedelta = timedelta(seconds=60)
    attempts: int = 12
    pause: timedelta = timedelta(milliseconds=100)
    pause_max: timedelta = timedelta(seconds=5)

    def pause_after(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(self.pause * 2 ** (failures - 1), self.pause_max).total_seconds()


class _EndOfStream(BaseException):
    """The server says that no more events will come."""


async def follow(
    client: httpx.AsyncClient, path: str, offset: int, patience: Patience
) -> AsyncGenerator[Event, None]:
    """The events of the entity at ``path`` from ``offset`` on, as they come.

    Raises:
        RuntimeUnavailable: streams broke more often in a row than ``patience`` allows.
        RayAgentsError: what the server answers instead of a stream.
    """
    failures = 0
    while True:
        since = asyncio.get_running_loop().time()
        try:
            async with aclosing(_stream(client, path, offset, patience)) as events:
                async for event in events:
                    failures, offset = 0, event.offset + 1
                    yield event
            broken = RuntimeUnavailable(f"the stream of {path!r} was cut off", path=path)
        except _EndOfStream:
            return
        except httpx.HTTPError as error:
            broken = unreachable(client, error)
        except RuntimeUnavailable as error:
            broken = error
        if asyncio.get_running_loop().time() - since > patience.pause_max.total_seconds():
            failures = 0
        failures += 1
        if failures > patience.attempts:
            raise broken
        await asyncio.sleep(patience.pause_after(failures))


async def _stream(
    client: httpx.AsyncClient, path: str, offset: int, patience: Patience
) -> AsyncGenerator[Event, None]:
    request = client.stream(
        "GET",
        f"{path}/events",
        params={"offset": offset},
        headers={"accept": "text/event-stream"},
        timeout=_timeout(patience),
    )
    async with request as response:
        if not response.is_success:
            await response.aread()
            raise error_of(response)
        async for sent in EventSource(response).aiter_sse():
            match sent.event:
                case "end":
                    raise _EndOfStream
                case "error":
                    raise problem_error(decode(sent.data))
                case _ if not sent.data:
                    continue  # a keep-alive: to httpx-sse it is an event, once an id was sent
                case _:
                    yield Event.from_json(_row(sent.data))


def _row(data: str) -> dict[str, Any]:
    return decode(data)


def _timeout(patience: Patience) -> httpx.Timeout:
    silence = patience.silence.total_seconds()
    return httpx.Timeout(silence, connect=patience.connect.total_seconds(), pool=None)
