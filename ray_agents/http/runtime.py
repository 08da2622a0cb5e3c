"""The Runtime at the other end of an HTTP connection: every verb as one request.

``observe`` follows the server-sent events and, when the connection breaks, goes on behind the
last event it saw; it gives up after a bounded number of attempts without any news.
"""

from __future__ import annotations

import base64
import builtins
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from ray_agents.address import Address
from ray_agents.definition import Registry
from ray_agents.errors import RuntimeUnavailable
from ray_agents.events import JSON, Event
from ray_agents.http.answers import error_of, read_as, unreachable
from ray_agents.http.following import Patience, follow
from ray_agents.requests import (
    DecisionRequest,
    ForkRequest,
    InterruptRequest,
    ListQuery,
    ParkedRequest,
    Request,
    SendRequest,
    SpawnRequest,
    checked,
)
from ray_agents.settings import LOOPBACK_HOSTS
from ray_agents.views import (
    ApprovalView,
    CostBy,
    CostLine,
    EntityView,
    Interrupted,
    Page,
    Receipt,
    Reply,
    StateView,
    TypeView,
)

PAGE_EVENTS = 1_000
REQUEST_ATTEMPTS = 3
CARRY_SECONDS = 600.0  # of silence, while an export is made or an import taken in
NOW = -1
UP_TO_DATE = "stream-up-to-date"
Views = builtins.list[EntityView]
Types = builtins.list[TypeView]
Lines = builtins.list[CostLine]
Rows = builtins.list[dict[str, Any]]
T = TypeVar("T")


class _Count(BaseModel):
    wakes: int


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
            trust_env=not _is_loopback(self._url),
        )

    async def register(self, registry: Registry, *, source: str | None = None) -> list[TypeView]:
        """Make definitions known: by ``source``, or by value if the server allows that."""
        body = {"source": source} if source is not None else {"value": _pickled(registry)}
        return await self._call(Types, "POST", "/v1/types", json=body)

    async def types(self) -> list[TypeView]:
        """The newest version of every definition."""
        return await self._call(Types, "GET", "/v1/types")

    async def spawn(self, address: Address, request: SpawnRequest) -> EntityView:
        """Create an entity; return once it is durable."""
        named = request.model_copy(update={"spawn_id": request.spawn_id or _fresh_id()})
        return await self._call(EntityView, "PUT", _path(address), json=_body(named))

    async def send(self, address: Address, request: SendRequest) -> Receipt:
        """Put a message into an inbox; return once it is durable."""
        return await self._call(
            Receipt, "POST", _path(address, "messages"), json=_body(_named(request))
        )

    async def ask(self, address: Address, request: SendRequest, *, within: timedelta) -> Reply:
        """Send, and return the reply to that message.

        Raises:
            AskTimedOut: there was none ``within``; the message will still be handled.
        """
        return await self._call(
            Reply,
            "POST",
            _path(address, "ask"),
            json=_body(_named(request)),
            params={"within": within.total_seconds()},
            # The server's own time-out comes first, since it knows what became of the message.
            timeout=within.total_seconds() + self._patience.answer.total_seconds(),
        )

    async def observe(
        self, address: Address, *, offset: int = 0, live: bool = True
    ) -> AsyncGenerator[Event]:
        """The events from ``offset`` on; ``-1`` means from now. Live, it outlives broken streams.

        Raises:
            RuntimeUnavailable: the stream broke more often in a row than ``Patience`` allows.
        """
        if not live:
            async with aclosing(self._pages(address, offset)) as pages:
                async for event in pages:
                    yield event
            return
        if offset == NOW:  # fixed before the first connection, so that a later one misses nothing
            offset = (await self.inspect(address)).events
        async with aclosing(
            follow(self._entered(), _path(address), offset, self._patience)
        ) as rows:
            async for event in rows:
                yield event

    async def _pages(self, address: Address, offset: int) -> AsyncGenerator[Event]:
        up_to_date = offset == NOW
        while not up_to_date:
            params = {"offset": offset, "limit": PAGE_EVENTS}
            response = await self._answer("GET", _path(address, "events"), params=params)
            for row in read_as(Rows, response):
                event = Event.from_json(row)
                offset = event.offset + 1
                yield event
            up_to_date = response.headers[UP_TO_DATE] == "true"

    async def inspect(self, address: Address) -> EntityView:
        """One entity, as it is now."""
        return await self._call(EntityView, "GET", _path(address))

    async def state(self, address: Address, *, at: int | None = None) -> StateView:
        """One entity as the rows below the offset ``at`` tell of it, or all of them."""
        params = {} if at is None else {"at": at}
        return await self._call(StateView, "GET", _path(address, "state"), params=params)

    async def list(self, query: ListQuery) -> Page:
        """Some entities."""
        return await self._call(Page, "GET", "/v1/entities", params=_body(query))

    async def cost(
        self, *, by: CostBy = "type", since: datetime | None = None
    ) -> builtins.list[CostLine]:
        """What was spent, as :func:`ray_agents.tables.cost.cost` tells it of the server's store."""
        params = _given(by=by, since=None if since is None else since.isoformat())
        return await self._call(Lines, "GET", "/v1/cost", params=params, timeout=CARRY_SECONDS)

    async def fork(self, source: Address, request: ForkRequest) -> EntityView:
        """Make a new entity of the rows of another; return once it is durable."""
        named = request.model_copy(update={"fork_id": request.fork_id or _fresh_id()})
        return await self._call(EntityView, "POST", _path(source, "fork"), json=_body(named))

    async def export(
        self, address: Address, *, children: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a file with the entity, and all that descend from it."""
        params = {"children": children}
        client, path = self._entered(), _path(address, "export")
        try:
            async with client.stream("GET", path, params=params, timeout=CARRY_SECONDS) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise error_of(answer)
                async for chunk in answer.aiter_bytes():
                    yield chunk
        except httpx.HTTPError as error:
            raise unreachable(client, error) from error

    async def import_(
        self, chunks: AsyncIterator[bytes], *, to: Address | None = None
    ) -> builtins.list[EntityView]:
        """Make the entities of an exported file; return once they are durable.

        It is sent once. If the connection breaks, the same file again goes on where it broke off.
        """
        client = self._entered()
        params = {} if to is None else {"to": str(to)}
        try:
            answer = await client.post(
                "/v1/imports", params=params, content=chunks, timeout=CARRY_SECONDS
            )
        except httpx.HTTPError as error:
            raise unreachable(client, error) from error
        return read_as(Views, answer)

    async def kill(
        self, address: Address, *, reason: str | None = None, life: int | None = None
    ) -> None:
        """End the entity's life: the one named, or that which goes on as this is asked."""
        if life is None:
            life = (await self.inspect(address)).life
        params = _given(reason=reason, life=str(life))
        await self._call(type(None), "DELETE", _path(address), params=params)

    async def interrupt(
        self,
        address: Address,
        *,
        wake: str | None = None,
        reason: str | None = None,
        signal_id: str | None = None,
    ) -> Interrupted:
        """Stop what runs; return once the log says so."""
        fields = {"wake": wake, "reason": reason, "id": signal_id or _fresh_id()}
        request = checked(InterruptRequest, fields)
        return await self._call(
            Interrupted, "POST", _path(address, "interrupt"), json=_body(request)
        )

    async def retry(self, address: Address, *, wake: str | None = None) -> int:
        """Run parked wakes again (one, or all); how many."""
        return await self._on_parked(address, "retry", wake)

    async def skip(self, address: Address, *, wake: str | None = None) -> int:
        """Give parked wakes up (one, or all); how many."""
        return await self._on_parked(address, "skip", wake)

    async def decide(
        self, address: Address, approval: str, request: DecisionRequest
    ) -> ApprovalView:
        """Approve or deny a tool call that waits for it; return once it is durable."""
        path = _path(address, f"approvals/{quote(approval, safe='')}")
        return await self._call(ApprovalView, "POST", path, json=_body(request))

    async def _on_parked(self, address: Address, verb: str, wake: str | None) -> int:
        request = checked(ParkedRequest, {"wake": wake})
        count = await self._call(_Count, "POST", _path(address, verb), json=_body(request))
        return count.wakes

    async def _call(self, kind: type[T], method: str, path: str, **options: Any) -> T:
        return read_as(kind, await self._answer(method, path, **options))

    async def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, sent again if the connection broke.

        That is harmless: what creates or stops something carries an id, or names the life that it
        ends, a decision is on a call that is known by its key or an id of its own, and the other
        verbs say the same thing twice.
        An answer that does not come in time is not asked for again.
        """
        client = self._entered()
        attempts = AsyncRetrying(
            stop=stop_after_attempt(REQUEST_ATTEMPTS),
            wait=wait_exponential(multiplier=self._patience.pause.total_seconds()),
            retry=retry_if_exception_type((httpx.NetworkError, httpx.RemoteProtocolError)),
            reraise=True,
        )
        try:
            return await attempts(client.request, method, path, **options)
        except httpx.HTTPError as error:
            raise unreachable(client, error) from error

    def _entered(self) -> httpx.AsyncClient:
        if self._client is None:
            message = f"the connection to {self._url!r} is not open; use `async with`"
            raise RuntimeUnavailable(message, url=self._url)
        return self._client


def _path(address: Address, verb: str = "") -> str:
    return f"/v1/entities{address}" + (f"/{verb}" if verb else "")


def _body(request: Request) -> dict[str, JSON]:
    return request.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _named(request: SendRequest) -> SendRequest:
    """The message with an id, so that the same one sent twice is received once."""
    return request if request.id else request.model_copy(update={"id": _fresh_id()})


def _fresh_id() -> str:
    return uuid4().hex


def _given(**params: str | None) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}


def _pickled(registry: Registry) -> str:
    cloudpickle: Any = import_module("cloudpickle")  # only here, and it ships no types
    return base64.b64encode(cloudpickle.dumps(registry)).decode()


def _is_loopback(url: str) -> bool:
    return httpx.URL(url).host in LOOPBACK_HOSTS
