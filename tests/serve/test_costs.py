"""What was spent, over HTTP: the same lines as from the store, one reading at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from ray_agents.client import AsyncClient
from ray_agents.definition import Registry
from ray_agents.errors import InvalidPayload, RuntimeUnavailable
from ray_agents.http.runtime import HttpRuntime
from ray_agents.settings import Settings
from ray_agents.tables.cost import cost
from ray_agents.testing import local_async_client
from ray_agents.views import CostLine
from serve import costs
from serve.api import create_app
from tests.fake_runtime import FakeRuntime
from tests.tables.test_cost import saying


@pytest.fixture
async def store(tmp_path: Path) -> str:
    """A store in which one entity has spent something."""
    registry = Registry()
    registry.define("one", handler=saying)
    async with local_async_client(str(tmp_path)) as client:
        await client.register(registry)
        await client.spawn("/one/a")
        await client.ask("/one/a", {})
    return str(tmp_path)


@pytest.fixture
async def transport(store: str) -> AsyncIterator[httpx.ASGITransport]:
    app = create_app(lambda _: FakeRuntime(), Settings(store=store))
    async with app.router.lifespan_context(app):
        yield httpx.ASGITransport(app)


@pytest.fixture
async def client(transport: httpx.ASGITransport) -> AsyncIterator[AsyncClient]:
    runtime = HttpRuntime("http://control", transport=transport)
    async with AsyncClient(runtime, cost=runtime.cost) as client:
        yield client


@pytest.mark.parametrize("by", ["type", "entity", "model", "day", "tree"])
async def test_the_client_of_a_control_api_is_told_the_same(
    client: AsyncClient, store: str, by: Any
) -> None:
    lines = await client.cost(by=by)
    assert lines == cost(store, by=by)
    assert [line.tokens for line in lines] == [127]


async def test_only_what_is_recent_counts_if_that_is_asked_for(client: AsyncClient) -> None:
    now = datetime.now(UTC)
    assert await client.cost(since=now + timedelta(days=1)) == []
    assert len(await client.cost(since=now - timedelta(days=1))) == 1


@pytest.mark.parametrize(
    "params", [{"by": "colour"}, {"since": "yesterday"}, {"since": "2026-01-01T00:00:00"}]
)
async def test_what_cannot_be_asked_for_is_a_problem(
    transport: httpx.ASGITransport, params: dict[str, str]
) -> None:
    async with httpx.AsyncClient(transport=transport, base_url="http://control") as http:
        answer = await http.get("/v1/cost", params=params)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert next(iter(params)) in answer.json()["detail"]


async def test_a_parameter_that_does_not_exist_is_refused_with_those_that_do(
    transport: httpx.ASGITransport,
) -> None:
    async with httpx.AsyncClient(transport=transport, base_url="http://control") as http:
        answer = await http.get("/v1/cost?sinse=1")
    assert (answer.status_code, answer.json()["facts"]) == (422, {"field": "query.sinse"})
    assert "no parameter 'sinse'; it takes by, since" in answer.json()["detail"]


async def test_the_client_raises_what_the_control_api_says(client: AsyncClient) -> None:
    with pytest.raises(InvalidPayload, match="by"):
        await client.cost(by="colour")  # pyright: ignore[reportArgumentType] - that is what is wrong


async def test_the_api_describes_it(transport: httpx.ASGITransport) -> None:
    async with httpx.AsyncClient(transport=transport, base_url="http://control") as http:
        told = (await http.get("/openapi.json")).json()["paths"]["/v1/cost"]["get"]
    assert {each["name"] for each in told["parameters"]} == {"by", "since"}


async def test_readings_take_turns_and_too_many_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go, at_once, most = Event(), 0, 0

    def slow(*_: object, **__: object) -> list[CostLine]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        go.wait(10)
        at_once -= 1
        return []

    monkeypatch.setattr("ray_agents.tables.cost.cost", slow)
    reader = costs.Reader("memory:")
    readings = [asyncio.create_task(reader.read("type", None)) for _ in range(costs.WAITING_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(RuntimeUnavailable, match="ask again"):
        await reader.read("type", None)
    go.set()
    assert await asyncio.gather(*readings) == [[]] * costs.WAITING_MAX
    assert most == 1
