"""The Runtime at the other end of an HTTP connection: every verb as one request.

``observe`` follows the server-sent events and, when the connection breaks, goes on behind the
last event it saw; it gives up after a bounded number of attempts without any news.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import httpx
from httpx_sse import EventSource, ServerSentEvent
from pydantic import TypeAdapter
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from ray_agents.address import Address
from ray_agents.definition import Registry
from ray_agents.errors import RuntimeUnavailable
from ray_agents.events import JSON, Event, decode
from ray_agents.http.answers import error_of, problem_error, value_of
from ray_agents.requests import ListQuery, Request, SendRequest, SpawnRequest
from ray_agents.views import EntityView, Page, Receipt, Reply, TypeView

PAGE_EVENTS = 1_000
NOW = -1
_TYPES = TypeAdapter(list[TypeView])


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long this end waits: to connect, for an answer, for a sign of life in a stream.

    ``silence`` is longer than the server's heartbeat. A broken stream is taken up again
    ``attempts`` times in a row, ``pause`` apart at first, then ever longer up to ``pause_max``.
    """

    connect: timedelta = timedelta(seconds=5)
    answer: timedelta = timedelta(seconds=30)
    silence: timedelta = timedelta(seconds=60)
    attempts: int = 6
    pause: timedelta = timedelta(milliseconds=100)
    pause_max: timedelta = timedelta(seconds=5)


class HttpRuntime:
    """A Runtime (``ray_agents.ports``) over a control API; enter it with ``async with``."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience: Patience | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._patience = patience or Patience()
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        self._client = self._new_client()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _new_client(self) -> httpx.AsyncClient:
        headers = {} if self._token is None else {"authorization": f"Bearer {self._token}"}
        return httpx.AsyncClient(
            base_url=self._url,
            headers=headers,
            transport=self._transport,
            timeout=httpx.Timeout(
                self._patience.answer.total_seconds(),
                connect=self._patience.connect.total_seconds(),
                pool=None,  # every stream holds a connection; waiting for one is not a failure
            ),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            # A loopback URL must not leave through a proxy of the environment, token and all.
            trust_env=False,
        )

    async def register(self, registry: Registry, *, source: str | None = None) -> list[TypeView]:
        """Make definitions known: by ``source``, or by value if the server allows that."""
        body = {"source": source} if source is not None else {"value": _pickled(registry)}
        return _TYPES.validate_python(await self._call("POST", "/v1/types", json=body))

    async def types(self) -> list[TypeView]:
        """The newest version of every definition."""
        return _TYPES.validate_python(await self._call("GET", "/v1/types"))

    async def spawn(self, address: Address, request: SpawnRequest) -> EntityView:
        """Create an entity; return once it is durable."""
        answer = await self._call("PUT", _path(address), json=_body(request))
        return EntityView.model_validate(answer)

    async def send(self, address: Address, request: SendRequest) -> Receipt:
        """Put a message into an inbox; return once it is durable."""
        answer = await self._call("POST", _path(address, "messages"), json=_body(request))
        return Receipt.model_validate(answer)

    async def ask(self, address: Address, request: SendRequest, *, within: timedelta) -> Reply:
        """Send, and return the reply to that message.

        Raises:
            AskTimedOut: there was none ``within``; the message will still be handled.
        """
        answer = await self._call(
            "POST",
            _path(address, "ask"),
            json=_body(request),
            params={"within": within.total_seconds()},
            # The server's own time-out comes first, since it knows what became of the message.
            timeout=within.total_seconds() + self._patience.answer.total_seconds(),
        )
        return Reply.model_validate(answer)

    async def observe(
        self, address: Address, *, offset: int = 0, live: bool = True
    ) -> AsyncIterator[Event]:
        """The events from ``offset`` on; ``-1`` means from now."""
        if not live:
            async for event in self._pages(address, offset):
                yield event
            return
        if offset == NOW:  # fixed before the first connection, so that a second misses nothing
            offset = (await self.inspect(address)).events
        while True:
            async for attempt in self._attempts():
                with attempt:
                    lines = await self._open_stream(address, offset)
            ...

    async def inspect(self, address: Address) -> EntityView:
        """One entity, as it is now."""
        return EntityView.model_validate(await self._call("GET", _path(address)))

    async def list(self, query: ListQuery) -> Page:
        """Some entities."""
        return Page.model_validate(await self._call("GET", "/v1/entities", params=_body(query)))

    async def kill(self, address: Address, *, reason: str | None = None) -> None:
        """End the entity's life; its log remains readable."""
        await self._call("DELETE", _path(address), params=_given(reason=reason))

    async def retry(self, address: Address, *, wake: str | None = None) -> int:
        """Run parked wakes again (one, or all); how many."""
        path = _path(address, "retry")
        return int((await self._call("POST", path, params=_given(wake=wake)))["wakes"])

    async def skip(self, address: Address, *, wake: str | None = None) -> int:
        """Give parked wakes up (one, or all); how many."""
        path = _path(address, "skip")
        return int((await self._call("POST", path, params=_given(wake=wake)))["wakes"])
