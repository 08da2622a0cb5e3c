"""Whole files over HTTP: an export as it is made, and an import as it arrives."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from starlette.status import HTTP_201_CREATED

from ray_agents.address import Address
from ray_agents.errors import PayloadTooLarge
from ray_agents.views import EntityView
from serve.routes import AnyRuntime, At

ARROW_FILE = "application/vnd.apache.arrow.file"
IMPORT_BYTES_MAX = 64 * 1024**3  # the disk's own end comes before it on most machines
A_FILE = {"content": {ARROW_FILE: {"schema": {"type": "string", "format": "binary"}}}}
To = Annotated[str | None, Query(max_length=256, description="another name for the one entity")]

imports = APIRouter(prefix="/v1", tags=["export and import"])


@imports.get(
    "/entities/{type}/{id}/export", response_class=StreamingResponse, responses={200: A_FILE}
)
async def export(at: At, runtime: AnyRuntime, *, children: bool = False) -> StreamingResponse:
    """The entity, and with ``children`` all that descend from it, as one Arrow file."""
    chunks: Any = runtime.export(at, children=children)
    first = await anext(chunks, b"")  # asked for first: what cannot be exported is no broken stream
    name = f"{at.type}-{at.id}.arrow"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_whole(first, chunks), media_type=ARROW_FILE, headers=headers)


async def _whole(first: bytes, rest: Any) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


@imports.post(
    "/imports",
    status_code=HTTP_201_CREATED,
    openapi_extra={"requestBody": {"required": True, **A_FILE}},
)
async def import_(request: Request, runtime: AnyRuntime, to: To = None) -> list[EntityView]:
    """Make the entities of an exported file, which is the request's body."""
    address = None if to is None else Address.parse(to)
    return await runtime.import_(_bounded(request.stream()), to=address)


async def _bounded(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > IMPORT_BYTES_MAX:
            message = f"the file is larger than {IMPORT_BYTES_MAX} bytes; import it in parts"
            raise PayloadTooLarge(message, bytes_max=IMPORT_BYTES_MAX)
        yield chunk
