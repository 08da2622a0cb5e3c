"""A small HTTP server in this process, on a loopback port of its own: what the stand-ins share.

A server that streams by script must know when its caller has left, and end in an instant when its
test does; both are settled here.
"""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.responses import Response

LEAVE_SECONDS_MAX = 0.1  # for callers to be gone once the server is told to end
LOOK_SECONDS = 0.002  # between two looks whether they are


class LoopbackServer(ABC):
    """Serves what :meth:`app` gives, from ``async with`` to its end. Port 0 chooses a free one."""

    def __init__(self, *, port: int = 0) -> None:
        self._port = port
        self._server: Any = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Its address, for ``base_url``."""
        return f"http://127.0.0.1:{self._port}"

    @abstractmethod
    def app(self) -> Starlette:
        """The ASGI application."""

    async def __aenter__(self) -> Self:
        import uvicorn

        listening = socket.create_server(("127.0.0.1", self._port))
        # Inherited by its connections. asyncio sets it only where a socket says IPPROTO_TCP, which
        # create_server leaves out; without it each answer waits 40 ms for a delayed ACK.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = listening.getsockname()[1]
        config = uvicorn.Config(self.app(), log_level="critical", lifespan="off", ws="none")
        self._server = quiet_server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._serving is not None:
            self._server.force_exit = True
            self._server.leave()
            await self._serving

    async def serve_forever(self) -> None:
        """Return when the server has ended."""
        if self._serving is not None:
            await asyncio.shield(self._serving)


def quiet_server(config: Any) -> Any:
    """A uvicorn server that ends when ``leave()`` is called, at once, and leaves signals alone.

    Uvicorn's own looks every 0.1 s whether it is to end, and then gives connections 0.1 s.
    """
    import uvicorn

    class Server(uvicorn.Server):
        def __init__(self) -> None:
            super().__init__(config)
            self._leaving = asyncio.Event()

        def leave(self) -> None:
            self.should_exit = True
            self._leaving.set()

        def capture_signals(self) -> Any:
            return nullcontext()

        async def main_loop(self) -> None:
            await self.on_tick(0)
            await self._leaving.wait()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for listening in (*self.servers, *(sockets or ())):
                listening.close()
            state = self.server_state
            for connection in list(state.connections):
                connection.shutdown()
            within = LEAVE_SECONDS_MAX if self.force_exit else config.timeout_graceful_shutdown
            await _ended(state, within)
            if not self.force_exit:
                await self.lifespan.shutdown()

    return Server()


async def _ended(state: Any, within: float | None) -> None:
    """Return when no caller is there any more; after ``within`` seconds, end what still answers."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            while state.connections or state.tasks:  # noqa: ASYNC110 - uvicorn tells of neither
                await asyncio.sleep(LOOK_SECONDS)
    for task in state.tasks:
        task.cancel()


def json_answer(
    content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """One JSON document."""
    from starlette.responses import JSONResponse

    return JSONResponse(content, status_code=status, headers=headers)


def streamed_answer(chunks: AsyncIterator[bytes], *, ended: Callable[[], None]) -> Response:
    """Server-sent events; ``ended`` is called once, however it ends: caller gone, too."""
    from starlette.responses import StreamingResponse

    class Streamed(StreamingResponse):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            try:
                await super().__call__(scope, receive, send)
            finally:
                ended()

    return Streamed(chunks, media_type="text/event-stream")
