"""What stands before every route: the bearer token, the limit on a body's size, what a route takes.

The first two are plain ASGI layers: Starlette's ``BaseHTTPMiddleware`` would stand between a stream
and the news that its client has gone. The third depends on the route.
"""

from __future__ import annotations

import hmac

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ray_agents.errors import InvalidPayload, PayloadTooLarge, RayAgentsError, Unauthorized
from serve.problem import answer

OPEN_PATHS = frozenset({"/healthz"})
STREAMED_PATHS = frozenset({"/v1/imports"})  # their routes read, and limit, what they are sent


class BearerToken:
    """Lets a request pass that carries the token; all may pass if there is none."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._expected = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or let it pass (ASGI)."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._allows(scope):
            await self._app(scope, receive, send)
            return
        message = (
            "this control API needs a bearer token; send the header `Authorization: Bearer …` "
            "(on the machine that runs `ray-agents start` it is in the store's file 'token')"
        )
        await answer(Unauthorized(message))(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        if self._expected is None:
            return True
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # Compared in constant time, or the answer's delay would tell the token byte by byte.
        fits = hmac.compare_digest(given.strip().encode(), self._expected)
        return fits and scheme.lower() == "bearer" and self._expected != b""


class BodyLimit:
    """Reads a body before the route does, and no further than the limit."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or let it pass (ASGI)."""
        if scope["type"] != "http" or scope["path"] in STREAMED_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            self._check_announced(Headers(scope=scope).get("content-length"))
            body = (
                await self._read(receive) if scope["method"] in ("POST", "PUT", "PATCH") else None
            )
        except RayAgentsError as error:
            await answer(error)(scope, receive, send)
            return
        await self._app(scope, receive if body is None else _replay(body, receive), send)

    def _check_announced(self, length: str | None) -> None:
        if length is not None and not length.isdecimal():
            raise InvalidPayload(f"'content-length': {length!r} is not a size")
        if length is not None and int(length) > self._bytes_max:
            raise self._too_large()

    async def _read(self, receive: Receive) -> list[Message]:
        messages: list[Message] = []
        size = 0
        more = True
        while more:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self._bytes_max:
                raise self._too_large()
            more = message.get("more_body", False)
        return messages

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body is larger than {self._bytes_max!r} bytes; send less, or raise "
            "RAY_AGENTS_BODY_BYTES_MAX",
            bytes_max=self._bytes_max,
        )


def known_parts_only(request: Request) -> None:
    """Refuse a query parameter or a body that the route has no use for: it would be ignored.

    Raises:
        InvalidPayload: there is one; the message has the names that there are.
    """
    if not request.query_params and not _has_body(request):
        return
    path = request.app.openapi()["paths"][request.scope["route"].path_format]
    told = path[request.method.lower()]
    known = sorted(each["name"] for each in told.get("parameters", ()) if each["in"] == "query")
    takes, what = ", ".join(known) or "none", f"{request.method} {request.url.path!r}"
    for name in request.query_params:
        if name not in known:
            shown = name[:40]
            message = f"'query': {what} has no parameter {shown!r}; it takes {takes}"
            message += ": write it in the JSON body" if "requestBody" in told else ""
            raise InvalidPayload(message, field=f"query.{shown}")
    if "requestBody" not in told and _has_body(request):
        message = f"'body': {what} takes no body; its query parameters are: {takes}"
        raise InvalidPayload(message, field="body")


def _has_body(request: Request) -> bool:
    length = request.headers.get("content-length", "0")
    return length != "0" or "transfer-encoding" in request.headers


def _replay(read: list[Message], receive: Receive) -> Receive:
    waiting = list(reversed(read))

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
