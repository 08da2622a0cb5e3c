"""The Python door: ``connect()`` and the verbs, blocking or async, the same everywhere.

    with connect() as client:
        client.register(registry)
        client.spawn("/assistant/ada")
        print(client.ask("/assistant/ada", "Hello").text)

``connect()`` finds the runtime that ``ray-agents start`` left running for this store, or starts a
local Ray that ends with this process; ``connect("http://…")`` speaks to a control API.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from ray_agents.address import Address
from ray_agents.definition import Definition, Registry
from ray_agents.errors import InvalidPayload
from ray_agents.events import JSON, Event
from ray_agents.ports import Runtime
from ray_agents.requests import ListQuery, SendRequest, SpawnRequest
from ray_agents.settings import Settings, from_env
from ray_agents.views import EntityView, Page, Receipt, Reply, Status, TypeView

T = TypeVar("T")
R = TypeVar("R", SendRequest, SpawnRequest, ListQuery)
ASK_WITHIN = timedelta(minutes=1)


def connect(url: str | None = None, *, settings: Settings | None = None) -> Client:
    """A blocking client; use it in a ``with`` block or close it.

    Args:
        url: a control API, ``http://host:port``; None finds or starts a runtime here.
        settings: None reads the environment (``RAY_AGENTS_*``).

    Raises:
        RuntimeUnavailable: nothing answers there, or Ray does not start.
        StoreUnavailable: the store's directory cannot be used.
    """
    return Client(*_prepare(url, settings))


def connect_async(url: str | None = None, *, settings: Settings | None = None) -> AsyncClient:
    """As :func:`connect`, for ``async with``; it blocks while it joins or starts Ray."""
    return AsyncClient(*_prepare(url, settings))


def connect_runtime(settings: Settings) -> Runtime:
    """The bare runtime that ``settings`` name; Serve's replicas and tests use it."""
    return _prepare(settings.url, settings)[0]


class Detach:
    """What remains to be done when a client closes; calling it twice is harmless."""

    def __init__(self, settings: Settings, attachment: Any = None) -> None:
        self._settings = settings
        self._attachment = attachment

    def __call__(self) -> None:
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            from ray_agents.cluster.attach import detach

            detach(self._settings, attachment)


def _prepare(url: str | None, settings: Settings | None) -> tuple[Runtime, Detach]:
    chosen = settings or from_env(os.environ)
    address = url or chosen.url
    if address is not None:
        from ray_agents.cluster.running import token_for
        from ray_agents.http.runtime import HttpRuntime

        return HttpRuntime(address, token_for(chosen, address)), Detach(chosen)
    from ray_agents.cluster.attach import ClusterRuntime, attach

    attachment = attach(chosen)
    return ClusterRuntime(chosen, attachment), Detach(chosen, attachment)


class AsyncClient:
    """The verbs as coroutines; enter it with ``async with``."""

    def __init__(self, runtime: Runtime, detach: Detach | None = None) -> None:
        self._runtime = runtime
        self._detach = detach

    async def __aenter__(self) -> Self:
        await self._runtime.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runtime.__aexit__(*exc)
        if self._detach is not None:
            self._detach()

    async def register(
        self, what: Registry | Definition, *, source: str | None = None
    ) -> list[TypeView]:
        """Make definitions known: by value, or by import path if ``source`` is module:attribute.

        Raises:
            InvalidDefinition: one cannot be shipped.
        """
        registry = what
        if isinstance(what, Definition):
            registry = Registry()
            registry.define(what.type, what)
        return await self._runtime.register(registry, source=source)  # type: ignore[arg-type]

    async def types(self) -> list[TypeView]:
        """The newest version of every definition."""
        return await self._runtime.types()

    async def spawn(
        self,
        address: str,
        *,
        args: Mapping[str, JSON] | None = None,
        tags: Mapping[str, str] | None = None,
        message: JSON = None,
        spawn_id: str | None = None,
    ) -> EntityView:
        """Create an entity, with a first message if one is given; durable when this returns.

        Raises:
            InvalidAddress, UnknownType, InvalidPayload, EntityExists: it is refused.
        """
        fields = {"args": dict(args or {}), "tags": dict(tags or {}), "spawn_id": spawn_id}
        if message is not None:
            fields["message"] = SendRequest(payload=message)
        return await self._runtime.spawn(Address.parse(address), _checked(SpawnRequest, fields))

    async def send(
        self,
        address: str,
        payload: JSON,
        *,
        type: str = "message",
        from_: str | None = None,
        id: str | None = None,
    ) -> Receipt:
        """Put a message into an inbox; durable when this returns. The same ``id`` again is one.

        Raises:
            InvalidAddress, UnknownEntity, EntityGone, InvalidPayload, PayloadTooLarge,
            BacklogFull, MessageConflict: it is refused.
        """
        request = _message(payload, type=type, from_=from_, id=id)
        return await self._runtime.send(Address.parse(address), request)

    async def ask(
        self,
        address: str,
        payload: JSON,
        *,
        within: timedelta = ASK_WITHIN,
        type: str = "message",
        from_: str | None = None,
        id: str | None = None,
    ) -> Reply:
        """Send, and return the reply to that message.

        Raises:
            AskTimedOut: no reply within ``within``; the message will still be handled.
            HandlerFailed: its wake was parked or skipped.
        """
        request = _message(payload, type=type, from_=from_, id=id)
        return await self._runtime.ask(Address.parse(address), request, within=within)

    def observe(self, address: str, *, offset: int = 0, live: bool = True) -> AsyncIterator[Event]:
        """The events from ``offset`` (-1: from now) on, live; it never wakes the entity."""
        return self._runtime.observe(Address.parse(address), offset=offset, live=live)

    async def inspect(self, address: str) -> EntityView:
        """One entity, as it is now.

        Raises:
            UnknownEntity: nobody ever lived there.
        """
        return await self._runtime.inspect(Address.parse(address))

    async def list(
        self,
        *,
        type: str | None = None,
        status: Status | str | None = None,
        parent: str | None = None,
        tag: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Some entities, by address; go on with the page's ``cursor``."""
        fields = {
            "type": type,
            "status": status,
            "parent": parent,
            "tag": tag,
            "limit": limit,
            "cursor": cursor,
        }
        return await self._runtime.list(_checked(ListQuery, fields))

    async def kill(self, address: str, *, reason: str | None = None) -> None:
        """End the entity's life; its log remains readable."""
        await self._runtime.kill(Address.parse(address), reason=reason)

    async def retry(self, address: str, *, wake: str | None = None) -> int:
        """Run parked wakes again, one or all; how many."""
        return await self._runtime.retry(Address.parse(address), wake=wake)

    async def skip(self, address: str, *, wake: str | None = None) -> int:
        """Give parked wakes up, one or all; how many."""
        return await self._runtime.skip(Address.parse(address), wake=wake)


class Client:
    """The verbs, blocking: :class:`AsyncClient` on an event loop in a thread of its own."""

    def __init__(self, runtime: Runtime, detach: Detach | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="ray-agents-client", daemon=True
        )
        self._thread.start()
        self._detach = detach
        self._client = AsyncClient(runtime)
        self._closed = False
        try:
            self._do(self._client.__aenter__())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go; twice is harmless. A runtime embedded in this process seals and ends."""
        if self._closed:
            return
        self._closed = True
        try:
            asyncio.run_coroutine_threadsafe(
                self._client.__aexit__(None, None, None), self._loop
            ).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            if self._detach is not None:
                self._detach()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def register(self, what: Registry | Definition, *, source: str | None = None) -> list[TypeView]:
        """See :meth:`AsyncClient.register`."""
        return self._do(self._client.register(what, source=source))

    def types(self) -> list[TypeView]:
        """See :meth:`AsyncClient.types`."""
        return self._do(self._client.types())

    def spawn(self, address: str, **options: Any) -> EntityView:
        """See :meth:`AsyncClient.spawn`."""
        return self._do(self._client.spawn(address, **options))

    def send(self, address: str, payload: JSON, **options: Any) -> Receipt:
        """See :meth:`AsyncClient.send`."""
        return self._do(self._client.send(address, payload, **options))

    def ask(self, address: str, payload: JSON, **options: Any) -> Reply:
        """See :meth:`AsyncClient.ask`."""
        return self._do(self._client.ask(address, payload, **options))

    def observe(self, address: str, *, offset: int = 0, live: bool = True) -> Iterator[Event]:
        """See :meth:`AsyncClient.observe`; closing the iterator ends it."""
        events = self._client.observe(address, offset=offset, live=live)
        try:
            while True:
                try:
                    yield self._do(_next(events))
                except StopAsyncIteration:
                    return
        finally:
            self._do(_close(events))

    def inspect(self, address: str) -> EntityView:
        """See :meth:`AsyncClient.inspect`."""
        return self._do(self._client.inspect(address))

    def list(self, **query: Any) -> Page:
        """See :meth:`AsyncClient.list`."""
        return self._do(self._client.list(**query))

    def kill(self, address: str, *, reason: str | None = None) -> None:
        """See :meth:`AsyncClient.kill`."""
        self._do(self._client.kill(address, reason=reason))

    def retry(self, address: str, *, wake: str | None = None) -> int:
        """See :meth:`AsyncClient.retry`."""
        return self._do(self._client.retry(address, wake=wake))

    def skip(self, address: str, *, wake: str | None = None) -> int:
        """See :meth:`AsyncClient.skip`."""
        return self._do(self._client.skip(address, wake=wake))


def _message(payload: JSON, **fields: Any) -> SendRequest:
    return _checked(SendRequest, {"payload": payload, **fields})


def _checked(model: type[R], fields: Mapping[str, Any]) -> R:
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidPayload(f"{field!r} cannot be that: {first['msg']}", field=field) from error


async def _next(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


async def _close(events: Any) -> None:
    async with aclosing(events):
        pass
