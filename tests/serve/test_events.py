"""Reading a log over HTTP: pages of JSON, and server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from ray_agents.address import Address
from ray_agents.requests import SpawnRequest
from ray_agents.settings import Settings
from serve.streams import EventStream
from tests.fake_runtime import FakeRuntime
from tests.serve.apps import app_over

AMY = Address.of("assistant", "amy")
EVENTS = "/v1/entities/assistant/amy/events"
SOON = timedelta(milliseconds=20)
Wait = Callable[..., Awaitable[object]]


@pytest.fixture
async def runtime() -> FakeRuntime:
    runtime = FakeRuntime()
    await runtime.spawn(AMY, SpawnRequest())
    await runtime.append(AMY, "a", "b", "c")
    return runtime


@pytest.fixture
async def api(runtime: FakeRuntime) -> AsyncIterator[httpx.AsyncClient]:
    app = app_over(runtime, Settings())
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://control") as client,
    ):
        yield client


def values(answer: httpx.Response) -> list[str]:
    return [row["value"] for row in answer.json()]


async def test_a_page_says_where_the_next_begins(api: httpx.AsyncClient) -> None:
    first = await api.get(EVENTS, params={"limit": 2})
    assert values(first) == ["a", "b"]
    assert first.headers["stream-up-to-date"] == "false"
    rest = await api.get(EVENTS, params={"offset": first.headers["stream-next-offset"]})
    assert values(rest) == ["c"]
    assert rest.headers["stream-next-offset"] == f"{0:016d}_{3:016d}"
    assert rest.headers["stream-up-to-date"] == "true"


async def test_an_offset_may_be_an_integer(api: httpx.AsyncClient) -> None:
    assert values(await api.get(EVENTS, params={"offset": 2})) == ["c"]


async def test_now_is_the_end(api: httpx.AsyncClient) -> None:
    answer = await api.get(EVENTS, params={"offset": "now"})
    assert answer.json() == []
    assert answer.headers["stream-next-offset"].endswith("_0000000000000003")


@pytest.mark.parametrize("offset", ["-1", "x", "1_2", "", "0" * 40, "½"])
async def test_what_is_no_offset_is_refused(api: httpx.AsyncClient, offset: str) -> None:
    answer = await api.get(EVENTS, params={"offset": offset})
    assert answer.status_code == 422
    assert answer.json()["facts"] == {"field": "offset"}


async def test_an_offset_beyond_the_end_is_416(api: httpx.AsyncClient) -> None:
    assert (await api.get(EVENTS, params={"offset": 9})).json()["type"] == "UnknownOffset"


@pytest.mark.parametrize("how", [{"live": "sse"}, {}])
async def test_an_unknown_entity_is_404_before_a_stream_begins(
    api: httpx.AsyncClient, how: dict[str, str]
) -> None:
    path = "/v1/entities/assistant/nobody/events"
    headers = {} if how else {"accept": "text/event-stream"}
    answer = await api.get(path, params=how, headers=headers)
    assert answer.status_code == 404
    assert answer.json()["type"] == "UnknownEntity"


class Peer:
    """An ASGI client of one stream: collects what is sent, goes when told."""

    def __init__(self) -> None:
        self.body = b""
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.body += message.get("body", b"")

    async def follow(self, app: Any, *, query: bytes = b"live=sse", **headers: str) -> None:
        raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "GET",
            "path": EVENTS, "query_string": query, "headers": raw,
        }  # fmt: skip
        await app(scope, self.receive, self.send)


@pytest.fixture
async def app(runtime: FakeRuntime) -> AsyncIterator[Any]:
    app = app_over(runtime, Settings(heartbeat=SOON))
    async with app.router.lifespan_context(app):
        yield app


async def test_a_stream_sends_what_is_there_and_what_comes(
    app: Any, runtime: FakeRuntime, wait_until: Wait
) -> None:
    peer = Peer()
    async with asyncio.TaskGroup() as group:
        group.create_task(peer.follow(app))
        await wait_until(lambda: peer.body.count(b"data:") == 3)
        await runtime.append(AMY, "d")
        await wait_until(lambda: b'"d"' in peer.body)
        peer.gone.set()
    assert f"id: {0:016d}_{3:016d}\ndata: {{" in peer.body.decode()


async def test_a_quiet_stream_beats(app: Any, wait_until: Wait) -> None:
    peer = Peer()
    async with asyncio.TaskGroup() as group:
        group.create_task(peer.follow(app))
        await wait_until(lambda: peer.body.count(b"\n:\n\n") >= 2)
        peer.gone.set()


async def test_a_stream_resumes_behind_the_last_event_seen(app: Any, wait_until: Wait) -> None:
    peer = Peer()
    async with asyncio.TaskGroup() as group:
        group.create_task(peer.follow(app, last_event_id=f"{0:016d}_{1:016d}"))
        await wait_until(lambda: b"data:" in peer.body)
        peer.gone.set()
    sent = [json.loads(line[6:]) for line in peer.body.decode().splitlines() if "data: " in line]
    assert [event["value"] for event in sent] == ["c"]


async def test_a_stream_from_now_that_breaks_before_any_event_misses_none(
    app: Any, runtime: FakeRuntime, wait_until: Wait
) -> None:
    """A browser comes back with the id it was told, and else from a later now."""
    first, second = Peer(), Peer()
    async with asyncio.TaskGroup() as group:
        group.create_task(first.follow(app, query=b"live=sse&offset=now"))
        await wait_until(lambda: first.body.endswith(b"\n\n"))
        first.gone.set()
    (told,) = [line[4:] for line in first.body.decode().splitlines() if line.startswith("id: ")]
    await runtime.append(AMY, "meanwhile")
    async with asyncio.TaskGroup() as group:
        follow = second.follow(app, query=b"live=sse&offset=now", last_event_id=told)
        group.create_task(follow)
        await wait_until(lambda: b'"meanwhile"' in second.body)
        second.gone.set()
    assert second.body.count(b"data:") == 1


async def test_a_client_that_goes_ends_its_observer_and_no_other(
    app: Any, runtime: FakeRuntime, wait_until: Wait
) -> None:
    leaving, staying = Peer(), Peer()
    async with asyncio.TaskGroup() as group:
        group.create_task(leaving.follow(app))
        group.create_task(staying.follow(app))
        await wait_until(lambda: runtime.observers == 2)
        leaving.gone.set()
        await wait_until(lambda: runtime.observers == 1)
        await runtime.append(AMY, "d")
        await wait_until(lambda: b'"d"' in staying.body)
        staying.gone.set()


async def test_a_cancelled_request_closes_its_observer(
    app: Any, runtime: FakeRuntime, wait_until: Wait
) -> None:
    task = asyncio.create_task(Peer().follow(app))
    await wait_until(lambda: runtime.observers == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runtime.observers == 0


async def test_a_failure_in_mid_stream_is_told_as_a_problem(runtime: FakeRuntime) -> None:
    stream = EventStream(runtime, AMY, offset=7, heartbeat=SOON)
    sent = [str(chunk, "utf-8") async for chunk in stream.body_iterator if isinstance(chunk, bytes)]
    assert sent[-1].startswith('event: error\ndata: {"type":"UnknownOffset"')
