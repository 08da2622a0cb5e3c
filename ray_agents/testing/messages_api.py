"""A stand-in Messages API server: wire level, so that the real SDK cannot tell the difference.

It streams, calls tools, thinks, counts tokens, refuses and breaks off by script, and checks every
request by the provider's rules (:mod:`ray_agents.testing.rules`). In a test::

    async with MessagesApi(script=["Hello!"]) as api:
        ...  # ModelSettings(base_url=api.url); api.calls afterwards

As a process, for the demo without a key; its address is the first line it prints::

    python -m ray_agents.testing.messages_api --port 0
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from ray_agents.testing.assistant import assistant
from ray_agents.testing.rules import RuleBroken, check_request
from ray_agents.testing.script import Answer, Body, Refusal, Script, Step
from ray_agents.testing.wire import Frame, encoded, error_of, message_of, stream_of, tokens_in

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

WORD_DELAY = timedelta(milliseconds=15)
CALLS_KEPT_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that reached the server, and the status it got."""

    body: Body
    headers: Mapping[str, str]
    status: int


class MessagesApi:
    """The server, in this process, on a loopback port of its own.

    ``script`` is a list of steps, one per accepted call, or a function of the request's body.
    ``api_key`` is the only key it takes; None takes any, but there must be one.
    """

    def __init__(
        self,
        script: Script = assistant,
        *,
        port: int = 0,
        api_key: str | None = None,
        word_delay: timedelta = timedelta(0),
    ) -> None:
        self._script = script
        self._port = port
        self._api_key = api_key
        self._word_delay = word_delay
        self._answers = 0
        self._server: Any = None
        self._serving: asyncio.Task[None] | None = None
        self.calls: list[Call] = []

    @property
    def url(self) -> str:
        """Its address, for ``base_url``."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        import uvicorn

        listening = socket.create_server(("127.0.0.1", self._port))
        # Inherited by its connections. asyncio sets it only where a socket says IPPROTO_TCP, which
        # create_server leaves out; without it each answer waits 40 ms for a delayed ACK.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = listening.getsockname()[1]
        config = uvicorn.Config(self.app(), log_level="critical", lifespan="off", ws="none")
        self._server = _quiet_server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._serving is not None:
            self._server.should_exit = True
            self._server.force_exit = True
            await self._serving

    async def serve_forever(self) -> None:
        """Return when the server has ended."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

    def app(self) -> Starlette:
        """The ASGI application."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"]),
            ]
        )

    async def _count_tokens(self, request: Request) -> Response:
        body = await request.json()
        return _json({"input_tokens": tokens_in(body)})

    async def _messages(self, request: Request) -> Response:
        body = await request.json()
        step = self._decide(request.headers, body)
        status = step.status if isinstance(step, Refusal) else 200
        if len(self.calls) < CALLS_KEPT_MAX:
            self.calls.append(Call(body=body, headers=dict(request.headers), status=status))
        if isinstance(step, Refusal):
            return _refused(step)
        self._answers += 1
        message = message_of(step, body, number=self._answers)
        if not body.get("stream"):
            return _json(message)
        return _streamed(self._speak(step, message))

    def _decide(self, headers: Mapping[str, str], body: Body) -> Answer | Refusal:
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if not key or (self._api_key is not None and key != self._api_key):
            return Refusal(status=401, kind="authentication_error", message="invalid x-api-key")
        try:
            check_request(body)
        except RuleBroken as error:
            return Refusal(status=400, kind="invalid_request_error", message=str(error))
        step = self._next(body)
        return Answer(text=step) if isinstance(step, str) else step

    def _next(self, body: Body) -> Step:
        if callable(self._script):
            return self._script(body)
        at = len([call for call in self.calls if call.status not in (400, 401)])
        if at < len(self._script):
            return self._script[at]
        return Refusal(status=400, kind="invalid_request_error", message="the script is at its end")

    async def _speak(self, answer: Answer, message: Frame) -> AsyncIterator[bytes]:
        """The stream, at the speed and with the accident that the script asks for."""
        delay = (
            self._word_delay if answer.word_delay is None else answer.word_delay
        ).total_seconds()
        for sent, frame in enumerate(stream_of(message)):
            if sent == answer.fails_after:
                yield encoded(error_of("overloaded_error", "Overloaded"))
                return
            if sent == answer.breaks_after:
                raise ConnectionResetError("broken off by script")
            if delay and frame["type"] == "content_block_delta":
                await asyncio.sleep(delay)
            yield encoded(frame)


def _quiet_server(config: Any) -> Any:
    """A uvicorn server that leaves this process's signal handlers alone."""
    import contextlib

    import uvicorn

    class Server(uvicorn.Server):
        def capture_signals(self) -> Any:
            return contextlib.nullcontext()

    return Server(config)


def _json(
    content: Frame, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(content, status_code=status, headers=headers)


def _refused(refusal: Refusal) -> Response:
    headers: dict[str, str] = {}
    if refusal.retry_after is not None:
        seconds = refusal.retry_after.total_seconds()
        headers = {"retry-after": f"{seconds:g}", "retry-after-ms": f"{seconds * 1000:g}"}
    content = error_of(refusal.kind, refusal.message)
    return _json(content, status=refusal.status, headers=headers)


def _streamed(chunks: AsyncIterator[bytes]) -> Response:
    from starlette.responses import StreamingResponse

    return StreamingResponse(chunks, media_type="text/event-stream")


async def _main(port: int, word_delay: timedelta) -> None:
    async with MessagesApi(port=port, word_delay=word_delay) as api:
        print(api.url, flush=True)  # noqa: T201 -- whoever started us reads it
        await api.serve_forever()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A stand-in for the Messages API, on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 chooses a free one")
    parser.add_argument(
        "--word-delay-ms", type=float, default=WORD_DELAY.total_seconds() * 1000, help="per word"
    )
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(_main(options.port, timedelta(milliseconds=options.word_delay_ms)))


if __name__ == "__main__":
    main()
