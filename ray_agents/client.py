"""The Python door: ``connect()`` and the verbs, blocking or async, the same everywhere.

    with connect() as client:
        client.register(registry)
        client.spawn("/assistant/ada")
        print(client.ask("/assistant/ada", "Hello").text)

``connect()`` finds the runtime that ``ray-agents start`` left running for this store, or starts a
local Ray that ends with this process; ``connect("http://…")`` speaks to a control API.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from ray_agents.address import Address
from ray_agents.budgets import Budget
from ray_agents.cluster.blocking import Blocking, closed
from ray_agents.decisions import AsyncDecisions, Decisions
from ray_agents.definition import Definition, Registry
from ray_agents.errors import InvalidSetting, RuntimeUnavailable
from ray_agents.events import JSON, Event
from ray_agents.modes import Mode
from ray_agents.ports import Runtime
from ray_agents.requests import (
    ForkRequest,
    ListQuery,
    SendRequest,
    SpawnRequest,
    checked,
    message_of,
    seconds_of,
    share_of,
)
from ray_agents.settings import Settings, from_env
from ray_agents.views import (
    CostBy,
    CostLine,
    EntityView,
    ExportView,
    Interrupted,
    Page,
    Receipt,
    Reply,
    StateView,
    Status,
    TypeView,
)

ASK_WITHIN = timedelta(minutes=1)
Detach = Callable[[], None]
Cost = Callable[..., Awaitable[list[CostLine]]] | None
Where = str | PathLike[str]


def connect(url: str | None = None, *, settings: Settings | None = None) -> Client:
    """A blocking client; use it in a ``with`` block or close it.

    Args:
        url: a control API, ``http://host:port``; None finds or starts a runtime here.
        settings: None reads the environment (``RAY_AGENTS_*``).

    Raises:
        RuntimeUnavailable: nothing answers there, or Ray does not start.
        InvalidSetting: ``url`` is no URL.
        StoreUnavailable: the store's directory cannot be used.
    """
    return Client(*_prepare(url, settings))


def connect_async(url: str | None = None, *, settings: Settings | None = None) -> AsyncClient:
    """As :func:`connect`, for ``async with``; it blocks while it joins or starts Ray."""
    return AsyncClient(*_prepare(url, settings))


def connect_runtime(settings: Settings) -> Runtime:
    """The bare runtime that ``settings`` name; Serve's replicas and tests use it."""
    return _prepare(settings.url, settings)[0]


def replica_settings() -> Settings:
    """The settings of the Serve replica this process is; its first call, before Serve listens.

    Raises:
        InvalidSetting: a variable does not fit, or the token file cannot be read.
    """
    from ray_agents.cluster.replica import begin_replica

    return begin_replica()


def registry_at(source: str) -> Registry:
    """The registry at ``module:attribute``, as its file is now; Serve's replicas use it.

    Raises:
        InvalidDefinition: it cannot be imported, or is no Registry; the message says which.
    """
    from ray_agents.cluster.shipping import import_registry

    return import_registry(source)


def _prepare(url: str | None, settings: Settings | None) -> tuple[Runtime, Detach, Cost]:
    chosen = settings or from_env(os.environ)
    address = url or chosen.url
    if address is not None:
        if not _is_url(address):
            message = f"{address!r} is no control API; write http://host:port"
            raise InvalidSetting(message, variable="RAY_AGENTS_URL")
        from ray_agents.cluster.running import token_for
        from ray_agents.http.runtime import HttpRuntime

        remote = HttpRuntime(address, token_for(chosen, address))
        return remote, _nothing, remote.cost
    from ray_agents.cluster.attach import ClusterRuntime, attach
    from ray_agents.tables.cost import cost_in

    attachment = attach(chosen)
    runtime = ClusterRuntime(chosen, attachment)
    return runtime, attachment.detach, partial(cost_in, chosen.store)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:  # a port that is none, or half an IPv6 address
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _nothing() -> None:
    """What remains to be done when a client of a control API closes."""


class AsyncClient(AsyncDecisions):
    """The verbs as coroutines; enter it with ``async with``, once."""

    def __init__(self, runtime: Runtime, detach: Detach = _nothing, cost: Cost = None) -> None:
        self._cost = cost
        self._entered: Runtime | None = None
        self._unentered: Runtime | None = runtime
        self._detach = detach

    async def __aenter__(self) -> Self:
        runtime, self._unentered = self._unentered, None
        if runtime is None:
            raise closed()
        try:
            self._entered = await runtime.__aenter__()
        except BaseException:
            self._detach()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        runtime, self._entered = self._entered, None
        if runtime is None:
            return
        try:
            await runtime.__aexit__(*exc)
        finally:
            self._detach()

    @property
    def _runtime(self) -> Runtime:
        if self._entered is None:
            raise closed() if self._unentered is None else _not_entered()
        return self._entered

    async def register(
        self, what: Registry | Definition, *, source: str | None = None
    ) -> list[TypeView]:
        """Make definitions known: by value, or by import path if ``source`` is module:attribute.

        Raises:
            InvalidDefinition: one cannot be shipped.
        """
        registry = what if isinstance(what, Registry) else Registry()
        if isinstance(what, Definition):
            registry.define(what.type, what)
        return await self._runtime.register(registry, source=source)

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
        budget: Budget | None = None,
        spawn_id: str | None = None,
    ) -> EntityView:
        """Create an entity, with a first message if one is given; durable when this returns.

        ``budget`` bounds what it spends in this life, with all that descend from it.

        Raises:
            InvalidAddress, UnknownType, InvalidPayload, EntityExists: it is refused.
        """
        fields: dict[str, Any] = {"args": dict(args or {}), "tags": dict(tags or {})}
        fields |= {"spawn_id": spawn_id, "budget": share_of(budget)}
        if message is not None:
            fields["message"] = SendRequest(payload=message)
        return await self._runtime.spawn(Address.parse(address), checked(SpawnRequest, fields))

    async def send(
        self,
        address: str,
        payload: JSON,
        *,
        type: str = "message",
        from_: str | None = None,
        id: str | None = None,
        after: timedelta | None = None,
        mode: Mode | str = Mode.QUEUED,
    ) -> Receipt:
        """Put a message into an inbox; durable when this returns. The same ``id`` again is one.

        With ``after`` it enters the inbox that much later; the entity may sleep, and everything
        may crash and come back, meanwhile. ``mode`` says how it meets a wake that runs then:
        ``queued``, ``steer`` or ``immediate``, see :mod:`ray_agents.modes`.

        Raises:
            InvalidAddress, UnknownEntity, EntityGone, InvalidPayload, PayloadTooLarge,
            BacklogFull, MessageConflict: it is refused.
        """
        request = message_of(
            payload, type=type, from_=from_, id=id, after_seconds=seconds_of(after), mode=mode
        )
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
        mode: Mode | str = Mode.QUEUED,
    ) -> Reply:
        """Send, and return the reply to that message; ``mode`` is as for :meth:`send`.

        Raises:
            AskTimedOut: no reply within ``within``; the message will still be handled.
            HandlerFailed: its wake was parked or skipped.
        """
        request = message_of(payload, type=type, from_=from_, id=id, mode=mode)
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

    async def state(self, address: str, *, at: int | None = None) -> StateView:
        """One entity as it was when its log ended at the offset ``at``, or as it is now.

        Its collections, tags and what it had left to do; it wakes nobody.

        Raises:
            UnknownEntity: nobody lived there then.
            UnknownOffset: the log does not reach so far.
        """
        return await self._runtime.state(Address.parse(address), at=at)

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
        which = {"type": type, "status": status, "parent": parent, "tag": tag}
        page = {"limit": limit, "cursor": cursor}
        return await self._runtime.list(checked(ListQuery, which | page))

    async def fork(
        self, address: str, to: str, *, at: int | None = None, fork_id: str | None = None
    ) -> EntityView:
        """Make the entity ``to`` of the rows of ``address`` with an offset below ``at``, or of all.

        It goes on by itself: what the source has left to do (unhandled messages, delayed ones,
        the outbox) remains the source's. Durable when this returns; it wakes nobody.

        Raises:
            UnknownEntity, EntityGone, UnknownOffset, EntityExists, InvalidAddress: it is refused.
        """
        fields = {"to": to, "at": at, "fork_id": fork_id}
        return await self._runtime.fork(Address.parse(address), checked(ForkRequest, fields))

    async def export(self, address: str, path: Where, *, children: bool = False) -> ExportView:
        """Write an entity, with all that descend from it if asked, into one Arrow file at ``path``.

        It is whole, verified and synced when this returns; what was there before is replaced then.

        Raises:
            UnknownEntity: nobody ever lived there.
            StoreUnavailable: the file cannot be written.
        """
        from ray_agents.log.exportpath import save

        chunks: Any = self._runtime.export(Address.parse(address), children=children)
        async with aclosing(chunks):
            return await save(chunks, Path(path))

    async def import_(self, path: Where, *, to: str | None = None) -> builtins.list[EntityView]:
        """Make the entities in an exported file, at their addresses; one alone may be named ``to``.

        Data is taken over, what was left to do is not, as in a fork. Durable when this returns; it
        wakes nobody. The same file again goes on where an import broke off.

        Raises:
            EntityExists: an address is taken; then nothing has been made.
            CorruptLog, InvalidPayload, InvalidAddress, StoreUnavailable: it cannot be taken in.
        """
        from ray_agents.log.exportpath import pieces

        address = None if to is None else Address.parse(to)
        async with aclosing(pieces(Path(path))) as chunks:
            return await self._runtime.import_(chunks, to=address)

    async def kill(self, address: str, *, reason: str | None = None) -> None:
        """End the entity's life; its log remains readable."""
        await self._runtime.kill(Address.parse(address), reason=reason)

    async def interrupt(
        self, address: str, *, wake: str | None = None, reason: str | None = None
    ) -> Interrupted:
        """Stop what runs: the model call, the tools, then the handler. Wakes nobody.

        The wake counts as handled and does not go on, not even after a crash right now. One that
        waits for approval is ended, too. Where the answer is lost on its way, the same interrupt
        is made again and stops nothing more; if nothing had run the first time, what runs by then
        is stopped: give ``wake`` if that matters.

        Args:
            address: whose.
            wake: the key of the only wake that is meant; whichever runs, if not given.
            reason: why; it stands in the log.

        Returns:
            Which wake it was; ``interrupted`` is False if none ran, or another one.

        Raises:
            UnknownEntity, EntityGone: nobody lives there.
        """
        return await self._runtime.interrupt(Address.parse(address), wake=wake, reason=reason)

    async def cost(
        self, *, by: CostBy = "type", since: datetime | None = None
    ) -> builtins.list[CostLine]:
        """What was spent, by type, entity, model, day or tree: see ``ray_agents.tables.cost``."""
        if self._cost is None:
            raise RuntimeUnavailable("costs are read from a store, and this client knows of none")
        return await self._cost(by=by, since=since)


class Client(Blocking[AsyncClient], Decisions):
    """The verbs, blocking: :class:`AsyncClient` on an event loop in a thread of its own.

    So it works in a notebook, whose own loop runs already. Calls may come from several threads.
    What is not closed is closed when the interpreter ends.
    """

    def __init__(self, runtime: Runtime, detach: Detach = _nothing, cost: Cost = None) -> None:
        super().__init__(AsyncClient(runtime, detach, cost), "ray-agents-client")

    @property
    def _decisions(self) -> AsyncDecisions:
        return self._client

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
        return self._each(self._client.observe(address, offset=offset, live=live))

    def inspect(self, address: str) -> EntityView:
        """See :meth:`AsyncClient.inspect`."""
        return self._do(self._client.inspect(address))

    def state(self, address: str, *, at: int | None = None) -> StateView:
        """See :meth:`AsyncClient.state`."""
        return self._do(self._client.state(address, at=at))

    def list(self, **query: Any) -> Page:
        """See :meth:`AsyncClient.list`."""
        return self._do(self._client.list(**query))

    def fork(self, address: str, to: str, **options: Any) -> EntityView:
        """See :meth:`AsyncClient.fork`."""
        return self._do(self._client.fork(address, to, **options))

    def export(self, address: str, path: Where, *, children: bool = False) -> ExportView:
        """See :meth:`AsyncClient.export`."""
        return self._do(self._client.export(address, path, children=children))

    def import_(self, path: Where, *, to: str | None = None) -> builtins.list[EntityView]:
        """See :meth:`AsyncClient.import_`."""
        return self._do(self._client.import_(path, to=to))

    def kill(self, address: str, *, reason: str | None = None) -> None:
        """See :meth:`AsyncClient.kill`."""
        self._do(self._client.kill(address, reason=reason))

    def interrupt(
        self, address: str, *, wake: str | None = None, reason: str | None = None
    ) -> Interrupted:
        """See :meth:`AsyncClient.interrupt`."""
        return self._do(self._client.interrupt(address, wake=wake, reason=reason))

    def cost(self, **options: Any) -> builtins.list[CostLine]:
        """See :meth:`AsyncClient.cost`."""
        return self._do(self._client.cost(**options))


def _not_entered() -> RuntimeUnavailable:
    return RuntimeUnavailable("this client is not open yet: `async with connect_async() as client`")
