"""Recorded exchanges: what a provider's server said once, said again without it.

A recording is a file of JSON lines, one exchange each: the request as the SDK sent it, without
keys, and the answer as it came, chunk by chunk. It works on the wire, so the SDK and our adapter
run as they do against the real server, of whatever provider::

    async with Recording("calls.jsonl", upstream="https://api.anthropic.com") as server:
        ...  # ModelSettings(base_url=server.url, api_key=…): asked and written down
    async with Recording("calls.jsonl") as server:
        ...  # the same run, without a key: the same answers, in the same order

An unknown request is refused, and the refusal says in what it differs from the nearest one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from ray_agents.errors import AuthorError
from ray_agents.models.permission import check_permission
from ray_agents.testing.loopback import LoopbackServer, json_answer, streamed_answer

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

KEPT_HEADERS = frozenset({"content-type", "retry-after", "retry-after-ms", "x-should-retry"})
FORWARDED_HEADERS = frozenset(
    {"x-api-key", "authorization", "anthropic-version", "anthropic-beta", "content-type"}
)
UPSTREAM_SILENCE_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and its answer; ``chunks`` is the body as text, as it arrived."""

    path: str
    request: Any
    status: int
    headers: Mapping[str, str]
    chunks: Sequence[str]


class Recording(LoopbackServer):
    """A server on loopback that records what ``upstream`` says, or replays it without one.

    Raises:
        AuthorError: when opened to replay, if there is no such recording.
        ModelUnavailable: when opened to record, if real model calls are forbidden.
    """

    def __init__(self, path: str | Path, *, upstream: str | None = None, port: int = 0) -> None:
        super().__init__(port=port)
        self._path = Path(path)
        self._upstream = upstream
        self._exchanges: list[Exchange] = []
        self._replayed: set[int] = set()
        self._client: Any = None

    async def __aenter__(self) -> Self:
        import httpx

        if self._upstream is None:
            self._exchanges = await asyncio.to_thread(_read, self._path)
        else:
            check_permission(self._upstream, "a recording")
            await asyncio.to_thread(self._path.write_text, "", "utf-8")
            self._client = httpx.AsyncClient(timeout=UPSTREAM_SILENCE_SECONDS)
        return await super().__aenter__()

    async def __aexit__(self, *exc: object) -> None:
        await super().__aexit__(*exc)
        if self._client is not None:
            await self._client.aclose()

    def app(self) -> Starlette:
        """The ASGI application."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        answer = self._replay if self._upstream is None else self._record
        return Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])])

    async def _replay(self, request: Request) -> Response:
        path, body = request.url.path, await request.json()
        same = [
            index
            for index, each in enumerate(self._exchanges)
            if (each.path, each.request) == (path, body)
        ]
        left = [index for index in same if index not in self._replayed]
        if not left:
            return _unknown(self._why_not(path, body, times=len(same)))
        self._replayed.add(left[0])
        exchange = self._exchanges[left[0]]
        return _told(exchange.status, exchange.headers, _each(exchange.chunks))

    def _why_not(self, path: str, body: Any, *, times: int) -> str:
        where = f"the recording {str(self._path)!r}"
        if times:
            return f"{where} has this request {times} times, and it was asked once more"
        near = [each.request for each in self._exchanges if each.path == path]
        if not near:
            return f"{where} has no request for {path!r}; record it again"
        written = json.dumps(body)
        nearest = max(near, key=lambda each: _likeness(written, json.dumps(each)))
        differing = difference(nearest, body)
        return f"{where} has no such request; the nearest differs at {differing}; record it again"

    async def _record(self, request: Request) -> Response:
        path, body = request.url.path, await request.body()
        headers = {k: v for k, v in request.headers.items() if k in FORWARDED_HEADERS}
        asked = self._client.build_request(
            "POST", f"{self._upstream}{path}", content=body, headers=headers
        )
        answer = await self._client.send(asked, stream=True)
        kept = {k: v for k, v in answer.headers.items() if k in KEPT_HEADERS}
        chunks: list[str] = []

        async def passed_on() -> AsyncIterator[bytes]:
            try:
                async for text in answer.aiter_text():
                    chunks.append(text)
                    yield text.encode()
            finally:
                await answer.aclose()
            exchange = Exchange(
                path=path,
                request=json.loads(body),
                status=answer.status_code,
                headers=kept,
                chunks=chunks,
            )
            await asyncio.to_thread(_append, self._path, exchange)

        return _told(answer.status_code, kept, passed_on())


def difference(recorded: Any, asked: Any, at: str = "") -> str:
    """Where two JSON values differ first, and how: ``messages.2.content: 'a' became 'b'``."""
    if isinstance(recorded, dict) and isinstance(asked, dict):
        one, other = cast("dict[str, Any]", recorded), cast("dict[str, Any]", asked)
        for name in [*one, *(name for name in other if name not in one)]:
            if one.get(name) != other.get(name):
                return difference(one.get(name), other.get(name), f"{at}.{name}".lstrip("."))
    if isinstance(recorded, list) and isinstance(asked, list):
        these, those = cast("list[Any]", recorded), cast("list[Any]", asked)
        for index, (old, new) in enumerate(zip(these, those, strict=False)):
            if old != new:
                return difference(old, new, f"{at}.{index}")
        return f"{at}: {len(these)} became {len(those)} items"
    return f"{at}: {_short(recorded)} became {_short(asked)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).quick_ratio()


def _read(path: Path) -> list[Exchange]:
    if not path.exists():
        message = f"there is no recording {str(path)!r}; make it once, with upstream="
        raise AuthorError(message, path=str(path))
    lines = path.read_text("utf-8").splitlines()
    return [Exchange(**json.loads(line)) for line in lines if line]


def _append(path: Path, exchange: Exchange) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(exchange), ensure_ascii=False) + "\n")


async def _each(chunks: Sequence[str]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk.encode()


def _told(status: int, headers: Mapping[str, str], chunks: AsyncIterator[bytes]) -> Response:
    answer = streamed_answer(chunks, ended=lambda: None)
    answer.status_code = status
    for name, value in headers.items():
        answer.headers[name] = value
    return answer


def _unknown(message: str) -> Response:
    """A refusal that both SDKs read and nobody tries again."""
    error = {"type": "invalid_request_error", "message": message}
    return json_answer(
        {"type": "error", "error": error}, status=400, headers={"x-should-retry": "false"}
    )
