"""The verbs over HTTP: each route is one call of the Runtime and no decision of its own."""

from __future__ import annotations

import asyncio
import base64
import binascii
import importlib
from contextlib import aclosing
from datetime import timedelta
from hashlib import blake2b
from secrets import token_hex
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse, Response
from starlette.status import HTTP_201_CREATED, HTTP_202_ACCEPTED, HTTP_204_NO_CONTENT

from ray_agents.address import Address
from ray_agents.client import registry_at
from ray_agents.definition import Registry
from ray_agents.errors import InvalidDefinition, OffsetGone, RuntimeUnavailable
from ray_agents.events import JSON, wire_offset
from ray_agents.ports import Runtime
from ray_agents.requests import (
    DecisionRequest,
    ForkRequest,
    InterruptRequest,
    ListQuery,
    ParkedRequest,
    SendRequest,
    SpawnRequest,
)
from ray_agents.settings import Settings
from ray_agents.views import (
    ApprovalView,
    EntityView,
    Interrupted,
    Page,
    Receipt,
    Reply,
    StateView,
    TypeView,
)
from serve.schemas import (
    NOW,
    Count,
    Health,
    Limit,
    Offset,
    RegisterRequest,
    Seconds,
    parse_offset,
)
from serve.streams import MEDIA_TYPE as EVENT_STREAM
from serve.streams import EventStream

READY_WITHIN = timedelta(seconds=5)
ID_BYTES = 10
NEXT_OFFSET = "stream-next-offset"
UP_TO_DATE = "stream-up-to-date"

health = APIRouter(tags=["health"])
types = APIRouter(prefix="/v1/types", tags=["types"])
entities = APIRouter(prefix="/v1/entities", tags=["entities"])


def runtime_of(request: Request) -> Runtime:
    """The runtime that the app's lifespan has entered."""
    return cast("Runtime", request.app.state.runtime)


def settings_of(request: Request) -> Settings:
    """The settings the app was made with."""
    return cast("Settings", request.app.state.settings)


def address_of(type: str, id: str) -> Address:
    """The address in the path.

    Raises:
        InvalidAddress: it is none.
    """
    return Address.of(type, id)


AnyRuntime = Annotated[Runtime, Depends(runtime_of)]
AnySettings = Annotated[Settings, Depends(settings_of)]
At = Annotated[Address, Depends(address_of)]
AsOf = Annotated[
    int | None, Query(alias="at", ge=0, description="the end of what counts; absent: now")
]
Approval = Annotated[str, PathParameter(max_length=1_000, description="the tool call's id or key")]


@health.get("/healthz")
async def healthz() -> Health:
    """The process is up. Needs no token."""
    return Health()


@health.get("/readyz")
async def readyz(runtime: AnyRuntime) -> Health:
    """The runtime answers."""
    try:
        async with asyncio.timeout(READY_WITHIN.total_seconds()):
            await runtime.types()
    except TimeoutError as error:
        raise RuntimeUnavailable("the runtime does not answer; try again") from error
    return Health()


@types.get("")
async def list_types(runtime: AnyRuntime) -> list[TypeView]:
    """The newest version of every definition."""
    return await runtime.types()


@types.post("", status_code=HTTP_201_CREATED)
async def register(
    request: RegisterRequest, runtime: AnyRuntime, settings: AnySettings
) -> list[TypeView]:
    """Make definitions known, by import path."""
    if request.source is not None:
        registry = await asyncio.to_thread(registry_at, request.source)
    else:
        registry = await asyncio.to_thread(_unpickled, request.value, settings)
    return await runtime.register(registry, source=request.source)


def _unpickled(value: str | None, settings: Settings) -> Registry:
    if value is None or not settings.register_by_value or settings.token is None:
        raise InvalidDefinition(
            "definitions are registered by import path: give `source` as module:attribute "
            "(by value, which lets any token holder run code on the server, it takes "
            "RAY_AGENTS_REGISTER_BY_VALUE=1 and a token)"
        )
    cloudpickle: Any = importlib.import_module("cloudpickle")  # it ships no types
    try:
        found: Any = cloudpickle.loads(base64.b64decode(value, validate=True))
    except binascii.Error as error:
        raise InvalidDefinition(f"'value' is not base64: {error}") from error
    except Exception as error:  # unpickling runs the author's code, which may raise anything
        raise InvalidDefinition(f"'value' cannot be unpickled here: {error}") from error
    if not isinstance(found, Registry):
        raise InvalidDefinition(f"'value' is not a Registry but {found!r}")
    return found


@entities.get("")
async def list_entities(runtime: AnyRuntime, query: Annotated[ListQuery, Query()]) -> Page:
    """Some entities; ask again with ``cursor`` while it is not null."""
    return await runtime.list(query)


@entities.post("/{type}", status_code=HTTP_201_CREATED)
async def spawn_anywhere(
    *,
    type: str,
    runtime: AnyRuntime,
    request: Request,
    response: Response,
    body: SpawnRequest | None = None,
) -> EntityView:
    """Create an entity under a fresh id, which the answer and its Location tell.

    A ``spawn_id`` tells the id, so that the request repeated finds the entity it has made.
    """
    asked = body or SpawnRequest()
    address = Address.of(type, _fresh_id() if asked.spawn_id is None else _id_of(asked.spawn_id))
    response.headers["location"] = f"{request.url.path}/{address.id}"
    return await runtime.spawn(address, asked)


def _fresh_id() -> str:
    return token_hex(ID_BYTES)


def _id_of(spawn_id: str) -> str:
    return blake2b(spawn_id.encode(), digest_size=ID_BYTES).hexdigest()


@entities.put("/{type}/{id}", status_code=HTTP_201_CREATED)
async def spawn(at: At, runtime: AnyRuntime, body: SpawnRequest | None = None) -> EntityView:
    """Create the entity at this address."""
    return await runtime.spawn(at, body or SpawnRequest())


@entities.get("/{type}/{id}")
async def inspect(at: At, runtime: AnyRuntime) -> EntityView:
    """The entity as it is now."""
    return await runtime.inspect(at)


@entities.delete("/{type}/{id}", status_code=HTTP_204_NO_CONTENT)
async def kill(
    at: At,
    runtime: AnyRuntime,
    reason: Annotated[str | None, Query(max_length=1_000)] = None,
    life: Annotated[int | None, Query(ge=0, description="the one meant, as GET tells it")] = None,
) -> None:
    """End the entity's life; its log remains readable.

    One that names its ``life`` and is made again does not end one that was begun since.
    """
    await runtime.kill(at, reason=reason, life=life)


@entities.post("/{type}/{id}/messages", status_code=HTTP_202_ACCEPTED)
async def send(at: At, runtime: AnyRuntime, body: SendRequest) -> Receipt:
    """Put a message into the inbox; the answer says it is durable, and at which offset."""
    return await runtime.send(at, body)


@entities.post("/{type}/{id}/ask")
async def ask(at: At, runtime: AnyRuntime, body: SendRequest, within: Seconds = 60.0) -> Reply:
    """Send, and wait for the reply to that message."""
    return await runtime.ask(at, body, within=timedelta(seconds=within))


@entities.get("/{type}/{id}/state")
async def state(at: At, runtime: AnyRuntime, offset: AsOf = None) -> StateView:
    """The entity as it was when its log ended at an offset, or as it is now; it is not woken."""
    return await runtime.state(at, at=offset)


@entities.post("/{type}/{id}/fork", status_code=HTTP_201_CREATED)
async def fork(at: At, runtime: AnyRuntime, body: ForkRequest) -> EntityView:
    """A new entity of the rows of this one; neither wakes."""
    return await runtime.fork(at, body)


@entities.post("/{type}/{id}/interrupt")
async def interrupt(
    at: At, runtime: AnyRuntime, body: InterruptRequest | None = None
) -> Interrupted:
    """Stop what runs, or only the wake named; the answer says which that was, or that none was."""
    asked = body or InterruptRequest()
    return await runtime.interrupt(at, wake=asked.wake, reason=asked.reason, signal_id=asked.id)


@entities.post("/{type}/{id}/retry")
async def retry(at: At, runtime: AnyRuntime, body: ParkedRequest | None = None) -> Count:
    """Run parked wakes again, or only the one named."""
    return Count(wakes=await runtime.retry(at, wake=body.wake if body else None))


@entities.post("/{type}/{id}/skip")
async def skip(at: At, runtime: AnyRuntime, body: ParkedRequest | None = None) -> Count:
    """Give parked wakes up, or only the one named; one that waits for approval, if it is named."""
    return Count(wakes=await runtime.skip(at, wake=body.wake if body else None))


@entities.get("/{type}/{id}/approvals")
async def approvals(at: At, runtime: AnyRuntime) -> list[ApprovalView]:
    """The tool calls that wait for approval; the entity is not woken."""
    return list((await runtime.inspect(at)).approvals)


@entities.post("/{type}/{id}/approvals/{approval:path}")
async def decide(
    at: At, runtime: AnyRuntime, approval: Approval, body: DecisionRequest
) -> ApprovalView:
    """Approve or deny a tool call; durable with the answer. The same decision again is harmless.

    An id that several calls have is refused with 409 and their keys, one of which names the call.
    """
    return await runtime.decide(at, approval, body)


@entities.get(
    "/{type}/{id}/events",
    response_model=list[dict[str, Any]],
    responses={200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}},
)
async def events(
    *,
    at: At,
    runtime: AnyRuntime,
    settings: AnySettings,
    offset: Offset,
    limit: Limit = 100,
    live: Annotated[str | None, Query(pattern="^sse$")] = None,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Events from ``offset`` on: as JSON up to ``limit``, or live as server-sent events.

    The JSON answer's header ``stream-next-offset`` says where to go on.
    """
    if live is None and EVENT_STREAM not in accept:
        return await _page_of_events(runtime, at, offset=offset, limit=limit)
    # Asked before the stream begins: an unknown entity is a 404, not a broken stream.
    view = await runtime.inspect(at)
    if last_event_id:
        offset = parse_offset(last_event_id) + 1
    start = view.events if offset == NOW else offset
    OffsetGone.check(start, first=view.first, log=view.address)
    return EventStream(runtime, at, offset=start, heartbeat=settings.heartbeat)


async def _page_of_events(
    runtime: Runtime, at: Address, *, offset: int, limit: int
) -> JSONResponse:
    rows: list[dict[str, JSON]] = []
    coming = offset
    if offset == NOW:
        coming = (await runtime.inspect(at)).events
    else:
        reading = runtime.observe(at, offset=offset, live=False)
        async with aclosing(cast("Any", reading)):
            async for event in reading:
                rows.append(event.as_json())
                coming = event.offset + 1
                if len(rows) == limit:
                    break
    headers = {NEXT_OFFSET: wire_offset(coming), UP_TO_DATE: str(len(rows) < limit).lower()}
    return JSONResponse(rows, headers=headers)
