"""Every failure as one shape, ``application/problem+json`` (RFC 9457).

``type`` is the error's class name, by which ``HttpRuntime`` raises the same error at the other
end; ``facts`` are its attributes. Failures that are HTTP's own (no such route, wrong method) have
the type ``about:blank``.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ray_agents.errors import InvalidPayload, RayAgentsError, Unauthorized

MEDIA_TYPE = "application/problem+json"
BLANK = "about:blank"
_TEXT = {"type": "string"}
TOLD: dict[int | str, dict[str, Any]] = {  # of every route, for /openapi.json
    "default": {
        "description": "A failure, by its type: `InvalidPayload` (422), `UnknownEntity` (404), …",
        "content": {
            MEDIA_TYPE: {
                "schema": {
                    "type": "object",
                    "required": ["type", "title", "status", "detail", "facts"],
                    "properties": {
                        "type": _TEXT,
                        "title": _TEXT,
                        "status": {"type": "integer"},
                        "detail": _TEXT,
                        "facts": {"type": "object"},
                    },
                }
            }
        },
    }
}
RETRY_SECONDS = "1"
DETAIL_LENGTH_MAX = 2_000
_BUSY = frozenset({429, 503})
log = logging.getLogger("ray_agents.serve")


def problem_of(error: RayAgentsError) -> dict[str, Any]:
    """``error`` as the members of a problem document."""
    return {
        "type": error.slug,
        "title": title_of(type(error)),
        "status": error.status,
        "detail": error.message[:DETAIL_LENGTH_MAX],
        "facts": error.facts,
    }


def title_of(kind: type[RayAgentsError]) -> str:
    """What an error of that kind is: the first line of its docstring, as plain text."""
    return (kind.__doc__ or kind.__name__).splitlines()[0].replace("``", "")


def response_of(problem: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """A problem document as a response."""
    return Response(
        to_json(problem, fallback=str),
        status_code=problem["status"],
        media_type=MEDIA_TYPE,
        headers=dict(headers or {}),
    )


def answer(error: RayAgentsError) -> Response:
    """The response to ``error``."""
    headers: dict[str, str] = {}
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = 'Bearer realm="ray-agents"'
    if error.status in _BUSY:
        headers["retry-after"] = RETRY_SECONDS
    return response_of(problem_of(error), headers)


def install(app: FastAPI) -> None:
    """Make ``app`` answer every expected failure with a problem document."""
    app.add_exception_handler(RayAgentsError, _on_ours)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


async def _on_ours(_request: Request, error: Exception) -> Response:
    return answer(cast("RayAgentsError", error))


async def _on_http(request: Request, error: Exception) -> Response:
    error = cast("HTTPException", error)
    detail = f"{request.method} {request.url.path!r}: {error.detail}; see /openapi.json"
    return response_of(_blank(error.status_code, detail), error.headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    first = cast("RequestValidationError", error).errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    told = first["msg"]
    if first["type"] == "json_invalid":
        field, told = "body", f"it is not JSON: {first.get('ctx', {}).get('error', told)}"
    elif field == "body" and not _says_json(request):
        told = "send it as JSON, with the header content-type: application/json"
    return answer(InvalidPayload(f"{field!r}: {told}", field=field))


def _says_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().endswith("json")


def _blank(status: int, detail: str) -> dict[str, Any]:
    title = HTTPStatus(status).phrase
    return {"type": BLANK, "title": title, "status": status, "detail": detail, "facts": {}}


class Unexpected:
    """The outermost layer: what nobody expected is logged with an id, and only the id is told."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:
            if scope["type"] != "http":
                raise
            failure = secrets.token_hex(8)
            log.exception("failure %s in %s %s", failure, scope["method"], scope["path"])
            if started:
                raise  # half an answer is out: all that is left is to cut it off
            detail = f"an unexpected failure; the server's log tells more under the id {failure!r}"
            await response_of(_blank(500, detail) | {"id": failure})(scope, receive, send)
